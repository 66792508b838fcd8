//! The usages of accounts: each decoded beside the bytes that the tree holds, and what reads have debited since
//! those bytes were written.
//!
//! A read's debit is counted here at once and written by the committer within 200 ms, all those of an account
//! in one swap; any other change of the account writes them along. It was never durable earlier: a swap for each
//! read would only be lost by the same crash.

use std::convert::Infallible;
use std::sync::Mutex;

use crate::domain::account::AccountKey;
use crate::domain::plan::{Operation, Plans};
use crate::domain::time::Timestamp;
use crate::domain::usage::{Balance, Payer, Refusal, Usage};

use super::StoreError;
use super::codec::encode;
use super::kept::Kept;
use super::locks::lock;
use super::schema::Trees;
use super::swap::{SwapError, until_won};
use super::usage::decode_usage;

/// Most debits of an account that wait to be written: beyond it the debit writes them itself.
const READS_MAX: usize = 256;

/// A metered read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    pub(super) payer: Payer,
    pub(super) operation: Operation,
    pub(super) cost: u64,
    pub(super) now: Timestamp,
}

impl Read {
    pub(super) fn debit(self, usage: &mut Usage) -> Result<Balance, Refusal> {
        usage.debit(self.payer, self.operation, self.cost, self.now)
    }
}

/// When a change is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Written {
    /// Before the step is done.
    Now,
    /// Soon: it is a read's debit and nothing else.
    Soon(Read),
}

/// A usage, and the bytes that it is in its tree.
#[derive(Debug)]
struct KeptUsage {
    bytes: sled::IVec,
    /// With the debits of `reads`, which the bytes are without.
    usage: Usage,
    reads: Vec<Read>,
}

/// The tree of usages.
#[derive(Debug)]
pub(super) struct Usages {
    kept: Kept<AccountKey, KeptUsage>,
    /// Accounts with debits to write.
    due: Mutex<Vec<AccountKey>>,
    usage: sled::Tree,
    users: sled::Tree,
    plans: &'static Plans,
}

impl Usages {
    /// Makes room for `most` usages, about.
    pub(super) fn new(trees: &Trees, plans: &'static Plans, most: usize) -> Self {
        Self {
            kept: Kept::new(most, |kept: &KeptUsage| kept.reads.is_empty()),
            due: Mutex::default(),
            usage: trees.usage.clone(),
            users: trees.users.clone(),
            plans,
        }
    }

    /// Shows `see` an account's usage.
    pub(super) fn see<T>(
        &self,
        account: AccountKey,
        see: impl FnOnce(&Usage) -> T,
    ) -> Result<T, StoreError> {
        let load = || self.load(account);
        self.kept.read(account, load, |kept| see(&kept.usage))
    }

    /// Changes an account's usage in one swap, and nothing besides. The step says when that must be.
    pub(super) fn change<T, E>(
        &self,
        account: AccountKey,
        mut step: impl FnMut(&mut Usage) -> Result<(T, Written), SwapError<E>>,
    ) -> Result<T, SwapError<E>> {
        let load = || self.load(account).map_err(SwapError::Failed);
        // It is the account's stripe that keeps others out; the swap is there for whoever writes the tree
        // without it.
        until_won(|| {
            let changed = self.kept.change(account, load, |kept| {
                let outcome = self.step(account, kept, &mut step);
                self.restored(account, kept, outcome)
            });
            changed.and_then(|outcome| outcome)
        })
    }

    fn step<T, E>(
        &self,
        account: AccountKey,
        kept: &mut KeptUsage,
        step: impl FnOnce(&mut Usage) -> Result<(T, Written), SwapError<E>>,
    ) -> Result<T, SwapError<E>> {
        match step(&mut kept.usage)? {
            (result, Written::Soon(read)) if kept.reads.len() < READS_MAX => {
                if kept.reads.is_empty() {
                    lock(&self.due).push(account);
                }
                kept.reads.push(read);
                Ok(result)
            }
            (result, _) => {
                let next = sled::IVec::from(encode(&kept.usage)?);
                let (before, after) = (Some(&kept.bytes), Some(next.clone()));
                let swapped = self.usage.compare_and_swap(account.0, before, after)?;
                swapped.map_err(|_| SwapError::Contended)?;
                kept.bytes = next;
                kept.reads.clear();
                Ok(result)
            }
        }
    }

    /// After a step that failed the usage may be half changed, and is forgotten. Not so the debits that nobody
    /// has written yet: they are put onto what the tree holds.
    fn restored<T, E>(
        &self,
        account: AccountKey,
        kept: &mut KeptUsage,
        outcome: Result<T, SwapError<E>>,
    ) -> Result<Result<T, SwapError<E>>, SwapError<E>> {
        match outcome {
            Err(error) if !kept.reads.is_empty() => {
                let reads = std::mem::take(&mut kept.reads);
                *kept = self.load(account)?;
                for read in &reads {
                    if let Err(refusal) = read.debit(&mut kept.usage) {
                        let id = account.anonymous_id();
                        log::error!("a read of {id} is not charged: {refusal}");
                    }
                }
                kept.reads = reads;
                Ok(Err(error))
            }
            outcome => outcome.map(Ok),
        }
    }

    /// Says whether there are debits to write.
    pub(super) fn are_reads_due(&self) -> bool {
        !lock(&self.due).is_empty()
    }

    /// Writes the debits of reads, of so many accounts at most. Returns whether there are more.
    ///
    /// # Errors
    ///
    /// [`StoreError::Database`]: nothing can be written any more.
    pub(super) fn write_reads(&self, most: usize) -> Result<bool, StoreError> {
        let (accounts, more) = {
            let mut due = lock(&self.due);
            let rest = due.len().saturating_sub(most);
            (due.split_off(rest), rest > 0)
        };
        for account in accounts {
            let has_reads = |kept: &KeptUsage| !kept.reads.is_empty();
            if self.kept.peek(&account, has_reads) != Some(true) {
                continue; // written along with something else
            }
            let written = self.change::<_, Infallible>(account, |_| Ok(((), Written::Now)));
            match written {
                Ok(()) | Err(SwapError::Failed(StoreError::NoAccount)) => {}
                Err(SwapError::Failed(error @ StoreError::Database(_))) => return Err(error),
                Err(SwapError::Failed(error)) => {
                    let id = account.anonymous_id();
                    log::error!("reads of {id} are not charged: {error}");
                }
                // Whoever wrote around us goes on; so do we, later.
                Err(SwapError::Contended) => lock(&self.due).push(account),
                Err(SwapError::Refused(never)) => match never {},
            }
        }
        Ok(more)
    }

    /// Writes an account's usage, whatever there was.
    pub(super) fn put(&self, account: AccountKey, usage: &Usage) -> Result<(), StoreError> {
        let bytes = encode(usage)?;
        self.kept
            .write(account, || self.usage.insert(account.0, bytes))?;
        Ok(())
    }

    /// Removes an account's usage.
    pub(super) fn remove(&self, account: AccountKey) -> Result<(), StoreError> {
        self.kept.write(account, || self.usage.remove(account.0))?;
        Ok(())
    }

    /// Forgets every usage: the tree was written around this.
    pub(super) fn forget_all(&self) {
        self.kept.forget_all();
    }

    fn load(&self, account: AccountKey) -> Result<KeptUsage, StoreError> {
        let bytes = self.usage.get(account.0)?;
        let bytes = bytes.ok_or_else(|| self.no_usage(account))?;
        let usage = decode_usage(&bytes, self.plans)?;
        Ok(KeptUsage {
            bytes,
            usage,
            reads: Vec::new(),
        })
    }

    /// Returns why an account has no usage: it was erased, or a record of it is lost.
    fn no_usage(&self, account: AccountKey) -> StoreError {
        match self.users.contains_key(account.0) {
            Ok(false) => StoreError::NoAccount,
            Ok(true) => {
                let id = account.anonymous_id();
                StoreError::Corrupt(format!("{id} has no usage record"))
            }
            Err(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::plan::Plan;
    use crate::domain::usage::Share;
    use crate::store::testing::NOW;

    const AL: AccountKey = AccountKey([1; 16]);

    struct Fixture {
        usages: Usages,
        tree: sled::Tree,
        _folder: tempfile::TempDir,
    }

    fn fixture(accounts: &[AccountKey]) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let trees = Trees::open(&sled::open(folder.path()).unwrap()).unwrap();
        let usages = Usages::new(&trees, Plans::seed(), 1_000);
        let mut usage = Usage::new(Plan::PRO, NOW);
        usage.shares.push(Share::new(1, None));
        for account in accounts {
            usages.put(*account, &usage).unwrap();
        }
        Fixture {
            usages,
            tree: trees.usage,
            _folder: folder,
        }
    }

    impl Fixture {
        fn read(&self, account: AccountKey) {
            let read = Read {
                payer: Payer::first(1),
                operation: Operation::ReadMemory,
                cost: 1,
                now: NOW,
            };
            let debit = |usage: &mut Usage| {
                read.debit(usage).map_err(SwapError::Refused)?;
                Ok(((), Written::Soon(read)))
            };
            self.usages.change(account, debit).unwrap();
        }

        /// Credits used as everybody sees them, and as the tree has them.
        fn used(&self, account: AccountKey) -> (u64, u64) {
            let bytes = self.tree.get(account.0).unwrap().unwrap();
            let in_tree = decode_usage(&bytes, Plans::seed()).unwrap();
            let seen = self.usages.see(account, |usage| usage.used).unwrap();
            (seen, in_tree.used)
        }
    }

    #[test]
    fn reads_are_counted_at_once_and_written_together() {
        // Shows that everybody sees a debit from its answer on, and that one write has them all.
        let fixture = fixture(&[AL]);
        for n in 1..=3 {
            fixture.read(AL);
            assert_eq!(fixture.used(AL), (n, 0));
        }
        assert!(!fixture.usages.write_reads(10).unwrap());
        assert_eq!(fixture.used(AL), (3, 3));
        fixture.read(AL);
        assert_eq!(fixture.used(AL), (4, 3));
    }

    #[test]
    fn another_change_writes_them_along() {
        // Shows that what a change is made of, and what it writes, has every debit before it.
        let fixture = fixture(&[AL]);
        fixture.read(AL);
        let hold = |usage: &mut Usage| -> Result<_, SwapError<Infallible>> {
            usage.held = 7;
            Ok((usage.used, Written::Now))
        };
        assert_eq!(fixture.usages.change(AL, hold).unwrap(), 1);
        assert_eq!(fixture.used(AL), (1, 1));
        assert!(!fixture.usages.write_reads(10).unwrap());
        assert_eq!(fixture.used(AL), (1, 1));
    }

    #[test]
    fn a_step_that_fails_takes_no_debit_back() {
        // Shows that debits which wait to be written outlive a step that failed half way, and a write of the tree
        // around what is kept.
        let fixture = fixture(&[AL]);
        fixture.read(AL);
        fixture.read(AL);
        let failing = |usage: &mut Usage| {
            usage.used = 99;
            Err::<((), Written), _>(SwapError::Refused("no"))
        };
        let refused = fixture.usages.change(AL, failing);
        assert!(matches!(refused, Err(SwapError::Refused("no"))));
        assert_eq!(fixture.used(AL), (2, 0));
        let bytes = fixture.tree.get(AL.0).unwrap().unwrap();
        let mut around = decode_usage(&bytes, Plans::seed()).unwrap();
        (around.used, around.used_ever) = (10, 10);
        fixture.tree.insert(AL.0, encode(&around).unwrap()).unwrap();
        assert!(!fixture.usages.write_reads(10).unwrap());
        assert_eq!(fixture.used(AL), (12, 12));
    }

    #[test]
    fn so_many_as_may_wait_and_no_more() {
        // Shows that an account's debits are written by one of them once there are many, and those of many accounts
        // slice by slice.
        let accounts: Vec<_> = (0..5).map(|n| AccountKey([n; 16])).collect();
        let fixture = fixture(&accounts);
        let most = u64::try_from(READS_MAX).unwrap();
        for _ in 0..=most {
            fixture.read(accounts[0]);
        }
        assert_eq!(fixture.used(accounts[0]), (most + 1, most + 1));
        for account in &accounts {
            fixture.read(*account);
        }
        let mut slices = 1;
        while fixture.usages.write_reads(2).unwrap() {
            slices += 1;
        }
        assert!(slices <= 4, "{slices}");
        for account in &accounts {
            let (seen, in_tree) = fixture.used(*account);
            assert_eq!(seen, in_tree);
        }
    }
}
