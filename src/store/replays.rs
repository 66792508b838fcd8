//! Answers recorded under an `Idempotency-Key`, for 24 hours.

use crate::domain::account::AccountKey;
use crate::domain::time::Timestamp;

use super::codec::{decode_borrowed, encode, versioned};
use super::pieces::{self, INLINE_BYTES_MAX, Owner};
use super::schema::{ReplayRecord, part, replay_key, replay_time_key};
use super::{Inner, Store, StoreError};

/// How long an answer is kept, in seconds.
const KEPT_SECONDS: i64 = 24 * 3_600;
/// Most records removed in one sweep.
const SWEEP_MAX: usize = 10_000;

/// A request that carries an `Idempotency-Key`; while it lives, no other with the same key is answered.
#[derive(Debug)]
pub struct Replay {
    /// Hash of the client's key: names the record within the account.
    pub key: [u8; 16],
    /// Hash of the operation and the request's body.
    pub fingerprint: [u8; 32],
    store: Store,
    entry: [u8; 32],
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.store.0.in_flight().remove(&self.entry);
    }
}

/// Why a request with an `Idempotency-Key` goes no further.
#[derive(Debug, thiserror::Error)]
pub enum ReplayRefusal {
    /// Another request with the same key is being answered.
    #[error("a request with this idempotency key is being answered")]
    InFlight,
    /// The key was used with another body.
    #[error("the idempotency key was used with another body")]
    Reused,
    /// It was answered before: this is the answer.
    #[error("answered before")]
    Answered {
        /// The status.
        status: u16,
        /// The body.
        body: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Begins a request with an `Idempotency-Key`.
    ///
    /// # Errors
    ///
    /// [`ReplayRefusal`]. A recorded answer is on the disk when it is returned.
    pub async fn begin_replay(
        &self,
        account: AccountKey,
        key: [u8; 16],
        fingerprint: [u8; 32],
        now: Timestamp,
    ) -> Result<Replay, ReplayRefusal> {
        let inner = self.inner()?;
        let ticket = inner.admit()?;
        let entry = replay_key(account, key);
        if !self.0.in_flight().insert(entry) {
            return Err(ReplayRefusal::InFlight);
        }
        let replay = Replay {
            key,
            fingerprint,
            store: self.clone(),
            entry,
        };
        let Some(bytes) = inner.trees.replays.get(entry).map_err(StoreError::from)? else {
            return Ok(replay);
        };
        let record: ReplayRecord<'_> = decode_borrowed(&bytes)?;
        if expired(record.recorded_at, now) {
            return Ok(replay);
        }
        if record.fingerprint != fingerprint {
            return Err(ReplayRefusal::Reused);
        }
        let body = if record.pieces == 0 {
            record.body.to_owned()
        } else {
            let owner = Owner::replay(entry);
            let body = pieces::read(&inner.trees.pieces, owner, record.revision, record.pieces)?;
            // Gone: the sweep has just taken the record for expired, and so it is.
            let Some(body) = body else { return Ok(replay) };
            String::from_utf8(body)
                .map_err(|_| StoreError::Corrupt("a recorded answer is no text".to_owned()))?
        };
        // The first request may have been dropped before its own flush ended.
        ticket.commit().await?;
        Err(ReplayRefusal::Answered {
            status: record.status,
            body,
        })
    }

    /// Removes answers that are older than 24 hours, 10,000 at most. Returns how many.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if a record cannot be read or removed.
    pub async fn sweep_replays(&self, now: Timestamp) -> Result<usize, StoreError> {
        let inner = self.inner()?;
        let mut removed = 0usize;
        let ticket = inner.admit()?;
        for entry in inner.trees.replay_times.iter().keys().take(SWEEP_MAX) {
            let entry = entry?;
            let at = part::<8>(&entry, 0).map_or(0, i64::from_be_bytes);
            if !expired(Timestamp::from_micros(at), now) {
                break;
            }
            let (Some(account), Some(key)) = (part(&entry, 8), part::<32>(&entry, 8)) else {
                continue;
            };
            let alone = inner.locks.alone(AccountKey(account)).await;
            inner.remove_replay_if(key, |recorded_at| expired(recorded_at, now))?;
            inner.trees.replay_times.remove(entry)?;
            drop(alone);
            removed = removed.saturating_add(1);
        }
        if removed > 0 {
            ticket.commit().await?;
        }
        Ok(removed)
    }
}

impl Inner {
    /// Records an answer, before the memory that it tells of.
    pub(super) fn record_replay(
        &self,
        account: AccountKey,
        replay: &Replay,
        revision: u64,
        status: u16,
        body: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let key = replay_key(account, replay.key);
        let owner = Owner::replay(key);
        self.trees
            .replay_times
            .insert(replay_time_key(now, key), versioned(&[]))?;
        let fingerprint = replay.fingerprint;
        let mut record = ReplayRecord {
            fingerprint,
            status,
            recorded_at: now,
            revision,
            pieces: 0,
            body,
        };
        if body.len() > INLINE_BYTES_MAX {
            record.pieces = pieces::write(&self.trees.pieces, owner, revision, body.as_bytes())?;
            record.body = "";
        }
        let had_one = self.trees.replays.insert(key, encode(&record)?)?.is_some();
        if had_one {
            pieces::remove_others(&self.trees.pieces, owner, Some(revision))?;
        }
        Ok(())
    }

    /// Removes a recorded answer and its pieces.
    pub(super) fn remove_replay(
        &self,
        account: AccountKey,
        key: [u8; 16],
    ) -> Result<(), StoreError> {
        self.remove_replay_if(replay_key(account, key), |_| true)
    }

    fn remove_replay_if(
        &self,
        key: [u8; 32],
        is_due: impl Fn(Timestamp) -> bool,
    ) -> Result<(), StoreError> {
        let due = match self.trees.replays.get(key)? {
            None => true,
            Some(bytes) => is_due(decode_borrowed::<ReplayRecord<'_>>(&bytes)?.recorded_at),
        };
        if due {
            self.trees.replays.remove(key)?;
            pieces::remove_others(&self.trees.pieces, Owner::replay(key), None)?;
        }
        Ok(())
    }
}

fn expired(recorded_at: Timestamp, now: Timestamp) -> bool {
    recorded_at.plus_seconds(KEPT_SECONDS) <= now
}
