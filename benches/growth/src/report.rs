//! The results as Markdown, and beside the targets.

use std::fmt::Write as _;

use crate::results::{Growth, Latency, Operation, Overload, Results, Step, Target, median};

const MB: f64 = 1e6;
/// A number of writers that accepts this share of the peak saturates the server.
const SATURATED: f64 = 0.9;
/// What growth may cost.
const RATIO_MAX: f64 = 1.5;
/// The size that the targets are about.
const MILLION: u64 = 1_000_000;

/// With commas between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn range(values: &[f64]) -> String {
    let (low, high) = extremes(values);
    format!("{:.2} ({low:.2} to {high:.2})", median(values))
}

fn extremes(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    (low, values.iter().copied().fold(0.0, f64::max))
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / MB
}

/// Compares what was measured with the table of targets.
pub fn targets(results: &Results) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut add = |what: String, target: &str, measured: String, met: bool| {
        targets.push(Target {
            what,
            target: target.to_owned(),
            measured,
            met,
        });
    };
    let binary = mb(results.binary_bytes);
    add(
        "size of the binary".into(),
        "< 8 MB",
        format!("{binary:.1} MB"),
        binary < 8.0,
    );
    if let Some(empty) = &results.empty {
        let resident: Vec<f64> = empty
            .resident
            .iter()
            .map(|resident| mb(resident.all))
            .collect();
        let resident = median(&resident);
        let measured = format!("{resident:.1} MB");
        add(
            "resident, idle and empty".into(),
            "< 20 MB",
            measured,
            resident < 20.0,
        );
        let ms = median(&empty.start_ms);
        let (low, high) = extremes(&empty.start_ms);
        let measured = format!("{ms:.0} ms ({low:.0} to {high:.0})");
        add("start, empty".into(), "100 ms", measured, ms <= 100.0);
    }
    if let Some(growth) = &results.memories {
        memory_targets(growth, &mut add);
    }
    if let Some(overload) = &results.overload {
        overload_targets(overload, &mut add);
    }
    targets
}

fn memory_targets(growth: &Growth, add: &mut impl FnMut(String, &str, String, bool)) {
    let Some(size) = growth.sizes.last() else {
        return;
    };
    let count = grouped(size.size);
    let note = if size.size == MILLION {
        ""
    } else {
        " (NOT a million)"
    };
    for (when, resident) in [
        ("after the fill", size.after_fill),
        ("after a restart", size.after_restart),
        ("after reading all of it", size.after_reads),
    ] {
        let measured = mb(resident.all);
        let what = format!("resident, {count} memories{note}, {when}");
        add(
            what,
            "< 200 MB",
            format!("{measured:.0} MB"),
            measured < 200.0,
        );
    }
    let ratio = size.disk.bytes as f64 / size.body_bytes as f64;
    let what = format!("disk, {count} memories{note}, by their body bytes");
    add(what, "4 times", format!("{ratio:.2} times"), ratio <= 4.0);
    for start in &size.starts {
        let (target, max) = if start.after.starts_with("SIGKILL") {
            ("6 s", 6_000.0)
        } else {
            ("2 s", 2_000.0)
        };
        let what = format!("start, {count} memories{note}, after {}", start.after);
        add(
            what,
            target,
            format!("{:.2} s", start.ms / 1e3),
            start.ms <= max,
        );
    }
    for operation in &growth.operations {
        let Some(latency) = operation.sizes.last() else {
            continue;
        };
        let what = format!("{}, {count} memories{note}, by 1,000", operation.name);
        let met = median(&latency.round_ratios) <= RATIO_MAX;
        add(what, "1.5 times", range(&latency.round_ratios), met);
    }
}

/// The fewest writers that saturate the server, and what it accepts at its best.
fn saturation(overload: &Overload) -> Option<(usize, f64)> {
    let rate = |step: &Step| median(&step.accepted_per_second);
    let peak = overload.steps.iter().map(rate).fold(0.0, f64::max);
    let first = overload
        .steps
        .iter()
        .find(|step| rate(step) >= SATURATED * peak)?;
    Some((first.connections, peak))
}

fn overload_targets(overload: &Overload, add: &mut impl FnMut(String, &str, String, bool)) {
    let Some((saturating, peak)) = saturation(overload) else {
        return;
    };
    let beyond: Vec<&Step> = overload
        .steps
        .iter()
        .filter(|step| step.connections >= 4 * saturating)
        .collect();
    for step in &beyond {
        let share = median(&step.accepted_per_second) / peak;
        let what = format!(
            "throughput of {} writers ({saturating} saturate), by the peak",
            grouped(step.connections as u64)
        );
        add(what, "0.80", format!("{share:.2}"), share >= 0.8);
    }
    for step in overload.refusals.iter().filter(|step| step.refused > 0) {
        let what = format!(
            "{} writers, {}: refused with Retry-After",
            grouped(step.connections as u64),
            step.name
        );
        let with = step.refused - step.without_retry_after;
        let measured = format!("{} of {}", grouped(with), grouped(step.refused));
        add(what, "all", measured, step.without_retry_after == 0);
    }
}

/// Everything that a reader wants, as tables.
pub fn markdown(results: &Results) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_all(&mut text, results);
    text
}

fn write_all(text: &mut String, results: &Results) -> std::fmt::Result {
    let machine = &results.machine;
    writeln!(
        text,
        "{}, {}; bench at {}. {}, {} cores, {:.0} GB, {}, {}; load average {} before, {} after; took {:.0} min.\n\
         MB are 10^6 bytes. A memory is a request body of {} bytes, all of its JSON counted.\n",
        machine.date,
        machine.version,
        machine.bench_commit,
        machine.processor,
        machine.cores,
        machine.memory_bytes as f64 / 1e9,
        machine.kernel,
        machine.file_system,
        machine.load_average_before,
        machine.load_average_after,
        machine.took_seconds / 60.0,
        results.settings.body_bytes,
    )?;
    writeln!(
        text,
        "| what | target | measured | |\n| --- | ---: | ---: | --- |"
    )?;
    for target in &results.targets {
        let verdict = if target.met { "met" } else { "**missed**" };
        writeln!(
            text,
            "| {} | {} | {} | {verdict} |",
            target.what, target.target, target.measured
        )?;
    }
    if let Some(growth) = &results.memories {
        write_growth(text, growth, "An account with so many memories", "memories")?;
    }
    if let Some(growth) = &results.accounts {
        write_growth(text, growth, "A database with so many accounts", "accounts")?;
    }
    match &results.overload {
        Some(overload) => write_overload(text, overload),
        None => Ok(()),
    }
}

fn write_growth(text: &mut String, growth: &Growth, title: &str, unit: &str) -> std::fmt::Result {
    writeln!(text, "\n### {title}\n")?;
    writeln!(
        text,
        "Microseconds at one connection, median / p99; in brackets the median by that of {} {unit}: median of \
         the rounds (least to most).\n",
        grouped(growth.base)
    )?;
    write!(text, "| |")?;
    for size in &growth.sizes {
        write!(text, " {} |", grouped(size.size))?;
    }
    writeln!(text, "\n| --- |{}", " ---: |".repeat(growth.sizes.len()))?;
    for Operation { name, sizes } in &growth.operations {
        write!(text, "| {name} |")?;
        for latency in sizes {
            write!(text, " {} |", cell(latency, growth.base))?;
        }
        writeln!(text)?;
    }
    writeln!(
        text,
        "\n| {unit} | filled in | a second | resident after fill / restart / reads (anonymous) | disk | \
         start | stop |\n| ---: | ---: | ---: | ---: | ---: | --- | --- |"
    )?;
    for size in &growth.sizes {
        let resident =
            |of: crate::server::Resident| format!("{:.0} ({:.0})", mb(of.all), mb(of.anonymous));
        let disk = if size.body_bytes == 0 {
            format!(
                "{:.0} bytes each",
                size.disk.bytes as f64 / size.size as f64
            )
        } else {
            format!(
                "{:.2} x bodies",
                size.disk.bytes as f64 / size.body_bytes as f64
            )
        };
        let starts: Vec<String> = size
            .starts
            .iter()
            .map(|start| format!("{:.0} ms after {}", start.ms, start.after))
            .collect();
        let stops: Vec<String> = size.stops_ms.iter().map(|ms| format!("{ms:.0}")).collect();
        writeln!(
            text,
            "| {} | {:.1} s | {:.0} | {} / {} / {} MB | {:.1} MB, {disk} | {} | {} ms |",
            grouped(size.size),
            size.fill_seconds,
            size.size as f64 / size.fill_seconds,
            resident(size.after_fill),
            resident(size.after_restart),
            resident(size.after_reads),
            mb(size.disk.bytes),
            starts.join(", "),
            stops.join(", "),
        )?;
    }
    Ok(())
}

fn cell(latency: &Latency, base: u64) -> String {
    let times = format!("{:.0} / {:.0}", latency.p50_us, latency.p99_us);
    if latency.size == base {
        return times;
    }
    format!("{times} [{}]", range(&latency.round_ratios))
}

fn write_overload(text: &mut String, overload: &Overload) -> std::fmt::Result {
    writeln!(
        text,
        "\n### More and more writers\n\n`POST /memory` without a pause over {} accounts.\n",
        grouped(overload.accounts as u64)
    )?;
    if let Some((saturating, peak)) = saturation(overload) {
        writeln!(
            text,
            "The peak is {} a second; {saturating} writers reach {:.0}% of it, and are taken as those that \
             saturate.\n",
            grouped(peak as u64),
            SATURATED * 100.0,
        )?;
    }
    const HEAD: &str = "| writers | accepted a second (least to most) | p50 / p99 ms | refused a second | refused \
        in p50 / p99 ms | without Retry-After | resident at most (rise) | server's CPU each |\n| ---: | ---: | ---: | ---: \
        | ---: | ---: | ---: | ---: |";
    writeln!(text, "{HEAD}")?;
    for step in &overload.steps {
        write_step(text, step)?;
    }
    let mut name = "";
    for step in &overload.refusals {
        if step.name != name {
            name = &step.name;
            writeln!(text, "\nWhere writes are refused: {name}.\n\n{HEAD}")?;
        }
        write_step(text, step)?;
    }
    for lacking in &overload.lacking {
        writeln!(text, "\n**Not run**: {lacking}.")?;
    }
    Ok(())
}

fn write_step(text: &mut String, step: &Step) -> std::fmt::Result {
    let (low, high) = extremes(&step.accepted_per_second);
    writeln!(
        text,
        "| {} | {:.0} ({low:.0} to {high:.0}) | {:.1} / {:.1} | {:.0} | {:.2} / {:.2} | {} | {:.0} ({:.0}) MB | {:.0} us |",
        grouped(step.connections as u64),
        median(&step.accepted_per_second),
        step.p50_ms,
        step.p99_ms,
        median(&step.refused_per_second),
        step.refused_p50_ms,
        step.refused_p99_ms,
        step.without_retry_after,
        mb(step.resident_max.all),
        mb(step.resident_rise),
        step.cpu_us,
    )
}
