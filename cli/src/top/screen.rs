//! The live view.

use super::sample::{Column, LinkRate, Order, Rates, SocketRate, WorkerRate, short};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Table};
use std::time::Duration;

/// Links and workers shown at most, so that sockets have room.
const MAX_LINES: usize = 6;

/// What is on the screen.
pub(super) struct Screen {
    rates: Rates,
    order: Order,
    interval: Duration,
    /// First socket shown.
    first: usize,
    /// Whether it stands still.
    pub(super) paused: bool,
    /// Why there is nothing new.
    pub(super) trouble: Option<String>,
}

impl Screen {
    pub(super) fn new(rates: Rates, order: Order, interval: Duration) -> Screen {
        let mut screen = Screen { rates, order, interval, first: 0, paused: false, trouble: None };
        screen.rates.sort(order);
        screen
    }

    /// Shows new rates.
    pub(super) fn show(&mut self, rates: Rates) {
        self.rates = rates;
        self.rates.sort(self.order);
        self.trouble = None;
        self.scroll(0);
    }

    /// Sorts by a column further right, or left.
    pub(super) fn sort_by(&mut self, step: isize) {
        let at = Column::ALL.iter().position(|column| *column == self.order.column).unwrap_or(0);
        let next = at.cast_signed() + step;
        self.order.column = Column::ALL[next.rem_euclid(Column::ALL.len().cast_signed()).cast_unsigned()];
        self.rates.sort(self.order);
    }

    pub(super) fn reverse(&mut self) {
        self.order.reversed = !self.order.reversed;
        self.rates.sort(self.order);
    }

    pub(super) fn scroll(&mut self, lines: isize) {
        let last = self.rates.sockets.len().saturating_sub(1);
        self.first = self.first.saturating_add_signed(lines).min(last);
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let height = |lines: usize| Constraint::Length(lines.min(MAX_LINES) as u16 + 2);
        let (links, workers) = (height(self.rates.links.len()), height(self.rates.workers.len()));
        let parts = [Constraint::Length(2), links, workers, Constraint::Min(2), Constraint::Length(1)];
        let [head, links, workers, sockets, foot] = Layout::vertical(parts).areas(frame.area());
        frame.render_widget(self.head(), head);
        frame.render_widget(link_table(&self.rates.links), links);
        frame.render_widget(worker_table(&self.rates.workers), workers);
        self.draw_sockets(frame, sockets);
        let keys = " q quit   ←→ sort by   r reverse   ↑↓ scroll   p pause ";
        frame.render_widget(Line::from(keys).add_modifier(Modifier::REVERSED), foot);
    }

    fn head(&self) -> Paragraph<'_> {
        let rates = &self.rates;
        let state = match &self.trouble {
            Some(trouble) => format!("no answer: {trouble}"),
            None if self.paused => "paused".to_owned(),
            None => format!("every {} s", self.interval.as_secs_f64()),
        };
        Paragraph::new(format!(
            "freena top: pid {}, {} processes, {} sockets; {state}",
            rates.pid,
            rates.processes,
            rates.sockets.len()
        ))
        .bold()
    }

    fn draw_sockets(&self, frame: &mut Frame<'_>, area: Rect) {
        let columns = [
            ("PROGRAM", Some(Column::Program)),
            ("PROTO", None),
            ("LOCAL", Some(Column::Local)),
            ("PEER", Some(Column::Peer)),
            ("IN/S", Some(Column::In)),
            ("OUT/S", Some(Column::Out)),
            ("DROP/S", Some(Column::Drop)),
        ];
        let total = self.order.column == Column::Total;
        let heads = columns.map(|(name, column)| {
            let sorted = column == Some(self.order.column)
                || (total && matches!(column, Some(Column::In | Column::Out)));
            let mark = match (sorted, self.order.reversed) {
                (false, _) => "",
                (true, false) => "▼",
                (true, true) => "▲",
            };
            format!("{name}{mark}")
        });
        let numbers = |rows: Vec<String>| Row::new(rows);
        let rows = self.rates.sockets.iter().skip(self.first).take(area.height.into()).map(|socket| {
            let SocketRate { program, protocol, local, peer, received, sent, dropped, .. } = socket;
            numbers(vec![
                program.clone(),
                protocol.clone(),
                local.clone(),
                peer.clone(),
                right(*received),
                right(*sent),
                right(*dropped),
            ])
        });
        let widths = [
            Constraint::Length(12),
            Constraint::Length(5),
            Constraint::Min(20),
            Constraint::Min(20),
            Constraint::Length(6),
            Constraint::Length(6),
            Constraint::Length(7),
        ];
        frame.render_widget(Table::new(rows, widths).header(header(heads.to_vec())).column_spacing(1), area);
    }
}

fn right(value: f64) -> String {
    format!("{:>6}", short(value))
}

fn header(names: Vec<String>) -> Row<'static> {
    Row::new(names).style(Style::new().add_modifier(Modifier::UNDERLINED))
}

fn heads(names: &[&str]) -> Row<'static> {
    header(names.iter().map(|name| (*name).to_owned()).collect())
}

fn link_table(links: &[LinkRate]) -> Table<'static> {
    let rows = links.iter().take(MAX_LINES).map(|link| {
        Row::new(vec![
            format!("{} {}", link.interface, link.queue),
            right(link.in_frames),
            right(link.in_bits),
            right(link.out_frames),
            right(link.out_bits),
            right(link.dropped),
        ])
    });
    let numbers = [Constraint::Length(10); 5];
    let widths = std::iter::once(Constraint::Length(20)).chain(numbers);
    let names = ["LINK, QUEUE", "IN PPS", "IN BIT/S", "OUT PPS", "OUT BIT/S", "DROPPED/S"];
    Table::new(rows, widths).header(heads(&names)).column_spacing(1)
}

fn worker_table(workers: &[WorkerRate]) -> Table<'static> {
    let rows = workers.iter().take(MAX_LINES).map(|worker| {
        let core = worker.core.map_or("-".to_owned(), |core| core.to_string());
        Row::new(vec![
            worker.index.to_string(),
            core,
            format!("{:>5.1} %", worker.cpu * 100.0),
            format!("{:>5.1} %", worker.busy * 100.0),
            right(worker.turns),
            right(worker.sleeps),
        ])
    });
    let widths = [
        Constraint::Length(20),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(10),
    ];
    Table::new(rows, widths)
        .header(heads(&["POLLING THREAD", "CORE", "CPU", "BUSY", "TURNS/S", "SLEEPS/S"]))
        .column_spacing(1)
}
