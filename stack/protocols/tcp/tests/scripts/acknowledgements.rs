use crate::open;

/// RFC 9293 section 3.8.6.3, RFC 5681 section 4.2: every second full segment, and within 40 ms. The first ones of a
/// connection are acknowledged at once; a program that answers sends the acknowledgement with its answer.
#[test]
fn delayed() {
    open(
        "
+0 < P. 1:101(100) ack 1 win 1000
+0 > . 1:1(0) ack 101 // quick at first
+0 < P. 101:201(100) ack 1 win 1000
+0 > . 1:1(0) ack 201
+0 write 10
+0 > P. 1:11(10) ack 201 // from here on it answers
+0 < P. 201:301(100) ack 11 win 1000
+0.04 > . 11:11(0) ack 301
",
    );
}

/// The acknowledgement goes with the answer.
#[test]
fn answered() {
    open(
        "
+0 < P. 1:101(100) ack 1 win 1000
+0 > . 1:1(0) ack 101
+0 write 10
+0 > P. 1:11(10) ack 101
+0.02 < P. 101:201(100) ack 11 win 1000
+0.02 write 10
+0 > P. 11:21(10) ack 201
+0.02 < . 201:201(0) ack 21 win 1000
+1 quiet
",
    );
}

#[test]
fn every_second_segment() {
    open(
        "
+0 < P. 1:1001(1000) ack 1 win 1000
+0 > . 1:1(0) ack 1001
+0 write 10
+0 > P. 1:11(10) ack 1001
+0 < . 1001:2001(1000) ack 11 win 1000
+0 quiet
+0 < . 2001:3001(1000) ack 11 win 1000
+0 > . 11:11(0) ack 3001
+0 < . 3001:6001(3000) ack 11 win 1000 segment 1000 // three segments in one
+0 > . 11:11(0) ack 6001
",
    );
}

#[test]
fn quick_ack() {
    open(
        "
+0 option quick_ack 1
+0 < P. 1:101(100) ack 1 win 1000
+0 > . 1:1(0) ack 101
+0 write 10
+0 > P. 1:11(10) ack 101
+0 < P. 101:201(100) ack 11 win 1000
+0 > . 11:11(0) ack 201
",
    );
}

/// RFC 2018 section 4, RFC 5681 section 4.2: a gap is told at once, the range that changed last first, and filled.
#[test]
fn selective() {
    open(
        "
+0 < . 1001:2001(1000) ack 1 win 1000
+0 > . 1:1(0) ack 1 sack 1001:2001
+0 < . 3001:4001(1000) ack 1 win 1000
+0 > . 1:1(0) ack 1 sack 3001:4001 1001:2001
+0 < . 5001:6001(1000) ack 1 win 1000
+0 > . 1:1(0) ack 1 sack 5001:6001 3001:4001 1001:2001
+0 < . 2001:3001(1000) ack 1 win 1000
+0 > . 1:1(0) ack 1 sack 1001:4001 5001:6001
+0 < . 1:1001(1000) ack 1 win 1000
+0 event received 4000
+0 > . 1:1(0) ack 4001 sack 5001:6001
+0 < . 4001:5001(1000) ack 1 win 1000
+0 event received 6000
+0 > . 1:1(0) ack 6001
",
    );
}

/// RFC 2883 section 4: duplicates are reported.
#[test]
fn duplicates_are_reported() {
    open(
        "
+0 < . 1:1001(1000) ack 1 win 1000
+0 > . 1:1(0) ack 1001
+0 < . 501:1501(1000) ack 1 win 1000
+0 event received 1000
+0 event received 1500
+0 > . 1:1(0) ack 1501 sack 501:1001
+0 < . 2001:3001(1000) ack 1 win 1000
+0 > . 1:1(0) ack 1501 sack 2001:3001
+0 < . 2001:3001(1000) ack 1 win 1000
+0 > . 1:1(0) ack 1501 sack 2001:3001 2001:3001
+0 < . 1:501(500) ack 1 win 1000 // before the window
+0 > . 1:1(0) ack 1501
",
    );
}

/// RFC 6093: the pointer is behind the urgent byte.
#[test]
fn urgent() {
    open(
        "
+0 < PU. 1:11(10) ack 1 win 1000 urg 5
+0 event urgent 5
+0 event received 10
+0 > . 1:1(0) ack 11
+0 < U. 11:11(0) ack 1 win 1000 urg 20 // the byte is still to come
+0 event urgent 30
+0 write 10
+0 > P. 1:11(10) ack 11
+0 urgent 15
+0 write 5
+0.1 < . 11:11(0) ack 11 win 1000
+0 > PU. 11:16(5) ack 11 urg 5
+0.1 < . 11:11(0) ack 16 win 1000
+0 write 5
+0 > P. 16:21(5) ack 11
",
    );
}
