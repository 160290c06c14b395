//! A report as a figure that one can put into a paper.

use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;
use thiserror::Error;

use super::latency::name;
use super::options::{Load, Series};
use super::report::{Latency, Report};

/// Size of one panel, in pixels.
const PANEL: (u32, u32) = (620, 460);
/// Height of the lines above the panels.
const HEADING: u32 = 52;
const FONT: &str = "sans-serif";
/// Two labels of the size axis closer than this, in powers of two, would touch.
const LABEL_GAP: f64 = 0.35;

/// Why a figure could not be written.
#[derive(Debug, Error)]
pub enum PlotError {
    /// No series gave a result.
    #[error("there is nothing to plot: no series was measured")]
    Nothing,
    /// The file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The figure could not be drawn.
    #[error("cannot draw the figure: {0}")]
    Draw(String),
}

type Drawn = Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A linear axis with labels where we say.
struct Axis {
    range: Range<f64>,
    labels: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.labels.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// What one panel shows.
enum Panel {
    Throughput(Load),
    Latency,
}

impl Report {
    /// Writes the figure as SVG: received throughput against datagram size, a panel for each load, a line for each
    /// series; for latency, the time against the part of all exchanges that does not exceed it.
    ///
    /// # Errors
    /// [`PlotError`], by what is missing or failed.
    pub fn write_svg(&self, path: impl AsRef<Path>) -> Result<(), PlotError> {
        let path = path.as_ref();
        std::fs::write(path, self.to_svg()?)
            .map_err(|source| PlotError::Write { path: path.display().to_string(), source })
    }

    /// The figure of [`Report::write_svg`].
    ///
    /// # Errors
    /// [`PlotError::Nothing`], [`PlotError::Draw`].
    pub fn to_svg(&self) -> Result<String, PlotError> {
        let mut panels: Vec<Panel> = self.loads().into_iter().filter_map(|load| self.has(load)).collect();
        if self.latency.iter().any(|point| point.outcome.median().is_some()) {
            panels.push(Panel::Latency);
        }
        if panels.is_empty() {
            return Err(PlotError::Nothing);
        }
        let mut svg = String::new();
        self.draw(&panels, &mut svg).map_err(|error| PlotError::Draw(error.to_string()))?;
        Ok(svg)
    }

    fn has(&self, load: Load) -> Option<Panel> {
        let mut points = self.throughput.iter().filter(|point| point.load == load);
        points.any(|point| point.outcome.median().is_some()).then_some(Panel::Throughput(load))
    }

    fn draw(&self, panels: &[Panel], svg: &mut String) -> Drawn {
        let width = PANEL.0 * panels.len() as u32;
        let root = SVGBackend::with_string(svg, (width, PANEL.1 + HEADING)).into_drawing_area();
        root.fill(&WHITE)?;
        let title = match panels {
            [Panel::Latency] => "Half round trip of UDP datagrams",
            _ => "Received UDP throughput against datagram size",
        };
        let (centre, grey) = (width as i32 / 2, RGBColor(80, 80, 80));
        let middle = plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Center,
            plotters::style::text_anchor::VPos::Top,
        );
        let large = (FONT, 18).into_font().color(&BLACK).pos(middle);
        let small = (FONT, 12).into_font().color(&grey).pos(middle);
        let runs = if self.rounds == 1 { String::new() } else { format!("; median of {} runs", self.rounds) };
        root.draw(&Text::new(title, (centre, 8), large))?;
        let subtitle = format!("{}; one veth pair, MTU {}{runs}", self.machine, crate::lab::MTU);
        root.draw(&Text::new(subtitle, (centre, 32), small))?;
        let (_, below) = root.split_vertically(HEADING);
        for (panel, area) in panels.iter().zip(below.split_evenly((1, panels.len()))) {
            match panel {
                Panel::Throughput(load) => self.draw_throughput(*load, &area)?,
                Panel::Latency => self.draw_latency(&area)?,
            }
        }
        root.present()?;
        Ok(())
    }

    fn draw_throughput(&self, load: Load, area: &Area<'_>) -> Drawn {
        let mut sizes = self.sizes(load);
        sizes.sort_unstable();
        let lines = self.series().into_iter().map(|series| {
            let rate = |&size: &usize| {
                let run = self.throughput_of(load, size, series)?;
                Some(((size as f64).log2(), run.megabits_per_second))
            };
            (series, sizes.iter().filter_map(rate).collect::<Vec<_>>())
        });
        let lines: Vec<_> = lines.filter(|(_, line)| !line.is_empty()).collect();
        let highest = lines.iter().flat_map(|(_, line)| line).map(|point| point.1).fold(1.0, f64::max);
        let ends = [sizes.first(), sizes.last()].map(|size| size.map_or(6.0, |&size| (size as f64).log2()));
        let across = Axis { range: ends[0] - 0.15..ends[1] + 0.15, labels: size_labels(&sizes) };
        let mut chart = ChartBuilder::on(area)
            .caption(self.describe(load), (FONT, 14))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(68)
            .build_cartesian_2d(across, 0.0..highest * 1.08)?;
        chart
            .configure_mesh()
            .x_desc("Datagram payload (bytes, logarithmic)")
            .y_desc("Received payload (Mb/s)")
            .x_label_formatter(&|power| format!("{:.0}", power.exp2()))
            .y_label_formatter(&|rate| format!("{rate:.0}"))
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .axis_desc_style((FONT, 13))
            .label_style((FONT, 12))
            .draw()?;
        for (series, line) in lines {
            let (colour, width) = look(series);
            let style = colour.stroke_width(width);
            chart
                .draw_series(LineSeries::new(line.iter().copied(), style))?
                .label(series.to_string())
                .legend(move |(x, y)| {
                    EmptyElement::at((x, y))
                        + PathElement::new([(0, 0), (22, 0)], style)
                        + marker(series, (11, 0))
                });
            let marked = |point: &(f64, f64)| EmptyElement::at(*point) + marker(series, (0, 0));
            chart.draw_series(line.iter().map(marked))?;
        }
        legend(&mut chart)
    }

    fn draw_latency(&self, area: &Area<'_>) -> Drawn {
        let lines: Vec<_> = self
            .latency
            .iter()
            .filter_map(|point| {
                let curve = distribution(point.outcome.median()?);
                let label = format!("{}, {}, {} B", name(point.series), point.wait, point.size);
                Some((point.series, point.wait, label, curve))
            })
            .collect();
        let points = || lines.iter().flat_map(|(_, _, _, curve)| curve);
        let lowest = points().map(|point| point.1).fold(f64::INFINITY, f64::min).max(0.1);
        let highest = points().map(|point| point.1).fold(lowest, f64::max);
        let widest = points().map(|point| point.0).fold(2.0, f64::max);
        let nines: Vec<f64> = (0..=widest as u32).map(f64::from).collect();
        let mut chart = ChartBuilder::on(area)
            .caption(format!("ping-pong for {} s", self.seconds), (FONT, 14))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(68)
            .build_cartesian_2d(
                Axis { range: 0.0..widest + 0.1, labels: nines },
                (lowest * 0.8..highest * 1.25).log_scale(),
            )?;
        chart
            .configure_mesh()
            .x_desc("Percentile of all exchanges")
            .y_desc("Half round trip (us, logarithmic)")
            .x_label_formatter(&|nines| percentile_label(*nines))
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .axis_desc_style((FONT, 13))
            .label_style((FONT, 12))
            .draw()?;
        for (series, wait, label, curve) in lines {
            let (colour, _) = look(series);
            // One hue for each series; ways of waiting differ in strength.
            let strength = [1.0, 0.65, 0.4][wait as usize];
            let style = colour.mix(strength).stroke_width(2);
            chart
                .draw_series(LineSeries::new(curve, style))?
                .label(label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
        }
        legend(&mut chart)
    }
}

fn legend<'a, X, Y>(chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>) -> Drawn
where
    X: Ranged,
    Y: Ranged,
{
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(180, 180, 180))
        .label_font((FONT, 12))
        .legend_area_size(30)
        .draw()?;
    Ok(())
}

/// Colours that the colour-blind tell apart (Okabe and Ito 2008); the framework's line is the strongest.
fn look(series: Series) -> (RGBColor, u32) {
    match series {
        Series::KernelSendto => (RGBColor(0, 0, 0), 2),
        Series::KernelSendmmsg => (RGBColor(86, 180, 233), 2),
        Series::KernelSegment => (RGBColor(0, 158, 115), 2),
        Series::KernelSegmentGro => (RGBColor(0, 114, 178), 2),
        Series::Framework => (RGBColor(213, 94, 0), 3),
        Series::FrameworkXdp => (RGBColor(140, 60, 0), 3),
        Series::RawAfXdp => (RGBColor(204, 121, 167), 2),
        Series::RawGso => (RGBColor(230, 159, 0), 2),
        Series::KernelStream => (RGBColor(90, 90, 90), 2),
        Series::FrameworkStream => (RGBColor(160, 0, 40), 3),
    }
}

/// A mark of its own for each series, for print without colour.
fn marker<'a>(series: Series, at: (i32, i32)) -> DynElement<'static, SVGBackend<'a>, (i32, i32)> {
    let (colour, _) = look(series);
    let hollow = colour.stroke_width(2);
    match series {
        Series::KernelSendto => Circle::new(at, 4, colour.filled()).into_dyn(),
        Series::KernelSendmmsg => TriangleMarker::new(at, 5, colour.filled()).into_dyn(),
        Series::KernelSegment => Cross::new(at, 4, hollow).into_dyn(),
        Series::KernelSegmentGro => TriangleMarker::new(at, 5, hollow).into_dyn(),
        Series::Framework => {
            Rectangle::new([(at.0 - 4, at.1 - 4), (at.0 + 4, at.1 + 4)], colour.filled()).into_dyn()
        }
        Series::FrameworkXdp => Cross::new(at, 5, colour.stroke_width(3)).into_dyn(),
        Series::RawAfXdp => Circle::new(at, 4, hollow).into_dyn(),
        Series::KernelStream => Cross::new(at, 4, colour.stroke_width(2)).into_dyn(),
        Series::FrameworkStream => TriangleMarker::new(at, 6, colour.filled()).into_dyn(),
        Series::RawGso => Rectangle::new([(at.0 - 4, at.1 - 4), (at.0 + 4, at.1 + 4)], hollow).into_dyn(),
    }
}

/// Where the size axis is labelled: at the sizes measured, from the largest down, as far as there is room.
fn size_labels(sizes: &[usize]) -> Vec<f64> {
    let mut labels: Vec<f64> = Vec::new();
    for &size in sizes.iter().rev() {
        let power = (size as f64).log2();
        if labels.last().is_none_or(|last| last - power >= LABEL_GAP) {
            labels.push(power);
        }
    }
    labels.reverse();
    labels
}

/// The time, in microseconds, against the number of nines of the part of all exchanges that does not exceed it.
fn distribution(run: &Latency) -> Vec<(f64, f64)> {
    let total = run.histogram.iter().map(|bucket| bucket.count).sum::<u64>() as f64;
    let mut below = 0;
    let mut curve = Vec::new();
    for bucket in &run.histogram {
        curve.push((nines(below as f64 / total), bucket.up_to_ns as f64 / 1e3));
        below += bucket.count;
        if (below as f64) < total {
            curve.push((nines(below as f64 / total), bucket.up_to_ns as f64 / 1e3));
        }
    }
    curve
}

/// 0 for none of all, 1 for 90 %, 2 for 99 %, and so on.
fn nines(part: f64) -> f64 {
    -(1.0 - part).log10()
}

fn percentile_label(nines: f64) -> String {
    let decimals = (nines as usize).saturating_sub(2);
    format!("{:.decimals$} %", 100.0 * (1.0 - 10_f64.powf(-nines)))
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{example, latency_example};
    use super::*;

    #[test]
    fn a_figure_has_its_axes_units_series_and_machine() {
        let svg = example().to_svg().unwrap();
        for text in [
            "Received payload (Mb/s)",
            "Datagram payload (bytes, logarithmic)",
            "bursts of 10,000 datagrams",
            "steady stream, 2 s",
            "UDP (kernel, UDP_SEGMENT)",
            "UDP (framework)",
            "2 x Example &lt;4000&gt;, Linux 6.18.0 x86_64",
        ] {
            assert!(svg.contains(text), "no {text:?}");
        }
        assert!(!svg.contains("raw AF_XDP"), "a series without a point is not in the legend");
        assert!(svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn latency_has_its_percentiles() {
        let svg = latency_example().to_svg().unwrap();
        for text in ["Half round trip (us, logarithmic)", "99 %", "framework, recv, 64 B"] {
            assert!(svg.contains(text), "no {text:?}");
        }
    }

    #[test]
    fn nothing_measured_is_nothing_to_plot() {
        let mut report = example();
        report.throughput.retain(|point| point.series == Series::RawAfXdp);
        assert!(matches!(report.to_svg(), Err(PlotError::Nothing)));
    }

    #[test]
    fn a_path_that_cannot_be_written_is_named() {
        let error = example().write_svg("/nonexistent/figure.svg").unwrap_err().to_string();
        assert!(error.starts_with("cannot write /nonexistent/figure.svg: "), "{error}");
    }

    #[test]
    fn labels_keep_their_distance() {
        let labels: Vec<f64> = size_labels(&[64, 128, 256, 512, 1024, 1280, 1472])
            .into_iter()
            .map(f64::exp2)
            .map(f64::round)
            .collect();
        assert_eq!(labels, [64.0, 128.0, 256.0, 512.0, 1024.0, 1472.0]);
    }

    #[test]
    fn percentiles_are_labelled_with_their_nines() {
        assert_eq!(
            [0.0, 1.0, 2.0, 3.0, 4.0].map(percentile_label),
            ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]
        );
    }
}
