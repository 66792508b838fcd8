//! JSON objects as clients send them: strict where JSON is vague, and kept byte for byte.
//!
//! RFC 8259 leaves open what a repeated name or a number beyond the reader's types means. A store that
//! gives back what it took cannot leave it open: both are refused, and so is deep nesting.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// How deep the value of a member may be nested: `[]` is 1, `[[]]` is 2, a number is 0.
pub const DEPTH_MAX: usize = 16;

/// Why bytes are not a JSON object that we take; each is a sentence for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON at all, or not UTF-8.
    #[error("the body is not valid JSON: {0}")]
    Syntax(String),
    /// JSON, but no object.
    #[error("the body must be a JSON object")]
    NotAnObject,
    /// A name twice in one object.
    #[error("the name {0:?} is repeated in one object")]
    RepeatedName(String),
    /// More than [`DEPTH_MAX`] levels.
    #[error("values may be nested {DEPTH_MAX} levels deep at most")]
    TooDeep,
    /// A number that neither a 64-bit integer nor a double holds.
    #[error("the number {0} fits neither a 64-bit integer nor a double")]
    Number(String),
}

/// So many members are compared with each other without a table of their names.
const FEW_MEMBERS: usize = 16;
/// Room for the members of most objects.
const MEMBERS: usize = 12;

/// The members of a JSON object, in the order they came, names unique, values as the client wrote them: parts of its text.
#[derive(Debug, Default)]
pub struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// Parses the bytes of an object and checks every value in it.
    ///
    /// # Errors
    ///
    /// The first [`JsonError`] that applies.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, JsonError> {
        let members: Members<'a> = serde_json::from_slice(bytes).map_err(|error| {
            if error.is_data() {
                JsonError::NotAnObject
            } else {
                JsonError::Syntax(error.to_string())
            }
        })?;
        check_names(&members)?;
        for (_, value) in &members.0 {
            check_value(value, DEPTH_MAX)?;
        }
        Ok(Self(members.0))
    }

    /// Takes the member of that name out. `None` if there is none.
    pub fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let at = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.remove(at).1)
    }

    /// Takes an optional member out: one given as null counts as absent.
    pub fn take_optional(&mut self, name: &str) -> Option<&'a RawValue> {
        self.take(name).filter(|value| !is_null(value))
    }

    /// Puts a member in the place of the one with its name, or at the end.
    pub fn set(&mut self, name: Cow<'a, str>, value: &'a RawValue) {
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// Returns the name of the first member.
    #[must_use]
    pub fn first_name(&self) -> Option<&str> {
        self.0.first().map(|(name, _)| &**name)
    }

    /// Says whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the members in their order.
    #[must_use]
    pub fn into_members(self) -> Vec<(Cow<'a, str>, &'a RawValue)> {
        self.0
    }
}

/// Says whether the value is `null`.
#[must_use]
pub fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// Returns the string that the value is, copied only if it has escapes; `None` if it is something else.
#[must_use]
pub fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str(value.get())
        .ok()
        .map(|Text(text)| text)
}

/// A string, decoded. Serde's own `Cow` is always a copy.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrow)
    }
}

/// The members of one object, names not yet checked.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(MEMBERS);
                while let Some((Text(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

fn check_names(Members(members): &Members<'_>) -> Result<(), JsonError> {
    let mut names = members.iter().map(|(name, _)| name);
    let repeated = if members.len() <= FEW_MEMBERS {
        let is_before = |(n, name): &(usize, &Cow<'_, str>)| {
            members.iter().take(*n).any(|(before, _)| before == *name)
        };
        names.enumerate().find(is_before).map(|(_, name)| name)
    } else {
        let mut seen = HashSet::with_capacity(members.len());
        names.find(|name| !seen.insert(*name))
    };
    repeated.map_or(Ok(()), |name| {
        Err(JsonError::RepeatedName(name.clone().into_owned()))
    })
}

/// Checks one value; `levels` is how many levels of nesting it may still have.
fn check_value(value: &RawValue, levels: usize) -> Result<(), JsonError> {
    let text = value.get();
    let syntax = |error: serde_json::Error| JsonError::Syntax(error.to_string());
    match text.as_bytes().first() {
        Some(b'{') => {
            let levels = levels.checked_sub(1).ok_or(JsonError::TooDeep)?;
            let members: Members<'_> = serde_json::from_str(text).map_err(syntax)?;
            check_names(&members)?;
            members
                .0
                .iter()
                .try_for_each(|(_, inner)| check_value(inner, levels))
        }
        Some(b'[') => {
            let levels = levels.checked_sub(1).ok_or(JsonError::TooDeep)?;
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(syntax)?;
            items
                .into_iter()
                .try_for_each(|inner| check_value(inner, levels))
        }
        // Decoding finds escapes that stand for no character, such as half a surrogate pair.
        Some(b'"') => serde_json::from_str::<Text<'_>>(text)
            .map(drop)
            .map_err(syntax),
        Some(b'-' | b'0'..=b'9') => check_number(text),
        _ => Ok(()),
    }
}

fn check_number(text: &str) -> Result<(), JsonError> {
    let refused = || Err(JsonError::Number(shortened(text)));
    if text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok() {
        return Ok(());
    }
    let Ok(double) = text.parse::<f64>() else {
        return refused();
    };
    if !double.is_finite() {
        return refused();
    }
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    if double == 0.0 && mantissa.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        return refused(); // too small for a double: it would come back as 0
    }
    let is_integer = !text.contains(['.', 'e', 'E']);
    if is_integer && format!("{double:.0}") != text && text != "-0" {
        return refused(); // a double would round it
    }
    Ok(())
}

/// Cuts a long number for an error message.
fn shortened(text: &str) -> String {
    if text.len() <= 40 {
        text.to_owned()
    } else {
        format!("{}…", text.get(..40).unwrap_or(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Object<'_>, JsonError> {
        Object::parse(text.as_bytes())
    }

    #[test]
    fn values_come_back_as_they_were_written() {
        let text = r#"{"a": 1.10, "b": {"x": [1E5, -0, "\u00e9"]}, "c": 18446744073709551615}"#;
        let members = parse(text).unwrap().into_members();
        let written: Vec<_> = members.iter().map(|(n, v)| (&**n, v.get())).collect();
        assert_eq!(
            written,
            [
                ("a", "1.10"),
                ("b", r#"{"x": [1E5, -0, "\u00e9"]}"#),
                ("c", "18446744073709551615")
            ]
        );
    }

    #[test]
    fn what_json_leaves_open_is_refused() {
        let twice = |name: &str| Err(JsonError::RepeatedName(name.to_owned()));
        assert_eq!(parse(r#"{"a":1,"a":2}"#).map(drop), twice("a"));
        assert_eq!(parse(r#"{"a":1,"\u0061":2}"#).map(drop), twice("a"));
        assert_eq!(parse(r#"{"x":[{"b":1,"b":1}]}"#).map(drop), twice("b"));
        for number in [
            "1e400",
            "-1e400",
            "1e-400",
            "123456789012345678901",
            "18446744073709551617",
        ] {
            let error = parse(&format!(r#"{{"n":{number}}}"#)).map(drop);
            assert_eq!(error, Err(JsonError::Number(number.to_owned())));
        }
        for number in [
            "18446744073709551616",
            "0.1",
            "-9223372036854775808",
            "0e5",
            "1e308",
        ] {
            assert_eq!(
                parse(&format!(r#"{{"n":{number}}}"#)).map(drop),
                Ok(()),
                "{number}"
            );
        }
    }

    #[test]
    fn a_name_is_unique_among_few_and_many() {
        // Shows that both ways of looking find the first name that is repeated, wherever it stands and however it is written.
        for members in [2, FEW_MEMBERS, FEW_MEMBERS + 1, 100] {
            let object = |last: &str| {
                let names = (1..members).map(|n| format!("\"n{n}\":0,"));
                format!("{{{}{last}:1}}", names.collect::<String>())
            };
            assert_eq!(parse(&object("\"n0\"")).unwrap().0.len(), members);
            for twice in ["\"n1\"", "\"\\u006e1\""] {
                let refused = Err(JsonError::RepeatedName("n1".to_owned()));
                assert_eq!(parse(&object(twice)).map(drop), refused, "{members}");
            }
        }
    }

    #[test]
    fn a_string_is_copied_only_for_its_escapes() {
        let value = |text| serde_json::from_str::<&RawValue>(text).unwrap();
        assert!(matches!(
            string(value(r#""plain é""#)),
            Some(Cow::Borrowed("plain é"))
        ));
        assert!(
            matches!(string(value(r#""a\n\u00e9""#)), Some(Cow::Owned(text)) if text == "a\né")
        );
        assert_eq!(string(value("1")), None);
    }

    #[test]
    fn sixteen_levels_and_no_more() {
        let nested = |n: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(n), "]".repeat(n));
        assert_eq!(parse(&nested(16)).map(drop), Ok(()));
        assert_eq!(parse(&nested(17)).map(drop), Err(JsonError::TooDeep));
        assert_eq!(parse(&nested(30_000)).map(drop), Err(JsonError::TooDeep));
    }

    #[test]
    fn other_things_than_objects_are_refused() {
        for text in ["[]", "1", "null", "\"x\""] {
            assert_eq!(parse(text).map(drop), Err(JsonError::NotAnObject), "{text}");
        }
        for text in [
            "",
            "{",
            "{\"a\":}",
            "{} x",
            "{\"a\":\"\\ud800\"}",
            "{'a':1}",
        ] {
            assert!(matches!(parse(text), Err(JsonError::Syntax(_))), "{text}");
        }
        assert!(matches!(
            Object::parse(b"{\"a\":\"\xff\"}"),
            Err(JsonError::Syntax(_))
        ));
    }
}
