//! Records to bytes and back: a version byte, then bincode.
//!
//! A record of an older version is read as what it is now ([`Record::upgrade`]) and written so by the
//! next change of it.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::error::StoreError;

/// The version of everything that never had another.
const VERSION: u8 = 1;

/// What is stored under a key of a tree.
pub(crate) trait Record: Sized {
    /// The version that it is written with.
    const VERSION: u8 = VERSION;

    /// Makes it of the bytes of an older version; `None` if there was no such version.
    fn upgrade(version: u8, bytes: &[u8]) -> Option<Result<Self, StoreError>> {
        let _ = (version, bytes);
        None
    }
}

impl Record for u64 {}
impl Record for crate::domain::account::AccountKey {}
impl Record for crate::domain::key::KeyHash {}

/// The largest value: a leaf of them is one message of sled's log, also with twice the values that it is split at. What is
/// longer goes to a file of its own.
pub(crate) const VALUE_BYTES_MAX: usize = 7_600;

/// Returns the bytes of a record.
///
/// # Errors
///
/// [`StoreError::Corrupt`] if the record is larger than [`VALUE_BYTES_MAX`].
pub(crate) fn encode<T: Record + Serialize>(record: &T) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::with_capacity(BYTES);
    bytes.push(T::VERSION);
    bincode::serde::encode_into_std_write(record, &mut bytes, bincode::config::standard())
        .map_err(|error| StoreError::Corrupt(format!("a record cannot be encoded: {error}")))?;
    if bytes.len() > VALUE_BYTES_MAX {
        return Err(StoreError::Corrupt(format!(
            "a record of {} bytes is too large",
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// Returns the record that the bytes are.
///
/// # Errors
///
/// [`StoreError::Corrupt`] if they are not.
pub(crate) fn decode<T: Record + DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    if let Some((version, older)) = bytes.split_first()
        && *version < T::VERSION
        && let Some(upgraded) = T::upgrade(*version, older)
    {
        return upgraded;
    }
    let bytes = of_version(T::VERSION, bytes)?;
    let decoded = bincode::serde::decode_from_slice(bytes, config());
    whole(bytes, decoded.map_err(undecodable)?)
}

/// Returns the record that the bytes are, its texts borrowed from them.
///
/// # Errors
///
/// [`StoreError::Corrupt`] if they are not.
pub(crate) fn decode_borrowed<'a, T: Record + Deserialize<'a>>(
    bytes: &'a [u8],
) -> Result<T, StoreError> {
    let bytes = of_version(T::VERSION, bytes)?;
    let decoded = bincode::serde::borrow_decode_from_slice(bytes, config());
    whole(bytes, decoded.map_err(undecodable)?)
}

/// Returns the record that the bytes are, which have no version in front.
pub(crate) fn decode_older<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    let decoded = bincode::serde::decode_from_slice(bytes, config());
    whole(bytes, decoded.map_err(undecodable)?)
}

/// As [`decode`], for values put together from pieces, which may be large.
pub(crate) fn decode_long<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    // All that pieces can hold, for the same reason as in `config`.
    let config = bincode::config::standard().with_limit::<{ 65_536 * VALUE_BYTES_MAX }>();
    let decoded = bincode::serde::decode_from_slice(bytes, config);
    whole(bytes, decoded.map_err(undecodable)?)
}

/// Refuses a record that ends before its bytes do: they are not what was written.
fn whole<T>(bytes: &[u8], (record, length): (T, usize)) -> Result<T, StoreError> {
    if length == bytes.len() {
        Ok(record)
    } else {
        Err(StoreError::Corrupt(
            "a record has bytes after its end".to_owned(),
        ))
    }
}

/// Room for most records, so that the bytes do not grow while they are written.
const BYTES: usize = 512;

/// As [`encode`], without a version and a limit: the bytes are kept in pieces.
pub(crate) fn encode_long<T: Serialize>(record: &T) -> Result<Vec<u8>, StoreError> {
    bincode::serde::encode_to_vec(record, bincode::config::standard())
        .map_err(|error| StoreError::Corrupt(format!("a record cannot be encoded: {error}")))
}

/// A damaged length must not make the decoder allocate more than a record can hold.
fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<{ 16 * VALUE_BYTES_MAX }>()
}

/// Returns bytes that are no record, such as a piece of one, with the version in front.
pub(crate) fn versioned(bytes: &[u8]) -> Vec<u8> {
    [&[VERSION], bytes].concat()
}

/// Returns what [`versioned`] was given.
///
/// # Errors
///
/// [`StoreError::Corrupt`] if the version is not ours.
pub(crate) fn unversioned(bytes: &[u8]) -> Result<&[u8], StoreError> {
    of_version(VERSION, bytes)
}

fn of_version(wanted: u8, bytes: &[u8]) -> Result<&[u8], StoreError> {
    match bytes.split_first() {
        Some((version, body)) if *version == wanted => Ok(body),
        Some((version, _)) => Err(StoreError::Corrupt(format!(
            "a record has the unknown version {version}"
        ))),
        None => Err(StoreError::Corrupt("a record is empty".to_owned())),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn undecodable(error: bincode::error::DecodeError) -> StoreError {
    StoreError::Corrupt(format!("a record cannot be decoded: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Record for (u64, String) {}
    impl Record for String {}

    #[test]
    fn records_start_with_a_version_and_other_versions_are_refused() {
        let bytes = encode(&(7u64, "text".to_owned())).unwrap();
        assert_eq!(bytes[0], VERSION);
        assert_eq!(
            decode::<(u64, String)>(&bytes).unwrap(),
            (7, "text".to_owned())
        );
        let newer = [&[2], &bytes[1..]].concat();
        let error = decode::<(u64, String)>(&newer).unwrap_err();
        assert!(error.to_string().contains("unknown version 2"), "{error}");
        assert!(decode::<u64>(&[]).is_err());
        let longer = [&bytes[..], &[0]].concat();
        let error = decode::<(u64, String)>(&longer).unwrap_err();
        assert!(error.to_string().contains("after its end"), "{error}");
    }

    #[test]
    fn a_value_that_sled_would_put_into_a_file_is_refused() {
        // A version byte, and three for the length of a text this long.
        let largest = encode(&"x".repeat(VALUE_BYTES_MAX - 4)).unwrap();
        assert_eq!(largest.len(), VALUE_BYTES_MAX);
        assert!(encode(&"x".repeat(VALUE_BYTES_MAX)).is_err());
    }
}
