//! What is measured, as it is written to JSON.

use serde::{Deserialize, Serialize};

use crate::server::{Disk, Resident};

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Results {
    pub machine: Machine,
    pub settings: Settings,
    pub binary_bytes: u64,
    pub empty: Option<Empty>,
    /// An account with more and more memories.
    pub memories: Option<Growth>,
    /// A database with more and more accounts.
    pub accounts: Option<Growth>,
    pub overload: Option<Overload>,
    pub targets: Vec<Target>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    pub date: String,
    /// What `memoryos --version` says: release and commit.
    pub version: String,
    /// The commit of the bench itself, `+` if its tree had changes.
    pub bench_commit: String,
    pub processor: String,
    pub cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    pub file_system: String,
    pub load_average_before: String,
    pub load_average_after: String,
    pub took_seconds: f64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Settings {
    pub body_bytes: usize,
    pub memories: Vec<u64>,
    pub accounts: Vec<u64>,
    pub rounds: usize,
    pub requests_per_round: usize,
    pub writes_per_round: usize,
    pub overload_connections: Vec<usize>,
    pub overload_seconds: f64,
    pub overload_rounds: usize,
}

/// A server with an empty directory.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Empty {
    /// Milliseconds from spawn to the first 200 of `/health`; a new directory each time.
    pub start_ms: Vec<f64>,
    pub stop_ms: Vec<f64>,
    /// After two idle seconds.
    pub resident: Vec<Resident>,
    pub disk: Disk,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Growth {
    /// The size that others are compared with.
    pub base: u64,
    pub sizes: Vec<Size>,
    pub operations: Vec<Operation>,
}

/// The resources of one size.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Size {
    pub size: u64,
    pub fill_seconds: f64,
    pub after_fill: Resident,
    pub after_restart: Resident,
    pub after_reads: Resident,
    pub disk: Disk,
    /// Of all bodies of memories that were sent.
    pub body_bytes: u64,
    pub starts: Vec<Start>,
    pub stops_ms: Vec<f64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Start {
    /// How the process before it ended.
    pub after: String,
    pub ms: f64,
    pub disk_bytes: u64,
}

/// An operation at each size.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Operation {
    pub name: String,
    pub sizes: Vec<Latency>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    pub size: u64,
    pub requests: usize,
    pub p50_us: f64,
    pub p99_us: f64,
    pub round_p50_us: Vec<f64>,
    pub round_p99_us: Vec<f64>,
    /// The medians of each round, divided by those of the base in the same round.
    pub round_ratios: Vec<f64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Overload {
    pub accounts: usize,
    pub steps: Vec<Step>,
    /// Where writes are refused.
    pub refusals: Vec<Step>,
    /// What could not be run, and why.
    pub lacking: Vec<String>,
}

/// A number of connections that write without a pause.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Step {
    pub name: String,
    pub connections: usize,
    /// 201s a second, a number for each round.
    pub accepted_per_second: Vec<f64>,
    pub refused_per_second: Vec<f64>,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub refused: u64,
    pub without_retry_after: u64,
    pub refused_p50_ms: f64,
    pub refused_p99_ms: f64,
    /// Highest of samples every 50 ms, over all rounds.
    pub resident_max: Resident,
    /// The most, over the rounds, by which that was above what it was before the connections were opened.
    #[serde(default)]
    pub resident_rise: u64,
    /// Processor time of the server for each 201, in microseconds.
    pub cpu_us: f64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Target {
    pub what: String,
    pub target: String,
    pub measured: String,
    pub met: bool,
}

/// The value below which this share of the sorted values lies.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    if sorted.is_empty() {
        return 0.0;
    }
    let at = (share * (sorted.len() - 1) as f64).round() as usize;
    sorted[at.min(sorted.len() - 1)]
}

pub fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let values = sorted(values.to_vec());
    let half = values.len() / 2;
    match values.len() {
        0 => 0.0,
        length if length % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}

/// The latencies of one operation, while they are collected: by size, by round.
pub struct Collector {
    name: &'static str,
    samples: Vec<Vec<Vec<f64>>>,
}

impl Collector {
    pub fn new(name: &'static str, sizes: usize) -> Self {
        Self {
            name,
            samples: vec![Vec::new(); sizes],
        }
    }

    pub fn begin_round(&mut self) {
        for rounds in &mut self.samples {
            rounds.push(Vec::new());
        }
    }

    pub fn add(&mut self, size: usize, took: std::time::Duration) {
        if let Some(round) = self.samples[size].last_mut() {
            round.push(took.as_secs_f64() * 1e6);
        }
    }

    pub fn finish(self, sizes: &[u64], base: usize) -> Operation {
        let samples: Vec<Vec<Vec<f64>>> = self
            .samples
            .into_iter()
            .map(|rounds| rounds.into_iter().map(sorted).collect())
            .collect();
        let medians = |rounds: &[Vec<f64>], share| -> Vec<f64> {
            rounds
                .iter()
                .map(|round| percentile(round, share))
                .collect()
        };
        let base_medians = medians(&samples[base], 0.5);
        let latency = |(rounds, size): (&Vec<Vec<f64>>, &u64)| {
            let all = sorted(rounds.concat());
            let round_p50_us = medians(rounds, 0.5);
            let ratios = round_p50_us.iter().zip(&base_medians);
            Latency {
                size: *size,
                requests: all.len(),
                p50_us: percentile(&all, 0.5),
                p99_us: percentile(&all, 0.99),
                round_ratios: ratios.map(|(this, base)| this / base).collect(),
                round_p99_us: medians(rounds, 0.99),
                round_p50_us,
            }
        };
        Operation {
            name: self.name.to_owned(),
            sizes: samples.iter().zip(sizes).map(latency).collect(),
        }
    }
}
