//! The picture: a bar for each ratio, a mark for its target.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::results::{Measure, Results, Row, Spread};

/// Colours of one version.
#[derive(Debug)]
pub struct Theme {
    background: RGBColor,
    text: RGBColor,
    muted: RGBColor,
    grid: RGBColor,
    met: RGBColor,
    missed: RGBColor,
    information: RGBColor,
}

impl Theme {
    /// Dark on light.
    pub const LIGHT: Theme = Theme {
        background: RGBColor(255, 255, 255),
        text: RGBColor(31, 35, 40),
        muted: RGBColor(99, 108, 118),
        grid: RGBColor(222, 226, 230),
        met: RGBColor(42, 120, 190),
        missed: RGBColor(217, 119, 40),
        information: RGBColor(165, 173, 183),
    };
    /// Light on dark.
    pub const DARK: Theme = Theme {
        background: RGBColor(13, 17, 23),
        text: RGBColor(230, 237, 243),
        muted: RGBColor(145, 152, 161),
        grid: RGBColor(40, 47, 56),
        met: RGBColor(80, 160, 235),
        missed: RGBColor(240, 150, 75),
        information: RGBColor(100, 108, 118),
    };
}

const WIDTH: i32 = 980;
/// Where bars begin and end; labels are left, values right.
const BARS: (i32, i32) = (400, 800);
const ROW: i32 = 44;
const HEADING: i32 = 72;
const SECTION: i32 = 64;
const LEGEND: i32 = 48;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Bars<'a> = DrawingArea<SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws it as SVG.
pub fn draw(results: &Results, theme: &Theme) -> Result<String> {
    let rows = |measure| {
        results
            .rows
            .iter()
            .filter(move |row| row.measure == measure)
    };
    let sections = [
        (
            "Operations a second, in multiples of the other's (more is better)",
            rows(Measure::PerSecond).collect::<Vec<_>>(),
        ),
        (
            "p99 latency, in multiples of what it is without writers (less is better)",
            rows(Measure::P99).collect(),
        ),
    ];
    let heights = sections.iter().map(|(_, rows)| height(rows));
    let whole = HEADING + heights.sum::<i32>() + LEGEND;
    let mut svg = String::new();
    {
        let size = (u32::try_from(WIDTH)?, u32::try_from(whole)?);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let picture = Picture { area: &area, theme };
        picture
            .whole(results, &sections, whole)
            .map_err(|error| anyhow!("{error}"))?;
    }
    // By the reader's own fonts.
    let fonts = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', sans-serif";
    Ok(svg.replace(
        r#"font-family="sans-serif""#,
        &format!("font-family=\"{fonts}\""),
    ))
}

/// Height of a section: nothing if it has no rows.
fn height(rows: &[&Row]) -> i32 {
    let count = i32::try_from(rows.len()).unwrap_or(0);
    if count == 0 { 0 } else { SECTION + ROW * count }
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

struct Picture<'a, 'b> {
    area: &'a Area<'b>,
    theme: &'a Theme,
}

impl Picture<'_, '_> {
    fn whole(&self, results: &Results, sections: &[(&str, Vec<&Row>); 2], height: i32) -> Drawn {
        self.area.fill(&self.theme.background)?;
        let title = "MemoryOS beside bare hyper, PostgreSQL and Redis";
        self.text(title, (24, 30), 22, self.theme.text, HPos::Left, true)?;
        let (rounds, seconds) = (results.rounds, results.seconds);
        let (cores, file_system) = (results.machine.cores, &results.machine.file_system);
        let date = results.started.split('T').next().unwrap_or_default();
        let subtitle = format!(
            "Medians of {rounds} rounds of {seconds} s in turn, load generator on the same {cores} cores, {file_system}, {date}"
        );
        self.text(&subtitle, (24, 54), 15, self.theme.muted, HPos::Left, false)?;
        let mut top = HEADING;
        for (heading, rows) in sections {
            if !rows.is_empty() {
                self.section(heading, rows, top)?;
                top += self::height(rows);
            }
        }
        self.legend(height - LEGEND / 2)?;
        self.area.present()?;
        Ok(())
    }

    fn text(
        &self,
        text: &str,
        at: (i32, i32),
        size: i32,
        color: RGBColor,
        anchor: HPos,
        bold: bool,
    ) -> Drawn {
        let weight = if bold {
            FontStyle::Bold
        } else {
            FontStyle::Normal
        };
        let style = TextStyle::from(("sans-serif", size, weight).into_font())
            .color(&color)
            .pos(Pos::new(anchor, VPos::Center));
        self.area.draw(&Text::new(text.to_owned(), at, style))?;
        Ok(())
    }

    fn section(&self, heading: &str, rows: &[&Row], top: i32) -> Drawn {
        self.text(
            heading,
            (24, top + 20),
            16,
            self.theme.text,
            HPos::Left,
            true,
        )?;
        let (first, last) = (top + 36, top + 36 + ROW * i32::try_from(rows.len())?);
        let (end, step) = scale(rows);
        let bars =
            self.area
                .clone()
                .apply_coord_spec(Cartesian2d::<RangedCoordf64, RangedCoordf64>::new(
                    0.0..end,
                    0.0..rows.len() as f64,
                    (BARS.0..BARS.1, first..last),
                ));
        let mut tick = 0.0;
        while tick <= end {
            let (x, _) = bars.map_coordinate(&(tick, 0.0));
            let line = PathElement::new([(x, first), (x, last)], self.theme.grid);
            self.area.draw(&line)?;
            self.text(
                &format!("{tick}"),
                (x, last + 11),
                13,
                self.theme.muted,
                HPos::Center,
                false,
            )?;
            tick += step;
        }
        for (place, row) in rows.iter().enumerate() {
            self.row(row, &bars, place as f64 + 0.5)?;
        }
        Ok(())
    }

    fn row(&self, row: &Row, bars: &Bars<'_>, middle: f64) -> Drawn {
        let theme = self.theme;
        let (_, y) = bars.map_coordinate(&(0.0, middle));
        let (what, against) = (row.what.replace('`', ""), row.against.replace('`', ""));
        let right = BARS.0 - 14;
        self.text(&what, (right, y - 8), 15, theme.text, HPos::Right, false)?;
        let against = format!("beside {against}");
        self.text(
            &against,
            (right, y + 9),
            13,
            theme.muted,
            HPos::Right,
            false,
        )?;
        let values = BARS.1 + 14;
        let Some(Spread { min, median, max }) = row.ratio else {
            return self.text("no result", (values, y), 15, theme.missed, HPos::Left, true);
        };
        let color = match row.met() {
            Some(true) => theme.met,
            Some(false) => theme.missed,
            None => theme.information,
        };
        let x = |ratio: f64| bars.map_coordinate(&(ratio, middle)).0;
        let bar = Rectangle::new([(x(0.0), y - 9), (x(median), y + 9)], color.filled());
        self.area.draw(&bar)?;
        // From the least to the most.
        let thin = theme.text.mix(0.75).stroke_width(1);
        for line in [
            [(x(min), y), (x(max), y)],
            [(x(min), y - 4), (x(min), y + 4)],
            [(x(max), y - 4), (x(max), y + 4)],
        ] {
            self.area.draw(&PathElement::new(line, thin))?;
        }
        if let Some(target) = row.target {
            let mark = [(x(target), y - 15), (x(target), y + 15)];
            self.area
                .draw(&PathElement::new(mark, theme.text.stroke_width(3)))?;
        }
        self.text(
            &format!("{median:.2}"),
            (values, y - 8),
            16,
            theme.text,
            HPos::Left,
            true,
        )?;
        let target = match (row.target, row.measure) {
            (None, _) => "for information".to_owned(),
            (Some(target), Measure::PerSecond) => format!("target: at least {target}"),
            (Some(target), Measure::P99) => format!("target: at most {target}"),
        };
        self.text(&target, (values, y + 9), 13, theme.muted, HPos::Left, false)
    }

    fn legend(&self, y: i32) -> Drawn {
        let theme = self.theme;
        let bars = [
            (theme.met, "target met"),
            (theme.missed, "target missed"),
            (theme.information, "no target"),
        ];
        let mut x = 24;
        for (color, words) in bars {
            let bar = Rectangle::new([(x, y - 6), (x + 22, y + 6)], color.filled());
            self.area.draw(&bar)?;
            self.text(words, (x + 30, y), 14, theme.text, HPos::Left, false)?;
            x += 145;
        }
        let mark = [(x + 4, y - 10), (x + 4, y + 10)];
        self.area
            .draw(&PathElement::new(mark, theme.text.stroke_width(3)))?;
        self.text("target", (x + 16, y), 14, theme.text, HPos::Left, false)?;
        x += 95;
        let thin = theme.text.mix(0.75).stroke_width(1);
        for line in [
            [(x, y), (x + 30, y)],
            [(x, y - 4), (x, y + 4)],
            [(x + 30, y - 4), (x + 30, y + 4)],
        ] {
            self.area.draw(&PathElement::new(line, thin))?;
        }
        self.text(
            "least to most of the rounds",
            (x + 40, y),
            14,
            theme.text,
            HPos::Left,
            false,
        )
    }
}

/// End of the scale and the distance of its lines: everything is inside.
fn scale(rows: &[&Row]) -> (f64, f64) {
    let most = rows
        .iter()
        .flat_map(|row| [row.target, row.ratio.map(|ratio| ratio.max)]);
    let most = most.flatten().fold(1.0, f64::max) * 1.02;
    let steps = [0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
    let step = steps
        .into_iter()
        .find(|step| most / step <= 8.0)
        .unwrap_or(1000.0);
    ((most / step).ceil() * step, step)
}
