//! `memoryos admin`: the admin's use cases on the data of a stopped server, by the service's own code.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;

use crate::app::{
    AccountFilter, AdjustRequest, Adjusted, AdminAccess, App, BackupSettings, Caller, CreateKey,
    Failure, KeyAddress, KeyLimits, OwnerName, RateLimits, Settings, Target,
};
use crate::clock::Clock;
use crate::config::{ConfigError, DataArgs};
use crate::domain::account::Email;
use crate::domain::event::{Actor, Cause, parse_reason};
use crate::domain::key::KeyId;
use crate::domain::usage::ADJUST_MAX;
use crate::http::ApiError;
use crate::store::{self, OpenError, Options, Store};

use super::{EXIT_FAILURE, EXIT_USAGE, fail, no_data};

/// Accounts that are read at a time.
const PAGE: u64 = 1_000;

pub(super) const HELP: &str = "\
Stop the server first: it and these commands cannot have the data at the same time.
While it runs, the routes under /admin/ do the same with the admin key.

Examples:
  memoryos admin users --email-prefix ana                    find an account
  memoryos admin keys ana@example.com                        its keys and their ids
  memoryos admin key new --account ana@example.com           a key for a user who lost all; printed once
  memoryos admin key revoke key_9bTq3MwE7hLp --reason leaked
  memoryos admin plan ana@example.com Pro --reason 'paid by invoice 17'
  memoryos admin credits ana@example.com 500 --reason 'outage of 14 February'
  memoryos admin credits ana@example.com -500 --reason 'given twice'
  memoryos admin suspend ana@example.com --reason 'invoice 17 overdue'
  memoryos admin reactivate ana@example.com --reason 'invoice 17 paid'
  memoryos admin email ana@example.com ana@example.org --reason 'she asked'

An account is named by its id, which is its e-mail, or acct_… if it has none.
What is done is on the disk when the command ends with 0, and in the audit log,
with its reason, as done by `operator`.

Exit codes: 0 done, 1 refused or the machine does not allow it, 2 an argument is wrong.";

/// What an admin can do without a server.
#[derive(Debug, Subcommand)]
pub(super) enum AdminCommand {
    /// List accounts: id, plan, status, credits left, memories, active keys; separated by tabs
    Users {
        /// Only those whose e-mail begins so, in any case
        #[arg(long, value_name = "PREFIX")]
        email_prefix: Option<String>,
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
    /// Make or revoke a key
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
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key and print it, and nothing else, to standard output; it cannot be shown again
    New {
        /// The account's id
        #[arg(long, value_name = "ID")]
        account: String,
        /// What the key is for
        #[arg(long)]
        description: Option<String>,
        /// Why, for the audit log
        #[arg(long)]
        reason: Option<String>,
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

impl AdminCommand {
    const fn data(&self) -> &DataArgs {
        match self {
            Self::Users { data, .. }
            | Self::Keys { data, .. }
            | Self::Key(KeyCommand::New { data, .. } | KeyCommand::Revoke { data, .. })
            | Self::Plan { data, .. }
            | Self::Credits { data, .. }
            | Self::Suspend { data, .. }
            | Self::Reactivate { data, .. }
            | Self::Email { data, .. } => data,
        }
    }
}

/// Why a command did not do what was asked.
enum Trouble {
    /// An argument is wrong; a sentence that names it.
    Argument(String),
    /// The rules or the disk said no.
    Failed(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Runs one command. The store is opened as a server opens it, and closed before the command ends.
pub(super) fn run(command: AdminCommand) -> ExitCode {
    crate::telemetry::start();
    let data = command.data().clone();
    // Wrong arguments end before the data is touched.
    if let Err(wrong) = check(&command) {
        return fail(EXIT_USAGE, &ConfigError(wrong));
    }
    if !store::holds_data(&data.data_dir) {
        return no_data(&data.data_dir);
    }
    let options = Options {
        cache_bytes: data.cache_mib << 20,
        ..Options::default()
    };
    let store = match Store::open(&data.data_dir, options) {
        Ok((store, _)) => store,
        Err(error @ OpenError::Locked(_)) => {
            let way_out = format!(
                "{error}; stop the server first, or ask it: the routes under /admin/ do the same"
            );
            return fail(EXIT_FAILURE, &ConfigError(way_out));
        }
        Err(error) => return fail(EXIT_FAILURE, &error),
    };
    let app = service(store, &data.data_dir);
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(EXIT_FAILURE, &error),
    };
    let outcome = runtime.block_on(perform(&app, command));
    drop(app);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Trouble::Argument(wrong)) => fail(EXIT_USAGE, &ConfigError(wrong)),
        Err(Trouble::Failed(Failure::InvalidPlan(unknown))) => fail(EXIT_USAGE, &unknown),
        Err(Trouble::Failed(failure)) => {
            let told = ApiError::from(failure);
            let words = format!("{}. {}", told.error, told.message);
            fail(EXIT_FAILURE, &ConfigError(words))
        }
    }
}

/// A service that nobody can call: its use cases are what is wanted.
fn service(store: Store, directory: &Path) -> App {
    let backups = BackupSettings::asked_only(directory.join(store::BACKUPS_FOLDER));
    let catalog = store.catalog();
    let settings = Settings {
        plans: catalog.plans,
        prices: catalog.prices,
        signup_plans: Vec::new(),
        admin: AdminAccess::Disabled,
        body_bytes_max: 65_536,
        public_url: None,
        backups,
        rate_limits: RateLimits::OFF,
        webhooks: Vec::new(),
        trusted_proxies: Vec::new(),
    };
    App::new(store, Clock::System, settings)
}

fn check(command: &AdminCommand) -> Result<(), String> {
    match command {
        AdminCommand::Users { .. } | AdminCommand::Keys { .. } => Ok(()),
        AdminCommand::Key(KeyCommand::New {
            description,
            reason,
            ..
        }) => {
            let is_long = |text: &String| text.chars().count() > 256;
            if description.as_ref().is_some_and(is_long) {
                return Err("--description may have 256 characters".to_owned());
            }
            why(reason.as_deref()).map(drop)
        }
        AdminCommand::Key(KeyCommand::Revoke { key, reason, .. }) => {
            key_id(key)?;
            why(reason.as_deref()).map(drop)
        }
        AdminCommand::Plan { reason, .. } => why(reason.as_deref()).map(drop),
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
        AdminCommand::Suspend { reason, .. } | AdminCommand::Reactivate { reason, .. } => {
            why(Some(reason)).map(drop)
        }
        AdminCommand::Email { email, reason, .. } => {
            address(email)?;
            why(Some(reason)).map(drop)
        }
    }
}

#[expect(clippy::print_stdout, reason = "what the command was asked for")]
async fn perform(app: &App, command: AdminCommand) -> Result<(), Trouble> {
    let cause = |reason: Option<&str>| why(reason).map_err(Trouble::Argument);
    match command {
        AdminCommand::Users { email_prefix, .. } => users(app, email_prefix).await?,
        AdminCommand::Keys { account, all, .. } => keys(app, &account, all).await?,
        AdminCommand::Key(KeyCommand::New {
            account,
            description,
            reason,
            ..
        }) => new_key(app, &account, description, cause(reason.as_deref())?).await?,
        AdminCommand::Key(KeyCommand::Revoke { key, reason, .. }) => {
            let cause = cause(reason.as_deref())?;
            let address = KeyAddress::Id(key_id(&key).map_err(Trouble::Argument)?);
            let revoked = app.revoke_key(&Caller::Admin, address, cause).await?.key;
            println!("{} is revoked", revoked.id);
        }
        AdminCommand::Plan {
            account,
            plan,
            reason,
            ..
        } => {
            let cause = cause(reason.as_deref())?;
            let plan = app.plans().get(&plan).map_err(Failure::from)?;
            let changed = app.change_plan(&target(&account), plan, cause).await?;
            let left = changed.usage.balance().credits_remaining;
            let (id, before) = (changed.account_id, changed.previous);
            println!("{id} is on {plan}, was on {before}; {left} credits left");
        }
        AdminCommand::Credits {
            account,
            amount,
            reason,
            idempotency_key,
            ..
        } => {
            let cause = cause(Some(&reason))?;
            let key = match idempotency_key {
                Some(key) => key,
                None => format!("once-{}", KeyId::generate().map_err(Failure::from)?),
            };
            let request = AdjustRequest {
                target: target(&account),
                amount,
                idempotency: (key, format!("{amount} {reason}").into_bytes()),
            };
            adjust(app, &request, cause).await?;
        }
        AdminCommand::Suspend {
            account, reason, ..
        } => stand(app, &account, true, cause(Some(&reason))?).await?,
        AdminCommand::Reactivate {
            account, reason, ..
        } => stand(app, &account, false, cause(Some(&reason))?).await?,
        AdminCommand::Email {
            account,
            email,
            reason,
            ..
        } => {
            let cause = cause(Some(&reason))?;
            let email = address(&email).map_err(Trouble::Argument)?;
            let moved = app.change_email(&target(&account), &email, cause).await?;
            println!("{} is {} now", moved.previous_account_id, moved.account_id);
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what the command was asked for")]
async fn keys(app: &App, account: &str, all: bool) -> Result<(), Trouble> {
    let (_, keys) = app.user(&target(account), all).await?;
    for key in keys {
        let status = if key.ended_at.is_none() {
            "active"
        } else {
            "inactive"
        };
        let (id, masked, made) = (key.id, key.masked, key.created_at);
        // A description may hold anything: a tab or a line's end would make a column of it.
        let description = key.description.replace(char::is_control, " ");
        println!("{id}\t{status}\t{masked}\t{made}\t{description}");
    }
    Ok(())
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the key, and beside it what is no part of it"
)]
async fn new_key(
    app: &App,
    account: &str,
    description: Option<String>,
    cause: Cause,
) -> Result<(), Trouble> {
    let (row, _) = app.user(&target(account), false).await?;
    let request = CreateKey {
        owner: Some(OwnerName::AccountId(row.account_id.clone())),
        plan: None,
        description,
        limits: KeyLimits::default(),
    };
    let made = app.create_key(&Caller::Admin, request, cause).await?;
    println!("{}", made.secret.reveal());
    eprintln!(
        "{} of {}; it cannot be shown again",
        made.key.id, made.account_id
    );
    if row.suspended {
        eprintln!("the account is suspended: its keys are refused until it is reactivated");
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what the command was asked for")]
async fn adjust(app: &App, request: &AdjustRequest, cause: Cause) -> Result<(), Trouble> {
    let respond = |adjusted: &Adjusted<'_>| {
        let left = adjusted.usage.balance().credits_remaining;
        format!("{} has {left} credits left", adjusted.account_id)
    };
    let done = app.adjust_credits(request, cause, respond).await?;
    let before = if done.replayed {
        ", as said before"
    } else {
        ""
    };
    println!("{}{before}", done.body);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what the command was asked for")]
async fn users(app: &App, email_prefix: Option<String>) -> Result<(), Trouble> {
    let mut skip = 0u64;
    loop {
        let filter = AccountFilter {
            contains: None,
            email_prefix: email_prefix.clone(),
        };
        let page = app.accounts(filter, skip, PAGE).await?;
        for row in &page.rows {
            let balance = row.usage.balance();
            println!(
                "{}\t{}\t{}\t{}\t{}\t{}",
                row.account_id,
                balance.plan,
                row.status(),
                balance.credits_remaining,
                balance.memory_count,
                row.keys.len()
            );
        }
        skip = skip.saturating_add(PAGE);
        if page.rows.is_empty() || skip >= page.total {
            return Ok(());
        }
    }
}

#[expect(clippy::print_stdout, reason = "what the command was asked for")]
async fn stand(app: &App, account: &str, suspended: bool, cause: Cause) -> Result<(), Trouble> {
    let row = app.suspend(&target(account), suspended, cause).await?;
    let (id, status, since) = (&row.account_id, row.status(), row.standing_since);
    println!("{id} is {status} since {since}");
    Ok(())
}

fn target(account: &str) -> Target {
    Target::parse(account.to_owned())
}

/// Who does it, and why.
fn why(reason: Option<&str>) -> Result<Cause, String> {
    let reason = reason.map(parse_reason).transpose();
    let reason = reason.map_err(|bad| format!("--reason: {bad}"))?;
    Ok(Cause {
        actor: Actor::Operator,
        reason,
        request: None,
    })
}

fn key_id(text: &str) -> Result<KeyId, String> {
    let form = "KEY_ID must be a key's id, key_ and 12 characters; `memoryos admin keys` shows it";
    KeyId::parse(text).ok_or_else(|| form.to_owned())
}

fn address(text: &str) -> Result<Email, String> {
    Email::parse(text).map_err(|error| format!("NEW: {error}"))
}
