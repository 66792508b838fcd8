//! Operations, and which one comes next: drawn by weights that each seed deals anew.

use memoryos::domain::plan::Plan;
use memoryos::domain::scope::{Scope, Scopes};
use serde_json::{Value, json};

use crate::calendar::{DAY, Micros, SECOND};
use crate::model::{Account, Asked, Model};
use crate::offer::OFFERS;
use crate::random::Random;

/// A key by its place in the model: which account, which of its keys.
pub(crate) type Who = (usize, usize);

/// How a request names an account or a key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    KeyId,
    Masked,
    Secret,
    AccountId,
    Unknown,
}

/// For whom a key is asked.
#[derive(Clone, Debug)]
pub(crate) enum Owner {
    Nobody,
    Email(String),
    Account(String),
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    SignUp {
        email: Option<String>,
        plan: Plan,
    },
    NewKey {
        by: Option<Who>,
        owner: Owner,
        asked: Asked,
    },
    Rotate {
        by: Option<Who>,
        key: Who,
        grace: u32,
    },
    ChangeKey {
        by: Option<Who>,
        key: Who,
        asked: Asked,
    },
    Revoke {
        by: Option<Who>,
        key: Who,
        form: Form,
    },
    Login {
        by: Who,
        known: bool,
    },
    Credits {
        by: Who,
    },
    Add {
        by: Who,
        sent: Value,
        name: Option<String>,
    },
    /// Two requests at once with one `Idempotency-Key`.
    Twins {
        by: Who,
        sent: Value,
        name: String,
    },
    Change {
        by: Who,
        id: String,
        change: Value,
    },
    Delete {
        by: Who,
        id: String,
    },
    Read {
        by: Who,
        id: String,
    },
    Page {
        by: Who,
        skip: usize,
        limit: usize,
    },
    /// All pages from the newest memory on, by cursors.
    Walk {
        by: Who,
        limit: usize,
    },
    Stats {
        by: Who,
    },
    GptStatus {
        by: Who,
    },
    Plan {
        account: usize,
        form: Form,
        plan: Plan,
    },
    /// Credits given or taken by the admin, under an `Idempotency-Key`.
    Adjust {
        account: usize,
        form: Form,
        amount: i64,
        name: String,
    },
    Suspend {
        account: usize,
        form: Form,
        suspended: bool,
    },
    Email {
        account: usize,
        form: Form,
        email: String,
    },
    /// The account erased, by a key of it or by the admin.
    Erase {
        by: Option<Who>,
        account: usize,
        form: Form,
        confirm: String,
    },
    Keys {
        by: Who,
        all: bool,
    },
    AllKeys {
        all: bool,
        skip: usize,
        limit: usize,
    },
    Accounts {
        contains: Option<String>,
        skip: usize,
        limit: usize,
    },
    Sync,
    Sweep,
    Clock {
        by: Micros,
    },
    Reopen,
    /// Another offer of plans applied while nothing else uses the store: `memoryos plans --apply`.
    Sell {
        offer: usize,
    },
    Crash {
        lost: bool,
    },
}

impl Op {
    /// The kind, for the weights and the figures.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::SignUp { .. } => "sign-up",
            Self::NewKey { .. } => "new key",
            Self::Rotate { .. } => "rotate",
            Self::ChangeKey { .. } => "change key",
            Self::Revoke { .. } => "revoke",
            Self::Login { .. } => "login",
            Self::Credits { .. } => "credits",
            Self::Add { .. } => "add",
            Self::Twins { .. } => "twins",
            Self::Change { .. } => "change",
            Self::Delete { .. } => "delete",
            Self::Read { .. } => "read",
            Self::Page { .. } => "page",
            Self::Walk { .. } => "walk",
            Self::Stats { .. } => "stats",
            Self::GptStatus { .. } => "gpt-status",
            Self::Plan { .. } => "plan",
            Self::Adjust { .. } => "adjust",
            Self::Suspend { .. } => "suspend",
            Self::Email { .. } => "e-mail",
            Self::Erase { .. } => "erase",
            Self::Keys { .. } => "keys",
            Self::AllKeys { .. } => "all keys",
            Self::Accounts { .. } => "accounts",
            Self::Sync => "sync",
            Self::Sweep => "sweep",
            Self::Clock { .. } => "clock",
            Self::Reopen => "reopen",
            Self::Sell { .. } => "plans",
            Self::Crash { .. } => "crash",
        }
    }

    /// Whether it may write: worth tearing.
    pub(crate) fn writes(&self) -> bool {
        let writing = [
            "sign-up",
            "new key",
            "rotate",
            "change key",
            "revoke",
            "add",
            "change",
            "delete",
            "plan",
            "sweep",
            "read",
            "adjust",
            "suspend",
            "e-mail",
            "erase",
            "plans",
        ];
        writing.contains(&self.kind())
    }

    /// The `Idempotency-Key` that it carries.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Add { name, .. } => name.as_deref(),
            Self::Twins { name, .. } | Self::Adjust { name, .. } => Some(name),
            _ => None,
        }
    }
}

/// Kinds and how often they come, as dealt to a seed that has them all.
const KINDS: [(&str, usize); 30] = [
    ("add", 24),
    ("change", 9),
    ("delete", 7),
    ("read", 8),
    ("page", 6),
    ("walk", 2),
    ("stats", 4),
    ("gpt-status", 2),
    ("credits", 3),
    ("login", 3),
    ("sign-up", 2),
    ("new key", 5),
    ("revoke", 4),
    ("rotate", 4),
    ("change key", 4),
    ("plan", 5),
    ("adjust", 5),
    ("suspend", 3),
    ("e-mail", 2),
    ("erase", 2),
    ("keys", 2),
    ("all keys", 1),
    ("accounts", 1),
    ("sync", 1),
    ("sweep", 2),
    ("twins", 2),
    ("clock", 12),
    ("reopen", 1),
    ("plans", 1),
    ("crash", 1),
];

/// E-mail addresses that sign-ups choose from: few, so that they meet.
const EMAILS: usize = 10;
/// Most accounts of a run.
const ACCOUNTS_MAX: usize = 14;

pub(crate) struct Generator {
    weights: Vec<(&'static str, usize)>,
    /// Percent of additions that carry an `Idempotency-Key`.
    named: usize,
    /// Percent of memories that are longer than one record.
    long: usize,
    /// Percent of the clock's steps that go to a moment at which something changes.
    steered: usize,
    names: usize,
}

impl Generator {
    /// Deals the weights of a seed: each kind off, as usual, or four times as often.
    pub(crate) fn new(random: &mut Random) -> Self {
        let mut weights = Vec::new();
        for (kind, weight) in KINDS {
            let factor = match kind {
                "add" | "clock" => random.pick(&[1, 1, 3]),
                // A run without a crash shows little; many make it slow.
                "reopen" | "plans" | "crash" => random.pick(&[0, 1, 2]),
                _ => random.pick(&[0, 1, 1, 4]),
            };
            weights.push((kind, weight * factor));
        }
        Self {
            weights,
            named: random.pick(&[0, 30, 80]),
            long: random.pick(&[0, 4, 20]),
            steered: random.pick(&[4, 20, 60]),
            names: 0,
        }
    }

    /// Whether the runs of this seed crash at all.
    pub(crate) fn crashes(&self) -> bool {
        self.weights.contains(&("crash", 1)) || self.weights.contains(&("crash", 2))
    }

    pub(crate) fn next(&mut self, model: &Model, now: Micros, random: &mut Random) -> Op {
        let total: usize = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut at = random.below(total);
        let mut kind = "add";
        for (name, weight) in &self.weights {
            if at < *weight {
                kind = name;
                break;
            }
            at -= weight;
        }
        self.of_kind(kind, model, now, random)
    }

    #[expect(
        clippy::too_many_lines,
        reason = "a table of operations, a few lines each"
    )]
    pub(crate) fn of_kind(
        &mut self,
        kind: &str,
        model: &Model,
        now: Micros,
        random: &mut Random,
    ) -> Op {
        let by = caller(model, random);
        let account = &model.accounts[by.0];
        match kind {
            "sign-up" if model.accounts.len() < ACCOUNTS_MAX => Op::SignUp {
                email: random.chance(60).then(|| email(random)),
                plan: plan(random),
            },
            "new key" => Self::new_key(model, by, now, random),
            "rotate" => {
                let (by, key) = Self::asker(model, by, random);
                let grace = random.pick(&[0, 0, 1, 60, 3_600, 86_400, 604_800]);
                Op::Rotate { by, key, grace }
            }
            "change key" => {
                let (by, key) = Self::asker(model, by, random);
                let mut asked = limits(now, random);
                if random.chance(20) {
                    asked.expires = Some(None);
                }
                if random.chance(20) {
                    asked.credits = Some(None);
                }
                if random.chance(20) {
                    asked.description = Some("changed");
                }
                Op::ChangeKey { by, key, asked }
            }
            "revoke" => Self::revoke(model, by, random),
            "login" => Op::Login {
                by,
                known: random.chance(90),
            },
            "add" => {
                let name = random
                    .chance(self.named)
                    .then(|| self.name(account, random));
                let sent = self.sent(account, name.as_deref(), random);
                Op::Add { by, sent, name }
            }
            "twins" => {
                let name = self.name(account, random);
                let sent = self.sent(account, Some(&name), random);
                Op::Twins { by, sent, name }
            }
            "change" => Op::Change {
                by,
                id: memory(model, account, random),
                change: self.change(random),
            },
            "delete" => Op::Delete {
                by,
                id: memory(model, account, random),
            },
            "read" => Op::Read {
                by,
                id: memory(model, account, random),
            },
            "page" => Op::Page {
                by,
                skip: random.below(account.memories.len() + 12),
                limit: 1 + random.below(100),
            },
            "walk" => Op::Walk {
                by,
                limit: 1 + account.memories.len() / (1 + random.below(4)),
            },
            "stats" => Op::Stats { by },
            "gpt-status" => Op::GptStatus { by },
            "plan" => Op::Plan {
                account: by.0,
                form: named(random),
                plan: plan(random),
            },
            "adjust" => self.adjust(by.0, account, now, random),
            "suspend" => Op::Suspend {
                account: by.0,
                form: named(random),
                // Those that are suspended come back soon.
                suspended: if account.suspended.is_some() {
                    random.chance(20)
                } else {
                    random.chance(60)
                },
            },
            "e-mail" => Op::Email {
                account: by.0,
                form: named(random),
                email: email(random),
            },
            "erase" if model.accounts.len() > 3 => Self::erase(model, random),
            "keys" => Op::Keys {
                by,
                all: random.chance(50),
            },
            "all keys" => Op::AllKeys {
                all: random.chance(50),
                skip: random.below(30),
                limit: 1 + random.below(50),
            },
            "accounts" => Op::Accounts {
                contains: random.chance(60).then(|| {
                    random
                        .pick(&["USER1", "acct_", "@example.com", "nobody", "er3@"])
                        .to_owned()
                }),
                skip: random.below(4),
                limit: 1 + random.below(10),
            },
            "sync" => Op::Sync,
            "sweep" => Op::Sweep,
            "clock" => Op::Clock {
                by: self.step(model, account, now, random),
            },
            "reopen" => Op::Reopen,
            "plans" => Op::Sell {
                offer: random.below(OFFERS),
            },
            "crash" => Op::Crash {
                lost: random.chance(50),
            },
            _ => Op::Credits { by },
        }
    }

    /// An adjustment: about what is left now and then, or one that was asked for before.
    fn adjust(&mut self, at: usize, account: &Account, now: Micros, random: &mut Random) -> Op {
        let money = account.money.rolled(now);
        let left = (money.granted - money.used) as i64;
        let amount = random.pick(&[
            1,
            7,
            10_000,
            -1,
            -left,
            1 - left,
            -left - 1,
            1_000_000_000_000,
        ]);
        // Not without end: what is given adds up.
        let amount = if amount == 0 || left > 1_000_000_000_000 {
            -1
        } else {
            amount
        };
        let form = named(random);
        if random.chance(30) && !account.adjustments.is_empty() {
            let at_name = random.below(account.adjustments.len());
            let (name, replay) = account.adjustments.iter().nth(at_name).unwrap();
            let amount = if random.chance(80) {
                replay.sent.parse().unwrap()
            } else {
                amount
            };
            let name = name.clone();
            return Op::Adjust {
                account: at,
                form,
                amount,
                name,
            };
        }
        self.names += 1;
        // Also a name that the account's own requests may have.
        let name = format!("try-{}", if random.chance(20) { 1 } else { self.names });
        Op::Adjust {
            account: at,
            form,
            amount,
            name,
        }
    }

    /// Who asks for a change of a key, and which: mostly one of its own.
    fn asker(model: &Model, by: Who, random: &mut Random) -> (Option<Who>, Who) {
        let account = if random.chance(92) {
            by.0
        } else {
            random.below(model.accounts.len())
        };
        let keys = model.accounts[account].keys.len();
        // Newer ones more often: most of the old ones are over.
        let key = keys - 1 - random.below(keys).min(random.below(keys));
        (random.chance(75).then_some(by), (account, key))
    }

    /// An erasure, mostly of one of the later accounts: the first ones were brought to where it is narrow.
    fn erase(model: &Model, random: &mut Random) -> Op {
        let accounts = model.accounts.len();
        let at = if random.chance(90) {
            2 + random.below(accounts - 2)
        } else {
            random.below(accounts)
        };
        let account = &model.accounts[at];
        let other = &model.accounts[random.below(accounts)];
        let confirm = match random.below(8) {
            0 => String::new(),
            1 => other.id.clone(),
            2 => account.keys[0].secret.clone(),
            3 => format!(" {} ", account.id.to_uppercase()),
            _ => account.id.clone(),
        };
        let key = random.below(account.keys.len());
        Op::Erase {
            by: random.chance(60).then_some((at, key)),
            account: at,
            form: named(random),
            confirm,
        }
    }

    fn new_key(model: &Model, by: Who, now: Micros, random: &mut Random) -> Op {
        let account = &model.accounts[by.0];
        let mut asked = if random.chance(50) {
            limits(now, random)
        } else {
            Asked::default()
        };
        asked.plan = random.chance(50).then(|| plan(random));
        let admin = random.chance(35);
        let owner = match random.below(8) {
            0 => Owner::Email(email(random)),
            1 => Owner::Account(
                model.accounts[random.below(model.accounts.len())]
                    .id
                    .clone(),
            ),
            2 => Owner::Account("acct_nobody".to_owned()),
            3 if admin => Owner::Nobody,
            _ if admin => Owner::Account(account.id.clone()),
            3 => Owner::Account(account.id.clone()),
            _ => Owner::Nobody,
        };
        // The admin makes accounts by e-mail; not without end.
        let full = model.accounts.len() >= ACCOUNTS_MAX;
        let owner = match owner {
            Owner::Email(_) if admin && full => Owner::Nobody,
            owner => owner,
        };
        Op::NewKey {
            by: (!admin).then_some(by),
            owner,
            asked,
        }
    }

    fn revoke(model: &Model, by: Who, random: &mut Random) -> Op {
        let account = if random.chance(85) {
            by.0
        } else {
            random.below(model.accounts.len())
        };
        let key = random.below(model.accounts[account].keys.len());
        let form = [
            Form::KeyId,
            Form::KeyId,
            Form::Masked,
            Form::Secret,
            Form::Unknown,
        ];
        Op::Revoke {
            by: random.chance(80).then_some(by),
            key: (account, key),
            form: random.pick(&form),
        }
    }

    /// An `Idempotency-Key`: new, or one that the account has used.
    fn name(&mut self, account: &Account, random: &mut Random) -> String {
        if random.chance(50) && !account.replays.is_empty() {
            let at = random.below(account.replays.len());
            return account.replays.keys().nth(at).unwrap().clone();
        }
        self.names += 1;
        format!("try-{}", self.names)
    }

    /// A body: for a name that was used, mostly the one that it was used with.
    fn sent(&mut self, account: &Account, name: Option<&str>, random: &mut Random) -> Value {
        if let Some(replay) = name.and_then(|name| account.replays.get(name))
            && random.chance(80)
        {
            return serde_json::from_str(&replay.sent).unwrap();
        }
        let input = self.text(random);
        let mut sent = json!({
            "topic": format!(" topic {} ", random.below(1_000)),
            "type": random.pick(&["Note", "Bug", "Fact"]),
            "category": random.pick(&["work", "home", "Ärger", "x"]),
            "input": input,
            "output": "o",
            "success": random.chance(70),
        });
        if random.chance(30) {
            sent["score"] = json!(random.below(100));
            sent["tags"] = json!(["a", "b"]);
            sent["more"] = json!({"n": [1, 2.5, null]});
        }
        sent
    }

    fn text(&mut self, random: &mut Random) -> String {
        // One record holds 6,000 bytes; longer memories are in pieces.
        let bytes = if random.chance(self.long) {
            random.pick(&[5_700, 5_900, 12_000, 40_000])
        } else {
            random.below(200)
        };
        format!("{:08x}{}", random.next(), "y".repeat(bytes))
    }

    fn change(&mut self, random: &mut Random) -> Value {
        match random.below(9) {
            0 => json!({"category": random.pick(&["work", "home", "garden"])}),
            1 => json!({"success": random.chance(50), "type": "Fact"}),
            2 => json!({"input": self.text(random)}),
            3 => json!({"more": null, "topic": "changed "}),
            4 => json!({"topic": null}),
            5 => json!({"topic": "  "}),
            6 => json!({"reviewed": true, "tags": ["t"], "maxScore": -3}),
            _ => json!({"extra": [random.below(9)], "category": "x"}),
        }
    }

    /// How far the clock goes: a little, to the moment at which something changes, or far; back too.
    fn step(&self, model: &Model, account: &Account, now: Micros, random: &mut Random) -> Micros {
        let near = random.pick(&[-SECOND, -1_000, -1, 0, 0, 1, 1_000, SECOND]);
        if !random.chance(self.steered) {
            return match random.below(12) {
                0 => -SECOND,
                1 => near,
                _ => 1 + random.below(5_000_000) as Micros,
            };
        }
        match random.below(23) {
            20..=22 => {
                let key = &account.keys[random.below(account.keys.len())];
                key.expires.map_or(near, |end| end + near - now)
            }
            0..=8 => account.money.rolled(now).end() + near - now,
            9..=11 => {
                let other = &model.accounts[random.below(model.accounts.len())];
                other.money.end() + near - now
            }
            12..=16 => {
                let at = random.below(account.replays.len());
                let replay = account.replays.values().nth(at);
                replay.map_or(near, |replay| replay.at + DAY + near - now)
            }
            17 => random.pick(&[-3_600 * SECOND, -40 * DAY]),
            _ => random.pick(&[31 * DAY, 95 * DAY, DAY]),
        }
    }
}

/// Bounds that somebody asks for: each half of the time.
fn limits(now: Micros, random: &mut Random) -> Asked {
    let mut asked = Asked::default();
    if random.chance(40) {
        let some = Scope::ALL.into_iter().filter(|_| random.chance(60));
        let some: Scopes = some.collect();
        asked.scopes = Some(if some.is_empty() { Scopes::ALL } else { some });
    }
    if random.chance(40) {
        let seconds = random.pick(&[1, 60, 3_600, 86_400, 40 * 86_400]);
        asked.expires = Some(Some(now + seconds * SECOND));
    }
    if random.chance(40) {
        asked.credits = Some(Some(random.pick(&[0, 1, 5, 50, 100, 5_000, 20_000])));
    }
    asked
}

/// How an admin names an account.
fn named(random: &mut Random) -> Form {
    random.pick(&[
        Form::KeyId,
        Form::Secret,
        Form::AccountId,
        Form::AccountId,
        Form::Unknown,
    ])
}

pub(crate) fn email(random: &mut Random) -> String {
    format!("user{}@example.com", random.below(EMAILS))
}

pub(crate) fn plan(random: &mut Random) -> Plan {
    random.pick(&[Plan::FREE, Plan::FREE, Plan::PRO, Plan::PREMIUM])
}

/// A key: half of the time one of the first two accounts', seldom a revoked one.
fn caller(model: &Model, random: &mut Random) -> Who {
    let among = if random.chance(50) {
        model.accounts.len().min(2)
    } else {
        model.accounts.len()
    };
    let account = random.below(among);
    let keys = &model.accounts[account].keys;
    let mut key = random.below(keys.len());
    for _ in 0..6 {
        if keys[key].revoked.is_none() || random.chance(10) {
            break;
        }
        key = random.below(keys.len());
    }
    (account, key)
}

/// A memory of the account's own, one of another's, or none's.
fn memory(model: &Model, account: &Account, random: &mut Random) -> String {
    let from = if random.chance(88) {
        account
    } else {
        &model.accounts[random.below(model.accounts.len())]
    };
    match from.memories.len() {
        0 => "mem_01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned(),
        // New and old ones more often than those in between.
        n if random.chance(40) => from.memories[n - 1 - random.below(n.min(3))].id.clone(),
        n => from.memories[random.below(n)].id.clone(),
    }
}
