//! `freena top`.

mod plain;
mod sample;
mod screen;

use crate::{ControlArgs, control};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use sample::{Column, Order, Rates, Sample};
use screen::Screen;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How to look.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    control: ControlArgs,

    /// Seconds from one look to the next, 0.1 to 3600
    #[arg(long, short = 'n', value_name = "S", default_value = "1", value_parser = interval)]
    interval: Duration,

    /// Print once, as plain text, and end
    #[arg(long, conflicts_with = "batch")]
    once: bool,

    /// Print so many times, as plain text, and end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,

    /// Column to sort sockets by
    #[arg(long, value_enum, default_value_t = Column::Total)]
    sort: Column,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("found `{text}`, expected a number of seconds from 0.1 to 3600"))
}

/// Shows rates until it is told to end.
///
/// # Errors
/// The server cannot be reached at first, or the terminal cannot be used.
pub(crate) fn run(args: &Args) -> miette::Result<ExitCode> {
    let first = look(&args.control.control)?;
    let order = Order { column: args.sort, reversed: false };
    let times = if args.once { Some(1) } else { args.batch };
    if let Some(times) = times {
        return print(args, first, order, times);
    }
    if !io::stdout().is_terminal() {
        return Err(miette::miette!(
            help = "for scripts: freena top --once, or --batch N",
            "the standard output is no terminal"
        ));
    }
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, ended.clone())
            .map_err(|error| miette::miette!("signals: {error}"))?;
    }
    // Puts the terminal back when the process panics, too.
    let mut terminal = ratatui::try_init().map_err(|error| miette::miette!("the terminal: {error}"))?;
    let result = live(args, first, order, &mut terminal, &ended);
    ratatui::restore();
    result.map_err(|error| miette::miette!("the terminal: {error}"))?;
    Ok(ExitCode::SUCCESS)
}

fn look(path: &Path) -> miette::Result<Sample> {
    let text = control::status(path)?;
    Sample::read(&text, Instant::now())
        .map_err(|error| miette::miette!("the status document is no JSON: {error}"))
}

fn print(args: &Args, mut last: Sample, order: Order, times: u64) -> miette::Result<ExitCode> {
    for _ in 0..times {
        thread::sleep(args.interval);
        let next = look(&args.control.control)?;
        let mut rates = Rates::between(&last, &next);
        rates.sort(order);
        let text = plain::print(&rates);
        match io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            result => result.map_err(|error| miette::miette!("{error}"))?,
        }
        last = next;
    }
    Ok(ExitCode::SUCCESS)
}

fn live(
    args: &Args,
    mut last: Sample,
    order: Order,
    terminal: &mut ratatui::DefaultTerminal,
    ended: &AtomicBool,
) -> io::Result<()> {
    let mut screen = Screen::new(Rates::between(&last, &last), order, args.interval);
    let mut due = Instant::now() + args.interval.min(Duration::from_millis(300));
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        let left = due.saturating_duration_since(Instant::now());
        // A signal does not end the wait: look for one now and then.
        if event::poll(left.min(Duration::from_millis(200)))?
            && let Event::Key(key) = event::read()?
            && !press(&mut screen, key)
        {
            return Ok(());
        }
        if ended.load(Ordering::Relaxed) {
            return Ok(());
        }
        if Instant::now() >= due {
            due = Instant::now() + args.interval;
            match look(&args.control.control) {
                Ok(next) if !screen.paused => {
                    screen.show(Rates::between(&last, &next));
                    last = next;
                }
                Ok(_) => {}
                Err(error) => screen.trouble = Some(error.to_string()),
            }
        }
    }
}

/// Reacts to a key; false to end.
fn press(screen: &mut Screen, key: KeyEvent) -> bool {
    if key.kind == KeyEventKind::Release {
        return true;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('c') if control => return false,
        KeyCode::Left => screen.sort_by(-1),
        KeyCode::Right => screen.sort_by(1),
        KeyCode::Char('r') => screen.reverse(),
        KeyCode::Char('p' | ' ') => screen.paused = !screen.paused,
        KeyCode::Up => screen.scroll(-1),
        KeyCode::Down => screen.scroll(1),
        KeyCode::PageUp => screen.scroll(-10),
        KeyCode::PageDown => screen.scroll(10),
        KeyCode::Home => screen.scroll(isize::MIN),
        _ => {}
    }
    true
}

#[cfg(test)]
mod tests;
