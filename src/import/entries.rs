//! The old program's memories: whose they are, and what the contract says of them.

use serde_json::value::RawValue;

use crate::domain::json::{self, JsonError, Object};
use crate::domain::key::Secret;
use crate::domain::memory::NewMemory;
use crate::domain::time::Timestamp;

use super::legacy::parse_time;
use super::redact::Redactor;

/// Largest memory, as a client would send it: the contract's "whole body".
pub(crate) const ENTRY_BYTES_MAX: usize = 65_536;
/// What a client of the old program may have sent and the server sets itself.
const SERVER_SET: [&str; 3] = ["id", "key_id", "updated_at"];

/// An entry of which only the owner is known yet.
pub(crate) struct Entry {
    /// The key it was stored with; `None` if there is none in it, or no string.
    pub api_key: Option<Secret>,
    /// Bytes of the entry without what the server sets.
    bytes: usize,
    /// An error says what the contract refuses.
    memory: Result<NewMemory, String>,
    timestamp: Result<Timestamp, &'static str>,
}

impl Entry {
    /// Opens an entry as it stands in the file. An error says what the contract refuses.
    pub(super) fn open(raw: &str, redactor: &Redactor) -> Result<Self, String> {
        // As it stands: without its spaces `t rue` would be a word, and `1 5` another number.
        serde_json::from_str::<serde::de::IgnoredAny>(raw)
            .map_err(|error| format!("it is not valid JSON: {error}"))?;
        let text = normalised(raw);
        let mut rest = parse(&text)?;
        let api_key = rest.take("api_key");
        let expected = api_key.map_or(0, |value| redactor.redact_counted(value.get()).1);
        let mut bytes = text.len();
        let (redacted, found) = redactor.redact_counted(&text);
        if found > expected {
            // A key stands elsewhere too.
            rest = parse(&redacted)?;
            bytes = redacted.len();
        }
        let mut leave_out = |name: &str, value: &RawValue| {
            // Two quotes, a colon and a comma.
            let member = name
                .len()
                .saturating_add(value.get().len())
                .saturating_add(4);
            bytes = bytes.saturating_sub(member);
        };
        if let Some(value) = rest.take("api_key").or(api_key) {
            leave_out("api_key", value);
        }
        for name in SERVER_SET {
            if let Some(value) = rest.take(name) {
                leave_out(name, value);
            }
        }
        let timestamp = rest.take("timestamp");
        if let Some(value) = timestamp {
            leave_out("timestamp", value);
        }
        Ok(Self {
            api_key: api_key
                .and_then(json::string)
                .map(|text| Secret::new(text.into_owned())),
            bytes,
            memory: NewMemory::parse(rest).map_err(|error| error.to_string()),
            timestamp: time_of(timestamp),
        })
    }

    /// Checks the entry as the contract checks a memory. An error says what it refuses.
    pub(super) fn check(self) -> Result<(NewMemory, Timestamp), String> {
        if self.bytes > ENTRY_BYTES_MAX {
            return Err(format!("it is larger than {ENTRY_BYTES_MAX} bytes"));
        }
        Ok((self.memory?, self.timestamp?))
    }
}

/// Parses an entry. An error says what the contract refuses.
fn parse(text: &str) -> Result<Object<'_>, String> {
    Object::parse(text.as_bytes()).map_err(|error| match error {
        JsonError::NotAnObject => "it is no JSON object".to_owned(),
        JsonError::Syntax(problem) => format!("it is not valid JSON: {problem}"),
        JsonError::RepeatedName(_) | JsonError::TooDeep | JsonError::Number(_) => error.to_string(),
    })
}

/// Returns the time that an entry gives for itself. An error says what the contract refuses.
fn time_of(value: Option<&RawValue>) -> Result<Timestamp, &'static str> {
    json::string(value.ok_or("Missing required field: timestamp")?)
        .and_then(|text| parse_time(&text))
        .ok_or("Field 'timestamp' must be an RFC 3339 time")
}

/// Writes a JSON text as a client would send it: without insignificant space, and characters as
/// themselves, where the old program wrote one field a line and `\u00e9` for é.
pub(super) fn normalised(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some((before, from)) = rest.find('"').and_then(|at| rest.split_at_checked(at)) {
        out.extend(before.chars().filter(|c| !is_json_space(*c)));
        let (literal, after) = from
            .split_at_checked(literal_bytes(from))
            .unwrap_or((from, ""));
        if literal.contains('\\')
            && let Ok(text) = serde_json::from_str::<String>(literal)
        {
            out.push_str(&serde_json::Value::from(text).to_string());
        } else {
            out.push_str(literal);
        }
        rest = after;
    }
    out.extend(rest.chars().filter(|c| !is_json_space(*c)));
    out
}

/// Says whether a character is insignificant between the tokens of JSON. A form feed is not.
const fn is_json_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// Returns how many bytes the string has that a JSON text starts with, its quotes included.
fn literal_bytes(json: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in json.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at.saturating_add(1),
            _ => {}
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::memory::{MemoryId, Stamp};

    const KEY: &str = "fB9sxs1Ne3gm4dJDlXz1s1xqS3l9YduA";

    fn open(text: &str) -> Result<Entry, String> {
        Entry::open(text, &Redactor::new([Secret::new(KEY)].iter()))
    }

    fn entry(more: &str) -> String {
        format!(
            r#"{{"topic": "t", "type": "n", "category": "c", "input": "i", "output": "o",
                "success": true{more}}}"#
        )
    }

    fn check(more: &str) -> Result<(NewMemory, Timestamp), String> {
        open(&entry(more))?.check()
    }

    #[test]
    fn json_is_as_a_client_would_send_it() {
        assert_eq!(
            normalised("{\n  \"a \\\" b\": [ \"\\u00e9 \\n\", 1.50 ],\r\n\t\"c\\\\\" : \" \" }"),
            "{\"a \\\" b\":[\"é \\n\",1.50],\"c\\\\\":\" \"}"
        );
        // Half a surrogate pair is no character: it stays, and the check finds it.
        assert_eq!(normalised(r#"["\ud800"]"#), r#"["\ud800"]"#);
    }

    #[test]
    fn the_owner_is_known_and_no_key_is_kept() {
        let text = entry(&format!(
            r#", "api_key": "{KEY}", "x": ["see {KEY}"], "id": 1, "timestamp": "2026-01-01T00:00:00Z""#
        ));
        let opened = open(&text).unwrap();
        assert!(opened.api_key.as_ref().unwrap().same_as(&Secret::new(KEY)));
        let (memory, timestamp) = opened.check().unwrap();
        let json = memory.entry_json(&Stamp {
            id: MemoryId::default(),
            timestamp,
            key_id: "key_x",
            updated_at: None,
        });
        assert!(
            json.contains(r#""x":["see fB9sxs1N...YduA"],"timestamp":"2026-01-01T00"#),
            "{json}"
        );
        assert!(!json.contains(KEY) && !json.contains("api_key"), "{json}");
        assert!(
            open(&entry(r#", "api_key": null"#))
                .unwrap()
                .api_key
                .is_none()
        );
    }

    #[test]
    fn what_the_contract_refuses_is_refused_with_its_words() {
        let time = r#", "timestamp": "2026-01-01T00:00:00""#;
        let error = |more: &str| check(more).unwrap_err();
        assert_eq!(error(""), "Missing required field: timestamp");
        assert_eq!(
            error(r#", "timestamp": 5"#),
            "Field 'timestamp' must be an RFC 3339 time"
        );
        assert!(error(&format!(r#"{time}, "score": 1.5"#)).contains("'score'"));
        assert!(error(&format!(r#"{time}, "topic": 1"#)).contains("\"topic\" is repeated"));
        let deep = |n: usize| format!(r#"{time}, "x": {}{}"#, "[".repeat(n), "]".repeat(n));
        assert_eq!(
            check(&deep(16)).unwrap().0.topic,
            check(time).unwrap().0.topic
        );
        assert!(error(&deep(17)).contains("16 levels"));
        for broken in [r#", "score": 1 5"#, ", \"score\":\u{c} 15"] {
            assert!(open(&entry(broken)).is_err_and(|error| error.starts_with("it is not valid")));
        }
        assert_eq!(
            open("[1]").map(drop),
            Err("it is no JSON object".to_owned())
        );
        assert_eq!(
            open("{}").unwrap().check().map(drop),
            Err("Missing required field: topic".to_owned())
        );
    }

    #[test]
    fn size_is_that_of_the_body_a_client_would_send() {
        let body = r#"{"topic":"t","type":"n","category":"c","input":"i","output":"o","success":true,"x":""}"#;
        let room = ENTRY_BYTES_MAX - body.len();
        let with = |text: &str| {
            check(&format!(
                r#", "x": "{text}", "api_key": "{KEY}", "timestamp": "2026-01-01T00:00:00Z""#
            ))
            .map(drop)
        };
        assert_eq!(with(&"x".repeat(room)), Ok(()));
        assert!(
            with(&"x".repeat(room + 1))
                .unwrap_err()
                .contains("larger than 65536")
        );
        // Two bytes each for a client, six in the old file.
        assert_eq!(with(&"\\u00e9".repeat(room / 2)), Ok(()));
    }
}
