//! The command line.

mod admin;
mod audit;
mod plans;

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::clock::Clock;
use crate::config::{Config, ConfigError, DataArgs, Secrets, ServeArgs};
use crate::import::ImportArgs;
use crate::progress::Bar;
use crate::server::Server;
use crate::store::{
    self, CheckReport, Health, OpenError, Options, Problem, Progress, RestoreStep, Store,
    StoreError,
};

use plans::PlansArgs;

/// The release and the commit it was built from.
pub const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("MEMORYOS_COMMIT"),
    ")"
);

/// A setting is wrong.
const EXIT_USAGE: u8 = 2;
/// The machine does not let us.
const EXIT_FAILURE: u8 = 1;

const AFTER_HELP: &str = "\
Examples:
  memoryos                                    serve on http://127.0.0.1:5000, data in ./data
  memoryos serve --host 0.0.0.0 --port 8080   serve every network (set ADMIN_KEY)
  memoryos import --help                      take over the old program's files
  memoryos check                              recount everything in a stopped server's data
  memoryos plans --plans plans.toml           what a file of plans and prices would change in a stopped server's data
  memoryos backup a.backup                    back up a stopped server; POST /admin/backup one that runs
  memoryos admin --help                       what an admin does, on this machine, while the server is stopped
  memoryos restore a.backup --data-dir new    make a data directory of a backup
  memoryos audit verify                       prove the audit log of a stopped server's data
  curl -X POST http://127.0.0.1:5000/signup   make an account and its first key

Secrets come from the environment or a file, never from a flag:
  ADMIN_KEY, ADMIN_KEY_FILE   the admin key, 32 characters or more off loopback
  JAVLIN_API_KEY              a key of the built-in account `default` (12 to 128 characters)
  WEBHOOK_SECRET              what webhooks are signed with, 32 to 256 characters
  RUST_LOG                    what the log shows: error, warn, info (default), debug

Exit codes: 0 stopped or done, 1 the machine or the data does not allow it, 2 a setting is wrong.";

const IMPORT_HELP: &str = "\
Examples:
  memoryos import --users users.json --memories memory.json --data-dir ./data
  memoryos import --users users.json --memories memory.json --unowned-to ana@example.com
  memoryos import --users users.json --memories memory.json --skip-unowned unowned.json

Memories without an owner, which the old program showed to everybody, stop the
import: --unowned-to gives them to an account, --skip-unowned leaves them out.";

const BACKUP_HELP: &str = "\
Examples:
  memoryos backup monday.backup --data-dir ./data
  curl -X POST http://127.0.0.1:5000/admin/backup -H \"X-ADMIN-KEY: $ADMIN_KEY\"    while the server runs

The file holds memories, e-mail addresses and hashes of keys as they are, and no
API key: keep it where only you can read it. Nobody else can read the new file.";

const RESTORE_HELP: &str = "\
Examples:
  memoryos restore monday.backup --data-dir ./restored
  memoryos serve --data-dir ./restored

The whole file is proved before anything is written. A restore also gives back
the space of deleted memories: stop the server, back up, restore, move.";

const PLANS_HELP: &str = "\
Examples:
  memoryos plans --data-dir ./data                              the plans, prices, and who is on each plan
  memoryos plans --data-dir ./data --plans plans.toml           what the file would change
  memoryos plans --data-dir ./data --plans plans.toml --apply   apply it
  curl http://127.0.0.1:5000/plans                              the plans of a server that runs

A plan is known by its name. One that an account is on, or that caps an active
key, cannot go: that ends with 2 and names it. What a file looks like is in the
README, \"Plans and prices\".";

const CHECK_HELP: &str = "\
Examples:
  memoryos check --data-dir ./data
  memoryos check --repair --data-dir ./data
  curl http://127.0.0.1:5000/admin/check -H \"X-ADMIN-KEY: $ADMIN_KEY\"    while the server runs

Each problem is a line: the tree, the record's key, and what is wrong with it.
--repair derives counts, indexes, aggregates, and what else only repeats other
records, and removes pieces and recorded answers that nothing names. It says
`repaired:` of what it wrote and `cannot be derived:` of what stays wrong, such as
a record that cannot be read: for that, restore a backup. Interrupted, run it again.

Exit codes: 0 all is sound (with --repair: afterwards), 1 something is wrong,
2 a setting is wrong.";

/// A memory service for AI assistants, with API keys, plans, credits and limits, in one binary.
#[derive(Debug, Parser)]
#[command(name = "memoryos", version = VERSION, after_help = AFTER_HELP)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the HTTP API; also what runs without a subcommand.
    #[command(after_help = AFTER_HELP)]
    Serve(ServeArgs),
    /// Take over users.json and memory.json of the old program into a new data directory.
    ///
    /// All or nothing, and safe to run again: the same files into the directory that they made is
    /// nothing to do. Old keys go on working; they are stored as hashes only.
    #[command(after_help = IMPORT_HELP)]
    Import {
        #[command(flatten)]
        files: ImportArgs,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Recount everything in the data of a stopped server, and say what is wrong.
    ///
    /// Settles what a crash left, as a start does, and changes nothing else unless --repair is given.
    /// GET /admin/check does the same beside the writes of a server that runs.
    #[command(after_help = CHECK_HELP)]
    Check {
        /// Write what can be derived from the rest; make a copy or a backup first
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Show the plans and prices of a stopped server, what a file would change, and apply it.
    #[command(after_help = PLANS_HELP)]
    Plans(PlansArgs),
    /// Write all data of a stopped server to one new file.
    ///
    /// Settles what a crash left, as a start does, and changes nothing else. POST /admin/backup does the
    /// same while the server runs.
    #[command(after_help = BACKUP_HELP)]
    Backup(BackupArgs),
    /// Make a new data directory of a backup.
    ///
    /// The directory is empty or absent. All or nothing: the whole file is proved first, and a restore that
    /// was interrupted is finished by running it again.
    #[command(after_help = RESTORE_HELP)]
    Restore(BackupArgs),
    /// Do what an admin does, in a stopped server's data.
    ///
    /// For an operator who lost the admin key, and for users who lost all their keys. Whoever may write the
    /// data directory may do this; the audit log calls them `operator`.
    #[command(subcommand, after_help = admin::HELP)]
    Admin(admin::AdminCommand),
    /// Prove the audit log of a stopped server, or write it out.
    Audit {
        #[command(subcommand)]
        command: audit::AuditCommand,
    },
}

/// Which backup, and where the data is.
#[derive(Debug, Args)]
struct BackupArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    data: DataArgs,
}

/// Runs the command that the arguments name.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    // Whatever this process makes is its owner's alone: memories, e-mail addresses, hashes.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    if let Err(error) = crate::config::check_log_setting() {
        return fail(EXIT_USAGE, &error);
    }
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => serve(args),
        Command::Import { files, data } => import(&files, &data),
        Command::Check { repair, data } => check(&data, repair),
        Command::Plans(args) => plans::run(args),
        Command::Backup(args) => back_up(&args),
        Command::Restore(args) => restore(&args),
        Command::Admin(command) => admin::run(command),
        Command::Audit { command } => audit::run(command),
    }
}

#[expect(clippy::print_stdout, reason = "what the command was asked for")]
fn import(files: &ImportArgs, data: &DataArgs) -> ExitCode {
    crate::telemetry::start();
    match crate::import::run(files, &data.data_dir, Clock::System.now()) {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(failure) => fail(EXIT_FAILURE, &failure),
    }
}

#[expect(clippy::print_stdout, reason = "what the command was asked for")]
fn check(data: &DataArgs, repair: bool) -> ExitCode {
    crate::telemetry::start();
    if !data.data_dir.is_dir() {
        let missing = ConfigError(format!("there is no directory {}", data.data_dir.display()));
        return fail(EXIT_FAILURE, &missing);
    }
    if !store::holds_data(&data.data_dir) {
        return no_data(&data.data_dir);
    }
    let options = Options {
        cache_bytes: data.cache_mib << 20,
        ..Options::default()
    };
    let open = if repair {
        Store::open_damaged
    } else {
        Store::open_to_check
    };
    let (store, opened) = match open(&data.data_dir, options) {
        Ok(opened) => opened,
        Err(error @ OpenError::Locked(_)) => {
            let way_out = format!("{error}; GET /admin/check checks a server that runs");
            return fail(EXIT_FAILURE, &ConfigError(way_out));
        }
        Err(error) => return fail(EXIT_FAILURE, &error),
    };
    if opened.settled > 0 {
        let settled = opened.settled;
        println!("{settled} writes that a crash had interrupted were settled");
    }
    let outcome = check_store(&store).and_then(|report| {
        if !repair || report.is_sound() {
            return Ok((report, ""));
        }
        let directory = data.data_dir.display();
        println!(
            "{}; repairing {directory}: if you have no copy of it, stop this",
            report.totals()
        );
        repair_store(&store)?;
        // Not only what is left: everything, as it is after the repair.
        Ok((check_store(&store)?, "cannot be derived: "))
    });
    let (report, mark) = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return fail(EXIT_FAILURE, &error),
    };
    for problem in &report.problems {
        println!("{mark}{problem}");
    }
    if report.unlisted() > 0 {
        println!("{mark}and {} more", report.unlisted());
    }
    println!("{}", report.totals());
    if report.is_sound() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_FAILURE)
    }
}

/// Refuses a directory that holds no data: opening it would make it a data directory.
fn no_data(directory: &Path) -> ExitCode {
    let none = format!("there is no data in {}", directory.display());
    fail(EXIT_FAILURE, &ConfigError(none))
}

/// Checks a store that nobody else uses, with bars.
fn check_store(store: &Store) -> Result<CheckReport, StoreError> {
    let bars = Bars::new(store);
    let report = store.check(&|progress| bars.show(progress));
    bars.clear();
    report
}

/// Repairs a store that nobody else uses, and says of each record what was done.
#[expect(clippy::print_stdout, reason = "what the command was asked for")]
fn repair_store(store: &Store) -> Result<u64, StoreError> {
    let bars = Bars::new(store);
    let mut told = |line: &Problem| {
        bars.clear();
        println!("repaired: {line}");
    };
    let count = store.repair(&mut told, &|progress| bars.show(progress));
    bars.clear();
    let count = count?;
    println!("{count} records repaired");
    Ok(count)
}

/// A bar for each tree that a check or a repair walks, one at a time.
struct Bars {
    expected: Health,
    shown: RefCell<Option<(&'static str, Bar)>>,
}

impl Bars {
    fn new(store: &Store) -> Self {
        Self {
            expected: store.health(),
            shown: RefCell::new(None),
        }
    }

    fn show(&self, progress: Progress) {
        let Progress { tree, records } = progress;
        let all = match tree {
            "users" | "names" | "usage" => self.expected.accounts,
            "memories" => self.expected.memories,
            "keys" | "key_ids" | "account_keys" => self.expected.active_keys,
            _ => records,
        };
        let mut shown = self.shown.borrow_mut();
        if shown.as_ref().is_none_or(|(of, _)| *of != tree) {
            if let Some((_, bar)) = shown.take() {
                bar.clear();
            }
            *shown = Some((tree, Bar::new(tree)));
        }
        if let Some((_, bar)) = shown.as_ref() {
            bar.show(records, all.max(records));
        }
    }

    fn clear(&self) {
        if let Some((_, bar)) = self.shown.take() {
            bar.clear();
        }
    }
}

#[expect(clippy::print_stdout, reason = "what the command was asked for")]
fn back_up(args: &BackupArgs) -> ExitCode {
    crate::telemetry::start();
    let (file, directory) = (&args.file, &args.data.data_dir);
    if !store::holds_data(directory) {
        return no_data(directory);
    }
    let options = Options {
        cache_bytes: args.data.cache_mib << 20,
        ..Options::default()
    };
    let store = match Store::open(directory, options) {
        Ok((store, _)) => store,
        Err(error @ OpenError::Locked(_)) => {
            let way_out = format!("{error}; POST /admin/backup backs up a server that runs");
            return fail(EXIT_FAILURE, &ConfigError(way_out));
        }
        Err(error) => return fail(EXIT_FAILURE, &error),
    };
    let bar = Bar::new("backing up");
    let outcome = store.back_up(file, Clock::System.now(), &mut |done, all| {
        bar.show(done, all);
        ControlFlow::Continue(())
    });
    bar.clear();
    match outcome {
        Ok(backup) => {
            println!(
                "backed up to {}, {} bytes:\n{}",
                file.display(),
                backup.file_bytes,
                backup.contents
            );
            ExitCode::SUCCESS
        }
        Err(error) => fail(EXIT_FAILURE, &error),
    }
}

#[expect(clippy::print_stdout, reason = "what the command was asked for")]
fn restore(args: &BackupArgs) -> ExitCode {
    crate::telemetry::start();
    let directory = &args.data.data_dir;
    let now = Clock::System.now();
    let (verifying, writing) = (Bar::new("verifying"), Bar::new("writing"));
    let outcome = store::restore(&args.file, directory, now, &mut |step, done, all| {
        match step {
            RestoreStep::Verifying => verifying.show(done, all),
            RestoreStep::Writing => {
                verifying.clear();
                writing.show(done, all);
            }
        }
        ControlFlow::Continue(())
    });
    verifying.clear();
    writing.clear();
    match outcome {
        Ok(restored) => {
            println!(
                "restored into {} what was backed up at {}:\n{}",
                directory.display(),
                restored.backed_up_at,
                restored.contents
            );
            ExitCode::SUCCESS
        }
        Err(error) => fail(EXIT_FAILURE, &error),
    }
}

fn serve(args: ServeArgs) -> ExitCode {
    crate::telemetry::start();
    let config = match Secrets::from_environment().and_then(|secrets| Config::new(args, secrets)) {
        Ok(config) => Config {
            on_hung_disk: end_on_hung_disk,
            ..config
        },
        Err(error) => return fail(EXIT_USAGE, &error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(EXIT_FAILURE, &error),
    };
    let code = runtime.block_on(async {
        let mut stop = match stop_signal() {
            Ok(stop) => Box::pin(stop),
            Err(error) => return fail(EXIT_FAILURE, &error),
        };
        let started = tokio::select! {
            started = Server::start(config, Clock::System) => started,
            // Recovery may be cut at any point; the next start takes it up again.
            () = &mut stop => std::process::exit(0),
        };
        match started {
            Ok(server) => {
                let ended = server.run(stop).await;
                ended.map_or_else(|error| fail(EXIT_FAILURE, &error), |()| ExitCode::SUCCESS)
            }
            Err(error) if error.is_of_setting() => fail(EXIT_USAGE, &error),
            Err(error) => fail(EXIT_FAILURE, &error),
        }
    });
    // Connections that were cut may still hold tasks.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}

/// Ends the process without another look at the disk: whatever waits for it would wait for ever.
fn end_on_hung_disk() {
    log::error!("the disk hangs: this process ends, for its supervisor to start it anew");
    std::process::exit(i32::from(EXIT_FAILURE));
}

/// Ends at the first SIGTERM or SIGINT; at the second the process ends at once.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A file that may not grow (`ulimit -f`) is an error of its write then, not the end of the process.
    let file_size = signal(SignalKind::from_raw(libc::SIGXFSZ))?;
    drop(file_size);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = stop.send(());
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        log::warn!("a second signal: ending at once");
        std::process::exit(i32::from(EXIT_FAILURE));
    });
    Ok(async move {
        let _ = stopped.await;
    })
}

#[expect(
    clippy::print_stderr,
    reason = "the last word of a command that failed"
)]
fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    eprintln!("memoryos: {text}");
    ExitCode::from(code)
}
