//! `memoryos admin`: the admin's use cases on the data of a stopped server, by the service's own code.

mod accounts;
mod args;
mod keys;
mod money;

use std::path::Path;
use std::process::ExitCode;

use crate::app::{AdminAccess, App, BackupSettings, Failure, RateLimits, Settings, Target};
use crate::clock::Clock;
use crate::config::ConfigError;
use crate::domain::event::Cause;
use crate::domain::key::KeyId;
use crate::http::ApiError;
use crate::store::{self, OpenError, Options, Store};

use super::out::{Out, fail};
use super::{EXIT_FAILURE, EXIT_USAGE, no_data};

pub(super) use args::AdminCommand;
use args::why;

pub(super) const HELP: &str = "\
Stop the server first: it and these commands cannot have the data at the same time.
While it runs, the routes under /admin/ do the same with the admin key.

Examples:
  memoryos admin users --email-prefix ana                    find an account
  memoryos admin show ana@example.com                        what it has and what it used
  memoryos admin keys ana@example.com                        its keys and their ids
  memoryos admin key new --account ana@example.com           a key for a user who lost all; printed once
  memoryos admin key rotate key_9bTq3MwE7hLp --grace-seconds 0 --reason leaked
  memoryos admin key change key_9bTq3MwE7hLp --scopes memory:read --expires-at never --reason 'reads only'
  memoryos admin key revoke key_9bTq3MwE7hLp --reason leaked
  memoryos admin plan ana@example.com Pro --reason 'paid by invoice 17'
  memoryos admin credits ana@example.com 500 --reason 'outage of 14 February'
  memoryos admin credits ana@example.com -500 --reason 'given twice'
  memoryos admin suspend ana@example.com --reason 'invoice 17 overdue'
  memoryos admin reactivate ana@example.com --reason 'invoice 17 paid'
  memoryos admin email ana@example.com ana@example.org --reason 'she asked'
  memoryos admin statement ana@example.com --cycle 3
  memoryos admin history ana@example.com --from 2026-01-01 --to 2026-02-01 --by key --csv
  memoryos admin erase ana@example.com --confirm ana@example.com --reason 'ticket 4711'
  memoryos admin sync --reason 'after a repair'              count memories anew

An account is named by its id, which is its e-mail, or acct_… if it has none.
What is done is on the disk when the command ends with 0, and in the audit log,
with its reason, as done by `operator`.

Exit codes: 0 done, 1 refused or the machine does not allow it, 2 an argument is wrong.";

/// Why a command did not do what was asked.
enum Trouble {
    /// An argument is wrong; a sentence that names it.
    Argument(String),
    /// The rules or the disk said no.
    Failed(Failure),
    /// A key was made and could not be printed; says which, and why.
    Lost(KeyId, std::io::Error),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Runs one command. The store is opened as a server opens it, and closed before the command ends.
pub(super) fn run(command: AdminCommand, out: &Out) -> ExitCode {
    crate::telemetry::start();
    let data = command.data().clone();
    // Wrong arguments end before the data is touched.
    if let Err(wrong) = args::check(&command, Clock::System.now()) {
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
    let outcome = runtime.block_on(perform(&app, command, out));
    drop(app);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Trouble::Argument(wrong)) => fail(EXIT_USAGE, &ConfigError(wrong)),
        Err(Trouble::Failed(Failure::InvalidPlan(unknown))) => fail(EXIT_USAGE, &unknown),
        Err(Trouble::Lost(key, error)) => {
            let words = format!(
                "{key} was made, but nobody has it: it could not be printed, since {error}. \
                 Rotate it with --grace-seconds 0, or revoke it"
            );
            fail(EXIT_FAILURE, &ConfigError(words))
        }
        Err(Trouble::Failed(Failure::NotConfirmed)) => {
            let words = "--confirm must be the account's id; nothing was erased";
            fail(EXIT_USAGE, &ConfigError(words.to_owned()))
        }
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

async fn perform(app: &App, command: AdminCommand, out: &Out) -> Result<(), Trouble> {
    match command {
        AdminCommand::Users { email_prefix, .. } => accounts::list(app, email_prefix, out).await,
        AdminCommand::Show { account, .. } => accounts::show(app, &account, out).await,
        AdminCommand::Statement { account, cycle, .. } => {
            money::statement(app, &account, cycle, out).await
        }
        AdminCommand::History {
            account,
            from,
            to,
            by,
            csv,
            ..
        } => {
            let span = args::span(from.as_deref(), to.as_deref()).map_err(Trouble::Argument)?;
            money::history(app, &account, span, &by, csv, out).await
        }
        AdminCommand::Keys { account, all, .. } => keys::list(app, &account, all, out).await,
        AdminCommand::Key(command) => keys::perform(app, command, out).await,
        AdminCommand::Plan {
            account,
            plan,
            reason,
            ..
        } => accounts::plan(app, &account, &plan, cause(reason.as_deref())?, out).await,
        AdminCommand::Credits {
            account,
            amount,
            reason,
            idempotency_key,
            ..
        } => money::adjust(app, &account, amount, &reason, idempotency_key, out).await,
        AdminCommand::Suspend {
            account, reason, ..
        } => accounts::stand(app, &account, true, cause(Some(&reason))?, out).await,
        AdminCommand::Reactivate {
            account, reason, ..
        } => accounts::stand(app, &account, false, cause(Some(&reason))?, out).await,
        AdminCommand::Email {
            account,
            email,
            reason,
            ..
        } => accounts::email(app, &account, &email, cause(Some(&reason))?, out).await,
        AdminCommand::Erase {
            account,
            confirm,
            reason,
            ..
        } => accounts::erase(app, &account, &confirm, cause(Some(&reason))?, out).await,
        AdminCommand::Sync { reason, .. } => {
            accounts::sync(app, cause(reason.as_deref())?, out).await
        }
    }
}

/// Who does it, and why.
fn cause(reason: Option<&str>) -> Result<Cause, Trouble> {
    why(reason).map_err(Trouble::Argument)
}

fn target(account: &str) -> Target {
    Target::parse(account.to_owned())
}

/// A text in a column: a tab or a line's end would make another of it.
fn column(text: &str) -> String {
    text.replace(char::is_control, " ")
}
