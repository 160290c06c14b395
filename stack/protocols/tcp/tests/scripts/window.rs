use crate::open;
use crate::support::script::run;

/// RFC 9293 section 3.8.6.1: a zero window is probed, at growing intervals, for as long as the peer answers.
#[test]
fn zero_window_probes() {
    open(
        "
+0 write 1000
+0 > P. 1:1001(1000) ack 1
+0.1 < . 1:1(0) ack 1001 win 0
+0 write 500
+0.3 > . 1000:1000(0) ack 1
+0.1 < . 1:1(0) ack 1001 win 0
+0.5 > . 1000:1000(0) ack 1
+1.2 > . 1000:1000(0) ack 1
+2.4 > . 1000:1000(0) ack 1
+0.1 < . 1:1(0) ack 1001 win 1000
+0 > P. 1001:1501(500) ack 1
+0.1 < . 1:1(0) ack 1501 win 1000
+10 quiet
",
    );
}

/// RFC 9293 section 3.8.6.2.1: a sender does not fill a window that is smaller than a segment, unless it must.
#[test]
fn silly_window_of_the_peer() {
    run("
+0 listen
+0 < S 0:0(0) win 5000 mss 1000
+0 > S. 0:0(0) ack 1
+0.1 < . 1:1(0) ack 1 win 5000
+0 write 10000
+0 > . 1:1001(1000) ack 1
+0 > . 1001:2001(1000) ack 1
+0 > . 2001:3001(1000) ack 1
+0 > . 3001:4001(1000) ack 1
+0 > . 4001:5001(1000) ack 1
+0.1 < . 1:1(0) ack 5001 win 300
+0.3 > . 5001:5301(300) ack 1
+0.1 < . 1:1(0) ack 5301 win 1200
+0 > . 5301:6301(1000) ack 1
");
}

/// RFC 9293 section 3.8.6.2.2: a receiver opens its window by steps that are worth it, and never takes it back.
#[test]
fn silly_window_of_ours() {
    run("
+0 size 4000
+0 listen
+0 < S 0:0(0) win 65535 mss 1000
+0 > S. 0:0(0) ack 1
+0.1 < . 1:1(0) ack 1 win 1000
+0 < P. 1:1001(1000) ack 1 win 1000
+0 > . 1:1(0) ack 1001
+0 < P. 1001:2001(1000) ack 1 win 1000
+0 > . 1:1(0) ack 2001
+0 read 100
+0 quiet
");
}

/// RFC 9293 section 3.8.6: the window closes, and is told anew when the program reads.
#[test]
fn our_window_closes_and_opens() {
    run("
+0 size 4000
+0 connect
+0 > S 0:0(0) win 4000
+0 < S. 0:0(0) ack 1 win 65535 mss 1000
+0 > . 1:1(0) ack 1 win 4000
+0 < . 1:2001(2000) ack 1 win 1000 segment 1000
+0 > . 1:1(0) ack 2001 win 2000
+0 < . 2001:4001(2000) ack 1 win 1000 segment 1000
+0 > . 1:1(0) ack 4001 win 0
+0 < . 4001:4002(1) ack 1 win 1000 // a probe
+0 > . 1:1(0) ack 4001 win 0
+0 read 500
+0 quiet
+0 read 600
+0 > . 1:1(0) ack 4001 win 1100
+0 read 2900
+0 > . 1:1(0) ack 4001 win 4000
");
}

/// A peer that takes its window back is not gone (RFC 9293 section 3.8.6: SHLD-15, MUST-34).
#[test]
fn a_window_that_shrinks() {
    open(
        "
+0 write 2000
+0 > . 1:1001(1000) ack 1
+0 > P. 1001:2001(1000) ack 1
+0.05 < . 1:1(0) ack 1 win 0
+0.15 > P. 1001:2001(1000) ack 1 // the probe of RFC 8985
+0.3 > . 1:1001(1000) ack 1
+0.05 < . 1:1(0) ack 2001 win 1000
+10 quiet
",
    );
}
