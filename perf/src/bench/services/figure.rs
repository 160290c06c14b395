//! The figure of services: what insertion costs, against the size of messages.

use std::path::Path;

use plotters::prelude::*;

use super::super::plot::PlotError;
use super::report::{ServicesReport, Transport};

const SIZE: (u32, u32) = (820, 460);
const FONT: &str = "sans-serif";
const COLOURS: [RGBColor; 4] =
    [RGBColor(160, 0, 40), RGBColor(0, 80, 160), RGBColor(220, 130, 0), RGBColor(0, 130, 70)];

impl ServicesReport {
    /// Writes the figure as SVG: a line for each transport and service, of the part by which the inserted service is slower.
    ///
    /// # Errors
    /// [`PlotError`], by what is missing or failed.
    pub fn write_svg(&self, path: impl AsRef<Path>) -> Result<(), PlotError> {
        let path = path.as_ref();
        std::fs::write(path, self.to_svg()?)
            .map_err(|source| PlotError::Write { path: path.display().to_string(), source })
    }

    /// The figure of [`ServicesReport::write_svg`].
    ///
    /// # Errors
    /// [`PlotError::Nothing`], [`PlotError::Draw`].
    pub fn to_svg(&self) -> Result<String, PlotError> {
        let lines = self.lines();
        if lines.is_empty() {
            return Err(PlotError::Nothing);
        }
        let mut svg = String::new();
        self.draw(&lines, &mut svg).map_err(|error| PlotError::Draw(error.to_string()))?;
        Ok(svg)
    }

    /// Name and points, in powers of two and per cent, of each line.
    fn lines(&self) -> Vec<(String, Vec<(f64, f64)>)> {
        let mut lines: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
        for point in &self.points {
            let Some(overhead) = point.rates.overhead() else { continue };
            let kind = if point.transport == Transport::Tcp { "stream" } else { "datagrams" };
            let name = format!("{}, {kind}", point.service);
            let place = ((point.size as f64).log2(), overhead * 100.0);
            match lines.iter_mut().find(|(known, _)| *known == name) {
                Some((_, points)) => points.push(place),
                None => lines.push((name, vec![place])),
            }
        }
        lines
    }

    fn draw(
        &self,
        lines: &[(String, Vec<(f64, f64)>)],
        svg: &mut String,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let all = || lines.iter().flat_map(|(_, points)| points);
        let widest = all().fold(6.0..7.0, |range: std::ops::Range<f64>, (size, _)| {
            range.start.min(*size)..range.end.max(*size)
        });
        let highest = all().fold(-2.0..4.0, |range: std::ops::Range<f64>, (_, part)| {
            range.start.min(*part)..range.end.max(*part)
        });
        let title =
            format!("By how much inserted services are slower; {}, median of {}", self.machine, self.rounds);
        let mut chart = ChartBuilder::on(&root)
            .caption(title, (FONT, 14))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d(widest, highest.start - 1.0..highest.end + 1.0)?;
        chart
            .configure_mesh()
            .x_desc("message, bytes")
            .y_desc("slower by, %")
            .x_label_formatter(&|size| format!("{:.0}", size.exp2()))
            .draw()?;
        for ((name, points), colour) in lines.iter().zip(COLOURS) {
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
                .label(name.as_str())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
        root.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::example;
    use super::*;

    #[test]
    fn each_service_and_transport_is_a_line() {
        let mut report = example();
        let svg = report.to_svg().unwrap();
        assert!(svg.contains("trace, stream") && svg.contains("slower by"), "{svg}");
        report.points.clear();
        assert!(matches!(report.to_svg(), Err(PlotError::Nothing)));
    }
}
