//! What a run came to: the types of the JSON, and ratios.

use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// One run of `compare`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    /// Start of the run, RFC 3339 in UTC.
    pub started: String,
    /// End of the run.
    pub ended: String,
    /// Command line of `compare`.
    pub command: String,
    /// Rounds of each side.
    pub rounds: usize,
    /// Seconds of each round.
    pub seconds: u64,
    /// Accounts, each with one key.
    pub accounts: usize,
    /// Memories of 300 bytes of each account at the start.
    pub memories_each: usize,
    /// Threads of wrk, and the requests a second of the reference that chose them.
    pub wrk_threads: WrkThreads,
    /// Where it ran.
    pub machine: Machine,
    /// Load averages (1, 5 and 15 minutes) before and after: others at work make a run worthless.
    pub load_average: [String; 2],
    /// `memoryos --version`, with its commit, and those of the rest.
    pub versions: Vec<(String, String)>,
    /// What was measured, and what was not.
    pub rows: Vec<Row>,
}

/// How many threads wrk ran with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WrkThreads {
    /// As many as gave the reference the most.
    pub threads: u64,
    /// (threads, requests a second of the reference), if they were tried.
    pub tried: Vec<(u64, f64)>,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// Short name.
    pub id: String,
    /// What of MemoryOS.
    pub what: String,
    /// Against what.
    pub against: String,
    /// What of a round is compared.
    pub measure: Measure,
    /// What the ratio shall be; none if it is for information.
    pub target: Option<f64>,
    /// Rounds of the first, in the order they ran.
    pub ours: Vec<Round>,
    /// Rounds of the second; each ran right after the same one of the first, or after another side's.
    pub theirs: Vec<Round>,
    /// Ratios of the pairs of rounds; none if the row was not measured, or is not valid.
    pub ratio: Option<Spread>,
    /// Why it was not measured, or is not valid.
    pub faults: Vec<String>,
}

/// What of a round is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// More is better; the target is the least.
    PerSecond,
    /// Less is better; the target is the most.
    P99,
}

/// One round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Round {
    /// Operations a second.
    pub per_second: f64,
    /// Operations.
    pub requests: u64,
    /// How long it took.
    pub seconds: f64,
    /// Bytes of an answer, headers included.
    pub bytes_per_answer: Option<f64>,
    /// Median latency.
    pub p50_ms: Option<f64>,
    /// Latency that 1 in 100 exceeds.
    pub p99_ms: Option<f64>,
    /// Longest latency.
    pub max_ms: Option<f64>,
    /// Processor time of the server for each operation: steadier than clocks where others are at work.
    pub cpu_us: Option<f64>,
    /// What a write of 4 KiB with its flush took right before: the disk of some machines has two speeds, and a ratio of rounds
    /// that met different ones says nothing.
    pub flush_ms: Option<f64>,
    /// What makes it worthless.
    pub faults: Vec<String>,
}

impl Round {
    /// What is compared of it.
    #[must_use]
    pub fn value(&self, measure: Measure) -> f64 {
        match measure {
            Measure::PerSecond => self.per_second,
            Measure::P99 => self.p99_ms.unwrap_or(f64::NAN),
        }
    }
}

/// Smallest, middle and largest of some numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Smallest.
    pub min: f64,
    /// Middle; the mean of the two in the middle of an even number.
    pub median: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of some numbers; none if there are none, or one is no number.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        if values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (
            values.get((values.len() - 1) / 2)?,
            values.get(values.len() / 2)?,
        );
        Some(Spread {
            min,
            median: f64::midpoint(*low, *high),
            max,
        })
    }
}

impl Row {
    /// Reckons the ratio from the rounds; a fault of any round is one of the row.
    #[must_use]
    pub fn settled(mut self) -> Self {
        let rounds = self.ours.iter().chain(&self.theirs);
        let faults = rounds.flat_map(|round| round.faults.iter().cloned());
        self.faults.extend(faults.collect::<Vec<_>>());
        if self.faults.is_empty() {
            let pairs = self.ours.iter().zip(&self.theirs);
            let ratios =
                pairs.map(|(ours, theirs)| ours.value(self.measure) / theirs.value(self.measure));
            self.ratio = Spread::of(ratios.collect());
            if self.ratio.is_none() {
                self.faults
                    .push("no ratio: a round came to nothing".to_owned());
            }
        }
        self
    }

    /// Whether the median meets the target, if there are both.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        let (ratio, target) = (self.ratio?.median, self.target?);
        Some(match self.measure {
            Measure::PerSecond => ratio >= target,
            Measure::P99 => ratio <= target,
        })
    }

    /// The median of one side's rounds.
    #[must_use]
    pub fn median(&self, rounds: &[Round]) -> Option<f64> {
        let values = rounds.iter().map(|round| round.value(self.measure));
        Some(Spread::of(values.collect())?.median)
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    /// Shows the middle of odd and even numbers of values, and that no number is no result.
    #[test]
    fn spread_has_the_middle() {
        let middle = |values: &[f64]| Spread::of(values.to_vec()).map(|spread| spread.median);
        assert_eq!(middle(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(middle(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(middle(&[]), None);
        assert_eq!(middle(&[1.0, f64::NAN]), None);
    }
}
