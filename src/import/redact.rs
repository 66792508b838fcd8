//! Keeps secrets out of what is stored, written and shown: every known key becomes its masked form.
//!
//! The old program wrote keys only into a memory's `api_key`, but nothing kept a client from putting
//! one elsewhere too. A key of 24 characters or more cannot be an ordinary word, so it is found wherever
//! it stands in a text; a shorter one is replaced only where it is the whole of a string.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::domain::key::Secret;

/// Shortest key that is looked for inside texts.
const LONG: usize = 24;
/// Bytes of a key by which it is found.
const HEAD: usize = 8;

/// Finds the keys of `users.json` in texts.
pub(crate) struct Redactor {
    /// Which two bytes some long key starts with: most positions of a text are settled here.
    starts: Vec<bool>,
    /// Long keys and their masked forms by their first bytes, the longest first.
    long: HashMap<[u8; HEAD], Vec<(String, String)>>,
    /// The other keys as JSON strings, and their masked forms likewise.
    short: Vec<(String, String)>,
}

impl Redactor {
    /// Takes the keys to look for.
    pub(super) fn new<'a>(secrets: impl Iterator<Item = &'a Secret>) -> Self {
        let mut this = Self {
            starts: vec![false; 1 << 16],
            long: HashMap::new(),
            short: Vec::new(),
        };
        for secret in secrets {
            let (key, masked) = (secret.reveal().to_owned(), secret.masked());
            let is_long = key.len() >= LONG && !key.contains(['"', '\\']);
            match key.as_bytes().first_chunk::<HEAD>() {
                Some(head) if is_long => {
                    let [a, b, ..] = *head;
                    if let Some(start) = this.starts.get_mut(pair(a, b)) {
                        *start = true;
                    }
                    this.long.entry(*head).or_default().push((key, masked));
                }
                _ => this.short.push((literal(&key), literal(&masked))),
            }
        }
        for keys in this.long.values_mut() {
            keys.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
        }
        this
    }

    /// Replaces every long key in a text, JSON or not. JSON stays JSON: a masked key starts as the key
    /// does, and neither has a quote or a backslash.
    pub(super) fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.redact_counted(text).0
    }

    /// As [`Self::redact`]; says also how many keys it found.
    pub(super) fn redact_counted<'a>(&self, text: &'a str) -> (Cow<'a, str>, usize) {
        let mut out = String::new();
        let (mut copied, mut found) = (0, 0usize);
        for (at, window) in text.as_bytes().windows(LONG).enumerate() {
            let Some(head) = window.first_chunk::<HEAD>() else {
                continue;
            };
            let [a, b, ..] = *head;
            if at < copied || !self.starts.get(pair(a, b)).is_some_and(|start| *start) {
                continue;
            }
            let Some(keys) = self.long.get(head) else {
                continue;
            };
            let rest = text.get(at..).unwrap_or("");
            if let Some((key, masked)) = keys.iter().find(|(key, _)| rest.starts_with(key)) {
                out.push_str(text.get(copied..at).unwrap_or(""));
                out.push_str(masked);
                copied = at.saturating_add(key.len());
                found = found.saturating_add(1);
            }
        }
        if found == 0 {
            return (Cow::Borrowed(text), 0);
        }
        out.push_str(text.get(copied..).unwrap_or(""));
        (Cow::Owned(out), found)
    }

    /// Replaces every key in a JSON text that goes to a file: long ones anywhere, short ones where they
    /// are a whole string.
    pub(super) fn redact_json(&self, json: &str) -> String {
        let mut text = self.redact(json).into_owned();
        for (key, masked) in &self.short {
            if text.contains(key.as_str()) {
                text = text.replace(key.as_str(), masked);
            }
        }
        text
    }

    /// Replaces every long key in a text that is no JSON, and a short one that is all of it.
    pub(super) fn redact_text(&self, text: &str) -> String {
        let whole = literal(text);
        let short = self.short.iter().find(|(key, _)| *key == whole);
        match short.and_then(|(_, masked)| serde_json::from_str(masked).ok()) {
            Some(masked) => masked,
            None => self.redact(text).into_owned(),
        }
    }
}

fn pair(a: u8, b: u8) -> usize {
    usize::from(u16::from_be_bytes([a, b]))
}

fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "fB9sxs1Ne3gm4dJDlXz1s1xqS3l9YduA";

    #[test]
    fn keys_are_masked_wherever_they_stand() {
        let secrets = [KEY, "default", "fB9sxs1Ne3gm4dJDlXz1s1xq"].map(Secret::new);
        let redactor = Redactor::new(secrets.iter());
        assert_eq!(redactor.redact("nothing here"), "nothing here");
        assert_eq!(redactor.redact(KEY), "fB9sxs1N...YduA");
        assert_eq!(
            redactor.redact(&format!("ä{KEY}{KEY}: fB9sxs1Ne3gm4dJDlXz1s1xq default")),
            "äfB9sxs1N...YduAfB9sxs1N...YduA: fB9sxs1N...s1xq default"
        );
        assert_eq!(
            redactor.redact_json(&format!(
                r#"{{"api_key":"default","x":"a default","y":["{KEY}"]}}"#
            )),
            r#"{"api_key":"de...lt","x":"a default","y":["fB9sxs1N...YduA"]}"#
        );
    }
}
