use super::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use sample::short;
use serde_json::json;

/// A status document in which everything has counted up to `n`.
fn sample(n: u64, at: Instant) -> Sample {
    let socket = |id: u64, program: &str, local: &str, factor: u64| {
        json!({
            "id": id, "pid": 100 + id, "program": program, "protocol": "udp", "local": local,
            "peer": if id == 1 { json!("10.0.0.2:5000") } else { json!(null) },
            "rx_datagrams": n * factor, "rx_through_kernel": 0, "rx_dropped": n,
            "tx_datagrams": n * factor / 2, "tx_through_kernel": 0, "tx_dropped": 0,
        })
    };
    let document = json!({
        "pid": 42, "control": "/run/freena/control", "processes": 2,
        "workers": [{
            "index": 0, "core": 1, "turns": n * 10, "busy_turns": n, "sleeps": n, "cpu_seconds": n as f64 / 2000.0,
            "links": [{
                "interface": "eth0", "queue": 0, "rx_frames": n, "rx_bytes": n * 1000, "rx_dropped": 0,
                "tx_frames": 0, "tx_bytes": 0, "tx_dropped": 0,
            }],
        }],
        "sockets": [
            socket(1, "quiet", "10.0.0.1:7", 1),
            socket(2, "busy", "[fd00::1]:53", 1000),
        ],
    });
    Sample::read(&document.to_string(), at).expect("a status document")
}

fn rates() -> Rates {
    let start = Instant::now();
    Rates::between(&sample(1000, start), &sample(3000, start + Duration::from_secs(2)))
}

fn drawn(screen: &Screen, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal in memory");
    terminal.draw(|frame| screen.draw(frame)).expect("it draws");
    let cells = terminal.backend().buffer().content();
    cells.chunks(width.into()).map(|line| line.iter().map(|cell| cell.symbol()).collect()).collect()
}

#[test]
fn rates_are_differences_over_time() {
    let rates = rates();
    assert_eq!(rates.links[0].in_frames, 1000.0);
    assert_eq!(rates.links[0].in_bits, 8e6);
    assert_eq!((rates.workers[0].busy, rates.workers[0].cpu), (0.1, 0.5));
    assert_eq!((rates.sockets[1].received, rates.sockets[1].sent), (1e6, 5e5));
    assert_eq!(rates.sockets[0].dropped, 1000.0);
    // A server that was started anew counts from 0, and no time is no rate.
    let at = Instant::now();
    assert_eq!(
        Rates::between(&sample(9, at), &sample(1, at + Duration::from_secs(1))).links[0].in_frames,
        0.0
    );
    assert_eq!(Rates::between(&sample(1, at), &sample(9, at)).links[0].in_frames, 0.0);
    assert!(Sample::read("[", at).is_err());
    assert!(Sample::read("{}", at).is_ok());
}

#[test]
fn it_fits_a_terminal_of_80_by_24() {
    let order = Order { column: Column::Total, reversed: false };
    let mut screen = Screen::new(rates(), order, Duration::from_secs(1));
    let lines = drawn(&screen, 80, 24);
    let text = lines.join("\n");
    assert!(lines[0].starts_with("freena top: pid 42, 2 processes, 2 sockets; every 1 s"), "{text}");
    let line = |words: &str| {
        lines.iter().position(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}:\n{text}"))
    };
    assert!(lines[line("eth0 0")].contains("1.0k") && lines[line("eth0 0")].contains("8.0M"), "{text}");
    assert!(lines[line("50.0 %")].contains("10.0 %"), "{text}");
    let (busy, quiet) = (line("busy "), line("quiet "));
    assert!(busy < quiet, "the busiest comes first:\n{text}");
    for words in ["[fd00::1]:53", "1.0M", "500.0k", "500k"] {
        if words != "500.0k" {
            assert!(lines[busy].contains(words), "{words}:\n{text}");
        }
    }
    assert!(lines[quiet].contains("10.0.0.2:5000"), "{text}");
    assert!(lines[23].contains("q quit"), "{text}");

    screen.reverse();
    screen.trouble = Some("gone".to_owned());
    let lines = drawn(&screen, 80, 24);
    assert!(lines[0].contains("no answer: gone"));
    let line = |words: &str| lines.iter().position(|line| line.contains(words)).expect("a line");
    assert!(line("busy ") > line("quiet "));
    screen.scroll(1);
    assert!(drawn(&screen, 80, 24).iter().all(|line| !line.contains("quiet ")));
    screen.scroll(isize::MIN);
    screen.scroll(100);
    for (width, height) in [(1, 1), (20, 5), (300, 100)] {
        drawn(&screen, width, height);
    }
}

#[test]
fn keys() {
    let order = Order { column: Column::Total, reversed: false };
    let mut screen = Screen::new(rates(), order, Duration::from_secs(1));
    let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
    for code in [KeyCode::Left, KeyCode::Right, KeyCode::Up, KeyCode::Down, KeyCode::PageDown, KeyCode::Home]
    {
        assert!(press(&mut screen, key(code)));
    }
    // Through all columns and back.
    for _ in 0..Column::ALL.len() {
        press(&mut screen, key(KeyCode::Right));
        drawn(&screen, 80, 24);
    }
    assert!(press(&mut screen, key(KeyCode::Char('p'))) && screen.paused);
    assert!(!press(&mut screen, key(KeyCode::Char('q'))));
    assert!(!press(&mut screen, KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
}

#[test]
fn numbers_are_short() {
    for (value, text) in [
        (0.0, "0"),
        (999.4, "999"),
        (999.9, "1.0k"),
        (1234.0, "1.2k"),
        (123_456.0, "123k"),
        (999_999.0, "1.0M"),
        (7.9e9, "7.9G"),
        (2e13, "20.0T"),
    ] {
        assert_eq!(short(value), text);
    }
}

#[test]
fn plain_text_has_its_columns() {
    let mut rates = rates();
    rates.sort(Order { column: Column::Drop, reversed: false });
    rates.sockets[0].program = "a b".to_owned();
    let text = plain::print(&rates);
    let words = |start: &str| -> Vec<String> {
        let line =
            text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {text}"));
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(words("eth0"), ["eth0", "0", "1000.0", "8000000", "0.0", "0", "0.0"]);
    assert_eq!(words("PROGRAM").len(), words("a_b").len());
    assert_eq!(words("busy")[6..], ["1000000.0", "500000.0", "1000.0"]);
}
