//! The files of the old program, read strictly: what does not have their shape is an error that says
//! where and what, and never shows a key.

use std::borrow::Cow;

use chrono::{Datelike, NaiveDateTime};
use serde_json::value::RawValue;

use crate::domain::account::Email;
use crate::domain::json::{self, JsonError, Object};
use crate::domain::key::Secret;
use crate::domain::plan::{Plan, Plans};
use crate::domain::time::Timestamp;

/// What a key without a description is called.
const DEFAULT_DESCRIPTION: &str = "Legacy API key";
/// Longest description: it must fit into the key's record.
const DESCRIPTION_BYTES_MAX: usize = 4_096;
/// The fields of a key: a repeated name that is none of them may be a key and is masked.
const FIELDS: [&str; 16] = [
    "api_key",
    "plan",
    "credits_remaining",
    "credits_used_this_cycle",
    "total_credits_used",
    "reset_date",
    "created_at",
    "email",
    "last_activity",
    "memory_count",
    "memory_limit",
    "status",
    "description",
    "created_by",
    "revoked_at",
    "revoked_by",
];

/// A key as the old program kept it: its account, its credits and itself in one.
#[derive(Clone, Debug)]
pub(crate) struct LegacyKey {
    pub secret: Secret,
    pub plan: Plan,
    pub credits_remaining: u64,
    /// Credits used in the cycle that ends at `reset`.
    pub used: u64,
    pub used_ever: u64,
    pub reset: Timestamp,
    pub created_at: Timestamp,
    pub email: Option<Email>,
    pub last_activity: Option<Timestamp>,
    pub active: bool,
    pub description: String,
    /// A key, or `admin`.
    pub created_by: Option<Secret>,
    pub revoked_at: Option<Timestamp>,
    /// A key, or `admin`.
    pub revoked_by: Option<Secret>,
}

/// What is wrong with a file; goes on after its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LegacyError {
    #[error("is not valid JSON: {0}")]
    Syntax(String),
    #[error("must be a JSON object whose names are API keys, as the old program's users.json")]
    NotAnObject,
    #[error("must be a JSON list of memories, as the old program's memory.json")]
    NotAList,
    #[error("has {0} twice")]
    Repeated(String),
    #[error(
        "has a name, at entry {0} counted from 0, that is no API key: 1 to 256 visible ASCII characters"
    )]
    NoKey(usize),
    #[error("has an entry {masked} in which {problem}")]
    Entry { masked: String, problem: String },
}

/// Reads `users.json`, in the order of the file.
pub(crate) fn read_users(bytes: &[u8]) -> Result<Vec<LegacyKey>, LegacyError> {
    let users = Object::parse(bytes).map_err(|error| match error {
        JsonError::NotAnObject => LegacyError::NotAnObject,
        JsonError::RepeatedName(name) if FIELDS.contains(&name.as_str()) => {
            LegacyError::Repeated(format!("the field {name} of one API key"))
        }
        JsonError::RepeatedName(name) => {
            LegacyError::Repeated(format!("the API key {}", Secret::new(name).masked()))
        }
        JsonError::Syntax(_) => LegacyError::Syntax(syntax(bytes)),
        JsonError::TooDeep | JsonError::Number(_) => LegacyError::Syntax(error.to_string()),
    })?;
    users
        .into_members()
        .into_iter()
        .enumerate()
        .map(|(index, (name, value))| {
            let secret = Secret::new(name.into_owned());
            if !secret.is_plausible() {
                return Err(LegacyError::NoKey(index));
            }
            let masked = secret.masked();
            read_key(secret, value).map_err(|problem| LegacyError::Entry { masked, problem })
        })
        .collect()
}

/// Reads `memory.json`: its entries as they are written, in the order of the file.
///
/// The old program could write `NaN` and `Infinity`, which are no JSON. A file in which only single
/// entries are wrong is still a list: they are returned as they are, to be refused one by one.
pub(crate) fn read_memories(bytes: &[u8]) -> Result<Vec<&str>, LegacyError> {
    match serde_json::from_slice::<Vec<&RawValue>>(bytes) {
        Ok(entries) => Ok(entries.into_iter().map(RawValue::get).collect()),
        Err(error) if error.is_data() => Err(LegacyError::NotAList),
        Err(error) => std::str::from_utf8(bytes)
            .ok()
            .and_then(split_list)
            .ok_or_else(|| LegacyError::Syntax(error.to_string())),
    }
}

/// Splits a list at its commas, looking at strings and brackets only. `None` if these do not match.
fn split_list(text: &str) -> Option<Vec<&str>> {
    let inner = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    let (mut entries, mut from) = (Vec::new(), 0);
    let (mut depth, mut in_string, mut escaped) = (0u32, false, false);
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth = depth.checked_add(1)?,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => {
                entries.push(inner.get(from..at)?.trim());
                from = at.checked_add(1)?;
            }
            _ => {}
        }
    }
    entries.push(inner.get(from..)?.trim());
    let is_whole = depth == 0 && !in_string && entries.iter().all(|entry| !entry.is_empty());
    is_whole.then_some(entries)
}

/// Returns what is not JSON, and where. serde's words for it show nothing of the file.
fn syntax(bytes: &[u8]) -> String {
    match serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
        Err(error) => error.to_string(),
        Ok(_) => "a string in it has an escape that stands for no character".to_owned(),
    }
}

/// Reads one entry. An error is the rest of a sentence.
fn read_key(secret: Secret, value: &RawValue) -> Result<LegacyKey, String> {
    let mut entry = Object::parse(value.get().as_bytes()).map_err(|error| match error {
        JsonError::NotAnObject => "there is no JSON object".to_owned(),
        // It was checked as a part of the file.
        JsonError::Syntax(_)
        | JsonError::RepeatedName(_)
        | JsonError::TooDeep
        | JsonError::Number(_) => "something is no JSON".to_owned(),
    })?;
    if let Some(inner) = text(&mut entry, "api_key")?
        && !Secret::new(inner).same_as(&secret)
    {
        return Err("api_key is another key than its name".to_owned());
    }
    let plan = text(&mut entry, "plan")?.ok_or("plan is missing")?;
    let plan = Plans::seed()
        .get(&plan)
        .map_err(|_| "plan must be Free, Pro or Premium".to_owned())?;
    let used = count(&mut entry, "credits_used_this_cycle")?.unwrap_or(0);
    let used_ever = count(&mut entry, "total_credits_used")?.unwrap_or(0);
    let left = plan.credits_per_cycle().saturating_sub(used);
    let description = text(&mut entry, "description")?.filter(|text| !text.trim().is_empty());
    if description
        .as_ref()
        .is_some_and(|d| d.len() > DESCRIPTION_BYTES_MAX)
    {
        return Err(format!(
            "description has more than {DESCRIPTION_BYTES_MAX} bytes"
        ));
    }
    Ok(LegacyKey {
        plan,
        credits_remaining: credits_remaining(&mut entry)?.unwrap_or(left),
        used,
        // The old program raised both with each request; where it lacks one, the other is the least.
        used_ever: used_ever.max(used),
        reset: time(&mut entry, "reset_date")?.ok_or("reset_date is missing")?,
        created_at: time(&mut entry, "created_at")?.ok_or("created_at is missing")?,
        email: email(&mut entry)?,
        last_activity: time(&mut entry, "last_activity")?,
        active: match text(&mut entry, "status")?.as_deref() {
            None | Some("active") => true,
            Some("inactive") => false,
            Some(_) => return Err("status must be active or inactive".to_owned()),
        },
        description: description.unwrap_or_else(|| DEFAULT_DESCRIPTION.to_owned()),
        created_by: text(&mut entry, "created_by")?.map(Secret::new),
        revoked_at: time(&mut entry, "revoked_at")?,
        revoked_by: text(&mut entry, "revoked_by")?.map(Secret::new),
        secret,
    })
}

/// Reads the e-mail. An empty one is none: the old program asked only whether there was one.
fn email(entry: &mut Object<'_>) -> Result<Option<Email>, String> {
    let Some(text) = text(entry, "email")?.filter(|text| !text.trim().is_empty()) else {
        return Ok(None);
    };
    Email::parse(&text)
        .map(Some)
        .map_err(|error| error.to_string())
}

/// Reads what is left. Below 0 is nothing: two requests at once could do that in the old program.
fn credits_remaining(entry: &mut Object<'_>) -> Result<Option<u64>, String> {
    let Some(value) = entry.take_optional("credits_remaining") else {
        return Ok(None);
    };
    let number: i64 = serde_json::from_str(value.get())
        .map_err(|_| "credits_remaining must be a whole number".to_owned())?;
    Ok(Some(u64::try_from(number).unwrap_or(0)))
}

fn count(entry: &mut Object<'_>, name: &str) -> Result<Option<u64>, String> {
    // Within what a signed number holds, so that sums over many keys stay far from the end.
    let number = |value: &RawValue| serde_json::from_str::<u32>(value.get()).map(u64::from);
    entry
        .take_optional(name)
        .map(number)
        .transpose()
        .map_err(|_| format!("{name} must be a whole number of 0 to {}", u32::MAX))
}

fn text(entry: &mut Object<'_>, name: &str) -> Result<Option<String>, String> {
    entry
        .take_optional(name)
        .map(|value| {
            let text = json::string(value).map(Cow::into_owned);
            text.ok_or_else(|| format!("{name} must be a string"))
        })
        .transpose()
}

fn time(entry: &mut Object<'_>, name: &str) -> Result<Option<Timestamp>, String> {
    text(entry, name)?
        .map(|text| parse_time(&text).ok_or_else(|| format!("{name} is no RFC 3339 time")))
        .transpose()
}

/// Parses a time of the old program: RFC 3339, or the same without an offset, which it meant as UTC.
/// `None` for anything else, and for years that RFC 3339 cannot name in UTC.
pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    let at = Timestamp::parse_rfc3339(text).or_else(|| {
        ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"]
            .iter()
            .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
            .map(|at| Timestamp::from(at.and_utc()))
    })?;
    (0..=9_999).contains(&at.to_datetime().year()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "fB9sxs1Ne3gm4dJDlXz1s1xqS3l9YduA";
    const MASKED: &str = "fB9sxs1N...YduA";

    fn read(entry: &str) -> Result<LegacyKey, LegacyError> {
        read_users(format!(r#"{{"{KEY}": {entry}}}"#).as_bytes()).map(|mut keys| keys.remove(0))
    }

    fn with(name: &str, value: &str) -> Result<LegacyKey, LegacyError> {
        let mut members = vec![
            ("plan", r#""Pro""#),
            ("created_at", r#""2026-11-22T14:39:51.248738+00:00""#),
            ("reset_date", r#""2026-12-22T14:39:51.248738""#),
        ];
        members.retain(|(n, _)| *n != name);
        members.push((name, value));
        let members: Vec<_> = members
            .iter()
            .map(|(n, v)| format!(r#""{n}": {v}"#))
            .collect();
        read(&format!("{{{}}}", members.join(",")))
    }

    #[test]
    fn what_is_missing_has_a_default() {
        let key = with("unknown", "{}").unwrap();
        assert_eq!(key.secret.reveal(), KEY);
        assert_eq!((key.plan, key.active), (Plan::PRO, true));
        assert_eq!(
            (key.credits_remaining, key.used, key.used_ever),
            (10_000, 0, 0)
        );
        assert_eq!(key.description, "Legacy API key");
        assert_eq!(key.reset.to_string(), "2026-12-22T14:39:51.248738+00:00");
        assert!(key.email.is_none() && key.last_activity.is_none() && key.revoked_at.is_none());
        assert_eq!(
            with("description", r#"" ""#).unwrap().description,
            "Legacy API key"
        );
        assert_eq!(
            with("credits_remaining", "-1").unwrap().credits_remaining,
            0
        );
        assert!(with("email", r#""""#).unwrap().email.is_none());
    }

    #[test]
    fn wrong_values_name_the_entry_by_its_masked_key_and_the_field() {
        for (name, value, problem) in [
            ("plan", r#""Gold""#, "plan must be Free, Pro or Premium"),
            ("plan", "null", "plan is missing"),
            ("email", r#""bo""#, "email must contain exactly one @"),
            ("email", "1", "email must be a string"),
            ("reset_date", "null", "reset_date is missing"),
            ("created_at", r#""soon""#, "created_at is no RFC 3339 time"),
            ("status", r#""gone""#, "status must be active or inactive"),
            (
                "total_credits_used",
                "1.5",
                "total_credits_used must be a whole number of 0 to 4294967295",
            ),
            (
                "credits_remaining",
                r#""9""#,
                "credits_remaining must be a whole number",
            ),
            (
                "api_key",
                r#""other""#,
                "api_key is another key than its name",
            ),
        ] {
            let masked = MASKED.to_owned();
            let problem = problem.to_owned();
            let error = with(name, value).unwrap_err();
            assert_eq!(error, LegacyError::Entry { masked, problem });
            assert!(!error.to_string().contains(KEY));
        }
        assert!(
            read("[]")
                .unwrap_err()
                .to_string()
                .contains("no JSON object")
        );
    }

    #[test]
    fn files_of_another_shape_are_refused() {
        let users = |text: &str| read_users(text.as_bytes()).unwrap_err();
        assert_eq!(users("[]"), LegacyError::NotAnObject);
        assert!(users("{").to_string().starts_with("is not valid JSON: EOF"));
        assert_eq!(users(r#"{"a b": {}}"#), LegacyError::NoKey(0));
        let twice = users(&format!(r#"{{"{KEY}": {{}}, "{KEY}": {{}}}}"#));
        assert_eq!(twice.to_string(), format!("has the API key {MASKED} twice"));
        let field = users(r#"{"k": {"plan": "Free", "plan": "Pro"}}"#);
        assert_eq!(field.to_string(), "has the field plan of one API key twice");
        assert!(
            users(r#"{"k": {"plan": "\ud800"}}"#)
                .to_string()
                .contains("escape")
        );
        let list = |text: &'static str| read_memories(text.as_bytes()).map(|list| list.len());
        assert_eq!(list("[1, {}]"), Ok(2));
        assert_eq!(list("{}"), Err(LegacyError::NotAList));
        for broken in ["[{]", "[1", "[1]]", "[1,]", "[\"]", "[}{]", ""] {
            assert!(
                matches!(list(broken), Err(LegacyError::Syntax(_))),
                "{broken}"
            );
        }
    }

    #[test]
    fn a_list_with_entries_that_are_no_json_is_one_still() {
        let text = r#" [ {"a": NaN, "b": "],\"["} , [1, Infinity],{} ] "#;
        assert_eq!(
            read_memories(text.as_bytes()).unwrap(),
            [r#"{"a": NaN, "b": "],\"["}"#, "[1, Infinity]", "{}"]
        );
    }

    #[test]
    fn times_without_an_offset_are_utc() {
        let text = |at: &str| parse_time(at).map(|at| at.to_string());
        let utc = Some("2025-01-20T15:30:00.250000+00:00".to_owned());
        for same in [
            "2025-01-20T15:30:00.250Z",
            "2025-01-20T17:30:00.250+02:00",
            "2025-01-20T15:30:00.25",
            "2025-01-20 15:30:00.25",
        ] {
            assert_eq!(text(same), utc, "{same}");
        }
        for none in ["", "2025-01-20", "yesterday", "9999-12-31T23:59:59-01:00"] {
            assert_eq!(text(none), None, "{none}");
        }
    }
}
