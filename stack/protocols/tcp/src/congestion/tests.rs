use super::*;

const MSS: u64 = 1000;

fn ack(now: Instant, bytes: u64) -> Acknowledged {
    Acknowledged {
        now,
        bytes,
        rtt: Duration::from_millis(100),
        sample: None,
        position: 0,
        next: 0,
        limited: true,
    }
}

#[test]
fn slow_start_doubles_and_stops_at_the_threshold() {
    let now = crate::tests::epoch();
    let mut control = Control::new(Congestion::Cubic, MSS);
    assert_eq!(control.window, 10 * MSS, "RFC 6928");
    control.acknowledged(&ack(now, 10 * MSS));
    assert_eq!(control.window, 20 * MSS);
    control.timed_out(20 * MSS);
    assert_eq!((control.window, control.threshold), (MSS, 14 * MSS), "RFC 5681 section 3.1");
    control.acknowledged(&ack(now, 20 * MSS));
    assert_eq!(control.window, 14 * MSS);
    control.acknowledged(&Acknowledged { limited: false, ..ack(now, 14 * MSS) });
    assert_eq!(control.window, 14 * MSS, "a window that is not used does not grow");
}

/// RFC 9438 section 4.2: back at `W_max` after `K` seconds.
#[test]
fn cubic_returns_to_where_it_was_after_k() {
    let start = crate::tests::epoch();
    let mut control = Control::new(Congestion::Cubic, MSS);
    control.window = 1000 * MSS;
    control.lost(control.window);
    control.window = control.threshold;
    assert_eq!(control.window, 700 * MSS);
    let k = (300.0_f64 / 0.4).cbrt();
    let mut now = start;
    while now.duration_since(start).as_secs_f64() < k {
        now += Duration::from_millis(100);
        control.acknowledged(&ack(now, control.window));
    }
    assert!((980..=1010).contains(&(control.window / MSS)), "{} segments after K", control.window / MSS);
}

#[test]
fn new_reno_grows_by_a_segment_for_each_window_and_halves() {
    let now = crate::tests::epoch();
    let mut control = Control::new(Congestion::NewReno, MSS);
    control.lost(20 * MSS);
    control.window = control.threshold;
    assert_eq!(control.window, 10 * MSS);
    control.acknowledged(&ack(now, 10 * MSS));
    assert_eq!(control.window, 11 * MSS);
}

#[test]
fn a_mistaken_loss_is_taken_back() {
    let mut control = Control::new(Congestion::Cubic, MSS);
    let before = control.before();
    control.timed_out(10 * MSS);
    control.undo(before);
    assert_eq!((control.window, control.threshold), (10 * MSS, u64::MAX));
}
