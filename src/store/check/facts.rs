//! What must hold of each record, tree by tree. A step may run twice on one record; see [`Check::record`].

use serde::Deserialize;

use crate::domain::account::{AccountKey, Email};
use crate::domain::json::{self, Object};
use crate::domain::key::KeyHash;
use crate::domain::memory::MemoryId;
use crate::domain::usage::{KeyNo, Usage};
use crate::domain::webhook::EndpointId;

use super::super::codec::{decode, decode_borrowed, unversioned, versioned};
use super::super::memories::memory_id;
use super::super::outbox::{self, OutboxRecord};
use super::super::pieces::{self, Owner};
use super::super::plans::read_table;
use super::super::schema::{
    AccountRecord, ActiveKey, KeyRecord, MemoryHead, PLANS_HEAD, ReplayRecord, StatsHead,
    account_key_key, expiry_key, memory_key, part, replay_time_key,
};
use super::super::stats::Delta;
use super::super::usage::{decode_usage, readable_usage};
use super::{
    Check, PROBLEMS_LISTED_MAX, PieceOwner, StoreError, damage, exact, join_name, readable,
    record_name,
};

impl Check<'_> {
    /// The catalog is one fact: its head is read with all its rows. Rows of another generation are what an
    /// apply that was cut short has left, for the next one to remove.
    pub(super) fn plans(&mut self, key: &[u8], _: &sled::IVec) -> Result<(), StoreError> {
        if key == PLANS_HEAD {
            read_table(&self.inner.trees)?;
        }
        Ok(())
    }

    pub(super) fn user(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        let account = AccountKey(exact(key)?);
        let record: AccountRecord = decode(value)?;
        let id = account.anonymous_id();
        if !self.inner.trees.usage.contains_key(key)? {
            self.problem("users", &id, "it has no usage");
        }
        if let Some(name) = &record.name {
            if !is_normal(name) {
                self.problem("users", &id, "its e-mail is not in the form that is unique");
            }
            let owner = self.inner.trees.names.get(name)?;
            match owner.map(|owner| decode::<AccountKey>(&owner)) {
                None => self.problem("users", &id, "its name is not in names"),
                Some(Ok(owner)) if owner == account => {}
                Some(_) => self.problem("users", &id, "its name is another account's in names"),
            }
        }
        for (n, active) in record.active.iter().enumerate() {
            let no = active.no;
            let twice = record
                .active
                .iter()
                .take(n)
                .any(|other| other.no == no || other.hash == active.hash);
            if twice {
                self.problem("users", &id, format!("its active key {no} is listed twice"));
            }
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
        self.standing(account, &record)?;
        self.events("users", account, &record.events);
        if record.active.is_empty() && !self.admin_took_a_key(account)? {
            let what = "it has no active key, and no admin revoked one";
            self.problem("users", &id, what);
        }
        Ok(())
    }

    /// Says whether a key of the account was revoked by an admin; or by nobody that is known, as keys
    /// are that were imported. Only such a one can have been the last.
    fn admin_took_a_key(&self, account: AccountKey) -> Result<bool, StoreError> {
        for hash in self
            .inner
            .trees
            .account_keys
            .scan_prefix(account.0)
            .values()
        {
            let Ok(hash) = decode::<KeyHash>(&hash?) else {
                continue;
            };
            let revoked = self.key_record(&hash)?.and_then(|key| key.revoked);
            if revoked.is_some_and(|r| {
                r.by.as_deref()
                    .is_none_or(|by| matches!(by, "admin" | "operator"))
            }) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn name(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
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

    pub(super) fn key(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        let hash = KeyHash(exact(key)?);
        let record: KeyRecord = decode(value)?;
        let (trees, id) = (&self.inner.trees, record.id.as_str());
        if readable(&trees.key_ids, id.as_bytes())? != Some(hash) {
            self.problem("keys", id, "its id does not find it in key_ids");
        }
        let number = account_key_key(record.account, record.no);
        if readable(&trees.account_keys, &number)? != Some(hash) {
            self.problem("keys", id, "its number does not find it in account_keys");
        }
        if let (Some(end), None) = (record.expires_at, &record.revoked) {
            let index = expiry_key(end, record.account, record.no);
            if !trees.key_expiries.contains_key(index)? {
                let what =
                    "it ends, but is not in key_expiries: it would stay in its account's list";
                self.problem("keys", id, what);
            }
        }
        let entry = ActiveKey {
            no: record.no,
            hash,
            lineage: record.lineage,
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
        let Some(retired) = &record.retired else {
            return Ok(());
        };
        if retired.share.key_no != record.no {
            self.problem("keys", id, "the counters kept with it are another key's");
        }
        let usage = readable_usage(&trees.usage, record.account, self.inner.plans)?;
        let ahead = |usage: Usage| retired.last_op >= usage.next_op || retired.cycle > usage.cycle;
        if usage.is_some_and(ahead) {
            self.problem(
                "keys",
                id,
                "its end counts writes that the account has not made",
            );
        }
        Ok(())
    }

    pub(super) fn key_id(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        match self.key_record(&decode(value)?)? {
            Some(record) if record.id.as_str().as_bytes() == key => Ok(()),
            Some(_) => Err(damage("it finds a key with another id")),
            None => Err(damage("it finds no key")),
        }
    }

    pub(super) fn account_key(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        let key: [u8; 20] = exact(key)?;
        match self.key_record(&decode(value)?)? {
            Some(record) if account_key_key(record.account, record.no) == key => Ok(()),
            Some(_) => Err(damage("it finds a key with another account or number")),
            None => Err(damage("it finds no key")),
        }
    }

    /// Looks at all memories, each by itself; they are counted with the usage of their account.
    pub(super) fn memories(&mut self) -> Result<(), StoreError> {
        let trees = &self.inner.trees;
        let (mut records, mut last) = (0, None);
        for entry in &trees.memories {
            let (key, value) = entry?;
            self.walked("memories", &mut records)?;
            let account = part(&key, 0).map(AccountKey);
            if let Some(account) = account.filter(|account| last != Some(*account)) {
                last = Some(account);
                if !trees.usage.contains_key(account.0)? {
                    self.without_usage(account)?;
                }
            }
            self.record("memories", &trees.memories, &key, &value, Self::memory)?;
        }
        self.report.memories = records;
        Ok(())
    }

    /// Reports the memories of an account that has no usage.
    fn without_usage(&mut self, account: AccountKey) -> Result<(), StoreError> {
        let trees = &self.inner.trees;
        let alone = self.inner.locks.alone_blocking(account);
        let there = trees.memories.scan_prefix(account.0).count();
        let is_erasing = self.inner.is_erasing(account)?;
        if there > 0 && !is_erasing && !trees.usage.contains_key(account.0)? {
            let what = format!("{there} memories of an account without usage");
            self.problem("memories", account.anonymous_id(), what);
        }
        drop(alone);
        self.confirmed()
    }

    fn memory(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        exact::<32>(key)?;
        let (account, id) = (
            AccountKey(part(key, 0).unwrap_or_default()),
            memory_id(key)?,
        );
        // What the JSON is compared with is the head that it belongs to, should that be changed meanwhile.
        let Some((json, value)) = self.inner.json_and_head(account, id, value)? else {
            return Err(damage("it was deleted while the check ran"));
        };
        let head: MemoryHead<'_> = decode_borrowed(&value)?;
        // What is wrong with it stays out: an error would quote what a client stored.
        let mut object = Object::parse(json.as_bytes())
            .map_err(|_| damage("its JSON is not an object that the service takes"))?;
        let mut text = |name| object.take(name).and_then(json::string);
        if text("id") != Some(id.to_string().into()) {
            return Err(damage("its JSON has another id"));
        }
        let timestamp = head.timestamp.to_string();
        let key_id = text("key_id");
        if text("category").as_deref() != Some(head.category)
            || text("type").as_deref() != Some(head.kind)
            || text("timestamp") != Some(timestamp.into())
            || object
                .take("success")
                .is_none_or(|v| v.get() != head.success.to_string())
        {
            return Err(damage(
                "its JSON has another category, type, time or success than its record",
            ));
        }
        if let Some(named) = key_id
            && self.lineage_of(account, head.key_no, &named)? == Some(false)
        {
            return Err(damage("its JSON names another key than its record"));
        }
        Ok(())
    }

    /// Says whether the key with this id is of a lineage of the account. `None` if the lineage's first key is
    /// not there, which is named elsewhere.
    fn lineage_of(
        &mut self,
        account: AccountKey,
        lineage: KeyNo,
        id: &str,
    ) -> Result<Option<bool>, StoreError> {
        if let Some((a, l, i, is_of)) = &self.last_key
            && (*a, *l, i.as_str()) == (account, lineage, id)
        {
            return Ok(*is_of);
        }
        let trees = &self.inner.trees;
        let found = |hash: Option<KeyHash>| match hash {
            Some(hash) => self.key_record(&hash),
            None => Ok(None),
        };
        let first = found(readable(
            &trees.account_keys,
            &account_key_key(account, lineage),
        )?)?;
        let named = found(readable(&trees.key_ids, id.as_bytes())?)?;
        let is_first = |key: &KeyRecord| (key.account, key.no) == (account, lineage);
        let is_of = first.filter(is_first).map(|first| {
            let same_lineage = |key: KeyRecord| (key.account, key.lineage) == (account, lineage);
            first.id.as_str() == id || named.is_some_and(same_lineage)
        });
        self.last_key = Some((account, lineage, id.to_owned(), is_of));
        Ok(is_of)
    }

    pub(super) fn saved_stats(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        let account = AccountKey(exact(key)?);
        let head: StatsHead = decode(value)?;
        // An account without usage, or with a usage that cannot be read, is named elsewhere.
        let Some(usage) = self.inner.trees.usage.get(account.0)? else {
            return Err(damage("its account has no usage"));
        };
        match decode_usage(&usage, self.inner.plans) {
            Ok(usage) if head.through > usage.newest || head.op >= usage.next_op => {
                Err(damage("it counts writes that the account has not made"))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    pub(super) fn journal(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        let key: [u8; 24] = exact(key)?;
        decode_borrowed::<Delta<'_>>(value)?;
        let account: [u8; 16] = exact(key.get(..16).unwrap_or_default())?;
        let op = part(&key, 16).map_or(u64::MAX, u64::from_be_bytes);
        if !self.inner.trees.stats.contains_key(account)? {
            return Err(damage("its account has no saved aggregates"));
        }
        let usage: Option<Usage> = readable(&self.inner.trees.usage, &account)?;
        if usage.is_some_and(|usage| op >= usage.next_op) {
            return Err(damage("it is of a write that the account has not made"));
        }
        Ok(())
    }

    pub(super) fn replay(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
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
        let body = if record.pieces == 0 {
            record.body.as_bytes().to_vec()
        } else {
            let owner = Owner::replay(key);
            pieces::read(&trees.pieces, owner, record.revision, record.pieces)?
                .ok_or_else(|| damage("a piece of it is gone"))?
        };
        let account = AccountKey(part(&key, 0).unwrap_or_default());
        if !trees.users.contains_key(account.0)? {
            return Err(damage("its account is not there"));
        }
        // A usage that is not there, or cannot be read, is named elsewhere.
        let Some(usage) = readable_usage(&trees.usage, account, self.inner.plans)? else {
            return Ok(());
        };
        if record.revision >= usage.next_op {
            return Err(damage("it answers a write that the account has not made"));
        }
        let Some(id) = added_in(&body) else {
            return Ok(());
        };
        if id > usage.newest {
            return Err(damage(
                "it names a memory that the account has not been given",
            ));
        }
        // A memory that is not there was deleted since.
        let memory = trees.memories.get(memory_key(account, id))?;
        let revision = memory.map(|m| decode_borrowed::<MemoryHead<'_>>(&m).map(|m| m.revision));
        match revision {
            Some(Ok(revision)) if revision < record.revision => {
                Err(damage("it names a memory that an earlier write made"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn replay_time(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        let key: [u8; 40] = exact(key)?;
        // A time without an answer is no problem: a sweep that was interrupted goes on from it, and
        // removes the pieces that it had not come to.
        if let Some(answer) = part::<32>(&key, 8) {
            self.unswept.remove(&answer);
        }
        if **value != versioned(&[]) {
            return Err(damage("its value is not the empty one"));
        }
        Ok(())
    }

    pub(super) fn waiting_event(
        &mut self,
        key: &[u8],
        value: &sled::IVec,
    ) -> Result<(), StoreError> {
        let key: [u8; 32] = exact(key)?;
        let record: OutboxRecord = decode(value)?;
        if !part(&key, 8).is_some_and(|entry| outbox::is_in_place(entry, &record)) {
            return Err(damage("its time is not that of its key"));
        }
        // A list that cannot be read is named in `meta`.
        let endpoints = outbox::endpoints(&self.inner.trees);
        let is_known = |ids: Vec<_>| {
            ids.iter()
                .any(|id| Some(*id) == part(&key, 0).map(EndpointId))
        };
        if endpoints.is_ok_and(|ids| !is_known(ids)) {
            return Err(damage("it waits for an endpoint that there is not"));
        }
        Ok(())
    }

    pub(super) fn piece(&mut self, key: &[u8], value: &sled::IVec) -> Result<(), StoreError> {
        let key: [u8; 43] = exact(key)?;
        let (Some(name), Some(revision), Some(number)) = (
            part::<33>(&key, 0),
            part(&key, 33).map(u64::from_be_bytes),
            part(&key, 41).map(u16::from_be_bytes),
        ) else {
            return Ok(());
        };
        let owner = match self.last_owner.take().filter(|owner| owner.name == name) {
            Some(owner) => owner,
            None => PieceOwner {
                name,
                record: self.piece_owner(&name)?,
            },
        };
        let (there, its) = match owner.record {
            Some((r, n)) => (true, r == revision && number < n),
            None => (false, false),
        };
        self.last_owner = Some(owner);
        if its {
            return unversioned(value).map(drop);
        }
        if self.last_orphan != Some((name, revision)) {
            self.orphan(&name, there);
            if self.confirming {
                self.last_orphan = Some((name, revision));
            }
        }
        Ok(())
    }

    /// Notes pieces that no record names.
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

    /// Reports the pieces of recorded answers that are gone and that no sweep is about to remove.
    pub(super) fn unswept(&mut self) -> Result<(), StoreError> {
        let trees = &self.inner.trees;
        for key in std::mem::take(&mut self.unswept) {
            let account = AccountKey(part(&key, 0).unwrap_or_default());
            let alone = self.inner.locks.alone_blocking(account);
            let prefix = Owner::replay(key).prefix();
            let pieces = trees.pieces.scan_prefix(prefix).next().transpose()?;
            let is_erasing = self.inner.is_erasing(account)?;
            if pieces.is_some() && !is_erasing && !trees.replays.contains_key(key)? {
                let what = "its recorded answer is gone";
                self.problem("pieces", join_name("r", &key), what);
            }
            drop(alone);
            self.confirmed()?;
        }
        Ok(())
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
}

/// Says whether a name is the only form of itself: an e-mail is as a sign-up makes it.
fn is_normal(name: &str) -> bool {
    !name.contains('@') || Email::parse(name).is_ok_and(|email| email.as_str() == name)
}

/// Returns the memory that a recorded answer says was added. `None` if it is about something else.
fn added_in(body: &[u8]) -> Option<MemoryId> {
    #[derive(Deserialize)]
    struct Answer {
        entry: Entry,
    }
    #[derive(Deserialize)]
    struct Entry {
        id: String,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    MemoryId::parse(&answer.entry.id)
}
