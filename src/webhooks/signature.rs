//! How a receiver tells that a webhook is ours, and fresh.

use std::fmt::Write as _;

use ring::hmac;

use crate::domain::key::Secret;

/// Returns the value of `X-MemoryOS-Signature`: `v1=` and, in lower-case hexadecimal, the HMAC-SHA256 of the
/// timestamp (Unix seconds, as in `X-MemoryOS-Timestamp`), a dot, and the body as sent.
///
/// The time is signed with the body, so that a webhook that somebody recorded cannot be sent again later.
#[must_use]
pub fn sign(secret: &Secret, timestamp: i64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(timestamp.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    let mut text = "v1=".to_owned();
    for byte in context.sign().as_ref() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    // By Python: hmac.new(b"k" * 32, b'1767225600.{"id": "evt_1"}', "sha256").hexdigest()
    #[test]
    fn it_is_the_hmac_that_others_compute() {
        let secret = Secret::new("k".repeat(32));
        let signed = sign(&secret, 1_767_225_600, br#"{"id": "evt_1"}"#);
        assert_eq!(
            signed,
            "v1=7142817713e86b15d509cbb2a3ed9f93b5f7c039a203a83036fcbe18d5aa3fe7"
        );
        // Body, time and secret all count.
        assert_ne!(signed, sign(&secret, 1_767_225_600, br#"{"id": "evt_2"}"#));
        assert_ne!(signed, sign(&secret, 1_767_225_601, br#"{"id": "evt_1"}"#));
        let other = Secret::new("l".repeat(32));
        assert_ne!(signed, sign(&other, 1_767_225_600, br#"{"id": "evt_1"}"#));
    }
}
