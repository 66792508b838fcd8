//! `check --repair`: writes what can be derived from what is there, and nothing else.
//!
//! What a record says by itself is believed: accounts (`users`), keys (`keys`), counters (`usage`),
//! memories. What only repeats them is made to agree: indexes of keys and names, counts of memories,
//! numbers that must be above all that were given, saved aggregates, pieces and recorded answers that
//! nothing names, and writes whose intents are still there. A ledger of which rows are gone gets empty ones
//! in their place and a row for what they came to, by the counters: no credit comes or goes. Where two records contradict each other
//! and nothing tells which is right, or one cannot be read, nothing is written.
//!
//! Each step by itself leaves the data no worse, whatever the order on the disk, and is found again by
//! the next repair: one that was interrupted is run again. The order matters for what is believed:
//! intents are settled before anything is counted, indexes are right before keys are looked up
//! through them, counters before aggregates, and owners before pieces that nobody owns.

use std::collections::{HashMap, HashSet};

use crate::domain::account::AccountKey;
use crate::domain::cycle::boundary;
use crate::domain::key::KeyHash;
use crate::domain::ledger::{LedgerRow, Sums};
use crate::domain::usage::{KeyNo, Usage};
use crate::domain::webhook::EndpointId;

use super::check::{Counted, Problem, Progress, has_any, join_name, readable, record_name};
use super::codec::{decode, decode_borrowed, encode, versioned};
use super::keys::name_key;
use super::outbox::{self, OutboxRecord};
use super::pieces::{self, Owner};
use super::schema::{
    AccountRecord, ActiveKey, AuditRow, KeyIntent, KeyRecord, MemoryHead, ReplayRecord, Standing,
    StatsHead, Trees, account_key_key, expiry_key, op_key, part, replay_time_key,
};
use super::usage::{decode_usage, readable_usage};
use super::{Inner, Store, StoreError};

impl Store {
    /// Writes what can be derived, and makes it durable. Returns how many records were repaired.
    ///
    /// Only right after [`Store::open_damaged`], and while nobody else uses the store. `repaired` is told
    /// each record and what was done, `progress` now and then how far it is. What cannot be derived
    /// stays as it is; [`Store::check`] says afterwards what that is.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the database cannot be read or written. What was repaired until then stays, and
    /// another repair goes on.
    pub fn repair(
        &self,
        repaired: &mut dyn FnMut(&Problem),
        progress: &dyn Fn(Progress),
    ) -> Result<u64, StoreError> {
        let inner = &*self.inner()?;
        inner.takes_writes()?;
        let mut repair = Repair {
            inner,
            repaired,
            progress,
            count: 0,
            #[cfg(test)]
            steps_left: None,
        };
        repair.run()?;
        let count = repair.count;
        inner.db.flush()?;
        Ok(count)
    }
}

/// A repair under way.
struct Repair<'a> {
    inner: &'a Inner,
    repaired: &'a mut dyn FnMut(&Problem),
    progress: &'a dyn Fn(Progress),
    count: u64,
    /// Writes until it is interrupted, for tests of what the next repair makes of it.
    #[cfg(test)]
    steps_left: Option<u32>,
}

impl Repair<'_> {
    fn run(&mut self) -> Result<(), StoreError> {
        // What opening read of damaged records tells nothing of them as they are now.
        self.inner.forget_kept();
        self.key_intents()?;
        self.key_indexes()?;
        self.names()?;
        self.expiries()?;
        self.barred()?;
        self.audit_index()?;
        self.accounts()?;
        self.answers()?;
        self.answer_times()?;
        self.orphaned_pieces()?;
        self.orphaned_aggregates()?;
        self.outbox()
    }

    /// Begins a write.
    #[cfg_attr(
        not(test),
        expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "for tests")
    )]
    fn step(&mut self) -> Result<(), StoreError> {
        #[cfg(test)]
        if let Some(left) = &mut self.steps_left {
            *left = left.checked_sub(1).ok_or(StoreError::Unavailable)?;
        }
        Ok(())
    }

    fn insert(&mut self, tree: &sled::Tree, key: &[u8], value: Vec<u8>) -> Result<(), StoreError> {
        self.step()?;
        tree.insert(key, value)?;
        self.inner.forget_kept();
        Ok(())
    }

    fn remove(&mut self, tree: &sled::Tree, key: &[u8]) -> Result<(), StoreError> {
        self.step()?;
        tree.remove(key)?;
        self.inner.forget_kept();
        Ok(())
    }

    /// Says that a record is repaired.
    fn done(&mut self, tree: &'static str, key: impl Into<String>, what: impl Into<String>) {
        self.count = self.count.saturating_add(1);
        (self.repaired)(&Problem {
            tree,
            key: key.into(),
            what: what.into(),
        });
    }

    /// Walks a tree, and tells how far it is.
    fn each(
        &mut self,
        name: &'static str,
        tree: &sled::Tree,
        mut step: impl FnMut(&mut Self, &[u8], &sled::IVec) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut records = 0u64;
        for entry in tree {
            let (key, value) = entry?;
            records = records.saturating_add(1);
            if records.is_multiple_of(256) {
                (self.progress)(Progress {
                    tree: name,
                    records,
                });
            }
            step(self, &key, &value)?;
        }
        Ok(())
    }

    fn trees(&self) -> Trees {
        self.inner.trees.clone()
    }

    fn key_record(&self, hash: &KeyHash) -> Result<Option<KeyRecord>, StoreError> {
        readable(&self.inner.trees.keys, &hash.0)
    }

    fn account_record(&self, account: AccountKey) -> Result<Option<AccountRecord>, StoreError> {
        readable(&self.inner.trees.users, &account.0)
    }

    /// Settles sign-ups and keys that were under way and that opening could not settle.
    fn key_intents(&mut self) -> Result<(), StoreError> {
        let tree = self.trees().key_intents;
        self.each("key_intents", &tree, |repair, key, value| {
            let (Some(account), Ok(intent)) = (part(key, 0), decode::<KeyIntent>(value)) else {
                return Ok(());
            };
            repair.step()?;
            match repair.inner.recover_key(AccountKey(account), intent) {
                Ok(()) => {}
                Err(StoreError::Corrupt(_)) => return Ok(()),
                Err(error) => return Err(error),
            }
            let tree = repair.trees().key_intents;
            repair.remove(&tree, key)?;
            let name = record_name("key_intents", key);
            repair.done("key_intents", name, "what it announces was settled");
            Ok(())
        })
    }

    /// Makes `key_ids` and `account_keys` what `keys` says.
    fn key_indexes(&mut self) -> Result<(), StoreError> {
        let trees = self.trees();
        // First what is missing: what is removed afterwards is only what no key stands behind.
        self.each("keys", &trees.keys, |repair, key, value| {
            let (Ok(hash), Ok(record)) = (key.try_into().map(KeyHash), decode::<KeyRecord>(value))
            else {
                return Ok(());
            };
            repair.index_key(hash, &record)
        })?;
        let by_id = self.strays("key_ids", &trees.key_ids, |key, record| {
            record.id.as_str().as_bytes() == key
        })?;
        let by_no = self.strays("account_keys", &trees.account_keys, |key, record| {
            account_key_key(record.account, record.no) == key
        })?;
        // Two entries that find one key of which there is no record, or one and the list of its account,
        // are what is left of a lost key.
        let lost = |strays: &[Stray]| {
            let lost = strays.iter().filter(|stray| stray.is_lost);
            lost.map(|stray| stray.hash).collect::<HashSet<_>>()
        };
        let (in_ids, in_numbers) = (lost(&by_id), lost(&by_no));
        for stray in &by_id {
            if !in_numbers.contains(&stray.hash) {
                self.remove_stray("key_ids", &trees.key_ids, stray)?;
            }
        }
        for stray in &by_no {
            if !in_ids.contains(&stray.hash) && !self.is_listed(stray)? {
                self.remove_stray("account_keys", &trees.account_keys, stray)?;
            }
        }
        Ok(())
    }

    /// Says whether an account lists a key of which there is no record.
    fn is_listed(&self, stray: &Stray) -> Result<bool, StoreError> {
        let (true, Some(account)) = (stray.is_lost, part(&stray.key, 0).map(AccountKey)) else {
            return Ok(false);
        };
        let record = self.account_record(account)?;
        Ok(record.is_some_and(|record| record.active.iter().any(|key| key.hash == stray.hash)))
    }

    /// Writes what finds a key, unless another key has its place.
    fn index_key(&mut self, hash: KeyHash, record: &KeyRecord) -> Result<(), StoreError> {
        let trees = self.trees();
        let number = account_key_key(record.account, record.no);
        let by_id: Option<KeyHash> = readable(&trees.key_ids, record.id.as_str().as_bytes())?;
        let by_no: Option<KeyHash> = readable(&trees.account_keys, &number)?;
        if (by_id, by_no) == (Some(hash), Some(hash)) || !self.is_its_accounts(hash, record)? {
            return Ok(());
        }
        let other = |found: Option<KeyHash>| match found {
            Some(found) if found != hash => self.key_record(&found),
            _ => Ok(None),
        };
        let same_id = other(by_id)?.is_some_and(|other| other.id == record.id);
        let same_no = other(by_no)?
            .is_some_and(|other| (other.account, other.no) == (record.account, record.no));
        if same_id || same_no {
            return Ok(());
        }
        self.step()?;
        name_key(&trees, &hash, record)?;
        let what = "key_ids and account_keys find it again";
        self.done("keys", record.id.as_str(), what);
        Ok(())
    }

    /// Says whether the account that a key names knows the key too.
    fn is_its_accounts(&self, hash: KeyHash, record: &KeyRecord) -> Result<bool, StoreError> {
        let (account, no) = (record.account, record.no);
        let plans = self.inner.plans;
        let Some(usage) = readable_usage(&self.inner.trees.usage, account, plans)? else {
            return Ok(false);
        };
        let Some(owner) = self.account_record(account)? else {
            return Ok(false);
        };
        let lineage = record.lineage;
        let listed = owner.active.contains(&ActiveKey { no, hash, lineage });
        // The share of a lineage's first key stays while another of it is active.
        let of_others = owner.active.iter().any(|key| key.lineage == no);
        let ended = record.revoked.is_some() && (of_others || usage.share(no).is_none());
        Ok(listed || (ended && no < usage.next_key_no))
    }

    /// Finds entries of an index behind which no key stands.
    fn strays(
        &mut self,
        name: &'static str,
        tree: &sled::Tree,
        is_its: impl Fn(&[u8], &KeyRecord) -> bool,
    ) -> Result<Vec<Stray>, StoreError> {
        let mut strays = Vec::new();
        self.each(name, tree, |repair, key, value| {
            let Ok(hash) = decode::<KeyHash>(value) else {
                return Ok(());
            };
            let stray = |is_lost| Stray {
                key: key.to_vec(),
                hash,
                is_lost,
            };
            match repair.inner.trees.keys.get(hash.0)? {
                None => strays.push(stray(true)),
                Some(bytes) => match decode::<KeyRecord>(&bytes) {
                    // Another entry finds it, and its account knows it by that.
                    Ok(record) if !is_its(key, &record) => {
                        let trees = repair.trees();
                        let id = record.id.as_str().as_bytes();
                        let no = account_key_key(record.account, record.no);
                        if readable(&trees.key_ids, id)? == Some(hash)
                            && readable(&trees.account_keys, &no)? == Some(hash)
                            && repair.is_its_accounts(hash, &record)?
                        {
                            strays.push(stray(false));
                        }
                    }
                    Ok(_) | Err(_) => {}
                },
            }
            Ok(())
        })?;
        Ok(strays)
    }

    fn remove_stray(
        &mut self,
        name: &'static str,
        tree: &sled::Tree,
        stray: &Stray,
    ) -> Result<(), StoreError> {
        self.remove(tree, &stray.key)?;
        let key = record_name(name, &stray.key);
        self.done(name, key, "removed: no key stands behind it");
        Ok(())
    }

    /// Makes `names` what `users` says, but for names that two accounts claim.
    fn names(&mut self) -> Result<(), StoreError> {
        let trees = self.trees();
        let mut claims: HashMap<String, Vec<AccountKey>> = HashMap::new();
        self.each("users", &trees.users, |repair, key, value| {
            let (Ok(key), Ok(record)) = (key.try_into(), decode::<AccountRecord>(value)) else {
                return Ok(());
            };
            let (account, Some(name)) = (AccountKey(key), record.name) else {
                return Ok(());
            };
            if readable(&repair.inner.trees.names, name.as_bytes())? != Some(account) {
                claims.entry(name).or_default().push(account);
            }
            Ok(())
        })?;
        for (name, accounts) in claims {
            let [account] = accounts.as_slice() else {
                continue;
            };
            let holder: Option<AccountKey> = readable(&trees.names, name.as_bytes())?;
            if let Some(holder) = holder
                && self.may_be_called(holder, name.as_bytes())?
            {
                continue;
            }
            self.insert(&trees.names, name.as_bytes(), encode(account)?)?;
            let what = "a name finds the account that has it again";
            self.done("names", account.anonymous_id(), what);
        }
        self.each("names", &trees.names, |repair, key, value| {
            let Ok(account) = decode::<AccountKey>(value) else {
                return Ok(());
            };
            if repair.may_be_called(account, key)? {
                return Ok(());
            }
            let tree = repair.trees().names;
            repair.remove(&tree, key)?;
            let what = "a name was removed: the account that it finds is not called so";
            repair.done("names", account.anonymous_id(), what);
            Ok(())
        })
    }

    /// Says whether an account has a name, or may have it for all that can be read of it.
    fn may_be_called(&self, account: AccountKey, name: &[u8]) -> Result<bool, StoreError> {
        let trees = &self.inner.trees;
        Ok(match trees.users.get(account.0)? {
            Some(bytes) => match decode::<AccountRecord>(&bytes) {
                Ok(record) => record.name.is_some_and(|its| its.as_bytes() == name),
                Err(_) => true,
            },
            // Its record was lost, if anything else of it is there.
            None => {
                trees.usage.contains_key(account.0)?
                    || has_any(&trees.account_keys, account)?
                    || has_any(&trees.memories, account)?
            }
        })
    }

    /// Settles each account's writes, then makes its keys, counters and aggregates agree.
    fn accounts(&mut self) -> Result<(), StoreError> {
        let tree = self.trees().usage;
        self.each("usage", &tree, |repair, key, value| {
            let usage = decode_usage(value, repair.inner.plans);
            let (Ok(key), Ok(usage)) = (key.try_into(), usage) else {
                return Ok(());
            };
            let account = AccountKey(key);
            let Some(usage) = repair.settled(account, usage)? else {
                return Ok(());
            };
            repair.account(account, usage)
        })
    }

    /// Settles the writes of an account that were under way. `None` if that is not possible.
    fn settled(
        &mut self,
        account: AccountKey,
        mut usage: Usage,
    ) -> Result<Option<Usage>, StoreError> {
        let open = usage.intents.len();
        if open == 0 {
            return Ok(Some(usage));
        }
        self.step()?;
        match self.inner.recover_memories(account, &mut usage) {
            Ok(_) => {
                let what = format!("{open} writes that were under way were settled");
                self.done("usage", account.anonymous_id(), what);
                Ok(Some(usage))
            }
            Err(StoreError::Corrupt(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn account(&mut self, account: AccountKey, mut usage: Usage) -> Result<(), StoreError> {
        let trees = self.trees();
        let id = account.anonymous_id();
        let keys = self.keys_of(account)?;
        if let Some(record) = self.account_record(account)? {
            self.active_keys(account, record, &mut usage, &keys)?;
        }
        let counted = Counted::of(self.inner, account)?;
        let before = readable_usage(&trees.usage, account, self.inner.plans)?;
        let above = |n: u64| n.saturating_add(1);
        let ends = keys.iter().filter_map(|key| key.retired.as_ref());
        let last_ops = ends.map(|end| above(end.last_op));
        let numbers = keys.iter().map(|key| key.no.saturating_add(1));
        usage.newest = usage.newest.max(counted.newest);
        usage.next_op = last_ops
            .chain([usage.next_op, above(counted.newest_revision)])
            .max()
            .unwrap_or(usage.next_op);
        usage.next_key_no = numbers.fold(usage.next_key_no, KeyNo::max);
        usage.cycle_end = boundary(usage.anchor, usage.cycle.saturating_add(1));
        if counted.unreadable == 0 {
            usage.held = counted.total;
            let held_by = |no: KeyNo| counted.by_key.get(&no).copied().unwrap_or(0);
            for share in &mut usage.shares {
                share.held = held_by(share.key_no);
            }
            for key in &keys {
                self.held_by_revoked(key, held_by(key.no))?;
            }
        }
        if before.as_ref() != Some(&usage) {
            self.insert(&trees.usage, &account.0, encode(&usage)?)?;
            self.done("usage", &id, "its counters were derived anew");
        }
        self.ledger(account, &mut usage)?;
        if counted.unreadable == 0 {
            self.aggregates(account, usage, &counted)?;
        }
        Ok(())
    }

    /// Closes the gaps in an account's ledger. Where no row is gone, or one cannot be read, nothing is written:
    /// if it does not add up then, nothing tells whether its rows or the counters are right.
    fn ledger(&mut self, account: AccountKey, usage: &mut Usage) -> Result<(), StoreError> {
        if !usage.ledger.is_numbered() {
            return Ok(());
        }
        let tree = self.trees().ledger;
        self.ledger_of_usage(&tree, account, usage)?;
        let (gone, mut expected) = (usage.ledger.gone(), 1u64);
        let (mut sums, mut missing) = (Sums::default(), Vec::new());
        let (first, last) = (op_key(account, 0), op_key(account, gone));
        for entry in tree.range(first..=last) {
            let (key, value) = entry?;
            let Ok(row) = decode::<LedgerRow>(&value) else {
                return Ok(());
            };
            if key != op_key(account, row.no) {
                return Ok(());
            }
            missing.push(expected..row.no);
            expected = row.no.saturating_add(1);
            sums.count(&row, usage.cycle);
        }
        missing.push(expected..gone.saturating_add(1));
        missing.retain(|rows| !rows.is_empty());
        if missing.is_empty() {
            return Ok(());
        }
        for row in &usage.ledger.rows {
            sums.count(row, usage.cycle);
        }
        // What they came to goes first: with it, but without the empty rows, the next repair ends the same.
        let at = usage.ledger.rows.iter().map(|row| row.at).max();
        let at = at.or(usage.last_activity).unwrap_or(usage.anchor);
        usage.reconcile(&sums, at);
        self.insert(&self.trees().usage, &account.0, encode(usage)?)?;
        for no in missing.into_iter().flatten() {
            let empty = LedgerRow::lost(no, usage.cycle, at);
            self.insert(&tree, &op_key(account, no), encode(&empty)?)?;
        }
        let what =
            "rows of its ledger are gone: empty ones and what they came to were put in their place";
        self.done("ledger", account.anonymous_id(), what);
        Ok(())
    }

    /// Makes rows that are in the tree while the usage still has them what the usage says.
    fn ledger_of_usage(
        &mut self,
        tree: &sled::Tree,
        account: AccountKey,
        usage: &Usage,
    ) -> Result<(), StoreError> {
        for row in &usage.ledger.rows {
            let key = op_key(account, row.no);
            let bytes = tree.get(key)?;
            let Some(bytes) = bytes else { continue };
            if row.no > usage.ledger.frozen {
                self.remove(tree, &key)?;
            } else if decode::<LedgerRow>(&bytes).ok().as_ref() != Some(row) {
                self.insert(tree, &key, encode(row)?)?;
            } else {
                continue;
            }
            let name = record_name("ledger", &key);
            self.done("ledger", name, "it is what the account's usage says again");
        }
        Ok(())
    }

    /// Makes `key_expiries` have every key that ends and is not revoked.
    fn expiries(&mut self) -> Result<(), StoreError> {
        let trees = self.trees();
        self.each("key_expiries", &trees.key_expiries, |repair, key, value| {
            let tree = repair.trees().key_expiries;
            let name = record_name("key_expiries", key);
            if key.len() != 28 {
                repair.remove(&tree, key)?;
                repair.done("key_expiries", name, "removed: no sweep can use it");
            } else if !value.is_empty() {
                repair.insert(&tree, key, Vec::new())?;
                repair.done("key_expiries", name, "its value is the empty one again");
            }
            Ok(())
        })?;
        self.each("keys", &trees.keys, |repair, _, value| {
            let Ok(record) = decode::<KeyRecord>(value) else {
                return Ok(());
            };
            let (Some(end), None) = (record.expires_at, &record.revoked) else {
                return Ok(());
            };
            let index = expiry_key(end, record.account, record.no);
            let tree = repair.trees().key_expiries;
            if !tree.contains_key(index)? {
                repair.insert(&tree, &index, Vec::new())?;
                let what = "key_expiries has it again";
                repair.done("keys", record.id.as_str(), what);
            }
            Ok(())
        })
    }

    /// Makes `barred` what `users` says.
    fn barred(&mut self) -> Result<(), StoreError> {
        let trees = self.trees();
        self.each("users", &trees.users, |repair, key, value| {
            let (Ok(key), Ok(record)) = (key.try_into(), decode::<AccountRecord>(value)) else {
                return Ok(());
            };
            let account = AccountKey(key);
            let tree = repair.trees().barred;
            if record.standing != Standing::Good && !tree.contains_key(key)? {
                repair.insert(&tree, &key, Vec::new())?;
                let what = "it is in barred again, as its record says";
                repair.done("users", account.anonymous_id(), what);
            }
            Ok(())
        })?;
        self.each("barred", &trees.barred, |repair, key, value| {
            let tree = repair.trees().barred;
            let name = record_name("barred", key);
            let trees = &repair.inner.trees;
            let record = match trees.users.get(key)? {
                // Its record was lost, if anything else of it is there.
                None if trees.usage.contains_key(key)? => return Ok(()),
                None => None,
                Some(bytes) => match decode::<AccountRecord>(&bytes) {
                    Ok(record) => Some(record),
                    Err(_) => return Ok(()),
                },
            };
            if record.is_none_or(|record| record.standing == Standing::Good) {
                repair.remove(&tree, key)?;
                let what = "removed: its account is not suspended";
                repair.done("barred", name, what);
            } else if !value.is_empty() {
                repair.insert(&tree, key, Vec::new())?;
                repair.done("barred", name, "its value is the empty one again");
            }
            Ok(())
        })
    }

    /// Makes `audit_accounts` what the rows of `audit` say. What leads to a row that cannot be read stays.
    fn audit_index(&mut self) -> Result<(), StoreError> {
        let trees = self.trees();
        self.each("audit", &trees.audit, |repair, key, value| {
            let (Some(no), Ok(row)) = (part(key, 0), decode::<AuditRow>(value)) else {
                return Ok(());
            };
            let Some(account) = row.entry.account else {
                return Ok(());
            };
            let (index, entry) = (
                repair.trees().audit_accounts,
                op_key(account, u64::from_be_bytes(no)),
            );
            if key.len() == 8 && !index.contains_key(entry)? {
                repair.insert(&index, &entry, Vec::new())?;
                let name = record_name("audit", key);
                repair.done("audit", name, "audit_accounts has it again");
            }
            Ok(())
        })?;
        self.each(
            "audit_accounts",
            &trees.audit_accounts,
            |repair, key, value| {
                let index = repair.trees().audit_accounts;
                let name = record_name("audit_accounts", key);
                let row = match part::<8>(key, 16).filter(|_| key.len() == 24) {
                    Some(no) => repair.inner.trees.audit.get(no)?,
                    None => None,
                };
                let leads = row.is_some_and(|row| {
                    let row = decode::<AuditRow>(&row);
                    row.map_or(true, |row| {
                        row.entry.account == part(key, 0).map(AccountKey)
                    })
                });
                if !leads {
                    repair.remove(&index, key)?;
                    let what = "removed: it leads to no row of its account";
                    repair.done("audit_accounts", name, what);
                } else if !value.is_empty() {
                    repair.insert(&index, key, Vec::new())?;
                    repair.done("audit_accounts", name, "its value is the empty one again");
                }
                Ok(())
            },
        )
    }

    /// Returns an account's keys, revoked ones too.
    fn keys_of(&self, account: AccountKey) -> Result<Vec<KeyRecord>, StoreError> {
        let mut keys = Vec::new();
        for entry in self.inner.trees.account_keys.scan_prefix(account.0) {
            let (number, hash) = entry?;
            let Ok(hash) = decode(&hash) else { continue };
            let record = self.key_record(&hash)?;
            keys.extend(record.filter(|r| number == account_key_key(r.account, r.no)));
        }
        Ok(keys)
    }

    /// Makes the list of active keys and the shares agree: what a key's record says of its end holds.
    fn active_keys(
        &mut self,
        account: AccountKey,
        mut record: AccountRecord,
        usage: &mut Usage,
        keys: &[KeyRecord],
    ) -> Result<(), StoreError> {
        let ended = |no: KeyNo| keys.iter().any(|key| key.no == no && key.revoked.is_some());
        let retired = |no: KeyNo| keys.iter().any(|key| key.no == no && key.retired.is_some());
        let before = record.active.clone();
        record.active.retain(|key| !ended(key.no));
        usage.shares.retain(|share| !retired(share.key_no));
        for key in keys.iter().filter(|key| key.revoked.is_none()) {
            let listed = record.active.iter().any(|active| active.no == key.no);
            let number = account_key_key(account, key.no);
            let hash: Option<KeyHash> = readable(&self.inner.trees.account_keys, &number)?;
            if let Some(hash) = hash
                && !listed
                && usage.share(key.lineage).is_some()
            {
                record.active.push(ActiveKey {
                    no: key.no,
                    hash,
                    lineage: key.lineage,
                });
            }
        }
        let mut seen = HashSet::new();
        record.active.retain(|key| seen.insert((key.no, key.hash)));
        record.active.sort_by_key(|key| key.no);
        if record.active != before {
            let tree = self.trees().users;
            self.insert(&tree, &account.0, encode(&record)?)?;
            let what = "its active keys were derived from its keys";
            self.done("users", account.anonymous_id(), what);
        }
        Ok(())
    }

    /// Corrects what a retired lineage is said to hold.
    fn held_by_revoked(&mut self, key: &KeyRecord, held: u64) -> Result<(), StoreError> {
        let Some(retired) = key.retired.as_ref().filter(|r| r.share.held != held) else {
            return Ok(());
        };
        let trees = self.trees();
        let number = account_key_key(key.account, key.no);
        let Some(hash) = readable::<KeyHash>(&trees.account_keys, &number)? else {
            return Ok(());
        };
        let mut corrected = key.clone();
        let mut end = retired.clone();
        end.share.held = held;
        corrected.retired = Some(end);
        self.insert(&trees.keys, &hash.0, encode(&corrected)?)?;
        self.done(
            "keys",
            key.id.as_str(),
            "the memories that it counts were counted anew",
        );
        Ok(())
    }

    /// Makes the saved aggregates anew if they do not come to what is there.
    fn aggregates(
        &mut self,
        account: AccountKey,
        usage: Usage,
        counted: &Counted,
    ) -> Result<(), StoreError> {
        let trees = self.trees();
        let head = trees.stats.get(account.0)?;
        let ahead = match head.as_ref().map(|bytes| decode::<StatsHead>(bytes)) {
            Some(Ok(head)) => head.through > usage.newest || head.op >= usage.next_op,
            Some(Err(_)) => true,
            None => has_any(&trees.stats_journal, account)?,
        };
        let last = op_key(account, usage.next_op);
        let later = trees.stats_journal.range(last..).next().transpose()?;
        let later = later.is_some_and(|(key, _)| key.starts_with(&account.0));
        let agrees = match self.inner.derive_stats(account) {
            Ok(derived) => derived.counts == counted.counts,
            Err(StoreError::Corrupt(_)) => false,
            Err(error) => return Err(error),
        };
        if agrees && !ahead && !later {
            return Ok(());
        }
        // From the new snapshot on, which is one swap, the old journal counts no more.
        self.step()?;
        let due = self.inner.snapshot_of(account, &usage, &counted.counts)?;
        let op = usage.next_op.saturating_sub(1);
        pieces::remove_others(&trees.pieces, Owner::stats(account.0), Some(op))?;
        for key in trees.stats_journal.scan_prefix(account.0).keys() {
            self.remove(&trees.stats_journal, &key?)?;
        }
        let mut usage = usage;
        usage.stats_due = due;
        self.insert(&trees.usage, &account.0, encode(&usage)?)?;
        let what = "the aggregates were counted anew";
        self.done("stats", account.anonymous_id(), what);
        Ok(())
    }

    /// Removes recorded answers that cannot be given, and puts back the times of the others.
    fn answers(&mut self) -> Result<(), StoreError> {
        let tree = self.trees().replays;
        self.each("replays", &tree, |repair, key, value| {
            let (Ok(key), Ok(record)) = (
                <[u8; 32]>::try_from(key),
                decode_borrowed::<ReplayRecord<'_>>(value),
            ) else {
                return Ok(());
            };
            let trees = repair.trees();
            let (owner, account) = (Owner::replay(key), part(&key, 0).map(AccountKey));
            let whole = pieces::read(&trees.pieces, owner, record.revision, record.pieces);
            let is_whole = match whole {
                Ok(whole) => whole.is_some(),
                Err(StoreError::Corrupt(_)) => false,
                Err(error) => return Err(error),
            };
            let is_anyones = match account {
                Some(account) => {
                    trees.users.contains_key(account.0)? || trees.usage.contains_key(account.0)?
                }
                None => false,
            };
            let name = record_name("replays", &key);
            if !is_whole || !is_anyones {
                repair.remove(&trees.replays, &key)?;
                pieces::remove_others(&trees.pieces, owner, None)?;
                let what = "removed: it cannot be given any more";
                repair.done("replays", name, what);
                return Ok(());
            }
            let time = replay_time_key(record.recorded_at, key);
            if !trees.replay_times.contains_key(time)? {
                repair.insert(&trees.replay_times, &time, versioned(&[]))?;
                repair.done("replay_times", name, "the time of an answer was put back");
            }
            Ok(())
        })
    }

    /// Removes times that no sweep can use, and corrects their values.
    fn answer_times(&mut self) -> Result<(), StoreError> {
        let tree = self.trees().replay_times;
        self.each("replay_times", &tree, |repair, key, value| {
            let tree = repair.trees().replay_times;
            let name = record_name("replay_times", key);
            if key.len() != 40 {
                repair.remove(&tree, key)?;
                repair.done("replay_times", name, "removed: no sweep can use it");
            } else if **value != versioned(&[]) {
                repair.insert(&tree, key, versioned(&[]))?;
                repair.done("replay_times", name, "its value is the empty one again");
            }
            Ok(())
        })
    }

    /// Removes pieces that no record names. Those of an owner that cannot be read stay.
    fn orphaned_pieces(&mut self) -> Result<(), StoreError> {
        let trees = self.trees();
        let mut last: Option<(Vec<u8>, Option<Named>)> = None;
        let mut told: Option<(Vec<u8>, u64)> = None;
        self.each("pieces", &trees.pieces, |repair, key, _| {
            let (Some(name), Some(revision), Some(number), 43) = (
                key.get(..33),
                part(key, 33).map(u64::from_be_bytes),
                part(key, 41).map(u16::from_be_bytes),
                key.len(),
            ) else {
                return Ok(());
            };
            let named = match last.take().filter(|(its, _)| its == name) {
                Some((_, named)) => named,
                None => repair.named_by_owner(name)?,
            };
            let is_named = match named {
                Some(Named::Pieces(its, count)) => its == revision && number < count,
                Some(Named::Unreadable) => true,
                None => false,
            };
            last = Some((name.to_vec(), named));
            if !is_named {
                let tree = repair.trees().pieces;
                repair.remove(&tree, key)?;
                // Once for all of them.
                let removed = Some((name.to_vec(), revision));
                if told != removed {
                    told = removed;
                    let label = record_name("pieces", name);
                    let what = format!("removed from piece {number} on: no record names it");
                    repair.done("pieces", label, what);
                }
            }
            Ok(())
        })
    }

    /// Returns what the owner of pieces says of them. `None` if there is no owner.
    fn named_by_owner(&self, name: &[u8]) -> Result<Option<Named>, StoreError> {
        let trees = &self.inner.trees;
        let (tag, key) = name.split_at_checked(1).unwrap_or_default();
        let bytes = match tag {
            b"m" => trees.memories.get(key)?,
            b"r" => trees.replays.get(key)?,
            b"s" => trees.stats.get(key.get(..16).unwrap_or_default())?,
            _ => None,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let named = match tag {
            b"m" => decode_borrowed::<MemoryHead<'_>>(&bytes).map(|m| (m.revision, m.pieces)),
            b"r" => decode_borrowed::<ReplayRecord<'_>>(&bytes).map(|r| (r.revision, r.pieces)),
            _ => decode::<StatsHead>(&bytes).map(|s| (s.op, s.pieces)),
        };
        Ok(Some(
            named.map_or(Named::Unreadable, |(revision, count)| {
                Named::Pieces(revision, count)
            }),
        ))
    }

    /// Removes events that cannot be sent: what cannot be read, or waits for no endpoint.
    fn outbox(&mut self) -> Result<(), StoreError> {
        let trees = self.trees();
        let endpoints = match outbox::endpoints(&trees) {
            Err(StoreError::Corrupt(_)) => {
                let ids = outbox::endpoints_of_events(&trees)?;
                let list = encode(&outbox::Endpoints(ids.clone()))?;
                self.insert(&trees.meta, outbox::ENDPOINTS, list)?;
                let what = "the endpoints were derived from what waits for them";
                self.done("meta", "webhooks", what);
                ids
            }
            endpoints => endpoints?,
        };
        self.each("outbox", &trees.outbox, |repair, key, value| {
            let is_sound = decode::<OutboxRecord>(value).is_ok_and(|record| {
                let entry = part(key, 8);
                key.len() == 32 && entry.is_some_and(|entry| outbox::is_in_place(entry, &record))
            });
            let endpoint = part(key, 0).map(EndpointId);
            if is_sound && endpoint.is_some_and(|id| endpoints.contains(&id)) {
                return Ok(());
            }
            repair.remove(&trees.outbox, key)?;
            let name = record_name("outbox", key);
            repair.done("outbox", name, "removed: it cannot be sent");
            Ok(())
        })
    }

    /// Removes aggregates of accounts of which nothing else is there.
    fn orphaned_aggregates(&mut self) -> Result<(), StoreError> {
        let trees = self.trees();
        let is_anyones = |account: Option<[u8; 16]>| match account {
            None => Ok(true),
            Some(account) => Ok::<_, StoreError>(
                trees.users.contains_key(account)?
                    || trees.usage.contains_key(account)?
                    || has_any(&trees.memories, AccountKey(account))?,
            ),
        };
        self.each("stats", &trees.stats, |repair, key, _| {
            if key.len() != 16 || is_anyones(part(key, 0))? {
                return Ok(());
            }
            repair.remove(&trees.stats, key)?;
            let own = join_name("s", key);
            pieces::remove_others(
                &trees.pieces,
                Owner::stats(part(key, 0).unwrap_or_default()),
                None,
            )?;
            repair.done("stats", own, "removed: they are of no account");
            Ok(())
        })?;
        self.each("stats_journal", &trees.stats_journal, |repair, key, _| {
            if key.len() != 24 || is_anyones(part(key, 0))? {
                return Ok(());
            }
            repair.remove(&trees.stats_journal, key)?;
            let name = record_name("stats_journal", key);
            repair.done("stats_journal", name, "removed: it is of no account");
            Ok(())
        })
    }
}

/// An entry of an index behind which no key stands.
#[derive(Debug)]
struct Stray {
    key: Vec<u8>,
    hash: KeyHash,
    /// Whether there is no record of the key at all, rather than one that says it is another.
    is_lost: bool,
}

/// What a record says of its pieces.
#[derive(Clone, Copy, Debug)]
enum Named {
    /// Their revision and how many they are.
    Pieces(u64, u16),
    /// It cannot be read: any may be its own.
    Unreadable,
}

#[cfg(test)]
mod tests;
