//! Keys: listed, made, changed, rotated, revoked.

use crate::app::{
    App, Caller, CreateKey, CreatedKey, Failure, KeyAddress, KeyChange, KeyLimits, OwnerName,
};
use crate::cli::out::beside;
use crate::clock::Clock;
use crate::domain::event::Cause;
use crate::domain::scope::Scope;

use super::args::{KeyCommand, key_id};
use super::{Out, Trouble, cause, column, target};

pub(super) async fn list(app: &App, account: &str, all: bool, out: &Out) -> Result<(), Trouble> {
    let (_, keys) = app.user(&target(account), all).await?;
    for key in keys {
        let status = if key.ended_at.is_none() {
            "active"
        } else {
            "inactive"
        };
        let (id, masked, made) = (key.id, key.masked, key.created_at);
        let description = column(&key.description);
        out.line(format_args!(
            "{id}\t{status}\t{masked}\t{made}\t{description}"
        ));
    }
    Ok(())
}

pub(super) async fn perform(app: &App, command: KeyCommand, out: &Out) -> Result<(), Trouble> {
    match command {
        KeyCommand::New {
            account,
            plan,
            bounds,
            reason,
            ..
        } => {
            let asked = bounds
                .asked(Clock::System.now())
                .map_err(Trouble::Argument)?;
            let plan = plan.map(|plan| app.plans().get(&plan)).transpose();
            let request = CreateKey {
                owner: None,
                plan: plan.map_err(Failure::from)?,
                description: asked.description,
                limits: KeyLimits {
                    expires_at: asked.expires_at.flatten(),
                    scopes: asked.scopes,
                    credits_per_cycle: asked.credits_cap.flatten(),
                },
            };
            new(app, &account, request, cause(reason.as_deref())?, out).await
        }
        KeyCommand::Rotate {
            key,
            grace_seconds,
            reason,
            ..
        } => rotate(app, &key, grace_seconds, cause(Some(&reason))?, out).await,
        KeyCommand::Change {
            key,
            bounds,
            reason,
            ..
        } => {
            let asked = bounds
                .asked(Clock::System.now())
                .map_err(Trouble::Argument)?;
            change(app, &key, asked, cause(Some(&reason))?, out).await
        }
        KeyCommand::Revoke { key, reason, .. } => {
            let (address, cause) = (address(&key)?, cause(reason.as_deref())?);
            let revoked = app.revoke_key(&Caller::Admin, address, cause).await?.key;
            out.line(format_args!("{} is revoked", revoked.id));
            Ok(())
        }
    }
}

async fn new(
    app: &App,
    account: &str,
    request: CreateKey,
    cause: Cause,
    out: &Out,
) -> Result<(), Trouble> {
    let (row, _) = app.user(&target(account), false).await?;
    let request = CreateKey {
        owner: Some(OwnerName::AccountId(row.account_id)),
        ..request
    };
    let made = app.create_key(&Caller::Admin, request, cause).await?;
    print(&made, out)?;
    if row.suspended {
        beside(format_args!(
            "the account is suspended: its keys are refused until it is reactivated"
        ));
    }
    Ok(())
}

async fn rotate(
    app: &App,
    key: &str,
    grace_seconds: u32,
    cause: Cause,
    out: &Out,
) -> Result<(), Trouble> {
    let address = address(key)?;
    let rotated = app.rotate_key(&Caller::Admin, address, grace_seconds, cause);
    let rotated = rotated.await?;
    print(&rotated.successor, out)?;
    let old = rotated.old;
    match old.expires_at.filter(|_| old.ended_at.is_none()) {
        Some(until) => beside(format_args!("{} works until {until}", old.id)),
        None => beside(format_args!("{} is revoked", old.id)),
    }
    Ok(())
}

async fn change(
    app: &App,
    key: &str,
    change: KeyChange,
    cause: Cause,
    out: &Out,
) -> Result<(), Trouble> {
    let address = address(key)?;
    let (_, key) = app
        .change_key(&Caller::Admin, address, change, cause)
        .await?;
    let scopes: Vec<&str> = key.scopes_now().iter().map(Scope::name).collect();
    let end = key
        .expires_at
        .map_or("never".to_owned(), |end| end.to_string());
    let most = key
        .share
        .credits_cap
        .map_or("none".to_owned(), |most| most.to_string());
    out.line(format_args!(
        "{}\tscopes {}\texpires_at {end}\tcredits_per_cycle {most}\t{}",
        key.id,
        scopes.join(","),
        column(&key.description)
    ));
    Ok(())
}

/// Prints a key and nothing else, and beside it what is no part of it.
fn print(made: &CreatedKey, out: &Out) -> Result<(), Trouble> {
    let printed = out.once(made.secret.reveal());
    printed.map_err(|error| Trouble::Lost(made.key.id.clone(), error))?;
    beside(format_args!(
        "{} of {}; it cannot be shown again",
        made.key.id, made.account_id
    ));
    Ok(())
}

fn address(key: &str) -> Result<KeyAddress, Trouble> {
    key_id(key).map(KeyAddress::Id).map_err(Trouble::Argument)
}
