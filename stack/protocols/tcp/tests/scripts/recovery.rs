use crate::open;
use crate::support::script::run;

/// RFC 6675, RFC 8985 section 6.2: three segments acknowledged selectively, and the missing one goes again; CUBIC's
/// threshold is 0.7 of the window (RFC 9438 section 4.6), reached by proportional rate reduction (RFC 6937).
#[test]
fn fast_recovery() {
    open(
        "
+0 write 10000
+0 > . 1:1001(1000) ack 1
+0 > . 1001:2001(1000) ack 1
+0 > . 2001:3001(1000) ack 1
+0 > . 3001:4001(1000) ack 1
+0 > . 4001:5001(1000) ack 1
+0 > . 5001:6001(1000) ack 1
+0 > . 6001:7001(1000) ack 1
+0 > . 7001:8001(1000) ack 1
+0 > . 8001:9001(1000) ack 1
+0 > P. 9001:10001(1000) ack 1
+0.1 < . 1:1(0) ack 1 win 1000 sack 1001:2001
+0 < . 1:1(0) ack 1 win 1000 sack 1001:3001
+0 quiet
+0 < . 1:1(0) ack 1 win 1000 sack 1001:4001
+0 > . 1:1001(1000) ack 1
+0 < . 1:1(0) ack 1 win 1000 sack 1001:10001
+0.1 < . 1:1(0) ack 10001 win 1000
+0 event acknowledged 10000
+0 window 7000
+10 quiet
",
    );
}

/// RFC 8985 section 6.2: with fewer segments than that, the reordering timer decides.
#[test]
fn the_reordering_window() {
    open(
        "
+0 write 3000
+0 > . 1:1001(1000) ack 1
+0 > . 1001:2001(1000) ack 1
+0 > P. 2001:3001(1000) ack 1
+0.1 < . 1:1(0) ack 1 win 1000 sack 1001:3001
+0.025 > . 1:1001(1000) ack 1 // a quarter of the smallest round-trip time
+0.1 < . 1:1(0) ack 3001 win 1000
+10 quiet
",
    );
}

/// A super-packet that was lost in part: only the holes go again, as super-packets where they are large.
#[test]
fn holes_of_a_super_packet() {
    open(
        "
+0 burst 64
+0 write 10000
+0 > P. 1:10001(10000) ack 1
+0.1 < . 1:1(0) ack 1001 win 1000 sack 4001:10001
+0 > . 1001:4001(3000) ack 1
+0.1 < . 1:1(0) ack 10001 win 1000
+10 quiet
",
    );
}

/// RFC 8985 section 7: a tail loss probe, after two round trips; the loss that it finds is repaired by it.
#[test]
fn tail_loss_probe() {
    open(
        "
+0 write 3000
+0 > . 1:1001(1000) ack 1
+0 > . 1001:2001(1000) ack 1
+0 > P. 2001:3001(1000) ack 1
+0.1 < . 1:1(0) ack 1001 win 1000
+0.2 > P. 2001:3001(1000) ack 1
+0.1 < . 1:1(0) ack 1001 win 1000 sack 2001:3001
+0 > . 1001:2001(1000) ack 1
+0.1 < . 1:1(0) ack 3001 win 1000
+10 quiet
",
    );
}

/// RFC 8985 section 7.3: new data, where there is some, is the better probe.
#[test]
fn a_probe_with_new_data() {
    open(
        "
+0 write 2100
+0 > . 1:1001(1000) ack 1
+0 > . 1001:2001(1000) ack 1
+0 > P. 2001:2101(100) ack 1
+0.05 write 100 // held back by Nagle's algorithm
+0.15 > P. 2101:2201(100) ack 1
+0.1 < . 1:1(0) ack 2201 win 1000
+10 quiet
",
    );
}

/// RFC 6582: without SACK three duplicates start the recovery, and each partial acknowledgement repairs one segment.
#[test]
fn new_reno() {
    run("
+0 option reno 1
+0 listen
+0 < S 0:0(0) win 65535 mss 1000
+0 > S. 0:0(0) ack 1
+0.1 < . 1:1(0) ack 1 win 65535
+0 burst 64
+0 write 10000
+0 > P. 1:10001(10000) ack 1
+0.1 < . 1:1(0) ack 1001 win 65535
+0 < . 1:1(0) ack 1001 win 65535
+0 < . 1:1(0) ack 1001 win 65535
+0 quiet
+0 < . 1:1(0) ack 1001 win 65535
+0 > . 1001:2001(1000) ack 1
+0.1 < . 1:1(0) ack 5001 win 65535
+0 > . 5001:6001(1000) ack 1
+0.1 < . 1:1(0) ack 10001 win 65535
+10 quiet
");
}

/// RFC 3522, RFC 4015: the timestamp echo shows that the original arrived, only late; the window is restored.
#[test]
fn a_spurious_time_out() {
    run("
+0 listen
+0 < S 0:0(0) win 65535 mss 1012 ts 1 sackok
+0 > S. 0:0(0) ack 1 ts 1
+0.1 < . 1:1(0) ack 1 win 65535 ts 2
+0 window 10000
+0 write 100
+0 > P. 1:101(100) ack 1
+0.3 > P. 1:101(100) ack 1
+0 window 1000
");
}

/// RFC 2018 section 8: what was acknowledged selectively goes again after a time-out if the peer has dropped it.
#[test]
fn reneging() {
    open(
        "
+0 write 3000
+0 > . 1:1001(1000) ack 1
+0 > . 1001:2001(1000) ack 1
+0 > P. 2001:3001(1000) ack 1
+0.1 < . 1:1(0) ack 1 win 1000 sack 1001:3001
+0.025 > . 1:1001(1000) ack 1
+0.1 < . 1:1(0) ack 1001 win 1000 // and nothing of the rest
+0.3 > . 1001:2001(1000) ack 1
+0.1 < . 1:1(0) ack 2001 win 1000
+0 > P. 2001:3001(1000) ack 1
+0.1 < . 1:1(0) ack 3001 win 1000
+10 quiet
",
    );
}
