//! Records of version 1, from before keys had scopes and accounts a ledger, as what they are now.

use serde::Deserialize;

use crate::domain::account::AccountKey;
use crate::domain::event::EventTail;
use crate::domain::key::{KeyHash, KeyId};
use crate::domain::ledger::LedgerTail;
use crate::domain::memory::MemoryId;
use crate::domain::plan::{PlanNo, Plans};
use crate::domain::scope::Scopes;
use crate::domain::time::Timestamp;
use crate::domain::usage::{
    Intent as IntentNow, IntentKind, KeyNo, Share as ShareNow, Told, Usage as UsageNow,
};

use super::super::codec::decode_older;
use super::super::error::StoreError;
use super::{AccountRecord, ActiveKey, KeyRecord, Retired, Revoked as RevokedNow};

#[derive(Deserialize)]
struct Account {
    name: Option<String>,
    created_at: Timestamp,
    active: Vec<Active>,
}

#[derive(Deserialize)]
struct Active {
    no: KeyNo,
    hash: KeyHash,
}

#[derive(Deserialize)]
struct Key {
    account: AccountKey,
    no: KeyNo,
    id: KeyId,
    masked: String,
    description: String,
    created_at: Timestamp,
    created_by: Option<String>,
    revoked: Option<Revoked>,
}

#[derive(Deserialize)]
struct Revoked {
    at: Timestamp,
    by: Option<String>,
    cycle: u32,
    share: Share,
    last_op: u64,
}

#[derive(Deserialize)]
struct Usage {
    plan: PlanNo,
    anchor: Timestamp,
    cycle: u32,
    cycle_end: Timestamp,
    granted: u64,
    used: u64,
    used_ever: u64,
    held: u64,
    last_activity: Option<Timestamp>,
    newest: MemoryId,
    next_op: u64,
    next_key_no: KeyNo,
    stats_due: u64,
    shares: Vec<Share>,
    intents: Vec<Intent>,
}

#[derive(Deserialize)]
struct Share {
    key_no: KeyNo,
    cap: Option<PlanNo>,
    used: u64,
    used_ever: u64,
    held: u64,
    last_activity: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Intent {
    op: u64,
    cycle: u32,
    key_no: KeyNo,
    memory: MemoryId,
    // Its variants of then are the first of those of now.
    kind: IntentKind,
}

impl Share {
    fn now(self) -> ShareNow {
        ShareNow {
            used: self.used,
            used_ever: self.used_ever,
            held: self.held,
            last_activity: self.last_activity,
            cap: self.cap,
            ..ShareNow::new(self.key_no, None)
        }
    }
}

/// Every key was its own lineage.
pub(super) fn account(bytes: &[u8]) -> Result<AccountRecord, StoreError> {
    let old: Account = decode_older(bytes)?;
    let active = old.active.into_iter().map(|key| ActiveKey {
        no: key.no,
        hash: key.hash,
        lineage: key.no,
    });
    Ok(AccountRecord::new(
        old.name,
        old.created_at,
        active.collect(),
    ))
}

/// Every key could do everything, for ever.
pub(super) fn key(bytes: &[u8]) -> Result<KeyRecord, StoreError> {
    let old: Key = decode_older(bytes)?;
    let (revoked, retired) = match old.revoked {
        None => (None, None),
        Some(revoked) => (
            Some(RevokedNow {
                at: revoked.at,
                by: revoked.by,
                expired: false,
            }),
            Some(Retired {
                cycle: revoked.cycle,
                share: revoked.share.now(),
                last_op: revoked.last_op,
            }),
        ),
    };
    Ok(KeyRecord {
        account: old.account,
        no: old.no,
        id: old.id,
        masked: old.masked,
        description: old.description,
        created_at: old.created_at,
        created_by: old.created_by,
        lineage: old.no,
        scopes: Scopes::ALL,
        expires_at: None,
        successor: None,
        revoked,
        retired,
    })
}

/// There was no ledger: it begins with what there is.
pub(super) fn usage(bytes: &[u8]) -> Result<UsageNow, StoreError> {
    let old: Usage = decode_older(bytes)?;
    let intents = old.intents.into_iter().map(|intent| IntentNow {
        op: intent.op,
        cycle: intent.cycle,
        key_no: intent.key_no,
        paid_by: intent.key_no,
        memory: intent.memory,
        kind: intent.kind,
    });
    let mut usage = UsageNow {
        plan: old.plan,
        anchor: old.anchor,
        cycle: old.cycle,
        cycle_end: old.cycle_end,
        granted: old.granted,
        used: old.used,
        used_ever: old.used_ever,
        held: old.held,
        last_activity: old.last_activity,
        newest: old.newest,
        next_op: old.next_op,
        next_key_no: old.next_key_no,
        stats_due: old.stats_due,
        shares: old.shares.into_iter().map(Share::now).collect(),
        intents: intents.collect(),
        ledger: LedgerTail::default(),
        events: EventTail::default(),
        told: Told::default(),
        // Set by whoever decodes the record; no plan is looked at here.
        plans: Plans::seed(),
    };
    let at = usage.last_activity.unwrap_or(usage.anchor);
    usage.open_ledger(at);
    Ok(usage)
}
