//! JSON of the answers that assistants ask for all day, written without serde: it looks at each byte of each name
//! for something to escape, which took a third of `GET /credits`. What is written is what serde writes, byte for
//! byte; a test compares them.

use serde::Serialize;

use crate::domain::plan::Plan;
use crate::domain::time::Timestamp;

/// Room for most answers, so that the text does not grow while it is written.
const BYTES: usize = 768;

/// A value that writes itself as JSON.
pub(super) trait Json {
    fn write(&self, out: &mut String);
}

/// Returns the JSON text of a value.
pub(super) fn text(value: &impl Json) -> String {
    let mut out = String::with_capacity(BYTES);
    value.write(&mut out);
    out
}

/// Writes an object of these fields of `self`, named as they are. Those after a semicolon are left out if they are
/// `None`.
macro_rules! object {
    ($out:ident, $self:ident, $first:ident $(, $name:ident)* $(; $($optional:ident),+)?) => {
        $out.push_str(concat!("{\"", stringify!($first), "\":"));
        $crate::http::json::Json::write(&$self.$first, $out);
        $(
            $out.push_str(concat!(",\"", stringify!($name), "\":"));
            $crate::http::json::Json::write(&$self.$name, $out);
        )*
        $($(
            if let Some(value) = &$self.$optional {
                $out.push_str(concat!(",\"", stringify!($optional), "\":"));
                $crate::http::json::Json::write(value, $out);
            }
        )+)?
        $out.push('}');
    };
}
pub(super) use object;

/// Writes what is seldom enough for serde. None of it can fail.
fn by_serde(value: &(impl Serialize + ?Sized), out: &mut String) {
    out.push_str(&serde_json::to_string(value).unwrap_or_default());
}

impl Json for u64 {
    fn write(&self, out: &mut String) {
        out.push_str(itoa::Buffer::new().format(*self));
    }
}

impl Json for f64 {
    fn write(&self, out: &mut String) {
        by_serde(self, out);
    }
}

impl Json for str {
    fn write(&self, out: &mut String) {
        if self.bytes().any(|b| b < b' ' || b == b'"' || b == b'\\') {
            return by_serde(self, out);
        }
        out.push('"');
        out.push_str(self);
        out.push('"');
    }
}

impl<T: Json + ?Sized> Json for &T {
    fn write(&self, out: &mut String) {
        (**self).write(out);
    }
}

impl Json for String {
    fn write(&self, out: &mut String) {
        self.as_str().write(out);
    }
}

impl Json for Plan {
    fn write(&self, out: &mut String) {
        self.name().write(out);
    }
}

impl Json for Timestamp {
    fn write(&self, out: &mut String) {
        self.with_text(|text| {
            out.push('"');
            out.push_str(text);
            out.push('"');
        });
    }
}

impl<T: Json> Json for Option<T> {
    fn write(&self, out: &mut String) {
        match self {
            Some(value) => value.write(out),
            None => out.push_str("null"),
        }
    }
}

impl<T: Json> Json for Vec<T> {
    fn write(&self, out: &mut String) {
        out.push('[');
        for (n, value) in self.iter().enumerate() {
            if n > 0 {
                out.push(',');
            }
            value.write(out);
        }
        out.push(']');
    }
}

/// Asserts that a value is written as serde writes it.
#[cfg(test)]
pub(super) fn assert_as_serde<T: Json + Serialize>(value: &T) {
    assert_eq!(text(value), serde_json::to_string(value).unwrap());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_serde_writes_them() {
        for number in [0, 7, 10, u64::MAX] {
            assert_as_serde(&number);
        }
        for number in [0.0, 87.5, 100.0, 0.1, 1e21] {
            assert_as_serde(&number);
        }
        for text in [
            "",
            "Pro",
            "Ärger 🦀",
            "a\"b",
            "a\\b",
            "line\nbreak",
            "\u{1}\u{7f}",
        ] {
            assert_as_serde(&text);
            assert_as_serde(&text.to_owned());
        }
        for micros in [0, 1_767_225_600_000_001, i64::MIN, i64::MAX] {
            assert_as_serde(&Timestamp::from_micros(micros));
        }
        assert_as_serde(&Plan::FREE);
        assert_as_serde(&vec!["a", "b"]);
        assert_as_serde(&Vec::<u64>::new());
        assert_as_serde(&[None, Some(3_u64)].to_vec());
    }
}
