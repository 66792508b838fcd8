//! Looks for a text in bytes that come chunk by chunk, as it is and with the escapes of JSON undone.

use std::collections::BTreeSet;

use memchr::memmem::Finder;

/// Fewest and most bytes of a text: a shorter one is found everywhere, a longer one is no text to look for.
const TEXT_BYTES: std::ops::RangeInclusive<usize> = 4..=4_096;
/// Places of one file or record that are told apart; a text that is there more often is there.
const PLACES_MAX: usize = 100;

/// Why a text is not looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text to look for must have 4 to 4096 bytes")]
pub struct ResidueTextError;

/// A text to look for, in the forms that the service may have stored it in: as it is, and, if it may be an e-mail
/// address, in ASCII lower case. `Debug` hides it.
pub struct ResidueText {
    forms: Vec<Finder<'static>>,
    bytes: usize,
}

impl std::fmt::Debug for ResidueText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResidueText(..)")
    }
}

impl ResidueText {
    /// Takes a text of 4 to 4,096 bytes.
    ///
    /// # Errors
    ///
    /// [`ResidueTextError`] for a shorter or a longer one.
    pub fn parse(text: &str) -> Result<Self, ResidueTextError> {
        if !TEXT_BYTES.contains(&text.len()) {
            return Err(ResidueTextError);
        }
        let mut forms = vec![Finder::new(text).into_owned()];
        let email = text.to_ascii_lowercase();
        if text.contains('@') && email != text {
            forms.push(Finder::new(&email).into_owned());
        }
        let bytes = text.len();
        Ok(Self { forms, bytes })
    }
}

/// A stream of bytes in which a text is looked for.
#[derive(Debug)]
pub(super) struct Scan<'t> {
    text: &'t ResidueText,
    at: u64,
    written: View,
    meant: View,
    /// The bytes so far of what may be an escape.
    escape: Vec<u8>,
    places: BTreeSet<u64>,
}

/// The end of a stream, and where each of its bytes begins in the stream.
#[derive(Debug, Default)]
struct View {
    bytes: Vec<u8>,
    places: Vec<u64>,
}

impl<'t> Scan<'t> {
    pub(super) fn new(text: &'t ResidueText) -> Self {
        Self {
            text,
            at: 0,
            written: View::default(),
            meant: View::default(),
            escape: Vec::new(),
            places: BTreeSet::new(),
        }
    }

    /// Takes the next bytes of the stream.
    pub(super) fn feed(&mut self, chunk: &[u8]) {
        let start = self.at;
        self.at = start.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        self.written.push(chunk, start);
        let mut rest = chunk;
        while let Some((first, after)) = rest.split_first() {
            let here = self
                .at
                .saturating_sub(u64::try_from(rest.len()).unwrap_or(0));
            if self.escape.is_empty() {
                let plain = memchr::memchr(b'\\', rest).unwrap_or(rest.len());
                if plain > 0 {
                    let (run, behind) = rest.split_at(plain);
                    self.meant.push(run, here);
                    rest = behind;
                    continue;
                }
            }
            self.escape.push(*first);
            self.unescape(here);
            rest = after;
        }
        self.written.find(self.text, &mut self.places);
        self.meant.find(self.text, &mut self.places);
    }

    /// Says whether it need not look on: there are as many places as are told apart.
    pub(super) fn is_enough(&self) -> bool {
        self.places.len() >= PLACES_MAX
    }

    /// Returns the bytes of the stream at which the text begins, in their order.
    pub(super) const fn places(&self) -> &BTreeSet<u64> {
        &self.places
    }

    /// Takes the escape, whose last byte is at `last`, for what it means once it is complete.
    fn unescape(&mut self, last: u64) {
        while !self.escape.is_empty() {
            let before = u64::try_from(self.escape.len())
                .unwrap_or(0)
                .saturating_sub(1);
            let start = last.saturating_sub(before);
            match meaning(&self.escape) {
                Meaning::Unknown => return,
                Meaning::Char(meant) => {
                    let mut utf8 = [0; 4];
                    let utf8 = meant.encode_utf8(&mut utf8).as_bytes();
                    self.meant.push_from(utf8, start);
                    self.escape.clear();
                }
                Meaning::None => {
                    // No escape: its first byte means itself, the others are looked at again.
                    let first = self.escape.remove(0);
                    self.meant.push(&[first], start);
                    while let Some(byte) = self.escape.first().filter(|byte| **byte != b'\\') {
                        let byte = *byte;
                        let left = u64::try_from(self.escape.len()).unwrap_or(0);
                        self.escape.remove(0);
                        let place = last.saturating_add(1).saturating_sub(left);
                        self.meant.push(&[byte], place);
                    }
                }
            }
        }
    }
}

impl View {
    /// Takes bytes that stand one after the other from a place on.
    fn push(&mut self, bytes: &[u8], place: u64) {
        self.bytes.extend_from_slice(bytes);
        let end = place.saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
        self.places.extend(place..end);
    }

    /// Takes bytes that all begin at one place.
    fn push_from(&mut self, bytes: &[u8], place: u64) {
        self.bytes.extend_from_slice(bytes);
        self.places.resize(self.bytes.len(), place);
    }

    /// Looks for the text, and keeps as much of the end as the beginning of one more may need.
    fn find(&mut self, text: &ResidueText, places: &mut BTreeSet<u64>) {
        for form in &text.forms {
            for found in form.find_iter(&self.bytes) {
                if places.len() >= PLACES_MAX {
                    break;
                }
                places.extend(self.places.get(found).copied());
            }
        }
        let done = self
            .bytes
            .len()
            .saturating_sub(text.bytes.saturating_sub(1));
        self.bytes.drain(..done);
        self.places.drain(..done);
    }
}

/// What bytes that begin with a backslash are in a JSON string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Char(char),
    /// More bytes are needed.
    Unknown,
    /// They are no escape.
    None,
}

fn meaning(escape: &[u8]) -> Meaning {
    let Some((_, after)) = escape.split_first() else {
        return Meaning::Unknown;
    };
    let Some((letter, digits)) = after.split_first() else {
        return Meaning::Unknown;
    };
    let simple = match letter {
        b'"' | b'\\' | b'/' => char::from(*letter),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode(digits),
        _ => return Meaning::None,
    };
    Meaning::Char(simple)
}

/// What follows `\u`: four hex digits; behind the first half of a pair `\u` and four more.
fn unicode(after: &[u8]) -> Meaning {
    let (digits, rest) = after.split_at(after.len().min(4));
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return Meaning::None;
    }
    if digits.len() < 4 {
        return Meaning::Unknown;
    }
    let Some(unit) = hex(digits) else {
        return Meaning::None;
    };
    if let Some(meant) = char::from_u32(u32::from(unit)) {
        return Meaning::Char(meant);
    }
    if !(0xD800..0xDC00).contains(&unit) {
        return Meaning::None;
    }
    let (mark, digits) = rest.split_at(rest.len().min(2));
    if !b"\\u".starts_with(mark) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Meaning::None;
    }
    if digits.len() < 4 {
        return Meaning::Unknown;
    }
    let units = [Some(unit), hex(digits)].into_iter().flatten();
    match char::decode_utf16(units).next() {
        Some(Ok(meant)) => Meaning::Char(meant),
        _ => Meaning::None,
    }
}

fn hex(digits: &[u8]) -> Option<u16> {
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a text is found in bytes that come in chunks of a size.
    fn places(text: &str, bytes: &[u8], chunk: usize) -> Vec<u64> {
        let text = ResidueText::parse(text).unwrap();
        let mut scan = Scan::new(&text);
        for chunk in bytes.chunks(chunk) {
            scan.feed(chunk);
        }
        scan.places().iter().copied().collect()
    }

    /// Shows that a text is found once, at its place, however the chunks fall: as it is, in lower case if it may be
    /// an e-mail address, and however JSON escapes it; and not where there is only something like it.
    #[test]
    fn a_text_is_found_in_each_form_across_each_border() {
        let found = [
            ("plain text", "plain text"),
            ("Ana@Example.com", "ana@example.com"),
            ("tab\tand \"quote\"", r#"tab\tand \"quote\""#),
            (r"C:\new\u0041", r"C:\\new\\u0041"),
            ("a/b/c", r"a\/b/c"),
            ("Grüße 😀", r"Gr\u00fc\u00DFe \ud83d\ude00"),
            ("Grüße 😀", "Grüße 😀"),
            ("back\\slash", "back\\slash"),
            ("\\ud83d\\n", r"\ud83d\\n"),
        ];
        for (text, stored) in found {
            for before in ["", "12345", "\\", r"\u12", r"\ud83d", "\\\\"] {
                let bytes = [before, stored, "after"].concat();
                // An escape of what stands before it takes the first byte of some away; then it is no such text.
                let raw = bytes.find(text);
                if before.ends_with('\\') && before.len() == 1 && raw.is_none() {
                    continue;
                }
                for chunk in [1, 2, 3, 7, 1_000] {
                    let place = u64::try_from(before.len()).unwrap();
                    let said = places(text, bytes.as_bytes(), chunk);
                    assert_eq!(said, [place], "{text} in {bytes} by {chunk}");
                }
            }
        }
        let absent = [
            ("Ana Example", "ana example"),
            ("abcd", "abc d"),
            ("tab\tx", r"tab\\tx"),
            ("abcd", r"ab\u006 cd"),
        ];
        for (text, stored) in absent {
            for chunk in [1, 3, 1_000] {
                assert_eq!(places(text, stored.as_bytes(), chunk), [0; 0], "{stored}");
            }
        }
    }

    /// Shows the bounds of a text, and that a text which is everywhere is not counted for ever.
    #[test]
    fn what_is_looked_for_and_found_is_bounded() {
        for (bytes, fits) in [(3, false), (4, true), (4_096, true), (4_097, false)] {
            assert_eq!(
                ResidueText::parse(&"x".repeat(bytes)).is_ok(),
                fits,
                "{bytes}"
            );
        }
        let found = places("xxxx", &b"x".repeat(100_000), 1_000);
        assert_eq!(found.len(), PLACES_MAX);
        assert_eq!(
            format!("{:?}", ResidueText::parse("secret")),
            "Ok(ResidueText(..))"
        );
    }
}
