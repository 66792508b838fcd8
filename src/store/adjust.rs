//! Credits that an admin gives or takes.
//!
//! Three steps: the swap of the usage, with its intent, its row of the ledger and its event; the recorded
//! answer; the intent done. On open, an intent without its answer is undone: nobody was told of it. All of it
//! is done alone, so that nothing of what was given can be spent before the answer is recorded.

use crate::domain::account::AccountKey;
use crate::domain::event::Cause;
use crate::domain::time::Timestamp;
use crate::domain::usage::{Refusal, Usage};

use super::replays::Replay;
use super::swap::SwapError;
use super::{Inner, OpError, Store};

/// Credits to be given or taken.
#[derive(Debug)]
pub struct Adjust<'a> {
    /// The account.
    pub account: AccountKey,
    /// How many, [`crate::domain::usage::ADJUST_MAX`] at most; below 0 to take them.
    pub amount: i64,
    /// The time.
    pub now: Timestamp,
    /// Who, and why.
    pub cause: Cause,
    /// The request's `Idempotency-Key`, under which the answer is recorded.
    pub replay: &'a Replay,
}

impl Store {
    /// Gives credits of the running cycle, or takes some that are left. `respond` makes the answer's body of
    /// the usage after it; it is recorded with status 200 and returned.
    ///
    /// # Errors
    ///
    /// [`Refusal::TooFewToTake`]; nothing was changed then.
    pub async fn adjust(
        &self,
        adjust: Adjust<'_>,
        respond: impl FnOnce(&Usage) -> String,
    ) -> Result<String, OpError<Refusal>> {
        let inner = self.inner()?;
        let ticket = inner.admit()?;
        let step = || inner.adjust(&adjust, respond);
        let body = inner.run_alone(adjust.account, step).await?;
        ticket.commit().await?;
        Ok(body)
    }
}

impl Inner {
    fn adjust(
        &self,
        adjust: &Adjust<'_>,
        respond: impl FnOnce(&Usage) -> String,
    ) -> Result<String, SwapError<Refusal>> {
        let Adjust {
            account,
            amount,
            now,
            ref cause,
            replay,
        } = *adjust;
        let (intent, usage) = self.swap_usage(account, |usage| {
            let intent = usage.begin_adjust(amount, replay.key, now, cause.clone())?;
            Ok((intent, usage.clone()))
        })?;
        let steps = self.steps();
        let body = respond(&usage);
        self.record_replay(account, replay, intent.op, 200, &body, now)?;
        self.locks.mark_done(account, intent.op);
        // Not left to the account's next swap: by then the answer could be a day old and swept, and the next
        // start would take the intent for one that was never answered.
        self.swap_usage::<_, Refusal>(account, |_| Ok(()))?;
        steps.complete();
        Ok(body)
    }
}
