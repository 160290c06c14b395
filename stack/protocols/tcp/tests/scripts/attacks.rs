use crate::open;
use crate::support::script::run;

/// RFC 5961 section 3.2: a reset in the window, but not exact, is challenged; one outside is dropped.
#[test]
fn a_reset_in_the_window() {
    open(
        "
+0 < R 5:5(0) win 0
+0 > . 1:1(0) ack 1
+0 state Established
+0 stat challenges 1
+0 < R 6:6(0) win 0 // limited: section 7
+0 stat challenges 1
+1 < R 200000:200000(0) win 0
+0 stat challenges 1
+0 state Established
+0 < R 1:1(0) win 0
+0 state Closed
",
    );
}

/// RFC 5961 section 4.2: a SYN in the window.
#[test]
fn a_syn_in_the_window() {
    open(
        "
+0 < S 5:5(0) win 1000
+0 > . 1:1(0) ack 1
+0 state Established
+1 < S. 1:1(0) ack 1 win 1000
+0 > . 1:1(0) ack 1
+0 stat challenges 2
",
    );
}

/// RFC 5961 section 5.2: acknowledgements of what was never sent, or long ago.
#[test]
fn acknowledgements_out_of_range() {
    open(
        "
+0 < P. 1:101(100) ack 77 win 1000
+0 > . 1:1(0) ack 1
+1 < P. 1:101(100) ack 4000000000 win 1000
+0 > . 1:1(0) ack 1
+0 < P. 1:101(100) ack 1 win 1000
+0 > . 1:1(0) ack 101
+0 event received 100
",
    );
}

/// RFC 9293 section 3.10.7.4, first: what lies outside the window is answered and not stored.
#[test]
fn data_outside_the_window() {
    open(
        "
+0 < P. 200001:200101(100) ack 1 win 1000
+0 > . 1:1(0) ack 1
+0 < . 65001:66001(1000) ack 1 win 1000 // half of it
+0 > . 1:1(0) ack 1
",
    );
}

/// RFC 7323 section 5.3: protection against wrapped sequence numbers.
#[test]
fn paws() {
    run("
+0 listen
+0 < S 0:0(0) win 65535 mss 1000 ts 1000
+0 > S. 0:0(0) ack 1 ts 1
+0 < . 1:1(0) ack 1 win 1000 ts 1001
+0 < P. 1:101(100) ack 1 win 1000 ts 1002
+0 > . 1:1(0) ack 101 ts 1
+0 < P. 101:201(100) ack 1 win 1000 ts 900
+0 > . 1:1(0) ack 101 ts 1 // R1: acknowledged and dropped
+0 < P. 101:201(100) ack 1 win 1000 // section 3.2: without a timestamp
+0 < P. 101:201(100) ack 1 win 1000 ts 1002
+0 > . 1:1(0) ack 201 ts 1
+2160000 < P. 201:301(100) ack 1 win 1000 ts 5 // section 5.5: after 24 days TS.Recent is too old
+0 > . 1:1(0) ack 301 ts 1
+0 event received 100
+0 event received 200
+0 event received 300
");
}

/// RFC 7323 section 5.2: a reset needs no timestamp.
#[test]
fn a_reset_without_timestamp() {
    run("
+0 listen
+0 < S 0:0(0) win 65535 mss 1000 ts 1000
+0 > S. 0:0(0) ack 1 ts 1
+0 < . 1:1(0) ack 1 win 1000 ts 1001
+0 < R 1:1(0) win 0
+0 event failed Reset
");
}
