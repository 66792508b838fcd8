//! Which records a backup holds, and in which order: one rule for those who write one and who read one.
//!
//! First the catalog, if one was applied: its head, then its plans by number. Accounts follow each other by
//! key. Of each: its record, its usage, its keys by number, its memories by id, its recorded answers by key,
//! its ledger by number; after a memory or an answer the pieces of it. After the last account come the ledgers
//! of erased ones, by their random ids, then the audit log by number, each row chained to the one before. What is derived is not there: `names`, `key_ids`,
//! `account_keys`, `key_expiries`, `barred`, `replay_times` follow from the others, the saved aggregates are
//! counted anew, and intents belong to writes under way, of which a backup has none. Nor has it events that
//! a record still carries: they are in the log.
//!
//! A backup is held against this rule while it is written too: one that was completed can be restored.

use std::collections::BTreeSet;

use crate::domain::account::AccountKey;
use crate::domain::audit::GENESIS;
use crate::domain::ledger::LedgerRow;
use crate::domain::plan::{Plan, PlanNo, Plans};
use crate::domain::usage::{KeyNo, Usage};

use super::codec::{VALUE_BYTES_MAX, decode, decode_borrowed, unversioned};
use super::error::StoreError;
use super::pieces::Owner;
use super::plans::{PlanRow, PlansHead, table_of};
use super::schema::{
    AccountRecord, AuditRow, KeyRecord, MemoryHead, PLANS_HEAD, ReplayRecord, part, plan_key,
};

/// The tree that a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Account,
    Usage,
    Key,
    Memory,
    Piece,
    Replay,
    Ledger,
    ErasedLedger,
    Audit,
    PlansHead,
    Plan,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Account,
        Self::Usage,
        Self::Key,
        Self::Memory,
        Self::Piece,
        Self::Replay,
        Self::Ledger,
        Self::ErasedLedger,
        Self::Audit,
        Self::PlansHead,
        Self::Plan,
    ];

    /// Returns the number that stands for it in a file, for ever.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Account => 1,
            Self::Usage => 2,
            Self::Key => 3,
            Self::Memory => 4,
            Self::Piece => 5,
            Self::Replay => 6,
            Self::PlansHead => 7,
            Self::Plan => 8,
            Self::Ledger => 9,
            Self::Audit => 10,
            Self::ErasedLedger => 11,
        }
    }

    /// Returns what a number stands for; `None` if nothing.
    pub(super) fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }
}

/// A record in its place, decoded.
#[derive(Debug)]
pub(super) enum Placed<'a> {
    Account(AccountKey, AccountRecord),
    Usage(Usage),
    Key(KeyRecord),
    Memory(MemoryHead<'a>),
    Piece,
    Replay(ReplayRecord<'a>),
    Ledger,
    ErasedLedger,
    Audit,
    /// Of the catalog.
    Plan,
}

/// The pieces that a record names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pieces {
    pub revision: u64,
    pub count: u16,
}

impl Placed<'_> {
    /// Returns the pieces that must follow; `None` if none.
    pub(super) fn pieces(&self) -> Option<Pieces> {
        let (revision, count) = match self {
            Self::Memory(head) => (head.revision, head.pieces),
            Self::Replay(record) => (record.revision, record.pieces),
            _ => return None,
        };
        (count > 0).then_some(Pieces { revision, count })
    }
}

/// How far an account has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Last {
    Account,
    Usage,
    Key(KeyNo),
    Memory([u8; 32]),
    Replay([u8; 32]),
    Ledger(u64),
}

/// Pieces that must follow.
#[derive(Clone, Copy, Debug)]
struct Due {
    owner: Owner,
    revision: u64,
    next: u16,
    count: u16,
}

/// What has come so far.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    head: Option<PlansHead>,
    rows: Vec<(PlanNo, PlanRow)>,
    /// The plans that accounts may have, from the first account on.
    plans: Option<BTreeSet<PlanNo>>,
    account: Option<(AccountKey, Last)>,
    due: Option<Due>,
    /// Rows of the account's ledger that are still to come, and the number of the next.
    rows_due: u64,
    next_row: u64,
    /// The last row of the erased accounts' ledgers.
    erased: Option<[u8; 24]>,
    /// The number and the hash of the last row of the audit log.
    audit: Option<(u64, [u8; 32])>,
}

impl Sequence {
    /// Takes the next record.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] if it cannot be decoded, is another account's, or does not belong here.
    pub(super) fn next<'a>(
        &mut self,
        kind: Kind,
        key: &[u8],
        value: &'a [u8],
    ) -> Result<Placed<'a>, StoreError> {
        if value.len() > VALUE_BYTES_MAX {
            let bytes = value.len();
            return Err(wrong(&format!("a record of {bytes} bytes is too large")));
        }
        if kind != Kind::Piece {
            self.no_pieces_due()?;
        }
        match kind {
            Kind::Piece => self.piece(key, value),
            Kind::PlansHead => self.plans_head(key, value),
            Kind::Plan => self.plan(key, value),
            Kind::Account => self.account(key, value),
            Kind::Usage => {
                self.of_account(exact(key)?, Last::Usage)?;
                let usage: Usage = decode(value)?;
                self.plans_are_there(&usage)?;
                if !usage.intents.is_empty() {
                    return Err(wrong("an account has writes under way"));
                }
                if !usage.events.events.is_empty() {
                    return Err(wrong("an account carries events"));
                }
                if !usage.ledger.is_numbered() {
                    return Err(wrong(
                        "the rows of an account's ledger are not in their order",
                    ));
                }
                (self.rows_due, self.next_row) = (usage.ledger.gone(), 1);
                Ok(Placed::Usage(usage))
            }
            Kind::Key => {
                let _: [u8; 32] = exact(key)?;
                let record: KeyRecord = decode(value)?;
                self.of_account(record.account.0, Last::Key(record.no))?;
                Ok(Placed::Key(record))
            }
            Kind::Memory => {
                let key: [u8; 32] = exact(key)?;
                self.of_account(prefix(key), Last::Memory(key))?;
                let head: MemoryHead<'_> = decode_borrowed(value)?;
                self.expect(Owner::memory(key), head.revision, head.pieces);
                Ok(Placed::Memory(head))
            }
            Kind::Replay => {
                let key: [u8; 32] = exact(key)?;
                self.of_account(prefix(key), Last::Replay(key))?;
                let record: ReplayRecord<'_> = decode_borrowed(value)?;
                self.expect(Owner::replay(key), record.revision, record.pieces);
                Ok(Placed::Replay(record))
            }
            Kind::Ledger => self.ledger(exact(key)?, value),
            Kind::ErasedLedger => self.erased_ledger(exact(key)?, value),
            Kind::Audit => self.audit(key, value),
        }
    }

    /// Says that nothing follows any more.
    pub(super) fn end(&mut self) -> Result<(), StoreError> {
        self.catalog_is_whole()?;
        self.account_is_whole()
    }

    fn ledger<'a>(&mut self, key: [u8; 24], value: &[u8]) -> Result<Placed<'a>, StoreError> {
        let no = part(&key, 16).map_or(0, u64::from_be_bytes);
        self.of_account(part(&key, 0).unwrap_or_default(), Last::Ledger(no))?;
        let row: LedgerRow = decode(value)?;
        if no != self.next_row || row.no != no || self.rows_due == 0 {
            return Err(wrong("a row of an account's ledger is missing"));
        }
        self.rows_due = self.rows_due.saturating_sub(1);
        self.next_row = no.saturating_add(1);
        Ok(Placed::Ledger)
    }

    fn erased_ledger<'a>(&mut self, key: [u8; 24], value: &[u8]) -> Result<Placed<'a>, StoreError> {
        self.catalog_is_whole()?;
        self.account_is_whole()?;
        self.account = None;
        let row: LedgerRow = decode(value)?;
        let is_next = self.erased.is_none_or(|last| last < key) && self.audit.is_none();
        if !is_next || part(&key, 16).map(u64::from_be_bytes) != Some(row.no) {
            return Err(wrong(
                "a row of an erased account's ledger is not where it belongs",
            ));
        }
        self.erased = Some(key);
        Ok(Placed::ErasedLedger)
    }

    fn audit<'a>(&mut self, key: &[u8], value: &[u8]) -> Result<Placed<'a>, StoreError> {
        self.catalog_is_whole()?;
        self.account_is_whole()?;
        self.account = None;
        let (last, hash) = self.audit.unwrap_or((0, GENESIS));
        let no = u64::from_be_bytes(exact(key)?);
        let AuditRow { entry, .. } = decode(value)?;
        if Some(no) != last.checked_add(1) || entry.no != no {
            return Err(wrong("a row of the audit log is missing"));
        }
        if entry.hash_after(&hash) != entry.hash {
            return Err(wrong("the chain of the audit log is broken"));
        }
        self.audit = Some((no, entry.hash));
        Ok(Placed::Audit)
    }

    fn plans_head<'a>(&mut self, key: &[u8], value: &[u8]) -> Result<Placed<'a>, StoreError> {
        if self.head.is_some() || self.plans.is_some() || key != PLANS_HEAD {
            return Err(wrong("the head of the plans is not where it belongs"));
        }
        self.head = Some(decode(value)?);
        Ok(Placed::Plan)
    }

    fn plan<'a>(&mut self, key: &[u8], value: &[u8]) -> Result<Placed<'a>, StoreError> {
        let no = part(key, 4).map(|no| PlanNo(u16::from_be_bytes(no)));
        let (Some(head), Some(no), None) = (&self.head, no, &self.plans) else {
            return Err(wrong("a plan is not where it belongs"));
        };
        let is_next = self.rows.last().is_none_or(|(last, _)| *last < no);
        if !is_next || *key != plan_key(head.generation, no) {
            return Err(wrong("the plans are not in their order"));
        }
        self.rows.push((no, decode(value)?));
        Ok(Placed::Plan)
    }

    /// Ends the catalog, before the first account.
    fn catalog_is_whole(&mut self) -> Result<(), StoreError> {
        if self.plans.is_none() {
            let rows = std::mem::take(&mut self.rows);
            self.plans = Some(match self.head.take() {
                None => Plans::seed().iter().map(Plan::no).collect(),
                Some(head) => {
                    let plans = table_of(&head, rows)?.rows;
                    plans.into_iter().map(|row| row.no).collect()
                }
            });
        }
        Ok(())
    }

    fn plans_are_there(&self, usage: &Usage) -> Result<(), StoreError> {
        let is_there = |no: &PlanNo| self.plans.as_ref().is_some_and(|plans| plans.contains(no));
        let caps = usage.shares.iter().filter_map(|share| share.cap);
        match caps.chain([usage.plan]).find(|no| !is_there(no)) {
            None => Ok(()),
            Some(no) => Err(wrong(&format!("no plan has the number {no}"))),
        }
    }

    fn account<'a>(&mut self, key: &[u8], value: &[u8]) -> Result<Placed<'a>, StoreError> {
        self.catalog_is_whole()?;
        self.account_is_whole()?;
        if self.audit.is_some() {
            return Err(wrong("an account comes after the audit log"));
        }
        let account = AccountKey(exact(key)?);
        if self.account.is_some_and(|(last, _)| account <= last) {
            return Err(wrong("the accounts are not in their order"));
        }
        let record: AccountRecord = decode(value)?;
        if !record.events.events.is_empty() {
            return Err(wrong("an account carries events"));
        }
        self.account = Some((account, Last::Account));
        Ok(Placed::Account(account, record))
    }

    fn piece<'a>(&mut self, key: &[u8], value: &[u8]) -> Result<Placed<'a>, StoreError> {
        let Some(due) = &mut self.due else {
            return Err(wrong("a piece belongs to nothing"));
        };
        if due.owner.piece(due.revision, due.next) != *key {
            return Err(wrong("a piece is not where it belongs"));
        }
        unversioned(value)?;
        due.next = due.next.saturating_add(1);
        if due.next == due.count {
            self.due = None;
        }
        Ok(Placed::Piece)
    }

    fn expect(&mut self, owner: Owner, revision: u64, count: u16) {
        self.due = (count > 0).then_some(Due {
            owner,
            revision,
            next: 0,
            count,
        });
    }

    fn no_pieces_due(&self) -> Result<(), StoreError> {
        match self.due {
            None => Ok(()),
            Some(_) => Err(wrong("a piece of a long value is missing")),
        }
    }

    /// Checks that the last account has all that an account must have.
    fn account_is_whole(&self) -> Result<(), StoreError> {
        self.no_pieces_due()?;
        match self.account {
            Some((_, Last::Account)) => Err(wrong("an account has no usage")),
            Some(_) if self.rows_due > 0 => Err(wrong("a row of an account's ledger is missing")),
            _ => Ok(()),
        }
    }

    /// Moves on within the account.
    fn of_account(&mut self, account: [u8; 16], next: Last) -> Result<(), StoreError> {
        let Some((of, last)) = &mut self.account else {
            return Err(wrong("a record comes before the first account"));
        };
        if of.0 != account {
            return Err(wrong("a record is another account's"));
        }
        if next <= *last || (*last == Last::Account && next != Last::Usage) {
            return Err(wrong("the records of an account are not in their order"));
        }
        *last = next;
        Ok(())
    }
}

fn wrong(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

fn exact<const N: usize>(key: &[u8]) -> Result<[u8; N], StoreError> {
    key.try_into()
        .map_err(|_| wrong("a record's key does not have its length"))
}

fn prefix(key: [u8; 32]) -> [u8; 16] {
    let [account @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = key;
    account
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::audit::AuditEntry;
    use crate::domain::event::{Cause, Event, EventKind};
    use crate::domain::key::{KeyHash, Secret};
    use crate::domain::ledger::Entry;
    use crate::domain::memory::MemoryId;
    use crate::domain::plan::Plan;
    use crate::domain::usage::{Intent, IntentKind};
    use crate::store::codec::{encode, versioned};
    use crate::store::schema::{Carrier, memory_key, op_key, replay_key};
    use crate::store::testing::{NOW, new_key};

    type Raw = (Kind, Vec<u8>, Vec<u8>);

    fn account(n: u8) -> AccountKey {
        AccountKey([n; 16])
    }

    fn users(n: u8) -> Raw {
        let record = AccountRecord::new(None, NOW, vec![]);
        (
            Kind::Account,
            account(n).0.to_vec(),
            encode(&record).unwrap(),
        )
    }

    fn usage(n: u8) -> Raw {
        let usage = Usage::new(Plan::FREE, NOW);
        (Kind::Usage, account(n).0.to_vec(), encode(&usage).unwrap())
    }

    fn key(n: u8, no: KeyNo) -> Raw {
        let new = new_key("k");
        let record = new.record(account(n), no, NOW, &crate::domain::event::Actor::Nobody);
        let KeyHash(hash) = Secret::new(format!("{no}")).hash();
        (Kind::Key, hash.to_vec(), encode(&record).unwrap())
    }

    fn memory(n: u8, id: u64, pieces: u16) -> Raw {
        let head = MemoryHead {
            revision: 7,
            key_no: 1,
            timestamp: NOW,
            success: true,
            category: "c",
            kind: "k",
            pieces,
            json: "",
        };
        let key = memory_key(account(n), MemoryId::new(id, 0));
        (Kind::Memory, key.to_vec(), encode(&head).unwrap())
    }

    fn piece(of: &Raw, revision: u64, number: u16) -> Raw {
        let key: [u8; 32] = of.1.as_slice().try_into().unwrap();
        let owner = match of.0 {
            Kind::Memory => Owner::memory(key),
            _ => Owner::replay(key),
        };
        let value = versioned(b"piece");
        (Kind::Piece, owner.piece(revision, number).to_vec(), value)
    }

    fn replay(n: u8, key: u8, pieces: u16) -> Raw {
        let record = ReplayRecord {
            fingerprint: [1; 32],
            status: 201,
            recorded_at: NOW,
            revision: 7,
            pieces,
            body: "",
        };
        let key = replay_key(account(n), [key; 16]);
        (Kind::Replay, key.to_vec(), encode(&record).unwrap())
    }

    /// A usage whose first rows have been moved.
    fn busy_usage(n: u8, moved: u64) -> Raw {
        let mut usage = Usage::new(Plan::FREE, NOW);
        usage.ledger.rows[0].no = moved + 1;
        (usage.ledger.last_no, usage.ledger.frozen) = (moved + 1, moved);
        (Kind::Usage, account(n).0.to_vec(), encode(&usage).unwrap())
    }

    fn ledger(n: u8, no: u64) -> Raw {
        let row = LedgerRow {
            no,
            at: NOW,
            cycle: 0,
            key_no: 0,
            entry: Entry::Bonus,
            amount: 1,
            count: 1,
            request: None,
        };
        let key = op_key(account(n), no).to_vec();
        (Kind::Ledger, key, encode(&row).unwrap())
    }

    /// The first rows of an audit log.
    fn audit(rows: u64) -> Vec<Raw> {
        let (mut raw, mut hash) = (Vec::new(), GENESIS);
        for no in 0..rows {
            let event = Event {
                no: 1,
                at: NOW,
                cause: Cause::service(),
                kind: EventKind::Suspended,
            };
            let entry = AuditEntry::after((no, &hash), Some(account(1)), &event);
            hash = entry.hash;
            let row = AuditRow {
                entry,
                carrier: Carrier::Account,
                event_no: 1,
                latest: NOW,
            };
            let key = (no + 1).to_be_bytes().to_vec();
            raw.push((Kind::Audit, key, encode(&row).unwrap()));
        }
        raw
    }

    fn plans_head(plans: u16) -> Raw {
        let head = PlansHead {
            generation: 7,
            plans,
            next_no: 9,
            memories_most: 1,
            prices: vec![],
        };
        (Kind::PlansHead, PLANS_HEAD.to_vec(), encode(&head).unwrap())
    }

    fn plan(no: u16) -> Raw {
        let row = PlanRow {
            rank: Some(no),
            name: format!("P{no}"),
            credits_per_cycle: 1,
            memories_max: 1,
            requests_per_minute: None,
            price: None,
            open: true,
        };
        let key = plan_key(7, PlanNo(no)).to_vec();
        (Kind::Plan, key, encode(&row).unwrap())
    }

    #[test]
    fn an_account_has_a_plan_of_the_catalog() {
        // Shows that the numbers of plans must be the catalog's, or the seed's if there is none.
        let with = |catalog: &[Raw]| takes(&[catalog, &[users(1), usage(1)]].concat());
        assert_eq!(with(&[]), Ok(()));
        assert_eq!(with(&[plans_head(1), plan(0)]), Ok(()));
        let refused = with(&[plans_head(1), plan(8)]).unwrap_err();
        assert!(refused.contains("no plan has the number 0"), "{refused}");
        // A number that was not given yet.
        assert!(with(&[plans_head(2), plan(0), plan(9)]).is_err());
        let (kind, _, value) = plan(0);
        let of_other = (kind, plan_key(8, PlanNo(0)).to_vec(), value);
        assert!(with(&[plans_head(1), of_other]).is_err());
        assert!(takes(&[users(1), usage(1), plans_head(1), plan(0)]).is_err());
    }

    fn whole() -> Vec<Raw> {
        let (long, answer) = (memory(1, 2, 2), replay(1, 1, 1));
        let mut whole = vec![
            plans_head(2),
            plan(0),
            plan(1),
            users(1),
            busy_usage(1, 2),
            key(1, 1),
            key(1, 3),
            memory(1, 1, 0),
            long.clone(),
            piece(&long, 7, 0),
            piece(&long, 7, 1),
            memory(1, 3, 0),
            answer.clone(),
            piece(&answer, 7, 0),
            replay(1, 2, 0),
            ledger(1, 1),
            ledger(1, 2),
            users(2),
            usage(2),
        ];
        for no in 1..=2 {
            let (_, key, value) = ledger(7, no);
            whole.push((Kind::ErasedLedger, key, value));
        }
        whole.extend(audit(3));
        whole
    }

    fn takes(records: &[Raw]) -> Result<(), String> {
        let mut sequence = Sequence::default();
        for (kind, key, value) in records {
            sequence
                .next(*kind, key, value)
                .map_err(|error| error.to_string())?;
        }
        sequence.end().map_err(|error| error.to_string())
    }

    /// Shows that the order is taken, and that no record may go, come twice, or change places with the next,
    /// but a key, a memory, an answer, a row of an erased account or the end of the audit log, that nobody
    /// misses.
    #[test]
    fn every_record_has_one_place() {
        let whole = whole();
        assert_eq!(takes(&whole), Ok(()));
        assert_eq!(takes(&[]), Ok(()));
        for at in 0..whole.len() {
            let mut without = whole.clone();
            let (kind, ..) = without.remove(at);
            let has_pieces = [8, 12].contains(&at);
            let may_go = match kind {
                // Of the rows of erased accounts, nobody knows which there were.
                Kind::Key | Kind::ErasedLedger => true,
                Kind::Memory | Kind::Replay => !has_pieces,
                Kind::Account
                | Kind::Usage
                | Kind::Piece
                | Kind::Ledger
                | Kind::PlansHead
                | Kind::Plan => false,
                Kind::Audit => at + 1 == whole.len(),
            };
            assert_eq!(takes(&without).is_ok(), may_go, "without {at}");
            let mut twice = whole.clone();
            twice.insert(at, whole[at].clone());
            assert!(takes(&twice).is_err(), "{at} twice");
            if at + 1 < whole.len() {
                let mut swapped = whole.clone();
                swapped.swap(at, at + 1);
                assert!(takes(&swapped).is_err(), "{at} swapped");
            }
        }
    }

    /// Shows what is refused of a record in its place: another account's, a wrong width, an unknown
    /// version, too many bytes, a piece of another revision, a write under way.
    #[test]
    fn a_record_must_be_the_accounts_and_readable() {
        let begin = [users(1), usage(1)];
        let with = |record: Raw| takes(&[begin.as_slice(), &[record]].concat());
        let refused = |record: Raw, why: &str| {
            let error = with(record).unwrap_err();
            assert!(error.contains(why), "{error}");
        };
        assert_eq!(with(memory(1, 1, 0)), Ok(()));
        for of_other in [memory(2, 1, 0), replay(2, 1, 0), key(2, 1)] {
            refused(of_other, "another account's");
        }
        for (kind, mut key, value) in [memory(1, 1, 0), replay(1, 1, 0), key(1, 1)] {
            key.push(0);
            refused((kind, key, value), "its length");
        }
        for (kind, key, mut value) in [memory(1, 1, 0), replay(1, 1, 0), key(1, 1), users(2)] {
            value[0] = 9;
            refused((kind, key, value), "unknown version 9");
        }
        let (kind, key, value) = memory(1, 1, 0);
        refused(
            (kind, key, [value, vec![0; VALUE_BYTES_MAX]].concat()),
            "too large",
        );
        let long = memory(1, 1, 1);
        let with_piece = |revision, number| {
            takes(&[
                users(1),
                usage(1),
                long.clone(),
                piece(&long, revision, number),
            ])
        };
        assert_eq!(with_piece(7, 0), Ok(()));
        assert!(with_piece(8, 0).is_err() && with_piece(7, 1).is_err());
        let mut busy = Usage::new(Plan::FREE, NOW);
        busy.intents.push(Intent {
            op: 1,
            cycle: 0,
            key_no: 1,
            paid_by: 1,
            memory: MemoryId::default(),
            kind: IntentKind::Delete,
        });
        let busy = (Kind::Usage, account(1).0.to_vec(), encode(&busy).unwrap());
        assert!(takes(&[users(1), busy]).unwrap_err().contains("under way"));
    }

    /// Shows what is refused of the ledger and the audit log: rows beyond those that left the usage, a gap in
    /// the usage itself, a row that was changed, events that a record carries, an account after the log.
    #[test]
    fn the_ledger_is_whole_and_the_audit_log_a_chain() {
        let refused = |records: &[Raw], why: &str| {
            let error = takes(records).unwrap_err();
            assert!(error.contains(why), "{error}");
        };
        let begin = [users(1), busy_usage(1, 1)];
        assert_eq!(takes(&[begin.as_slice(), &[ledger(1, 1)]].concat()), Ok(()));
        refused(
            &[begin.as_slice(), &[ledger(1, 1), ledger(1, 2)]].concat(),
            "ledger is missing",
        );
        let mut gap = Usage::new(Plan::FREE, NOW);
        gap.ledger.last_no = 2;
        let gap = (Kind::Usage, account(1).0.to_vec(), encode(&gap).unwrap());
        refused(&[users(1), gap], "not in their order");
        let log = audit(2);
        let mut changed = log.clone();
        let mut row: AuditRow = decode(&changed[0].2).unwrap();
        row.entry.actor.push('x');
        changed[0].2 = encode(&row).unwrap();
        refused(&changed, "chain of the audit log is broken");
        refused(
            &[log.as_slice(), &[users(1)]].concat(),
            "after the audit log",
        );
        let mut record = AccountRecord::new(None, NOW, vec![]);
        let push = EventKind::Suspended;
        record.events.push(NOW, Cause::service(), push);
        let carries = encode(&record).unwrap();
        refused(
            &[(Kind::Account, account(1).0.to_vec(), carries)],
            "carries events",
        );
    }
}
