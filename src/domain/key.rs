//! API keys: the secret, its hash, its public id and its masked form.

use std::fmt;

use rand::{TryRng, rngs::SysRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::time::Timestamp;

/// The key that the old program used when nobody had set one: everybody knows it.
pub const KNOWN_KEY: &str = "default-key-change-me";

/// Most characters of a key's description.
pub const DESCRIPTION_CHARS_MAX: usize = 256;
/// Longest time for which a rotated key still works: a week.
pub const GRACE_SECONDS_MAX: u32 = 604_800;
/// That time if nobody says: a day.
pub const GRACE_SECONDS_DEFAULT: u32 = 86_400;

/// The last instant of the year 9999: the last that RFC 3339 can write.
const TIME_MAX: Timestamp = Timestamp::from_micros(253_402_300_799_999_999);

/// The characters of secrets and ids.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Characters of a secret that we make: 32 × log2(62) ≈ 190 bits.
const SECRET_CHARS: usize = 32;
/// Characters of a key id after `key_`.
const ID_CHARS: usize = 12;
/// Longest credential that is worth hashing.
const CREDENTIAL_BYTES_MAX: usize = 256;

/// The text does not say when a key ends; a sentence for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEnd {
    /// It is no time.
    #[error("It must be a time as in RFC 3339: 2027-01-31T12:00:00Z.")]
    NoTime,
    /// It has passed.
    #[error("It must be in the future.")]
    Past,
    /// It cannot be written any more.
    #[error("It must be before the year 10000.")]
    TooFar,
}

/// Returns the instant after `now` at which a key shall end.
///
/// # Errors
///
/// [`BadEnd`]
pub fn parse_end(text: &str, now: Timestamp) -> Result<Timestamp, BadEnd> {
    let at = Timestamp::parse_rfc3339(text).ok_or(BadEnd::NoTime)?;
    if at <= now {
        return Err(BadEnd::Past);
    }
    if at > TIME_MAX {
        return Err(BadEnd::TooFar);
    }
    Ok(at)
}

/// A credential in clear. It cannot be printed: `Debug` hides it and there is no `Display`.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Takes a credential that a client sent or an operator set.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Makes an API key: 32 characters of `[A-Za-z0-9]`, each equally likely, from the operating
    /// system's generator.
    ///
    /// # Errors
    ///
    /// [`NoEntropy`] if the operating system gives no random bytes.
    pub fn generate() -> Result<Self, NoEntropy> {
        random_base62(SECRET_CHARS).map(Self)
    }

    /// Returns the SHA-256 of the secret: all of it that is ever stored.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash(Sha256::digest(self.0.as_bytes()).into())
    }

    /// Says whether the text could be a key at all: 1 to 256 visible ASCII characters.
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        !self.0.is_empty()
            && self.0.len() <= CREDENTIAL_BYTES_MAX
            && self.0.bytes().all(|b| b.is_ascii_graphic())
    }

    /// Returns the form that may be shown: `abcd1234...3456`, the first 8 and the last 4 characters.
    ///
    /// Keys that we make have 32 characters. A key under 24, which only an operator or the old program
    /// can have chosen, shows the first 2 and the last 2 instead: 12 characters would be all of it.
    #[must_use]
    pub fn masked(&self) -> String {
        let chars: Vec<char> = self.0.chars().collect();
        let (head, tail) = if chars.len() < 24 { (2, 2) } else { (8, 4) };
        let first: String = chars.iter().take(head).collect();
        let last: String = chars
            .iter()
            .skip(chars.len().saturating_sub(tail))
            .collect();
        format!("{first}...{last}")
    }

    /// Returns the secret in clear, for the one answer that shows it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Compares two secrets in a time that does not tell where they differ.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        // Over hashes, so that the lengths do not show either.
        self.hash().0.ct_eq(&other.hash().0).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// SHA-256 of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyHash(pub [u8; 32]);

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(hidden)")
    }
}

/// The public name of a key, `key_` and 12 characters of base 62. Safe to log; never given twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(String);

impl KeyId {
    /// Makes a new id.
    ///
    /// # Errors
    ///
    /// [`NoEntropy`] if the operating system gives no random bytes.
    pub fn generate() -> Result<Self, NoEntropy> {
        Ok(Self(format!("key_{}", random_base62(ID_CHARS)?)))
    }

    /// Returns the id that the text is; `None` if it does not have the form of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("key_")?;
        (rest.len() == ID_CHARS && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
            .then(|| Self(text.to_owned()))
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The operating system gave no random bytes; no key can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system's random generator failed")]
pub struct NoEntropy;

/// Returns `chars` characters of the alphabet, each equally likely: bytes of 248 and more, which would
/// make the first ones likelier, are drawn again.
fn random_base62(chars: usize) -> Result<String, NoEntropy> {
    let mut text = String::with_capacity(chars);
    let mut bytes = [0u8; 64];
    while text.len() < chars {
        SysRng.try_fill_bytes(&mut bytes).map_err(|_| NoEntropy)?;
        let drawn = bytes
            .iter()
            .filter(|b| **b < 248)
            .filter_map(|b| ALPHABET.get(usize::from(b % 62)));
        text.extend(
            drawn
                .take(chars.saturating_sub(text.len()))
                .map(|b| char::from(*b)),
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_32_characters_and_use_the_whole_alphabet_evenly() {
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..2_000 {
            let key = Secret::generate().unwrap();
            assert_eq!(key.reveal().len(), 32);
            for c in key.reveal().chars() {
                *counts.entry(c).or_insert(0u32) += 1;
            }
        }
        // 64,000 draws over 62 characters: mean 1,032, deviation 32. Eight deviations never happen by chance.
        assert_eq!(counts.len(), 62);
        assert!(
            counts.values().all(|n| (776..=1_288).contains(n)),
            "{counts:?}"
        );
    }

    #[test]
    fn a_secret_cannot_be_printed() {
        let key = Secret::new("abcd1234EFGHIJKLMNOPQRSTUVWX3456");
        assert_eq!(
            format!("{key:?} {:?}", key.hash()),
            "Secret(hidden) KeyHash(hidden)"
        );
        assert_eq!(key.masked(), "abcd1234...3456");
        assert_eq!(Secret::new("javlin-key-1").masked(), "ja...-1");
    }

    #[test]
    fn the_hash_is_sha_256() {
        let hash = Secret::new("abc").hash();
        assert_eq!(hash.0[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert!(Secret::new("abc").same_as(&Secret::new("abc")));
        assert!(!Secret::new("abc").same_as(&Secret::new("abd")));
    }

    #[test]
    fn ids_have_one_form() {
        let id = KeyId::generate().unwrap();
        assert_eq!(KeyId::parse(id.as_str()), Some(id));
        assert_eq!(KeyId::parse("key_short"), None);
        assert_eq!(KeyId::parse("key_123456789_12"), None);
    }
}
