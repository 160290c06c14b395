//! The figure of connections: for each case the framework's rate in kernel TCP's.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::plot::PlotError;
use super::report::StreamReport;

/// Pixels: the figure's width, its heading, a bar with the space around it, and what stands left of the bars.
const WIDTH: i32 = 820;
const HEADING: i32 = 70;
const BAR: i32 = 44;
const LEFT: i32 = 230;
const RIGHT: i32 = 200;
const FONT: &str = "sans-serif";

impl StreamReport {
    /// Writes the figure as SVG: a bar for each case, as long as the framework's rate in kernel TCP's.
    ///
    /// # Errors
    /// [`PlotError`], by what is missing or failed.
    pub fn write_svg(&self, path: impl AsRef<Path>) -> Result<(), PlotError> {
        let path = path.as_ref();
        std::fs::write(path, self.to_svg()?)
            .map_err(|source| PlotError::Write { path: path.display().to_string(), source })
    }

    /// The figure of [`StreamReport::write_svg`].
    ///
    /// # Errors
    /// [`PlotError::Nothing`], [`PlotError::Draw`].
    pub fn to_svg(&self) -> Result<String, PlotError> {
        let bars: Vec<(&str, f64)> =
            self.cases().into_iter().filter_map(|case| Some((case.name(), self.ratio(case)?))).collect();
        if bars.is_empty() {
            return Err(PlotError::Nothing);
        }
        let mut svg = String::new();
        self.draw(&bars, &mut svg).map_err(|error| PlotError::Draw(error.to_string()))?;
        Ok(svg)
    }

    fn draw(&self, bars: &[(&str, f64)], svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let height = HEADING + BAR * bars.len() as i32 + 16;
        let root = SVGBackend::with_string(svg, (WIDTH as u32, height as u32)).into_drawing_area();
        root.fill(&WHITE)?;
        let style = |size: u32, across| {
            let font = (FONT, size).into_font().color(&BLACK);
            font.pos(Pos::new(across, VPos::Center))
        };
        let title = "Framework TCP in kernel TCP's rate";
        root.draw(&Text::new(title, (WIDTH / 2, 18), style(18, HPos::Center)))?;
        let subtitle = format!("{}; veth pair, median of {} runs", self.machine, self.rounds);
        root.draw(&Text::new(subtitle, (WIDTH / 2, 42), style(12, HPos::Center)))?;
        let widest = bars.iter().map(|(_, ratio)| *ratio).fold(1.0, f64::max);
        let across = |ratio: f64| LEFT + (ratio / widest * f64::from(WIDTH - LEFT - RIGHT)) as i32;
        for (index, (name, ratio)) in bars.iter().enumerate() {
            let (top, middle) = (HEADING + BAR * index as i32, HEADING + BAR * index as i32 + BAR / 2);
            root.draw(&Text::new(*name, (LEFT - 10, middle), style(13, HPos::Right)))?;
            let colour = RGBColor(160, 0, 40);
            root.draw(&Rectangle::new([(LEFT, top + 8), (across(*ratio), top + BAR - 8)], colour.filled()))?;
            let label = format!("{ratio:.2} x");
            root.draw(&Text::new(label, (across(*ratio) + 8, middle), style(13, HPos::Left)))?;
        }
        // The kernel.
        let line = [(across(1.0), HEADING - 4), (across(1.0), height - 12)];
        root.draw(&PathElement::new(line, BLACK.stroke_width(2)))?;
        root.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::example;
    use super::*;

    #[test]
    fn each_case_that_was_measured_is_a_bar() {
        let mut report = example();
        let svg = report.to_svg().unwrap();
        assert!(svg.contains("1.50 x") && svg.contains("requests") && !svg.contains("CUBIC"), "{svg}");
        report.points.clear();
        assert!(matches!(report.to_svg(), Err(PlotError::Nothing)));
    }
}
