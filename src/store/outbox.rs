//! Events on their way to the operator's endpoints.
//!
//! An event comes here from the record that carries it, before it is dropped there, once for each endpoint;
//! it stays until the endpoint has taken it, or nobody tries any more. Its key does not depend on when it
//! came, so that moving it again after a crash changes nothing. What is kept names the account by its key:
//! no e-mail address is here.
//!
//! When each is due is also held in memory, about 60 bytes an event, so that looking what is due costs no
//! walk. The endpoints are kept in the database: what a crash has left in a record is moved by the next
//! open, which may be a command that knows none.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use ulid::Ulid;

use crate::domain::account::AccountKey;
use crate::domain::event::Event;
use crate::domain::time::Timestamp;
use crate::domain::webhook::{ENDPOINTS_MAX, EVENTS_SENT, EndpointId};

use super::codec::{Record, decode, encode};
use super::recovery::OnDamage;
use super::schema::{Carrier, Trees, join, part};
use super::{Inner, Store, StoreError, locks};

/// Most events that wait for one endpoint; beyond it the oldest goes.
const PENDING_MAX: usize = 100_000;
/// The key of the endpoints in `meta`.
pub(super) const ENDPOINTS: &[u8] = b"webhooks";
/// When an event is due that was not sent yet: whatever the clock says, and before what is sent again.
const AT_ONCE: Timestamp = Timestamp::from_micros(0);
/// Drops between two lines of the log.
const DROPS_A_LINE: u64 = 10_000;

/// An event's place in the outbox of one endpoint: its time and its id.
pub(super) type Entry = [u8; 24];

/// An event for one endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OutboxRecord {
    pub account: AccountKey,
    /// What happened, such as `key.created`.
    pub kind: String,
    pub at: Timestamp,
    /// What else is known of it, as JSON.
    pub data: String,
    /// How often it was sent in vain.
    pub failures: u32,
    pub due: Timestamp,
}

impl Record for OutboxRecord {}

/// The endpoints that events are moved to.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Endpoints(pub Vec<EndpointId>);

impl Record for Endpoints {}

/// An event that is to be sent to an endpoint.
#[derive(Clone, Debug)]
pub struct DueEvent {
    /// `evt_` and 26 characters; the same at each attempt, and at each endpoint.
    pub id: String,
    /// The account that it is about.
    pub account: AccountKey,
    /// What happened, such as `key.created`.
    pub kind: String,
    /// When.
    pub at: Timestamp,
    /// What else is known of it, as JSON.
    pub data: String,
    /// How often it was sent in vain.
    pub failures: u32,
    due: Timestamp,
    entry: Entry,
}

/// What waits for an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxState {
    /// Events that wait.
    pub pending: u64,
    /// When the first of them is due.
    pub next_due: Option<Timestamp>,
    /// Events that had to go for newer ones since the database was opened.
    pub dropped: u64,
}

/// What is known of the outbox in memory.
#[derive(Debug)]
pub(super) struct Outbox {
    endpoints: Mutex<Vec<Waiting>>,
    /// [`PENDING_MAX`], or what a test has set.
    pending_max: AtomicUsize,
}

/// What waits for one endpoint. Whoever holds it may change the endpoint's records.
#[derive(Debug)]
struct Waiting {
    endpoint: EndpointId,
    due: BTreeSet<(Timestamp, Entry)>,
    dropped: u64,
    bell: Arc<Notify>,
}

impl Waiting {
    fn new(endpoint: EndpointId) -> Self {
        Self {
            endpoint,
            due: BTreeSet::new(),
            dropped: 0,
            bell: Arc::default(),
        }
    }
}

impl Outbox {
    /// Reads what waits.
    pub(super) fn open(trees: &Trees, damage: OnDamage) -> Result<Self, StoreError> {
        let endpoints = damage.judge(endpoints(trees))?.unwrap_or_default();
        let mut waiting: Vec<Waiting> = endpoints.into_iter().map(Waiting::new).collect();
        for endpoint in &mut waiting {
            for record in trees.outbox.scan_prefix(endpoint.endpoint.0) {
                let (key, value) = record?;
                let due = part(&key, 8)
                    .ok_or_else(|| StoreError::Corrupt("a key of the outbox is cut".to_owned()))
                    .and_then(|entry| Ok((decode::<OutboxRecord>(&value)?.due, entry)));
                endpoint.due.extend(damage.judge(due)?);
            }
        }
        Ok(Self {
            endpoints: Mutex::new(waiting),
            pending_max: AtomicUsize::new(PENDING_MAX),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waiting>> {
        locks::lock(&self.endpoints)
    }
}

/// Returns the endpoints that events are moved to.
pub(super) fn endpoints(trees: &Trees) -> Result<Vec<EndpointId>, StoreError> {
    let bytes = trees.meta.get(ENDPOINTS)?;
    let endpoints: Option<Endpoints> = bytes.map(|bytes| decode(&bytes)).transpose()?;
    Ok(endpoints.unwrap_or_default().0)
}

/// Returns the endpoints that events wait for.
pub(super) fn endpoints_of_events(trees: &Trees) -> Result<Vec<EndpointId>, StoreError> {
    let mut found = Vec::new();
    for key in trees.outbox.iter().keys() {
        let endpoint = part(&key?, 0).map(EndpointId);
        found.extend(endpoint.filter(|id| found.last() != Some(id)));
    }
    // Damage can look like many.
    found.truncate(ENDPOINTS_MAX);
    Ok(found)
}

/// Endpoint, entry.
pub(super) fn outbox_key(endpoint: EndpointId, entry: Entry) -> [u8; 32] {
    join(endpoint.0, entry)
}

fn time_bytes(at: Timestamp) -> [u8; 8] {
    u64::try_from(at.micros()).unwrap_or(0).to_be_bytes()
}

/// Says whether a record belongs under its key.
pub(super) fn is_in_place(entry: Entry, record: &OutboxRecord) -> bool {
    part(&entry, 0) == Some(time_bytes(record.at))
}

/// Returns an event's place. Its id is of all that tells it from others, also from one that another copy of
/// the database has given the same number.
fn entry(account: AccountKey, carrier: Carrier, event: &Event) -> Entry {
    let carrier: u8 = match carrier {
        Carrier::Nothing => 0,
        Carrier::Account => 1,
        Carrier::Usage => 2,
    };
    let mut hash = Sha256::new();
    hash.update(account.0);
    hash.update([carrier]);
    hash.update(event.no.to_be_bytes());
    hash.update(event.at.micros().to_be_bytes());
    hash.update(event.kind.name());
    let hash: [u8; 32] = hash.finalize().into();
    let id: [u8; 16] = part(&hash, 0).unwrap_or_default();
    join(time_bytes(event.at), id)
}

impl Inner {
    /// Puts an event into the outbox of every endpoint, if it is one that is sent; one that is there stays as
    /// it is.
    pub(super) fn enqueue(
        &self,
        account: AccountKey,
        carrier: Carrier,
        event: &Event,
    ) -> Result<(), StoreError> {
        let (tree, kind) = (&self.trees.outbox, event.kind.name());
        let mut endpoints = self.outbox.lock();
        if endpoints.is_empty() || !EVENTS_SENT.contains(&kind) {
            return Ok(());
        }
        let entry = entry(account, carrier, event);
        let record = encode(&OutboxRecord {
            account,
            kind: kind.to_owned(),
            at: event.at,
            data: event.kind.details().to_string(),
            failures: 0,
            due: AT_ONCE,
        })?;
        let pending_max = self.outbox.pending_max.load(Ordering::Relaxed);
        for waiting in endpoints.iter_mut() {
            let key = outbox_key(waiting.endpoint, entry);
            if tree.contains_key(key)? {
                continue;
            }
            while waiting.due.len() >= pending_max {
                drop_oldest(tree, waiting)?;
            }
            tree.insert(key, record.clone())?;
            waiting.due.insert((AT_ONCE, entry));
            waiting.bell.notify_one();
        }
        Ok(())
    }
}

/// Makes room for a newer event.
fn drop_oldest(tree: &sled::Tree, waiting: &mut Waiting) -> Result<(), StoreError> {
    let Some(oldest) = tree.scan_prefix(waiting.endpoint.0).next().transpose()? else {
        waiting.due.clear();
        return Ok(());
    };
    let (key, value) = oldest;
    let record: OutboxRecord = decode(&value)?;
    tree.remove(&key)?;
    if let Some(entry) = part(&key, 8) {
        waiting.due.remove(&(record.due, entry));
    }
    waiting.dropped = waiting.dropped.saturating_add(1);
    if waiting.dropped % DROPS_A_LINE == 1 {
        log::error!(
            "webhook {}: as many events wait as may; {} of the oldest were dropped so far",
            waiting.endpoint,
            waiting.dropped
        );
    }
    Ok(())
}

impl Store {
    /// Says to which endpoints events go from now on, and makes it durable. What waits for any other is
    /// removed. Returns how many events that were.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; events go on to where they went then.
    pub async fn set_endpoints(&self, ids: &[EndpointId]) -> Result<u64, StoreError> {
        let inner = self.inner()?;
        let removed = {
            let tree = &inner.trees.outbox;
            let mut endpoints = inner.outbox.lock();
            let before: Vec<EndpointId> = endpoints.iter().map(|w| w.endpoint).collect();
            if before.len() == ids.len() && ids.iter().all(|id| before.contains(id)) {
                return Ok(0);
            }
            inner.takes_writes()?;
            let mut removed = 0u64;
            for id in before.iter().filter(|id| !ids.contains(id)) {
                for key in tree.scan_prefix(id.0).keys() {
                    tree.remove(key?)?;
                    removed = removed.saturating_add(1);
                }
            }
            inner
                .trees
                .meta
                .insert(ENDPOINTS, encode(&Endpoints(ids.to_vec()))?)?;
            endpoints.retain(|waiting| ids.contains(&waiting.endpoint));
            let new = ids.iter().filter(|id| !before.contains(id));
            endpoints.extend(new.map(|id| Waiting::new(*id)));
            removed
        };
        let flushed = inner.committer.flushed().await;
        flushed.map_err(|_| StoreError::OutcomeUnknown)?;
        Ok(removed)
    }

    /// Returns the first `limit` events for an endpoint that are due at `now`, each with its effect on the
    /// disk: nobody is told of what a crash could still undo.
    ///
    /// # Errors
    ///
    /// [`StoreError`], also while nothing can be written: what was sent could not be noted.
    pub async fn due_events(
        &self,
        endpoint: EndpointId,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DueEvent>, StoreError> {
        let inner = self.inner()?;
        inner.takes_writes()?;
        let found = inner.due_events(endpoint, now, limit)?;
        if found.iter().any(|event| event.failures == 0) {
            let flushed = inner.committer.flushed().await;
            flushed.map_err(|_| StoreError::Unavailable)?;
        }
        Ok(found)
    }

    /// Notes that an endpoint has taken an event. On the disk within 500 ms; after a crash before that it is
    /// sent again.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; it stays due then.
    pub fn event_delivered(
        &self,
        endpoint: EndpointId,
        event: &DueEvent,
    ) -> Result<(), StoreError> {
        self.settle_event(endpoint, event, None)
    }

    /// Notes that an event was sent in vain, and when it is due again; never, if `None`.
    ///
    /// # Errors
    ///
    /// As [`Self::event_delivered`].
    pub fn event_failed(
        &self,
        endpoint: EndpointId,
        event: &DueEvent,
        due: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        self.settle_event(endpoint, event, due)
    }

    fn settle_event(
        &self,
        endpoint: EndpointId,
        event: &DueEvent,
        due: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let inner = self.inner()?;
        inner.takes_writes()?;
        let tree = &inner.trees.outbox;
        let mut endpoints = inner.outbox.lock();
        let waiting = endpoints.iter_mut().find(|w| w.endpoint == endpoint);
        // Not there: it had to go for a newer one meanwhile.
        let Some(waiting) = waiting.filter(|w| w.due.contains(&(event.due, event.entry))) else {
            return Ok(());
        };
        let key = outbox_key(endpoint, event.entry);
        let written = match due {
            None => tree.remove(key).map(drop).map_err(StoreError::from),
            Some(due) => {
                let record = OutboxRecord {
                    account: event.account,
                    kind: event.kind.clone(),
                    at: event.at,
                    data: event.data.clone(),
                    failures: event.failures.saturating_add(1),
                    due,
                };
                encode(&record).and_then(|record| Ok(tree.insert(key, record).map(drop)?))
            }
        };
        if let Err(StoreError::Database(error @ sled::Error::Io(_))) = &written {
            inner.committer.poison(error);
        }
        written?;
        waiting.due.remove(&(event.due, event.entry));
        if let Some(due) = due {
            waiting.due.insert((due, event.entry));
        }
        inner.committer.mark_dirty();
        Ok(())
    }

    /// Returns what waits for an endpoint; nothing while the database is being opened anew.
    #[must_use]
    pub fn outbox(&self, endpoint: EndpointId) -> OutboxState {
        let Ok(inner) = self.inner() else {
            return OutboxState::default();
        };
        let endpoints = inner.outbox.lock();
        let waiting = endpoints.iter().find(|w| w.endpoint == endpoint);
        waiting.map_or_else(OutboxState::default, |waiting| OutboxState {
            pending: u64::try_from(waiting.due.len()).unwrap_or(u64::MAX),
            // What is on its way has no time.
            next_due: waiting
                .due
                .first()
                .map(|(due, _)| *due)
                .filter(|due| due.micros() > 0),
            dropped: waiting.dropped,
        })
    }

    /// Waits until an event comes in for an endpoint. For one task an endpoint; may also end without one.
    /// Never ends if the database is opened anew meanwhile: to be given a time limit.
    pub async fn event_for(&self, endpoint: EndpointId) {
        let bell = self.inner().ok().and_then(|inner| {
            let endpoints = inner.outbox.lock();
            let waiting = endpoints.iter().find(|w| w.endpoint == endpoint);
            waiting.map(|waiting| Arc::clone(&waiting.bell))
        });
        // The database is not held meanwhile.
        match bell {
            Some(bell) => bell.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl Inner {
    fn due_events(
        &self,
        endpoint: EndpointId,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DueEvent>, StoreError> {
        let endpoints = self.outbox.lock();
        let waiting = endpoints.iter().find(|w| w.endpoint == endpoint);
        let due = waiting.into_iter().flat_map(|waiting| &waiting.due);
        due.take_while(|(due, _)| *due <= now)
            .take(limit)
            .map(|(due, entry)| {
                let bytes = self.trees.outbox.get(outbox_key(endpoint, *entry))?;
                let gone = || StoreError::Corrupt("an event that waits is gone".to_owned());
                let record: OutboxRecord = decode(&bytes.ok_or_else(gone)?)?;
                Ok(DueEvent {
                    id: event_id(*entry),
                    account: record.account,
                    kind: record.kind,
                    at: record.at,
                    data: record.data,
                    failures: record.failures,
                    due: *due,
                    entry: *entry,
                })
            })
            .collect()
    }
}

#[cfg(test)]
impl Store {
    fn bound_outbox(&self, pending_max: usize) {
        let inner = self.inner().unwrap();
        inner
            .outbox
            .pending_max
            .store(pending_max, Ordering::Relaxed);
    }
}

/// Returns the public id of an event.
pub(super) fn event_id(entry: Entry) -> String {
    format!(
        "evt_{}",
        Ulid::from_bytes(part(&entry, 8).unwrap_or_default())
    )
}

#[cfg(test)]
mod tests;
