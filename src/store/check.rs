//! `check`: counts everything again and compares it with what the records say. Changes nothing.
//!
//! Opening a store settles what a crash left, by intents and without looking at the rest. This is the
//! other way round: every record is read, and every fact that is kept in two places is compared. What
//! it finds is either damage from outside or a mistake in the store.
//!
//! Each tree is walked once, in order, with look-ups in the others. Memory stays bounded by the largest
//! account's keys and distinct names, however many memories there are.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fmt::Write as _;

use crate::domain::account::AccountKey;
use crate::domain::json::{self, Object};
use crate::domain::key::{KeyHash, KeyId};
use crate::domain::memory::MemoryId;
use crate::domain::usage::{KeyNo, Usage};

use super::codec::{VALUE_BYTES_MAX, decode, decode_borrowed};
use super::memories::memory_id;
use super::pieces::{self, Owner};
use super::schema::{
    AccountRecord, ActiveKey, KeyRecord, MemoryHead, ReplayRecord, StatsHead, account_key_key,
    part, replay_time_key,
};
use super::stats::{Counts, Delta};
use super::{Inner, Store, StoreError};

/// Most problems that a report lists; the others are only counted.
pub const PROBLEMS_LISTED_MAX: usize = 1_000;

/// What a check of a store found.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// Accounts.
    pub accounts: u64,
    /// Keys, revoked ones included.
    pub keys: u64,
    /// Memories of all accounts.
    pub memories: u64,
    /// What is wrong, in the order found; [`PROBLEMS_LISTED_MAX`] at most.
    pub problems: Vec<Problem>,
    /// How many problems there are, listed or not.
    pub problems_total: u64,
}

/// One fact that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The tree of the record that is wrong, or `blobs` for the database's directory of large values.
    pub tree: &'static str,
    /// Which record: public ids where it has them, else its key in hexadecimal. Never a secret.
    pub key: String,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.tree, self.key, self.what)
    }
}

impl CheckReport {
    /// Says whether nothing is wrong.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.problems_total == 0
    }

    fn add(&mut self, problem: Problem) {
        self.problems_total = self.problems_total.saturating_add(1);
        if self.problems.len() < PROBLEMS_LISTED_MAX {
            self.problems.push(problem);
        }
    }
}

/// The report as an operator reads it: a line for each problem, then one with the totals.
impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        let listed = u64::try_from(self.problems.len()).unwrap_or(u64::MAX);
        let unlisted = self.problems_total.saturating_sub(listed);
        if unlisted > 0 {
            writeln!(f, "and {unlisted} more")?;
        }
        let (accounts, keys, memories) = (self.accounts, self.keys, self.memories);
        write!(f, "{accounts} accounts, {keys} keys, {memories} memories: ")?;
        match self.problems_total {
            0 => f.write_str("sound"),
            1 => f.write_str("1 problem"),
            n => write!(f, "{n} problems"),
        }
    }
}

impl Store {
    /// Reads every record and compares all that must agree. Changes nothing.
    ///
    /// To be run right after [`Store::open`], which has settled the intents, and before anything is
    /// written: a write under way looks like damage. Takes about as long as reading the whole database.
    ///
    /// # Errors
    ///
    /// [`StoreError::Database`] if the database cannot be read. Whatever is wrong with the records
    /// themselves is in the report instead.
    pub fn check(&self) -> Result<CheckReport, StoreError> {
        let inner = self.inner()?;
        let mut check = Check {
            inner: &inner,
            report: CheckReport::default(),
            last_owner: None,
            unswept: BTreeSet::new(),
        };
        check.run()?;
        Ok(check.report)
    }
}

/// A check under way.
struct Check<'a> {
    inner: &'a Inner,
    report: CheckReport,
    /// The owner of the piece looked at last, so that each owner is looked up once.
    last_owner: Option<PieceOwner>,
    /// Recorded answers that are gone while their pieces are there.
    unswept: BTreeSet<[u8; 32]>,
}

/// What pieces belong to, and what it says of them.
struct PieceOwner {
    name: [u8; 33],
    /// Revision and number of its pieces; `None` if there is no such record.
    record: Option<(u64, u16)>,
    /// The last revision that was reported: once is enough for all its pieces.
    reported: Option<u64>,
}

/// The memories of one account, counted.
#[derive(Default)]
struct Counted {
    total: u64,
    by_key: HashMap<KeyNo, u64>,
    counts: Counts,
    newest: MemoryId,
    newest_revision: u64,
}

impl Check<'_> {
    fn run(&mut self) -> Result<(), StoreError> {
        let trees = &self.inner.trees;
        self.each("users", &trees.users, Self::user)?;
        self.each("names", &trees.names, Self::name)?;
        self.each("keys", &trees.keys, Self::key)?;
        self.each("key_ids", &trees.key_ids, Self::key_id)?;
        self.each("account_keys", &trees.account_keys, Self::account_key)?;
        // Each account's memories are walked with its usage.
        self.each("usage", &trees.usage, Self::usage)?;
        self.ownerless_memories()?;
        self.each("stats", &trees.stats, Self::saved_stats)?;
        self.each("stats_journal", &trees.stats_journal, Self::journal)?;
        self.each("replays", &trees.replays, Self::replay)?;
        // Before `replay_times`, which says of some orphans that a sweep is about to remove them.
        self.each("pieces", &trees.pieces, Self::piece)?;
        self.each("replay_times", &trees.replay_times, Self::replay_time)?;
        for key in std::mem::take(&mut self.unswept) {
            self.problem(
                "pieces",
                join_name("r", &key),
                "its recorded answer is gone",
            );
        }
        self.each("key_intents", &trees.key_intents, |_, _, _| {
            Err(damage("an intent is left that opening should have settled"))
        })?;
        self.each("meta", &trees.meta, |_, _, _| Ok(()))?;
        self.blobs();
        Ok(())
    }

    fn problem(&mut self, tree: &'static str, key: impl Into<String>, what: impl Into<String>) {
        self.report.add(Problem {
            tree,
            key: key.into(),
            what: what.into(),
        });
    }

    /// Walks a tree. A step that cannot go on with a record says so with [`StoreError::Corrupt`], which
    /// becomes a problem of that record.
    fn each(
        &mut self,
        name: &'static str,
        tree: &sled::Tree,
        step: impl Fn(&mut Self, &[u8], &sled::IVec) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for entry in tree {
            let (key, value) = entry?;
            self.record(name, &key, &value, &step)?;
        }
        Ok(())
    }

    /// Looks at one record: its size, then what the step says.
    fn record(
        &mut self,
        tree: &'static str,
        key: &[u8],
        value: &sled::IVec,
        step: impl FnOnce(&mut Self, &[u8], &sled::IVec) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if value.len() > VALUE_BYTES_MAX {
            let what = format!("its value of {} bytes is too large", value.len());
            self.problem(tree, record_name(tree, key), what);
        }
        match step(self, key, value) {
            Err(StoreError::Corrupt(what)) => self.problem(tree, record_name(tree, key), what),
            outcome => outcome?,
        }
        Ok(())
    }

    fn user(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        self.report.accounts = self.report.accounts.saturating_add(1);
        let account = AccountKey(exact(key)?);
        let record: AccountRecord = decode(value)?;
        let id = account.anonymous_id();
        if !self.inner.trees.usage.contains_key(key)? {
            self.problem("users", &id, "it has no usage");
        }
        if let Some(name) = &record.name {
            let owner = self.inner.trees.names.get(name)?;
            match owner.map(|owner| decode::<AccountKey>(&owner)) {
                None => self.problem("users", &id, "its name is not in names"),
                Some(Ok(owner)) if owner == account => {}
                Some(_) => self.problem("users", &id, "its name is another account's in names"),
            }
        }
        for active in &record.active {
            let no = active.no;
            match self.key_record(&active.hash)? {
                None => self.problem("users", &id, format!("its active key {no} has no record")),
                Some(key) if key.account != account || key.no != no => {
                    let what = format!("its active key {no} is another key's record");
                    self.problem("users", &id, what);
                }
                Some(key) if key.revoked.is_some() => {
                    self.problem("users", &id, format!("its active key {no} is revoked"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn name(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        let account: AccountKey = decode(value)?;
        let id = account.anonymous_id();
        // The name itself is an e-mail address: problems name the account that it points to.
        match self.account_record(account)? {
            None => self.problem("names", id, "a name points to an account that is not there"),
            Some(record) if record.name.as_deref().map(str::as_bytes) != Some(key) => {
                self.problem("names", id, "a name points to an account with another name");
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn key(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        self.report.keys = self.report.keys.saturating_add(1);
        let hash = KeyHash(exact(key)?);
        let record: KeyRecord = decode(value)?;
        let (trees, id) = (&self.inner.trees, record.id.as_str());
        let by_id = trees
            .key_ids
            .get(id)?
            .map(|bytes| decode::<KeyHash>(&bytes));
        if !by_id.is_some_and(|found| found.is_ok_and(|found| found == hash)) {
            self.problem("keys", id, "its id does not find it in key_ids");
        }
        let number = account_key_key(record.account, record.no);
        let by_no = trees.account_keys.get(number)?;
        let by_no = by_no.map(|bytes| decode::<KeyHash>(&bytes));
        if !by_no.is_some_and(|found| found.is_ok_and(|found| found == hash)) {
            self.problem("keys", id, "its number does not find it in account_keys");
        }
        let entry = ActiveKey {
            no: record.no,
            hash,
        };
        match (self.account_record(record.account)?, &record.revoked) {
            (None, _) => self.problem("keys", id, "its account is not there"),
            (Some(account), None) if !account.active.contains(&entry) => {
                self.problem(
                    "keys",
                    id,
                    "it is not revoked and its account does not list it",
                );
            }
            // A revoked key that is listed is named by its account.
            (Some(_), _) => {}
        }
        if record.revoked.is_some_and(|r| r.share.key_no != record.no) {
            self.problem("keys", id, "the counters kept with it are another key's");
        }
        Ok(())
    }

    fn key_id(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        match self.key_record(&decode(value)?)? {
            Some(record) if record.id.as_str().as_bytes() == key => Ok(()),
            Some(_) => Err(damage("it finds a key with another id")),
            None => Err(damage("it finds no key")),
        }
    }

    fn account_key(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        let key: [u8; 20] = exact(key)?;
        match self.key_record(&decode(value)?)? {
            Some(record) if account_key_key(record.account, record.no) == key => Ok(()),
            Some(_) => Err(damage("it finds a key with another account or number")),
            None => Err(damage("it finds no key")),
        }
    }

    /// Compares an account's usage with its keys and its memories.
    fn usage(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        let account = AccountKey(exact(key)?);
        let id = account.anonymous_id();
        let counted = self.memories_of(account)?;
        self.compare_stats(account, &counted)?;
        let usage: Usage = decode(value)?;
        if usage.used > usage.granted {
            let what = format!("{} credits used of {} granted", usage.used, usage.granted);
            self.problem("usage", &id, what);
        }
        if usage.held != counted.total {
            let what = format!(
                "it counts {} memories, {} are there",
                usage.held, counted.total
            );
            self.problem("usage", &id, what);
        }
        if !usage.intents.is_empty() {
            let what = format!(
                "{} intents are left that opening should have settled",
                usage.intents.len()
            );
            self.problem("usage", &id, what);
        }
        if counted.newest > usage.newest || counted.newest_revision >= usage.next_op {
            self.problem("usage", &id, "a memory is newer than the last one it gave");
        }
        match self.account_record(account)? {
            None => self.problem("usage", &id, "its account is not there"),
            Some(record) => {
                let mut active: Vec<KeyNo> = record.active.iter().map(|key| key.no).collect();
                let mut shares: Vec<KeyNo> = usage.shares.iter().map(|s| s.key_no).collect();
                active.sort_unstable();
                shares.sort_unstable();
                if active != shares {
                    let what =
                        format!("it has shares of the keys {shares:?}, active are {active:?}");
                    self.problem("usage", &id, what);
                }
            }
        }
        self.compare_keys(account, &usage, counted.by_key)
    }

    /// Compares what each key of an account says it holds with the memories stored with it.
    fn compare_keys(
        &mut self,
        account: AccountKey,
        usage: &Usage,
        mut by_key: HashMap<KeyNo, u64>,
    ) -> Result<(), StoreError> {
        let id = account.anonymous_id();
        for entry in self.inner.trees.account_keys.scan_prefix(account.0) {
            let (key, hash) = entry?;
            let (Some(no), Ok(hash)) = (part(&key, 16).map(KeyNo::from_be_bytes), decode(&hash))
            else {
                continue;
            };
            let there = by_key.remove(&no).unwrap_or(0);
            if no >= usage.next_key_no {
                self.problem(
                    "usage",
                    &id,
                    format!("the number {no} of a key would be given again"),
                );
            }
            let Some(record) = self.key_record(&hash)? else {
                continue;
            };
            if let Some(revoked) = record.revoked {
                let held = revoked.share.held;
                if held != there {
                    let what = format!("it counts {held} memories, {there} are there");
                    self.problem("keys", record.id.as_str(), what);
                }
            } else if let Some(share) = usage.share(no)
                && share.held != there
            {
                let held = share.held;
                let what = format!("its key {no} counts {held} memories, {there} are there");
                self.problem("usage", &id, what);
            }
        }
        for (no, count) in by_key {
            let what =
                format!("{count} memories were stored with the key {no}, which is not there");
            self.problem("usage", &id, what);
        }
        Ok(())
    }

    /// Looks at the memories of an account and counts them.
    fn memories_of(&mut self, account: AccountKey) -> Result<Counted, StoreError> {
        let mut counted = Counted::default();
        for entry in self.inner.trees.memories.scan_prefix(account.0) {
            let (key, value) = entry?;
            counted.total = counted.total.saturating_add(1);
            self.record("memories", &key, &value, |check, key, value| {
                check.memory(account, key, value, &mut counted)
            })?;
        }
        self.report.memories = self.report.memories.saturating_add(counted.total);
        Ok(counted)
    }

    fn memory(
        &mut self,
        account: AccountKey,
        key: &[u8],
        value: &sled::IVec,
        counted: &mut Counted,
    ) -> Result<(), StoreError> {
        exact::<32>(key)?;
        let id = memory_id(key)?;
        let head: MemoryHead<'_> = decode_borrowed(value)?;
        let of_key = counted.by_key.entry(head.key_no).or_default();
        *of_key = of_key.saturating_add(1);
        counted.counts.count(&head.facets());
        counted.newest = counted.newest.max(id);
        counted.newest_revision = counted.newest_revision.max(head.revision);
        let json = self
            .inner
            .json_of(account, id, value)?
            .ok_or_else(|| damage("it was deleted while the check ran"))?;
        // What is wrong with it stays out: an error would quote what a client stored.
        let mut object = Object::parse(json.as_bytes())
            .map_err(|_| damage("its JSON is not an object that the service takes"))?;
        let mut text = |name| object.take(name).and_then(|value| json::string(&value));
        if text("id") != Some(id.to_string()) {
            return Err(damage("its JSON has another id"));
        }
        if text("category").as_deref() != Some(head.category)
            || text("type").as_deref() != Some(head.kind)
            || object
                .take("success")
                .is_none_or(|v| v.get() != head.success.to_string())
        {
            return Err(damage(
                "its JSON has another category, type or success than its record",
            ));
        }
        Ok(())
    }

    /// Finds memories of accounts without usage, by leaps from account to account.
    fn ownerless_memories(&mut self) -> Result<(), StoreError> {
        let memories = &self.inner.trees.memories;
        let mut next = memories.first()?;
        while let Some((key, _)) = next {
            let Some(account) = part::<16>(&key, 0) else {
                self.problem("memories", hex(&key), "its key is not 32 bytes");
                next = memories.get_gt(&key)?;
                continue;
            };
            if !self.inner.trees.usage.contains_key(account)? {
                let counted = self.memories_of(AccountKey(account))?;
                let what = format!("{} memories of an account without usage", counted.total);
                let id = AccountKey(account).anonymous_id();
                self.problem("memories", id, what);
            }
            // No key of 32 bytes is longer than this one.
            let last = [account.as_slice(), &[0xFF; 17]].concat();
            next = memories.get_gt(last)?;
        }
        Ok(())
    }

    /// Compares the saved aggregates, brought up to date, with a recount.
    fn compare_stats(&mut self, account: AccountKey, counted: &Counted) -> Result<(), StoreError> {
        let derived = match self.inner.derive_stats(account) {
            Ok(cached) => cached.counts,
            Err(StoreError::Corrupt(what)) => {
                self.problem("stats", account.anonymous_id(), what);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if derived != counted.counts {
            let what = format!(
                "the saved aggregates come to {} memories, a recount to {}, or they differ in names",
                derived.total, counted.counts.total
            );
            self.problem("stats", account.anonymous_id(), what);
        }
        Ok(())
    }

    fn saved_stats(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        let account = AccountKey(exact(key)?);
        let head: StatsHead = decode(value)?;
        // An account without usage, or with a usage that cannot be read, is named elsewhere.
        let Some(usage) = self.inner.trees.usage.get(account.0)? else {
            return Err(damage("its account has no usage"));
        };
        match decode::<Usage>(&usage) {
            Ok(usage) if head.through > usage.newest || head.op >= usage.next_op => {
                Err(damage("it counts writes that the account has not made"))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn journal(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        let key: [u8; 24] = exact(key)?;
        decode::<Delta>(value)?;
        let account: [u8; 16] = exact(key.get(..16).unwrap_or_default())?;
        if self.inner.trees.stats.contains_key(account)? {
            return Ok(());
        }
        Err(damage("its account has no saved aggregates"))
    }

    fn replay(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        let key: [u8; 32] = exact(key)?;
        let record: ReplayRecord<'_> = decode_borrowed(value)?;
        let trees = &self.inner.trees;
        let time = replay_time_key(record.recorded_at, key);
        if !trees.replay_times.contains_key(time)? {
            self.problem(
                "replays",
                record_name("replays", &key),
                "it is not in replay_times, so it would be kept for ever",
            );
        }
        let owner = Owner::replay(key);
        if pieces::read(&trees.pieces, owner, record.revision, record.pieces)?.is_none() {
            return Err(damage("a piece of it is gone"));
        }
        match part(&key, 0) {
            Some(account) if trees.users.contains_key::<[u8; 16]>(account)? => Ok(()),
            _ => Err(damage("its account is not there")),
        }
    }

    fn replay_time(&mut self, key: &[u8], _: &sled::IVec) -> Result<(), StoreError> {
        let key: [u8; 40] = exact(key)?;
        // A time without an answer is no problem: a sweep that was interrupted goes on from it, and
        // removes the pieces that it had not come to.
        if let Some(answer) = part::<32>(&key, 8) {
            self.unswept.remove(&answer);
        }
        Ok(())
    }

    fn piece(&mut self, key: &[u8], _: &sled::IVec) -> Result<(), StoreError> {
        let key: [u8; 43] = exact(key)?;
        let (Some(name), Some(revision), Some(number)) = (
            part::<33>(&key, 0),
            part(&key, 33).map(u64::from_be_bytes),
            part(&key, 41).map(u16::from_be_bytes),
        ) else {
            return Ok(());
        };
        let mut owner = match self.last_owner.take().filter(|owner| owner.name == name) {
            Some(owner) => owner,
            None => PieceOwner {
                name,
                record: self.piece_owner(&name)?,
                reported: None,
            },
        };
        let is_its = owner
            .record
            .is_some_and(|(r, n)| r == revision && number < n);
        if !is_its && owner.reported != Some(revision) {
            owner.reported = Some(revision);
            self.orphan(&name, owner.record.is_some());
        }
        self.last_owner = Some(owner);
        Ok(())
    }

    /// Reports pieces that no record names.
    fn orphan(&mut self, name: &[u8; 33], owner_is_there: bool) {
        let label = record_name("pieces", name);
        match (name, owner_is_there) {
            (_, true) => self.problem("pieces", label, "its owner names other pieces"),
            ([b'r', answer @ ..], false) if self.unswept.len() < PROBLEMS_LISTED_MAX => {
                self.unswept.insert(*answer);
            }
            (_, false) => self.problem("pieces", label, "its owner is not there"),
        }
    }

    /// Returns the revision of a piece's owner and how many pieces it has. `None` if it is not there; one
    /// that cannot be read is named in its own tree.
    fn piece_owner(&self, name: &[u8; 33]) -> Result<Option<(u64, u16)>, StoreError> {
        let trees = &self.inner.trees;
        let [tag, key @ ..] = name;
        let bytes = match tag {
            b'm' => trees.memories.get(key)?,
            b'r' => trees.replays.get(key)?,
            b's' => trees.stats.get(key.get(..16).unwrap_or_default())?,
            _ => None,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let named = match tag {
            b'm' => decode_borrowed::<MemoryHead<'_>>(&bytes).map(|m| (m.revision, m.pieces)),
            b'r' => decode_borrowed::<ReplayRecord<'_>>(&bytes).map(|r| (r.revision, r.pieces)),
            _ => decode::<StatsHead>(&bytes).map(|s| (s.op, s.pieces)),
        };
        Ok(Some(named.unwrap_or((u64::MAX, 0))))
    }

    /// Looks for values that the database has put into files of their own, which are never synced.
    fn blobs(&mut self) {
        let path = self.inner.directory.database_path().join("blobs");
        match std::fs::read_dir(path) {
            Ok(entries) => {
                let names = entries.flatten().map(|entry| entry.file_name());
                for name in names {
                    let name = name.to_string_lossy().into_owned();
                    self.problem("blobs", name, "a value is in a file that is never synced");
                }
            }
            // The database makes the directory; without it there are no such values either.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => self.problem("blobs", "", format!("it cannot be read: {error}")),
        }
    }

    /// Returns a key's record. `None` if there is none, or none that can be read: that is named in `keys`.
    fn key_record(&self, hash: &KeyHash) -> Result<Option<KeyRecord>, StoreError> {
        let bytes = self.inner.trees.keys.get(hash.0)?;
        Ok(bytes.and_then(|bytes| decode(&bytes).ok()))
    }

    /// Returns an account's record, as [`Self::key_record`] does a key's.
    fn account_record(&self, account: AccountKey) -> Result<Option<AccountRecord>, StoreError> {
        let bytes = self.inner.trees.users.get(account.0)?;
        Ok(bytes.and_then(|bytes| decode(&bytes).ok()))
    }
}

fn damage(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

/// Returns a key as the bytes that it must be.
fn exact<const N: usize>(key: &[u8]) -> Result<[u8; N], StoreError> {
    key.try_into()
        .map_err(|_| StoreError::Corrupt(format!("its key is not {N} bytes")))
}

/// Returns how a report names a record: never by an e-mail address, nor by the whole hash of a key.
fn record_name(tree: &str, key: &[u8]) -> String {
    match tree {
        "key_ids" => std::str::from_utf8(key)
            .ok()
            .and_then(KeyId::parse)
            .map_or_else(|| hex(key), |id| id.to_string()),
        "keys" => hex(key.get(..8).unwrap_or(key)),
        "names" => "a name".to_owned(),
        "meta" => String::from_utf8_lossy(key).into_owned(),
        "replays" => answer_name(key),
        "replay_times" => hex(key),
        "pieces" => match key.split_first() {
            Some((tag, owner)) => join_name(&char::from(*tag).to_string(), owner),
            None => hex(key),
        },
        _ => account_name(key),
    }
}

/// Names a piece's owner by its tag and its key.
fn join_name(tag: &str, owner: &[u8]) -> String {
    let owner = owner.get(..32).unwrap_or(owner);
    let id = match tag {
        "m" => account_name(owner),
        "r" => answer_name(owner),
        "s" => account_name(owner.get(..16).unwrap_or(owner)),
        _ => hex(owner),
    };
    format!("{tag} {id}")
}

/// Names a record by the account that its key starts with, and a memory or a number that follows.
fn account_name(key: &[u8]) -> String {
    match (part(key, 0).map(AccountKey), part(key, 16)) {
        (Some(account), Some(id)) if key.len() == 32 => {
            format!("{} {}", account.anonymous_id(), MemoryId::from_bytes(id))
        }
        (Some(account), None) if key.len() == 16 => account.anonymous_id(),
        _ => answer_name(key),
    }
}

/// Names a record by the account that its key starts with, and the rest in hexadecimal.
fn answer_name(key: &[u8]) -> String {
    match part(key, 0).map(AccountKey) {
        Some(account) => {
            let rest = hex(key.get(16..).unwrap_or_default());
            format!("{} {rest}", account.anonymous_id())
        }
        None => hex(key),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
