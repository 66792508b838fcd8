//! Fuzz target of stored records: what a damaged file may hold.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::account::AccountKey;
use crate::domain::event::Cause;
use crate::domain::key::KeyHash;
use crate::domain::memory::MemoryId;
use crate::domain::plan::Operation;
use crate::domain::plan::Plans;
use crate::domain::time::Timestamp;
use crate::domain::usage::Payer;
use crate::domain::usage::Usage;
use crate::fuzzing::{Outcome, ensure};

use super::StoreError;
use super::codec::{Record, decode, decode_borrowed, decode_long, encode, encode_long};
use super::schema::{AccountRecord, KeyIntent, KeyRecord, MemoryHead, ReplayRecord, StatsHead};
use super::stats::{Counts, Delta};
use super::usage::decode_usage;

/// 1 January 2026.
const NOW: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// A record: one byte for its kind, then the bytes that a tree would hold. One that can be read is
/// written again, in no more bytes, and read again as the same; no rule of the domain trips over it.
///
/// # Errors
///
/// What does not hold.
pub(crate) fn stored_records(bytes: &[u8]) -> Outcome {
    let Some((kind, bytes)) = bytes.split_first() else {
        return Ok(());
    };
    match kind % 11 {
        0 => owned::<AccountRecord>(bytes),
        1 => owned::<KeyRecord>(bytes),
        2 => {
            owned::<Usage>(bytes)?;
            decode_usage(bytes, Plans::seed()).map_or(Ok(()), |usage| usage_obeys(&usage))
        }
        3 => again(
            decode_borrowed::<MemoryHead<'_>>(bytes),
            bytes,
            encode,
            |bytes| encode(&decode_borrowed::<MemoryHead<'_>>(bytes)?),
        ),
        4 => again(
            decode_borrowed::<ReplayRecord<'_>>(bytes),
            bytes,
            encode,
            |bytes| encode(&decode_borrowed::<ReplayRecord<'_>>(bytes)?),
        ),
        5 => owned::<StatsHead>(bytes),
        6 => again(decode_long::<Counts>(bytes), bytes, encode_long, |bytes| {
            encode_long(&decode_long::<Counts>(bytes)?)
        }),
        7 => again(
            decode_borrowed::<Delta<'_>>(bytes),
            bytes,
            encode,
            |bytes| encode(&decode_borrowed::<Delta<'_>>(bytes)?),
        ),
        8 => owned::<KeyIntent>(bytes),
        9 => owned::<AccountKey>(bytes),
        _ => owned::<KeyHash>(bytes),
    }
}

fn owned<T: Record + Serialize + DeserializeOwned>(bytes: &[u8]) -> Outcome {
    // What is read of an older version is written as of this one; that it can be read is enough.
    if bytes.first().is_some_and(|version| *version < T::VERSION) {
        let Ok(record) = decode::<T>(bytes) else {
            return Ok(());
        };
        let Ok(written) = encode(&record) else {
            return Ok(());
        };
        return owned::<T>(&written);
    }
    again(decode::<T>(bytes), bytes, encode, |bytes| {
        encode(&decode::<T>(bytes)?)
    })
}

/// Checks that what was read is written, and that what was written is read and written as the same.
fn again<T>(
    read: Result<T, StoreError>,
    bytes: &[u8],
    write: impl Fn(&T) -> Result<Vec<u8>, StoreError>,
    read_and_write: impl Fn(&[u8]) -> Result<Vec<u8>, StoreError>,
) -> Outcome {
    let Ok(record) = read else { return Ok(()) };
    let written = match write(&record) {
        Ok(written) => written,
        // sled never gave out so long a value.
        Err(_) if bytes.len() > super::codec::VALUE_BYTES_MAX => return Ok(()),
        Err(error) => return Err(format!("read, but not written: {error}")),
    };
    // A number may stand in more bytes than it needs; nothing may stand behind the record.
    ensure!(
        written.len() <= bytes.len(),
        "{} bytes became {}",
        bytes.len(),
        written.len()
    );
    let next = read_and_write(&written).map_err(|error| format!("not read again: {error}"))?;
    ensure!(next == written, "read again as another");
    let longer = [bytes, &[0]].concat();
    ensure!(
        read_and_write(&longer).is_err(),
        "a record with a byte too many is read"
    );
    Ok(())
}

/// Does with a record of usage what requests do.
fn usage_obeys(usage: &Usage) -> Outcome {
    let payer = Payer::first(usage.shares.first().map_or(1, |share| share.key_no));
    let spent = |usage: &Usage| (usage.used, usage.held);
    for now in [
        usage.cycle_end,
        NOW,
        Timestamp::from_micros(i64::MIN),
        Timestamp::from_micros(i64::MAX),
    ] {
        let mut usage = usage.clone();
        usage.roll_over(now);
        let rolled = usage.clone();
        let was_sound = rolled.used <= rolled.granted;
        ensure!(usage.roll_over(now).is_none(), "a cycle is granted twice");
        let before = usage.balance();
        match usage.debit(payer, Operation::ReadMemory, 1, now) {
            Ok(after) => ensure!(
                after.credits_remaining < before.credits_remaining && usage.used <= usage.granted,
                "a debit that took nothing"
            ),
            Err(_) => ensure!(usage == rolled, "a refused debit leaves a trace"),
        }
        usage = rolled.clone();
        match usage.begin_add(payer, MemoryId::new(NOW.millis(), 7), 2, None, now) {
            Ok((intent, _)) => {
                usage.undo(&intent);
                // At the end of what a counter holds it stays, and no two writes have one number.
                let counts =
                    usage.held < u64::MAX && rolled.intents.iter().all(|i| i.op != intent.op);
                ensure!(
                    !counts || (spent(&usage) == spent(&rolled) && usage.intents == rolled.intents),
                    "an add that was undone leaves a trace"
                );
            }
            Err(_) => ensure!(usage == rolled, "a refused add leaves a trace"),
        }
        for intent in rolled.intents.iter().chain(&usage.intents.clone()) {
            usage.undo(intent);
        }
        for plan in Plans::seed().iter() {
            usage.change_plan(plan, now, Cause::service());
            ensure!(
                !was_sound || usage.used <= usage.granted,
                "{plan}: more used than granted"
            );
        }
    }
    Ok(())
}
