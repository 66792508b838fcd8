//! Events: what the audit log keeps, and what receivers of webhooks are told.
//!
//! An event is carried by the record whose change it tells of, put in by the very step that changes it,
//! and moved on in order: nothing happens without its event, and no event is of nothing.

use std::fmt;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::key::KeyId;
use super::time::Timestamp;

/// Most characters of a reason that an admin gives.
pub const REASON_CHARS_MAX: usize = 256;

/// The text is no reason; a sentence for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("It must have 1 to {REASON_CHARS_MAX} characters, and no control character.")]
pub struct BadReason;

/// Returns a reason as it is kept: without the space around it.
///
/// # Errors
///
/// [`BadReason`] if nothing or more than [`REASON_CHARS_MAX`] characters are left, or one is a control
/// character.
pub fn parse_reason(text: &str) -> Result<String, BadReason> {
    let reason = text.trim();
    let count = reason.chars().count();
    if !(1..=REASON_CHARS_MAX).contains(&count) || reason.chars().any(char::is_control) {
        return Err(BadReason);
    }
    Ok(reason.to_owned())
}

/// The id of a request, as in `X-Request-Id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// Makes an id of a time and 80 bits of `random`.
    #[must_use]
    pub fn new(millis: u64, random: u128) -> Self {
        Self(Ulid::from_parts(millis, random).to_bytes())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ulid::from_bytes(self.0).fmt(f)
    }
}

/// Who did it.
// Stored: add new variants at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    /// Nobody: it came of itself.
    Service,
    /// Somebody without a credential, by a request.
    Nobody,
    /// A key of the account.
    Key(KeyId),
    /// The admin, by a request.
    Admin,
    /// Whoever runs commands on the machine.
    Operator,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service => f.write_str("service"),
            Self::Nobody => f.write_str("nobody"),
            Self::Key(id) => id.fmt(f),
            Self::Admin => f.write_str("admin"),
            Self::Operator => f.write_str("operator"),
        }
    }
}

/// Who did something, why, and by which request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Who.
    pub actor: Actor,
    /// Why, in the words of an admin; at most [`REASON_CHARS_MAX`] characters.
    pub reason: Option<String>,
    /// By which request.
    pub request: Option<RequestId>,
}

impl Cause {
    /// Returns the cause of what comes of itself.
    #[must_use]
    pub const fn service() -> Self {
        Self::by(Actor::Service)
    }

    /// Returns the cause of what a command on the machine does.
    #[must_use]
    pub const fn operator() -> Self {
        Self::by(Actor::Operator)
    }

    /// Returns the cause of what somebody does by no request, for no reason that is told.
    #[must_use]
    pub const fn by(actor: Actor) -> Self {
        Self {
            actor,
            reason: None,
            request: None,
        }
    }
}

/// What happened.
// Stored: add new variants, and new fields of theirs, at the end only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// An account was made, on this plan.
    SignedUp {
        /// The plan's name.
        plan: String,
    },
    /// A key was made.
    KeyCreated {
        /// The key.
        key: KeyId,
    },
    /// A key has a successor.
    KeyRotated {
        /// The key.
        key: KeyId,
        /// Its successor.
        successor: KeyId,
        /// For how long the key still works.
        grace_seconds: u32,
    },
    /// A key was revoked.
    KeyRevoked {
        /// The key.
        key: KeyId,
    },
    /// A key is over: its time has come.
    KeyExpired {
        /// The key.
        key: KeyId,
    },
    /// Description, scopes, expiry or cap of a key were changed.
    KeyChanged {
        /// The key.
        key: KeyId,
        /// The names of the fields.
        fields: Vec<String>,
    },
    /// A key was not revoked, for an account keeps one that manages keys.
    KeyKept {
        /// The key.
        key: KeyId,
    },
    /// The plan was changed.
    PlanChanged {
        /// The name of the plan before.
        from: String,
        /// The name of the plan after.
        to: String,
    },
    /// An admin gave or took credits.
    CreditsAdjusted {
        /// How many; below 0 if they were taken.
        amount: i64,
    },
    /// Every key of the account is refused from now on.
    Suspended,
    /// No more.
    Reactivated,
    /// The account has another e-mail address, which is not told here.
    EmailChanged,
    /// Less than a quarter of the plan's credits is left.
    CreditsLow {
        /// What is left.
        remaining: u64,
        /// The plan's credits.
        limit: u64,
    },
    /// No credits are left.
    CreditsExhausted {
        /// The plan's credits.
        limit: u64,
    },
    /// More than nine tenths of the room for memories is taken.
    MemoryNearLimit {
        /// Memories held.
        held: u64,
        /// The plan's room.
        limit: u64,
    },
    /// An admin's request was let in.
    AdminGranted {
        /// The route's template.
        route: String,
    },
    /// Requests that were not the admin's asked for an admin's route.
    AdminRefused {
        /// The route's template of the first of them.
        route: String,
        /// How many they were.
        count: u64,
    },
    /// The admin key that everybody knows is in use.
    DefaultAdminKey,
    /// Data of the old program was imported.
    Imported {
        /// Accounts.
        accounts: u64,
        /// Memories.
        memories: u64,
    },
    /// The database was restored from a backup.
    Restored {
        /// When the backup was made.
        made_at: Timestamp,
    },
    /// The clock was set back.
    ClockStep {
        /// By how many seconds; below 0.
        seconds: i64,
    },
    /// The account was erased.
    Erased {
        /// The id of the receipt.
        receipt: String,
        /// Memories that went.
        memories: u64,
        /// Keys that went.
        keys: u64,
        /// Rows of the ledger that are kept under a random id.
        ledger_rows_kept: u64,
    },
    /// Plans and prices were applied from a file.
    CatalogApplied {
        /// How many plans there are now.
        plans: u64,
    },
}

impl EventKind {
    /// Returns the name of what happened.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SignedUp { .. } => "account.created",
            Self::KeyCreated { .. } => "key.created",
            Self::KeyRotated { .. } => "key.rotated",
            Self::KeyRevoked { .. } => "key.revoked",
            Self::KeyExpired { .. } => "key.expired",
            Self::KeyChanged { .. } => "key.changed",
            Self::KeyKept { .. } => "key.revoke_refused",
            Self::PlanChanged { .. } => "plan.changed",
            Self::CreditsAdjusted { .. } => "credits.adjusted",
            Self::Suspended => "account.suspended",
            Self::Reactivated => "account.reactivated",
            Self::EmailChanged => "account.email_changed",
            Self::CreditsLow { .. } => "credits.low",
            Self::CreditsExhausted { .. } => "credits.exhausted",
            Self::MemoryNearLimit { .. } => "memory.near_limit",
            Self::AdminGranted { .. } => "admin.granted",
            Self::AdminRefused { .. } => "admin.refused",
            Self::DefaultAdminKey => "admin.default_key",
            Self::Imported { .. } => "data.imported",
            Self::Restored { .. } => "data.restored",
            Self::ClockStep { .. } => "clock.step",
            Self::Erased { .. } => "account.erased",
            Self::CatalogApplied { .. } => "plans.applied",
        }
    }

    /// Says whether the audit log keeps it. What a receiver of webhooks alone wants to know is not kept.
    #[must_use]
    pub const fn is_audited(&self) -> bool {
        !matches!(
            self,
            Self::CreditsLow { .. } | Self::CreditsExhausted { .. } | Self::MemoryNearLimit { .. }
        )
    }

    /// Returns what else is known of it, as JSON; no secret, no address.
    #[must_use]
    pub fn details(&self) -> serde_json::Value {
        use serde_json::json;
        match self {
            Self::SignedUp { plan } => json!({ "plan": plan }),
            Self::KeyCreated { key }
            | Self::KeyRevoked { key }
            | Self::KeyExpired { key }
            | Self::KeyKept { key } => json!({ "key_id": key.as_str() }),
            Self::KeyRotated {
                key,
                successor,
                grace_seconds,
            } => json!({
                "key_id": key.as_str(),
                "successor": successor.as_str(),
                "grace_seconds": grace_seconds
            }),
            Self::KeyChanged { key, fields } => json!({ "key_id": key.as_str(), "fields": fields }),
            Self::PlanChanged { from, to } => json!({ "from": from, "to": to }),
            Self::CreditsAdjusted { amount } => json!({ "amount": amount }),
            Self::CreditsLow { remaining, limit } => {
                json!({ "credits_remaining": remaining, "credits_limit": limit })
            }
            Self::CreditsExhausted { limit } => {
                json!({ "credits_remaining": 0, "credits_limit": limit })
            }
            Self::MemoryNearLimit { held, limit } => {
                json!({ "memory_count": held, "memory_limit": limit })
            }
            Self::AdminGranted { route } => json!({ "route": route }),
            Self::AdminRefused { route, count } => json!({ "route": route, "count": count }),
            Self::Imported { accounts, memories } => {
                json!({ "accounts": accounts, "memories": memories })
            }
            Self::Restored { made_at } => json!({ "made_at": made_at.to_string() }),
            Self::ClockStep { seconds } => json!({ "seconds": seconds }),
            Self::Erased {
                receipt,
                memories,
                keys,
                ledger_rows_kept,
            } => json!({
                "receipt_id": receipt,
                "memories": memories,
                "keys": keys,
                "ledger_rows_kept": ledger_rows_kept
            }),
            Self::CatalogApplied { plans } => json!({ "plans": plans }),
            Self::Suspended | Self::Reactivated | Self::EmailChanged | Self::DefaultAdminKey => {
                json!({})
            }
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number within the record that carries it: 1 for the first, without gaps.
    pub no: u64,
    /// When.
    pub at: Timestamp,
    /// Who, why, by which request.
    pub cause: Cause,
    /// What.
    pub kind: EventKind,
}

/// Events on their way out of the record that carries them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventTail {
    /// The number given last.
    pub last_no: u64,
    /// The events, by number.
    pub events: Vec<Event>,
}

impl EventTail {
    /// Adds an event; its number is given here.
    pub fn push(&mut self, at: Timestamp, cause: Cause, kind: EventKind) {
        self.last_no = self.last_no.saturating_add(1);
        self.events.push(Event {
            no: self.last_no,
            at,
            cause,
            kind,
        });
    }

    /// Drops events that have been handed over.
    pub fn moved(&mut self, through: u64) {
        self.events.retain(|event| event.no > through);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_trimmed_and_bounded() {
        // Shows the bounds in characters, not bytes, on both sides of each.
        let longest = "ä".repeat(REASON_CHARS_MAX);
        let padded = format!(" {longest}\n");
        assert_eq!(parse_reason(&padded), Ok(longest.clone()));
        assert_eq!(parse_reason(" x "), Ok("x".to_owned()));
        for bad in [
            format!("{longest}x"),
            String::new(),
            " \t ".to_owned(),
            "a\nb".to_owned(),
        ] {
            assert_eq!(parse_reason(&bad), Err(BadReason), "{bad:?}");
        }
    }

    #[test]
    fn events_are_numbered_and_go_in_order() {
        let mut tail = EventTail::default();
        let at = Timestamp::from_micros(0);
        tail.push(at, Cause::service(), EventKind::Suspended);
        tail.push(at, Cause::service(), EventKind::Reactivated);
        tail.moved(1);
        tail.push(at, Cause::service(), EventKind::Suspended);
        let left: Vec<_> = tail.events.iter().map(|e| (e.no, e.kind.name())).collect();
        assert_eq!(left, [(2, "account.reactivated"), (3, "account.suspended")]);
    }
}
