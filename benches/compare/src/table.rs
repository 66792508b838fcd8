//! The README's table.

use crate::results::{Measure, Results, Row, Spread};

/// Where, when and how, and a row each.
#[must_use]
pub fn markdown(results: &Results) -> String {
    let mut text = format!("{}\n\n", caption(results));
    text += "| MemoryOS | does | beside | does | ratio: median (min to max) | target |\n";
    text += "| --- | ---: | --- | ---: | ---: | ---: |\n";
    for row in &results.rows {
        text += &line(row);
    }
    text
}

fn caption(results: &Results) -> String {
    let machine = &results.machine;
    let versions = |name: &str| {
        let version = results.versions.iter().find(|(of, _)| of == name);
        version.map_or("unknown", |(_, version)| version)
    };
    format!(
        "By `benches/compare/run` on {}: `{}`, {} rounds of {} s in turn, {} accounts, load generator on the same {} cores ({}), \
         Linux {}, {}; load average {} before, {} after.",
        results.started.split('T').next().unwrap_or_default(),
        versions("memoryos"),
        results.rounds,
        results.seconds,
        thousands(results.accounts as f64),
        machine.cores,
        machine.processor,
        machine.kernel,
        machine.file_system,
        first(&results.load_average[0]),
        first(&results.load_average[1]),
    )
}

fn first(load_average: &str) -> &str {
    load_average.split(' ').next().unwrap_or_default()
}

fn line(row: &Row) -> String {
    let value = |rounds| {
        let value = row.median(rounds);
        value.map_or(String::new(), |value| shown(row.measure, value))
    };
    let ratio = row.ratio.map_or_else(
        || format!("**no result**: {}", row.faults.join("; ")),
        |Spread { min, median, max }| format!("**{median:.2}** ({min:.2} to {max:.2})"),
    );
    format!(
        "| {} | {} | {} | {} | {ratio} | {} |\n",
        row.what,
        value(&row.ours),
        row.against,
        value(&row.theirs),
        target(row),
    )
}

fn shown(measure: Measure, value: f64) -> String {
    match measure {
        Measure::PerSecond => format!("{}/s", thousands(value)),
        Measure::P99 => format!("{value:.1} ms"),
    }
}

/// The target in words, and whether it is missed.
#[must_use]
pub fn target(row: &Row) -> String {
    let Some(target) = row.target else {
        return "none".to_owned();
    };
    let bound = match row.measure {
        Measure::PerSecond => "at least",
        Measure::P99 => "at most",
    };
    let missed = match row.met() {
        Some(false) => ", missed",
        Some(true) | None => "",
    };
    format!("{bound} {target}{missed}")
}

/// A count with commas.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut shown = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// The picture in both versions; `folder` is theirs, from where the text is.
#[must_use]
pub fn picture(results: &Results, folder: &str) -> String {
    let words = results.rows.iter().filter_map(|row| {
        let against = row.against.split(',').next().unwrap_or_default();
        let words = format!("{} beside {against}", row.what).replace('`', "");
        Some(format!("{words}: {:.2}", row.ratio?.median))
    });
    let words = words.collect::<Vec<_>>().join("; ");
    format!(
        "<picture>\n  <source media=\"(prefers-color-scheme: dark)\" srcset=\"{folder}/compare-dark.svg\">\n  \
         <img src=\"{folder}/compare-light.svg\" alt=\"Bars of the ratios in the table. {words}\">\n</picture>"
    )
}

#[cfg(test)]
mod tests {
    use super::thousands;

    /// Shows where commas go.
    #[test]
    fn thousands_have_commas() {
        let shown = [0.4, 999.0, 1000.0, 23_456.7, 1_234_567.0].map(thousands);
        assert_eq!(shown, ["0", "999", "1,000", "23,457", "1,234,567"]);
    }
}
