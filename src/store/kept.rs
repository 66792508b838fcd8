//! Records that were read or written last, decoded, beside the trees that hold them.
//!
//! The trees are the truth: a swap still swaps against the very bytes that the tree holds, so what is kept here
//! can make it start over, but never go wrong. What is only read is as true as the tree, because whoever fills,
//! changes or writes a record holds its stripe meanwhile. A usage is ahead of its tree by the debits of reads that are
//! still to be written; see `usages.rs`.

use std::hash::{BuildHasher, Hash};
use std::sync::{Mutex, MutexGuard};

use foldhash::fast::RandomState;
use indexmap::IndexMap;
use indexmap::map::Entry;

use super::locks::lock;

/// Far more than processors, so that two accounts seldom wait for each other.
const STRIPES: usize = 64;
/// Records that are looked at for one that may go; a stripe grows if none of them may.
const LOOKS_MAX: usize = 16;

/// Records by their key, a bounded number.
#[derive(Debug)]
pub(crate) struct Kept<K, V> {
    stripes: [Mutex<Stripe<K, V>>; STRIPES],
    hasher: RandomState,
    /// Most records of a stripe.
    most: usize,
    /// Whether a record may make room for another.
    may_go: fn(&V) -> bool,
}

#[derive(Debug)]
struct Stripe<K, V> {
    records: IndexMap<K, V, RandomState>,
    /// Whose turn it is to make room. An order of use would have to be written down at each look.
    turn: usize,
}

impl<K: Hash + Eq + Copy, V> Kept<K, V> {
    /// Makes room for `most` records, about, of which those that `may_go` make room for others.
    pub(super) fn new(most: usize, may_go: fn(&V) -> bool) -> Self {
        let hasher = RandomState::default();
        let stripe = |_| {
            Mutex::new(Stripe {
                records: IndexMap::with_hasher(hasher.clone()),
                turn: 0,
            })
        };
        Self {
            stripes: std::array::from_fn(stripe),
            hasher,
            most: most.div_ceil(STRIPES).max(1),
            may_go,
        }
    }

    #[expect(
        clippy::indexing_slicing,
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "a remainder is below what it was divided by"
    )]
    fn stripe(&self, key: &K) -> MutexGuard<'_, Stripe<K, V>> {
        lock(&self.stripes[self.hasher.hash_one(key) as usize % STRIPES])
    }

    /// Shows `see` the record under a key; one that is not kept is made by `fill` first.
    pub(super) fn read<T, E>(
        &self,
        key: K,
        fill: impl FnOnce() -> Result<V, E>,
        see: impl FnOnce(&V) -> T,
    ) -> Result<T, E> {
        let mut stripe = self.stripe(&key);
        self.make_room(&mut stripe, &key);
        stripe.record(key, fill).map(|record| see(record))
    }

    /// Shows `see` the record under a key, if it is kept.
    pub(super) fn peek<T>(&self, key: &K, see: impl FnOnce(&V) -> T) -> Option<T> {
        self.stripe(key).records.get(key).map(see)
    }

    /// Lets `work` change the record under a key and write it; one that is not kept is made by `fill` first. If
    /// `work` fails or panics, the record is forgotten, for it may be half changed.
    pub(super) fn change<T, E>(
        &self,
        key: K,
        fill: impl FnOnce() -> Result<V, E>,
        work: impl FnOnce(&mut V) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut changing = Changing {
            stripe: self.stripe(&key),
            key,
            is_whole: false,
        };
        self.make_room(&mut changing.stripe, &key);
        let outcome = work(changing.stripe.record(key, fill)?);
        changing.is_whole = outcome.is_ok();
        outcome
    }

    /// Forgets every record: the tree was written around this.
    pub(super) fn forget_all(&self) {
        for stripe in &self.stripes {
            lock(stripe).records.clear();
        }
    }

    /// Lets a record go, if there is no room for another one.
    fn make_room(&self, stripe: &mut Stripe<K, V>, key: &K) {
        if stripe.records.len() < self.most || stripe.records.contains_key(key) {
            return;
        }
        for _ in 0..LOOKS_MAX {
            let next = stripe.turn.saturating_add(1);
            stripe.turn = if next < stripe.records.len() { next } else { 0 };
            let at_turn = stripe.records.get_index(stripe.turn);
            if at_turn.is_some_and(|(_, record)| (self.may_go)(record)) {
                stripe.records.swap_remove_index(stripe.turn);
                return;
            }
        }
    }

    /// Forgets the record under a key and lets `work` write it.
    pub(super) fn write<T>(&self, key: K, work: impl FnOnce() -> T) -> T {
        let mut stripe = self.stripe(&key);
        stripe.records.swap_remove(&key);
        work()
    }
}

impl<K: Hash + Eq + Copy, V> Stripe<K, V> {
    fn record<E>(&mut self, key: K, fill: impl FnOnce() -> Result<V, E>) -> Result<&mut V, E> {
        match self.records.entry(key) {
            Entry::Occupied(kept) => Ok(kept.into_mut()),
            Entry::Vacant(place) => Ok(place.insert(fill()?)),
        }
    }
}

/// A record that is being changed.
struct Changing<'a, K: Hash + Eq + Copy, V> {
    stripe: MutexGuard<'a, Stripe<K, V>>,
    key: K,
    is_whole: bool,
}

impl<K: Hash + Eq + Copy, V> Drop for Changing<'_, K, V> {
    fn drop(&mut self) {
        if !self.is_whole {
            self.stripe.records.swap_remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(kept: &Kept<u8, u64>, with: u64) -> u64 {
        kept.read(1, || Ok::<_, ()>(with), |value| *value).unwrap()
    }

    #[test]
    fn what_is_kept_is_what_was_written_last() {
        // Shows that a record is filled once, follows its changes, and is filled anew after a write.
        let kept = Kept::new(64, |_| true);
        assert_eq!((filled(&kept, 7), filled(&kept, 8)), (7, 7));
        let add_one = |value: &mut u64| {
            *value += 1;
            Ok::<_, ()>(*value)
        };
        assert_eq!(kept.change(1, || Ok(0), add_one), Ok(8));
        assert_eq!(filled(&kept, 9), 8);
        assert_eq!(kept.write(1, || "done"), "done");
        assert_eq!(filled(&kept, 10), 10);
        let failing = kept.read(2, || Err("no"), |value| *value);
        assert_eq!(failing, Err("no"));
    }

    #[test]
    fn what_failed_half_way_is_forgotten() {
        // Shows that a change that fails or panics leaves nothing that somebody reads.
        let kept = Kept::new(64, |_| true);
        let half = |value: &mut u64| {
            *value = 99;
            Err::<(), ()>(())
        };
        assert_eq!(filled(&kept, 7), 7);
        assert_eq!(kept.change(1, || Ok(7), half), Err(()));
        assert_eq!(filled(&kept, 8), 8);
        let panicking = std::panic::AssertUnwindSafe(|| {
            let half = |value: &mut u64| -> Result<(), ()> {
                *value = 99;
                panic!("on purpose")
            };
            kept.change(1, || Ok(8), half)
        });
        assert!(std::panic::catch_unwind(panicking).is_err());
        assert_eq!(filled(&kept, 9), 9);
    }

    #[test]
    fn no_more_is_kept_than_there_is_room() {
        // Shows that old records make room, and that the newest is always there.
        let kept = Kept::new(2 * STRIPES, |_| true);
        for key in 0..10_000u32 {
            kept.read(key, || Ok::<_, ()>(key), |_| ()).unwrap();
            let again = kept.read(key, || Err(()), |value| *value);
            assert_eq!(again, Ok(key));
        }
        for stripe in &kept.stripes {
            assert_eq!(lock(stripe).records.len(), 2);
        }
    }

    #[test]
    fn what_may_not_go_stays() {
        // Shows that a record which is still to be written makes room for none.
        let kept = Kept::new(STRIPES, |value: &u32| value.is_multiple_of(2));
        let looked_up = |key: u32| kept.read(key, || Ok::<_, ()>(key), |value| *value);
        for key in (1..200).step_by(2).chain((0..1_000).step_by(2)) {
            assert_eq!(looked_up(key), Ok(key));
        }
        for key in (1..200).step_by(2) {
            assert_eq!(kept.peek(&key, |value| *value), Some(key));
        }
        let even = (0..1_000).step_by(2);
        let stayed = even.filter(|key| kept.peek(key, |_| ()).is_some());
        assert!(stayed.count() <= STRIPES);
    }
}
