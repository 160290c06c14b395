use crate::open;

/// RFC 6928: ten segments; then as many more as were acknowledged, twice (RFC 5681 section 3.1, slow start).
#[test]
fn the_initial_window() {
    open(
        "
+0 burst 64
+0 write 100000
+0 > . 1:10001(10000) ack 1
+0.1 < . 1:1(0) ack 2001 win 1000
+0 > . 10001:14001(4000) ack 1
+0 < . 1:1(0) ack 10001 win 1000
+0 > . 14001:30001(16000) ack 1
",
    );
}

/// A super-packet holds whole segments, and a last short one only if that ends what there is.
#[test]
fn super_packets() {
    open(
        "
+0 burst 4
+0 write 9500
+0 > . 1:4001(4000) ack 1
+0 > . 4001:8001(4000) ack 1
+0 > P. 8001:9501(1500) ack 1
+0.1 < . 1:1(0) ack 9501 win 1000
",
    );
}

/// RFC 9293 section 3.7.4, in Minshall's variant: a partial segment waits while another one is in flight.
#[test]
fn nagle() {
    open(
        "
+0 write 100
+0 > P. 1:101(100) ack 1
+0 write 100
+0 write 50
+0.1 < . 1:1(0) ack 101 win 1000
+0 > P. 101:251(150) ack 1
+0 write 1000
+0 > P. 251:1251(1000) ack 1 // a full one does not wait
+0.1 < . 1:1(0) ack 1251 win 1000
+0 write 2500
+0 > . 1251:2251(1000) ack 1
+0 > . 2251:3251(1000) ack 1
+0 > P. 3251:3751(500) ack 1 // behind full ones neither
+0.1 < . 1:1(0) ack 3751 win 1000
",
    );
}

#[test]
fn no_delay() {
    open(
        "
+0 option no_delay 1
+0 write 100
+0 > P. 1:101(100) ack 1
+0 write 100
+0 > P. 101:201(100) ack 1
+0 option no_delay 0
+0 write 100
+0 option no_delay 1 // what waited goes at once, as tcp(7) says
+0 > P. 201:301(100) ack 1
+0.1 < . 1:1(0) ack 301 win 1000
",
    );
}

/// tcp(7), `TCP_CORK`: partial segments wait, 200 ms at most.
#[test]
fn cork() {
    open(
        "
+0 option cork 1
+0 write 100
+0.1 quiet
+0 write 1000
+0 > . 1:1001(1000) ack 1
+0.05 < . 1:1(0) ack 1001 win 1000
+0.05 > P. 1001:1101(100) ack 1 // 200 ms after the first byte that waited
+0.1 < . 1:1(0) ack 1101 win 1000
+0 write 100
+0 quiet
+0 option cork 0
+0 > P. 1101:1201(100) ack 1
+0.1 < . 1:1(0) ack 1201 win 1000
+0 option cork 1
+0 write 10
+0 shutdown
+0 > FP. 1201:1211(10) ack 1
+0.1 < . 1:1(0) ack 1212 win 1000
",
    );
}

/// RFC 9293 section 3.7.1: `TCP_MAXSEG`, and RFC 1191: what is in flight is cut anew when the path narrows.
#[test]
fn the_path_narrows() {
    open(
        "
+0 burst 64
+0 write 5000
+0 > P. 1:5001(5000) ack 1
+0.05 mtu 640
+0 > P. 1:5001(5000) ack 1
+0.1 < . 1:1(0) ack 5001 win 1000
+0 state Established
",
    );
}

/// RFC 5681 section 4.1, as Linux has it: after a pause the window falls back towards the initial one.
#[test]
fn a_pause() {
    open(
        "
+0 burst 64
+0 write 10000
+0 > P. 1:10001(10000) ack 1
+0.1 < . 1:1(0) ack 10001 win 1000
+0 window 20000
+10 write 30000
+0 > . 10001:20001(10000) ack 1
+0 window 10000
+0.1 < . 1:1(0) ack 20001 win 1000
+0 > P. 20001:40001(20000) ack 1
+0.1 < . 1:1(0) ack 40001 win 1000
",
    );
}
