//! Storms: many threads at the same balance, place, keys, e-mail or idempotency key, round after round.
//!
//! Each round begins with a barrier, so that its operations meet. After the last one the store is checked
//! beside whatever still goes on. `STORM_ROUNDS` sets how many rounds there are.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a storm is told how long it lasts, and says what it has covered"
)]

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::codec::decode;
use super::testing::{NOW, by, memory, new_key, sign_up};
use super::*;
use crate::domain::event::Cause;
use crate::domain::json::Object;
use crate::domain::key::KeyId;
use crate::domain::ledger::{Entry, LedgerRow, amount};
use crate::domain::memory::MemoryId;
use crate::domain::plan::Operation;
use crate::domain::plan::Plan;
use crate::domain::scope::{Scope, Scopes};
use crate::domain::time::Timestamp;
use crate::domain::usage::Payer;
use crate::domain::usage::{KeyNo, Refusal};

const PRICE: u64 = 2;

/// Rounds of each storm.
fn rounds() -> u64 {
    let asked = std::env::var("STORM_ROUNDS").ok();
    asked.map_or(1_000, |text| text.parse().unwrap())
}

struct Sky {
    store: Store,
    _directory: tempfile::TempDir,
    began: Instant,
}

impl Sky {
    /// A store in memory, if the machine has a file system there: what races is not the disk.
    fn open() -> Self {
        let shm = Path::new("/dev/shm");
        let directory = if shm.is_dir() {
            tempfile::tempdir_in(shm).unwrap()
        } else {
            tempfile::tempdir().unwrap()
        };
        let options = Options {
            reserve_bytes: 0,
            ..Options::default()
        };
        let (store, _) = Store::open(directory.path(), options).unwrap();
        Self {
            store,
            _directory: directory,
            began: Instant::now(),
        }
    }

    async fn account(&self, name: u64, plan: Plan) -> AccountKey {
        let key = new_key(&format!("key-of-{name}"));
        let account = sign_up(&self.store, None, 1_000 + name, key).await;
        self.store
            .change_plan(account, plan, NOW, Cause::service())
            .await
            .unwrap();
        account
    }

    /// Checks the store as a server that runs would.
    async fn clears(self, name: &str, rounds: u64, covered: &str) {
        let stormed = self.began.elapsed();
        let report = self.store.check_beside_writes().await.unwrap();
        assert!(report.is_sound(), "{report}");
        println!("{name}: {rounds} rounds in {stormed:.1?}; {covered}; {report}");
    }
}

/// Racers that are released in pairs, to meet within nanoseconds rather than one after the other.
const PAIRED: usize = 8;

/// Starts all at once and returns what they said.
async fn race<T: Send + 'static, F: Future<Output = T> + Send + 'static>(racers: Vec<F>) -> Vec<T> {
    let barrier = Arc::new(Barrier::new(racers.len()));
    let arrived = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for racer in racers {
        let (barrier, arrived) = (Arc::clone(&barrier), Arc::clone(&arrived));
        tasks.spawn(async move {
            barrier.wait().await;
            meet(&arrived);
            racer.await
        });
    }
    tasks.join_all().await
}

/// Waits for another thread to come to the same place, but not for long: it may have none.
fn meet(arrived: &AtomicUsize) {
    let number = arrived.fetch_add(1, Ordering::SeqCst);
    let pair = (number / 2 + 1) * 2;
    let began = Instant::now();
    while number < PAIRED
        && arrived.load(Ordering::SeqCst) < pair
        && began.elapsed() < Duration::from_micros(200)
    {
        std::hint::spin_loop();
    }
}

/// Grants an account what it has used and so much more.
fn leave(store: &Store, account: AccountKey, left: u64) {
    // Past the rules, which let nobody grant within a cycle.
    let inner = store.inner().unwrap();
    let set = inner.change_usage::<_, std::convert::Infallible>(account, |usage| {
        let granted = usage.used + left;
        let mut row = LedgerRow::lost(0, usage.cycle, NOW);
        row.amount = amount(granted) - amount(usage.granted);
        usage.granted = granted;
        usage.ledger.push(row);
        Ok(())
    });
    set.unwrap();
}

/// A key of an account: its number and its id.
type Key = (KeyNo, KeyId);

async fn add(
    store: &Store,
    account: AccountKey,
    key: &Key,
    replay: Option<&Replay>,
    bytes: usize,
) -> Result<(MemoryId, String), OpError<Refusal>> {
    let memory = memory("a", bytes);
    let add = AddMemory {
        account,
        payer: Payer::first(key.0),
        key_id: key.1.as_str(),
        memory: &memory,
        id: MemoryId::new(NOW.millis(), 1 << 60),
        cost: PRICE,
        now: NOW,
        replay,
    };
    let respond = |added: &Added| format!(r#"{{"entry":{}}}"#, added.entry);
    let (body, _) = store.add_memory(add, respond).await?;
    let id = body.split('"').find_map(MemoryId::parse).unwrap();
    Ok((id, body))
}

fn first_key(store: &Store, account: AccountKey) -> Key {
    let rows = store.keys(account, NOW).unwrap();
    (rows[0].share.key_no, rows[0].id.clone())
}

async fn mint(store: &Store, account: AccountKey, secret: &str) -> Key {
    let row = store
        .create_key(account, new_key(secret), None, NOW, Cause::service())
        .await;
    let row = row.unwrap();
    (row.share.key_no, row.id)
}

/// Shows that credits for n operations are n operations, whoever comes, and none below zero (I1, I2).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_balance() {
    let sky = Sky::open();
    let account = sky.account(0, Plan::PREMIUM).await;
    let mut debits = 0;
    for round in 0..rounds() {
        // Odd balances too, which the price does not divide.
        let left = 20 + round % 41;
        leave(&sky.store, account, left);
        let racers = (0..64).map(|n| {
            let store = sky.store.clone();
            let cost = if n % 2 == 0 { PRICE } else { 1 };
            async move {
                match store
                    .debit(account, Payer::first(1), (Operation::ReadMemory, cost), NOW)
                    .await
                {
                    Ok(debited) => {
                        assert_eq!(debited.cost, cost);
                        (cost, true)
                    }
                    Err(OpError::Refused(Refusal::OutOfCredits(_))) => (cost, false),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let before = sky.store.usage(account, NOW).unwrap();
        let said = race(racers.collect()).await;
        let charged: u64 = said
            .iter()
            .filter(|(_, ok)| *ok)
            .map(|(cost, _)| cost)
            .sum();
        let after = sky.store.usage(account, NOW).unwrap();
        assert_eq!(after.used - before.used, charged, "round {round}");
        assert_eq!(charged, left, "round {round}: all is spent and no more");
        assert!(after.used <= after.granted);
        debits += said.iter().filter(|(_, ok)| *ok).count();
    }
    let covered = format!("{debits} debits of {}", rounds() * 64);
    sky.clears("one balance", rounds(), &covered).await;
}

/// Shows that the ledger comes to what was debited, key by key and operation by operation, while 64 debit over
/// the turn of an hour and rows are moved; that no number is missing, and no row is counted twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_ledger() {
    const OPERATIONS: [Operation; 3] = [
        Operation::ReadMemory,
        Operation::Stats,
        Operation::ListMemories,
    ];
    let sky = Sky::open();
    let account = sky.account(0, Plan::PREMIUM).await;
    for n in 2..=6 {
        mint(&sky.store, account, &format!("key {n}")).await;
    }
    let mut expected: HashMap<(KeyNo, Operation), i64> = HashMap::new();
    for round in 0..rounds() {
        leave(&sky.store, account, 1_000);
        let turn = i64::try_from(round % 600).unwrap() * 3_600;
        let racers = (0..64u32).map(|n| {
            let store = sky.store.clone();
            let key = n % 6 + 1;
            let operation = OPERATIONS[n as usize % 3];
            let now = NOW.plus_seconds(turn - i64::from(n / 3 % 2));
            async move {
                if n % 8 == 7 {
                    let inner = store.inner().unwrap();
                    let shared = inner.locks.shared(account).await;
                    inner.move_ledger(account).unwrap();
                    drop(shared);
                    return None;
                }
                let payer = Payer::first(key);
                let debit = store.debit(account, payer, (operation, 1), now).await;
                debit.unwrap();
                Some((key, operation))
            }
        });
        for said in race(racers.collect()).await.into_iter().flatten() {
            *expected.entry(said).or_default() += 1;
        }
    }
    let usage = sky.store.usage(account, NOW).unwrap();
    let (mut found, mut next) = (HashMap::new(), 1);
    let visit = |row: &LedgerRow| {
        assert_eq!(row.no, next);
        next += 1;
        if let Entry::Debit(operation) = row.entry {
            assert_eq!(-row.amount, i64::from(row.count));
            *found.entry((row.key_no, operation)).or_default() -= row.amount;
        }
        ControlFlow::Continue(())
    };
    sky.store.ledger(account, &usage, visit).unwrap();
    assert_eq!(found, expected);
    let debits: i64 = expected.values().sum();
    let covered = format!("{debits} debits in {} rows", next - 1);
    sky.clears("one ledger", rounds(), &covered).await;
}

/// Shows that one place is one memory, and that nobody else pays (I2, I7).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_last_place() {
    let sky = Sky::open();
    let account = sky.account(0, Plan::PRO).await;
    let key = first_key(&sky.store, account);
    let fill = (0..99).map(|_| {
        let (store, key) = (sky.store.clone(), key.clone());
        async move { drop(add(&store, account, &key, None, 10).await.unwrap()) }
    });
    race(fill.collect()).await;
    sky.store
        .change_plan(account, Plan::FREE, NOW, Cause::service())
        .await
        .unwrap();
    let mut refused = 0;
    for round in 0..rounds() {
        leave(&sky.store, account, 1_000);
        let before = sky.store.usage(account, NOW).unwrap();
        let racers = (0..64).map(|_| {
            let (store, key) = (sky.store.clone(), key.clone());
            async move {
                match add(&store, account, &key, None, 10).await {
                    Ok((id, _)) => Some(id),
                    Err(OpError::Refused(Refusal::MemoryLimit(_))) => None,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let said = race(racers.collect()).await;
        let made: Vec<_> = said.into_iter().flatten().collect();
        let after = sky.store.usage(account, NOW).unwrap();
        assert_eq!((made.len(), after.held), (1, 100), "round {round}");
        assert_eq!(after.used - before.used, PRICE, "round {round}");
        refused += 63;
        let gone = sky.store.delete_memory(account, 1, made[0], NOW).await;
        gone.unwrap();
    }
    let covered = format!("{refused} adds refused");
    sky.clears("one last place", rounds(), &covered).await;
}

/// Shows that of two keys that are revoked at once one stays, and that one which is revoked does nothing
/// more once that is answered (I5, I6).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_pair_of_keys() {
    let sky = Sky::open();
    let account = sky.account(0, Plan::PREMIUM).await;
    let mut stays = first_key(&sky.store, account);
    let (used, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    for round in 0..rounds() {
        leave(&sky.store, account, 1_000);
        let second = mint(&sky.store, account, &format!("second {round}")).await;
        let pair = [stays.clone(), second];
        let revoked = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let racers = (0..8usize).map(|n| {
            let (store, pair, revoked) = (sky.store.clone(), pair.clone(), Arc::clone(&revoked));
            let (used, refused) = (Arc::clone(&used), Arc::clone(&refused));
            async move {
                let own = n % 2;
                if n >= 2 {
                    // A user of a key: whatever begins after the revocation's answer is refused.
                    for _ in 0..4 {
                        let too_late = revoked[own].load(Ordering::SeqCst);
                        match store
                            .debit(
                                account,
                                Payer::first(pair[own].0),
                                (Operation::ReadMemory, 1),
                                NOW,
                            )
                            .await
                        {
                            Ok(_) => {
                                assert!(!too_late, "round {round}: a revoked key was debited");
                                used.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(OpError::Refused(Refusal::KeyRevoked)) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => panic!("{error}"),
                        }
                        tokio::task::yield_now().await;
                    }
                    return None;
                }
                // Each itself, each the other, or both the same one.
                let which = match round % 3 {
                    0 => own,
                    1 => 1 - own,
                    _ => 0,
                };
                let by = pair[own].1.as_str();
                match store
                    .revoke_key(account, &pair[which].1, false, NOW, super::testing::by(by))
                    .await
                {
                    Ok(_) => {
                        revoked[which].store(true, Ordering::SeqCst);
                        let key = pair[which].clone();
                        let late = add(&store, account, &key, None, 10).await;
                        let is_refused = matches!(late, Err(OpError::Refused(Refusal::KeyRevoked)));
                        assert!(is_refused, "round {round}: a revoked key added a memory");
                        Some(which)
                    }
                    Err(OpError::Refused(KeyRefusal::LastManager)) => None,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let said = race(racers.collect()).await;
        let gone: BTreeSet<usize> = said.into_iter().flatten().collect();
        assert_eq!(gone.len(), 1, "round {round}: keys revoked");
        let left = usize::from(gone.contains(&0));
        let row = sky.store.account(account, NOW).unwrap().unwrap();
        let active: Vec<_> = row.keys.iter().map(|key| &key.id).collect();
        assert_eq!(active, [&pair[left].1], "round {round}");
        stays = pair[left].clone();
    }
    let (used, refused) = (
        used.load(Ordering::Relaxed),
        refused.load(Ordering::Relaxed),
    );
    let covered = format!("{used} debits by keys, {refused} refused");
    sky.clears("one pair of keys", rounds(), &covered).await;
}

/// Shows that an account keeps a key that manages keys for ever, whatever its keys do to each other at once,
/// and that neither rotations nor ends of keys change a counter (I2, I5).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(clippy::too_many_lines, reason = "one round, told in order")]
async fn one_managing_key() {
    let sky = Sky::open();
    let account = sky.account(0, Plan::PREMIUM).await;
    let mut done = 0;
    for round in 0..rounds() / 4 {
        // Each round is later than the grace of the one before.
        let now = NOW.plus_seconds(i64::try_from(round).unwrap() * 100);
        sky.store.sweep_expired_keys(now).await.unwrap();
        leave(&sky.store, account, 1_000);
        for n in 0..2 {
            mint(&sky.store, account, &format!("{n} of round {round}")).await;
        }
        let all = sky.store.account(account, now).unwrap().unwrap().keys;
        let managers: Vec<_> = all
            .iter()
            .filter(|key| key.scopes == Scopes::ALL && key.expires_at.is_none())
            .map(|key| {
                let inner = sky.store.inner().unwrap();
                let record = inner.key_record(&hash_of(&inner, &key.id)).unwrap();
                (record.unwrap().no, key.share.key_no, key.id.clone())
            })
            .collect();
        assert!(managers.len() >= 3, "round {round}");
        let before = sky.store.usage(account, now).unwrap();
        let racers = (0..64u64).map(|n| {
            let store = sky.store.clone();
            let at = |n: u64| managers[usize::try_from(n).unwrap() % managers.len()].clone();
            let ((by, lineage, _), (_, _, id)) = (at(n), at(n / 3 + round));
            async move {
                let cause = Cause::service();
                let change = |change| {
                    let store = store.clone();
                    let (id, cause) = (id.clone(), cause.clone());
                    async move {
                        let changed = store.change_key(account, &id, change, Some(by), now, cause);
                        changed.await.map(drop)
                    }
                };
                let outcome = match (n + round) % 5 {
                    0 => store
                        .revoke_key(account, &id, false, now, cause)
                        .await
                        .map(drop),
                    1 => {
                        let scopes = [Scope::MemoryRead].into_iter().collect();
                        let reads = KeyChange {
                            scopes: Some(scopes),
                            ..KeyChange::default()
                        };
                        change(reads).await
                    }
                    2 => {
                        let ends = KeyChange {
                            expires_at: Some(Some(now.plus_seconds(60))),
                            ..KeyChange::default()
                        };
                        change(ends).await
                    }
                    3 => {
                        let key = new_key(&format!("{n} comes after in round {round}"));
                        let successor = Successor {
                            hash: key.hash,
                            id: key.id,
                            masked: key.masked,
                            grace_seconds: if n % 2 == 0 { 0 } else { 60 },
                        };
                        let by = Some(by);
                        let rotated = store.rotate_key(account, &id, successor, by, now, cause);
                        rotated.await.map(drop)
                    }
                    _ => {
                        let payer = Payer {
                            key_no: by,
                            lineage,
                        };
                        let read = (Operation::ReadMemory, 1);
                        return match store.debit(account, payer, read, now).await {
                            Ok(_) => (1, 0),
                            Err(OpError::Refused(Refusal::KeyRevoked)) => (0, 0),
                            Err(error) => panic!("{error}"),
                        };
                    }
                };
                match outcome {
                    Ok(()) => (0, 1),
                    Err(OpError::Refused(_)) => (0, 0),
                    Err(OpError::Store(error)) => panic!("{error}"),
                }
            }
        });
        let said = race(racers.collect()).await;
        let row = sky.store.account(account, now).unwrap().unwrap();
        let is_lasting = |key: &&KeyRow| {
            key.scopes.contains(Scope::Keys) && key.expires_at.is_none() && key.successor.is_none()
        };
        assert_ne!(
            row.keys.iter().filter(is_lasting).count(),
            0,
            "round {round}"
        );
        let paid: u64 = said.iter().map(|(paid, _)| paid).sum();
        assert_eq!(row.usage.used - before.used, paid, "round {round}");
        assert_eq!(row.usage.granted, before.granted, "round {round}");
        done += said.iter().map(|(_, done)| done).sum::<u64>();
    }
    assert!(done >= rounds() / 4, "little was done: {done}");
    let covered = format!("{done} keys revoked, changed and rotated");
    sky.clears("one managing key", rounds() / 4, &covered).await;
}

fn hash_of(inner: &Inner, id: &KeyId) -> crate::domain::key::KeyHash {
    decode(&inner.trees.key_ids.get(id.as_str()).unwrap().unwrap()).unwrap()
}

/// Shows that one e-mail is one account, and that nothing of the others is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_email() {
    const RACERS: u64 = 32;
    let sky = Sky::open();
    for round in 0..rounds() {
        let name = format!("ana{round}@example.com");
        let racers = (0..RACERS).map(|n| {
            let (store, name) = (sky.store.clone(), name.clone());
            let account = AccountKey::new(10_000 + round, u128::from(n) + 1);
            async move {
                let new = NewAccount {
                    account,
                    name: Some(name),
                    plan: Plan::FREE,
                    key: new_key(&format!("key {n} of round {round}")),
                    created_at: NOW,
                    cause: Cause::service(),
                };
                match store.create_account(new).await {
                    Ok(row) => Some(row.account),
                    Err(OpError::Refused(NameTaken::Name)) => None,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let made: Vec<_> = race(racers.collect()).await.into_iter().flatten().collect();
        assert_eq!(made.len(), 1, "round {round}: accounts of one e-mail");
        assert_eq!(sky.store.account_named(&name).unwrap(), Some(made[0]));
    }
    let health = sky.store.health();
    assert_eq!((health.accounts, health.active_keys), (rounds(), rounds()));
    let trees = sky.store.trees();
    for tree in [
        &trees.users,
        &trees.names,
        &trees.usage,
        &trees.keys,
        &trees.key_ids,
    ] {
        assert_eq!(tree.len() as u64, rounds());
    }
    let covered = format!("{} sign-ups refused", rounds() * (RACERS - 1));
    sky.clears("one e-mail", rounds(), &covered).await;
}

/// Shows that one idempotency key is one memory and one debit, and that everybody gets the one answer or
/// is told to come again (I3).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_idempotency_key() {
    let sky = Sky::open();
    let account = sky.account(0, Plan::PREMIUM).await;
    let key = first_key(&sky.store, account);
    let (replayed, in_flight) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    for round in 0..rounds() {
        leave(&sky.store, account, 1_000);
        let before = sky.store.usage(account, NOW).unwrap();
        let mut name = [0; 16];
        name[..8].copy_from_slice(&round.to_be_bytes());
        let racers = (0..64).map(|n| {
            let (store, key) = (sky.store.clone(), key.clone());
            let (replayed, in_flight) = (Arc::clone(&replayed), Arc::clone(&in_flight));
            async move {
                loop {
                    match store.begin_replay(account, name, [1; 32], NOW).await {
                        Ok(replay) => {
                            let made = add(&store, account, &key, Some(&replay), 10).await;
                            return Some((true, made.unwrap().1));
                        }
                        Err(ReplayRefusal::Answered { status: 201, body }) => {
                            replayed.fetch_add(1, Ordering::Relaxed);
                            return Some((false, body));
                        }
                        Err(ReplayRefusal::InFlight) => {
                            in_flight.fetch_add(1, Ordering::Relaxed);
                            // Some come again at once, others are content.
                            if n % 16 != 0 {
                                return None;
                            }
                            tokio::task::yield_now().await;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
        let said = race(racers.collect()).await;
        let answers: Vec<_> = said.into_iter().flatten().collect();
        let fresh = answers.iter().filter(|(fresh, _)| *fresh).count();
        assert_eq!(fresh, 1, "round {round}: effects");
        let bodies: BTreeSet<_> = answers.iter().map(|(_, body)| body).collect();
        assert_eq!(bodies.len(), 1, "round {round}: answers that differ");
        let after = sky.store.usage(account, NOW).unwrap();
        assert_eq!((after.used - before.used, after.held), (PRICE, round + 1));
        let other = sky.store.begin_replay(account, name, [2; 32], NOW).await;
        assert!(matches!(other, Err(ReplayRefusal::Reused)));
    }
    let (again, flying) = (
        replayed.load(Ordering::Relaxed),
        in_flight.load(Ordering::Relaxed),
    );
    let covered = format!("{again} replayed, {flying} in flight");
    sky.clears("one idempotency key", rounds(), &covered).await;
}

/// Shows that debits beside plan changes are all counted, and that no plan grants more than it sells (I1).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn plans_and_debits() {
    let sky = Sky::open();
    let account = sky.account(0, Plan::FREE).await;
    let mut charged = 0;
    for round in 0..rounds() {
        let before = sky.store.usage(account, NOW).unwrap();
        let racers = (0..34u64).map(|n| {
            let store = sky.store.clone();
            async move {
                if n < 2 {
                    let plans = [Plan::FREE, Plan::PRO, Plan::FREE, Plan::PREMIUM];
                    let plan = plans[usize::try_from((round + n) % 4).unwrap()];
                    let (_, usage) = store
                        .change_plan(account, plan, NOW, Cause::service())
                        .await
                        .unwrap();
                    assert_eq!(usage.plan(), plan);
                    return 0;
                }
                match store
                    .debit(account, Payer::first(1), (Operation::ReadMemory, 5), NOW)
                    .await
                {
                    Ok(_) => 5,
                    Err(OpError::Refused(Refusal::OutOfCredits(_))) => 0,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let paid: u64 = race(racers.collect()).await.into_iter().sum();
        let after = sky.store.usage(account, NOW).unwrap();
        assert_eq!(after.used - before.used, paid, "round {round}");
        assert!(after.used <= after.granted, "round {round}");
        let left = after.granted - after.used;
        assert!(
            left <= after.plan().credits_per_cycle(),
            "round {round}: {left}"
        );
        charged += paid;
    }
    let covered = format!("{charged} credits debited");
    sky.clears("plans and debits", rounds(), &covered).await;
}

/// Shows that adds beside deletes, changes and recounts are counted exactly, and that a recount finds
/// nothing to correct (I7).
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn adds_deletes_and_recounts() {
    let sky = Sky::open();
    let account = sky.account(0, Plan::PREMIUM).await;
    let key = first_key(&sky.store, account);
    let mut there: Vec<MemoryId> = Vec::new();
    for round in 0..rounds() {
        leave(&sky.store, account, 1_000);
        let keep = there.split_off(there.len().min(4));
        let racers = (0..14usize).map(|n| {
            let (store, key) = (sky.store.clone(), key.clone());
            let (old, kept) = (there.get(n / 2).copied(), keep.first().copied());
            async move {
                match n {
                    // Two for each memory: one of them comes too late.
                    0..8 => {
                        let id = old?;
                        match store.delete_memory(account, 1, id, NOW).await {
                            Ok(_) => None,
                            Err(OpError::Refused(UpdateRefusal::NotFound)) => Some(Err(id)),
                            Err(error) => panic!("{error}"),
                        }
                    }
                    8 => {
                        assert_eq!(store.recount(account).await.unwrap(), None);
                        None
                    }
                    9 => {
                        let update = UpdateMemory {
                            account,
                            payer: Payer::first(1),
                            id: kept?,
                            cost: PRICE,
                            now: NOW,
                        };
                        let to = |_: Object<'_>| Ok::<_, std::convert::Infallible>(memory("b", 20));
                        store.update_memory(update, to).await.unwrap();
                        None
                    }
                    _ => {
                        let bytes = if n == 10 { 8_000 } else { 10 };
                        let made = add(&store, account, &key, None, bytes).await;
                        Some(Ok(made.unwrap().0))
                    }
                }
            }
        });
        let said = race(racers.collect()).await;
        let late = said.iter().flatten().filter(|said| said.is_err()).count();
        assert_eq!(late, there.len(), "round {round}: each is deleted once");
        there = keep;
        there.extend(said.into_iter().flatten().flatten());
        let usage = sky.store.usage(account, NOW).unwrap();
        assert_eq!(usage.held, there.len() as u64, "round {round}");
    }
    let covered = format!("{} adds", rounds() * 4);
    sky.clears("adds, deletes and recounts", rounds(), &covered)
        .await;
}

/// Shows that a check beside writes of all kinds raises no false alarm, and finds damage meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn checks_beside_everything() {
    let sky = Sky::open();
    let idle = sign_up(&sky.store, Some("idle@example.com"), 500, new_key("idle")).await;
    let over = Arc::new(AtomicU64::new(0));
    let mut writers = JoinSet::new();
    let each = (rounds() / 25).max(12);
    for n in 0..16u64 {
        let (store, over) = (sky.store.clone(), Arc::clone(&over));
        writers.spawn(async move {
            write_everything(&store, n, each).await;
            over.fetch_add(1, Ordering::SeqCst);
        });
    }
    let (trees, id) = (sky.store.trees(), idle.anonymous_id());
    let (mut sound, mut found) = (0, 0);
    while over.load(Ordering::SeqCst) < 16 || found == 0 {
        let report = sky.store.check_beside_writes().await.unwrap();
        assert!(report.is_sound(), "{report}");
        sound += 1;
        let name = b"idle@example.com";
        let claim = trees.names.remove(name).unwrap().unwrap();
        let report = sky.store.check_beside_writes().await.unwrap();
        trees.names.insert(name, claim).unwrap();
        let problems: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems, [format!("users {id}: its name is not in names")]);
        found += 1;
    }
    writers.join_all().await;
    let covered = format!("{sound} checks sound, {found} found the damage");
    sky.clears("checks beside everything", 16 * each, &covered)
        .await;
}

/// Writes of every kind, on accounts of its own and on one that all share.
async fn write_everything(store: &Store, n: u64, rounds: u64) {
    let name = |round| Some(format!("writer{n}-{round}@example.com"));
    let secret = |round| new_key(&format!("writer {n} {round}"));
    let mut account = sign_up(store, name(0).as_deref(), 2_000 + n, secret(0)).await;
    let mut key = first_key(store, account);
    for round in 1..=rounds {
        leave(store, account, 1_000);
        let mut made = Vec::new();
        for bytes in [10, 20_000, 10] {
            let at = NOW.plus_seconds(i64::try_from(round).unwrap() * 3_600);
            let names = [u8::try_from(bytes % 251).unwrap(); 16];
            // Only when the day is over the name is free again.
            let replay = store.begin_replay(account, names, [1; 32], at).await.ok();
            made.push(
                add(store, account, &key, replay.as_ref(), bytes)
                    .await
                    .unwrap()
                    .0,
            );
        }
        let other = mint(store, account, &format!("other {n} {round}")).await;
        made.push(add(store, account, &other, None, 10).await.unwrap().0);
        for (id, bytes) in [(made[0], 20_000), (made[1], 10)] {
            let update = UpdateMemory {
                account,
                payer: Payer::first(other.0),
                id,
                cost: PRICE,
                now: NOW,
            };
            let to = |_: Object<'_>| Ok::<_, std::convert::Infallible>(memory("c", bytes));
            store.update_memory(update, to).await.unwrap();
        }
        let gone = store
            .revoke_key(account, &key.1, false, NOW, by("key_000000000000"))
            .await;
        gone.unwrap();
        key = other;
        store
            .delete_memory(account, key.0, made[1], NOW)
            .await
            .unwrap();
        store
            .debit(
                account,
                Payer::first(key.0),
                (Operation::ReadMemory, 1),
                NOW,
            )
            .await
            .unwrap();
        let plan = [Plan::PREMIUM, Plan::PRO][usize::try_from(round % 2).unwrap()];
        store
            .change_plan(account, plan, NOW, Cause::service())
            .await
            .unwrap();
        store.stats(account).await.unwrap();
        let inner = store.inner().unwrap();
        let due = inner.swap_usage(account, |usage| {
            usage.stats_due = 0;
            Ok::<_, std::convert::Infallible>(())
        });
        due.unwrap();
        store.save_stats_later(account);
        assert_eq!(store.recount(account).await.unwrap(), None);
        store.sweep_replays(sweep_time(round)).await.unwrap();
        if round.is_multiple_of(10) {
            let millis = 3_000 + n * 1_000 + round;
            account = sign_up(store, name(round).as_deref(), millis, secret(round)).await;
            key = first_key(store, account);
        }
    }
}

/// So that some recorded answers are a day old, and others are not.
fn sweep_time(round: u64) -> Timestamp {
    NOW.plus_seconds(i64::try_from(round).unwrap() * 3_600 - 12 * 3_600)
}
