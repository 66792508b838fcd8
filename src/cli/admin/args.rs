//! What `memoryos admin` is asked, and what of it is wrong.

use clap::{Args, Subcommand};

use crate::app::{KeyChange, Span};
use crate::config::DataArgs;
use crate::domain::account::Email;
use crate::domain::event::{Actor, Cause, parse_reason};
use crate::domain::key::{
    DESCRIPTION_CHARS_MAX, GRACE_SECONDS_DEFAULT, GRACE_SECONDS_MAX, KeyId, parse_end,
};
use crate::domain::scope::{Scope, Scopes};
use crate::domain::statement::By;
use crate::domain::time::Timestamp;
use crate::domain::usage::ADJUST_MAX;

use super::HELP;

/// What an admin can do without a server.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AdminCommand {
    /// List accounts: id, plan, status, credits left, memories, active keys; separated by tabs
    Users {
        /// Only those whose e-mail begins so, in any case
        #[arg(long, value_name = "PREFIX")]
        email_prefix: Option<String>,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Show an account: a name and a value a line, separated by a tab
    Show {
        /// The account's id
        #[arg(value_name = "ID")]
        account: String,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Show the statement of a billing cycle: a name and a value a line, separated by a tab
    Statement {
        /// The account's id
        #[arg(value_name = "ID")]
        account: String,
        /// Which, counted from 0; the current one without
        #[arg(long, value_name = "N")]
        cycle: Option<u32>,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Add up an account's ledger: day (or key id and description, or operation), granted, spent, refunded, adjusted,
    /// count; separated by tabs, the last line their total
    History {
        /// The account's id
        #[arg(value_name = "ID")]
        account: String,
        /// The first instant, a date (UTC) or a time in RFC 3339; the current billing cycle's without
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// The first instant that is not in it; the current billing cycle's end without
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
        /// How rows are put together
        #[arg(long, value_name = "BY", default_value = By::default().name(),
              value_parser = By::ALL.map(By::name))]
        by: String,
        /// As CSV with a head, as GET /admin/user/{key}/history?format=csv
        #[arg(long)]
        csv: bool,
        #[command(flatten)]
        data: DataArgs,
    },
    /// List an account's keys: id, status, masked key, when it was made, description; separated by tabs
    Keys {
        /// The account's id
        #[arg(value_name = "ID")]
        account: String,
        /// The revoked ones too
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Make, change, rotate or revoke a key
    #[command(subcommand, after_help = HELP)]
    Key(KeyCommand),
    /// Change an account's plan
    Plan {
        /// The account's id
        #[arg(value_name = "ID")]
        account: String,
        /// The plan's name
        #[arg(value_name = "PLAN")]
        plan: String,
        /// Why, for the audit log
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Give credits of the running cycle, or take some that are left
    Credits {
        /// The account's id
        #[arg(value_name = "ID")]
        account: String,
        /// How many; below 0 to take them
        #[arg(value_name = "AMOUNT", allow_negative_numbers = true)]
        amount: i64,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
        /// Makes it safe to run again: the same key within a day does it once
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Refuse every key of an account; nothing of it is lost
    Suspend {
        /// The account's id
        #[arg(value_name = "ID")]
        account: String,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        data: DataArgs,
    },
    /// End a suspension
    Reactivate {
        /// The account's id
        #[arg(value_name = "ID")]
        account: String,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Move an account to another e-mail address, which is its id from then on
    Email {
        /// The account's id
        #[arg(value_name = "ID")]
        account: String,
        /// The new address
        #[arg(value_name = "NEW")]
        email: String,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Erase an account for ever: its memories, keys and e-mail; the ledger keeps amounts under a random id
    Erase {
        /// The account's id
        #[arg(value_name = "ID")]
        account: String,
        /// The account's id once more: nobody erases by accident
        #[arg(long, value_name = "ID")]
        confirm: String,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Count every account's memories and correct the counters: account id, count before, count found; separated
    /// by tabs, and a last line that sums up
    Sync {
        /// Why, for the audit log
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        data: DataArgs,
    },
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KeyCommand {
    /// Make a key and print it, and nothing else, to standard output; it cannot be shown again
    New {
        /// The account's id
        #[arg(long, value_name = "ID")]
        account: String,
        /// A plan that caps it
        #[arg(long, value_name = "PLAN")]
        plan: Option<String>,
        #[command(flatten)]
        bounds: KeyBounds,
        /// Why, for the audit log
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Give a key a successor as it is, and print that, and nothing else, to standard output; it cannot be shown again
    Rotate {
        /// The key's id, as `memoryos admin keys` shows it
        #[arg(value_name = "KEY_ID")]
        key: String,
        /// For how many seconds the old key still works, without managing keys; 0 if it has leaked
        #[arg(long, value_name = "N", default_value_t = GRACE_SECONDS_DEFAULT,
              value_parser = clap::value_parser!(u32).range(..=i64::from(GRACE_SECONDS_MAX)))]
        grace_seconds: u32,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Change what a key is called, what it may do, when it ends, or its credits
    Change {
        /// The key's id, as `memoryos admin keys` shows it
        #[arg(value_name = "KEY_ID")]
        key: String,
        #[command(flatten)]
        bounds: KeyBounds,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Revoke a key for ever, the last one of an account too
    Revoke {
        /// The key's id, as `memoryos admin keys` shows it
        #[arg(value_name = "KEY_ID")]
        key: String,
        /// Why, for the audit log
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        data: DataArgs,
    },
}

/// What can be said of a new key, and changed of one.
#[derive(Debug, Args)]
pub(in crate::cli) struct KeyBounds {
    /// What the key is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// What it may do, separated by commas: memory:read, memory:write, keys, account
    #[arg(long, value_name = "SCOPES", value_delimiter = ',')]
    scopes: Option<Vec<String>>,
    /// When it ends, a time in RFC 3339, or `never`
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// Most credits that it may spend in a billing cycle, or `none` for its plan's
    #[arg(long, value_name = "N")]
    credits_per_cycle: Option<String>,
}

impl KeyBounds {
    /// Returns what is asked of the key, or a sentence that names what is wrong.
    pub(super) fn asked(&self, now: Timestamp) -> Result<KeyChange, String> {
        let description = self.description.clone();
        let chars = description.as_ref().map_or(0, |text| text.chars().count());
        if chars > DESCRIPTION_CHARS_MAX {
            return Err(format!(
                "--description may have {DESCRIPTION_CHARS_MAX} characters"
            ));
        }
        let scopes = self.scopes.as_ref().map(|names| {
            Scopes::parse(names.iter().map(String::as_str)).map_err(|bad| {
                let known = Scope::ALL.map(Scope::name).join(", ");
                format!("--scopes: {bad} It must list some of: {known}.")
            })
        });
        let expires_at = self.expires_at.as_deref().map(|text| match text {
            "never" => Ok(None),
            text => parse_end(text, now)
                .map(Some)
                .map_err(|bad| format!("--expires-at: {bad} Or `never`.")),
        });
        let credits = self.credits_per_cycle.as_deref().map(|text| match text {
            "none" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                "--credits-per-cycle must be a whole number from 0 on, or `none`".to_owned()
            }),
        });
        Ok(KeyChange {
            description,
            scopes: scopes.transpose()?,
            expires_at: expires_at.transpose()?,
            credits_cap: credits.transpose()?,
        })
    }

    const fn is_empty(&self) -> bool {
        let Self {
            description,
            scopes,
            expires_at,
            credits_per_cycle,
        } = self;
        description.is_none()
            && scopes.is_none()
            && expires_at.is_none()
            && credits_per_cycle.is_none()
    }
}

impl AdminCommand {
    pub(super) const fn data(&self) -> &DataArgs {
        match self {
            Self::Users { data, .. }
            | Self::Keys { data, .. }
            | Self::Show { data, .. }
            | Self::Statement { data, .. }
            | Self::History { data, .. }
            | Self::Erase { data, .. }
            | Self::Sync { data, .. }
            | Self::Key(
                KeyCommand::New { data, .. }
                | KeyCommand::Rotate { data, .. }
                | KeyCommand::Change { data, .. }
                | KeyCommand::Revoke { data, .. },
            )
            | Self::Plan { data, .. }
            | Self::Credits { data, .. }
            | Self::Suspend { data, .. }
            | Self::Reactivate { data, .. }
            | Self::Email { data, .. } => data,
        }
    }
}

/// Says what is wrong with the arguments, as far as that shows without the data.
pub(super) fn check(command: &AdminCommand, now: Timestamp) -> Result<(), String> {
    match command {
        AdminCommand::Users { .. }
        | AdminCommand::Show { .. }
        | AdminCommand::Statement { .. }
        | AdminCommand::Keys { .. } => Ok(()),
        AdminCommand::History { from, to, .. } => span(from.as_deref(), to.as_deref()).map(drop),
        AdminCommand::Key(KeyCommand::New { bounds, reason, .. }) => {
            bounds.asked(now)?;
            why(reason.as_deref()).map(drop)
        }
        AdminCommand::Key(KeyCommand::Rotate { key, reason, .. }) => {
            key_id(key)?;
            why(Some(reason)).map(drop)
        }
        AdminCommand::Key(KeyCommand::Change {
            key,
            bounds,
            reason,
            ..
        }) => {
            key_id(key)?;
            if bounds.is_empty() {
                let some =
                    "nothing to change: --description, --scopes, --expires-at, --credits-per-cycle";
                return Err(some.to_owned());
            }
            bounds.asked(now)?;
            why(Some(reason)).map(drop)
        }
        AdminCommand::Key(KeyCommand::Revoke { key, reason, .. }) => {
            key_id(key)?;
            why(reason.as_deref()).map(drop)
        }
        AdminCommand::Plan { reason, .. } | AdminCommand::Sync { reason, .. } => {
            why(reason.as_deref()).map(drop)
        }
        AdminCommand::Credits {
            amount,
            reason,
            idempotency_key,
            ..
        } => {
            if !(1..=ADJUST_MAX).contains(&amount.unsigned_abs()) {
                return Err(format!("AMOUNT must not be 0, and {ADJUST_MAX} at most"));
            }
            let is_good = |key: &String| {
                (1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic())
            };
            if idempotency_key.as_ref().is_some_and(|key| !is_good(key)) {
                let bounds = "--idempotency-key must have 1 to 255 visible ASCII characters";
                return Err(bounds.to_owned());
            }
            why(Some(reason)).map(drop)
        }
        AdminCommand::Suspend { reason, .. }
        | AdminCommand::Reactivate { reason, .. }
        | AdminCommand::Erase { reason, .. } => why(Some(reason)).map(drop),
        AdminCommand::Email { email, reason, .. } => {
            address(email)?;
            why(Some(reason)).map(drop)
        }
    }
}

/// Who does it, and why.
pub(super) fn why(reason: Option<&str>) -> Result<Cause, String> {
    let reason = reason.map(parse_reason).transpose();
    let reason = reason.map_err(|bad| format!("--reason: {bad}"))?;
    Ok(Cause {
        actor: Actor::Operator,
        reason,
        request: None,
    })
}

pub(super) fn key_id(text: &str) -> Result<KeyId, String> {
    let form = "KEY_ID must be a key's id, key_ and 12 characters; `memoryos admin keys` shows it";
    KeyId::parse(text).ok_or_else(|| form.to_owned())
}

pub(super) fn address(text: &str) -> Result<Email, String> {
    Email::parse(text).map_err(|error| format!("NEW: {error}"))
}

/// The span that a history is asked of.
pub(super) fn span(from: Option<&str>, to: Option<&str>) -> Result<Span, String> {
    let instant = |name: &str, text: Option<&str>| {
        let parse = |text| Timestamp::parse_date(text).or_else(|| Timestamp::parse_rfc3339(text));
        let wrong = || {
            format!(
                "--{name} must be a date (2026-01-31) or a time in RFC 3339 (2026-01-31T09:15:00Z)"
            )
        };
        text.map(|text| parse(text).ok_or_else(wrong)).transpose()
    };
    Ok(Span {
        from: instant("from", from)?,
        to: instant("to", to)?,
    })
}
