//! Fuzz target of the old program's two files.

use serde_json::Value;

use crate::domain::account::Email;
use crate::domain::memory::{MemoryId, Stamp};
use crate::domain::time::Timestamp;
use crate::fuzzing::{Outcome, ensure};

use super::legacy::{self, LegacyKey};
use super::plan::Plan;
use super::redact::Redactor;
use super::{Fate, ImportArgs, Triage, with_ids};

/// What stands between the two files in one input.
pub(crate) const BETWEEN: &[u8] = b"\n----\n";
/// Shortest key that no text can hold by chance.
const LONG: usize = 24;
/// 1 January 2026.
const NOW: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// Two files, [`BETWEEN`] them: what is taken is sound, what is left out is JSON, and no key is in
/// either, nor in an error.
///
/// # Errors
///
/// What does not hold.
pub(crate) fn import_files(bytes: &[u8]) -> Outcome {
    let (users, memories) = halves(bytes);
    let secrets = secrets(users);
    let keys = match legacy::read_users(users) {
        Ok(keys) => keys,
        Err(error) => return shows_none(&error.to_string(), &secrets),
    };
    let redactor = Redactor::new(keys.iter().map(|key| &key.secret));
    let plan = match Plan::merge(ids(keys)?, NOW, || 7) {
        Ok(plan) => plan,
        Err(error) => return shows_none(&error.to_string(), &secrets),
    };
    accounts_are_sound(&plan)?;
    let raws = match legacy::read_memories(memories) {
        Ok(raws) => raws,
        Err(error) => return shows_none(&error.to_string(), &secrets),
    };
    let args = ImportArgs {
        skip_unowned: Some("unowned.json".into()),
        skip_invalid: Some("invalid.json".into()),
        ..ImportArgs::default()
    };
    let triage = Triage {
        args: &args,
        plan: &plan,
        redactor: &redactor,
        unowned_to: None,
    };
    let (fates, left_out, summary) = triage.run(&raws).map_err(|error| error.to_string())?;
    let kept = fates.iter().filter(|fate| matches!(fate, Fate::Keep(_)));
    let left = left_out
        .unowned
        .len()
        .saturating_add(left_out.invalid.len());
    ensure!(
        super::count(kept.count()) == summary.memories
            && fates.len() == raws.len()
            && summary.memories.saturating_add(super::count(left)) == super::count(raws.len()),
        "an entry is neither kept nor left out, or both"
    );
    for text in left_out.unowned.iter().chain(&left_out.invalid) {
        serde_json::from_str::<serde::de::IgnoredAny>(text)
            .map_err(|error| format!("left out: {error}: {text}"))?;
        shows_none(text, &secrets)?;
        // Half a surrogate pair is JSON, but no text.
        if let Ok(value) = serde_json::from_str(text) {
            strings(&value, &mut |text| shows_none(text, &secrets))?;
        }
    }
    for (raw, fate) in raws.iter().zip(&fates) {
        if matches!(fate, Fate::Keep(_)) {
            kept_is_sound(&triage, raw, &secrets)?;
        }
    }
    Ok(())
}

fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    let at = bytes.windows(BETWEEN.len()).position(|w| w == BETWEEN);
    at.and_then(|at| bytes.split_at_checked(at))
        .and_then(|(users, rest)| Some((users, rest.strip_prefix(BETWEEN)?)))
        .unwrap_or((bytes, b"[]"))
}

/// Returns the names in `users.json` that are keys beyond doubt.
fn secrets(users: &[u8]) -> Vec<String> {
    let users: Value = serde_json::from_slice(users).unwrap_or_default();
    let names = users
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name);
    names
        .filter(|name| name.len() >= LONG && name.bytes().all(|b| b.is_ascii_alphanumeric()))
        .cloned()
        .collect()
}

fn ids(mut keys: Vec<LegacyKey>) -> Result<Vec<(LegacyKey, crate::domain::key::KeyId)>, String> {
    let redactor = Redactor::new(keys.iter().map(|key| &key.secret));
    for key in &mut keys {
        key.description = redactor.redact_text(&key.description);
    }
    with_ids(keys).map_err(|error| error.to_string())
}

fn shows_none(text: &str, secrets: &[String]) -> Outcome {
    let shown = secrets.iter().find(|secret| text.contains(secret.as_str()));
    ensure!(shown.is_none(), "a key is shown: {text}");
    Ok(())
}

fn strings(value: &Value, look: &mut dyn FnMut(&str) -> Outcome) -> Outcome {
    match value {
        Value::String(text) => look(text),
        Value::Array(items) => items.iter().try_for_each(|item| strings(item, look)),
        Value::Object(members) => members.iter().try_for_each(|(name, value)| {
            look(name)?;
            strings(value, look)
        }),
        _ => Ok(()),
    }
}

fn accounts_are_sound(plan: &Plan) -> Outcome {
    let mut names = std::collections::HashSet::new();
    for account in &plan.accounts {
        let usage = &account.usage;
        ensure!(
            usage.used <= usage.granted && usage.used <= usage.used_ever,
            "used {}, granted {}, ever {}",
            usage.used,
            usage.granted,
            usage.used_ever
        );
        ensure!(usage.cycle_end > NOW, "a cycle that has ended");
        let active = account.keys.iter().filter(|key| key.revoked.is_none());
        ensure!(
            active.count() == usage.shares.len(),
            "a share is not a key's"
        );
        if let Some(name) = &account.name {
            let email = Email::parse(name);
            ensure!(
                email.is_ok_and(|email| email.as_str() == name) && names.insert(name),
                "the name {name} is no e-mail, or two accounts have it"
            );
        }
    }
    Ok(())
}

fn kept_is_sound(triage: &Triage<'_>, raw: &str, secrets: &[String]) -> Outcome {
    let (entry, _) = triage.owner(raw)?;
    let (memory, timestamp) = entry.check()?;
    let json = memory.entry_json(&Stamp {
        id: MemoryId::default(),
        timestamp,
        key_id: "key_fuzz00000000",
        updated_at: None,
    });
    let value: Value = serde_json::from_str(&json).map_err(|error| format!("{error}: {json}"))?;
    ensure!(value.get("api_key").is_none(), "api_key is kept");
    strings(&value, &mut |text| shows_none(text, secrets))
}
