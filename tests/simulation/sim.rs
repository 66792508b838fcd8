//! One run: the real use cases over the real store, step by step beside the model.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use memoryos::app::{
    AdminAccess, App, BackupSettings, Failure, RateLimits, Settings, WebhookEndpoint,
};
use memoryos::clock::{Clock, ManualClock};
use memoryos::domain::account::AccountKey;
use memoryos::domain::event::{Cause, EventKind};
use memoryos::domain::key::Secret;
use memoryos::domain::ledger::{Entry, LedgerRow};
use memoryos::domain::plan::{Operation, Plan, Prices};
use memoryos::domain::scope::Scope;
use memoryos::domain::time::Timestamp;
use memoryos::store::{AccountRow, OpenError, Options, PageStart, Principal, Store};
use serde_json::json;
use tempfile::TempDir;

use crate::audit::{RECEIVER, audit, key_row, masked, numbers, row, rows, same};
use crate::calendar::{DAY, Micros, SECOND, days};
use crate::image::Image;
use crate::model::{Account, Asked, Key, Ledger, Model, Money, Refused, Spent, WRITE, adjustment};
use crate::operations::{Form, Generator, Op, Owner, Who};
use crate::random::Random;

mod accounts;
mod erasure;
mod memories;
mod money;

/// Operations of a run, after those that steer its accounts to where it becomes narrow.
pub(crate) const STEPS: usize = 1_000;
/// Operations that a failure prints.
const HISTORY: usize = 20;
/// One in so many writes is torn, in runs that crash.
const TORN: usize = 60;
/// The same of erasures: rare, and of many steps.
const TORN_ERASURES: usize = 2;
/// The same of plans that are applied.
const TORN_PLANS: usize = 2;

/// What a run, or all of them, covered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub operations: BTreeMap<&'static str, u64>,
    pub answers: BTreeMap<&'static str, u64>,
    pub reopened: u64,
    pub crashes: u64,
    pub torn: u64,
    /// Crashes in the middle of the recovery from another.
    pub recoveries: u64,
    /// What was found after a crash in the middle of an operation.
    pub outcomes: BTreeMap<&'static str, u64>,
    pub debits_lost: u64,
    pub settled: u64,
    pub cycles: u64,
    /// Accounts made with the e-mail address of one that was erased.
    pub afresh: u64,
}

impl Figures {
    pub(crate) fn add(&mut self, other: &Self) {
        let sum = |to: &mut BTreeMap<&'static str, u64>, from: &BTreeMap<&'static str, u64>| {
            for (name, n) in from {
                *to.entry(name).or_default() += n;
            }
        };
        sum(&mut self.operations, &other.operations);
        sum(&mut self.answers, &other.answers);
        sum(&mut self.outcomes, &other.outcomes);
        self.reopened += other.reopened;
        self.crashes += other.crashes;
        self.torn += other.torn;
        self.recoveries += other.recoveries;
        self.debits_lost += other.debits_lost;
        self.settled += other.settled;
        self.cycles += other.cycles;
        self.afresh += other.afresh;
    }
}

/// A read's debit that nothing has written yet, as far as is known: how the account was before. What is written
/// of an account has all of its debits; another account's may be lost meanwhile.
#[derive(Clone, Debug)]
struct Unflushed {
    account: AccountKey,
    /// The first key of the line that paid.
    first: usize,
    money: Money,
    spent: Spent,
    ledger: Ledger,
}

/// What a crash may have left.
struct Candidate {
    what: &'static str,
    model: Model,
    unflushed: Vec<Unflushed>,
}

impl Candidate {
    /// Takes back the last debits of reads of each account, until the account has spent what the store says.
    /// Returns how many.
    fn lose_reads(&mut self, store: &Store) -> Result<u64, String> {
        let mut lost = 0;
        for account in &mut self.model.accounts {
            let found = store.account(account.name, Timestamp::from_micros(Micros::MIN));
            let found = found.map_err(|error| error.to_string())?;
            let spent = |row: &AccountRow| (row.usage.used_ever, row.usage.last_activity);
            while found.as_ref().map(spent).is_some_and(|(ever, last)| {
                (ever, last.map(Timestamp::micros)) != (account.money.ever, account.money.last)
            }) {
                let of_account = |debit: &Unflushed| debit.account == account.name;
                let Some(at) = self.unflushed.iter().rposition(of_account) else {
                    break;
                };
                let debit = self.unflushed.remove(at);
                (account.money, account.ledger) = (debit.money, debit.ledger);
                account.keys[debit.first].spent = debit.spent;
                lost += 1;
            }
        }
        Ok(lost)
    }

    /// An account was written, with its debits.
    fn written(&mut self, at: usize) {
        let account = self.model.accounts[at].name;
        self.unflushed.retain(|debit| debit.account != account);
    }
}

pub(crate) struct Sim {
    pub figures: Figures,
    /// The last operations.
    pub history: VecDeque<String>,
    pub step: usize,
    random: Random,
    generator: Generator,
    model: Model,
    unflushed: Vec<Unflushed>,
    /// Who each key was when it was last let in, to go on with after it was revoked.
    principals: HashMap<String, Arc<Principal>>,
    clock: ManualClock,
    now: Micros,
    home: TempDir,
    generation: usize,
    /// The rows of each account's ledger when the store was last opened: all of them are on the disk.
    rows: HashMap<AccountKey, Vec<LedgerRow>>,
    /// `None` only while the store is being opened.
    service: Option<(App, Store)>,
}

type Step = Result<(), String>;

impl Sim {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let generator = Generator::new(&mut random);
        // Half of the runs begin where months differ in length.
        let day = random.pick(&[29, 30, 31, 1 + random_day(seed)]);
        let (year, month) = (2023 + random.below(6) as i64, 1 + random.below(12) as i64);
        let now = (days(year, month, 1) + day - 1) * DAY + random.below(86_400) as i64 * SECOND;
        let shm = PathBuf::from("/dev/shm");
        let folder = if shm.is_dir() {
            shm
        } else {
            std::env::temp_dir()
        };
        let home = tempfile::Builder::new()
            .prefix("memoryos-sim-")
            .tempdir_in(folder)
            .unwrap();
        Self {
            figures: Figures::default(),
            history: VecDeque::new(),
            step: 0,
            random,
            generator,
            model: Model::default(),
            unflushed: Vec::new(),
            principals: HashMap::new(),
            clock: ManualClock::new(Timestamp::from_micros(now)),
            now,
            home,
            generation: 0,
            rows: HashMap::new(),
            service: None,
        }
    }

    /// Runs the whole of it. The error says what differed.
    pub(crate) async fn run(&mut self) -> Step {
        self.open().await?;
        self.steer().await?;
        for step in 1..=STEPS {
            self.step = step;
            let op = self.generator.next(&self.model, self.now, &mut self.random);
            let crashing = self.generator.crashes();
            let odds = match op {
                Op::Erase { .. } => TORN_ERASURES,
                Op::Sell { .. } => TORN_PLANS,
                _ => TORN,
            };
            if crashing && op.writes() && self.random.below(odds) == 0 {
                match op {
                    Op::Sell { offer } => {
                        self.note(&format!("{op:?}"));
                        *self.figures.operations.entry(op.kind()).or_default() += 1;
                        self.torn_sale(offer).await?;
                    }
                    _ => self.torn(&op).await?,
                }
            } else {
                self.perform(&op).await?;
            }
            if step % 50 == 0 {
                self.totals()?;
                self.rows_are_kept(&self.rows)?;
            }
        }
        self.reopen().await
    }

    /// Makes the accounts and brings half of them to where it becomes narrow.
    async fn steer(&mut self) -> Step {
        let accounts = 4 + self.random.below(5);
        let (big, keys) = (self.random.chance(12), self.random.chance(35));
        for n in 0..accounts {
            let email = self
                .random
                .chance(50)
                .then(|| format!("user{n}@example.com"));
            // A hundred keys make every look at an account slow: one account of some runs has them.
            let narrow = match self.random.below(3) {
                _ if n % 2 == 1 => 4,
                _ if n == 2 && keys => 2,
                2 => 3,
                narrow => narrow,
            };
            let plan = match narrow {
                _ if big && n == 0 => Plan::PRO,
                0 => Plan::FREE,
                1 => Plan::PRO,
                _ => crate::operations::plan(&mut self.random),
            };
            self.perform(&Op::SignUp { email, plan }).await?;
            let by = (n, 0);
            if big && n == 0 {
                // The aggregates are saved after a thousand writes: close to it.
                for _ in 0..985 {
                    self.add_short(by).await?;
                }
                continue;
            }
            match narrow {
                0 => {
                    for _ in 0..97 + self.random.below(4) {
                        self.perform(&Op::GptStatus { by }).await?;
                    }
                }
                1 => {
                    for _ in 0..99 + self.random.below(2) {
                        self.add_short(by).await?;
                    }
                    let form = Form::AccountId;
                    self.perform(&Op::Plan {
                        account: n,
                        form,
                        plan: Plan::FREE,
                    })
                    .await?;
                }
                2 => {
                    let owner = Owner::Account(self.model.accounts[n].id.clone());
                    for _ in 0..98 {
                        let owner = owner.clone();
                        self.perform(&Op::NewKey {
                            by: None,
                            owner,
                            asked: Asked::default(),
                        })
                        .await?;
                    }
                }
                // All were made within a second of each other: all cycles end within one.
                3 => {
                    let by = 1 + self.random.below(150_000) as i64;
                    self.perform(&Op::Clock { by }).await?;
                }
                _ => {
                    for _ in 0..self.random.below(8) {
                        self.add_short(by).await?;
                    }
                }
            }
        }
        if self.random.chance(60) {
            let left = self.random.below(1_000_000) as i64;
            let by = self.model.accounts[0].money.end() - left - self.now;
            self.perform(&Op::Clock { by }).await?;
        }
        Ok(())
    }

    async fn add_short(&mut self, by: Who) -> Step {
        let sent = json!({"topic": "t", "type": "Note", "category": "work", "input": "", "output": "",
            "success": true});
        self.perform(&Op::Add {
            by,
            sent,
            name: None,
        })
        .await
    }

    /// Keeps the directory of a run that failed, and says where it is.
    pub(crate) fn keep(self) -> String {
        let directory = self.directory();
        drop(self.service);
        drop(self.home.keep());
        directory.display().to_string()
    }

    fn app(&self) -> &App {
        &self.service.as_ref().unwrap().0
    }

    fn store(&self) -> &Store {
        &self.service.as_ref().unwrap().1
    }

    fn directory(&self) -> PathBuf {
        self.home.path().join(self.generation.to_string())
    }

    fn answered(&mut self, answer: &'static str) {
        *self.figures.answers.entry(answer).or_default() += 1;
    }

    // ---- the store: opened, closed, crashed

    /// Opens the store, as soon as nobody has it, and checks it.
    async fn open_store(&mut self) -> Result<Store, String> {
        let options = Options {
            cache_bytes: 16 << 20,
            ..Options::default()
        };
        let mut tries = 0;
        let (store, opened) = loop {
            match Store::open(&self.directory(), options) {
                Ok(opened) => break opened,
                // Aggregates that are being saved in the background still hold the store.
                Err(OpenError::Locked(_)) if tries < 10_000 => {
                    tries += 1;
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
                Err(error) => return Err(format!("the store does not open: {error}")),
            }
        };
        self.figures.settled += opened.settled;
        let report = store
            .check(&|_| ())
            .map_err(|error| format!("check failed: {error}"))?;
        if !report.is_sound() {
            return Err(format!("check after open: {report}"));
        }
        Ok(store)
    }

    async fn open(&mut self) -> Result<(), String> {
        let store = self.open_store().await?;
        let plans = store.catalog().plans;
        let settings = Settings {
            plans,
            // The model knows no others.
            prices: Prices::SEED,
            signup_plans: plans.iter().collect(),
            admin: AdminAccess::LoopbackDefault,
            body_bytes_max: 65_536,
            public_url: None,
            backups: BackupSettings::asked_only(self.home.path().join("backups")),
            rate_limits: RateLimits::OFF,
            trusted_proxies: Vec::new(),
            webhooks: vec![WebhookEndpoint {
                id: RECEIVER,
                url: String::new(),
            }],
        };
        let app = App::new(store.clone(), Clock::Manual(self.clock.clone()), settings);
        let begun = app.begin_webhooks().await;
        begun.map_err(|error| format!("webhooks do not begin: {error}"))?;
        self.service = Some((app, store));
        Ok(())
    }

    /// A plan of the seed as it is sold now.
    fn sold(&self, plan: Plan) -> Plan {
        self.app().plans().get(plan.name()).unwrap()
    }

    /// Closes the store, applies an offer as `memoryos plans --apply` does, and opens it again: the offer counts,
    /// and nothing else is changed.
    async fn sell(&mut self, offer: usize) -> Step {
        let before = self.all_rows()?;
        let store = self.alone().await?;
        drop(self.apply(store, offer).await?);
        self.open().await?;
        audit(self.store(), &self.model).await?;
        self.rows_are(&before)?;
        self.totals()
    }

    /// The same with a crash at a random byte of what applying wrote: the earlier offer counts, or this one.
    async fn torn_sale(&mut self, offer: usize) -> Step {
        // Not before: sled's own snapshot of an opening is no part of what an apply writes.
        let store = self.alone().await?;
        let image = Image::of(&self.directory());
        let mut candidates = vec![self.candidate("not at all")];
        let store = self.apply(store, offer).await?;
        let after = Image::of(&self.directory());
        drop(store);
        let (torn, total, kept) = image.torn(&after, &mut self.random);
        self.note(&format!("crash: {kept} of {total} bytes of it are kept"));
        if kept == total {
            candidates.clear();
        }
        candidates.insert(0, self.candidate("whole"));
        self.figures.torn += 1;
        self.crash(&torn, candidates).await
    }

    /// Closes the service. Returns the store, which nobody else uses; reads' debits are on the disk then.
    async fn alone(&mut self) -> Result<Store, String> {
        self.service = None;
        self.unflushed.clear();
        self.open_store().await
    }

    /// Applies an offer and notes that, as the command does.
    async fn apply(&mut self, store: Store, offer: usize) -> Result<Store, String> {
        let now = Timestamp::from_micros(self.now);
        let apply = move || {
            let applied = store.apply(&crate::offer::file(offer));
            let catalog = applied.map_err(|error| error.to_string())?;
            let plans = catalog.plans.iter().count() as u64;
            let kind = EventKind::CatalogApplied { plans };
            let noted = store.record_event(None, now, Cause::operator(), kind);
            noted.map(|()| store).map_err(|error| error.to_string())
        };
        // Where it may block.
        let applied = tokio::task::spawn_blocking(apply).await;
        let store = applied.map_err(|error| error.to_string())??;
        self.model.sell(offer);
        Ok(store)
    }

    /// Closes the store and opens it again: everything is there, reads' debits too.
    async fn reopen(&mut self) -> Step {
        let before = self.all_rows()?;
        self.service = None;
        self.traces().await?;
        self.open().await?;
        self.figures.reopened += 1;
        self.unflushed.clear();
        audit(self.store(), &self.model).await?;
        self.rows_are(&before)?;
        self.totals()
    }

    /// The rows of all ledgers, compared with what the model says of them.
    fn all_rows(&self) -> Result<HashMap<AccountKey, Vec<LedgerRow>>, String> {
        let accounts = self.model.accounts.iter();
        let rows = accounts.map(|account| Ok((account.name, rows(self.store(), account)?)));
        rows.collect()
    }

    /// Holds that rows that were on the disk are as they were, and notes those of now.
    fn keep_rows(&mut self) -> Step {
        let now = self.rows_are_kept(&self.rows)?;
        self.rows = now;
        Ok(())
    }

    /// Holds that what was in the ledgers is in them: rows stay, and grow only where debits are rolled up.
    fn rows_are_kept(
        &self,
        before: &HashMap<AccountKey, Vec<LedgerRow>>,
    ) -> Result<HashMap<AccountKey, Vec<LedgerRow>>, String> {
        let now = self.all_rows()?;
        for (account, now) in &now {
            for (at, old) in before.get(account).into_iter().flatten().enumerate() {
                let row = now.get(at);
                let is_kept = row.is_some_and(|row| is_grown(old, row));
                if !is_kept {
                    return Err(format!("a row of the ledger was {old:?} and is {row:?}"));
                }
            }
        }
        Ok(now)
    }

    /// Holds that the ledgers are as they were, row for row, and notes them.
    fn rows_are(&mut self, before: &HashMap<AccountKey, Vec<LedgerRow>>) -> Step {
        self.keep_rows()?;
        for account in &self.model.accounts {
            let of = |rows: &HashMap<_, Vec<_>>| rows.get(&account.name).cloned();
            let what = format!("ledger of {} after a restart", account.id);
            same(&what, &of(&self.rows), &of(before))?;
        }
        Ok(())
    }

    /// An account was written, with the debits of its reads.
    fn written(&mut self, at: usize) {
        let account = self.model.accounts[at].name;
        self.unflushed.retain(|debit| debit.account != account);
    }

    fn candidate(&self, what: &'static str) -> Candidate {
        Candidate {
            what,
            model: self.model.clone(),
            unflushed: self.unflushed.clone(),
        }
    }

    /// Opens an image in place of the store. What is found must be one of the candidates, whole, less the
    /// last debits of reads; the model takes it over.
    async fn crash(&mut self, image: &Image, candidates: Vec<Candidate>) -> Step {
        let old = self.directory();
        self.generation += 1;
        image.write(&self.directory());
        self.service = None;
        self.open().await?;
        // A crash in the middle of the recovery, or right after it, finds the same.
        if self.random.chance(20) {
            let recovered = Image::of(&self.directory());
            let (again, ..) = image.torn(&recovered, &mut self.random);
            self.service = None;
            self.generation += 1;
            again.write(&self.directory());
            self.open().await?;
            self.figures.recoveries += 1;
        }
        self.figures.crashes += 1;
        drop(std::fs::remove_dir_all(old));
        let mut differences = Vec::new();
        for mut candidate in candidates {
            let lost = candidate.lose_reads(self.store())?;
            match audit(self.store(), &candidate.model).await {
                Ok(()) => {
                    *self.figures.outcomes.entry(candidate.what).or_default() += 1;
                    self.figures.debits_lost += lost;
                    self.model = candidate.model;
                    self.unflushed.clear();
                    self.keep_rows()?;
                    return self.totals();
                }
                Err(difference) => {
                    differences.push(format!("{}: {difference}", candidate.what));
                }
            }
        }
        Err(format!(
            "after the crash, nothing that it may have left is there:\n  {}",
            differences.join("\n  ")
        ))
    }

    /// Tears an operation: a crash at a random byte of what it wrote.
    async fn torn(&mut self, op: &Op) -> Step {
        let image = Image::of(&self.directory());
        let mut candidates = vec![self.candidate("not at all")];
        // An addition or a change that is undone on open has still entered the cycle, and been a request.
        if let Op::Add { by, .. } | Op::Change { by, .. } | Op::Delete { by, .. } = op {
            let mut undone = self.candidate("undone");
            let account = &mut undone.model.accounts[by.0];
            account.touch(by.1, self.now);
            let operation = match op {
                Op::Add { .. } => Some(Operation::AddMemory),
                Op::Change { .. } => Some(Operation::UpdateMemory),
                _ => None,
            };
            // Both are told: that it went, and that it came back.
            if let Some(operation) = operation {
                let cost = WRITE as i64;
                account.enter(by.1 + 1, Entry::Debit(operation), -cost);
                account.enter(by.1 + 1, Entry::Refund(operation), cost);
            }
            undone.written(by.0);
            candidates.push(undone);
        }
        candidates.extend(self.partly(op));
        if let Op::Adjust {
            account: at,
            amount,
            ..
        } = op
        {
            let mut undone = self.candidate("undone");
            let account = &mut undone.model.accounts[*at];
            account.roll(self.now);
            account.enter(0, adjustment(*amount), *amount);
            account.enter(0, Entry::Correction, -amount);
            undone.written(*at);
            candidates.push(undone);
        }
        self.perform(op).await?;
        let after = Image::of(&self.directory());
        let (torn, total, kept) = image.torn(&after, &mut self.random);
        self.note(&format!("crash: {kept} of {total} bytes of it are kept"));
        if kept == total {
            // Nothing of what was answered is missing.
            candidates.clear();
        }
        candidates.insert(0, self.candidate("whole"));
        self.figures.torn += 1;
        self.crash(&torn, candidates).await?;
        if matches!(op, Op::Sweep) {
            // Which recorded answers it took away is not to be seen here, and one that it left counts again when the clock
            // is set back: the next sweep takes the rest, as it does every minute.
            self.dispatch(op).await?;
        }
        if op.name().is_some() {
            // The client does not know, and asks again.
            self.perform(op).await?;
        }
        Ok(())
    }

    /// Keys whose time has come and that were not swept, in the order in which a sweep ends them.
    fn due(&self) -> Vec<Who> {
        let mut due = Vec::new();
        for (at, account) in self.model.accounts.iter().enumerate() {
            for (key, of) in account.keys.iter().enumerate() {
                let end = of.ended(self.now).filter(|_| of.revoked.is_none());
                due.extend(end.map(|end| (end, account.name, key, at)));
            }
        }
        due.sort_unstable();
        due.into_iter().map(|(_, _, key, at)| (at, key)).collect()
    }

    /// What an operation of several parts may have left: some of the keys ended that it ends one by one.
    fn partly(&self, op: &Op) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        match op {
            Op::Sweep => {
                let mut partly = self.candidate("partly");
                for (account, key) in self.due() {
                    partly.model.accounts[account].expire(key);
                    let (model, unflushed) = (partly.model.clone(), partly.unflushed.clone());
                    candidates.push(Candidate {
                        what: "partly",
                        model,
                        unflushed,
                    });
                }
            }
            Op::NewKey { .. } | Op::Rotate { .. } => {
                for at in 0..self.model.accounts.len() {
                    if let Some(key) = self.model.accounts[at].makes_room(self.now) {
                        let mut partly = self.candidate("partly");
                        partly.model.accounts[at].expire(key);
                        candidates.push(partly);
                    }
                }
            }
            _ => {}
        }
        candidates
    }

    fn totals(&self) -> Step {
        let found = self.app().health().store;
        let accounts = &self.model.accounts;
        let memories: usize = accounts.iter().map(|account| account.memories.len()).sum();
        let keys: usize = accounts.iter().map(Account::active).sum();
        same(
            "totals of /health",
            &(found.accounts, found.memories, found.active_keys),
            &(accounts.len() as u64, memories as u64, keys as u64),
        )
    }

    // ---- one operation

    fn note(&mut self, text: &str) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        let mut text = format!(
            "{:>5} {} {text}",
            self.step,
            crate::calendar::text(self.now)
        );
        if text.len() > 300 {
            let end = (0..=300)
                .rev()
                .find(|at| text.is_char_boundary(*at))
                .unwrap();
            text.truncate(end);
            text.push('…');
        }
        self.history.push_back(text);
    }

    /// Does an operation, and compares its answer and what it left with the model's.
    async fn perform(&mut self, op: &Op) -> Step {
        self.note(&format!("{op:?}"));
        *self.figures.operations.entry(op.kind()).or_default() += 1;
        let accounts = self.model.accounts.iter();
        let before: HashMap<_, _> = accounts.map(|a| (a.name, a.money.cycle)).collect();
        self.dispatch(op).await?;
        for account in &self.model.accounts {
            let cycle = account.money.cycle;
            let before = before.get(&account.name).unwrap_or(&cycle);
            self.figures.cycles += (cycle - before).unsigned_abs();
        }
        self.invariants(op)
    }

    async fn dispatch(&mut self, op: &Op) -> Step {
        match op {
            Op::SignUp { email, plan } => self.sign_up(email.as_deref(), *plan).await,
            Op::NewKey { by, owner, asked } => self.new_key(*by, owner, asked).await,
            Op::Rotate { by, key, grace } => self.rotate(*by, *key, *grace).await,
            Op::ChangeKey { by, key, asked } => self.change_key(*by, *key, asked).await,
            Op::Revoke { by, key, form } => self.revoke(*by, *key, *form).await,
            Op::Login { by, known } => self.login(*by, *known),
            Op::Credits { by } => self.credits(*by),
            Op::Add { by, sent, name } => self.add(*by, sent, name.as_deref()).await,
            Op::Twins { by, sent, name } => self.twins(*by, sent, name).await,
            Op::Change { by, id, change } => self.change(*by, id, change).await,
            Op::Delete { by, id } => self.delete(*by, id).await,
            Op::Read { by, id } => self.read(*by, id).await,
            Op::Page { by, skip, limit } => self
                .page(*by, PageStart::Skip(*skip), *limit)
                .await
                .map(drop),
            Op::Walk { by, limit } => {
                let mut next = self.page(*by, PageStart::Skip(0), *limit).await?;
                while let Some(id) = next {
                    next = self.page(*by, PageStart::Before(id), *limit).await?;
                }
                Ok(())
            }
            Op::Stats { by } => self.stats(*by).await,
            Op::GptStatus { by } => self.gpt_status(*by).await,
            Op::Plan {
                account,
                form,
                plan,
            } => self.plan(*account, *form, *plan).await,
            Op::Adjust { .. } | Op::Suspend { .. } | Op::Email { .. } => self.admin(op).await,
            Op::Erase {
                by,
                account,
                form,
                confirm,
            } => self.erase(*by, *account, *form, confirm).await,
            Op::Keys { by, all } => self.keys(*by, *all).await,
            Op::AllKeys { all, skip, limit } => self.all_keys(*all, *skip, *limit).await,
            Op::Accounts {
                contains,
                skip,
                limit,
            } => self.accounts(contains.as_deref(), *skip, *limit).await,
            Op::Sync => {
                let (seen, corrected) = self.app().sync_memory_counts().await.map_err(fault)?;
                same(
                    "accounts counted",
                    &seen,
                    &(self.model.accounts.len() as u64),
                )?;
                same("counts corrected", &corrected, &Vec::new())
            }
            Op::Sweep => {
                self.app().sweep().await;
                for account in &mut self.model.accounts {
                    let now = self.now;
                    account.replays.retain(|_, replay| now < replay.at + DAY);
                    account
                        .adjustments
                        .retain(|_, replay| now < replay.at + DAY);
                }
                for (account, key) in self.due() {
                    self.model.accounts[account].expire(key);
                }
                Ok(())
            }
            Op::Clock { by } => {
                self.now += by;
                self.clock.set(Timestamp::from_micros(self.now));
                Ok(())
            }
            Op::Reopen => self.reopen().await,
            Op::Sell { offer } => self.sell(*offer).await,
            Op::Crash { lost } => {
                if !lost {
                    // Everything is on the disk before this one.
                    self.store()
                        .flush()
                        .await
                        .map_err(|error| error.to_string())?;
                    self.unflushed.clear();
                }
                let before = self.all_rows()?;
                let image = Image::of(&self.directory());
                self.crash(&image, vec![self.candidate("between two")])
                    .await?;
                if *lost {
                    Ok(())
                } else {
                    self.rows_are(&before)
                }
            }
        }
    }

    /// I1 to I10 where they are cheap: on the account that the operation was about.
    fn invariants(&self, op: &Op) -> Step {
        let account = match op {
            Op::NewKey { by: Some(by), .. }
            | Op::Rotate { key: by, .. }
            | Op::ChangeKey { key: by, .. }
            | Op::Revoke { key: by, .. }
            | Op::Add { by, .. }
            | Op::Twins { by, .. }
            | Op::Change { by, .. }
            | Op::Delete { by, .. }
            | Op::Read { by, .. }
            | Op::Page { by, .. }
            | Op::Walk { by, .. }
            | Op::Stats { by }
            | Op::GptStatus { by } => by.0,
            Op::Plan { account, .. }
            | Op::Adjust { account, .. }
            | Op::Suspend { account, .. }
            | Op::Email { account, .. } => *account,
            _ => return Ok(()),
        };
        let account = &self.model.accounts[account];
        let stored = Timestamp::from_micros(self.now);
        let usage = self
            .store()
            .usage(account.name, stored)
            .map_err(|e| e.to_string())?;
        if usage.used > usage.granted {
            return Err(format!(
                "I1: {} used of {} granted",
                usage.used, usage.granted
            ));
        }
        let money = account.money.rolled(self.now);
        let found = (usage.plan(), usage.granted, usage.used, usage.used_ever);
        same(
            "I2, I3, I8: credits",
            &found,
            &(money.plan, money.granted, money.used, money.ever),
        )?;
        same(
            "I7: memories held",
            &usage.held,
            &(account.memories.len() as u64),
        )?;
        let cycle = (i64::from(usage.cycle), usage.cycle_end.micros());
        same("I9: cycle and its end", &cycle, &(money.cycle, money.end()))?;
        same("lineages", &usage.shares.len(), &account.lineages())?;
        if !account.managed() && !account.emptied {
            return Err("I5: no key manages keys, and no admin took it".to_owned());
        }
        Ok(())
    }

    // ---- who asks

    /// Whom a key lets in: a revoked one, nobody; what it was goes on as a request that began before.
    fn principal(&mut self, by: Who) -> Result<Option<Arc<Principal>>, String> {
        let account = &self.model.accounts[by.0];
        let key = &account.keys[by.1];
        match (
            self.app()
                .authenticate(&Secret::new(key.secret.as_str()))
                .map_err(no),
            key.ended(self.now),
        ) {
            (Ok(found), None) if account.suspended.is_none() => {
                let scopes = match key.successor {
                    Some(_) => key.scopes.without(Scope::Keys),
                    None => key.scopes,
                };
                same("scopes of a key", &found.scopes, &scopes)?;
                same(
                    "lineage of a key",
                    &(found.lineage == found.key_no),
                    &(key.lineage == by.1),
                )?;
                let shown = (
                    found.account,
                    found.key_id.to_string(),
                    found.masked.clone(),
                );
                same(
                    "whose key",
                    &shown,
                    &(account.name, key.id.clone(), masked(&key.secret)),
                )?;
                self.principals.insert(key.id.clone(), found.clone());
                Ok(Some(found))
            }
            // A request that began before goes on, and is charged as ever.
            (Err(no @ Refused::Suspended), None) if account.suspended.is_some() => {
                let before = self.principals.get(&key.id).cloned();
                self.answered(word(&no));
                Ok(before)
            }
            (Err(refused), Some(_)) if refused == over(key) => {
                Ok(self.principals.get(&key.id).cloned())
            }
            (found, revoked) => Err(format!(
                "I6: {} revoked at {revoked:?} is let in as {found:?}",
                key.id
            )),
        }
    }

    fn login(&mut self, by: Who, known: bool) -> Step {
        if !known {
            let found = self
                .app()
                .authenticate(&Secret::new("A".repeat(32)))
                .map(drop)
                .map_err(no);
            return self.refused("login", found, Refused::UnknownKey);
        }
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let account = &self.model.accounts[by.0];
        let found = self.app().who_is(&principal).map_err(no);
        let key = &account.keys[by.1];
        if key.ended(self.now).is_some() {
            let expected = over(key);
            return self.refused("login", found.map(drop), expected);
        }
        let (found, key) = found.map_err(|no| format!("login: {no:?}"))?;
        same(
            "login",
            &(found.account_id, found.active),
            &(account.id.clone(), true),
        )?;
        same("login: key", &row(&key), &key_row(account, by.1, self.now))?;
        self.answered("200");
        Ok(())
    }

    fn refused<T: std::fmt::Debug>(
        &mut self,
        what: &str,
        found: Result<T, Refused>,
        expected: Refused,
    ) -> Step {
        self.answered(word(&expected));
        same(what, &found.err(), &Some(expected))
    }

    /// Compares two answers that may be refusals.
    fn agree<A, B>(
        &mut self,
        what: &str,
        found: Result<A, Refused>,
        expected: Result<B, Refused>,
    ) -> Result<Option<(A, B)>, String> {
        match (found, expected) {
            (Ok(found), Ok(expected)) => {
                self.answered("2xx");
                Ok(Some((found, expected)))
            }
            (Err(found), Err(expected)) => {
                self.answered(word(&expected));
                same(what, &found, &expected).map(|()| None)
            }
            (Ok(_), Err(expected)) => Err(format!("{what}: done, expected {expected:?}")),
            (Err(found), Ok(_)) => Err(format!("{what}: refused with {found:?}")),
        }
    }
}

/// Whether a row is the one that it was: debits of an hour are one row, which grows.
fn is_grown(old: &LedgerRow, new: &LedgerRow) -> bool {
    let mut same = new.clone();
    (same.amount, same.count) = (old.amount, old.count);
    let grows = matches!(old.entry, Entry::Debit(_));
    let has_more = new.amount < old.amount && new.count > old.count;
    same == *old && (new == old || grows && has_more)
}

/// How a key is refused that has ended.
fn over(key: &Key) -> Refused {
    if key.revoked.is_some() && !key.expired {
        Refused::Revoked
    } else {
        Refused::Expired
    }
}

fn random_day(seed: u64) -> i64 {
    (seed % 28) as i64
}

fn fault(failure: Failure) -> String {
    let failure = no(failure);
    format!("failed: {failure:?}")
}

fn no(failure: Failure) -> Refused {
    match failure {
        Failure::InvalidKey => Refused::UnknownKey,
        Failure::KeyRevoked => Refused::Revoked,
        Failure::MemoryNotFound => Refused::NoSuchMemory,
        Failure::InvalidMemory(_) => Refused::BadChange,
        Failure::OutOfCredits { balance, cost } => Refused::OutOfCredits(numbers(&balance), cost),
        Failure::MemoryLimitExceeded(balance) => Refused::Full(numbers(&balance)),
        Failure::IdempotencyKeyReused => Refused::Reused,
        Failure::IdempotencyInFlight => Refused::InFlight,
        Failure::UserExists => Refused::UserExists,
        Failure::UserNotFound => Refused::NoSuchUser,
        Failure::KeyNotFound => Refused::NoSuchKey,
        Failure::PermissionDenied(_) => Refused::NotYours,
        Failure::OwnerRequired => Refused::NoOwner,
        Failure::PlanAboveAccount(plan) => Refused::AbovePlan(plan),
        Failure::KeyLimitReached => Refused::TooManyKeys,
        Failure::LastActiveKey { .. } => Refused::LastKey,
        Failure::KeyExpired => Refused::Expired,
        Failure::InsufficientScope(scope) => Refused::Lacks(scope),
        Failure::OutlivesMaker(end) => Refused::Outlives(end.micros()),
        Failure::CreditsAboveOwn(most) => Refused::AboveCredits(most),
        Failure::KeyRotated => Refused::Rotated,
        Failure::KeyNotActive => Refused::NotActive,
        Failure::LastManagingKey => Refused::LastManager,
        Failure::AccountSuspended => Refused::Suspended,
        Failure::NotConfirmed => Refused::NotConfirmed,
        Failure::TooFewCredits(balance) => Refused::TooFew(balance.credits_remaining),
        other => Refused::Fault(format!("{other:?}")),
    }
}

fn word(no: &Refused) -> &'static str {
    match no {
        Refused::UnknownKey => "invalid_key",
        Refused::Revoked => "key_revoked",
        Refused::NoSuchMemory => "not_found",
        Refused::BadChange => "invalid_memory",
        Refused::OutOfCredits(..) => "out_of_credits",
        Refused::Full(_) => "memory_limit_exceeded",
        Refused::Reused => "idempotency_key_reused",
        Refused::InFlight => "idempotency_in_flight",
        Refused::UserExists => "user_exists",
        Refused::NoSuchUser => "user_not_found",
        Refused::NoSuchKey => "key_not_found",
        Refused::NotYours => "permission_denied",
        Refused::NoOwner => "email required",
        Refused::AbovePlan(_) => "plan_above_account",
        Refused::TooManyKeys => "key_limit_reached",
        Refused::LastKey => "last_active_key",
        Refused::Expired => "key_expired",
        Refused::Lacks(_) => "insufficient_scope",
        Refused::Outlives(_) => "expiry_above_own",
        Refused::AboveCredits(_) => "credits_above_own",
        Refused::Rotated => "key_rotated",
        Refused::NotActive => "key_not_active",
        Refused::LastManager => "last_managing_key",
        Refused::Suspended => "account_suspended",
        Refused::NotConfirmed => "confirmation_required",
        Refused::TooFew(_) => "insufficient_credits",
        Refused::Fault(_) => "fault",
    }
}
