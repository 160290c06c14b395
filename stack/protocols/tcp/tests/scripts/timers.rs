use crate::open;
use crate::support::script::run;

/// RFC 9293 section 3.8.4: probes after the idle time; any answer counts.
#[test]
fn keep_alive() {
    open(
        "
+0 option keep_idle 10
+0 option keep_interval 5
+0 option keep_count 2
+0 option keep_alive 1
+10 > . 0:0(0) ack 1
+0.1 < . 1:1(0) ack 1 win 1000
+10 > . 0:0(0) ack 1
+5 > . 0:0(0) ack 1
+5 > R. 1:1(0) ack 1
+0 event failed TimedOut
",
    );
}

/// `TCP_USER_TIMEOUT` overrides the count of probes, as tcp(7) says.
#[test]
fn keep_alive_until_the_user_timeout() {
    open(
        "
+0 option keep_idle 10
+0 option keep_interval 5
+0 option user_timeout 22
+0 option keep_alive 1
+10 > . 0:0(0) ack 1
+5 > . 0:0(0) ack 1
+5 > . 0:0(0) ack 1
+5 > R. 1:1(0) ack 1
+0 event failed TimedOut
",
    );
}

/// RFC 6298 sections 5.4 to 5.6: the time-out doubles; after 15 of them (`tcp_retries2`) the connection fails.
#[test]
fn retransmissions_back_off() {
    open(
        "
+0 option no_delay 1
+0 write 100
+0 > P. 1:101(100) ack 1
+0.3 > P. 1:101(100) ack 1
+0.6 > P. 1:101(100) ack 1
+1.2 > P. 1:101(100) ack 1
+2.4 > P. 1:101(100) ack 1
+4.8 > P. 1:101(100) ack 1
+9.6 > P. 1:101(100) ack 1
+19.2 > P. 1:101(100) ack 1
+38.4 > P. 1:101(100) ack 1
+76.8 > P. 1:101(100) ack 1
+120 > P. 1:101(100) ack 1
+120 > P. 1:101(100) ack 1
+120 > P. 1:101(100) ack 1
+120 > P. 1:101(100) ack 1
+120 > P. 1:101(100) ack 1
+120 > P. 1:101(100) ack 1
+121 event failed TimedOut
",
    );
}

/// RFC 5482, `TCP_USER_TIMEOUT`; an ICMP error that came before is told instead (RFC 1122 section 4.2.3.9).
#[test]
fn user_timeout() {
    open(
        "
+0 option user_timeout 3
+0 write 100
+0 > P. 1:101(100) ack 1
+0.3 > P. 1:101(100) ack 1
+0.6 > P. 1:101(100) ack 1
+0 icmp host 50
+0 event soft_error Host
+1.2 > P. 1:101(100) ack 1
+1 event failed Unreachable(Host)
+100 quiet
",
    );
}

/// A probe of a zero window that nobody answers ends as a retransmission does.
#[test]
fn nobody_answers_window_probes() {
    open(
        "
+0 option user_timeout 2
+0 < . 1:1(0) ack 1 win 0
+0 write 100
+0.3 > . 0:0(0) ack 1
+0.6 > . 0:0(0) ack 1
+1.2 > . 0:0(0) ack 1
+0.5 event failed TimedOut
",
    );
}

/// RFC 6298 section 5.3: an acknowledgement starts the time anew, and ends the backing off.
#[test]
fn acknowledgements_start_the_time_anew() {
    run("
+0 listen
+0 < S 0:0(0) win 65535 mss 1000
+0 > S. 0:0(0) ack 1
+0.1 < . 1:1(0) ack 1 win 65535
+0 write 2000
+0 > . 1:1001(1000) ack 1
+0 > P. 1001:2001(1000) ack 1
+0.3 > . 1:1001(1000) ack 1
+0.1 < . 1:1(0) ack 1001 win 65535
+0 > P. 1001:2001(1000) ack 1
+0.3 > P. 1001:2001(1000) ack 1
+0.1 < . 1:1(0) ack 2001 win 65535
+10 quiet
");
}
