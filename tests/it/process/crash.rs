//! SIGKILL under load, and during the recovery after it, and SIGSTOP, then a check of every promise.
//!
//! 16 writers on four accounts log each request with its answer: acknowledged, refused, or unknown
//! (the connection ended first). Each memory is changed by the writer that made it only, so that its
//! history is a line; besides, all writers of an account change one shared memory. After the restart
//! what the service shows is compared with the log. The checks ([`check`]) see a log and an
//! observation only, and are tested with lies below. A receiver of webhooks listens all the time; in the end it
//! was told of each key that was made or revoked.
//!
//! `CRASH_ROUNDS` sets how many rounds (30), `CRASH_SEED` repeats the choices of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::WEBHOOK_SECRET;
use crate::harness::receiver::{Hook, Receiver, Say};

use super::{ADMIN, Answer, Client, NoAnswer, PATIENCE, Process};

const WRITERS: usize = 16;
const ACCOUNTS: usize = 4;
/// What a read has debited may be lost for this long after its answer.
const READS_MAY_BE_LOST: Duration = Duration::from_millis(500);
/// How long a process is stopped.
const PAUSE: Duration = Duration::from_secs(20);

/// `SplitMix64`: the seed decides every choice.
#[derive(Debug, Clone)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n).unwrap()).unwrap()
    }

    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// A request without an answer: the last one of a writer, at most one a round.
#[derive(Debug, Clone)]
enum Unknown {
    Add {
        body: Value,
        idempotency: Option<String>,
    },
    Patch {
        id: String,
        change: Value,
    },
    Shared {
        value: u64,
    },
    Delete {
        id: String,
    },
    Read,
    SignUp {
        email: String,
    },
    NewKey,
    Revoke {
        key: usize,
    },
    Plan {
        plan: &'static str,
    },
    /// Nothing that changes or costs anything.
    Free,
}

#[derive(Debug, Clone)]
struct Key {
    secret: String,
    id: String,
    capped: bool,
    revoked: bool,
    /// Whether it was tried since it was revoked; from then on the list is asked only.
    tried: bool,
}

/// What one writer knows of its part of an account.
#[derive(Debug, Clone, Default)]
struct Part {
    writer: usize,
    serial: u64,
    /// By id, as last acknowledged.
    memories: BTreeMap<String, Value>,
    deleted: BTreeSet<String>,
    /// The last acknowledged value of this writer's field in the shared memory.
    shared: u64,
    keys: Vec<Key>,
    plan: Option<&'static str>,
    sign_ups: Vec<(String, String)>,
    /// Acknowledged adds with an idempotency key: key, body, answer.
    recorded: Vec<(String, String, String)>,
    /// Credits of acknowledged writes since the account was last looked at.
    writes: u64,
    /// When each metered read since then was answered.
    reads: Vec<Instant>,
    unknown: Option<Unknown>,
    wrong: Vec<String>,
    answered: BTreeMap<&'static str, u64>,
}

/// An account and what is known of it beyond the parts.
#[derive(Debug, Clone)]
struct Account {
    email: String,
    key: String,
    key_id: String,
    shared_id: String,
    plan: &'static str,
    /// Credits used when it was last looked at.
    used: u64,
}

/// What the service shows of an account.
#[derive(Debug, Clone, Default)]
struct Seen {
    memories: Vec<Value>,
    total: u64,
    current_count: u64,
    used: u64,
    plan: String,
    /// Key id, whether it is active, memories, credits used.
    keys: Vec<(String, bool, u64, u64)>,
    /// Ids of the list that shows active keys only.
    active_keys: BTreeSet<String>,
    stats: Value,
}

/// The checks: a log on one side, an observation on the other, broken promises out.
mod check {
    use super::*;

    /// What became of the unknown requests of an account.
    #[derive(Debug, Default, PartialEq)]
    pub(super) struct Found {
        /// Credits of unknown writes that are there.
        pub(super) cost: u64,
        /// Unknown reads, which may have been debited.
        pub(super) reads: u64,
        /// By writer: the memory that an unknown add made, a changed memory, and so on.
        pub(super) there: BTreeSet<usize>,
    }

    fn fields_equal(entry: &Value, expected: &Value) -> bool {
        let expected = expected.as_object().unwrap();
        expected.iter().all(|(name, value)| entry[name] == *value)
    }

    fn without<'a>(entry: &'a Value, names: &[&str]) -> BTreeMap<&'a str, &'a Value> {
        let fields = entry.as_object().unwrap().iter();
        fields
            .map(|(name, value)| (name.as_str(), value))
            .filter(|(name, _)| !names.contains(name))
            .collect()
    }

    /// Says whether the entry is the old one with the change done.
    pub(super) fn is_changed(entry: &Value, old: &Value, change: &Value) -> bool {
        let mut names: Vec<&str> = change
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        names.push("updated_at");
        fields_equal(entry, change) && without(entry, &names) == without(old, &names)
    }

    /// I4 for memories: each acknowledged one is there and equal, each deleted one is gone, nothing is
    /// there that nobody sent.
    pub(super) fn memories(account: &Account, parts: &[Part], seen: &Seen) -> (Found, Vec<String>) {
        let (mut found, mut wrong) = (Found::default(), Vec::new());
        let mut left = BTreeMap::new();
        for entry in &seen.memories {
            let id = entry["id"].as_str().unwrap();
            if left.insert(id, entry).is_some() {
                wrong.push(format!("{id} is in the list twice"));
            }
        }
        let shared = left.remove(account.shared_id.as_str());
        if shared.is_none() {
            wrong.push("the shared memory is gone".to_owned());
        }
        for part in parts {
            let field = format!("w{}", part.writer);
            let value = shared.map_or(part.shared, |s| s[&field].as_u64().unwrap_or(0));
            match part.unknown {
                Some(Unknown::Shared { value: unknown }) if unknown == value => {
                    found.cost += 2;
                    found.there.insert(part.writer);
                }
                _ if value == part.shared => {}
                _ => wrong.push(format!(
                    "shared field {field} is {value}, acknowledged was {}",
                    part.shared
                )),
            }
            for (id, acknowledged) in &part.memories {
                let entry = left.remove(id.as_str());
                match (entry, &part.unknown) {
                    (Some(entry), _) if entry == acknowledged => {}
                    (
                        Some(entry),
                        Some(Unknown::Patch {
                            id: unknown,
                            change,
                        }),
                    ) if unknown == id && is_changed(entry, acknowledged, change) => {
                        found.cost += 2;
                        found.there.insert(part.writer);
                    }
                    (None, Some(Unknown::Delete { id: unknown })) if unknown == id => {
                        found.there.insert(part.writer);
                    }
                    (None, _) => wrong.push(format!("acknowledged memory {id} is gone")),
                    (Some(entry), _) => wrong.push(format!(
                        "acknowledged memory {id} is {entry}, not {acknowledged}"
                    )),
                }
            }
            for id in &part.deleted {
                if left.remove(id.as_str()).is_some() {
                    wrong.push(format!("deleted memory {id} is there"));
                }
            }
            if let Some(Unknown::Add { body, .. }) = &part.unknown {
                let id = left
                    .iter()
                    .find(|(_, entry)| fields_equal(entry, body))
                    .map(|(id, _)| *id);
                if let Some(id) = id {
                    left.remove(id);
                    found.cost += 2;
                    found.there.insert(part.writer);
                }
            }
            if matches!(part.unknown, Some(Unknown::Read)) {
                found.reads += 1;
            }
        }
        let strangers = left
            .keys()
            .map(|id| format!("{id} is there and was never sent"));
        wrong.extend(strangers);
        (found, wrong)
    }

    /// I7: every count is the count.
    pub(super) fn counts(seen: &Seen) -> Vec<String> {
        let mut wrong = Vec::new();
        let held = u64::try_from(seen.memories.len()).unwrap();
        if (seen.total, seen.current_count) != (held, held) {
            wrong.push(format!(
                "{held} memories; pagination says {}, credits say {}",
                seen.total, seen.current_count
            ));
        }
        let mut by_key = BTreeMap::<&str, u64>::new();
        for entry in &seen.memories {
            *by_key.entry(entry["key_id"].as_str().unwrap()).or_default() += 1;
        }
        for (id, _, count, _) in &seen.keys {
            let is = by_key.remove(id.as_str()).unwrap_or(0);
            if is != *count {
                wrong.push(format!("{id} holds {is}, its memory_count is {count}"));
            }
        }
        if !by_key.is_empty() {
            wrong.push(format!("memories of keys that nobody has: {by_key:?}"));
        }
        let used: u64 = seen.keys.iter().map(|(.., used)| used).sum();
        if used != seen.used {
            wrong.push(format!("the keys used {used}, the account {}", seen.used));
        }
        wrong
    }

    /// I2: credits used are those of the acknowledged requests and of the unknown writes that are there;
    /// less at most the reads answered in the last 500 ms before the kill.
    pub(super) fn credits(
        before: u64,
        parts: &[Part],
        found: &Found,
        killed: Instant,
        used: u64,
    ) -> Vec<String> {
        let writes: u64 = parts.iter().map(|part| part.writes).sum::<u64>() + found.cost;
        let reads = || parts.iter().flat_map(|part| &part.reads);
        let all = u64::try_from(reads().count()).unwrap();
        let safe = reads().filter(|at| **at + READS_MAY_BE_LOST <= killed);
        let least = before + writes + u64::try_from(safe.count()).unwrap();
        let most = before + writes + all + found.reads;
        if (least..=most).contains(&used) {
            return Vec::new();
        }
        vec![format!(
            "{used} credits used, expected {least} to {most} ({before} before, {writes} for writes)"
        )]
    }

    /// I4 for keys and plans: revoked stays revoked, made stays made.
    pub(super) fn keys(account: &Account, parts: &[Part], seen: &Seen) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut left: BTreeMap<&str, bool> = seen
            .keys
            .iter()
            .map(|(id, active, ..)| (id.as_str(), *active))
            .collect();
        if left.remove(account.key_id.as_str()) != Some(true) {
            wrong.push("the first key is not active".to_owned());
        }
        let active: BTreeSet<String> = seen
            .keys
            .iter()
            .filter(|(_, active, ..)| *active)
            .map(|(id, ..)| id.clone())
            .collect();
        if active != seen.active_keys {
            wrong.push(format!(
                "the list of all keys has {active:?} active, that of the active ones {:?}",
                seen.active_keys
            ));
        }
        let mut unknown_keys = 0;
        for part in parts {
            for (n, key) in part.keys.iter().enumerate() {
                let active = left.remove(key.id.as_str());
                let unknown = matches!(part.unknown, Some(Unknown::Revoke { key }) if key == n);
                match active {
                    None => wrong.push(format!("key {} is gone", key.id)),
                    Some(active) if (active || !unknown) && active == key.revoked => {
                        wrong.push(format!("key {} is active: {active}", key.id));
                    }
                    Some(_) => {}
                }
            }
            unknown_keys += usize::from(matches!(part.unknown, Some(Unknown::NewKey)));
        }
        if left.len() > unknown_keys {
            wrong.push(format!("keys that nobody asked for: {left:?}"));
        }
        let unknown_plan = parts.iter().find_map(|part| match part.unknown {
            Some(Unknown::Plan { plan }) => Some(plan),
            _ => None,
        });
        let known = parts.iter().find_map(|p| p.plan).unwrap_or(account.plan);
        if seen.plan != known && Some(seen.plan.as_str()) != unknown_plan {
            wrong.push(format!("the plan is {}, not {known}", seen.plan));
        }
        wrong
    }

    /// The aggregates are those of the list.
    pub(super) fn stats(seen: &Seen) -> Vec<String> {
        let tally = |field: &str| {
            let mut names = BTreeMap::<&str, u64>::new();
            for entry in &seen.memories {
                *names.entry(entry[field].as_str().unwrap()).or_default() += 1;
            }
            json!(names)
        };
        let successes = seen.memories.iter().filter(|e| e["success"] == true);
        let expected = [
            ("total_memories", json!(seen.memories.len())),
            ("successful_entries", json!(successes.count())),
            ("categories", tally("category")),
            ("types", tally("type")),
        ];
        expected
            .into_iter()
            .filter(|(name, value)| seen.stats[name] != *value)
            .map(|(name, value)| format!("stats: {name} is {}, not {value}", seen.stats[name]))
            .collect()
    }
}

/// A writer: one request after the other until the server is gone.
struct Writer<'a> {
    part: Part,
    account: &'a Account,
    dice: Dice,
    /// Mostly keys and sign-ups, this round.
    keys_mostly: bool,
    client: Client,
    answered: &'a AtomicU64,
}

impl Writer<'_> {
    fn run(mut self) -> Part {
        while self.step().is_some() {}
        self.part
    }

    /// One request. `None` when the server is gone.
    fn step(&mut self) -> Option<()> {
        let own = self.part.memories.len();
        if self.keys_mostly && self.dice.below(4) > 0 {
            return match self.dice.below(3) {
                0 => self.sign_up(),
                _ => self.new_key(),
            };
        }
        match self.dice.below(100) {
            _ if own > 40 => self.delete(),
            16..36 => self.add(true),
            36..54 if own > 0 => self.patch(),
            54..62 => self.patch_shared(),
            62..72 if own > 0 => self.delete(),
            72..78 if own > 0 => {
                let id = self.own();
                self.read("GET /memory/{id}", &format!("/memory/{id}"))
            }
            78..82 => self.read("GET /memory", "/memory?limit=5"),
            82..85 => self.read("GET /stats", "/stats"),
            85..87 => {
                let key = self.account.key.clone();
                let unknown = Unknown::Free;
                self.send("GET /credits", &key, "GET", "/credits", None, unknown, 200)
                    .map(drop)
            }
            87..91 => self.new_key(),
            91..94 => self.revoke(),
            94..97 => self.sign_up(),
            97.. if self.part.writer < ACCOUNTS => self.change_plan(),
            _ => self.add(false),
        }
    }

    fn own(&mut self) -> String {
        let ids: Vec<&String> = self.part.memories.keys().collect();
        (*self.dice.pick(&ids)).clone()
    }

    /// A key to ask with, and whether it is capped.
    fn key(&mut self) -> (String, bool) {
        let own: Vec<&Key> = self.part.keys.iter().filter(|k| !k.revoked).collect();
        if own.is_empty() || self.dice.below(2) == 0 {
            (self.account.key.clone(), false)
        } else {
            let key = self.dice.pick(&own);
            (key.secret.clone(), key.capped)
        }
    }

    /// Sends and logs. `Some(None)` if it was refused.
    #[expect(
        clippy::too_many_arguments,
        clippy::option_option,
        reason = "one call has it all; gone, refused, or answered"
    )]
    fn send(
        &mut self,
        route: &'static str,
        key: &str,
        method: &str,
        path: &str,
        body: Option<(&str, Option<&str>)>,
        unknown: Unknown,
        wanted: u16,
    ) -> Option<Option<Answer>> {
        let credential = if key == ADMIN {
            "X-ADMIN-KEY"
        } else {
            "X-API-KEY"
        };
        let mut headers = vec![(credential, key)];
        if key.is_empty() {
            headers.clear();
        }
        if let Some((_, Some(name))) = body {
            headers.push(("Idempotency-Key", name));
        }
        let sent = self
            .client
            .try_call(method, path, &headers, body.map(|(body, _)| body));
        match sent {
            Ok(answer) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                if answer.status == wanted {
                    *self.part.answered.entry(route).or_default() += 1;
                    return Some(Some(answer));
                }
                *self.part.answered.entry("refused").or_default() += 1;
                let capped = self.part.keys.iter().any(|k| k.secret == key && k.capped);
                if !(answer.status == 402 && capped && answer.body["scope"] == "key") {
                    let text = format!("{route} answered {}: {}", answer.status, answer.text);
                    self.part.wrong.push(text);
                }
                Some(None)
            }
            Err(NoAnswer::NotSent) => None,
            Err(NoAnswer::Unknown) => {
                self.part.unknown = Some(unknown);
                None
            }
        }
    }

    fn check_cost(&mut self, answer: &Answer, cost: &str) {
        if answer.header("x-credits-cost") != Some(cost) {
            let text = format!(
                "a cost of {:?}, not {cost}",
                answer.header("x-credits-cost")
            );
            self.part.wrong.push(text);
        }
    }

    fn words(&mut self, long: bool) -> String {
        let length = if long { 30_000 } else { self.dice.below(200) };
        let seed = self.dice.next();
        let mut text = format!("{seed:x} ");
        text.push_str(&"lorem ipsum ".repeat(length / 12));
        text
    }

    fn add(&mut self, long: bool) -> Option<()> {
        self.part.serial += 1;
        let tag = format!("{}-{}", self.part.writer, self.part.serial);
        let body = json!({
            "topic": format!("topic {tag}"), "type": *self.dice.pick(&["note", "code", "chat"]),
            "category": format!("c{}", self.dice.below(5)), "input": self.words(long),
            "output": "o", "success": self.dice.below(2) == 0, "tag": tag,
        });
        let text = body.to_string();
        let name = (self.dice.below(3) == 0).then(|| format!("idem-{tag}"));
        let (key, _) = self.key();
        let unknown = Unknown::Add {
            body: body.clone(),
            idempotency: name.clone(),
        };
        let sent = Some((text.as_str(), name.as_deref()));
        let answer = self.send("POST /memory", &key, "POST", "/memory", sent, unknown, 201)?;
        let Some(answer) = answer else {
            return Some(());
        };
        self.check_cost(&answer, "2");
        self.part.writes += 2;
        let entry = answer.body["entry"].clone();
        let is_sent = body
            .as_object()
            .unwrap()
            .iter()
            .all(|(n, v)| entry[n] == *v);
        if !is_sent {
            self.part
                .wrong
                .push(format!("sent {body}, acknowledged {entry}"));
        }
        let id = entry["id"].as_str().unwrap().to_owned();
        self.part.memories.insert(id, entry);
        if let Some(name) = name {
            self.part.recorded.push((name, text, answer.text));
        }
        Some(())
    }

    fn patch(&mut self) -> Option<()> {
        let id = self.own();
        self.part.serial += 1;
        let long = self.dice.below(3) == 0;
        let change = json!({
            "category": format!("c{}", self.dice.below(5)), "success": self.dice.below(2) == 0,
            "input": self.words(long), "seq": self.part.serial,
        });
        let (key, _) = self.key();
        let (path, text) = (format!("/memory/{id}"), change.to_string());
        let unknown = Unknown::Patch {
            id: id.clone(),
            change: change.clone(),
        };
        let sent = Some((text.as_str(), None));
        let route = "PATCH /memory/{id}";
        let answer = self.send(route, &key, "PATCH", &path, sent, unknown, 200)?;
        let Some(answer) = answer else {
            return Some(());
        };
        self.check_cost(&answer, "2");
        self.part.writes += 2;
        let entry = answer.body["entry"].clone();
        if !check::is_changed(&entry, &self.part.memories[&id], &change) {
            self.part
                .wrong
                .push(format!("changed by {change}: {entry}"));
        }
        self.part.memories.insert(id, entry);
        Some(())
    }

    fn patch_shared(&mut self) -> Option<()> {
        self.part.serial += 1;
        let value = self.part.serial;
        let text = format!("{{\"w{}\": {value}}}", self.part.writer);
        let path = format!("/memory/{}", self.account.shared_id);
        let key = self.account.key.clone();
        let sent = Some((text.as_str(), None));
        let (route, unknown) = ("PATCH shared", Unknown::Shared { value });
        let answer = self.send(route, &key, "PATCH", &path, sent, unknown, 200)?;
        if let Some(answer) = answer {
            self.check_cost(&answer, "2");
            self.part.writes += 2;
            self.part.shared = value;
        }
        Some(())
    }

    fn delete(&mut self) -> Option<()> {
        let id = self.own();
        let (key, _) = self.key();
        let path = format!("/memory/{id}");
        let unknown = Unknown::Delete { id: id.clone() };
        let route = "DELETE /memory/{id}";
        if self
            .send(route, &key, "DELETE", &path, None, unknown, 200)?
            .is_some()
        {
            self.part.memories.remove(&id);
            self.part.deleted.insert(id);
        }
        Some(())
    }

    fn read(&mut self, route: &'static str, path: &str) -> Option<()> {
        let (key, _) = self.key();
        if let Some(answer) = self.send(route, &key, "GET", path, None, Unknown::Read, 200)? {
            self.check_cost(&answer, "1");
            self.part.reads.push(Instant::now());
        }
        Some(())
    }

    fn new_key(&mut self) -> Option<()> {
        if self.part.keys.iter().filter(|k| !k.revoked).count() >= 3 {
            return self.revoke();
        }
        let capped = self.dice.below(3) == 0;
        let text = if capped { r#"{"plan": "Free"}"# } else { "{}" };
        let (key, sent) = (self.account.key.clone(), Some((text, None)));
        let (route, path) = ("POST /apikey/new", "/apikey/new");
        let answer = self.send(route, &key, "POST", path, sent, Unknown::NewKey, 201)?;
        if let Some(answer) = answer {
            self.part.keys.push(Key {
                secret: answer.str("api_key"),
                id: answer.str("key_id"),
                capped,
                revoked: false,
                tried: false,
            });
        }
        Some(())
    }

    fn revoke(&mut self) -> Option<()> {
        let Some(n) = self.part.keys.iter().position(|k| !k.revoked) else {
            return Some(());
        };
        let by_id = self.dice.below(2) == 0;
        let key = &self.part.keys[n];
        let path = format!("/apikey/{}", if by_id { &key.id } else { &key.secret });
        let by = self.account.key.clone();
        let (route, unknown) = ("DELETE /apikey/{key}", Unknown::Revoke { key: n });
        if self
            .send(route, &by, "DELETE", &path, None, unknown, 200)?
            .is_some()
        {
            self.part.keys[n].revoked = true;
        }
        Some(())
    }

    fn sign_up(&mut self) -> Option<()> {
        self.part.serial += 1;
        let email = format!("w{}-{}@new.example", self.part.writer, self.part.serial);
        let text = json!({"email": email}).to_string();
        let unknown = Unknown::SignUp {
            email: email.clone(),
        };
        let sent = Some((text.as_str(), None));
        let answer = self.send("POST /signup", "", "POST", "/signup", sent, unknown, 201)?;
        if let Some(answer) = answer {
            self.part.sign_ups.push((email, answer.str("api_key")));
        }
        Some(())
    }

    fn change_plan(&mut self) -> Option<()> {
        let now = self.part.plan.unwrap_or(self.account.plan);
        let plan = if now == "Pro" { "Premium" } else { "Pro" };
        let text = json!({"plan": plan}).to_string();
        let path = format!("/admin/user/{}/plan", self.account.email);
        let (route, sent) = ("PUT /admin/user/{key}/plan", Some((text.as_str(), None)));
        let unknown = Unknown::Plan { plan };
        if self
            .send(route, ADMIN, "PUT", &path, sent, unknown, 200)?
            .is_some()
        {
            self.part.plan = Some(plan);
        }
        Some(())
    }
}

/// Looks at an account: what is free first, so that looking does not change what is seen.
fn look(client: &mut Client, account: &Account, reads: &mut Vec<Instant>) -> Seen {
    let key = &account.key;
    let credits = client
        .with_key(key, "GET", "/credits", None)
        .expect(200)
        .body;
    let keys = client
        .with_key(key, "GET", "/apikey/list?status=all", None)
        .expect(200)
        .body;
    let active = client
        .with_key(key, "GET", "/apikey/list", None)
        .expect(200)
        .body;
    let active_keys = active["api_keys"].as_array().unwrap().iter();
    let mut seen = Seen {
        active_keys: active_keys
            .map(|k| k["key_id"].as_str().unwrap().to_owned())
            .collect(),
        current_count: credits["memory_usage"]["current_count"].as_u64().unwrap(),
        used: credits["credits_used_this_cycle"].as_u64().unwrap(),
        plan: credits["plan"].as_str().unwrap().to_owned(),
        ..Seen::default()
    };
    for key in keys["api_keys"].as_array().unwrap() {
        seen.keys.push((
            key["key_id"].as_str().unwrap().to_owned(),
            key["status"] == "active",
            key["memory_count"].as_u64().unwrap(),
            key["credits_used_this_cycle"].as_u64().unwrap(),
        ));
    }
    let mut path = "/memory?limit=50".to_owned();
    loop {
        let page = client.with_key(key, "GET", &path, None).expect(200).body;
        reads.push(Instant::now());
        seen.total = page["pagination"]["total"].as_u64().unwrap();
        seen.memories
            .extend(page["memories"].as_array().unwrap().iter().cloned());
        let Some(cursor) = page["pagination"]["next_cursor"].as_str() else {
            break;
        };
        path = format!("/memory?limit=50&cursor={cursor}");
    }
    seen.stats = client.with_key(key, "GET", "/stats", None).expect(200).body;
    reads.push(Instant::now());
    seen
}

fn used(client: &mut Client, account: &Account) -> u64 {
    client
        .with_key(&account.key, "GET", "/credits", None)
        .expect(200)
        .body["credits_used_this_cycle"]
        .as_u64()
        .unwrap()
}

/// Everything that is known of the service, across the rounds.
struct World {
    accounts: Vec<Account>,
    /// One for each writer, and one for each account that logs what the checks themselves do.
    parts: Vec<Part>,
    lookers: Vec<Part>,
    totals: BTreeMap<String, u64>,
}

impl World {
    fn new(client: &mut Client) -> Self {
        let accounts: Vec<Account> = (0..ACCOUNTS)
            .map(|n| {
                let email = format!("account{n}@crash.example");
                let body = json!({"email": email, "plan": "Premium"}).to_string();
                let made = client.call("POST", "/signup", &[], Some(&body)).expect(201);
                let key = made.str("api_key");
                let shared =
                    client.with_key(&key, "POST", "/memory", Some(&super::memory("shared")));
                let shared_id = shared.expect(201).body["entry"]["id"]
                    .as_str()
                    .unwrap()
                    .to_owned();
                Account {
                    email,
                    key,
                    key_id: made.str("key_id"),
                    shared_id,
                    plan: "Premium",
                    used: 2,
                }
            })
            .collect();
        let part = |writer| Part {
            writer,
            ..Part::default()
        };
        Self {
            accounts,
            parts: (0..WRITERS).map(part).collect(),
            lookers: (0..ACCOUNTS).map(|n| part(WRITERS + n)).collect(),
            totals: BTreeMap::new(),
        }
    }

    /// Waits until every key that was made, or revoked, by an answered request was told of. Returns how many
    /// webhooks came.
    fn told(&self, receiver: &Receiver) -> usize {
        let keys = || self.parts.iter().flat_map(|part| &part.keys);
        let made = keys().map(|key| ("key.created", key.id.as_str()));
        let revoked = keys().filter(|key| key.revoked);
        let revoked = revoked.map(|key| ("key.revoked", key.id.as_str()));
        let expected: BTreeSet<(&str, &str)> = made.chain(revoked).collect();
        let hooks = receiver.wait_until(|hooks| {
            let event = |hook: &Hook| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                (text(&hook.body["type"]), text(&hook.body["data"]["key_id"]))
            };
            let told: BTreeSet<(String, String)> = hooks.iter().map(event).collect();
            let told: BTreeSet<(&str, &str)> = told
                .iter()
                .map(|(kind, id)| (kind.as_str(), id.as_str()))
                .collect();
            told.is_superset(&expected)
        });
        for hook in &hooks {
            hook.assert_signed(WEBHOOK_SECRET);
        }
        hooks.len()
    }

    /// Load until `answers` requests were answered, then SIGKILL. Returns when that was.
    /// With a `pause` the process is stopped for as long half way.
    fn load_and_kill(
        &mut self,
        process: Process,
        dice: &mut Dice,
        answers: u64,
        pause: Option<Duration>,
    ) -> Instant {
        let answered = AtomicU64::new(0);
        let spins = dice.below(200_000);
        let keys_mostly = dice.below(3) == 0;
        let killed = std::thread::scope(|scope| {
            let writers: Vec<_> = std::mem::take(&mut self.parts)
                .into_iter()
                .map(|part| {
                    let writer = Writer {
                        account: &self.accounts[part.writer % ACCOUNTS],
                        dice: Dice(dice.next()),
                        keys_mostly,
                        client: process.client(),
                        answered: &answered,
                        part,
                    };
                    scope.spawn(move || writer.run())
                })
                .collect();
            let wait_for = |answers| {
                let until = Instant::now() + PATIENCE;
                while answered.load(Ordering::Relaxed) < answers && Instant::now() < until {
                    std::thread::yield_now();
                }
            };
            if let Some(pause) = pause {
                wait_for(answers / 2);
                process.signal(libc::SIGSTOP);
                std::thread::sleep(pause);
                process.signal(libc::SIGCONT);
                // What was read before the pause has had as long as reads may take to get to the disk.
                std::thread::sleep(READS_MAY_BE_LOST);
            }
            wait_for(answers);
            // A moment more that no request decides.
            for _ in 0..spins {
                std::hint::spin_loop();
            }
            let killed = Instant::now();
            process.kill();
            self.parts = writers.into_iter().map(|w| w.join().unwrap()).collect();
            killed
        });
        *self.totals.entry("answered".to_owned()).or_default() += answered.into_inner();
        killed
    }

    /// Compares the service with the log, and takes over what became of the unknown.
    fn verify(&mut self, client: &mut Client, killed: Instant) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut memories = 0;
        for n in 0..ACCOUNTS {
            let account = self.accounts[n].clone();
            let mut reads = Vec::new();
            let seen = look(client, &account, &mut reads);
            let mut parts: Vec<Part> = self
                .parts
                .iter()
                .filter(|part| part.writer % ACCOUNTS == n)
                .cloned()
                .collect();
            parts.push(self.lookers[n].clone());
            let (found, lost) = check::memories(&account, &parts, &seen);
            let before = wrong.len();
            wrong.extend(lost);
            wrong.extend(check::counts(&seen));
            wrong.extend(check::credits(
                account.used,
                &parts,
                &found,
                killed,
                seen.used,
            ));
            wrong.extend(check::keys(&account, &parts, &seen));
            wrong.extend(check::stats(&seen));
            for text in &mut wrong[before..] {
                *text = format!("{}: {text}", account.email);
            }
            self.take_over(n, &found, &seen);
            self.lookers[n].reads = reads;
            memories += seen.memories.len();
            wrong.extend(self.keys_and_retries(client, n, &mut memories));
        }
        wrong.extend(totals(client, memories));
        for part in &mut self.parts {
            wrong.append(&mut part.wrong);
            part.unknown = None;
        }
        wrong
    }

    /// The log goes on from what is there.
    fn take_over(&mut self, n: usize, found: &check::Found, seen: &Seen) {
        let account = &mut self.accounts[n];
        account.used = seen.used;
        account.plan = if seen.plan == "Pro" { "Pro" } else { "Premium" };
        for part in self.parts.iter_mut().filter(|p| p.writer % ACCOUNTS == n) {
            (part.writes, part.plan) = (0, None);
            part.reads.clear();
            for (route, count) in std::mem::take(&mut part.answered) {
                *self.totals.entry(route.to_owned()).or_default() += count;
            }
            let Some(unknown) = part.unknown.clone() else {
                continue;
            };
            let is_there = found.there.contains(&part.writer);
            let kind = format!("{unknown:?}");
            let kind = kind.split([' ', '{']).next().unwrap_or_default();
            let state = match unknown {
                Unknown::Add { .. }
                | Unknown::Patch { .. }
                | Unknown::Delete { .. }
                | Unknown::Shared { .. }
                    if is_there =>
                {
                    "there"
                }
                Unknown::Add { .. }
                | Unknown::Patch { .. }
                | Unknown::Delete { .. }
                | Unknown::Shared { .. } => "undone",
                _ => "either",
            };
            let name = format!("unknown {kind} {state}");
            *self.totals.entry(name).or_default() += 1;
            match unknown {
                Unknown::Add { body, .. } if is_there => {
                    let entry = seen.memories.iter().find(|e| e["tag"] == body["tag"]);
                    let entry = entry.unwrap().clone();
                    let id = entry["id"].as_str().unwrap().to_owned();
                    part.memories.insert(id, entry);
                }
                Unknown::Patch { id, .. } if is_there => {
                    let entry = seen.memories.iter().find(|e| e["id"] == *id).unwrap();
                    part.memories.insert(id, entry.clone());
                }
                Unknown::Shared { value } if is_there => part.shared = value,
                Unknown::Delete { id } if is_there => {
                    part.memories.remove(&id);
                    part.deleted.insert(id);
                }
                Unknown::Revoke { key } => {
                    let key = &mut part.keys[key];
                    key.revoked = seen
                        .keys
                        .iter()
                        .any(|(id, active, ..)| *id == key.id && !active);
                }
                _ => {}
            }
        }
    }

    /// Keys open or do not; sign-ups work; retries with an idempotency key have one effect.
    #[expect(clippy::too_many_lines, reason = "one check after the other")]
    fn keys_and_retries(
        &mut self,
        client: &mut Client,
        n: usize,
        memories: &mut usize,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let account = self.accounts[n].clone();
        for part in self.parts.iter_mut().filter(|p| p.writer % ACCOUNTS == n) {
            for key in part.keys.iter_mut().filter(|key| !key.tried) {
                key.tried = key.revoked;
                let answer = client.with_key(&key.secret, "GET", "/credits", None);
                let opens = (answer.status, answer.code());
                let expected = if key.revoked {
                    (401, "key_revoked")
                } else {
                    (200, "")
                };
                if opens != expected {
                    wrong.push(format!("key {} answers {opens:?}", key.id));
                }
            }
            for (email, key) in part.sign_ups.drain(..) {
                let answer = client.with_key(&key, "GET", "/credits", None);
                if answer.status != 200 || answer.body["account_id"] != email {
                    wrong.push(format!("sign-up of {email}: {}", answer.text));
                }
            }
            if let Some(Unknown::SignUp { email }) = &part.unknown {
                let body = json!({"email": email}).to_string();
                let answer = client.call("POST", "/signup", &[], Some(&body));
                if !matches!(answer.status, 201 | 409) {
                    wrong.push(format!("a second sign-up of {email}: {}", answer.text));
                }
                let path = format!("/admin/users?q={email}");
                let users = client.as_admin("GET", &path, None).body;
                if users["total_users"] != 1 || users["users"][0]["status"] != "active" {
                    wrong.push(format!("{email} is not one active account: {users}"));
                }
            }
            // The last ones: older ones were checked in the round that made them.
            for (name, body, answer) in part.recorded.drain(..) {
                let headers = [
                    ("X-API-KEY", account.key.as_str()),
                    ("Idempotency-Key", &name),
                ];
                let again = client.call("POST", "/memory", &headers, Some(&body));
                if again.status != 201
                    || again.text != answer
                    || again.header("idempotent-replayed") != Some("true")
                    || again.header("x-credits-cost") != Some("0")
                {
                    wrong.push(format!(
                        "{name} is not a replay: {} {}",
                        again.status, again.text
                    ));
                }
                *self
                    .totals
                    .entry("replays of known".to_owned())
                    .or_default() += 1;
            }
            let Some(Unknown::Add {
                body,
                idempotency: Some(name),
            }) = &part.unknown
            else {
                continue;
            };
            let text = body.to_string();
            let headers = [
                ("X-API-KEY", account.key.as_str()),
                ("Idempotency-Key", name),
            ];
            let used_before = used(client, &account);
            let first = client.call("POST", "/memory", &headers, Some(&text));
            let second = client.call("POST", "/memory", &headers, Some(&text));
            let used_after = used(client, &account);
            let was_there = part.memories.values().any(|e| e["tag"] == body["tag"]);
            let paid = if was_there { 0 } else { 2 };
            let replayed = first.header("idempotent-replayed") == Some("true");
            if (first.status, second.status) != (201, 201)
                || first.text != second.text
                || replayed != was_there
                || used_after - used_before != paid
            {
                wrong.push(format!(
                    "retry of {name} (there: {was_there}, replayed: {replayed}) cost {}: {} {}",
                    used_after - used_before,
                    first.text,
                    second.text,
                ));
            }
            let entry = first.body["entry"].clone();
            let id = entry["id"].as_str().unwrap_or_default().to_owned();
            if part.memories.insert(id, entry).is_none() {
                *memories += 1;
                if was_there {
                    wrong.push(format!("retry of {name} made a second memory"));
                }
            }
            part.writes += paid;
            *self
                .totals
                .entry("replays of unknown".to_owned())
                .or_default() += 1;
        }
        // A key whose secret nobody was told is revoked by its id; the log then knows it.
        let listed = client.with_key(&account.key, "GET", "/apikey/list", None);
        for key in listed.body["api_keys"].as_array().unwrap() {
            let id = key["key_id"].as_str().unwrap();
            let is_known = id == account.key_id
                || self.parts.iter().any(|p| p.keys.iter().any(|k| k.id == id));
            if !is_known {
                let path = format!("/apikey/{id}");
                client
                    .with_key(&account.key, "DELETE", &path, None)
                    .expect(200);
                self.lookers[n].keys.push(Key {
                    secret: String::new(),
                    id: id.to_owned(),
                    capped: false,
                    revoked: true,
                    tried: true,
                });
            }
        }
        wrong
    }
}

/// The counters over all accounts are those of the lists.
fn totals(client: &mut Client, memories: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    let metrics = client.call("GET", "/health", &[], None).expect(200).body["metrics"].clone();
    let keys = client
        .as_admin("GET", "/apikey/list?limit=1", None)
        .expect(200);
    let users = client.as_admin("GET", "/admin/users?q=@", None).expect(200);
    let accounts = client.as_admin("GET", "/admin/users", None).expect(200);
    let pairs = [
        ("memory_entries", json!(memories)),
        ("total_users", users.body["total_users"].clone()),
        ("total_users", accounts.body["total_users"].clone()),
        ("active_api_keys", keys.body["total_keys"].clone()),
    ];
    for (name, value) in pairs {
        if metrics[name] != value {
            wrong.push(format!("/health: {name} is {}, not {value}", metrics[name]));
        }
    }
    wrong
}

/// Starts the server after a kill. Returns how long it took.
///
/// With more workers than processors the system interrupts them anywhere, so that a kill finds more
/// operations half done; `workers` is 0 for as many as there are processors.
/// The settings, and the number of workers last.
fn settings<'a>(webhooks: &'a str, workers: &'a str) -> [(&'a str, &'a str); 5] {
    [
        ("ADMIN_KEY", ADMIN),
        ("WEBHOOKS", webhooks),
        ("WEBHOOK_SECRET", WEBHOOK_SECRET),
        ("WEBHOOK_ALLOW_PRIVATE", "true"),
        ("TOKIO_WORKER_THREADS", workers),
    ]
}

fn restart(data: &Path, workers: usize, webhooks: &str) -> (Process, Duration) {
    let started = Instant::now();
    let workers = workers.to_string();
    let env = settings(webhooks, &workers);
    let env = &env[..if workers == "0" { 4 } else { 5 }];
    let process = Process::start(data, &[], env);
    let took = started.elapsed();
    (process, took)
}

pub(super) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn what_was_acknowledged_survives_sigkill() {
    let rounds = number("CRASH_ROUNDS").unwrap_or(30);
    let seed = number("CRASH_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::try_from(since.as_nanos() & 0xFFFF_FFFF).unwrap()
    });
    println!("CRASH_SEED={seed} CRASH_ROUNDS={rounds}");
    let mut dice = Dice(seed);
    let data = tempfile::tempdir().unwrap();
    let receiver = Receiver::new([Say::Status(200)]);
    let webhooks = receiver.url();
    let (mut process, mut took) = restart(data.path(), 0, &webhooks);
    let mut world = World::new(&mut process.client());
    let (mut slowest, mut killed_starts, mut settled) = (took, 0u64, 0u64);
    for round in 0..rounds {
        let answers = 30 + dice.next() % 800;
        // Now and then the process is stopped half way, once for longer than a flush may take.
        let pause = match round {
            7 => Some(PAUSE),
            _ if round % 15 == 7 => Some(PAUSE / 20),
            _ => None,
        };
        let killed = world.load_and_kill(process, &mut dice, answers, pause);
        // In half of the rounds the start after the kill is killed as well, up to three times.
        for _ in 0..[0, 1, 0, 3][usize::try_from(round % 4).unwrap()] {
            let starting = Process::spawn(data.path(), &[], &settings(&webhooks, "2")[..4]);
            let micros = dice.next() % u64::try_from(took.as_micros()).unwrap();
            starting.wait_for_address(Duration::from_micros(micros));
            starting.kill();
            killed_starts += 1;
        }
        let workers = *dice.pick(&[0, 16, 32]);
        (process, took) = restart(data.path(), workers, &webhooks);
        slowest = slowest.max(took);
        let line = process.log.wait_for("were settled", Duration::ZERO);
        settled += line
            .and_then(|l| l.split_whitespace().find_map(|w| w.parse::<u64>().ok()))
            .unwrap_or(0);
        let mut wrong = world.verify(&mut process.client(), killed);
        for text in &mut wrong {
            *text = text.chars().take(400).collect();
        }
        assert!(
            wrong.is_empty(),
            "CRASH_SEED={seed}, round {round}: {} promises broken:\n{}\n{}",
            wrong.len(),
            wrong.join("\n"),
            process
                .log
                .text()
                .lines()
                .take(8)
                .collect::<Vec<_>>()
                .join("\n"),
        );
    }
    let told = world.told(&receiver);
    process.stop();
    println!(
        "{rounds} rounds, {told} webhooks, {killed_starts} starts killed, {settled} writes settled at starts, slowest \
         start {slowest:?}"
    );
    for (name, count) in &world.totals {
        println!("  {count:6} {name}");
    }
}

/// Tests of the checks: each lie is found.
mod lies {
    use super::*;

    fn entry(id: &str, key: &str) -> Value {
        json!({"id": id, "key_id": key, "category": "c", "type": "t", "success": true, "tag": id})
    }

    /// An account with a shared memory, two others, one deleted one, and a writer without unknowns.
    fn truth() -> (Account, Part, Seen, Instant) {
        let account = Account {
            email: "a@b.c".to_owned(),
            key: String::new(),
            key_id: "k1".to_owned(),
            shared_id: "s".to_owned(),
            plan: "Pro",
            used: 10,
        };
        let killed = Instant::now() + Duration::from_secs(5);
        let late = killed.checked_sub(Duration::from_millis(100)).unwrap();
        let part = Part {
            memories: [("m1", "k1"), ("m2", "k2")]
                .map(|(id, key)| (id.to_owned(), entry(id, key)))
                .into(),
            deleted: BTreeSet::from(["m0".to_owned()]),
            shared: 7,
            keys: vec![Key {
                secret: String::new(),
                id: "k2".to_owned(),
                capped: false,
                revoked: true,
                tried: false,
            }],
            writes: 6,
            reads: vec![late.checked_sub(Duration::from_secs(2)).unwrap(), late],
            ..Part::default()
        };
        let mut shared = entry("s", "k1");
        shared["w0"] = json!(7);
        let seen = Seen {
            memories: vec![entry("m2", "k2"), entry("m1", "k1"), shared],
            total: 3,
            current_count: 3,
            used: 18,
            plan: "Pro".to_owned(),
            keys: vec![
                ("k1".to_owned(), true, 2, 12),
                ("k2".to_owned(), false, 1, 6),
            ],
            active_keys: BTreeSet::from(["k1".to_owned()]),
            stats: json!({
                "total_memories": 3, "successful_entries": 3, "categories": {"c": 3},
                "types": {"t": 3},
            }),
        };
        (account, part, seen, killed)
    }

    fn all(change: impl FnOnce(&mut Part, &mut Seen)) -> Vec<String> {
        let (account, mut part, mut seen, killed) = truth();
        change(&mut part, &mut seen);
        let parts = [part];
        let (found, mut wrong) = check::memories(&account, &parts, &seen);
        wrong.extend(check::counts(&seen));
        wrong.extend(check::credits(
            account.used,
            &parts,
            &found,
            killed,
            seen.used,
        ));
        wrong.extend(check::keys(&account, &parts, &seen));
        wrong.extend(check::stats(&seen));
        wrong
    }

    #[test]
    fn the_truth_passes() {
        assert_eq!(all(|_, _| {}), Vec::<String>::new());
        // The last read was answered 100 ms before the kill: it may be lost.
        let lost_read = all(|_, seen| {
            seen.used = 17;
            seen.keys[0].3 = 11;
        });
        assert_eq!(lost_read, Vec::<String>::new());
        let found_add = all(|part, seen| {
            part.unknown = Some(Unknown::Add {
                body: json!({"tag": "m3"}),
                idempotency: None,
            });
            seen.memories.push(entry("m3", "k1"));
            (seen.total, seen.current_count, seen.used) = (4, 4, 20);
            (seen.keys[0].2, seen.keys[0].3) = (3, 14);
            seen.stats = json!({
                "total_memories": 4, "successful_entries": 4, "categories": {"c": 4},
                "types": {"t": 4},
            });
        });
        assert_eq!(found_add, Vec::<String>::new());
    }

    #[test]
    fn a_lie_does_not() {
        type Lie = fn(&mut Part, &mut Seen);
        let lies: &[(&str, Lie)] = &[
            ("m1 is gone", |_, seen| drop(seen.memories.remove(1))),
            ("not {", |_, seen| seen.memories[0]["x"] = json!(1)),
            ("m0 is there", |_, seen| {
                seen.memories.push(entry("m0", "k1"));
            }),
            ("never sent", |_, seen| {
                seen.memories.push(entry("m9", "k1"));
            }),
            ("twice", |_, seen| seen.memories.push(entry("m1", "k1"))),
            ("w0 is 6", |_, seen| seen.memories[2]["w0"] = json!(6)),
            ("pagination says", |_, seen| seen.current_count = 4),
            ("memory_count is", |_, seen| seen.keys[0].2 = 1),
            ("expected 17 to 18", |_, seen| seen.used = 19),
            ("expected 17 to 18", |_, seen| seen.used = 16),
            ("the keys used", |_, seen| seen.keys[1].3 = 5),
            ("k2 is active: true", |_, seen| seen.keys[1].1 = true),
            ("key k2 is gone", |_, seen| drop(seen.keys.remove(1))),
            ("that of the active ones", |_, seen| {
                seen.active_keys.clear();
            }),
            ("not Pro", |_, seen| seen.plan = "Free".to_owned()),
            ("expected 19 to 20", |part, _| {
                // A patch that is there but was not paid.
                part.unknown = Some(Unknown::Shared { value: 7 });
                part.shared = 6;
            }),
            ("stats: types", |_, seen| seen.stats["types"] = json!({})),
        ];
        for (words, lie) in lies {
            let wrong = all(lie);
            let is_found = wrong.iter().any(|text| text.contains(words));
            assert!(is_found, "{words:?} is not in {wrong:?}");
        }
    }
}
