use crate::support::script::run;

/// RFC 9293 figure 6, RFC 7323 section 2.2, RFC 6691.
#[test]
fn a_peer_opens() {
    run("
+0 listen
+0 < S 0:0(0) win 65535 mss 1460 sackok wscale 7 ts 100
+0 > S. 0:0(0) ack 1 win 65535 mss 1460 wscale 7 sackok ts 1
+0.1 < . 1:1(0) ack 1 win 1000 ts 200
+0 state Established
+0 stat passive_opens 1
+0 stat half_open 0
");
}

/// RFC 9293 section 3.10.7.3; the acknowledgement goes at once.
#[test]
fn we_open() {
    run("
+0 connect
+0 > S 0:0(0) win 65535 mss 1460 wscale 0 sackok ts 1
+0.1 < S. 0:0(0) ack 1 win 65535 mss 1460 sackok wscale 7 ts 5
+0 event connected
+0 > . 1:1(0) ack 1 ts 1
+0 state Established
");
}

/// RFC 7323 section 1.3: options that the peer does not offer are not used.
#[test]
fn a_peer_without_options() {
    run("
+0 listen
+0 < S 0:0(0) win 4000
+0 > S. 0:0(0) ack 1 win 65535 mss 1460
+0 < . 1:1(0) ack 1 win 4000
+0 write 600
+0 > . 1:537(536) ack 1 // RFC 9293 section 3.7.1: 536 bytes
+0 > P. 537:601(64) ack 1
+0.1 < . 1:1(0) ack 601 win 4000
");
}

/// RFC 6298 sections 2.1 and 5.5, RFC 9293 section 3.8.3: 1, 2, 4 s, then `ETIMEDOUT`.
#[test]
fn a_syn_is_repeated() {
    run("
+0 option syn_count 3
+0 connect
+0 > S 0:0(0)
+1 > S 0:0(0)
+2 > S 0:0(0)
+4 > S 0:0(0)
+8.1 event failed TimedOut
+0 state Closed
+100 quiet
");
}

/// RFC 6298 section 5.5; Linux's `tcp_synack_retries` is 5.
#[test]
fn a_syns_answer_is_repeated() {
    run("
+0 listen
+0 < S 0:0(0) win 1000 mss 1000
+0 > S. 0:0(0) ack 1
+1 > S. 0:0(0) ack 1
+2 > S. 0:0(0) ack 1
+4 > S. 0:0(0) ack 1
+8 > S. 0:0(0) ack 1
+16 > S. 0:0(0) ack 1
+33 stat half_open 0
+100 quiet
");
}

/// A SYN that comes again is answered again (RFC 9293 section 3.10.7.4, first).
#[test]
fn a_syn_comes_twice() {
    run("
+0 listen
+0 < S 0:0(0) win 1000 mss 1000
+0 > S. 0:0(0) ack 1
+0.1 < S 0:0(0) win 1000 mss 1000
+0 > S. 0:0(0) ack 1
+0.1 < . 1:1(0) ack 1 win 1000
+0 stat connections 1
");
}

/// RFC 9293 section 3.10.7.3: a reset in answer to our SYN.
#[test]
fn refused() {
    run("
+0 connect
+0 > S 0:0(0)
+0 < R. 0:0(0) ack 1 win 0
+0 event failed Refused
+0 state Closed
+0 close
+0 event released
");
}

/// RFC 9293 section 3.10.7.3: a reset that acknowledges something else, and one without ACK, are dropped; an ACK of
/// something else is answered with a reset.
#[test]
fn not_refused() {
    run("
+0 connect
+0 > S 0:0(0)
+0 < R. 0:0(0) ack 7 win 0
+0 < R 0:0(0) win 0
+0 < . 0:0(0) ack 7 win 0
+0 > R 7:7(0)
+0 state SynSent
+0 close
+0 event released
");
}

/// RFC 9293 figure 7.
#[test]
fn simultaneous_open() {
    run("
+0 connect
+0 > S 0:0(0)
+0 < S 0:0(0) win 1000 mss 1000
+0 > S. 0:0(0) ack 1
+0 state SynReceived
+0 < S. 0:0(0) ack 1 win 1000 mss 1000
+0 event connected
+0 > . 1:1(0) ack 1
+0 state Established
+0 write 100
+0 > P. 1:101(100) ack 1
");
}

/// RFC 9293 figure 7 with the last acknowledgement lost: any acceptable one will do.
#[test]
fn simultaneous_open_by_a_plain_acknowledgement() {
    run("
+0 connect
+0 > S 0:0(0)
+0 < S 0:0(0) win 1000 mss 1000
+0 > S. 0:0(0) ack 1
+1 > S. 0:0(0) ack 1
+0 < . 1:1(0) ack 1 win 1000
+0 event connected
+0 state Established
");
}

/// RFC 9293 section 3.10.7.1.
#[test]
fn nobody_listens() {
    run("
+0 < S 0:0(0) win 1000
+0 > R. 0:0(0) ack 1
+0 < P. 5:15(10) ack 9 win 1000
+0 > R 9:9(0)
+0 < R 5:5(0) win 0
+0 < FP 5:15(10) win 1000
+0 > R. 0:0(0) ack 16
");
}

/// RFC 9293 section 3.10.7.2: an acknowledgement that belongs to nothing is answered with a reset.
#[test]
fn a_listener_gets_an_acknowledgement() {
    run("
+0 listen
+0 < . 5:5(0) ack 9 win 1000
+0 > R 9:9(0)
+0 < R 5:5(0) win 0
+0 stat half_open 0
");
}

/// Data may come with the last segment of the handshake (RFC 9293 section 3.10.7.4, fifth).
#[test]
fn the_handshake_ends_with_data() {
    run("
+0 listen
+0 < S 0:0(0) win 1000 mss 1000
+0 > S. 0:0(0) ack 1
+0 < P. 1:101(100) ack 1 win 1000
+0 > . 1:1(0) ack 101
");
}

/// The program's queue is full: as on Linux the acknowledgement is dropped, and the SYN's answer repeated.
#[test]
fn the_queue_is_full() {
    run("
+0 listen
+0 < S 0:0(0) win 1000 mss 1000
+0 > S. 0:0(0) ack 1
+0 full on
+0.1 < . 1:1(0) ack 1 win 1000
+0 stat backlog 1
+0 stat half_open 1
+0 full off
+0.9 > S. 0:0(0) ack 1
+0.1 < . 1:1(0) ack 1 win 1000
+0 state Established
");
}

/// While it is full no SYN is answered, also as on Linux: who gets no answer does not believe to be connected.
#[test]
fn the_queue_is_full_before_the_syn() {
    run("
+0 listen
+0 full on
+0 < S 0:0(0) win 1000 mss 1000
+0.5 quiet
+0 stat backlog 1
+0 stat half_open 0
+0 full off
+0.5 < S 0:0(0) win 1000 mss 1000
+0 > S. 0:0(0) ack 1
+0.1 < . 1:1(0) ack 1 win 1000
+0 state Established
");
}

/// RFC 1122 section 4.2.3.9: while connecting, an ICMP error is the end.
#[test]
fn unreachable() {
    run("
+0 connect
+0 > S 0:0(0)
+0 icmp host 77 // RFC 5927 section 4.1: about nothing that we sent
+0 state SynSent
+0 icmp host 0
+0 event failed Unreachable(Host)
");
}

/// RFC 9293 section 3.10.7.4: a reset ends a half-open connection, if it is exactly right (RFC 5961 section 3.2).
#[test]
fn a_half_open_connection_is_reset() {
    run("
+0 listen
+0 < S 0:0(0) win 1000 mss 1000
+0 > S. 0:0(0) ack 1
+0 < R 5:5(0) win 0
+0 stat half_open 1
+0 < R 1:1(0) win 0
+0 stat half_open 0
");
}

/// tcp(7), `TCP_DEFER_ACCEPT`, as `tcp_check_req` and `syn_ack_recalc` of Linux have it: the bare acknowledgement is put
/// aside, and the connection is there with the data.
#[test]
fn a_deferred_connection_comes_with_its_data() {
    run("
+0 option defer_accept 3
+0 listen
+0 < S 0:0(0) win 1000 mss 1000
+0 > S. 0:0(0) ack 1
+0 < . 1:1(0) ack 1 win 1000
+6.9 quiet // after 1 and 3 s nothing is asked again
+0 stat half_open 1
+0 < P. 1:11(10) ack 1 win 1000
+0 > . 1:1(0) ack 11
+0 state Established
+0 stat passive_opens 1
");
}

/// The same: at the end of the time the SYN is answered once more, and what comes then will do.
#[test]
fn a_deferred_connection_without_data_comes_late() {
    run("
+0 option defer_accept 2
+0 listen
+0 < S 0:0(0) win 1000 mss 1000
+0 > S. 0:0(0) ack 1
+0 < . 1:1(0) ack 1 win 1000
+1.1 stat half_open 1
+1.9 > S. 0:0(0) ack 1
+0 < . 1:1(0) ack 1 win 1000
+0 state Established
");
}
