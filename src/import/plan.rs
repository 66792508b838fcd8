//! Which accounts come of the old program's keys. Pure: values in, values out.

use std::collections::HashMap;

use crate::domain::account::AccountKey;
use crate::domain::cycle::anchor_of_end;
use crate::domain::key::{KeyHash, KeyId};
use crate::domain::time::Timestamp;
use crate::domain::usage::{KeyNo, Share, Usage};
use crate::store::{ACTIVE_KEYS_MAX, BulkAccount, BulkKey, BulkRevoked};

use super::legacy::LegacyKey;

/// Who made or revoked a key, if it was the operator.
const ADMIN: &str = "admin";

/// Whose a memory is and which key stored it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Number of the account in [`Plan::accounts`].
    pub account: usize,
    /// Number of the key in that account's keys.
    pub key: usize,
}

/// The accounts to be written.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Oldest first; their keys too.
    pub accounts: Vec<BulkAccount>,
    /// Which key has which hash.
    pub owners: HashMap<KeyHash, Owner>,
}

/// Keys that cannot become an account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "has {active} active keys for the account of {masked}, and an account has {ACTIVE_KEYS_MAX} at most"
)]
pub(crate) struct TooManyKeys {
    /// How many active keys share the e-mail.
    pub active: usize,
    /// The oldest of them.
    pub masked: String,
}

impl Plan {
    /// Merges keys into accounts as of `now`. `keys` come in the order of the file, each with its id;
    /// `random` gives bits for the accounts' names.
    ///
    /// Keys with one e-mail are one account, keys without one are each an account of its own.
    pub(super) fn merge(
        mut keys: Vec<(LegacyKey, KeyId)>,
        now: Timestamp,
        mut random: impl FnMut() -> u128,
    ) -> Result<Self, TooManyKeys> {
        // Stable: keys of one instant stay in the order of the file.
        keys.sort_by_key(|(key, _)| key.created_at);
        let ids: HashMap<KeyHash, KeyId> = keys
            .iter()
            .map(|(key, id)| (key.secret.hash(), id.clone()))
            .collect();
        let mut plan = Self {
            accounts: Vec::new(),
            owners: HashMap::with_capacity(keys.len()),
        };
        for (rank, group) in grouped(&keys).into_iter().enumerate() {
            check_active(&group)?;
            let Some((first, _)) = group.first() else {
                continue;
            };
            let account = account_key(first.created_at, rank, random());
            let bulk = account_of(account, &group, &ids, now);
            for (key, row) in bulk.keys.iter().enumerate() {
                let account = plan.accounts.len();
                plan.owners.insert(row.hash, Owner { account, key });
            }
            plan.accounts.push(bulk);
        }
        Ok(plan)
    }

    /// Returns what `--unowned-to` names: the account with that e-mail, and its oldest active key, or
    /// its oldest if none is active. `None` if there is no such account.
    pub(super) fn owner_named(&self, email: &str) -> Option<Owner> {
        let is_it = |account: &BulkAccount| account.name.as_deref() == Some(email);
        let account = self.accounts.iter().position(is_it)?;
        let keys = &self.accounts.get(account)?.keys;
        let active = keys.iter().position(|key| key.revoked.is_none());
        Some(Owner {
            account,
            key: active.unwrap_or(0),
        })
    }
}

type Group<'a> = Vec<(&'a LegacyKey, &'a KeyId)>;

/// Puts keys of one e-mail together; groups and their keys are in the order of `keys`.
fn grouped(keys: &[(LegacyKey, KeyId)]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut by_email: HashMap<&str, usize> = HashMap::new();
    for (key, id) in keys {
        let next = groups.len();
        let at = match &key.email {
            Some(email) => *by_email.entry(email.as_str()).or_insert(next),
            None => next,
        };
        match groups.get_mut(at) {
            Some(group) => group.push((key, id)),
            None => groups.push(vec![(key, id)]),
        }
    }
    groups
}

fn check_active(group: &Group<'_>) -> Result<(), TooManyKeys> {
    let active = group.iter().filter(|(key, _)| key.active).count();
    match group.first() {
        Some((first, _)) if active > ACTIVE_KEYS_MAX => Err(TooManyKeys {
            active,
            masked: first.secret.masked(),
        }),
        _ => Ok(()),
    }
}

/// Makes an account's name inside. Accounts of one millisecond sort by their `rank`, so that the list of
/// accounts is in the order of their making to the microsecond; 48 random bits fill up.
fn account_key(created_at: Timestamp, rank: usize, random: u128) -> AccountKey {
    let rank = u32::try_from(rank).unwrap_or(u32::MAX);
    AccountKey::new(created_at.millis(), u128::from(rank) << 48 | random >> 80)
}

fn account_of(
    account: AccountKey,
    group: &Group<'_>,
    ids: &HashMap<KeyHash, KeyId>,
    now: Timestamp,
) -> BulkAccount {
    let mut usage = usage_of(group, now);
    let mut keys = Vec::with_capacity(group.len());
    for (no, (key, id)) in (1..).zip(group) {
        let share = share_of(key, no, &usage, now);
        let revoked = if key.active {
            usage.shares.push(share);
            None
        } else {
            Some(BulkRevoked {
                at: key.revoked_at.unwrap_or(now),
                by: name_of(key.revoked_by.as_ref(), ids),
                share,
            })
        };
        usage.next_key_no = no.saturating_add(1);
        keys.push(BulkKey {
            no,
            hash: key.secret.hash(),
            id: (*id).clone(),
            masked: key.secret.masked(),
            description: key.description.clone(),
            created_at: key.created_at,
            created_by: name_of(key.created_by.as_ref(), ids),
            revoked,
        });
    }
    let first = group.first().map(|(key, _)| key);
    BulkAccount {
        account,
        name: first
            .and_then(|key| key.email.as_ref())
            .map(|email| email.as_str().to_owned()),
        created_at: first.map_or(now, |key| key.created_at),
        usage,
        keys,
    }
}

/// Returns the account's own counters, without shares; the rules of the merge are here.
fn usage_of(group: &Group<'_>, now: Timestamp) -> Usage {
    let has_active = group.iter().any(|(key, _)| key.active);
    // An account whose keys are all revoked is what they were.
    let counting = || {
        let keys = group.iter().map(|(key, _)| *key);
        keys.filter(move |key| key.active || !has_active)
    };
    let plan = counting().map(|key| key.plan).max();
    let plan = plan.unwrap_or(crate::domain::plan::Plan::FREE);
    let (anchor, index) = anchor_of_end(counting().next().map_or(now, |key| key.reset));
    let mut usage = Usage::new(plan, anchor);
    usage.cycle = index;
    usage.cycle_end = crate::domain::cycle::boundary(anchor, index.saturating_add(1));
    // A cycle that has passed since the old program's last request: the account enters the one that runs.
    usage.roll_over(now);
    for (key, _) in group {
        usage.used = usage.used.saturating_add(used_now(key, now));
        usage.used_ever = usage.used_ever.saturating_add(key.used_ever);
    }
    usage.granted = match group.as_slice() {
        [(lone, _)] if lone.reset > now => usage.used.saturating_add(lone.credits_remaining),
        _ => plan.credits_per_cycle().max(usage.used),
    };
    usage.last_activity = group.iter().filter_map(|(key, _)| key.last_activity).max();
    usage
}

fn share_of(key: &LegacyKey, no: KeyNo, account: &Usage, now: Timestamp) -> Share {
    Share {
        used: used_now(key, now),
        used_ever: key.used_ever,
        last_activity: key.last_activity,
        ..Share::new(no, (key.plan < account.plan()).then_some(key.plan))
    }
}

/// Returns what a key has used in the cycle that runs: nothing, if its own has passed.
fn used_now(key: &LegacyKey, now: Timestamp) -> u64 {
    if key.reset > now { key.used } else { 0 }
}

/// Returns the public name of who made or revoked a key: `admin`, a key's id, or nobody that is known.
fn name_of(
    who: Option<&crate::domain::key::Secret>,
    ids: &HashMap<KeyHash, KeyId>,
) -> Option<String> {
    let who = who?;
    if who.reveal() == ADMIN {
        return Some(ADMIN.to_owned());
    }
    ids.get(&who.hash()).map(KeyId::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::Email;
    use crate::domain::key::Secret;
    use crate::domain::plan::Plan as Bought;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    fn now() -> Timestamp {
        at("2026-11-22T16:00:00Z")
    }

    /// A key made on that day of October, whose cycle ends on that day of December.
    fn key(name: &str, email: Option<&str>, plan: Bought, day: u32) -> LegacyKey {
        LegacyKey {
            secret: Secret::new(name),
            plan,
            credits_remaining: 7,
            used: 3,
            used_ever: 30,
            reset: at(&format!("2026-12-{day:02}T00:00:00Z")),
            created_at: at(&format!("2026-10-{day:02}T00:00:00Z")),
            email: email.map(|email| Email::parse(email).unwrap()),
            last_activity: None,
            active: true,
            description: "d".to_owned(),
            created_by: None,
            revoked_at: None,
            revoked_by: None,
        }
    }

    fn merge(keys: Vec<LegacyKey>) -> Plan {
        let keys = keys.into_iter();
        let keys = keys.map(|key| (key, KeyId::generate().unwrap()));
        Plan::merge(keys.collect(), now(), || 1 << 127).unwrap()
    }

    fn used(key: LegacyKey, used: u64) -> LegacyKey {
        LegacyKey { used, ..key }
    }

    fn revoked(key: LegacyKey) -> LegacyKey {
        LegacyKey {
            active: false,
            ..key
        }
    }

    #[test]
    fn an_email_in_any_case_is_one_account_and_none_is_one_each() {
        let plan = merge(vec![
            key("a", None, Bought::FREE, 9),
            key("b", Some("Bo@X.org"), Bought::FREE, 5),
            key("c", None, Bought::FREE, 3),
            key("d", Some("bo@x.ORG"), Bought::PRO, 1),
        ]);
        let shape: Vec<_> = plan
            .accounts
            .iter()
            .map(|a| (a.name.as_deref(), a.keys.len(), a.created_at))
            .collect();
        assert_eq!(
            shape,
            [
                (Some("bo@x.org"), 2, at("2026-10-01T00:00:00Z")),
                (None, 1, at("2026-10-03T00:00:00Z")),
                (None, 1, at("2026-10-09T00:00:00Z")),
            ]
        );
        let bo = &plan.accounts[0];
        // The oldest first, whatever the order of the file; the one with the lower plan is capped.
        assert_eq!(bo.keys[0].hash, Secret::new("d").hash());
        assert_eq!(bo.usage.plan(), Bought::PRO);
        let caps: Vec<_> = bo.usage.shares.iter().map(|s| (s.key_no, s.cap)).collect();
        assert_eq!(caps, [(1, None), (2, Some(Bought::FREE.no()))]);
        assert_eq!(bo.usage.next_key_no, 3);
        assert_eq!(
            plan.owners[&Secret::new("b").hash()],
            Owner { account: 0, key: 1 }
        );
        assert_eq!(
            plan.owner_named("bo@x.org"),
            Some(Owner { account: 0, key: 0 })
        );
        assert_eq!(plan.owner_named("no@x.org"), None);
    }

    #[test]
    fn accounts_of_one_millisecond_stay_in_order() {
        let mut keys: Vec<_> = (0..50)
            .map(|n| key(&format!("k{n}"), None, Bought::FREE, 5))
            .collect();
        for (micros, key) in (1i64..).zip(&mut keys) {
            key.created_at = Timestamp::from_micros(key.created_at.micros() + 50 - micros);
        }
        let plan = merge(keys);
        assert!(plan.accounts.is_sorted_by(|a, b| a.account < b.account));
        assert!(
            plan.accounts
                .is_sorted_by(|a, b| a.created_at < b.created_at)
        );
    }

    #[test]
    fn credits_are_the_plans_less_what_running_cycles_used() {
        let email = Some("bo@x.org");
        let passed = LegacyKey {
            reset: now(),
            ..used(key("c", email, Bought::FREE, 3), 40)
        };
        let plan = merge(vec![
            used(key("a", email, Bought::FREE, 1), 30),
            revoked(used(key("b", email, Bought::PREMIUM, 2), 20)),
            passed,
        ]);
        let usage = &plan.accounts[0].usage;
        // The plan is of the active keys only, what was used is of all; a passed cycle counts no more.
        assert_eq!(
            (usage.plan(), usage.granted, usage.used),
            (Bought::FREE, 100, 50)
        );
        assert_eq!(usage.used_ever, 90);
        assert_eq!(usage.cycle_end, at("2026-12-01T00:00:00Z"));
        assert_eq!(
            usage.shares.iter().map(|s| s.used).collect::<Vec<_>>(),
            [30, 0]
        );
        let end = plan.accounts[0].keys[1].revoked.as_ref().unwrap();
        assert_eq!((end.at, end.share.used, end.share.cap), (now(), 20, None));
        // Over the plan: nothing is left, nothing is owed.
        let over = merge(vec![
            used(key("a", email, Bought::FREE, 1), 99),
            used(key("b", email, Bought::FREE, 2), 98),
        ]);
        let usage = &over.accounts[0].usage;
        assert_eq!(
            (usage.granted, usage.used, usage.balance().credits_remaining),
            (197, 197, 0)
        );
    }

    #[test]
    fn a_lone_key_keeps_its_credits_until_its_cycle_has_passed() {
        let lone = merge(vec![key("a", None, Bought::FREE, 5)]);
        let usage = &lone.accounts[0].usage;
        assert_eq!(
            (usage.granted, usage.used, usage.balance().credits_remaining),
            (10, 3, 7)
        );
        let passed = LegacyKey {
            reset: at("2026-05-31T00:00:00Z"),
            ..key("a", None, Bought::FREE, 5)
        };
        let passed = merge(vec![passed]);
        let usage = &passed.accounts[0].usage;
        assert_eq!((usage.granted, usage.used, usage.used_ever), (100, 0, 30));
        assert_eq!(usage.cycle_end, at("2026-11-30T00:00:00Z"));
        assert_eq!(usage.shares[0].used, 0);
    }

    #[test]
    fn the_cycle_is_the_oldest_active_keys() {
        let email = Some("bo@x.org");
        let plan = merge(vec![
            revoked(key("a", email, Bought::FREE, 1)),
            key("b", email, Bought::FREE, 31),
            key("c", email, Bought::FREE, 30),
        ]);
        assert_eq!(plan.accounts[0].usage.cycle_end, at("2026-12-30T00:00:00Z"));
        let none = merge(vec![
            revoked(key("a", email, Bought::PRO, 2)),
            revoked(key("b", email, Bought::FREE, 1)),
        ]);
        let usage = &none.accounts[0].usage;
        assert_eq!(
            (usage.plan(), usage.cycle_end),
            (Bought::PRO, at("2026-12-01T00:00:00Z"))
        );
        assert!(usage.shares.is_empty());
        assert_eq!(
            none.owner_named("bo@x.org"),
            Some(Owner { account: 0, key: 0 })
        );
    }

    #[test]
    fn makers_become_key_ids_or_nobody() {
        let by = |who: &str| LegacyKey {
            created_by: Some(Secret::new(who)),
            revoked_by: Some(Secret::new(who)),
            ..revoked(key(&format!("made by {who}"), None, Bought::FREE, 2))
        };
        let first = key("first", None, Bought::FREE, 1);
        let plan = merge(vec![first, by("first"), by("admin"), by("gone")]);
        let id = plan.accounts[0].keys[0].id.to_string();
        let expected = [None, Some(id), Some("admin".to_owned()), None];
        for (account, by) in plan.accounts.iter().zip(expected) {
            assert_eq!(account.keys[0].created_by, by);
            let revoked = account.keys[0].revoked.as_ref().map(|r| r.by.clone());
            assert_eq!(revoked.unwrap_or(None), by);
        }
    }

    #[test]
    fn more_active_keys_than_an_account_may_have_are_refused() {
        let many = |n: usize| {
            let keys =
                (0..n).map(|n| key(&format!("key-{n:03}"), Some("b@x.org"), Bought::FREE, 1));
            let keys = keys.map(|key| (key, KeyId::generate().unwrap()));
            Plan::merge(keys.collect(), now(), || 0).map(|plan| plan.accounts.len())
        };
        assert_eq!(many(100), Ok(1));
        let error = many(101).unwrap_err();
        assert_eq!((error.active, error.masked.as_str()), (101, "ke...00"));
    }
}
