//! Rounds in turn: A B A B, so that what the machine does meanwhile meets both alike.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::results::{Measure, Round, Row};
use crate::{machine, process};

/// One of those that are measured in turn.
pub struct Side<'a> {
    /// Its name, for who watches.
    pub name: String,
    /// Runs a round of so many seconds.
    pub run: Box<dyn FnMut(u64) -> Result<Round> + 'a>,
}

impl<'a> Side<'a> {
    /// A side with a name.
    pub fn new(name: impl Into<String>, run: impl FnMut(u64) -> Result<Round> + 'a) -> Self {
        let (name, run) = (name.into(), Box::new(run));
        Side { name, run }
    }
}

/// How often, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Rounds<'a> {
    /// Where the disk is tried before each round.
    pub directory: &'a Path,
    /// Rounds of each side.
    pub rounds: usize,
    /// Seconds of each.
    pub seconds: u64,
}

impl Rounds<'_> {
    /// Runs a round of a second of each side that does not count, then all that do, in turn. A side that fails is out,
    /// and its result is the error.
    pub fn in_turn(self, mut sides: Vec<Side<'_>>) -> Result<Vec<Result<Vec<Round>>>> {
        let mut measured: Vec<_> = sides.iter().map(|_| Ok(Vec::new())).collect();
        for number in 0..=self.rounds {
            for (side, rounds) in sides.iter_mut().zip(&mut measured) {
                let Ok(done) = rounds else { continue };
                settle()?;
                let flush_ms = machine::flush_ms(self.directory)?;
                let seconds = if number == 0 { 1 } else { self.seconds };
                let round = (side.run)(seconds);
                process::check_interrupted()?;
                match round {
                    Ok(round) if number == 0 => drop(round),
                    Ok(mut round) => {
                        round.flush_ms = Some(flush_ms);
                        eprintln!(
                            "  {number}/{} {:<44} {}",
                            self.rounds,
                            side.name,
                            shown(&round)
                        );
                        done.push(round);
                    }
                    Err(error) => {
                        eprintln!("  {}: {error:#}", side.name);
                        *rounds = Err(error);
                    }
                }
            }
        }
        Ok(measured)
    }
}

fn shown(round: &Round) -> String {
    let mut shown = format!("{:>9.0}/s", round.per_second);
    if let Some(p99) = round.p99_ms {
        shown += &format!("  p99 {p99:>8.2} ms");
    }
    if let Some(cpu) = round.cpu_us {
        shown += &format!("  cpu {cpu:>5.0} us");
    }
    if let Some(flush) = round.flush_ms {
        shown += &format!("  (flush {flush:.2} ms)");
    }
    for fault in &round.faults {
        shown += &format!("  INVALID: {fault}");
    }
    shown
}

/// Lets the kernel write what the round before left, so that the next one does not pay for it.
fn settle() -> Result<()> {
    process::run(&mut Command::new("sync"), Duration::from_secs(120))?;
    process::pause(Duration::from_millis(200))
}

/// What a row is, before it is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Short name, for `--only` and the JSON.
    pub id: &'static str,
    /// What of MemoryOS.
    pub what: &'static str,
    /// Against what.
    pub against: &'static str,
    /// What is compared.
    pub measure: Measure,
    /// What the ratio shall be.
    pub target: Option<f64>,
}

impl Plan {
    /// The row, if both sides have been measured.
    #[must_use]
    pub fn row(self, ours: &Result<Vec<Round>>, theirs: &Result<Vec<Round>>) -> Row {
        let mut row = self.empty();
        for (side, into) in [(ours, &mut row.ours), (theirs, &mut row.theirs)] {
            match side {
                Ok(rounds) => into.clone_from(rounds),
                Err(error) => row.faults.push(format!("{error:#}")),
            }
        }
        row.settled()
    }

    /// The row, if it was not measured.
    #[must_use]
    pub fn missing(self, why: &str) -> Row {
        let error = || Err(anyhow!("not measured: {why}"));
        self.row(&error(), &Ok(Vec::new()))
    }

    fn empty(self) -> Row {
        Row {
            id: self.id.to_owned(),
            what: self.what.to_owned(),
            against: self.against.to_owned(),
            measure: self.measure,
            target: self.target,
            ours: Vec::new(),
            theirs: Vec::new(),
            ratio: None,
            faults: Vec::new(),
        }
    }
}
