//! `memoryos audit`: proves the audit log of a stopped server, and writes it out.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::config::{ConfigError, DataArgs};
use crate::domain::account::AccountKey;
use crate::domain::audit::{AuditEntry, AuditHead, hex};
use crate::store::{self, OpenError, Options, Store};

use super::out::{Out, fail};
use super::{EXIT_FAILURE, no_data};

const VERIFY_HELP: &str = "\
Examples:
  memoryos audit verify --data-dir ./data
  memoryos audit verify --data-dir ./data --head 4711:9f86d081...0a08

A chain that holds says that nothing was changed in it, removed from it or moved in it
by anybody who did not make the rest of the chain anew. Heads that were written down
outside say that it is still the same chain and that nothing is gone from its end: the
server's log has one at each start, each hour and at each stop (`audit log: head ...`),
GET /admin/audit has it as head.no and head.hash.

Exit codes: 0 the chain holds, 1 it does not (the first wrong row is named),
2 an argument is wrong.";

/// The subcommands of `memoryos audit`.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Prove the audit log of a stopped server, from its first row to its last.
    ///
    /// Settles what a crash left, as a start does, and changes nothing else.
    #[command(after_help = VERIFY_HELP)]
    Verify(VerifyArgs),
    /// Print the audit log of a stopped server, oldest first, a JSON object a line.
    ///
    /// Accounts are named as in the server's log, not by their e-mail; everything that the hashes are over
    /// is in the lines. Ends with an error if the chain breaks.
    Export {
        #[command(flatten)]
        data: DataArgs,
    },
}

/// What to prove.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// A head that was written down: NO:HASH; as often as there are some
    #[arg(long = "head", value_name = "NO:HASH", value_parser = parse_head)]
    heads: Vec<AuditHead>,
    #[command(flatten)]
    data: DataArgs,
}

fn parse_head(text: &str) -> Result<AuditHead, &'static str> {
    AuditHead::parse(text)
        .ok_or("it must be a row's number, a colon, and its hash in 64 hex digits")
}

/// Runs a subcommand.
pub(super) fn run(command: AuditCommand, out: &Out) -> ExitCode {
    crate::telemetry::start();
    match command {
        AuditCommand::Verify(args) => match open(&args.data) {
            Ok(store) => verify(&store, &args.heads, out),
            Err(code) => code,
        },
        AuditCommand::Export { data } => match open(&data) {
            Ok(store) => export(&store, out),
            Err(code) => code,
        },
    }
}

fn open(data: &DataArgs) -> Result<Store, ExitCode> {
    if !store::holds_data(&data.data_dir) {
        return Err(no_data(&data.data_dir));
    }
    let options = Options {
        cache_bytes: data.cache_mib << 20,
        ..Options::default()
    };
    match Store::open_to_check(&data.data_dir, options) {
        Ok((store, _)) => Ok(store),
        Err(error @ OpenError::Locked(_)) => {
            let way_out = format!("{error}; GET /admin/audit reads the log of a server that runs");
            Err(fail(EXIT_FAILURE, &ConfigError(way_out)))
        }
        Err(error) => Err(fail(EXIT_FAILURE, &error)),
    }
}

fn verify(store: &Store, noted: &[AuditHead], out: &Out) -> ExitCode {
    match store.verify_audit(noted, |_| ()) {
        Ok(head) => {
            out.line(format_args!("{} rows, the chain holds", head.no));
            if !noted.is_empty() {
                out.line(format_args!(
                    "heads found that were written down: {}",
                    noted.len()
                ));
            }
            out.line(format_args!("head {head}"));
            ExitCode::SUCCESS
        }
        Err(fault) => fail(EXIT_FAILURE, &ConfigError(format!("audit log: {fault}"))),
    }
}

fn export(store: &Store, out: &Out) -> ExitCode {
    let verified = store.verify_audit(&[], |row| {
        if out.is_open() {
            out.line(format_args!("{}", line(row)));
        }
    });
    match verified {
        Ok(_) => ExitCode::SUCCESS,
        Err(fault) => fail(EXIT_FAILURE, &ConfigError(format!("audit log: {fault}"))),
    }
}

fn line(row: &AuditEntry) -> Value {
    json!({
        "no": row.no,
        "at": row.at.to_string(),
        "account": row.account.map(AccountKey::anonymous_id),
        "actor": row.actor,
        "action": row.action,
        // As it was hashed: a text.
        "details": row.details,
        "reason": row.reason,
        "request_id": row.request.map(|id| id.to_string()),
        "hash": hex(&row.hash),
    })
}
