//! Opens the database anew in the running process, after a failure that has stopped its writes.
//!
//! sled never writes again once a write has failed, so the way back is a new database on the same
//! files, with the recovery of every start. Order: try whether the disk takes a write at all; from then
//! on no operation begins; those under way end; the old database is closed; its files are written once
//! more, byte for byte; the new one is opened. Requests meanwhile wait for it, or are told to come again.
//!
//! Why the files are written again: after a failed `fdatasync` Linux takes the pages for clean, so what
//! a read shows may not be what the disk holds, and a later `fdatasync` would not say so. `UNSYNCED` in
//! the directory remembers that across the end of the process.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::error::OpenError;
use super::recovery::OnDamage;
use super::{Inner, Store, directory, watchdog};

/// Longest wait for operations under way; those of a poisoned store end by themselves.
const OPERATIONS_WAIT: Duration = Duration::from_secs(30);
/// How often they are looked at.
const OPERATIONS_TICK: Duration = Duration::from_millis(2);

/// How an attempt to open the database anew ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reopened {
    /// There was no need: writes go on.
    NotNeeded,
    /// Not yet: why the disk, or an operation under way, does not let us.
    NotYet(String),
    /// Writes go on; so many writes that the failure had interrupted were settled.
    Settled(u64),
}

impl Store {
    /// Waits until writes are stopped by a failure, now or since the last call.
    pub async fn failed(&self) {
        self.0.alarm.notified().await;
    }

    /// Waits until there is a database, which is at once unless it is being opened anew.
    pub async fn opened(&self) {
        if self.inner().is_ok() {
            return;
        }
        // The sender lives as long as the store.
        let _ = self.0.open.subscribe().wait_for(|open| *open).await;
    }

    /// Opens the database anew if a failure has stopped its writes and the disk takes writes again. Blocks.
    ///
    /// # Errors
    ///
    /// [`OpenError`] if it cannot be opened. The store is of no use then: the process should end.
    pub fn reopen(&self) -> Result<Reopened, OpenError> {
        match self.inner() {
            Ok(inner) if inner.committer.is_poisoned() => {}
            _ => return Ok(Reopened::NotNeeded),
        }
        let directory = Arc::clone(&self.0.directory);
        directory.mark_unsynced();
        if let Err(error) = directory.try_write(self.0.options.reserve_bytes) {
            return Ok(Reopened::NotYet(error.to_string()));
        }
        let Some(old) = self.take_alone() else {
            return Ok(Reopened::NotYet("requests are still under way".to_owned()));
        };
        // The last flush of the old database is one more wait for the disk.
        watchdog::watched(self.0.options.on_hung_disk, || drop(old))
            .map_err(|source| directory::failed(directory.path(), source))?;
        directory.write_again()?;
        let (alarm, options) = (&self.0.alarm, self.0.options);
        let (inner, settled) = Inner::open(&directory, alarm, options, OnDamage::Stop)?;
        directory.mark_synced()?;
        self.put(Some(Arc::new(inner)));
        Ok(Reopened::Settled(settled))
    }

    /// Takes the database away from all operations; gives it back if those under way do not end.
    fn take_alone(&self) -> Option<Inner> {
        let mut inner = self.put(None)?;
        let started = Instant::now();
        loop {
            match Arc::try_unwrap(inner) {
                Ok(inner) => return Some(inner),
                Err(shared) if started.elapsed() >= OPERATIONS_WAIT => {
                    self.put(Some(shared));
                    return None;
                }
                Err(shared) => inner = shared,
            }
            std::thread::sleep(OPERATIONS_TICK);
        }
    }

    fn put(&self, inner: Option<Arc<Inner>>) -> Option<Arc<Inner>> {
        let is_open = inner.is_some();
        let mut slot = self.0.inner.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *slot, inner);
        drop(slot);
        self.0.open.send_replace(is_open);
        old
    }
}

#[cfg(test)]
mod tests;
