//! Which records a backup holds, and in which order: one rule for those who write one and who read one.
//!
//! First the catalog, if one was applied: its head, then its plans by number. Accounts follow each other by
//! key. Of each: its record, its usage, its keys by number, its memories
//! by id, its recorded answers by key; after a memory or an answer the pieces of it. What is derived is
//! not there: `names`, `key_ids`, `account_keys`, `replay_times` follow from the others, the saved
//! aggregates are counted anew, and intents belong to writes under way, of which a backup has none.
//!
//! A backup is held against this rule while it is written too: one that was completed can be restored.

use std::collections::BTreeSet;

use crate::domain::account::AccountKey;
use crate::domain::plan::{Plan, PlanNo, Plans};
use crate::domain::usage::{KeyNo, Usage};

use super::codec::{VALUE_BYTES_MAX, decode, decode_borrowed, unversioned};
use super::error::StoreError;
use super::pieces::Owner;
use super::plans::{PlanRow, PlansHead, table_of};
use super::schema::{
    AccountRecord, KeyRecord, MemoryHead, PLANS_HEAD, ReplayRecord, part, plan_key,
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
    PlansHead,
    Plan,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Account,
        Self::Usage,
        Self::Key,
        Self::Memory,
        Self::Piece,
        Self::Replay,
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
        if kind == Kind::Piece {
            return self.piece(key, value);
        }
        self.no_pieces_due()?;
        match kind {
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
            Kind::Replay | Kind::Piece => {
                let key: [u8; 32] = exact(key)?;
                self.of_account(prefix(key), Last::Replay(key))?;
                let record: ReplayRecord<'_> = decode_borrowed(value)?;
                self.expect(Owner::replay(key), record.revision, record.pieces);
                Ok(Placed::Replay(record))
            }
        }
    }

    /// Says that nothing follows any more.
    pub(super) fn end(&mut self) -> Result<(), StoreError> {
        self.catalog_is_whole()?;
        self.account_is_whole()
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
        let account = AccountKey(exact(key)?);
        if self.account.is_some_and(|(last, _)| account <= last) {
            return Err(wrong("the accounts are not in their order"));
        }
        let record: AccountRecord = decode(value)?;
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
    use crate::domain::key::{KeyHash, Secret};
    use crate::domain::memory::MemoryId;
    use crate::domain::plan::Plan;
    use crate::domain::usage::{Intent, IntentKind};
    use crate::store::codec::{encode, versioned};
    use crate::store::schema::{memory_key, replay_key};
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
        vec![
            plans_head(2),
            plan(0),
            plan(1),
            users(1),
            usage(1),
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
            users(2),
            usage(2),
        ]
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
    /// but a key, a memory or an answer that nobody misses.
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
                Kind::Key => true,
                Kind::Memory | Kind::Replay => !has_pieces,
                Kind::Account | Kind::Usage | Kind::Piece | Kind::PlansHead | Kind::Plan => false,
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
}
