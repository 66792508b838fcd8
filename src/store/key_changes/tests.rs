//! Rotation, expiry, and that no key gives away what it does not have.

use super::*;
use crate::domain::memory::MemoryId;
use crate::domain::plan::Operation;
use crate::domain::usage::Payer;
use crate::store::testing::{NOW, by, memory, new_key, sign_up};
use crate::store::{AddMemory, KeyState, Options};

const HOUR: i64 = 3_600;

type Ask = fn(&mut NewKey);

struct Fixture {
    _directory: tempfile::TempDir,
    store: Store,
    account: AccountKey,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), Options::default()).unwrap();
        let account = sign_up(&store, Some("bo@example.com"), 1_000, new_key("first")).await;
        Self {
            _directory: directory,
            store,
            account,
        }
    }

    async fn mint(&self, key: NewKey, maker: Option<KeyNo>) -> Result<KeyRow, KeyRefusal> {
        let cause = Cause::service();
        let made = self.store.create_key(self.account, key, maker, NOW, cause);
        made.await.map_err(refusal)
    }

    async fn rotate(
        &self,
        id: &KeyId,
        secret: &str,
        grace_seconds: u32,
        by: Option<KeyNo>,
        now: Timestamp,
    ) -> Result<(KeyRow, KeyRow), KeyRefusal> {
        let key = new_key(secret);
        let successor = Successor {
            hash: key.hash,
            id: key.id,
            masked: key.masked,
            grace_seconds,
        };
        let cause = Cause::service();
        let rotated = self
            .store
            .rotate_key(self.account, id, successor, by, now, cause);
        rotated.await.map_err(refusal)
    }

    async fn change(
        &self,
        id: &KeyId,
        change: KeyChange,
        by: Option<KeyNo>,
    ) -> Result<KeyRow, KeyRefusal> {
        let cause = Cause::service();
        let changed = self
            .store
            .change_key(self.account, id, change, by, NOW, cause);
        changed.await.map_err(refusal)
    }

    async fn revoke(&self, id: &KeyId, admin: bool) -> Result<KeyRow, KeyRefusal> {
        let revoked = self
            .store
            .revoke_key(self.account, id, admin, NOW, by("admin"));
        revoked.await.map_err(refusal)
    }

    async fn add(&self, payer: Payer, n: u64) -> MemoryId {
        let id = MemoryId::new(NOW.millis() + n, 1);
        let (_, key) = {
            let inner = self.store.inner().unwrap();
            inner
                .key_numbered(self.account, payer.key_no)
                .unwrap()
                .unwrap()
        };
        let add = AddMemory {
            account: self.account,
            payer,
            key_id: key.id.as_str(),
            memory: &memory("a", 10),
            id,
            cost: 2,
            now: NOW,
            replay: None,
        };
        let added = self.store.add_memory(add, |added| added.entry.clone());
        added.await.unwrap();
        id
    }

    fn row(&self, id: &KeyId) -> KeyRow {
        self.store.key_by_id(id, NOW).unwrap().unwrap()
    }

    fn first(&self) -> KeyId {
        self.store.keys(self.account, NOW).unwrap()[0].id.clone()
    }

    fn no(&self, id: &KeyId) -> KeyNo {
        let inner = self.store.inner().unwrap();
        inner.key_called(id).unwrap().1.no
    }

    fn state(&self, secret: &str, now: Timestamp) -> KeyState {
        let found = self.store.authenticate(&new_key(secret).hash, now);
        found.unwrap().unwrap()
    }

    fn is_sound(&self) {
        let report = self.store.check(&|_| ()).unwrap();
        assert!(report.is_sound(), "{report}");
    }
}

fn refusal(error: OpError<KeyRefusal>) -> KeyRefusal {
    match error {
        OpError::Refused(refusal) => refusal,
        OpError::Store(error) => panic!("{error}"),
    }
}

fn scopes(names: &[Scope]) -> Scopes {
    names.iter().copied().collect()
}

fn after(seconds: i64) -> Timestamp {
    NOW.plus_seconds(seconds)
}

/// Shows that a rotation changes no counter, that both keys spend one share while both work, and that the
/// old one manages no keys, is not rotated or changed again, and ends when it should.
#[tokio::test]
async fn a_lineage_has_one_share() {
    let f = Fixture::new().await;
    let mut key = new_key("second");
    (key.cap, key.credits_cap) = (Some(Plan::FREE), Some(20));
    key.description = "CI".to_owned();
    let old = f.mint(key, None).await.unwrap();
    f.add(Payer::first(2), 1).await;
    let before = f.store.usage(f.account, NOW).unwrap();
    let (new, was) = f.rotate(&old.id, "third", 60, Some(1), NOW).await.unwrap();
    let usage = f.store.usage(f.account, NOW).unwrap();
    assert_eq!(
        (&new.share, &was.share),
        (&before.shares[1], &before.shares[1])
    );
    assert_eq!(usage.shares, before.shares);
    assert_eq!(
        (usage.used, usage.held, usage.granted),
        (2, 1, before.granted)
    );
    assert_eq!((new.description.as_str(), new.scopes), ("CI", Scopes::ALL));
    assert_eq!((was.expires_at, new.expires_at), (Some(after(60)), None));
    assert_eq!((was.successor, was.ended_at), (Some(new.id.clone()), None));
    let payer = Payer {
        key_no: 3,
        lineage: 2,
    };
    f.add(payer, 2).await;
    assert_eq!(
        (f.row(&old.id).share.used, f.row(&new.id).share.used),
        (4, 4)
    );
    let KeyState::Active(principal) = f.state("second", after(59)) else {
        panic!("the old key does not work")
    };
    assert_eq!(principal.scopes, Scopes::ALL.without(Scope::Keys));
    assert_eq!((principal.key_no, principal.lineage), (2, 2));
    assert!(matches!(f.state("second", after(60)), KeyState::Expired(_)));
    assert!(matches!(f.state("third", after(60)), KeyState::Active(_)));
    for by in [None, Some(1), Some(3)] {
        let again = f.rotate(&old.id, "fourth", 0, by, NOW).await;
        assert_eq!(again.unwrap_err(), KeyRefusal::Rotated);
        let forever = KeyChange {
            expires_at: Some(None),
            ..KeyChange::default()
        };
        let changed = f.change(&old.id, forever, by).await;
        assert_eq!(changed.unwrap_err(), KeyRefusal::Rotated);
    }
    // It asks itself, or for others.
    let lacking = Err(KeyRefusal::Beyond(Scope::Keys));
    for id in [&old.id, &new.id, &f.first()] {
        let refused = f.rotate(id, "fourth", 0, Some(2), NOW).await;
        assert_eq!(refused.map(drop), lacking);
        let refused = f.change(id, KeyChange::default(), Some(2)).await;
        assert_eq!(refused.map(drop), lacking);
    }
    let refused = f.mint(new_key("fourth"), Some(2)).await;
    assert_eq!(refused.map(drop), lacking);
    f.is_sound();
}

/// Shows that the old key ends at once without grace, and at its own end if that is earlier.
#[tokio::test]
async fn the_old_key_works_as_long_as_it_should() {
    let f = Fixture::new().await;
    let (new, was) = f.rotate(&f.first(), "second", 0, None, NOW).await.unwrap();
    assert_eq!((was.ended_at, was.expired), (Some(NOW), false));
    assert!(matches!(f.state("first", NOW), KeyState::Revoked(_)));
    assert_eq!(f.store.health().active_keys, 1);
    let mut key = new_key("ending");
    key.expires_at = Some(after(100));
    let ending = f.mint(key, None).await.unwrap();
    let (next, was) = f.rotate(&ending.id, "x", 500, None, NOW).await.unwrap();
    assert_eq!(
        (was.expires_at, next.expires_at),
        (Some(after(100)), Some(after(100)))
    );
    // A key that is in the grace of another that is gone: its lineage goes on with the successor.
    let (last, _) = f.rotate(&new.id, "third", 500, None, NOW).await.unwrap();
    f.revoke(&new.id, false).await.unwrap();
    assert_eq!(f.store.usage(f.account, NOW).unwrap().shares.len(), 2);
    assert_eq!(f.row(&last.id).ended_at, None);
    f.is_sound();
}

/// Shows that of a lineage the counters stay while one of it is active, are kept when the last ends, and that
/// a memory deleted then is counted down once.
#[tokio::test]
async fn a_share_ends_with_its_lineage() {
    let f = Fixture::new().await;
    let old = f.mint(new_key("second"), None).await.unwrap();
    let ids = [
        f.add(Payer::first(2), 1).await,
        f.add(Payer::first(2), 2).await,
    ];
    let (new, _) = f.rotate(&old.id, "third", 60, None, NOW).await.unwrap();
    f.revoke(&new.id, false).await.unwrap();
    assert_eq!(
        (f.row(&old.id).share.held, f.row(&new.id).share.held),
        (2, 2)
    );
    f.store
        .delete_memory(f.account, 1, ids[0], NOW)
        .await
        .unwrap();
    assert_eq!(
        (f.row(&old.id).share.held, f.row(&new.id).share.held),
        (1, 1)
    );
    assert_eq!(f.store.sweep_expired_keys(after(59)).await.unwrap(), 0);
    assert_eq!(f.store.sweep_expired_keys(after(60)).await.unwrap(), 1);
    assert_eq!(f.store.sweep_expired_keys(after(60)).await.unwrap(), 0);
    assert_eq!(f.store.usage(f.account, NOW).unwrap().shares.len(), 1);
    let row = f.row(&old.id);
    assert_eq!(
        (row.share.used, row.share.held, row.ended_at),
        (4, 1, Some(after(60)))
    );
    assert!(row.expired);
    assert_eq!(f.row(&new.id).share, row.share);
    f.store
        .delete_memory(f.account, 1, ids[1], NOW)
        .await
        .unwrap();
    assert_eq!(
        (f.row(&old.id).share.held, f.row(&new.id).share.held),
        (0, 0)
    );
    assert_eq!(f.store.usage(f.account, NOW).unwrap().held, 0);
    assert_eq!(f.store.health().active_keys, 1);
    f.is_sound();
}

/// Shows each way in which a key could get, or give, more than it has, and that it is refused.
#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "one table of attempts on one account"
)]
async fn no_key_gives_what_it_has_not() {
    let f = Fixture::new().await;
    let first = f.first();
    // 2: reads only; 3: ends; 4: a plan's cap; 5: fewer credits.
    let mut reader = new_key("reader");
    reader.scopes = Some(scopes(&[Scope::Keys, Scope::MemoryRead]));
    let mut ending = new_key("ending");
    ending.expires_at = Some(after(HOUR));
    let mut free = new_key("free");
    free.cap = Some(Plan::FREE);
    let mut poor = new_key("poor");
    poor.credits_cap = Some(50);
    let mut ids = vec![first.clone()];
    for key in [reader, ending, free, poor] {
        ids.push(f.mint(key, Some(1)).await.unwrap().id);
    }
    let write = KeyRefusal::Beyond(Scope::MemoryWrite);
    let beyond = [
        (2, write.clone()),
        (3, KeyRefusal::Outlives(after(HOUR))),
        (4, KeyRefusal::AboveOwnPlan(Plan::FREE)),
        (5, KeyRefusal::AboveOwnCredits(50)),
    ];
    for (maker, refusal) in &beyond {
        // The secret of a stronger one would come with its rotation.
        let rotated = f.rotate(&first, "x", 0, Some(*maker), NOW).await;
        assert_eq!(rotated.map(drop), Err(refusal.clone()), "by {maker}");
        // What is left open becomes as the maker's own.
        let made = f.mint(new_key(&format!("of {maker}")), Some(*maker)).await;
        let made = made.unwrap();
        // Where credits are bounded the counters are the maker's too: none are there twice.
        let own = if *maker == 5 { 5 } else { made.share.key_no };
        assert_eq!(made.share.key_no, own);
        assert_eq!(made.share.key_no < 6, *maker == 5);
        let record = |id: &KeyId| {
            let inner = f.store.inner().unwrap();
            let record = inner.key_called(id).unwrap().1;
            let has = Rights::of(&record, &inner.usage(f.account).unwrap());
            (has.scopes, has.cap, has.credits_cap, has.expires_at)
        };
        assert_eq!(record(&made.id), record(&ids[*maker as usize - 1]));
    }
    let asks: [(KeyNo, Ask, KeyRefusal); 5] = [
        (2, |k| k.scopes = Some(Scopes::ALL), write.clone()),
        (
            3,
            |k| k.expires_at = Some(NOW.plus_seconds(HOUR + 1)),
            KeyRefusal::Outlives(after(HOUR)),
        ),
        (
            4,
            |k| k.cap = Some(Plan::PRO),
            KeyRefusal::AboveOwnPlan(Plan::FREE),
        ),
        (
            4,
            |k| k.credits_cap = Some(101),
            KeyRefusal::AboveOwnCredits(100),
        ),
        (
            5,
            |k| k.credits_cap = Some(1),
            KeyRefusal::AboveOwnCredits(0),
        ),
    ];
    for (maker, ask, refusal) in asks {
        let mut key = new_key("never made");
        ask(&mut key);
        let made = f.mint(key, Some(maker)).await;
        assert_eq!(made.map(drop), Err(refusal), "by {maker}");
    }
    // One's own rights, and a stronger sibling's life or credits.
    let mut sibling = new_key("sibling");
    (sibling.expires_at, sibling.credits_cap) = (Some(after(60)), Some(10));
    let sibling = f.mint(sibling, Some(1)).await.unwrap().id;
    let forever = KeyChange {
        expires_at: Some(None),
        ..KeyChange::default()
    };
    let credits = |most| KeyChange {
        credits_cap: Some(most),
        ..KeyChange::default()
    };
    let all = KeyChange {
        scopes: Some(Scopes::ALL),
        ..KeyChange::default()
    };
    let plan = KeyRefusal::AboveOwnPlan(Plan::FREE);
    let attempts = [
        (2, &ids[1], &all, write.clone()),
        (2, &sibling, &forever, write.clone()),
        (2, &sibling, &credits(None), write.clone()),
        (3, &ids[2], &forever, KeyRefusal::Outlives(after(HOUR))),
        (3, &sibling, &forever, KeyRefusal::Outlives(after(HOUR))),
        (3, &ids[1], &all, KeyRefusal::Outlives(after(HOUR))),
        (4, &sibling, &credits(Some(5_000)), plan.clone()),
        (4, &sibling, &forever, plan),
        (5, &ids[4], &credits(None), KeyRefusal::AboveOwnCredits(50)),
        (
            5,
            &ids[4],
            &credits(Some(51)),
            KeyRefusal::AboveOwnCredits(50),
        ),
        (
            5,
            &sibling,
            &credits(Some(51)),
            KeyRefusal::AboveOwnCredits(50),
        ),
        (
            1,
            &ids[3],
            &credits(Some(101)),
            KeyRefusal::AboveOwnCredits(100),
        ),
        (
            1,
            &ids[4],
            &credits(Some(10_001)),
            KeyRefusal::AboveOwnCredits(10_000),
        ),
    ];
    for (maker, id, change, refusal) in attempts {
        let changed = f.change(id, change.clone(), Some(maker)).await;
        assert_eq!(changed.map(drop), Err(refusal), "by {maker}: {change:?}");
    }
    // What narrows, and what is one's own to give, is done.
    let less = credits(Some(5));
    let weaker = f.change(&sibling, less.clone(), Some(2)).await;
    assert_eq!(weaker.map(drop), Err(write), "by a key that has less");
    f.change(&sibling, less, Some(1)).await.unwrap();
    f.change(&sibling, credits(Some(50)), Some(5))
        .await
        .unwrap();
    let row = f.change(&ids[4], credits(None), Some(1)).await.unwrap();
    assert_eq!(
        (row.share.credits_cap, row.share.is_capped()),
        (None, false)
    );
    f.is_sound();
}

/// Shows that whoever was revoked, has expired or lost the scope meanwhile changes nothing more.
#[tokio::test]
async fn a_maker_must_still_be_one() {
    let f = Fixture::new().await;
    let gone = f.mint(new_key("gone"), None).await.unwrap();
    f.revoke(&gone.id, false).await.unwrap();
    let mut over = new_key("over");
    over.expires_at = Some(after(1));
    f.mint(over, None).await.unwrap();
    let mut reader = new_key("reader");
    reader.scopes = Some(scopes(&[Scope::MemoryRead]));
    f.mint(reader, None).await.unwrap();
    let late = after(1);
    let cases = [
        (2, KeyRefusal::MakerRevoked),
        (3, KeyRefusal::MakerExpired),
        (4, KeyRefusal::Beyond(Scope::Keys)),
        (99, KeyRefusal::MakerRevoked),
    ];
    for (maker, refusal) in cases {
        let rotated = f.rotate(&f.first(), "x", 0, Some(maker), late).await;
        assert_eq!(rotated.map(drop), Err(refusal), "by {maker}");
    }
    f.store.sweep_expired_keys(late).await.unwrap();
    let rotated = f.rotate(&f.first(), "x", 0, Some(3), NOW).await;
    assert_eq!(rotated.map(drop), Err(KeyRefusal::MakerExpired));
    let over = f.store.keys(f.account, late).unwrap()[2].id.clone();
    let rotated = f.rotate(&over, "x", 0, None, NOW).await;
    assert_eq!(rotated.map(drop), Err(KeyRefusal::NotActive));
}

/// Shows that the last key that manages keys for ever keeps that, whatever other keys there are.
#[tokio::test]
async fn one_key_goes_on_managing() {
    let f = Fixture::new().await;
    let first = f.first();
    let mut ending = new_key("ending");
    ending.expires_at = Some(after(60));
    let ending = f.mint(ending, None).await.unwrap().id;
    let mut reader = new_key("reader");
    reader.scopes = Some(scopes(&[Scope::MemoryRead]));
    f.mint(reader, None).await.unwrap();
    let last = Err(KeyRefusal::LastManager);
    assert_eq!(f.revoke(&first, false).await.map(drop), last);
    let ends = KeyChange {
        expires_at: Some(Some(after(60))),
        ..KeyChange::default()
    };
    let reads = KeyChange {
        scopes: Some(scopes(&[Scope::MemoryRead])),
        ..KeyChange::default()
    };
    for by in [None, Some(1)] {
        assert_eq!(f.change(&first, ends.clone(), by).await.map(drop), last);
        assert_eq!(f.change(&first, reads.clone(), by).await.map(drop), last);
    }
    // The old one in its grace is no such key, its successor is.
    let (second, _) = f.rotate(&first, "second", 60, None, NOW).await.unwrap();
    assert_eq!(f.revoke(&second.id, false).await.map(drop), last);
    f.revoke(&first, false).await.unwrap();
    let forever = KeyChange {
        expires_at: Some(None),
        ..KeyChange::default()
    };
    f.change(&ending, forever, None).await.unwrap();
    f.change(&second.id, reads, Some(f.no(&second.id)))
        .await
        .unwrap();
    assert_eq!(f.revoke(&ending, false).await.map(drop), last);
    // The admin may; who is left is told of nothing to do with that.
    f.revoke(&ending, true).await.unwrap();
    let named = KeyChange {
        description: Some("left".to_owned()),
        ..KeyChange::default()
    };
    let row = f.change(&second.id, named, None).await.unwrap();
    assert_eq!(row.description, "left");
    f.is_sound();
}

/// Shows that keys whose time has come take no place, are active nowhere, and pay for nothing, swept or not.
#[tokio::test]
async fn an_expired_key_takes_no_place() {
    let f = Fixture::new().await;
    let ending = |n: u32| NewKey {
        expires_at: Some(after(60)),
        ..new_key(&format!("ending {n}"))
    };
    for n in 1..100 {
        f.mint(ending(n), None).await.unwrap();
    }
    let full = f.mint(new_key("one more"), None).await;
    assert_eq!(full.map(drop), Err(KeyRefusal::LimitReached));
    let full = f.rotate(&f.first(), "x", 1, None, NOW).await;
    assert_eq!(full.map(drop), Err(KeyRefusal::LimitReached));
    f.rotate(&f.first(), "successor", 0, None, NOW)
        .await
        .unwrap();
    let late = after(60);
    let row = f.store.account(f.account, late).unwrap().unwrap();
    assert_eq!((row.keys.len(), row.active), (1, true));
    let (rows, total) = f.store.all_keys(false, 0, 200, late).unwrap();
    assert_eq!((rows.len(), total), (1, 1));
    let made = f
        .store
        .create_key(f.account, new_key("room"), None, late, Cause::service());
    made.await.unwrap();
    assert_eq!(f.store.health().active_keys, 100);
    let page = f
        .store
        .accounts(&crate::store::AccountFilter::default(), 0, 9, late);
    assert_eq!(page.unwrap().active, 1);
    for id in f.store.account(f.account, late).unwrap().unwrap().keys {
        f.revoke(&id.id, true).await.unwrap();
    }
    // None is left but those whose time has come: the account is active no more.
    for contains in [None, Some("bo@".to_owned())] {
        let filter = crate::store::AccountFilter {
            contains,
            ..crate::store::AccountFilter::default()
        };
        let page = f.store.accounts(&filter, 0, 9, late).unwrap();
        assert_eq!((page.total, page.active), (1, 0));
        assert_eq!((page.rows[0].active, page.rows[0].keys.len()), (false, 0));
    }
    assert_eq!(f.store.sweep_expired_keys(late).await.unwrap(), 98);
    assert_eq!(f.store.health().active_keys, 0);
    let spent = (Operation::ReadMemory, 1);
    let debit = f.store.debit(f.account, Payer::first(5), spent, late).await;
    assert!(debit.is_err());
    assert!(f.store.trees().key_expiries.is_empty());
    f.is_sound();
}

/// Shows that a key changed before its time is not ended by what the index said of it earlier.
#[tokio::test]
async fn an_old_entry_of_the_index_ends_nothing() {
    let f = Fixture::new().await;
    let key = NewKey {
        expires_at: Some(after(60)),
        ..new_key("second")
    };
    let id = f.mint(key, None).await.unwrap().id;
    for end in [None, Some(after(500)), Some(after(90))] {
        let change = KeyChange {
            expires_at: Some(end),
            ..KeyChange::default()
        };
        f.change(&id, change, None).await.unwrap();
    }
    assert_eq!(f.store.sweep_expired_keys(after(89)).await.unwrap(), 0);
    f.is_sound();
    assert_eq!(f.store.sweep_expired_keys(after(90)).await.unwrap(), 1);
    assert_eq!(f.store.sweep_expired_keys(after(900)).await.unwrap(), 0);
    assert_eq!(f.row(&id).ended_at, Some(after(90)));
    f.is_sound();
}
