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

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::OpenError;
use super::recovery::OnDamage;
use super::watchdog::TICKS_MAX;
use super::{Inner, State, Store, directory, watchdog};

/// Longest wait for operations under way; those of a poisoned store end by themselves.
const OPERATIONS_WAIT: Duration = Duration::from_secs(30);
/// Bytes of the database for each of which opening it may take a tick more.
const BYTES_A_TICK: u64 = 32 << 20;
/// How often they are looked at.
const OPERATIONS_TICK: Duration = Duration::from_millis(2);

/// How an attempt to open the database anew ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reopened {
    /// There was no need: writes go on.
    NotNeeded,
    /// Not yet: why the disk, or an operation under way, does not let us. Reads go on.
    NotYet(String),
    /// The old database is closed and the disk did not let us open the new one: nothing goes on.
    Closed(String),
    /// Writes go on; so many writes that the failure had interrupted were settled.
    Settled(u64),
}

impl Store {
    /// Waits until writes are stopped by a failure, now or since the last call.
    pub async fn failed(&self) {
        self.0.alarm.notified().await;
    }

    /// Says whether there is a database.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.look().is_ok()
    }

    /// Waits while the database is being opened anew. Returns at once if it is open, or could not be opened.
    pub async fn opened(&self) {
        if self.inner().is_ok() {
            return;
        }
        let mut state = self.0.state.subscribe();
        // The sender lives as long as the store.
        let _ = state.wait_for(|state| *state != State::Opening).await;
    }

    /// Opens the database anew if a failure has stopped its writes and the disk takes writes again. Blocks.
    /// To be called again after [`Reopened::NotYet`] and [`Reopened::Closed`].
    ///
    /// # Errors
    ///
    /// [`OpenError`] if it cannot be opened whatever the disk does: the process should end.
    pub fn reopen(&self) -> Result<Reopened, OpenError> {
        if self
            .inner()
            .is_ok_and(|inner| !inner.committer.is_poisoned())
        {
            return Ok(Reopened::NotNeeded);
        }
        let directory = &self.0.directory;
        let reserve_bytes = self.0.options.reserve_bytes;
        let tried = self.watched("a trial write", TICKS_MAX, || {
            directory.mark_unsynced();
            directory.try_write(reserve_bytes)
        });
        if let Err(error) = tried {
            return Ok(self.not_yet(error.to_string()));
        }
        // After an attempt that ended with it closed there is no old one.
        if self.inner().is_ok() {
            let Some(old) = self.take_alone() else {
                return Ok(self.not_yet("requests are still under way".to_owned()));
            };
            // Its last flush is one more wait for the disk.
            let closed = self.watched("closing the database", TICKS_MAX, || {
                drop(old);
                Ok(())
            });
            closed.map_err(|error| directory::failed(directory.path(), error))?;
        }
        match self.open_again() {
            Ok(settled) => Ok(Reopened::Settled(settled)),
            Err(error) => {
                self.0.state.send_replace(State::Closed);
                if error.is_disk_failure() {
                    Ok(Reopened::Closed(error.to_string()))
                } else {
                    Err(error)
                }
            }
        }
    }

    fn not_yet(&self, why: String) -> Reopened {
        match self.inner() {
            Ok(_) => Reopened::NotYet(why),
            Err(_) => Reopened::Closed(why),
        }
    }

    /// Writes the files again and opens them.
    fn open_again(&self) -> Result<u64, OpenError> {
        let directory = &self.0.directory;
        // Both read the whole log at the most.
        let more = directory.database_bytes() / BYTES_A_TICK;
        let ticks_max = TICKS_MAX.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        let opened = self.watched("opening the database anew", ticks_max, || {
            let opened = directory.write_again().and_then(|()| {
                let (alarm, options) = (&self.0.alarm, self.0.options);
                let catalog = Some(self.0.catalog);
                let opened = Inner::open(directory, alarm, options, catalog, OnDamage::Stop)?;
                directory.mark_synced()?;
                Ok(opened)
            });
            Ok(opened)
        });
        let failed = |error| directory::failed(directory.path(), error);
        let (inner, settled) = opened.map_err(failed)??;
        self.put(Some(Arc::new(inner)), State::Open);
        Ok(settled)
    }

    fn watched<T>(
        &self,
        what: &'static str,
        ticks_max: u32,
        work: impl FnOnce() -> std::io::Result<T>,
    ) -> std::io::Result<T> {
        watchdog::watched(what, ticks_max, self.0.options.on_hung_disk, work)?
    }

    /// Takes the database away from all operations; gives it back if those under way do not end.
    fn take_alone(&self) -> Option<Inner> {
        let mut inner = self.put(None, State::Opening)?;
        let started = Instant::now();
        loop {
            match Arc::try_unwrap(inner) {
                Ok(inner) => return Some(inner),
                Err(shared) if started.elapsed() >= OPERATIONS_WAIT => {
                    self.put(Some(shared), State::Open);
                    return None;
                }
                Err(shared) => inner = shared,
            }
            std::thread::sleep(OPERATIONS_TICK);
        }
    }

    fn put(&self, inner: Option<Arc<Inner>>, state: State) -> Option<Arc<Inner>> {
        let old = self.0.inner.swap(inner);
        self.0.state.send_replace(state);
        old
    }
}

#[cfg(test)]
mod tests;
