//! Simulation: the real use cases and the real store beside a model, by seed, with a clock that the run
//! moves, and crashes.
//!
//! `cargo test --test simulation` runs as many seeds as fit in four minutes, at least 200. Settings:
//! `SIM_SEED=17` runs that one, `SIM_SEEDS=2000` that many from `SIM_FIRST` (0) on, `SIM_MINUTES` sets the
//! time. What a seed does is the same each time: operations, answers, clock. Not the same are the bytes of
//! ids and secrets, which come from the operating system, and so where exactly a torn write is torn.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::disallowed_methods,
    reason = "a test that meets what it does not expect has to fail at once"
)]

mod audit;
mod calendar;
mod image;
mod model;
mod offer;
mod operations;
mod random;
mod sim;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sim::{Figures, Sim};

/// Seeds that a run without settings does, however long they take.
const SEEDS_MIN: u64 = 200;
/// How long it goes on with more.
const MINUTES: f64 = 4.0;

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
    )
}

/// Says something although the test's output is kept back.
fn say(text: &str) {
    let mut out = std::io::stderr().lock();
    writeln!(out, "{text}").unwrap();
}

/// Runs one seed; the error is the whole report of a failure.
fn run(seed: u64) -> Result<Figures, String> {
    let mut sim = Sim::new(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(sim.run())));
    let what = match outcome {
        Ok(Ok(())) => return Ok(sim.figures),
        Ok(Err(what)) => what,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            format!("panic: {}", text.unwrap_or("without a text"))
        }
    };
    let history: Vec<&str> = sim.history.iter().map(String::as_str).collect();
    let (step, history) = (sim.step, history.join("\n"));
    let directory = sim.keep();
    Err(format!(
        "\nSEED {seed}, step {step}: {what}\nthe last operations, the failed one last:\n{history}\nits data \
         directory: {directory}\nagain: SIM_SEED={seed} cargo test --test simulation\n"
    ))
}

/// Shows that after every step, crash and restart the service has answered as the model does, and that
/// its store holds what the model holds.
#[test]
fn the_service_does_what_the_model_does() {
    let one: Option<u64> = setting("SIM_SEED");
    let first = one.or_else(|| setting("SIM_FIRST")).unwrap_or(0);
    let count: Option<u64> = one.map(|_| 1).or_else(|| setting("SIM_SEEDS"));
    let minutes: f64 = setting("SIM_MINUTES").unwrap_or(MINUTES);
    let budget = Duration::from_secs_f64(minutes * 60.0);
    let started = Instant::now();
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let total = Mutex::new((0u64, Figures::default(), Vec::new()));
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let enough = count.map_or(n >= SEEDS_MIN && started.elapsed() >= budget, |c| n >= c);
            if enough || failed.load(Ordering::Relaxed) {
                return;
            }
            let outcome = run(first + n);
            let mut total = total.lock().unwrap();
            total.0 += 1;
            match outcome {
                Ok(figures) => total.1.add(&figures),
                Err(report) => {
                    failed.store(true, Ordering::Relaxed);
                    total.2.push(report);
                }
            }
            if total.0 % 100 == 0 {
                say(&format!("{} seeds in {:?}", total.0, started.elapsed()));
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let (seeds, figures, failures) = total.into_inner().unwrap();
    let operations: u64 = figures.operations.values().sum();
    say(&format!(
        "simulation: {seeds} seeds from {first}, {operations} operations in {:.0?}, {} failed\n\
         operations {:?}\nanswers {:?}\nreopened {}, crashes {} ({} torn writes, {} torn recoveries: {:?}), writes settled on \
         open {}, reads' debits lost {}, cycles begun {}, addresses of erased accounts taken again {}",
        started.elapsed(),
        failures.len(),
        figures.operations,
        figures.answers,
        figures.reopened,
        figures.crashes,
        figures.torn,
        figures.recoveries,
        figures.outcomes,
        figures.settled,
        figures.debits_lost,
        figures.cycles,
        figures.afresh,
    ));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
