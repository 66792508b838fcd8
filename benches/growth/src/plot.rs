//! The results as a picture, for light and for dark pages.

use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Failure;
use crate::report::grouped;
use crate::results::{Growth, Overload, Results, Size, Step, median};

/// Width of a panel's legend.
const LEGEND: u32 = 272;
const PANEL: (u32, u32) = (730, 430);
const LINE: i32 = 26;

pub struct Theme {
    background: RGBColor,
    text: RGBColor,
    grid: RGBColor,
    series: [RGBColor; 8],
}

/// Colours that people tell apart who see few (after Okabe and Ito).
pub const LIGHT: Theme = Theme {
    background: RGBColor(255, 255, 255),
    text: RGBColor(31, 35, 40),
    grid: RGBColor(218, 222, 227),
    series: [
        RGBColor(0, 114, 178),
        RGBColor(213, 94, 0),
        RGBColor(0, 140, 105),
        RGBColor(180, 90, 150),
        RGBColor(190, 135, 0),
        RGBColor(60, 150, 210),
        RGBColor(120, 60, 20),
        RGBColor(90, 95, 100),
    ],
};

pub const DARK: Theme = Theme {
    background: RGBColor(13, 17, 23),
    text: RGBColor(230, 237, 243),
    grid: RGBColor(48, 54, 61),
    series: [
        RGBColor(86, 180, 233),
        RGBColor(255, 140, 60),
        RGBColor(60, 205, 165),
        RGBColor(225, 145, 200),
        RGBColor(240, 200, 70),
        RGBColor(110, 140, 255),
        RGBColor(205, 150, 110),
        RGBColor(165, 172, 180),
    ],
};

type Error = Box<dyn std::error::Error>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A line of a panel.
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    /// A level that something is compared with, not a measurement.
    level: bool,
}

impl Series {
    fn new(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self {
            name: name.to_owned(),
            points,
            level: false,
        }
    }

    fn last(&self) -> f64 {
        self.points.last().map_or(0.0, |point| point.1)
    }
}

struct Panel {
    title: String,
    x_title: &'static str,
    series: Vec<Series>,
    y_is_log: bool,
}

/// Draws every panel that there is something for.
pub fn draw(results: &Results, theme: &Theme, path: &Path) -> Result<(), Failure> {
    let panels = panels(results);
    draw_all(&panels, theme, path).map_err(|error| Failure(format!("{}: {error}", path.display())))
}

fn panels(results: &Results) -> Vec<Panel> {
    let mut panels = Vec::new();
    if let Some(growth) = &results.memories {
        panels.push(latencies(
            growth,
            "An account grows: median latency, µs",
            "memories",
        ));
        panels.push(resources(growth, "An account grows: MB", "memories"));
    }
    if let Some(growth) = &results.accounts {
        panels.push(latencies(
            growth,
            "A database grows: median latency, µs",
            "accounts",
        ));
        panels.push(resources(growth, "A database grows: MB", "accounts"));
    }
    if let Some(overload) = &results.overload {
        panels.push(throughput(overload));
        panels.push(waits(overload));
    }
    panels
}

fn latencies(growth: &Growth, title: &str, x_title: &'static str) -> Panel {
    let series = growth.operations.iter().map(|operation| {
        let sizes = operation.sizes.iter();
        Series::new(
            &operation.name,
            sizes.map(|of| (of.size as f64, of.p50_us)).collect(),
        )
    });
    Panel {
        title: title.to_owned(),
        x_title,
        series: series.collect(),
        y_is_log: true,
    }
}

fn resources(growth: &Growth, title: &str, x_title: &'static str) -> Panel {
    let line = |name: &str, value: fn(&Size) -> u64| {
        let sizes = growth.sizes.iter();
        let points = sizes.map(|size| (size.size as f64, value(size) as f64 / 1e6));
        Series::new(name, points.filter(|point| point.1 > 0.0).collect())
    };
    Panel {
        title: title.to_owned(),
        x_title,
        series: [
            line("disk", |size| size.disk.bytes),
            line("bodies of memories", |size| size.body_bytes),
            line("resident after the fill", |size| size.after_fill.all),
            line("resident after a restart", |size| size.after_restart.all),
            line("resident after reads", |size| size.after_reads.all),
        ]
        .into_iter()
        .filter(|series| !series.points.is_empty())
        .collect(),
        y_is_log: true,
    }
}

fn waits(overload: &Overload) -> Panel {
    let line = |name: &str, value: fn(&Step) -> f64| {
        let steps = overload.steps.iter();
        Series::new(
            name,
            steps
                .map(|step| (step.connections as f64, value(step)))
                .collect(),
        )
    };
    Panel {
        title: "More and more writers: ms, and MB".to_owned(),
        x_title: "writers",
        series: vec![
            line("median, ms", |step| step.p50_ms),
            line("99th percentile, ms", |step| step.p99_ms),
            line("resident at most, MB", |step| {
                step.resident_max.all as f64 / 1e6
            }),
        ],
        y_is_log: true,
    }
}

fn throughput(overload: &Overload) -> Panel {
    let points: Vec<(f64, f64)> = overload
        .steps
        .iter()
        .map(|step| (step.connections as f64, median(&step.accepted_per_second)))
        .collect();
    let peak = points.iter().map(|point| point.1).fold(0.0, f64::max);
    let ends = [points.first(), points.last()].into_iter().flatten();
    let level = Series {
        name: "80% of the peak".to_owned(),
        points: ends.map(|end| (end.0, 0.8 * peak)).collect(),
        level: true,
    };
    Panel {
        title: "More and more writers: 201s a second".to_owned(),
        x_title: "writers",
        series: vec![Series::new("POST /memory", points), level],
        y_is_log: false,
    }
}

fn draw_all(panels: &[Panel], theme: &Theme, path: &Path) -> Result<(), Error> {
    let columns = panels.len().clamp(1, 2);
    let rows = panels.len().div_ceil(columns).max(1);
    let size = (PANEL.0 * columns as u32, PANEL.1 * rows as u32);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&theme.background)?;
    for (panel, area) in panels.iter().zip(root.split_evenly((rows, columns))) {
        draw_panel(panel, theme, &area)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel(panel: &Panel, theme: &Theme, area: &Area<'_>) -> Result<(), Error> {
    let title = ("sans-serif", 23).into_font().color(&theme.text);
    area.draw(&Text::new(panel.title.clone(), (24, 14), title))?;
    let area = area.margin(44, 8, 16, 8);
    let (chart, legend) = area.split_horizontally(PANEL.0 - LEGEND - 24);
    let points = || panel.series.iter().flat_map(|series| &series.points);
    let x = span(points().map(|point| point.0));
    let y = span(points().map(|point| point.1));
    if panel.y_is_log {
        let mut context = ChartBuilder::on(&chart)
            .x_label_area_size(56)
            .y_label_area_size(84)
            .margin_right(34)
            .build_cartesian_2d(
                (x.start..x.end).log_scale(),
                (decade(y.start, f64::floor)..decade(y.end, f64::ceil)).log_scale(),
            )?;
        mesh(&mut context, panel, theme)?;
        lines(&mut context, panel, theme)?;
    } else {
        let mut context = ChartBuilder::on(&chart)
            .x_label_area_size(56)
            .y_label_area_size(84)
            .margin_right(34)
            .build_cartesian_2d((x.start..x.end).log_scale(), 0.0..y.end * 1.1)?;
        mesh(&mut context, panel, theme)?;
        lines(&mut context, panel, theme)?;
    }
    draw_legend(panel, theme, &legend)
}

fn span(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (mut low, mut high) = (f64::INFINITY, 0.0f64);
    for value in values.filter(|value| *value > 0.0) {
        (low, high) = (low.min(value), high.max(value));
    }
    if low < high { low..high } else { 1.0..10.0 }
}

/// The power of ten next to a value.
fn decade(value: f64, round: fn(f64) -> f64) -> f64 {
    10f64.powf(round(value.log10()))
}

fn mesh<X, Y>(
    context: &mut ChartContext<'_, SVGBackend<'_>, Cartesian2d<X, Y>>,
    panel: &Panel,
    theme: &Theme,
) -> Result<(), Error>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let font = |size| ("sans-serif", size).into_font().color(&theme.text);
    let number = |value: &f64| {
        if *value < 1.0 {
            format!("{value}")
        } else {
            grouped(value.round() as u64)
        }
    };
    context
        .configure_mesh()
        .bold_line_style(theme.grid)
        .light_line_style(theme.background)
        .axis_style(theme.text)
        .label_style(font(17))
        .axis_desc_style(font(17))
        .x_desc(panel.x_title)
        .x_labels(7)
        .y_labels(7)
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .draw()?;
    Ok(())
}

fn lines<X, Y>(
    context: &mut ChartContext<'_, SVGBackend<'_>, Cartesian2d<X, Y>>,
    panel: &Panel,
    theme: &Theme,
) -> Result<(), Error>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    for (series, color) in panel.series.iter().zip(theme.series.iter().cycle()) {
        let points = series.points.iter().copied();
        if series.level {
            context.draw_series(LineSeries::new(points, theme.text.stroke_width(1)))?;
            continue;
        }
        context.draw_series(LineSeries::new(points.clone(), color.stroke_width(2)))?;
        context.draw_series(points.map(|point| Circle::new(point, 3, color.filled())))?;
    }
    Ok(())
}

/// Beside the lines, in the order in which they end.
fn draw_legend(panel: &Panel, theme: &Theme, area: &Area<'_>) -> Result<(), Error> {
    let mut entries: Vec<_> = panel
        .series
        .iter()
        .zip(theme.series.iter().cycle())
        .collect();
    entries.sort_by(|one, other| other.0.last().total_cmp(&one.0.last()));
    let text = ("sans-serif", 17)
        .into_font()
        .color(&theme.text)
        .pos(Pos::new(HPos::Left, VPos::Center));
    for (at, (series, color)) in (0i32..).zip(entries) {
        let y = 14 + at * LINE;
        let style = if series.level {
            theme.text.stroke_width(1)
        } else {
            color.stroke_width(3)
        };
        area.draw(&PathElement::new([(4, y), (26, y)], style))?;
        area.draw(&Text::new(series.name.clone(), (34, y), text.clone()))?;
    }
    Ok(())
}
