//! Credits: given, taken, and what the ledger tells of them.

use std::fmt::Display;

use crate::app::{AdjustRequest, Adjusted, App, Failure, HISTORY_DAYS_MAX, LedgerRefusal, Span};
use crate::domain::key::KeyId;
use crate::domain::statement::{By, Group, Moved};
use crate::http::history_csv;

use super::{Out, Trouble, cause, column, target};

pub(super) async fn adjust(
    app: &App,
    account: &str,
    amount: i64,
    reason: &str,
    idempotency_key: Option<String>,
    out: &Out,
) -> Result<(), Trouble> {
    let cause = cause(Some(reason))?;
    let key = match idempotency_key {
        Some(key) => key,
        None => format!("once-{}", KeyId::generate().map_err(Failure::from)?),
    };
    let request = AdjustRequest {
        target: target(account),
        amount,
        idempotency: (key, format!("{amount} {reason}").into_bytes()),
    };
    let respond = |adjusted: &Adjusted<'_>| {
        let left = adjusted.usage.balance().credits_remaining;
        format!("{} has {left} credits left", adjusted.account_id)
    };
    let done = app.adjust_credits(&request, cause, respond).await?;
    let before = if done.replayed {
        ", as said before"
    } else {
        ""
    };
    out.line(format_args!("{}{before}", done.body));
    Ok(())
}

/// The fields of `GET /admin/user/{key}/statement`, by its names.
pub(super) async fn statement(
    app: &App,
    account: &str,
    cycle: Option<u32>,
    out: &Out,
) -> Result<(), Trouble> {
    let account = app.account_meant(&target(account))?;
    let (id, statement) = app.statement(account, cycle).await.map_err(refused)?;
    let line = |name: &str, value: &dyn Display| out.line(format_args!("{name}\t{value}"));
    line("account_id", &id);
    line("cycle", &statement.cycle);
    line("start", &statement.start);
    line("end", &statement.end);
    line("is_current", &statement.is_current);
    line("opening", &statement.opening);
    line("granted", &statement.granted);
    line("bonus", &statement.bonus);
    line("adjusted", &statement.adjusted);
    line("plan_changes", &statement.plan_changes);
    line("spent", &statement.spent);
    line("refunded", &statement.refunded);
    line("closing", &statement.closing);
    line("lapsed", &statement.lapsed);
    Ok(())
}

pub(super) async fn history(
    app: &App,
    account: &str,
    span: Span,
    by: &str,
    csv: bool,
    out: &Out,
) -> Result<(), Trouble> {
    let by = By::parse(by).unwrap_or_default();
    let account = app.account_meant(&target(account))?;
    let found = app.history(account, span, by).await.map_err(refused)?;
    if csv {
        out.text(format_args!("{}", history_csv(by, &found)));
        return Ok(());
    }
    let line = |name: &str, moved: &Moved| {
        let Moved {
            granted,
            spent,
            refunded,
            adjusted,
            count,
        } = moved;
        out.line(format_args!(
            "{name}\t{granted}\t{spent}\t{refunded}\t{adjusted}\t{count}"
        ));
    };
    for (group, moved) in &found.history.groups {
        match group {
            Group::Day(day) => {
                let text = day.to_string();
                line(text.split('T').next().unwrap_or_default(), moved);
            }
            Group::Named(name) => line(name, moved),
            Group::Key(no) => {
                let (id, description) = found.keys.get(no).cloned().unwrap_or_default();
                // What no key paid for has neither.
                let id = if id.is_empty() { "-" } else { &id };
                line(&format!("{id}\t{}", column(&description)), moved);
            }
        }
    }
    let all = if by == By::Key { "total\t" } else { "total" };
    line(all, &found.history.total);
    Ok(())
}

fn refused(refusal: LedgerRefusal) -> Trouble {
    Trouble::Argument(match refusal {
        LedgerRefusal::Backwards => "--to must not be before --from".to_owned(),
        LedgerRefusal::TooLong => {
            format!("--to: at most {HISTORY_DAYS_MAX} days from --from on; ask for parts")
        }
        LedgerRefusal::NoSuchCycle(current) => {
            format!("--cycle: the current billing cycle is {current}; there is none after it")
        }
        LedgerRefusal::Failed(failure) => return Trouble::Failed(failure),
    })
}
