//! Token buckets by key, a bounded number of them.
//!
//! A key has a bucket of its own while there is room for one. Beyond that it shares one of many with
//! whatever other keys a hash puts there, whose secret each process draws anew: so a flood of keys neither
//! takes memory without end, nor lifts the limit, nor shuts out everybody who comes later, nor can it be
//! aimed at somebody. A bucket that is full again is forgotten, for a new one would be like it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use governor::nanos::Nanos;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed, StateStore};

/// How many locks there are; those who have a bucket hold one shared, and only for that long.
const SHARDS: u64 = 64;

/// How many buckets there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Buckets of one key. About 50 bytes each.
    pub(super) own: usize,
    /// Buckets that the other keys share; made when the first is needed. 8 bytes each.
    pub(super) shared: usize,
}

impl Room {
    /// A million keys that take one token each leave most of the shared buckets tokens.
    pub(super) const DEFAULT: Self = Self {
        own: 65_536,
        shared: 1 << 20,
    };
}

type Shard<K> = RwLock<HashMap<K, InMemoryState>>;

struct Inner<K> {
    room: Room,
    hasher: RandomState,
    shards: Vec<Shard<K>>,
    /// Buckets in `shards`; never above `room.own`.
    own: AtomicUsize,
    shared: OnceLock<Box<[InMemoryState]>>,
}

/// The buckets of one limit. Clones share them.
pub(super) struct Buckets<K>(Arc<Inner<K>>);

impl<K> Clone for Buckets<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> fmt::Debug for Buckets<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buckets({:?} of {:?})", self.0.own, self.0.room)
    }
}

impl<K: Copy + Eq + Hash> Buckets<K> {
    pub(super) fn new(room: Room) -> Self {
        Self(Arc::new(Inner {
            room,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            own: AtomicUsize::new(0),
            shared: OnceLock::new(),
        }))
    }

    /// Says whether a new key would have to share.
    pub(super) fn are_full(&self) -> bool {
        self.0.own.load(Ordering::Relaxed) >= self.0.room.own
    }

    /// Gives a token back, which takes `period` to come by itself.
    pub(super) fn give_back(&self, key: &K, period: Nanos) {
        let earlier = |time: Option<Nanos>| {
            let time = time.unwrap_or_default().saturating_sub(period);
            Ok::<_, ()>(((), time))
        };
        let inner = &*self.0;
        let hash = inner.hasher.hash_one(key);
        // Neither can fail, and a key that was forgotten meanwhile has all its tokens.
        if let Some(shard) = inner.shard(hash) {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(bucket) = shard.get(key) {
                let _ = bucket.measure_and_replace(&NotKeyed::NonKey, earlier);
                return;
            }
        }
        if let Some(bucket) = inner.shared.get().and_then(|shared| pick(shared, hash)) {
            let _ = bucket.measure_and_replace(&NotKeyed::NonKey, earlier);
        }
    }

    /// Returns how much memory the buckets take, with the room that is kept for more.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let room = |shard: &Shard<K>| shard.read().unwrap().capacity() * 8 / 7;
        let own: usize = self.0.shards.iter().map(room).sum();
        let shared = self.0.shared.get().map_or(0, |shared| shared.len());
        own * (size_of::<(K, InMemoryState)>() + 1) + shared * size_of::<InMemoryState>()
    }

    /// Returns how many buckets there are: of one key, and shared.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        let counted = |shard: &Shard<K>| shard.read().unwrap().len();
        let own: usize = self.0.shards.iter().map(counted).sum();
        assert_eq!(own, self.0.own.load(Ordering::Relaxed));
        (own, self.0.shared.get().map_or(0, |shared| shared.len()))
    }
}

impl<K> Inner<K> {
    fn shard(&self, hash: u64) -> Option<&Shard<K>> {
        self.shards.get(usize::try_from(hash % SHARDS).ok()?)
    }

    /// Takes room for one more bucket.
    fn reserve(&self) -> bool {
        let more = |own: usize| (own < self.room.own).then(|| own.saturating_add(1));
        self.own
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    fn release(&self, buckets: usize) {
        self.own.fetch_sub(buckets, Ordering::Relaxed);
    }
}

/// The shards take the hash's low bits; this takes its high ones.
fn pick(shared: &[InMemoryState], hash: u64) -> Option<&InMemoryState> {
    let count = u64::try_from(shared.len()).ok()?;
    let index = (hash >> 32).checked_rem(count)?;
    shared.get(usize::try_from(index).ok()?)
}

impl<K: Copy + Eq + Hash> StateStore for Buckets<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let inner = &*self.0;
        let hash = inner.hasher.hash_one(key);
        if let Some(shard) = inner.shard(hash) {
            let known = shard.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(bucket) = known.get(key) {
                return bucket.measure_and_replace(&NotKeyed::NonKey, f);
            }
            drop(known);
            if inner.reserve() {
                let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
                let bucket = match shard.entry(*key) {
                    Entry::Vacant(entry) => entry.insert(InMemoryState::default()),
                    Entry::Occupied(entry) => {
                        // Another request of this key came in between.
                        inner.release(1);
                        entry.into_mut()
                    }
                };
                return bucket.measure_and_replace(&NotKeyed::NonKey, f);
            }
        }
        let make = || (0..inner.room.shared.max(1)).map(|_| InMemoryState::default());
        let shared = inner.shared.get_or_init(|| make().collect());
        match pick(shared, hash) {
            Some(bucket) => bucket.measure_and_replace(&NotKeyed::NonKey, f),
            // There is at least one.
            None => f(None).map(|(taken, _)| taken),
        }
    }
}

impl<K: Copy + Eq + Hash> ShrinkableKeyedStateStore<K> for Buckets<K> {
    fn retain_recent(&self, drop_below: Nanos) {
        for shard in &self.0.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let before = shard.len();
            shard.retain(|_, bucket| {
                // Reads, and writes nothing.
                let look = |time: Option<Nanos>| Err::<((), Nanos), _>(time);
                let time = bucket.measure_and_replace(&NotKeyed::NonKey, look);
                time.is_err_and(|time| time.is_some_and(|time| time > drop_below))
            });
            self.0.release(before.saturating_sub(shard.len()));
        }
    }

    fn shrink_to_fit(&self) {
        for shard in &self.0.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.shrink_to_fit();
        }
    }

    fn len(&self) -> usize {
        self.0.own.load(Ordering::Relaxed)
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
