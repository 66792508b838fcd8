//! How a report names a record: never by an e-mail address, nor by the whole hash of a key.

use std::fmt::Write as _;

use crate::domain::account::AccountKey;
use crate::domain::key::KeyId;
use crate::domain::memory::MemoryId;

use super::super::outbox::event_id;
use super::super::schema::{PLANS_HEAD, part};

/// Returns how a report names a record: never by an e-mail address, nor by the whole hash of a key.
pub(in crate::store) fn record_name(tree: &str, key: &[u8]) -> String {
    match tree {
        "key_ids" => std::str::from_utf8(key)
            .ok()
            .and_then(KeyId::parse)
            .map_or_else(|| hex(key), |id| id.to_string()),
        "keys" => hex(key.get(..8).unwrap_or(key)),
        "names" => "a name".to_owned(),
        "meta" => String::from_utf8_lossy(key).into_owned(),
        "plans" if key == PLANS_HEAD => "head".to_owned(),
        "plans" => part(key, 4).map_or_else(|| hex(key), |no| u16::from_be_bytes(no).to_string()),
        "replays" => answer_name(key),
        "replay_times" | "key_expiries" => hex(key),
        "audit" => numbered("row", key, 0),
        "ledger" | "audit_accounts" => format!(
            "{} {}",
            account_name(key.get(..16).unwrap_or(key)),
            numbered("row", key, 16)
        ),
        "outbox" => match part(key, 8) {
            Some(entry) => event_id(entry),
            None => hex(key),
        },
        "pieces" => match key.split_first() {
            Some((tag, owner)) => join_name(&char::from(*tag).to_string(), owner),
            None => hex(key),
        },
        _ => account_name(key),
    }
}

/// Names a piece's owner by its tag and its key.
pub(in crate::store) fn join_name(tag: &str, owner: &[u8]) -> String {
    let owner = owner.get(..32).unwrap_or(owner);
    let id = match tag {
        "m" => account_name(owner),
        "r" => answer_name(owner),
        "s" => account_name(owner.get(..16).unwrap_or(owner)),
        _ => hex(owner),
    };
    format!("{tag} {id}")
}

/// Names a record by the account that its key starts with, and a memory or a number that follows.
fn account_name(key: &[u8]) -> String {
    match (part(key, 0).map(AccountKey), part(key, 16)) {
        (Some(account), Some(id)) if key.len() == 32 => {
            format!("{} {}", account.anonymous_id(), MemoryId::from_bytes(id))
        }
        (Some(account), None) if key.len() == 16 => account.anonymous_id(),
        _ => answer_name(key),
    }
}

/// Names a record by the number that its key ends with.
fn numbered(what: &str, key: &[u8], at: usize) -> String {
    match part(key, at).map(u64::from_be_bytes) {
        Some(no) if key.len() == at.saturating_add(8) => format!("{what} {no}"),
        _ => hex(key),
    }
}

/// Names a record by the account that its key starts with, and the rest in hexadecimal.
fn answer_name(key: &[u8]) -> String {
    match part(key, 0).map(AccountKey) {
        Some(account) => {
            let rest = hex(key.get(16..).unwrap_or_default());
            format!("{} {rest}", account.anonymous_id())
        }
        None => hex(key),
    }
}

pub(in crate::store) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
