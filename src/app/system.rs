//! How the service is, and what an account's memories are about.

use crate::domain::plan::Operation;
use crate::domain::time::Timestamp;
use crate::store::{Debited, Principal, Stats};

use super::{App, Failure};

/// Free space under which the service is degraded at least: writes go on, but somebody should look.
const FREE_BYTES_LOW: u64 = 512 << 20;

/// The state of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthStatus {
    /// All is well.
    Healthy,
    /// Writes go on, but little free space is left.
    Degraded,
    /// Writes are stopped.
    Unhealthy,
}

impl HealthStatus {
    /// Returns the word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What `/health` tells.
#[derive(Clone, Copy, Debug)]
pub struct HealthReport {
    /// In one word.
    pub status: HealthStatus,
    /// Whether there is enough free space.
    pub enough_space: bool,
    /// The store's own figures.
    pub store: crate::store::Health,
    /// Seconds since the start.
    pub uptime_seconds: u64,
}

/// What `/stats` tells.
#[derive(Debug)]
pub struct StatsReport {
    /// The aggregates.
    pub stats: Stats,
    /// The newest memory as clients get it.
    pub newest: Option<String>,
    /// What it cost.
    pub debited: Debited,
    /// The time of the answer.
    pub now: Timestamp,
}

impl App {
    /// Returns how the service is.
    #[must_use]
    pub fn health(&self) -> HealthReport {
        let store = self.store().health();
        // Twice the reserve, so that there is a warning before writes stop.
        let low = FREE_BYTES_LOW.max(store.reserve_bytes.saturating_mul(2));
        let enough_space = store.free_bytes.is_none_or(|free| free >= low);
        let status = match (store.readable && store.writable, enough_space) {
            (false, _) => HealthStatus::Unhealthy,
            (true, false) => HealthStatus::Degraded,
            (true, true) => HealthStatus::Healthy,
        };
        HealthReport {
            status,
            enough_space,
            store,
            uptime_seconds: self.0.started.elapsed().as_secs(),
        }
    }

    /// Returns the aggregates of an account's memories.
    ///
    /// # Errors
    ///
    /// [`Failure::OutOfCredits`].
    pub async fn stats(&self, principal: &Principal) -> Result<StatsReport, Failure> {
        let now = self.now();
        self.affordable(principal, Operation::Stats, now)?;
        let stats = self.store().stats(principal.account).await?;
        let newest = self.store().newest_memory(principal.account)?;
        let debited = self.debit(principal, Operation::Stats, now).await?;
        Ok(StatsReport {
            stats,
            newest,
            debited,
            now,
        })
    }

    /// Returns how many memories an account holds, the newest one, and what asking cost.
    ///
    /// # Errors
    ///
    /// [`Failure::OutOfCredits`].
    pub async fn gpt_status(
        &self,
        principal: &Principal,
    ) -> Result<(u64, Option<String>, Debited, Timestamp), Failure> {
        let now = self.now();
        let held = self.affordable(principal, Operation::GptStatus, now)?;
        let newest = self.store().newest_memory(principal.account)?;
        let debited = self.debit(principal, Operation::GptStatus, now).await?;
        Ok((held, newest, debited, now))
    }
}
