//! Accounts: listed, shown, put on a plan, suspended, moved, erased, counted.

use std::fmt::Display;

use crate::app::{AccountFilter, App, Failure};
use crate::domain::event::Cause;

use super::args::address;
use super::{Out, Trouble, target};

/// Accounts that are read at a time.
const PAGE: u64 = 1_000;

pub(super) async fn list(
    app: &App,
    email_prefix: Option<String>,
    out: &Out,
) -> Result<(), Trouble> {
    let mut skip = 0u64;
    loop {
        let filter = AccountFilter {
            contains: None,
            email_prefix: email_prefix.clone(),
        };
        let page = app.accounts(filter, skip, PAGE).await?;
        for row in &page.rows {
            let balance = row.usage.balance();
            out.line(format_args!(
                "{}\t{}\t{}\t{}\t{}\t{}",
                row.account_id,
                balance.plan,
                row.status(),
                balance.credits_remaining,
                balance.memory_count,
                row.keys.len()
            ));
        }
        skip = skip.saturating_add(PAGE);
        if page.rows.is_empty() || skip >= page.total || !out.is_open() {
            return Ok(());
        }
    }
}

/// The fields of `GET /admin/user/{key}`, by its names.
pub(super) async fn show(app: &App, account: &str, out: &Out) -> Result<(), Trouble> {
    let (row, keys) = app.user(&target(account), true).await?;
    let balance = row.usage.balance();
    let line = |name: &str, value: &dyn Display| out.line(format_args!("{name}\t{value}"));
    line("account_id", &row.account_id);
    line("email", &row.email.as_deref().unwrap_or("-"));
    line("plan", &balance.plan);
    line("status", &row.status());
    line("status_since", &row.standing_since);
    line("created_at", &row.created_at);
    match &row.usage.last_activity {
        Some(at) => line("last_activity", at),
        None => line("last_activity", &"-"),
    }
    line("credits_remaining", &balance.credits_remaining);
    line("credits_used_this_cycle", &balance.credits_used);
    line("total_credits_used", &balance.credits_used_ever);
    line("reset_date", &balance.reset);
    line("memory_count", &balance.memory_count);
    line("memory_limit", &balance.memory_limit);
    line("active_keys", &row.keys.len());
    line("total_keys", &keys.len());
    Ok(())
}

pub(super) async fn plan(
    app: &App,
    account: &str,
    plan: &str,
    cause: Cause,
    out: &Out,
) -> Result<(), Trouble> {
    let plan = app.plans().get(plan).map_err(Failure::from)?;
    let changed = app.change_plan(&target(account), plan, cause).await?;
    let left = changed.usage.balance().credits_remaining;
    let (id, before) = (changed.account_id, changed.previous);
    out.line(format_args!(
        "{id} is on {plan}, was on {before}; {left} credits left"
    ));
    Ok(())
}

pub(super) async fn stand(
    app: &App,
    account: &str,
    suspended: bool,
    cause: Cause,
    out: &Out,
) -> Result<(), Trouble> {
    let row = app.suspend(&target(account), suspended, cause).await?;
    let (id, status, since) = (&row.account_id, row.status(), row.standing_since);
    out.line(format_args!("{id} is {status} since {since}"));
    Ok(())
}

pub(super) async fn email(
    app: &App,
    account: &str,
    email: &str,
    cause: Cause,
    out: &Out,
) -> Result<(), Trouble> {
    let email = address(email).map_err(Trouble::Argument)?;
    let moved = app.change_email(&target(account), &email, cause).await?;
    let (before, now) = (moved.previous_account_id, moved.account_id);
    out.line(format_args!("{before} is {now} now"));
    Ok(())
}

pub(super) async fn erase(
    app: &App,
    account: &str,
    confirm: &str,
    cause: Cause,
    out: &Out,
) -> Result<(), Trouble> {
    let receipt = app.erase_user(&target(account), confirm, cause).await?;
    let (id, at, erased) = (receipt.id, receipt.at, receipt.erased);
    out.line(format_args!(
        "{id}: erased at {at}: {} memories, {} keys, {} recorded answers; {} rows of the ledger are kept",
        erased.memories, erased.keys, erased.recorded_answers, erased.ledger_rows_kept
    ));
    Ok(())
}

pub(super) async fn sync(app: &App, cause: Cause, out: &Out) -> Result<(), Trouble> {
    app.operator_let_in("memoryos admin sync", cause);
    let (accounts, corrected) = app.sync_memory_counts().await?;
    for (id, was, is) in &corrected {
        out.line(format_args!("{id}\t{was}\t{is}"));
    }
    let wrong = corrected.len();
    out.line(format_args!(
        "{accounts} accounts counted, {wrong} corrected"
    ));
    Ok(())
}
