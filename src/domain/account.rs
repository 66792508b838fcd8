//! Accounts: their names, inside and outside.

use std::fmt;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// The account's name inside: 16 bytes, big-endian, that sort by the time of sign-up.
///
/// It never changes and is the fixed-width prefix of everything the account owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AccountKey(pub [u8; 16]);

impl AccountKey {
    /// Makes a key that sorts by `millis` (since the Unix epoch), made unique by 80 bits of `random`.
    #[must_use]
    pub fn new(millis: u64, random: u128) -> Self {
        Self(Ulid::from_parts(millis, random).to_bytes())
    }

    /// Returns the public id of an account that has no e-mail: `acct_` and 26 characters.
    #[must_use]
    pub fn anonymous_id(self) -> String {
        format!("acct_{}", Ulid::from_bytes(self.0))
    }

    /// Returns the key that `acct_…` stands for; `None` if the text is no such id.
    #[must_use]
    pub fn parse_anonymous_id(text: &str) -> Option<Self> {
        let ulid = Ulid::from_string(text.strip_prefix("acct_")?).ok()?;
        let key = Self(ulid.to_bytes());
        (key.anonymous_id() == text).then_some(key)
    }
}

/// An e-mail address in the form that names an account: trimmed, ASCII letters in lower case.
///
/// `Debug` hides it, so that it does not end up in a log by accident.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Email(String);

/// Why a text is no e-mail address; each is a sentence for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmailError {
    /// More than 254 bytes.
    #[error("email must be at most 254 bytes")]
    TooLong,
    /// A space or control character inside.
    #[error("email must not contain spaces or control characters")]
    Blank,
    /// No `@`, or more than one.
    #[error("email must contain exactly one @")]
    At,
    /// Nothing, or more than 64 bytes, before the `@`.
    #[error("email must have 1 to 64 characters before the @")]
    Local,
    /// The part after `@` lacks a dot with something on both sides.
    #[error("email must have a domain with a dot after the @")]
    Domain,
}

impl Email {
    /// Parses what a client gave.
    ///
    /// # Errors
    ///
    /// The first [`EmailError`] that applies.
    pub fn parse(text: &str) -> Result<Self, EmailError> {
        let email = text.trim().to_ascii_lowercase();
        if email.len() > 254 {
            return Err(EmailError::TooLong);
        }
        if email.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(EmailError::Blank);
        }
        let (local, domain) = email.split_once('@').ok_or(EmailError::At)?;
        if domain.contains('@') {
            return Err(EmailError::At);
        }
        if local.is_empty() || local.chars().count() > 64 {
            return Err(EmailError::Local);
        }
        if !domain.contains('.') || domain.split('.').any(str::is_empty) {
            return Err(EmailError::Domain);
        }
        Ok(Self(email))
    }

    /// Returns the address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emails_are_trimmed_and_lower_cased() {
        let email = Email::parse("  Bo@Example.COM ").unwrap();
        assert_eq!(email.as_str(), "bo@example.com");
        assert_eq!(format!("{email:?}"), "Email(hidden)");
    }

    #[test]
    fn bad_emails_say_what_is_wrong() {
        let long = format!("{}@{}.com", "a".repeat(64), "b".repeat(190));
        let cases = [
            ("", EmailError::At),
            ("bo", EmailError::At),
            ("a@b@c.d", EmailError::At),
            ("@b.c", EmailError::Local),
            (&format!("{}@b.c", "a".repeat(65)), EmailError::Local),
            ("a@b", EmailError::Domain),
            ("a@.b", EmailError::Domain),
            ("a@b.", EmailError::Domain),
            ("a b@c.d", EmailError::Blank),
            ("a\u{0}@c.d", EmailError::Blank),
            (&long, EmailError::TooLong),
        ];
        for (text, error) in cases {
            assert_eq!(Email::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn anonymous_ids_come_back_and_only_in_their_one_form() {
        let key = AccountKey::new(1_700_000_000_000, 42);
        let id = key.anonymous_id();
        assert_eq!(id.len(), 31);
        assert_eq!(AccountKey::parse_anonymous_id(&id), Some(key));
        assert_eq!(AccountKey::parse_anonymous_id(&id.to_lowercase()), None);
        assert_eq!(AccountKey::parse_anonymous_id("acct_"), None);
    }
}
