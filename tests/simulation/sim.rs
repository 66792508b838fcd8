//! One run: the real use cases over the real store, step by step beside the model.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;

use memoryos::app::{
    AddRequest, AdminAccess, Answered, App, BackupSettings, Caller, CreateKey, Failure, KeyAddress,
    OwnerName, PageRequest, Settings, SignUp, Target, UpdateRequest,
};
use memoryos::clock::{Clock, ManualClock};
use memoryos::domain::account::Email;
use memoryos::domain::json::Object;
use memoryos::domain::key::{KeyId, Secret};
use memoryos::domain::memory::{MemoryId, NewMemory};
use memoryos::domain::plan::Plan;
use memoryos::domain::time::Timestamp;
use memoryos::store::{
    AccountFilter, Added, KeyRow, OpenError, Options, PageStart, Principal, Store,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::audit::{audit, key_row, masked, numbers, row, same};
use crate::calendar::{DAY, Micros, SECOND, days};
use crate::image::Image;
use crate::model::{Account, Key, Model, Money, No, Numbers, READ, Replay, Spent, WRITE};
use crate::operations::{Form, Generator, Op, Owner, Who};
use crate::random::Random;

/// Operations of a run, after those that steer its accounts to where it becomes narrow.
pub(crate) const STEPS: usize = 1_000;
/// Operations that a failure prints.
const HISTORY: usize = 20;
/// One in so many writes is torn, in runs that crash.
const TORN: usize = 60;

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
    }
}

/// A read's debit that no flush has followed yet: how it was before.
#[derive(Clone, Debug)]
struct Unflushed {
    by: Who,
    money: Money,
    spent: Spent,
}

/// What a crash may have left.
struct Candidate {
    what: &'static str,
    model: Model,
    unflushed: Vec<Unflushed>,
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
    principals: HashMap<String, Principal>,
    clock: ManualClock,
    now: Micros,
    home: TempDir,
    generation: usize,
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
            if crashing && op.writes() && self.random.below(TORN) == 0 {
                self.torn(&op).await?;
            } else {
                self.perform(&op).await?;
            }
            if step % 50 == 0 {
                self.totals()?;
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
                _ if big && n == 0 => Plan::Pro,
                0 => Plan::Free,
                1 => Plan::Pro,
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
                        plan: Plan::Free,
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
                            plan: None,
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

    async fn open(&mut self) -> Result<(), String> {
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
        let settings = Settings {
            signup_plans: Plan::ALL.to_vec(),
            admin: AdminAccess::LoopbackDefault,
            body_bytes_max: 65_536,
            public_url: None,
            backups: BackupSettings::asked_only(self.home.path().join("backups")),
        };
        let app = App::new(store.clone(), Clock::Manual(self.clock.clone()), settings);
        self.service = Some((app, store));
        Ok(())
    }

    /// Closes the store and opens it again: everything is there, reads' debits too.
    async fn reopen(&mut self) -> Step {
        self.service = None;
        self.open().await?;
        self.figures.reopened += 1;
        self.unflushed.clear();
        audit(self.store(), &self.model).await?;
        self.totals()
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
            let what = candidate.what;
            let mut lost = 0;
            loop {
                match audit(self.store(), &candidate.model).await {
                    Ok(()) => {
                        *self.figures.outcomes.entry(what).or_default() += 1;
                        self.figures.debits_lost += lost;
                        self.model = candidate.model;
                        self.unflushed.clear();
                        return self.totals();
                    }
                    Err(difference) if lost == 0 => {
                        differences.push(format!("{what}: {difference}"))
                    }
                    Err(_) => {}
                }
                let Some(last) = candidate.unflushed.pop() else {
                    break;
                };
                let account = &mut candidate.model.accounts[last.by.0];
                account.money = last.money;
                account.keys[last.by.1].spent = last.spent;
                lost += 1;
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
            undone.model.accounts[by.0].touch(by.1, self.now);
            undone.unflushed.clear();
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
        if op.name().is_some() {
            // The client does not know, and asks again.
            self.perform(op).await?;
        }
        Ok(())
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
        let before: Vec<Money> = self.model.accounts.iter().map(|a| a.money).collect();
        self.dispatch(op).await?;
        for (account, before) in self.model.accounts.iter().zip(before) {
            self.figures.cycles += (account.money.cycle - before.cycle).unsigned_abs();
        }
        self.invariants(op)
    }

    async fn dispatch(&mut self, op: &Op) -> Step {
        match op {
            Op::SignUp { email, plan } => self.sign_up(email.as_deref(), *plan).await,
            Op::NewKey { by, owner, plan } => self.new_key(*by, owner, *plan).await,
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
            Op::Keys { by, all } => self.keys(*by, *all).await,
            Op::AllKeys { all, skip, limit } => self.all_keys(*all, *skip, *limit).await,
            Op::Accounts {
                contains,
                skip,
                limit,
            } => self.accounts(contains.as_deref(), *skip, *limit).await,
            Op::Sync => {
                let (seen, corrected) = self.app().sync_memory_counts().await.map_err(fault)?;
                self.unflushed.clear();
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
                    account
                        .replays
                        .retain(|_, replay| self.now < replay.at + DAY);
                }
                Ok(())
            }
            Op::Clock { by } => {
                self.now += by;
                self.clock.set(Timestamp::from_micros(self.now));
                Ok(())
            }
            Op::Reopen => self.reopen().await,
            Op::Crash { lost } => {
                if !lost {
                    // Everything is on the disk before this one.
                    self.store()
                        .flush()
                        .await
                        .map_err(|error| error.to_string())?;
                    self.unflushed.clear();
                }
                let image = Image::of(&self.directory());
                self.crash(&image, vec![self.candidate("between two")])
                    .await
            }
        }
    }

    /// I1 to I10 where they are cheap: on the account that the operation was about.
    fn invariants(&self, op: &Op) -> Step {
        let account = match op {
            Op::NewKey { by: Some(by), .. }
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
            Op::Plan { account, .. } => *account,
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
        let found = (usage.plan, usage.granted, usage.used, usage.used_ever);
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
        same("active keys", &usage.shares.len(), &account.active())?;
        if account.active() == 0 && !account.emptied {
            return Err("I5: no active key, and no admin took it".to_owned());
        }
        Ok(())
    }

    // ---- who asks

    /// Whom a key lets in: a revoked one, nobody; what it was goes on as a request that began before.
    fn principal(&mut self, by: Who) -> Result<Option<Principal>, String> {
        let account = &self.model.accounts[by.0];
        let key = &account.keys[by.1];
        match (
            self.app()
                .authenticate(&Secret::new(key.secret.as_str()))
                .map_err(no),
            key.revoked,
        ) {
            (Ok(found), None) => {
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
            (Err(No::Revoked), Some(_)) => Ok(self.principals.get(&key.id).cloned()),
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
            return self.refused("login", found, No::UnknownKey);
        }
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let account = &self.model.accounts[by.0];
        let found = self.app().who_is(&principal).map_err(no);
        if account.keys[by.1].revoked.is_some() {
            return self.refused("login", found.map(drop), No::Revoked);
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

    fn refused(&mut self, what: &str, found: Result<(), No>, expected: No) -> Step {
        self.answered(word(&expected));
        same(what, &found, &Err(expected))
    }

    /// Compares two answers that may be refusals.
    fn agree<A, B>(
        &mut self,
        what: &str,
        found: Result<A, No>,
        expected: Result<B, No>,
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

    // ---- accounts and keys

    async fn sign_up(&mut self, email: Option<&str>, plan: Plan) -> Step {
        let request = SignUp {
            // As a client may write it.
            email: email.map(|email| Email::parse(&format!(" {}", email.to_uppercase())).unwrap()),
            plan,
        };
        let found = self.app().sign_up(request).await.map_err(no);
        let taken = email.is_some()
            && self
                .model
                .accounts
                .iter()
                .any(|a| a.email.as_deref() == email);
        let expected = if taken { Err(No::UserExists) } else { Ok(()) };
        let Some((made, ())) = self.agree("sign-up", found, expected)? else {
            return Ok(());
        };
        let key = made.account.keys[0].clone();
        let account_id = made.account.account_id.clone();
        self.made(
            made.account.account,
            account_id,
            email,
            plan,
            (&key, &made.secret),
            false,
        )
    }

    /// Enters a new account with its first key into the model.
    fn made(
        &mut self,
        name: memoryos::domain::account::AccountKey,
        id: String,
        email: Option<&str>,
        plan: Plan,
        (key, secret): (&KeyRow, &Secret),
        admin: bool,
    ) -> Step {
        let (now, granted) = (self.now, crate::model::terms(plan).0);
        let money = Money {
            plan,
            anchor: now,
            cycle: 0,
            granted,
            used: 0,
            ever: 0,
            last: None,
        };
        let description = if admin {
            "Initial account setup"
        } else {
            "Initial account creation"
        };
        let account = Account {
            name,
            id: email.map_or_else(|| name.anonymous_id(), str::to_owned),
            email: email.map(str::to_owned),
            created: now,
            money,
            keys: vec![new_key(key, secret, description, None, now)],
            memories: Vec::new(),
            newest: String::new(),
            replays: BTreeMap::new(),
            emptied: false,
        };
        same("a new account's id", &id, &account.id)?;
        same("a new account's key", &row(key), &key_row(&account, 0, now))?;
        self.model.accounts.push(account);
        self.unflushed.clear();
        Ok(())
    }

    async fn new_key(&mut self, by: Option<Who>, owner: &Owner, plan: Option<Plan>) -> Step {
        let caller = match by {
            None => Caller::Admin,
            Some(by) => match self.principal(by)? {
                Some(principal) => Caller::Key(principal),
                None => return Ok(()),
            },
        };
        let request = CreateKey {
            owner: match owner {
                Owner::Nobody => None,
                Owner::Email(email) => Some(OwnerName::Email(Email::parse(email).unwrap())),
                Owner::Account(id) => Some(OwnerName::AccountId(id.clone())),
            },
            plan,
            description: None,
        };
        let found = self.app().create_key(&caller, request).await.map_err(no);
        let accounts = &self.model.accounts;
        let named = match owner {
            Owner::Nobody => None,
            Owner::Email(id) | Owner::Account(id) => Some(id),
        };
        let position = named.map(|id| accounts.iter().position(|account| account.id == *id));
        let account = match (by, position) {
            (Some(by), None) => Ok(Some(by.0)),
            (Some(by), Some(at)) if at == Some(by.0) => Ok(Some(by.0)),
            (Some(_), Some(_)) => Err(No::NotYours),
            (None, None) => Err(No::NoOwner),
            (None, Some(Some(at))) => Ok(Some(at)),
            (None, Some(None)) if matches!(owner, Owner::Email(_)) => Ok(None),
            (None, Some(None)) => Err(No::NoSuchUser),
        };
        let now = self.now;
        let expected = account.and_then(|at| match at {
            None => Ok((None, None)),
            Some(at) => accounts[at]
                .cap(by.map(|by| by.1), plan)
                .map(|cap| (Some(at), cap)),
        });
        let Some((made, (at, cap))) = self.agree("new key", found, expected)? else {
            return Ok(());
        };
        self.unflushed.clear();
        let Some(at) = at else {
            let plan = plan.unwrap_or(Plan::Free);
            same("plan of a new account", &made.plan, &plan)?;
            let (name, email) = (made.key.account, named.map(String::as_str));
            return self.made(
                name,
                made.account_id,
                email,
                plan,
                (&made.key, &made.secret),
                true,
            );
        };
        let account = &mut self.model.accounts[at];
        account
            .keys
            .push(new_key(&made.key, &made.secret, "API key", cap, now));
        let key = account.keys.len() - 1;
        same("account of a new key", &made.account_id, &account.id)?;
        same("new key", &row(&made.key), &key_row(account, key, now))?;
        same(
            "plan of a new key",
            &made.plan,
            &account.numbers(key, now).plan,
        )
    }

    async fn revoke(&mut self, by: Option<Who>, key: Who, form: Form) -> Step {
        let caller = match by {
            None => Caller::Admin,
            // A request with a revoked key ends before this.
            Some(by) if self.model.accounts[by.0].keys[by.1].revoked.is_some() => {
                return self.principal(by).map(drop);
            }
            Some(by) => Caller::Key(self.principal(by)?.unwrap()),
        };
        let target = &self.model.accounts[key.0].keys[key.1];
        let text = match form {
            Form::KeyId => target.id.clone(),
            Form::Masked => masked(&target.secret),
            Form::Secret => target.secret.clone(),
            Form::AccountId | Form::Unknown => "key_000000000000".to_owned(),
        };
        let found = self
            .app()
            .revoke_key(&caller, KeyAddress::parse(text))
            .await
            .map_err(no);
        let own = by.is_none_or(|by| by.0 == key.0);
        let now = self.now;
        let expected = match form {
            Form::AccountId | Form::Unknown => Err(No::NoSuchKey),
            Form::Secret if !own => Err(No::NotYours),
            _ if !own => Err(No::NoSuchKey),
            _ => self.model.accounts[key.0].revoke(key.1, by.is_none(), now),
        };
        let Some((revoked, at)) = self.agree("revoke", found, expected)? else {
            return Ok(());
        };
        self.unflushed.clear();
        let account = &self.model.accounts[key.0];
        same(
            "revoked at",
            &revoked.key.revoked_at.map(Timestamp::micros),
            &Some(at),
        )?;
        same(
            "revoked key",
            &row(&revoked.key),
            &key_row(account, key.1, now),
        )?;
        // I6: from the answer on.
        self.principal(key).map(drop)
    }

    async fn keys(&mut self, by: Who, all: bool) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let (account, keys) = self.app().keys_of(&principal, all).await.map_err(fault)?;
        let model = &self.model.accounts[by.0];
        same("account of the keys", &account.account_id, &model.id)?;
        let found: Vec<_> = keys.iter().map(row).collect();
        let listed = (0..model.keys.len()).filter(|key| all || model.keys[*key].revoked.is_none());
        let expected: Vec<_> = listed.map(|key| key_row(model, key, self.now)).collect();
        self.answered("2xx");
        same("keys", &found, &expected)
    }

    async fn all_keys(&mut self, all: bool, skip: usize, limit: usize) -> Step {
        let found = self.app().all_keys(all, skip as u64, limit as u64).await;
        let (rows, total) = found.map_err(fault)?;
        let mut expected = Vec::new();
        for account in self.in_order() {
            for (at, key) in account.keys.iter().enumerate() {
                if all || key.revoked.is_none() {
                    expected.push((account.id.clone(), key_row(account, at, self.now)));
                }
            }
        }
        let found: Vec<_> = rows
            .iter()
            .map(|(a, key)| (a.account_id.clone(), row(key)))
            .collect();
        same("number of all keys", &total, &(expected.len() as u64))?;
        let expected: Vec<_> = expected.into_iter().skip(skip).take(limit).collect();
        self.answered("2xx");
        same("all keys", &found, &expected)
    }

    /// The accounts as lists show them: oldest first; what was made in one millisecond, by name.
    fn in_order(&self) -> Vec<&Account> {
        let mut accounts: Vec<&Account> = self.model.accounts.iter().collect();
        accounts.sort_by_key(|account| (account.created.div_euclid(1_000), account.name));
        accounts
    }

    async fn accounts(&mut self, contains: Option<&str>, skip: usize, limit: usize) -> Step {
        let filter = AccountFilter {
            contains: contains.map(str::to_owned),
        };
        let page = self
            .app()
            .accounts(filter, skip as u64, limit as u64)
            .await
            .map_err(fault)?;
        let needle = contains.unwrap_or_default().to_lowercase();
        let mut fit = self.in_order();
        fit.retain(|account| account.id.to_lowercase().contains(&needle));
        let active = fit.iter().filter(|account| account.active() > 0).count();
        same(
            "accounts",
            &(page.total, page.active),
            &(fit.len() as u64, active as u64),
        )?;
        let found: Vec<_> = page
            .rows
            .iter()
            .map(|r| {
                (
                    r.account_id.clone(),
                    r.email.clone(),
                    r.active,
                    numbers(&r.usage.balance()),
                )
            })
            .collect();
        let shown = |a: &&Account| {
            let mut account = (*a).clone();
            // The account's own numbers are those of a key without a cap.
            account.keys[0].cap = None;
            (
                a.id.clone(),
                a.email.clone(),
                a.active() > 0,
                account.numbers(0, self.now),
            )
        };
        let expected: Vec<_> = fit.iter().skip(skip).take(limit).map(shown).collect();
        self.answered("2xx");
        same("accounts listed", &found, &expected)
    }

    async fn plan(&mut self, at: usize, form: Form, plan: Plan) -> Step {
        let account = &self.model.accounts[at];
        let target = match form {
            Form::KeyId => account.keys[0].id.clone(),
            Form::Secret => account.keys[0].secret.clone(),
            Form::AccountId => account.id.clone(),
            Form::Masked | Form::Unknown => "acct_nobody".to_owned(),
        };
        let found = self
            .app()
            .change_plan(&Target::parse(target), plan)
            .await
            .map_err(no);
        let expected = match form {
            Form::Masked | Form::Unknown => Err(No::NoSuchUser),
            _ => Ok(()),
        };
        let Some((found, ())) = self.agree("plan", found, expected)? else {
            return Ok(());
        };
        self.unflushed.clear();
        let account = &mut self.model.accounts[at];
        let before = account.change_plan(plan, self.now);
        same(
            "plan before",
            &(found.account_id, found.previous),
            &(account.id.clone(), before),
        )?;
        let money = account.money;
        same(
            "after a plan change",
            &(
                found.usage.plan,
                found.usage.granted,
                found.usage.used,
                found.usage.used_ever,
            ),
            &(money.plan, money.granted, money.used, money.ever),
        )
    }

    // ---- credits and memories

    /// Debits a read in the model, which a crash may take back until something flushes.
    fn debit(&mut self, by: Who) -> Result<Numbers, No> {
        let account = &mut self.model.accounts[by.0];
        let before = Unflushed {
            by,
            money: account.money,
            spent: account.keys[by.1].spent,
        };
        let numbers = account.debit(by.1, READ, self.now)?;
        self.unflushed.push(before);
        Ok(numbers)
    }

    fn credits(&mut self, by: Who) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let found = self.app().credits(&principal).map_err(no);
        let account = &self.model.accounts[by.0];
        let expected = account.affordable(by.1, 0, self.now);
        let Some((found, ())) = self.agree("credits", found, expected)? else {
            return Ok(());
        };
        let account = &self.model.accounts[by.0];
        let key = &account.keys[by.1];
        let last = if key.cap.is_some() {
            key.spent.last
        } else {
            account.money.last
        };
        same("credits: account", &found.account_id, &account.id)?;
        same(
            "credits",
            &numbers(&found.balance),
            &account.numbers(by.1, self.now),
        )?;
        same(
            "last activity",
            &found.last_activity.map(Timestamp::micros),
            &last,
        )
    }

    async fn add(&mut self, by: Who, sent: &Value, name: Option<&str>) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let body = sent.to_string();
        let found = add(self.app().clone(), &principal, &body, name).await;
        self.added(by, sent, &body, name, found)
    }

    async fn twins(&mut self, by: Who, sent: &Value, name: &str) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let body = sent.to_string();
        let app = self.app().clone();
        let (first, second) = tokio::join!(
            add(app.clone(), &principal, &body, Some(name)),
            add(app, &principal, &body, Some(name)),
        );
        self.added(by, sent, &body, Some(name), first)?;
        if second == Err(No::InFlight) {
            self.answered(word(&No::InFlight));
            return Ok(());
        }
        self.added(by, sent, &body, Some(name), second)
    }

    fn added(
        &mut self,
        by: Who,
        sent: &Value,
        body: &str,
        name: Option<&str>,
        found: Result<Addition, No>,
    ) -> Step {
        let now = self.now;
        let account = &mut self.model.accounts[by.0];
        let replay = name.map_or(Ok(None), |name| account.replay(name, body, now));
        let replay = replay.map(|answer| answer.map(str::to_owned));
        let expected = match replay {
            Err(no) => Err(no),
            Ok(Some(answer)) => account.affordable(by.1, 0, now).map(|()| Addition {
                answer,
                cost: 0,
                replayed: true,
                numbers: account.numbers(by.1, now),
            }),
            Ok(None) => {
                let answer = found
                    .as_ref()
                    .ok()
                    .map(|found| found.answer.clone())
                    .unwrap_or_default();
                let shown: Value = serde_json::from_str(&answer).unwrap_or_default();
                let id = shown["entry"]["id"].as_str().unwrap_or_default().to_owned();
                if found.is_ok() && id <= account.newest {
                    return Err(format!("the id {id} is not above {}", account.newest));
                }
                let added = account.add(by.1, &id, sent, now);
                if let (Ok((entry, numbers)), Ok(_)) = (&added, &found) {
                    let total = account.memories.len();
                    let expected =
                        json!({"entry": entry, "total": total, "left": numbers.remaining});
                    same("answer to an addition", &shown, &expected)?;
                    if let Some(name) = name {
                        let replay = Replay {
                            at: now,
                            sent: body.to_owned(),
                            answer: answer.clone(),
                        };
                        account.replays.insert(name.to_owned(), replay);
                    }
                }
                added.map(|(_, numbers)| Addition {
                    answer,
                    cost: WRITE,
                    replayed: false,
                    numbers,
                })
            }
        };
        if expected.as_ref().is_ok_and(|e| e.replayed) {
            self.answered("replayed");
        }
        match self.agree("add", found, expected)? {
            None => Ok(()),
            Some((found, expected)) => {
                self.unflushed.clear();
                same("add", &found, &expected)
            }
        }
    }

    async fn change(&mut self, by: Who, id: &str, change: &Value) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let request = UpdateRequest {
            id: MemoryId::parse(id).unwrap(),
            change: Object::parse(change.to_string().as_bytes()).unwrap(),
        };
        let found = self
            .app()
            .update_memory(&principal, request)
            .await
            .map_err(no);
        let expected = self.model.accounts[by.0].change(by.1, id, change, self.now);
        let Some((found, (entry, left))) = self.agree("change", found, expected)? else {
            return Ok(());
        };
        self.unflushed.clear();
        same(
            "changed",
            &serde_json::from_str(&found.0.entry).ok(),
            &Some(entry),
        )?;
        same(
            "after a change",
            &(found.1.cost, numbers(&found.1.balance)),
            &(WRITE, left),
        )
    }

    async fn delete(&mut self, by: Who, id: &str) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let found = self
            .app()
            .delete_memory(&principal, MemoryId::parse(id))
            .await
            .map_err(no);
        let expected = self.model.accounts[by.0].delete(by.1, id, self.now);
        let Some((found, left)) = self.agree("delete", found, expected)? else {
            return Ok(());
        };
        self.unflushed.clear();
        same("after a delete", &numbers(&found.balance), &left)
    }

    async fn read(&mut self, by: Who, id: &str) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let found = self
            .app()
            .read_memory(&principal, MemoryId::parse(id))
            .await
            .map_err(no);
        let expected = match self.model.accounts[by.0].find(id) {
            Err(no) => Err(no),
            Ok(at) => self.debit(by).map(|left| (at, left)),
        };
        let Some((found, (at, left))) = self.agree("read", found, expected)? else {
            return Ok(());
        };
        let entry = &self.model.accounts[by.0].memories[at].entry;
        same(
            "read",
            &serde_json::from_str(&found.0).ok().as_ref(),
            &Some(entry),
        )?;
        same(
            "after a read",
            &(found.1.cost, numbers(&found.1.balance)),
            &(READ, left),
        )
    }

    async fn page(
        &mut self,
        by: Who,
        start: PageStart,
        limit: usize,
    ) -> Result<Option<MemoryId>, String> {
        let Some(principal) = self.principal(by)? else {
            return Ok(None);
        };
        let request = PageRequest { start, limit };
        let found = self
            .app()
            .list_memories(&principal, request)
            .await
            .map_err(no);
        let expected = self.debit(by);
        let Some((found, left)) = self.agree("page", found, expected)? else {
            return Ok(None);
        };
        let memories = &self.model.accounts[by.0].memories;
        let mut older = memories.iter().rev();
        match start {
            PageStart::Skip(skip) => older.by_ref().take(skip).for_each(drop),
            PageStart::Before(id) => {
                let id = id.to_string();
                let newer = memories.iter().filter(|m| m.id >= id).count();
                older.by_ref().take(newer).for_each(drop);
            }
        }
        let listed: Vec<_> = older.by_ref().take(limit).collect();
        let next = listed
            .last()
            .filter(|_| older.next().is_some())
            .map(|memory| memory.id.clone());
        let entries = format!("[{}]", found.page.entries);
        let entries: Vec<Value> = serde_json::from_str(&entries).map_err(|e| e.to_string())?;
        let expected: Vec<_> = listed.iter().map(|memory| memory.entry.clone()).collect();
        same("page", &entries, &expected)?;
        same("count of a page", &found.page.count, &expected.len())?;
        same(
            "next page",
            &found.page.next.map(|id| id.to_string()),
            &next,
        )?;
        same("total of a page", &found.total, &(memories.len() as u64))?;
        let debited = (found.debited.cost, numbers(&found.debited.balance));
        same("after a page", &debited, &(READ, left))?;
        Ok(found.page.next)
    }

    async fn stats(&mut self, by: Who) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let found = self.app().stats(&principal).await.map_err(no);
        let expected = self.debit(by);
        let Some((found, left)) = self.agree("stats", found, expected)? else {
            return Ok(());
        };
        let account = &self.model.accounts[by.0];
        same("stats", &found.stats, &crate::audit::stats(account))?;
        self.newest(account, found.newest.as_deref())?;
        same("after stats", &numbers(&found.debited.balance), &left)
    }

    async fn gpt_status(&mut self, by: Who) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let found = self.app().gpt_status(&principal).await.map_err(no);
        let expected = self.debit(by);
        let Some((found, left)) = self.agree("status", found, expected)? else {
            return Ok(());
        };
        let account = &self.model.accounts[by.0];
        same(
            "status: memories",
            &found.0,
            &(account.memories.len() as u64),
        )?;
        self.newest(account, found.1.as_deref())?;
        same(
            "after status",
            &(found.2.cost, numbers(&found.2.balance)),
            &(READ, left),
        )
    }

    fn newest(&self, account: &Account, found: Option<&str>) -> Step {
        let found: Option<Value> = found.and_then(|text| serde_json::from_str(text).ok());
        same(
            "newest memory",
            &found.as_ref(),
            &account.memories.last().map(|m| &m.entry),
        )
    }
}

/// What an addition answers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Addition {
    answer: String,
    cost: u64,
    replayed: bool,
    numbers: Numbers,
}

async fn add(
    app: App,
    principal: &Principal,
    body: &str,
    name: Option<&str>,
) -> Result<Addition, No> {
    let request = AddRequest {
        memory: NewMemory::parse(Object::parse(body.as_bytes()).unwrap()).unwrap(),
        idempotency: name.map(|name| (name.to_owned(), body.as_bytes().to_vec())),
    };
    let respond = |added: &Added| {
        let (entry, total) = (&added.entry, added.total);
        format!(
            r#"{{"entry":{entry},"total":{total},"left":{}}}"#,
            added.balance.credits_remaining
        )
    };
    let answered = app
        .add_memory(principal, &request, respond)
        .await
        .map_err(no)?;
    let Answered {
        status,
        body,
        cost,
        replayed,
        balance,
    } = answered;
    assert_eq!(status, 201);
    Ok(Addition {
        answer: body,
        cost,
        replayed,
        numbers: numbers(&balance),
    })
}

fn new_key(
    row: &KeyRow,
    secret: &Secret,
    description: &'static str,
    cap: Option<Plan>,
    now: Micros,
) -> Key {
    assert!(KeyId::parse(row.id.as_str()).is_some());
    Key {
        secret: secret.reveal().to_owned(),
        id: row.id.to_string(),
        description,
        cap,
        created: now,
        revoked: None,
        spent: Spent::default(),
    }
}

fn random_day(seed: u64) -> i64 {
    (seed % 28) as i64
}

fn fault(failure: Failure) -> String {
    format!("failed: {failure:?}")
}

fn no(failure: Failure) -> No {
    match failure {
        Failure::InvalidKey => No::UnknownKey,
        Failure::KeyRevoked => No::Revoked,
        Failure::MemoryNotFound => No::NoSuchMemory,
        Failure::InvalidMemory(_) => No::BadChange,
        Failure::OutOfCredits { balance, cost } => No::OutOfCredits(numbers(&balance), cost),
        Failure::MemoryLimitExceeded(balance) => No::Full(numbers(&balance)),
        Failure::IdempotencyKeyReused => No::Reused,
        Failure::IdempotencyInFlight => No::InFlight,
        Failure::UserExists => No::UserExists,
        Failure::UserNotFound => No::NoSuchUser,
        Failure::KeyNotFound => No::NoSuchKey,
        Failure::PermissionDenied(_) => No::NotYours,
        Failure::OwnerRequired => No::NoOwner,
        Failure::PlanAboveAccount(plan) => No::AbovePlan(plan),
        Failure::KeyLimitReached => No::TooManyKeys,
        Failure::LastActiveKey => No::LastKey,
        other => No::Fault(format!("{other:?}")),
    }
}

fn word(no: &No) -> &'static str {
    match no {
        No::UnknownKey => "invalid_key",
        No::Revoked => "key_revoked",
        No::NoSuchMemory => "not_found",
        No::BadChange => "invalid_memory",
        No::OutOfCredits(..) => "out_of_credits",
        No::Full(_) => "memory_limit_exceeded",
        No::Reused => "idempotency_key_reused",
        No::InFlight => "idempotency_in_flight",
        No::UserExists => "user_exists",
        No::NoSuchUser => "user_not_found",
        No::NoSuchKey => "key_not_found",
        No::NotYours => "permission_denied",
        No::NoOwner => "email required",
        No::AbovePlan(_) => "plan_above_account",
        No::TooManyKeys => "key_limit_reached",
        No::LastKey => "last_active_key",
        No::Fault(_) => "fault",
    }
}
