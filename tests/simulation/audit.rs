//! Everything that the store holds against everything that the model holds.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::ops::ControlFlow;

use memoryos::domain::key::{KeyId, Secret};
use memoryos::domain::ledger::LedgerRow;
use memoryos::domain::plan::{Plan, PlanNo};
use memoryos::domain::scope::Scopes;
use memoryos::domain::time::Timestamp;
use memoryos::domain::usage::Balance;
use memoryos::domain::webhook::EndpointId;
use memoryos::store::{AuditFilter, KeyRow, PageStart, Stats, Store};
use serde_json::Value;

use crate::calendar::Micros;
use crate::model::{Account, Ledger, Model, Numbers};

/// A receiver of webhooks that takes nothing, so that all it is to be told waits.
pub(crate) const RECEIVER: EndpointId = EndpointId(*b"receiver");

/// Says how two values differ, if they do.
pub(crate) fn same<T: PartialEq + Debug>(
    what: &str,
    found: &T,
    expected: &T,
) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let (found, expected) = (format!("{found:?}"), format!("{expected:?}"));
    let pairs = found.chars().zip(expected.chars());
    let equal = pairs.take_while(|(a, b)| a == b).count();
    // Long ones are shown from a little before the place where they part.
    let short = |text: &str| {
        let part: String = text
            .chars()
            .skip(equal.saturating_sub(300))
            .take(700)
            .collect();
        part
    };
    Err(format!(
        "{what}: found\n    {}\n  expected\n    {}",
        short(&found),
        short(&expected)
    ))
}

pub(crate) fn numbers(balance: &Balance) -> Numbers {
    Numbers {
        plan: balance.plan,
        limit: balance.credits_limit,
        remaining: balance.credits_remaining,
        used: balance.credits_used,
        ever: balance.credits_used_ever,
        room: balance.memory_limit,
        held: balance.memory_count,
        free: balance.memory_remaining,
        reset: balance.reset.micros(),
        capped: balance.capped,
    }
}

/// A key as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    id: String,
    masked: String,
    description: String,
    created: Micros,
    revoked: Option<Micros>,
    expired: bool,
    expires: Option<Micros>,
    scopes: Scopes,
    successor: Option<String>,
    credits: Option<u64>,
    cap: Option<PlanNo>,
    used: u64,
    ever: u64,
    held: u64,
    last: Option<Micros>,
}

pub(crate) fn row(key: &KeyRow) -> Row {
    Row {
        id: key.id.to_string(),
        masked: key.masked.clone(),
        description: key.description.clone(),
        created: key.created_at.micros(),
        revoked: key.ended_at.map(Timestamp::micros),
        expired: key.expired,
        expires: key.expires_at.map(Timestamp::micros),
        scopes: key.scopes,
        successor: key.successor.as_ref().map(ToString::to_string),
        credits: key.share.credits_cap,
        cap: key.share.cap,
        used: key.share.used,
        ever: key.share.used_ever,
        held: key.share.held,
        last: key.share.last_activity.map(Timestamp::micros),
    }
}

pub(crate) fn key_row(account: &Account, at: usize, now: Micros) -> Row {
    let (key, first) = (&account.keys[at], account.first(at));
    Row {
        id: key.id.clone(),
        masked: masked(&key.secret),
        description: key.description.to_owned(),
        created: key.created,
        revoked: key.ended(now),
        expired: key.expired || (key.revoked.is_none() && key.ended(now).is_some()),
        expires: key.expires,
        scopes: key.scopes,
        successor: key.successor.clone(),
        credits: first.credits,
        cap: first.cap.map(Plan::no),
        used: account.used(at, now),
        ever: first.spent.ever,
        held: account.held(at),
        last: first.spent.last,
    }
}

/// A key as it may be shown: the first 8 and the last 4 characters.
pub(crate) fn masked(secret: &str) -> String {
    format!("{}...{}", &secret[..8], &secret[secret.len() - 4..])
}

pub(crate) fn stats(account: &Account) -> Stats {
    let mut stats = Stats::default();
    for memory in &account.memories {
        stats.total += 1;
        stats.successes += u64::from(memory.entry["success"] == true);
        let text = |name: &str| memory.entry[name].as_str().unwrap().to_owned();
        *stats.categories.entry(text("category")).or_default() += 1;
        *stats.types.entry(text("type")).or_default() += 1;
    }
    stats
}

/// Compares all of it, as it is stored: at a time before all others no cycle is entered by looking. The
/// error says where they differ first.
pub(crate) async fn audit(store: &Store, model: &Model) -> Result<(), String> {
    let now = Micros::MIN;
    let failed = |error: memoryos::store::StoreError| format!("a read failed: {error}");
    let found = store.accounts_after(None, usize::MAX).map_err(failed)?;
    let found: BTreeSet<_> = found.into_iter().collect();
    same(
        "accounts",
        &found,
        &model.accounts.iter().map(|account| account.name).collect(),
    )?;
    let catalog = crate::offer::of(&store.catalog());
    same("catalog", &catalog, &crate::offer::file(model.offer))?;
    let time = Timestamp::from_micros(now);
    for account in &model.accounts {
        let id = &account.id;
        let found = store.account(account.name, time).map_err(failed)?;
        let found = found.ok_or_else(|| format!("{id} is gone"))?;
        let shown = (
            &found.account_id,
            &found.email,
            found.created_at.micros(),
            found.active,
            found.suspended.then_some(found.standing_since.micros()),
        );
        let active = account.active() > 0;
        let expected = (
            id,
            &account.email,
            account.created,
            active,
            account.suspended,
        );
        same("account", &shown, &expected)?;
        let (usage, money) = (&found.usage, account.money.rolled(now));
        let credits = (usage.plan(), usage.granted, usage.used, usage.used_ever);
        let expected = (money.plan, money.granted, money.used, money.ever);
        same(&format!("credits of {id}"), &credits, &expected)?;
        let times = (
            usage.anchor.micros(),
            i64::from(usage.cycle),
            usage.cycle_end.micros(),
            usage.last_activity.map(Timestamp::micros),
        );
        let expected = (money.anchor, money.cycle, money.end(), money.last);
        same(&format!("times of {id}"), &times, &expected)?;
        same(
            &format!("count of {id}"),
            &usage.held,
            &(account.memories.len() as u64),
        )?;
        let keys: Vec<_> = store
            .keys(account.name, time)
            .map_err(failed)?
            .iter()
            .map(row)
            .collect();
        let expected: Vec<_> = (0..account.keys.len())
            .map(|at| key_row(account, at, now))
            .collect();
        same(&format!("keys of {id}"), &keys, &expected)?;
        let active: Vec<_> = found.keys.iter().map(row).collect();
        let expected: Vec<_> = expected
            .into_iter()
            .filter(|key| key.revoked.is_none())
            .collect();
        same(&format!("active keys of {id}"), &active, &expected)?;
        let page = store
            .page(account.name, PageStart::Skip(0), usize::MAX)
            .map_err(failed)?;
        let entries: Vec<Value> = serde_json::from_str(&format!("[{}]", page.entries))
            .map_err(|error| format!("memories of {id}: {error}"))?;
        let expected: Vec<_> = account
            .memories
            .iter()
            .rev()
            .map(|m| m.entry.clone())
            .collect();
        if entries != expected {
            let ids = |all: &[Value]| all.iter().map(|e| e["id"].clone()).collect::<Vec<_>>();
            same(
                &format!("memories of {id}"),
                &ids(&entries),
                &ids(&expected),
            )?;
            let pair = entries.iter().zip(&expected).find(|(a, b)| a != b).unwrap();
            same(&format!("a memory of {id}"), &pair.0, &pair.1)?;
        }
        let found = store.stats(account.name).await.map_err(failed)?;
        same(&format!("stats of {id}"), &found, &stats(account))?;
        rows(store, account)?;
    }
    for gone in &model.gone {
        is_gone(store, &gone.account)
            .map_err(|what| format!("{} was erased: {what}", gone.account.id))?;
    }
    events(store, model).await
}

/// Holds that nothing finds an account, and that the audit log says once why.
fn is_gone(store: &Store, account: &Account) -> Result<(), String> {
    let failed = |error: memoryos::store::StoreError| format!("a read failed: {error}");
    let time = Timestamp::from_micros(Micros::MIN);
    let found = store.account(account.name, time).map_err(failed)?;
    same("account", &found.map(|row| row.account_id), &None)?;
    let named = store.account_named(&account.id).map_err(failed)?;
    same("its name", &(named == Some(account.name)), &false)?;
    for key in &account.keys {
        let hash = Secret::new(key.secret.as_str()).hash();
        let by_hash = store.key_by_hash(&hash, time).map_err(failed)?;
        let id = KeyId::parse(&key.id).unwrap();
        let by_id = store.key_by_id(&id, time).map_err(failed)?;
        let found = (by_hash.is_some(), by_id.is_some());
        same("a key", &found, &(false, false))?;
    }
    let start = PageStart::Skip(0);
    let page = store
        .page(account.name, start, usize::MAX)
        .map_err(failed)?;
    same("memories", &page.entries.as_str(), &"")?;
    let filter = AuditFilter {
        account: Some(account.name),
        from: None,
    };
    // It is the last that is told of it.
    let log = store.audit_page(&filter, None, 2).map_err(failed)?;
    let actions: Vec<_> = log
        .rows
        .iter()
        .map(|row| row.entry.action == "account.erased")
        .collect();
    same("last in the audit log", &actions, &vec![true, false])
}

/// The rows of an account's ledger, oldest first, compared with the model: they are numbered without a gap, and
/// come to what the model has entered, cycle by cycle, key by key, one sort after the other.
pub(crate) fn rows(store: &Store, account: &Account) -> Result<Vec<LedgerRow>, String> {
    let failed = |error: memoryos::store::StoreError| format!("a ledger cannot be read: {error}");
    let usage = store.usage(account.name, Timestamp::from_micros(Micros::MIN));
    let usage = usage.map_err(failed)?;
    let mut rows = Vec::new();
    let visit = |row: &LedgerRow| {
        rows.push(row.clone());
        ControlFlow::Continue(())
    };
    store.ledger(account.name, &usage, visit).map_err(failed)?;
    let names = store.key_names(account.name).map_err(failed)?;
    let mut found = Ledger::default();
    for (row, no) in rows.iter().zip(1..) {
        same(&format!("row number of {}", account.id), &row.no, &no)?;
        let key_no = if row.key_no == 0 {
            0
        } else {
            // By its id: the model numbers the keys that it knows.
            let name = names.get(&row.key_no).map(|(id, _)| id);
            let at = account.keys.iter().position(|key| Some(&key.id) == name);
            1 + at.ok_or_else(|| format!("no key has the number of {row:?}"))?
        };
        found.enter(row.cycle.into(), key_no, row.entry, row.amount);
    }
    same(
        &format!("ledger of {}", account.id),
        &found,
        &account.ledger,
    )?;
    Ok(rows)
}

/// Compares what the receiver of webhooks is to be told of keys, which never takes anything, with all that
/// happened to keys: nothing of it is missing, and nothing is told that did not happen.
async fn events(store: &Store, model: &Model) -> Result<(), String> {
    let ever = Timestamp::from_micros(Micros::MAX);
    let due = store.due_events(RECEIVER, ever, usize::MAX).await;
    let due = due.map_err(|error| format!("events cannot be read: {error}"))?;
    let mut found: Vec<(String, String)> = Vec::new();
    for event in due
        .into_iter()
        .filter(|event| event.kind.starts_with("key."))
    {
        let data: Value = serde_json::from_str(&event.data).map_err(|error| error.to_string())?;
        let key_id = data["key_id"].as_str().unwrap_or_default().to_owned();
        found.push((event.kind, key_id));
    }
    let mut expected = Vec::new();
    let gone = model.gone.iter().map(|gone| &gone.account);
    let accounts = model.accounts.iter().chain(gone);
    for key in accounts.flat_map(|account| &account.keys) {
        expected.push(("key.created".to_owned(), key.id.clone()));
        if key.revoked.is_some() && !key.expired {
            expected.push(("key.revoked".to_owned(), key.id.clone()));
        }
    }
    found.sort();
    expected.sort();
    same("events of keys", &found, &expected)
}
