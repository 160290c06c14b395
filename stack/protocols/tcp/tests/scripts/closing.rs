use crate::open;

/// RFC 9293 figure 12: we close first; `TIME_WAIT` lasts 60 s and answers a FIN that comes again.
#[test]
fn we_close_first() {
    open(
        "
+0 shutdown
+0 > F. 1:1(0) ack 1
+0 state FinWait1
+0 < . 1:1(0) ack 2 win 1000
+0 state FinWait2
+0 < P. 1:101(100) ack 2 win 1000
+0 event received 100
+0 > . 2:2(0) ack 101
+0 read 100
+0 < F. 101:101(0) ack 2 win 1000
+0 event peer_closed
+0 event closed
+0 > . 2:2(0) ack 102
+0 state TimeWait
+0 stat time_wait 1
+0 close
+0 event released
+1 < F. 101:101(0) ack 2 win 1000
+0 > . 2:2(0) ack 102
+59.5 stat time_wait 1
+1 stat time_wait 0
+0 < F. 101:101(0) ack 2 win 1000
+0 > R 2:2(0)
",
    );
}

/// RFC 9293 section 3.6: the peer closes first, we go on sending.
#[test]
fn the_peer_closes_first() {
    open(
        "
+0 < F. 1:1(0) ack 1 win 1000
+0 event peer_closed
+0 > . 1:1(0) ack 2
+0 state CloseWait
+0 write 100
+0 > P. 1:101(100) ack 2
+0.1 < . 2:2(0) ack 101 win 1000
+0 event acknowledged 100
+0 close
+0 > F. 101:101(0) ack 2
+0 state LastAck
+0.1 < . 2:2(0) ack 102 win 1000
+0 event released
+0 stat connections 0
+0 stat time_wait 0
",
    );
}

/// RFC 9293 figure 13.
#[test]
fn simultaneous_close() {
    open(
        "
+0 shutdown
+0 > F. 1:1(0) ack 1
+0 < F. 1:1(0) ack 1 win 1000
+0 event peer_closed
+0 > . 2:2(0) ack 2
+0 state Closing
+0 < . 2:2(0) ack 2 win 1000
+0 event closed
+0 state TimeWait
+0 close
+0 event released
",
    );
}

/// The FIN goes with the last data, and again with it (RFC 9293 section 3.10.4).
#[test]
fn the_fin_goes_with_the_data() {
    open(
        "
+0 write 1500
+0 > . 1:1001(1000) ack 1
+0 > P. 1001:1501(500) ack 1
+0.1 < . 1:1(0) ack 1501 win 1000
+0 event acknowledged 1500
+0 write 300
+0 > P. 1501:1801(300) ack 1
+0 shutdown
+0 > F. 1801:1801(0) ack 1
+0.1 < . 1:1(0) ack 1802 win 1000
+0 state FinWait2
",
    );
}

/// RFC 2525 section 2.17, RFC 1122 section 4.2.2.13: the peer's data was not read, or comes after the end.
#[test]
fn data_that_nobody_reads_resets() {
    open(
        "
+0 < P. 1:101(100) ack 1 win 1000
+0 > . 1:1(0) ack 101
+0 close unread
+0 > R. 1:1(0) ack 101
",
    );
    open(
        "
+0 close
+0 > F. 1:1(0) ack 1
+0 < . 1:1(0) ack 2 win 1000
+0 < P. 1:101(100) ack 2 win 1000
+0 > R. 2:2(0) ack 1
+0 event released
",
    );
}

/// RFC 9293 section 3.10.5.
#[test]
fn abort() {
    open(
        "
+0 write 500
+0 > P. 1:501(500) ack 1
+0 abort
+0 > R. 501:501(0) ack 1
+0 event released
+0 stat connections 0
",
    );
}

/// RFC 9293 section 3.10.7.4, second: an exact reset ends the connection.
#[test]
fn a_reset() {
    open(
        "
+0 < R 1:1(0) win 0
+0 event failed Reset
+0 state Closed
+0 close
+0 event released
",
    );
}

/// An orphan does not wait in `FIN_WAIT_2` for ever: Linux's `tcp_fin_timeout`.
#[test]
fn an_orphan_is_forgotten() {
    open(
        "
+0 close
+0 > F. 1:1(0) ack 1
+0 < . 1:1(0) ack 2 win 1000
+59 stat connections 1
+2 event released
+0 stat connections 0
",
    );
}

/// A program that only shuts down may wait for the peer as long as it likes.
#[test]
fn a_half_closed_connection_stays() {
    open(
        "
+0 shutdown
+0 > F. 1:1(0) ack 1
+0 < . 1:1(0) ack 2 win 1000
+1000 state FinWait2
+0 < P. 1:11(10) ack 2 win 1000
+0 event received 10
+0 > . 2:2(0) ack 11
",
    );
}

/// RFC 6191 section 2: a newer SYN may take the place of a connection in `TIME_WAIT`; its initial number is beyond.
#[test]
fn time_wait_is_reused() {
    open(
        "
+0 close
+0 > F. 1:1(0) ack 1
+0 < F. 1:1(0) ack 2 win 1000
+0 > . 2:2(0) ack 2
+0 stat time_wait 1
+0 < R 2:2(0) win 0 // RFC 1337: a reset does not end it
+0 stat time_wait 1
+0 < S 0:0(0) win 1000 mss 1000 // old
+0 > . 2:2(0) ack 2
+0 < S 5000:5000(0) win 1000 mss 1000
+0 > S. 0:0(0) ack 5001
+0 stat time_wait 0
+0 < . 5001:5001(0) ack 1 win 1000
+0 stat connections 1
",
    );
}

/// RFC 9293 section 3.10.7.4, eighth: the FIN counts only when all before it has arrived.
#[test]
fn a_fin_ahead_of_data() {
    open(
        "
+0 < F. 101:101(0) ack 1 win 1000
+0 > . 1:1(0) ack 1
+0 state Established
+0 < P. 1:101(100) ack 1 win 1000
+0 event received 100
+0 event peer_closed
+0 > . 1:1(0) ack 102
",
    );
}
