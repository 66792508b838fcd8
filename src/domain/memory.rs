//! A memory: what a client may put into one, and the JSON in which it is kept and given back.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use ulid::Ulid;

use super::json::{self, Object};
use super::time::Timestamp;

/// Most characters of a topic.
pub const TOPIC_CHARS_MAX: usize = 512;
/// Most characters of a type or a category.
pub const NAME_CHARS_MAX: usize = 128;
/// Most tags of a memory.
pub const TAGS_MAX: usize = 64;
/// Most characters of a tag.
pub const TAG_CHARS_MAX: usize = 128;

/// Most bytes that defaults and the server's fields add to what a client sent.
const ADDED_BYTES_MAX: usize = 512;

/// The fields that a memory must have, in the order in which missing ones are named.
const REQUIRED: [&str; 6] = ["topic", "type", "input", "output", "success", "category"];
/// The fields that have a default.
const OPTIONAL: [&str; 4] = ["score", "maxScore", "tags", "reviewed"];
/// The fields that the server sets; a client's are ignored.
const SERVER_SET: [&str; 4] = ["id", "timestamp", "updated_at", "key_id"];

/// Names a memory of an account. Sorts by the time of the add, as a number and as text.
///
/// 128 bits: milliseconds since the Unix epoch (48), then bits that keep ids of one millisecond apart
/// and in order.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct MemoryId(u128);

impl MemoryId {
    /// Makes an id from a time in milliseconds and random bits.
    #[must_use]
    pub fn new(millis: u64, random: u128) -> Self {
        // The top bit of the random part stays free, so that counting up within one millisecond has room.
        Self(u128::from(Ulid::from_parts(millis, random >> 49)))
    }

    /// Returns the id itself if it is above `newest`, else the next one after `newest`.
    ///
    /// So the order of ids is the order of adds, whatever the clock does.
    #[must_use]
    pub const fn after(self, newest: Self) -> Self {
        if self.0 > newest.0 {
            self
        } else {
            Self(newest.0.saturating_add(1))
        }
    }

    /// Returns the 16 bytes that sort as the id does.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Makes an id from its 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// Returns the id that `mem_…` stands for; `None` if the text is no such id.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id = Self(u128::from(
            Ulid::from_string(text.strip_prefix("mem_")?).ok()?,
        ));
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for MemoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; ulid::ULID_LEN];
        f.write_str("mem_")?;
        f.write_str(Ulid::from(self.0).array_to_str(&mut digits))
    }
}

/// Why an object is no memory; each is a sentence for the client, the first two as in the old service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// A required field is not there.
    #[error("Missing required field: {0}")]
    Missing(&'static str),
    /// A field has a value that it cannot have.
    #[error("Field '{field}' {problem}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What must be, as the rest of a sentence.
        problem: &'static str,
    },
    /// A change that changes nothing.
    #[error("No fields to change")]
    NothingToChange,
    /// A change after which the memory would be larger than a body may be.
    #[error("The memory would be larger than {0} bytes")]
    TooLarge(usize),
}

const fn field(field: &'static str, problem: &'static str) -> MemoryError {
    MemoryError::Field { field, problem }
}

/// A memory as a client describes it; valid by type.
#[derive(Debug)]
pub struct NewMemory {
    /// 1 to 512 characters, trimmed.
    pub topic: String,
    /// The field `type`: 1 to 128 characters, trimmed.
    pub kind: String,
    /// 1 to 128 characters, trimmed.
    pub category: String,
    /// Any text without NUL.
    pub input: String,
    /// Any text without NUL.
    pub output: String,
    /// Whether what the memory tells of went well.
    pub success: bool,
    score: i64,
    max_score: i64,
    tags: Vec<String>,
    reviewed: bool,
    /// Whatever else the client sent, as it wrote it.
    extras: Vec<(String, Box<RawValue>)>,
}

/// What the server adds to a memory.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// The memory's id.
    pub id: MemoryId,
    /// When it was added.
    pub timestamp: Timestamp,
    /// The key that added it.
    pub key_id: &'a str,
    /// When it was last changed.
    pub updated_at: Option<Timestamp>,
}

impl NewMemory {
    /// Checks an object against the rules for a memory.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Missing`] for the first required field that is not there, else
    /// [`MemoryError::Field`] for the first one that is wrong.
    pub fn parse(mut object: Object<'_>) -> Result<Self, MemoryError> {
        for name in SERVER_SET {
            object.take(name);
        }
        if object.take("api_key").is_some() {
            return Err(field(
                "api_key",
                "is not allowed: send the key in the X-API-KEY header",
            ));
        }
        let [topic, kind, input, output, success, category] = required(&mut object)?;
        Ok(Self {
            topic: trimmed(
                topic,
                TOPIC_CHARS_MAX,
                field("topic", "must be non-empty string"),
                field("topic", "must have at most 512 characters"),
                field("topic", "must not contain NUL"),
            )?,
            kind: trimmed(
                kind,
                NAME_CHARS_MAX,
                field("type", "must be non-empty string"),
                field("type", "must have at most 128 characters"),
                field("type", "must not contain NUL"),
            )?,
            category: trimmed(
                category,
                NAME_CHARS_MAX,
                field("category", "must be non-empty string"),
                field("category", "must have at most 128 characters"),
                field("category", "must not contain NUL"),
            )?,
            input: text(input, field("input", "must be a string without NUL"))?,
            output: text(output, field("output", "must be a string without NUL"))?,
            success: boolean(success).ok_or(field("success", "must be boolean"))?,
            score: integer(object.take_optional("score"), 15)
                .ok_or(field("score", "must be a 64-bit integer"))?,
            max_score: integer(object.take_optional("maxScore"), 25)
                .ok_or(field("maxScore", "must be a 64-bit integer"))?,
            tags: tags(object.take_optional("tags"))?,
            reviewed: object
                .take_optional("reviewed")
                .map_or(Some(false), boolean)
                .ok_or(field("reviewed", "must be boolean"))?,
            extras: object
                .into_members()
                .into_iter()
                .map(|(name, value)| (name.into_owned(), value.to_owned()))
                .collect(),
        })
    }

    /// Returns the memory after a change: `entry` (as [`Self::entry_json`] made it) with the fields of
    /// `change` in place of its own.
    ///
    /// A field that we do not know is removed when it is given as null; a known one cannot be.
    ///
    /// The whole may have `bytes_max` bytes as JSON, as a body that adds one, and what the server adds.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NothingToChange`] if `change` has no field that a client can set; else as
    /// [`Self::parse`] says of the whole, or [`MemoryError::TooLarge`].
    pub fn changed<'a>(
        mut entry: Object<'a>,
        mut change: Object<'a>,
        bytes_max: usize,
    ) -> Result<Self, MemoryError> {
        for name in SERVER_SET {
            change.take(name);
        }
        if change.is_empty() {
            return Err(MemoryError::NothingToChange);
        }
        for (name, value) in change.into_members() {
            if !json::is_null(value) {
                entry.set(name, value);
                continue;
            }
            if let Some(known) = REQUIRED
                .iter()
                .chain(&OPTIONAL)
                .find(|known| name == **known)
            {
                return Err(field(
                    known,
                    "cannot be removed: give a value or leave it out",
                ));
            }
            entry.take(&name);
        }
        let changed = Self::parse(entry)?;
        let stamp = Stamp {
            id: MemoryId::default(),
            timestamp: Timestamp::default(),
            key_id: "",
            updated_at: None,
        };
        if changed.entry_json(&stamp).len() > bytes_max.saturating_add(ADDED_BYTES_MAX) {
            return Err(MemoryError::TooLarge(bytes_max));
        }
        Ok(changed)
    }

    /// Checks what can be checked of a change without the memory that it is for.
    ///
    /// # Errors
    ///
    /// As [`Self::changed`].
    pub fn check_change(change: Object<'_>) -> Result<(), MemoryError> {
        const ANY: &[u8] =
            br#"{"topic":"t","type":"t","category":"c","input":"","output":"","success":true}"#;
        let entry = Object::parse(ANY).unwrap_or_default();
        Self::changed(entry, change, usize::MAX).map(drop)
    }

    /// Returns the memory as the JSON object that clients get, without insignificant space of our own.
    #[must_use]
    pub fn entry_json(&self, stamp: &Stamp<'_>) -> String {
        let room = 512_usize
            .saturating_add(self.input.len().saturating_add(self.output.len()))
            .saturating_add(
                self.extras
                    .iter()
                    .map(|(n, v)| n.len().saturating_add(v.get().len()).saturating_add(8))
                    .sum(),
            );
        let mut out = ObjectWriter::new(room);
        out.value("id", &format_args!("{}", stamp.id));
        out.value("topic", &self.topic);
        out.value("type", &self.kind);
        out.value("category", &self.category);
        out.value("input", &self.input);
        out.value("output", &self.output);
        out.value("success", &self.success);
        out.value("score", &self.score);
        out.value("maxScore", &self.max_score);
        out.value("tags", &self.tags);
        out.value("reviewed", &self.reviewed);
        for (name, value) in &self.extras {
            out.raw(name, value.get());
        }
        out.value("timestamp", &stamp.timestamp);
        if let Some(at) = stamp.updated_at {
            out.value("updated_at", &at);
        }
        out.value("key_id", stamp.key_id);
        out.finish()
    }
}

/// Writes the members of one JSON object.
struct ObjectWriter(Vec<u8>);

impl ObjectWriter {
    fn new(room: usize) -> Self {
        let mut text = Vec::with_capacity(room);
        text.push(b'{');
        Self(text)
    }

    /// A member of ours, whose name has nothing to escape.
    fn value<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) {
        self.comma();
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
        self.serde(value);
    }

    /// A member of the client's.
    fn raw(&mut self, name: &str, value: &str) {
        self.comma();
        self.serde(name);
        self.0.push(b':');
        self.0.extend_from_slice(value.as_bytes());
    }

    fn comma(&mut self) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
    }

    fn serde<T: Serialize + ?Sized>(&mut self, value: &T) {
        // Strings, numbers, booleans and lists of strings always have a JSON form, and a vector has always room.
        let _ = serde_json::to_writer(&mut self.0, value);
    }

    fn finish(mut self) -> String {
        self.0.push(b'}');
        // It is UTF-8: what serde writes, and strings.
        String::from_utf8(self.0)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

/// Takes the fields out that a memory must have.
fn required<'a>(object: &mut Object<'a>) -> Result<[&'a RawValue; 6], MemoryError> {
    let mut take = |name| object.take(name).ok_or(MemoryError::Missing(name));
    let [topic, kind, input, output, success, category] = REQUIRED;
    Ok([
        take(topic)?,
        take(kind)?,
        take(input)?,
        take(output)?,
        take(success)?,
        take(category)?,
    ])
}

fn trimmed(
    value: &RawValue,
    chars_max: usize,
    empty: MemoryError,
    long: MemoryError,
    nul: MemoryError,
) -> Result<String, MemoryError> {
    let Some(text) = json::string(value) else {
        return Err(empty);
    };
    let text = text.trim();
    if text.is_empty() {
        return Err(empty);
    }
    if text.contains('\0') {
        return Err(nul);
    }
    if text.chars().count() > chars_max {
        return Err(long);
    }
    Ok(text.to_owned())
}

fn text(value: &RawValue, wrong: MemoryError) -> Result<String, MemoryError> {
    json::string(value)
        .filter(|text| !text.contains('\0'))
        .map(Cow::into_owned)
        .ok_or(wrong)
}

fn boolean(value: &RawValue) -> Option<bool> {
    serde_json::from_str(value.get()).ok()
}

fn integer(value: Option<&RawValue>, default: i64) -> Option<i64> {
    match value {
        None => Some(default),
        // An integer to JSON, but a double to serde_json.
        Some(value) if value.get() == "-0" => Some(0),
        Some(value) => serde_json::from_str(value.get()).ok(),
    }
}

fn tags(value: Option<&RawValue>) -> Result<Vec<String>, MemoryError> {
    let Some(value) = value else {
        return Ok(Vec::new());
    };
    let tags: Vec<String> = serde_json::from_str(value.get())
        .map_err(|_| field("tags", "must be a list of strings"))?;
    if tags.len() > TAGS_MAX {
        return Err(field("tags", "must have at most 64 entries"));
    }
    if tags.iter().any(|tag| tag.chars().count() > TAG_CHARS_MAX) {
        return Err(field("tags", "must have at most 128 characters each"));
    }
    if tags.iter().any(|tag| tag.contains('\0')) {
        return Err(field("tags", "must not contain NUL"));
    }
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str =
        r#"{"topic":" T ","type":"Note","category":"work","input":"","output":"o","success":true}"#;

    fn object(text: &str) -> Object<'_> {
        Object::parse(text.as_bytes()).unwrap()
    }

    fn with(name: &str, value: &str) -> Result<NewMemory, MemoryError> {
        let mut object = object(MINIMAL);
        let value: &RawValue = serde_json::from_str(value).unwrap();
        object.set(name.into(), value);
        NewMemory::parse(object)
    }

    fn stamp() -> Stamp<'static> {
        Stamp {
            id: MemoryId::new(1, 0),
            timestamp: Timestamp::from_micros(0),
            key_id: "key_x",
            updated_at: None,
        }
    }

    #[test]
    fn the_entry_has_defaults_and_what_the_server_sets() {
        let memory = NewMemory::parse(object(
            r#"{"x":{"n": 1.0},"topic":" T ","type":"Note","category":"work","input":"","output":"o",
                "success":true,"id":"mine","timestamp":"mine","key_id":"mine","tags":null}"#,
        ))
        .unwrap();
        assert_eq!(
            memory.entry_json(&stamp()),
            concat!(
                r#"{"id":"mem_00000000010000000000000000","topic":"T","type":"Note","category":"work","#,
                r#""input":"","output":"o","success":true,"score":15,"maxScore":25,"tags":[],"#,
                r#""reviewed":false,"x":{"n": 1.0},"timestamp":"1970-01-01T00:00:00.000000+00:00","#,
                r#""key_id":"key_x"}"#
            )
        );
    }

    #[test]
    fn a_members_own_names_and_texts_come_back() {
        // Shows that names and strings with all that JSON escapes are written so that they are read as they were.
        let awkward = "\"\\/\u{1}\n\t é🦀 \u{7f}\u{2028}";
        let mut sent: serde_json::Value = serde_json::from_str(MINIMAL).unwrap();
        for name in ["topic", "type", "category", "input", "output", awkward] {
            sent[name] = awkward.trim().into();
        }
        sent["tags"] = serde_json::json!([awkward, ""]);
        let memory = NewMemory::parse(object(&sent.to_string())).unwrap();
        let kept: serde_json::Value = serde_json::from_str(&memory.entry_json(&stamp())).unwrap();
        for (name, value) in sent.as_object().unwrap() {
            assert_eq!(&kept[name], value, "{name:?}");
        }
    }

    #[test]
    fn missing_fields_are_named_in_the_old_order() {
        for name in REQUIRED {
            let mut object = object(MINIMAL);
            object.take(name);
            assert_eq!(
                NewMemory::parse(object).map(drop),
                Err(MemoryError::Missing(name))
            );
        }
        let nothing = NewMemory::parse(object("{}")).unwrap_err();
        assert_eq!(nothing.to_string(), "Missing required field: topic");
    }

    #[test]
    fn bounds_are_exact() {
        let long = |n: usize| format!("\"{}\"", "é".repeat(n));
        let list = |n: usize| format!("[{}]", vec!["\"t\""; n].join(","));
        for (name, good, bad) in [
            ("topic", long(512), long(513)),
            ("type", long(128), long(129)),
            ("category", long(128), long(129)),
            ("tags", list(64), list(65)),
            (
                "tags",
                format!("[{}]", long(128)),
                format!("[{}]", long(129)),
            ),
            (
                "score",
                i64::MIN.to_string(),
                "9223372036854775808".to_owned(),
            ),
            ("score", "-0".to_owned(), "-0.0".to_owned()),
            ("maxScore", i64::MAX.to_string(), "1.0".to_owned()),
            ("success", "false".to_owned(), "null".to_owned()),
            ("reviewed", "null".to_owned(), "1".to_owned()),
            ("topic", "\"x\"".to_owned(), "\" \"".to_owned()),
            ("input", "\"\"".to_owned(), "\"a\\u0000\"".to_owned()),
            ("other", "\"a\\u0000\"".to_owned(), String::new()),
        ] {
            assert_eq!(with(name, &good).map(drop), Ok(()), "{name}");
            if !bad.is_empty() {
                assert!(
                    matches!(with(name, &bad), Err(MemoryError::Field { field, .. }) if field == name),
                    "{name}"
                );
            }
        }
        let key = with("api_key", "\"x\"").unwrap_err();
        assert!(matches!(
            key,
            MemoryError::Field {
                field: "api_key",
                ..
            }
        ));
    }

    #[test]
    fn a_change_replaces_removes_and_keeps() {
        let entry = with("x", "1").unwrap().entry_json(&stamp());
        let change = |text: &str| NewMemory::changed(object(&entry), object(text), 1_000);
        let changed = change(r#"{"topic":"New","x":null,"y":[2],"id":"no"}"#).unwrap();
        let json = changed.entry_json(&stamp());
        assert!(
            json.contains(r#""topic":"New""#) && json.contains(r#""y":[2]"#),
            "{json}"
        );
        assert!(!json.contains(r#""x""#), "{json}");
        let long = format!(r#"{{"x":"{}"}}"#, "é".repeat(750));
        assert_eq!(change(&long).map(drop), Err(MemoryError::TooLarge(1_000)));
        assert_eq!(change("{}").map(drop), Err(MemoryError::NothingToChange));
        assert_eq!(
            change(r#"{"id":"x"}"#).map(drop),
            Err(MemoryError::NothingToChange)
        );
        for known in ["topic", "tags", "score"] {
            let error = change(&format!(r#"{{"{known}":null}}"#)).unwrap_err();
            assert!(matches!(error, MemoryError::Field { field, .. } if field == known));
        }
    }

    #[test]
    fn ids_sort_by_time_and_never_repeat() {
        let first = MemoryId::new(5, u128::MAX);
        let earlier = MemoryId::new(4, u128::MAX);
        let next = earlier.after(first);
        assert!(next > first);
        assert!(next.to_string() > first.to_string());
        assert_eq!(MemoryId::parse(&next.to_string()), Some(next));
        assert_eq!(MemoryId::from_bytes(next.to_bytes()), next);
        assert_eq!(MemoryId::parse("mem_1"), None);
    }
}
