//! SIGKILL under changes of keys, credits, standing and addresses, and under erasures; then a check of each.
//!
//! Twelve clients each have an account of their own, of which nobody else changes anything: its book is a
//! line, and at most its last request is unknown (the connection ended first). After the restart the service
//! must show the book as it is without that request, or as it is with it: whole or not at all. Besides,
//! all of them give, take and spend credits of one account, whose sums must add up, and make accounts to
//! erase them.
//!
//! `CRASH_ROUNDS` sets how many rounds (20), `CRASH_SEED` repeats the choices of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::crash::{Dice, number};
use super::{ADMIN, Answer, Client, NoAnswer, PATIENCE, Process, memory, run};

const CLIENTS: usize = 12;
/// What a plan of the accounts grants.
const GRANTED: u64 = 100_000;
/// What a memory costs.
const PRICE: u64 = 2;
/// Active keys from which on a client makes no more.
const KEYS: usize = 20;
/// Sets of scopes that keys are given.
const SCOPES: [&[&str]; 4] = [
    &ALL_SCOPES,
    &["memory:read", "memory:write", "keys"],
    &["memory:write", "account"],
    &["keys"],
];
const ALL_SCOPES: [&str; 4] = ["memory:read", "memory:write", "keys", "account"];
/// The grace of a rotation that has one: longer than a run.
const GRACE: u64 = 86_400;
const ENV: &[(&str, &str)] = &[("ADMIN_KEY", ADMIN)];

/// The share of the keys that were rotated into each other.
#[derive(Debug, Clone, Default)]
struct Lineage {
    cap: Option<u64>,
    used: u64,
    held: u64,
}

#[derive(Debug, Clone)]
struct Key {
    lineage: usize,
    /// Nobody was told it if the answer never came.
    secret: Option<String>,
    description: String,
    /// What it was given; once it has a successor, all of it but `keys` counts.
    scopes: Vec<&'static str>,
    successor: Option<String>,
    ends: Option<String>,
    active: bool,
    /// Whether it was tried since it ended.
    tried: bool,
}

impl Key {
    fn scopes_now(&self) -> Vec<&'static str> {
        let lost = |scope: &&str| self.successor.is_some() && *scope == "keys";
        let scopes = self.scopes.iter().copied();
        scopes.filter(|scope| !lost(scope)).collect()
    }

    fn may(&self, scope: &str) -> bool {
        self.scopes_now().contains(&scope)
    }

    /// Whether it manages keys and goes on doing so: an account keeps one that does.
    fn manages(&self) -> bool {
        self.active && self.may("keys") && self.ends.is_none()
    }
}

/// When a key ends, as a request says it.
#[derive(Debug, Clone, PartialEq)]
enum Ends {
    AsBefore,
    Never,
    At(String),
}

/// What a request changes of an account.
#[derive(Debug, Clone)]
enum Op {
    Spend {
        key: String,
    },
    Rotate {
        key: String,
        grace: u64,
        by_itself: bool,
    },
    Patch {
        key: String,
        description: Option<String>,
        cap: Option<u64>,
        by_itself: bool,
    },
    /// What a key may do, and when it ends.
    Bound {
        key: String,
        scopes: Option<Vec<&'static str>>,
        ends: Ends,
        by_itself: bool,
    },
    Mint {
        description: String,
    },
    Revoke {
        key: String,
    },
    Adjust(Adjust),
    Stand {
        suspended: bool,
    },
    Move {
        email: String,
    },
    /// An adjustment that was answered, sent again: changes nothing.
    Again(Adjust, String),
    /// Of the account that all clients share.
    PotAdjust(Adjust),
    PotSpend,
    /// Of accounts that are made to be erased, by their place in the list.
    SignUp {
        email: String,
    },
    Fill(usize),
    Erase {
        n: usize,
        by_admin: bool,
    },
}

#[derive(Debug, Clone)]
struct Adjust {
    name: String,
    amount: i64,
}

impl Adjust {
    fn body(&self) -> Value {
        json!({"amount": self.amount, "reason": "a crash test"})
    }

    fn send(&self, client: &mut Client, target: &str) -> Answer {
        let path = format!("/admin/user/{target}/credits");
        let headers = [("X-ADMIN-KEY", ADMIN), ("Idempotency-Key", &self.name)];
        let body = self.body().to_string();
        client.call("POST", &path, &headers, Some(&body))
    }
}

/// What a request made: from its answer or, if that is unknown, from what is seen.
#[derive(Debug, Clone, Default)]
struct Made {
    id: String,
    secret: Option<String>,
    ends: Option<String>,
}

/// An account, as the answers say.
#[derive(Debug, Clone)]
struct Book {
    email: String,
    suspended: bool,
    granted: u64,
    lineages: Vec<Lineage>,
    keys: BTreeMap<String, Key>,
}

impl Book {
    fn sign_up(client: &mut Client, email: &str) -> (Self, String, String) {
        let body = json!({"email": email, "plan": "Premium"}).to_string();
        let made = client.call("POST", "/signup", &[], Some(&body)).expect(201);
        let (id, secret) = (made.str("key_id"), made.str("api_key"));
        let seen = observe(client, &id);
        let key = Key {
            lineage: 0,
            secret: Some(secret.clone()),
            description: seen["keys"][&id]["description"]
                .as_str()
                .unwrap()
                .to_owned(),
            scopes: ALL_SCOPES.to_vec(),
            successor: None,
            ends: None,
            active: true,
            tried: false,
        };
        let book = Self {
            email: email.to_owned(),
            suspended: false,
            granted: GRANTED,
            lineages: vec![Lineage::default()],
            keys: BTreeMap::from([(id.clone(), key)]),
        };
        (book, id, secret)
    }

    /// What [`observe`] must show of it.
    fn expected(&self) -> Value {
        let keys = self.keys.iter().map(|(id, key)| {
            let share = &self.lineages[key.lineage];
            let shown = json!({
                "description": key.description, "cap": share.cap, "rotated_to": key.successor,
                "expires_at": key.ends, "active": key.active, "used": share.used, "held": share.held,
                "scopes": key.scopes_now(),
            });
            (id.clone(), shown)
        });
        let keys: serde_json::Map<_, _> = keys.collect();
        let status = match self.suspended {
            true => "suspended",
            false if self.keys.values().any(|key| key.active) => "active",
            false => "inactive",
        };
        json!({
            "account": self.email, "status": status,
            "granted": self.granted, "used": self.lineages.iter().map(|l| l.used).sum::<u64>(),
            "held": self.lineages.iter().map(|l| l.held).sum::<u64>(), "keys": keys,
        })
    }

    fn apply(&mut self, op: &Op, made: &Made) {
        match op {
            Op::Spend { key } => {
                let share = &mut self.lineages[self.keys[key].lineage];
                share.used += PRICE;
                share.held += 1;
            }
            Op::Rotate { key, grace, .. } => {
                let old = self.keys.get_mut(key).unwrap();
                let successor = Key {
                    secret: made.secret.clone(),
                    ..old.clone()
                };
                old.successor = Some(made.id.clone());
                old.active = *grace > 0;
                if *grace > 0 {
                    old.ends = Some(made.ends.clone().unwrap_or_default());
                }
                self.keys.insert(made.id.clone(), successor);
            }
            Op::Patch {
                key,
                description,
                cap,
                ..
            } => {
                let key = self.keys.get_mut(key).unwrap();
                if let Some(description) = description {
                    key.description.clone_from(description);
                }
                if cap.is_some() {
                    self.lineages[key.lineage].cap = *cap;
                }
            }
            Op::Bound {
                key, scopes, ends, ..
            } => {
                let key = self.keys.get_mut(key).unwrap();
                if let Some(scopes) = scopes {
                    key.scopes.clone_from(scopes);
                }
                match ends {
                    Ends::AsBefore => {}
                    Ends::Never => key.ends = None,
                    Ends::At(end) => key.ends = Some(end.clone()),
                }
            }
            Op::Mint { description } => {
                let key = Key {
                    lineage: self.lineages.len(),
                    secret: made.secret.clone(),
                    description: description.clone(),
                    scopes: ALL_SCOPES.to_vec(),
                    successor: None,
                    ends: None,
                    active: true,
                    tried: false,
                };
                self.lineages.push(Lineage::default());
                self.keys.insert(made.id.clone(), key);
            }
            Op::Revoke { key } => self.keys.get_mut(key).unwrap().active = false,
            Op::Adjust(adjust) => {
                self.granted = self.granted.checked_add_signed(adjust.amount).unwrap();
            }
            Op::Stand { suspended } => self.suspended = *suspended,
            Op::Move { email } => self.email.clone_from(email),
            Op::Again(..)
            | Op::PotAdjust(_)
            | Op::PotSpend
            | Op::SignUp { .. }
            | Op::Fill(_)
            | Op::Erase { .. } => {}
        }
    }

    /// What is unknown is there whole or not at all. Returns whether it is there, or how it is neither.
    fn settle(&mut self, seen: &Value, unknown: Option<&Op>) -> Result<bool, String> {
        let without = self.expected();
        if *seen == without {
            return Ok(false);
        }
        let Some(op) = unknown else {
            return Err(format!(
                "not as acknowledged: {}",
                difference(&without, seen)
            ));
        };
        let new = seen["keys"].as_object().unwrap().keys();
        let old = match op {
            Op::Rotate { key, .. } => seen["keys"][key]["expires_at"].as_str(),
            _ => None,
        };
        let made = Made {
            id: new
                .filter(|id| !self.keys.contains_key(*id))
                .cloned()
                .collect(),
            secret: None,
            ends: old.map(str::to_owned),
        };
        let mut with = self.clone();
        with.apply(op, &made);
        if *seen == with.expected() {
            *self = with;
            return Ok(true);
        }
        Err(format!(
            "{op:?} is half done: against none of it {}; against all of it {}",
            difference(&without, seen),
            difference(&with.expected(), seen)
        ))
    }
}

/// The fields in which an account is not as expected.
fn difference(expected: &Value, seen: &Value) -> String {
    let mut differs = Vec::new();
    for (name, value) in expected.as_object().unwrap() {
        if name != "keys" && seen[name] != *value {
            differs.push(format!("{name} is {}, not {value}", seen[name]));
        }
    }
    let ids = [expected, seen].map(|side| side["keys"].as_object().unwrap().keys());
    for id in ids.into_iter().flatten().collect::<BTreeSet<_>>() {
        let (key, is) = (&expected["keys"][id], &seen["keys"][id]);
        if key != is {
            differs.push(format!("key {id} is {is}, not {key}"));
        }
    }
    differs.join("; ")
}

/// Looks at an account, without a debit.
fn observe(client: &mut Client, target: &str) -> Value {
    let path = format!("/admin/user/{target}?status=all");
    let body = client.as_admin("GET", &path, None).expect(200).body;
    let (user, number) = (&body["user"], |value: &Value| value.as_u64().unwrap());
    let used = number(&user["credits_used_this_cycle"]);
    let keys = body["api_keys"].as_array().unwrap().iter().map(|key| {
        let shown = json!({
            "description": key["description"], "cap": key["credits_per_cycle"],
            "rotated_to": key["rotated_to"], "expires_at": key["expires_at"],
            "scopes": key["scopes"], "active": key["status"] == "active", "used": key["credits_used_this_cycle"],
            "held": key["memory_count"],
        });
        (key["key_id"].as_str().unwrap().to_owned(), shown)
    });
    let keys: serde_json::Map<_, _> = keys.collect();
    json!({
        "account": user["account_id"], "status": user["status"],
        "granted": number(&user["credits_remaining"]) + used, "used": used,
        "held": user["memory_count"], "keys": keys,
    })
}

/// An account that is made to be erased.
#[derive(Debug, Clone)]
struct Doomed {
    email: String,
    key: String,
    held: u64,
    there: bool,
    /// Whether it was looked for since it was erased.
    missed: bool,
}

impl Doomed {
    fn made(email: &str, key: String) -> Self {
        Self {
            email: email.to_owned(),
            key,
            held: 0,
            there: true,
            missed: false,
        }
    }

    /// Its memories, credits used and keys; `None` if it is not there, by its address or by its key.
    fn look(&self, client: &mut Client) -> Result<Option<[u64; 3]>, String> {
        let found = client.as_admin("GET", &format!("/admin/user/{}", self.email), None);
        let by_key = client.with_key(&self.key, "GET", "/credits", None);
        match (found.status, by_key.status, by_key.code()) {
            (404, 401, "invalid_key") => Ok(None),
            (200, 200, _) => {
                let user = &found.body["user"];
                let numbers = [
                    &user["memory_count"],
                    &user["total_credits_used"],
                    &found.body["total_keys"],
                ];
                Ok(Some(numbers.map(|n| n.as_u64().unwrap())))
            }
            _ => Err(format!("is half there: {} {}", found.text, by_key.text)),
        }
    }

    const fn expected(&self) -> Option<[u64; 3]> {
        if self.there {
            Some([self.held, self.held * PRICE, 1])
        } else {
            None
        }
    }
}

/// The account of all clients.
#[derive(Debug, Clone)]
struct Pot {
    id: String,
    secret: String,
    granted: u64,
    spent: u64,
}

/// A client and its books.
#[derive(Debug, Clone)]
struct Part {
    n: usize,
    serial: u64,
    /// The id of the account's first key, which names the account whatever its address is.
    first: String,
    book: Book,
    doomed: Vec<Doomed>,
    answered: Option<(Adjust, String)>,
    /// Of the shared account, since it was last looked at.
    pot: (i64, u64),
    unknown: Option<Op>,
    wrong: Vec<String>,
    counts: BTreeMap<String, u64>,
}

/// What most requests of a round are, so that a kill finds some of them half done.
#[derive(Debug, Clone, Copy)]
enum Mostly {
    Any,
    Rotate,
    Bound,
    Adjust,
}

/// A request: method, path, credential, its own name, body, and the status it must have.
type Request = (
    &'static str,
    String,
    (&'static str, String),
    Option<String>,
    Option<Value>,
    u16,
);

impl Part {
    fn choose(&mut self, dice: &mut Dice, mostly: Mostly) -> Op {
        self.serial += 1;
        let name = format!("c{}-{}", self.n, self.serial);
        let amount = |dice: &mut Dice| match dice.below(2) {
            0 => i64::try_from(1 + dice.below(500)).unwrap(),
            _ => -i64::try_from(1 + dice.below(300)).unwrap(),
        };
        let active = self.book.keys.iter().filter(|(_, key)| key.active);
        let active: Vec<_> = active.map(|(id, key)| (id.clone(), key.clone())).collect();
        let told: Vec<_> = active.iter().filter(|(_, k)| k.secret.is_some()).collect();
        let heads: Vec<_> = active
            .iter()
            .filter(|(_, k)| k.successor.is_none())
            .collect();
        let description = format!("made {name}");
        let suspended = self.book.suspended;
        // Whether a key can change itself.
        let can = |key: &Key| key.secret.is_some() && key.may("keys");
        if suspended && dice.below(3) == 0 {
            return Op::Stand { suspended: false };
        }
        if heads.is_empty() || told.is_empty() {
            return Op::Mint { description };
        }
        if active.len() > KEYS {
            let (key, _) = dice.pick(&active).clone();
            return Op::Revoke { key };
        }
        let draw = match mostly {
            Mostly::Rotate if dice.below(4) > 0 => 3,
            Mostly::Adjust if dice.below(4) > 0 => 13,
            Mostly::Bound if dice.below(4) > 0 => 22,
            _ => dice.below(27),
        };
        match draw {
            0..3 => {
                let writers: Vec<_> = told.iter().filter(|(_, k)| k.may("memory:write")).collect();
                if writers.is_empty() {
                    return Op::Mint { description };
                }
                Op::Spend {
                    key: dice.pick(&writers).0.clone(),
                }
            }
            3..8 => {
                let (key, is) = dice.pick(&heads);
                Op::Rotate {
                    key: key.clone(),
                    grace: *dice.pick(&[0, GRACE]),
                    by_itself: !suspended && can(is) && dice.below(2) == 0,
                }
            }
            8..11 => {
                let (key, is) = dice.pick(&heads);
                let cap = (dice.below(2) == 0).then(|| 20_000 + self.serial % 50_000);
                let is_plain = cap.is_none() && can(is);
                Op::Patch {
                    key: key.clone(),
                    description: (cap.is_none() || dice.below(2) == 0).then_some(description),
                    cap,
                    by_itself: !suspended && is_plain && dice.below(2) == 0,
                }
            }
            11 => Op::Mint { description },
            12 => Op::Revoke {
                key: dice.pick(&active).0.clone(),
            },
            13..16 => Op::Adjust(Adjust {
                amount: amount(dice),
                name,
            }),
            16 => match self.answered.clone() {
                Some((adjust, text)) => Op::Again(adjust, text),
                None => Op::PotSpend,
            },
            17 => Op::Stand {
                suspended: !suspended,
            },
            18 => Op::Move {
                email: format!("{name}@money.example"),
            },
            19..21 => Op::PotAdjust(Adjust {
                amount: amount(dice),
                name,
            }),
            21 => Op::PotSpend,
            22..25 => {
                let (key, is) = dice.pick(&heads);
                self.bound(key, is, dice)
            }
            _ => self.doomed(&name, dice),
        }
    }

    /// Another set of scopes for a key, another end, or both.
    fn bound(&self, key: &str, is: &Key, dice: &mut Dice) -> Op {
        let managers = self.book.keys.values().filter(|key| key.manages()).count();
        let is_last = is.manages() && managers == 1;
        let sets: Vec<_> = SCOPES
            .iter()
            .filter(|set| !is_last || set.contains(&"keys"))
            .collect();
        let scopes = (is_last || dice.below(3) > 0).then(|| dice.pick(&sets).to_vec());
        let ends = match (scopes.is_none() || dice.below(2) == 0, dice.below(3)) {
            _ if is_last => Ends::AsBefore,
            (false, _) => Ends::AsBefore,
            (true, 0) => Ends::Never,
            (true, _) => {
                let year = 2100 + self.serial % 100;
                Ends::At(format!("{year}-01-31T12:00:00.000000+00:00"))
            }
        };
        // A key takes from itself, and gives itself nothing.
        let mut gets = scopes.iter().flatten();
        let narrows = gets.all(|scope| is.scopes.contains(scope));
        let earlier = ends == Ends::AsBefore || is.ends.is_none();
        let can = is.secret.is_some() && is.may("keys") && !self.book.suspended;
        Op::Bound {
            key: key.to_owned(),
            by_itself: can && narrows && earlier && dice.below(2) == 0,
            scopes,
            ends,
        }
    }

    /// Something with an account that is made to be erased.
    fn doomed(&self, name: &str, dice: &mut Dice) -> Op {
        let there = self.doomed.iter().enumerate().filter(|(_, d)| d.there);
        let there: Vec<_> = there.map(|(n, d)| (n, d.held)).collect();
        match (there.last(), dice.below(2)) {
            (Some(&(n, held)), 0) if held < 3 => Op::Fill(n),
            (Some(&(n, held)), _) if held > 0 => Op::Erase {
                n,
                by_admin: dice.below(2) == 0,
            },
            _ => Op::SignUp {
                email: format!("{name}@doomed.example"),
            },
        }
    }

    fn request(&self, op: &Op, pot: &Pot) -> Request {
        let admin = || ("X-ADMIN-KEY", ADMIN.to_owned());
        let with = |secret: &str| ("X-API-KEY", secret.to_owned());
        let secret = |key: &str| self.book.keys[key].secret.clone().unwrap();
        let by = |key: &str, itself: bool| if itself { with(&secret(key)) } else { admin() };
        let own = |route: &str| format!("/admin/user/{}/{route}", self.first);
        let why = "a crash test";
        match op {
            Op::Spend { key } => {
                let status = if self.book.suspended { 403 } else { 201 };
                let body = Some(memory("spent"));
                let path = "/memory".to_owned();
                ("POST", path, with(&secret(key)), None, body, status)
            }
            Op::Rotate {
                key,
                grace,
                by_itself,
            } => {
                let path = format!("/apikey/{key}/rotate");
                let body = json!({"grace_seconds": grace});
                ("POST", path, by(key, *by_itself), None, Some(body), 201)
            }
            Op::Patch {
                key,
                description,
                cap,
                by_itself,
            } => {
                // What is null is left as it is, but for a cap, which would go.
                let mut body = json!({"description": description});
                if let Some(cap) = cap {
                    body["credits_per_cycle"] = json!(cap);
                }
                let path = format!("/apikey/{key}");
                ("PATCH", path, by(key, *by_itself), None, Some(body), 200)
            }
            Op::Bound {
                key,
                scopes,
                ends,
                by_itself,
            } => {
                let body = bounds(scopes.as_deref(), ends);
                let path = format!("/apikey/{key}");
                ("PATCH", path, by(key, *by_itself), None, Some(body), 200)
            }
            Op::Mint { description } => {
                let body = json!({"account_id": self.book.email, "description": description});
                let path = "/apikey/new".to_owned();
                ("POST", path, admin(), None, Some(body), 201)
            }
            Op::Revoke { key } => {
                let path = format!("/apikey/{key}");
                ("DELETE", path, admin(), None, None, 200)
            }
            Op::Adjust(adjust) | Op::Again(adjust, _) => {
                let (name, body) = (Some(adjust.name.clone()), Some(adjust.body()));
                ("POST", own("credits"), admin(), name, body, 200)
            }
            Op::Stand { suspended } => {
                let path = own(if *suspended { "suspend" } else { "reactivate" });
                let body = json!({"reason": why});
                ("POST", path, admin(), None, Some(body), 200)
            }
            Op::Move { email } => {
                let body = json!({"email": email, "reason": why});
                ("PUT", own("email"), admin(), None, Some(body), 200)
            }
            Op::PotAdjust(adjust) => {
                let path = format!("/admin/user/{}/credits", pot.id);
                let (name, body) = (Some(adjust.name.clone()), Some(adjust.body()));
                ("POST", path, admin(), name, body, 200)
            }
            Op::PotSpend => {
                let (path, body) = ("/memory".to_owned(), Some(memory("spent")));
                ("POST", path, with(&pot.secret), None, body, 201)
            }
            Op::SignUp { email } => {
                let body = json!({"email": email, "plan": "Free"});
                let nobody = ("X-Nobody", "-".to_owned());
                let path = "/signup".to_owned();
                ("POST", path, nobody, None, Some(body), 201)
            }
            Op::Fill(n) => {
                let (path, body) = ("/memory".to_owned(), Some(memory("doomed")));
                ("POST", path, with(&self.doomed[*n].key), None, body, 201)
            }
            Op::Erase { n, by_admin } => {
                let doomed = &self.doomed[*n];
                if *by_admin {
                    let path = format!("/admin/user/{}", doomed.email);
                    let body = json!({"confirm": doomed.email, "reason": why});
                    return ("DELETE", path, admin(), None, Some(body), 200);
                }
                let body = json!({"confirm": doomed.email});
                let path = "/account".to_owned();
                ("DELETE", path, with(&doomed.key), None, Some(body), 200)
            }
        }
    }

    /// Takes an answer into the books.
    fn take(&mut self, op: Op, answer: &Answer, status: u16) {
        if answer.status != status {
            let text = &answer.text;
            self.wrong
                .push(format!("{op:?} is {}, not {status}: {text}", answer.status));
            return;
        }
        let count = format!("{} {status}", name(&op));
        *self.counts.entry(count).or_default() += 1;
        if status == 403 {
            if answer.code() != "account_suspended" {
                self.wrong.push(format!("{op:?}: {}", answer.text));
            }
            return;
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let made = Made {
            id: text(&answer.body["key_id"]).unwrap_or_default(),
            secret: text(&answer.body["api_key"]),
            ends: text(&answer.body["rotated"]["works_until"]),
        };
        self.book.apply(&op, &made);
        match op {
            Op::Adjust(adjust) => self.answered = Some((adjust, answer.text.clone())),
            Op::Again(adjust, first) => {
                self.wrong.extend(not_again(&adjust, &first, answer));
            }
            Op::PotAdjust(adjust) => self.pot.0 += adjust.amount,
            Op::PotSpend => self.pot.1 += 1,
            Op::SignUp { email } => {
                let key = made.secret.unwrap_or_default();
                self.doomed.push(Doomed::made(&email, key));
            }
            Op::Fill(n) => self.doomed[n].held += 1,
            Op::Erase { n, .. } => self.doomed[n].there = false,
            _ => {}
        }
    }

    fn work(
        mut self,
        mut client: Client,
        (mut dice, mostly): (Dice, Mostly),
        pot: &Pot,
        answered: &AtomicU64,
    ) -> Self {
        loop {
            let op = self.choose(&mut dice, mostly);
            let (method, path, credential, own, body, status) = self.request(&op, pot);
            let mut headers = vec![(credential.0, credential.1.as_str())];
            headers.extend(own.as_deref().map(|name| ("Idempotency-Key", name)));
            let body = body.map(|body| body.to_string());
            match client.try_call(method, &path, &headers, body.as_deref()) {
                Ok(answer) => self.take(op, &answer, status),
                Err(NoAnswer::NotSent) => return self,
                Err(NoAnswer::Unknown) => {
                    self.unknown = Some(op);
                    return self;
                }
            }
            answered.fetch_add(1, Ordering::Relaxed);
            if self.wrong.len() > 5 {
                return self;
            }
        }
    }

    /// Compares what is seen with the books after a start, and goes on from there.
    fn verify(&mut self, client: &mut Client, dice: &mut Dice) {
        let unknown = self.unknown.take();
        let seen = observe(client, &self.first);
        let former = self.book.email.clone();
        let mut is_there = match self.book.settle(&seen, unknown.as_ref()) {
            Ok(is_there) => is_there,
            Err(text) => {
                self.wrong.push(text);
                return;
            }
        };
        if let Some(Op::Adjust(adjust)) = &unknown {
            // Sent again it is there, and it was not before unless the service says so.
            let again = adjust.send(client, &self.first);
            if again.status != 200 || is_replayed(&again) != is_there {
                let text = &again.text;
                self.wrong
                    .push(format!("{adjust:?}, there: {is_there}, again: {text}"));
            }
            if !is_there {
                self.book
                    .apply(&Op::Adjust(adjust.clone()), &Made::default());
            }
        }
        if let Some((adjust, first)) = &self.answered {
            let again = adjust.send(client, &self.first);
            self.wrong.extend(not_again(adjust, first, &again));
        }
        let seen = observe(client, &self.first);
        if let Err(text) = self.book.settle(&seen, None) {
            self.wrong
                .push(format!("after requests sent again: {text}"));
        }
        self.names(client, &former, unknown.as_ref());
        self.keys(client, dice);
        is_there |= self.erased(client, dice, unknown.as_ref());
        if let Some(op) = &unknown {
            let became = match op {
                Op::PotAdjust(_) | Op::PotSpend | Op::Again(..) => "either",
                _ if is_there => "there",
                _ => "undone",
            };
            let count = format!("unknown {} {became}", name(op));
            *self.counts.entry(count).or_default() += 1;
        }
        if matches!(unknown, Some(Op::PotAdjust(_) | Op::PotSpend)) {
            self.unknown = unknown;
        }
    }

    /// One address names the account, no other one does.
    fn names(&mut self, client: &mut Client, former: &str, unknown: Option<&Op>) {
        let mut addresses = BTreeSet::from([former.to_owned(), self.book.email.clone()]);
        if let Some(Op::Move { email }) = unknown {
            addresses.insert(email.clone());
        }
        for email in addresses {
            let status = if email == self.book.email { 200 } else { 404 };
            let found = client.as_admin("GET", &format!("/admin/user/{email}"), None);
            if found.status != status {
                self.wrong
                    .push(format!("{email}: {status} is {}", found.text));
            }
        }
    }

    /// Keys that are active open the account, others do not, and none while it is suspended.
    fn keys(&mut self, client: &mut Client, dice: &mut Dice) {
        for (id, key) in &mut self.book.keys {
            let Some(secret) = &key.secret else { continue };
            if !key.active && key.tried && dice.below(10) > 0 {
                continue;
            }
            key.tried = !key.active;
            let answer = client.with_key(secret, "GET", "/credits", None);
            let is_right = match (key.active, self.book.suspended) {
                (true, false) => answer.status == 200,
                (true, true) => answer.code() == "account_suspended",
                (false, false) => answer.code() == "key_revoked",
                (false, true) => ["key_revoked", "account_suspended"].contains(&answer.code()),
            };
            if !is_right {
                self.wrong.push(format!(
                    "key {id} (active: {}, suspended: {}): {}",
                    key.active, self.book.suspended, answer.text
                ));
            }
        }
    }

    /// Erased accounts are gone, others whole. Returns whether what is unknown of them is there.
    fn erased(&mut self, client: &mut Client, dice: &mut Dice, unknown: Option<&Op>) -> bool {
        let mut is_there = false;
        for (n, doomed) in self.doomed.iter_mut().enumerate() {
            if !doomed.there && doomed.missed && dice.below(10) > 0 {
                continue;
            }
            let mut with = doomed.clone();
            match unknown {
                Some(Op::Fill(unknown)) if *unknown == n => with.held += 1,
                Some(Op::Erase { n: unknown, .. }) if *unknown == n => with.there = false,
                _ => {}
            }
            match doomed.look(client) {
                Ok(seen) if seen == doomed.expected() => {}
                Ok(seen) if seen == with.expected() => {
                    *doomed = with;
                    is_there = true;
                }
                Ok(seen) => {
                    let expected = doomed.expected();
                    self.wrong
                        .push(format!("{} is {seen:?}, not {expected:?}", doomed.email));
                }
                Err(text) => self.wrong.push(format!("{} {text}", doomed.email)),
            }
            if !doomed.there && !doomed.missed {
                doomed.missed = true;
                if dice.below(4) == 0 {
                    // The address is free, and what is made of it is new.
                    *doomed = Doomed::made(&doomed.email, client.sign_up(&doomed.email, "Free"));
                }
            }
        }
        if let Some(Op::SignUp { email }) = unknown {
            let path = format!("/admin/user/{email}");
            let found = client.as_admin("GET", &path, None);
            if found.status == 200 {
                is_there = true;
                let keys = &found.body["total_keys"];
                if *keys != 1 {
                    self.wrong.push(format!("{email} has {keys} keys"));
                }
                let body = json!({"confirm": email, "reason": "nobody has its key"});
                client.as_admin("DELETE", &path, Some(&body)).expect(200);
            }
        }
        is_there
    }
}

fn name(op: &Op) -> String {
    let text = format!("{op:?}");
    let name = text.split([' ', '(', '{']).next().unwrap_or_default();
    match op {
        Op::Rotate { grace: 0, .. } => format!("{name} at once"),
        Op::Adjust(adjust) if adjust.amount < 0 => format!("{name} down"),
        _ => name.to_owned(),
    }
}

/// A body that changes what is said, and leaves the rest.
fn bounds(scopes: Option<&[&str]>, ends: &Ends) -> Value {
    let mut body = json!({});
    if let Some(scopes) = scopes {
        body["scopes"] = json!(scopes);
    }
    match ends {
        Ends::AsBefore => {}
        Ends::Never => body["expires_at"] = Value::Null,
        Ends::At(end) => body["expires_at"] = json!(end),
    }
    body
}

fn is_replayed(answer: &Answer) -> bool {
    answer.header("idempotent-replayed") == Some("true")
}

/// An adjustment that is sent again is answered as it was.
fn not_again(adjust: &Adjust, first: &str, answer: &Answer) -> Option<String> {
    let is_right = answer.status == 200 && is_replayed(answer) && answer.text == first;
    (!is_right).then(|| format!("{adjust:?} again: {}, not {first}", answer.text))
}

/// The account of all clients: its sums are those of all answers, and what is unknown is in them once.
fn verify_pot(client: &mut Client, pot: &mut Pot, parts: &mut [Part]) -> Vec<String> {
    let mut wrong = Vec::new();
    let seen = observe(client, &pot.id);
    let (mut adjusted, mut unknown_spent, mut missing) = (0, 0, 0);
    for part in parts {
        let (given, spent) = std::mem::take(&mut part.pot);
        adjusted += given;
        pot.spent += spent;
        match part.unknown.take() {
            Some(Op::PotSpend) => unknown_spent += 1,
            Some(Op::PotAdjust(adjust)) => {
                let again = adjust.send(client, &pot.id).expect(200);
                if is_replayed(&again) {
                    adjusted += adjust.amount;
                } else {
                    missing += adjust.amount;
                }
            }
            _ => {}
        }
    }
    pot.granted = pot.granted.checked_add_signed(adjusted).unwrap();
    if seen["granted"] != pot.granted {
        wrong.push(format!("granted {}, not {}", seen["granted"], pot.granted));
    }
    pot.granted = pot.granted.checked_add_signed(missing).unwrap();
    let held = seen["held"].as_u64().unwrap();
    if held < pot.spent || held > pot.spent + unknown_spent || seen["used"] != held * PRICE {
        let (used, spent) = (&seen["used"], pot.spent);
        wrong.push(format!(
            "{held} memories for {used} credits, not {spent} and up to {unknown_spent} more"
        ));
    }
    pot.spent = held;
    let after = observe(client, &pot.id);
    if after["granted"] != pot.granted || after["keys"][&pot.id]["used"] != after["used"] {
        wrong.push(format!(
            "{after}, not {} granted after all was sent again",
            pot.granted
        ));
    }
    wrong
        .iter()
        .map(|text| format!("the shared account: {text}"))
        .collect()
}

/// The counters over all accounts are right, and so is everything else that a check knows.
fn verify_whole(client: &mut Client, parts: &[Part]) -> Vec<String> {
    let mut wrong = Vec::new();
    let metrics = client.call("GET", "/health", &[], None).expect(200).body["metrics"].clone();
    let doomed = parts.iter().flat_map(|part| &part.doomed);
    let users = doomed.filter(|doomed| doomed.there).count() + parts.len() + 1;
    if metrics["total_users"] != users {
        wrong.push(format!("{} users, not {users}", metrics["total_users"]));
    }
    let keys = client.as_admin("GET", "/apikey/list?limit=1", None);
    let keys = &keys.expect(200).body["total_keys"];
    if metrics["active_api_keys"] != *keys {
        let is = &metrics["active_api_keys"];
        wrong.push(format!("{is} active keys, not {keys}"));
    }
    let checked = client.as_admin("GET", "/admin/check", None).expect(200);
    if checked.body["sound"] != true {
        wrong.push(checked.text);
    }
    wrong
}

/// Load until so many requests were answered, then SIGKILL.
fn load_and_kill(process: Process, parts: &mut Vec<Part>, pot: &Pot, dice: &mut Dice) {
    let answers = 10 + dice.next() % 150;
    let mostly = *dice.pick(&[Mostly::Any, Mostly::Rotate, Mostly::Bound, Mostly::Adjust]);
    let spins = dice.below(200_000);
    let answered = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = parts
            .drain(..)
            .map(|part| {
                let (client, dice) = (process.client(), (Dice(dice.next()), mostly));
                let answered = &answered;
                scope.spawn(move || part.work(client, dice, pot, answered))
            })
            .collect();
        let until = Instant::now() + PATIENCE;
        while answered.load(Ordering::Relaxed) < answers && Instant::now() < until {
            std::thread::yield_now();
        }
        for _ in 0..spins {
            std::hint::spin_loop();
        }
        process.kill();
        parts.extend(threads.into_iter().map(|t| t.join().unwrap()));
    });
}

/// Shows that after a kill keys, credits, standing, addresses and erasures are as they were answered.
#[test]
fn keys_and_credits_survive_sigkill() {
    let rounds = number("CRASH_ROUNDS").unwrap_or(20);
    let seed = number("CRASH_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(since.subsec_nanos())
    });
    println!("CRASH_SEED={seed} CRASH_ROUNDS={rounds}");
    let mut dice = Dice(seed);
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::start(data.path(), &[], ENV);
    let mut client = process.client();
    let (_, id, secret) = Book::sign_up(&mut client, "pot@money.example");
    let mut pot = Pot {
        id,
        secret,
        granted: GRANTED,
        spent: 0,
    };
    let part = |n| {
        let (book, first, _) = Book::sign_up(&mut client, &format!("c{n}@money.example"));
        Part {
            n,
            serial: 0,
            first,
            book,
            doomed: Vec::new(),
            answered: None,
            pot: (0, 0),
            unknown: None,
            wrong: Vec::new(),
            counts: BTreeMap::new(),
        }
    };
    let mut parts: Vec<Part> = (0..CLIENTS).map(part).collect();
    let mut settled = 0;
    for round in 0..rounds {
        load_and_kill(process, &mut parts, &pot, &mut dice);
        // In every third round the start after the kill is killed as well.
        if round % 3 == 2 {
            let starting = Process::spawn(data.path(), &[], ENV);
            let micros = dice.next() % 60_000;
            starting.wait_for_address(Duration::from_micros(micros));
            starting.kill();
        }
        // With more workers than processors a kill finds more operations half done.
        let workers = *dice.pick(&["2", "16", "32"]);
        let env = [("ADMIN_KEY", ADMIN), ("TOKIO_WORKER_THREADS", workers)];
        process = Process::start(data.path(), &[], &env);
        let line = process.log.wait_for("were settled", Duration::ZERO);
        let mut words = line.iter().flat_map(|line| line.split_whitespace());
        settled += words.find_map(|word| word.parse::<u64>().ok()).unwrap_or(0);
        let mut client = process.client();
        let mut wrong = Vec::new();
        for part in &mut parts {
            part.verify(&mut client, &mut dice);
            let n = part.n;
            wrong.extend(
                part.wrong
                    .drain(..)
                    .map(|text| format!("client {n}: {text}")),
            );
        }
        wrong.extend(verify_pot(&mut client, &mut pot, &mut parts));
        wrong.extend(verify_whole(&mut client, &parts));
        assert!(
            wrong.is_empty(),
            "CRASH_SEED={seed}, round {round}: {} promises broken:\n{}",
            wrong.len(),
            wrong.join("\n"),
        );
    }
    process.stop();
    let (code, out, errors) = run(&["check", "--data-dir", data.path().to_str().unwrap()], &[]);
    assert_eq!(code, 0, "{out}{errors}");
    println!("{settled} writes settled at starts");
    let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, count) in parts.iter().flat_map(|part| &part.counts) {
        *totals.entry(name).or_default() += count;
    }
    for (name, count) in totals {
        println!("  {count:6} {name}");
    }
}
