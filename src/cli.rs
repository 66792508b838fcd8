//! The command line.

mod admin;
mod audit;
mod out;
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
    self, CheckReport, CompactError, CompactStep, Health, OpenError, Options, Problem, Progress,
    ResidueError, ResidueStep, ResidueText, RestoreStep, Store, StoreError,
};

use out::{Out, fail};
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
/// Bytes that are read of a text to look for: more than the longest, so that a longer one is refused.
const RESIDUE_INPUT_MAX: u64 = 64 << 10;
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
  memoryos compact                            give back the space, and the bytes, of what was deleted
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

The whole file is proved before anything is written.";

const COMPACT_HELP: &str = "\
Examples:
  memoryos compact --data-dir ./data
  memoryos check --residue - --data-dir ./data < text    then nothing holds it any more

What is deleted stays in the database's files, unreachable, until its place is
used again, and its space is never given back. A compaction writes every record
that is there into a new database, compares the two record by record, and puts the
new one in the old one's place. It needs free space of about four times what is
stored. All or nothing: if it is interrupted, the next start, or the next
compaction, goes on with whichever of the two is complete.

Backups are files of their own: what was deleted after they were made is in them
until they are removed. What a disk keeps of removed files is the disk's matter:
encrypt it.";

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

--residue looks for a text in the bytes of every file of the directory, in every
key and value, and in the records of every backup there: as it is, as JSON escapes
it, and an e-mail address also in lower case. It says where, and not what. Files
elsewhere, such as logs and backups in another folder, it does not know of.
  memoryos check --residue - --data-dir ./data     asks for the text on standard
                    input, so that it stands in no list of processes, no history

Exit codes: 0 all is sound (with --repair: afterwards), or the text is nowhere;
1 something is wrong, or the text is there; 2 a setting is wrong.";

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
        #[arg(long, conflicts_with = "residue")]
        repair: bool,
        /// Say instead whether any file still holds a text of 4 bytes or more; `-` reads it from standard input
        #[arg(long, value_name = "TEXT")]
        residue: Option<String>,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Give back the space of what was deleted, and with it the last of its bytes, in a stopped server's data.
    ///
    /// Writes a new database with every record there is, compares it with the old one, and puts it in its place.
    #[command(after_help = COMPACT_HELP)]
    Compact {
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
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(said) => return out::told(&said, EXIT_USAGE),
    };
    // Whatever this process makes is its owner's alone: memories, e-mail addresses, hashes.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    if let Err(error) = crate::config::check_log_setting() {
        return fail(EXIT_USAGE, &error);
    }
    let out = Out::stdout();
    let code = match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => serve(args),
        Command::Import { files, data } => import(&files, &data, &out),
        Command::Check {
            residue: Some(text),
            data,
            ..
        } => residue(&data, text, &out),
        Command::Check { repair, data, .. } => check(&data, repair, &out),
        Command::Compact { data } => compact(&data, &out),
        Command::Plans(args) => plans::run(args, &out),
        Command::Backup(args) => back_up(&args, &out),
        Command::Restore(args) => restore(&args, &out),
        Command::Admin(command) => admin::run(command, &out),
        Command::Audit { command } => audit::run(command, &out),
    };
    crate::telemetry::end();
    out.end(code)
}

fn import(files: &ImportArgs, data: &DataArgs, out: &Out) -> ExitCode {
    crate::telemetry::start();
    match crate::import::run(files, &data.data_dir, Clock::System.now()) {
        Ok(summary) => {
            out.line(format_args!("{summary}"));
            ExitCode::SUCCESS
        }
        Err(failure) => fail(EXIT_FAILURE, &failure),
    }
}

/// Says whether anything still holds a text; the text itself is never said.
fn residue(data: &DataArgs, text: String, out: &Out) -> ExitCode {
    crate::telemetry::start();
    let text = if text == "-" {
        match read_text() {
            Ok(text) => text,
            Err(error) => return fail(EXIT_FAILURE, &error),
        }
    } else {
        text
    };
    let text = match ResidueText::parse(&text) {
        Ok(text) => text,
        Err(error) => return fail(EXIT_USAGE, &error),
    };
    let (files, records) = (Bar::new("files"), Bar::new("records"));
    let outcome = store::find_residue(
        &data.data_dir,
        store_options(data),
        &text,
        &mut |step, done, all| match step {
            ResidueStep::Files => files.show(done, all),
            ResidueStep::Records | ResidueStep::Backup => {
                files.clear();
                records.show(done, all);
            }
        },
    );
    files.clear();
    records.clear();
    let report = match outcome {
        Ok(report) => report,
        Err(ResidueError::Open(error @ OpenError::Locked(_))) => return stop_first(&error),
        Err(error) => return fail(EXIT_FAILURE, &error),
    };
    for line in &report.found {
        out.line(format_args!("found: {line}"));
    }
    if report.unlisted > 0 {
        out.line(format_args!("found: and {} more", report.unlisted));
    }
    for line in &report.unread {
        out.line(format_args!("not searched: {line}"));
    }
    out.line(format_args!("{report}"));
    if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_FAILURE)
    }
}

/// Reads a text from standard input, without the end of its last line.
fn read_text() -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::io::stdin()
        .take(RESIDUE_INPUT_MAX)
        .read_to_string(&mut text)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

fn compact(data: &DataArgs, out: &Out) -> ExitCode {
    crate::telemetry::start();
    let bars = [
        Bar::new("measuring"),
        Bar::new("writing"),
        Bar::new("comparing"),
    ];
    let outcome = store::compact(
        &data.data_dir,
        store_options(data),
        &mut |step, done, all| {
            let [measuring, writing, comparing] = &bars;
            match step {
                CompactStep::Measuring => measuring.show(done, all),
                CompactStep::Writing => {
                    measuring.clear();
                    writing.show(done, all);
                }
                CompactStep::Comparing => {
                    writing.clear();
                    comparing.show(done, all);
                }
                CompactStep::Replacing | CompactStep::Moving | CompactStep::Removing => {}
            }
            ControlFlow::Continue(())
        },
    );
    for bar in &bars {
        bar.clear();
    }
    let done = match outcome {
        Ok(done) => done,
        Err(CompactError::Open(error @ OpenError::Locked(_))) => return stop_first(&error),
        Err(error) => return fail(EXIT_FAILURE, &error),
    };
    out.line(format_args!(
        "compacted {}: {} records, {} bytes before, {} bytes now",
        data.data_dir.display(),
        done.records,
        done.before_bytes,
        done.after_bytes
    ));
    if done.backups > 0 {
        out.line(format_args!(
            "its folder of backups has {} files, which hold what was deleted after they were made",
            done.backups
        ));
    }
    ExitCode::SUCCESS
}

fn store_options(data: &DataArgs) -> Options {
    Options {
        cache_bytes: data.cache_mib << 20,
        ..Options::default()
    }
}

/// Refuses a directory that a server has open.
fn stop_first(error: &OpenError) -> ExitCode {
    let way_out = format!("{error}; stop the server first");
    fail(EXIT_FAILURE, &ConfigError(way_out))
}

fn check(data: &DataArgs, repair: bool, out: &Out) -> ExitCode {
    crate::telemetry::start();
    if !data.data_dir.is_dir() {
        let missing = ConfigError(format!("there is no directory {}", data.data_dir.display()));
        return fail(EXIT_FAILURE, &missing);
    }
    if !store::holds_data(&data.data_dir) {
        return no_data(&data.data_dir);
    }
    let options = store_options(data);
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
        out.line(format_args!(
            "{settled} writes that a crash had interrupted were settled"
        ));
    }
    let outcome = check_store(&store).and_then(|report| {
        if !repair || report.is_sound() {
            return Ok((report, ""));
        }
        let directory = data.data_dir.display();
        out.line(format_args!(
            "{}; repairing {directory}: if you have no copy of it, stop this",
            report.totals()
        ));
        repair_store(&store, out)?;
        // Not only what is left: everything, as it is after the repair.
        Ok((check_store(&store)?, "cannot be derived: "))
    });
    let (report, mark) = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return fail(EXIT_FAILURE, &error),
    };
    for problem in &report.problems {
        out.line(format_args!("{mark}{problem}"));
    }
    if report.unlisted() > 0 {
        out.line(format_args!("{mark}and {} more", report.unlisted()));
    }
    out.line(format_args!("{}", report.totals()));
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
fn repair_store(store: &Store, out: &Out) -> Result<u64, StoreError> {
    let bars = Bars::new(store);
    let mut told = |line: &Problem| {
        bars.clear();
        out.line(format_args!("repaired: {line}"));
    };
    let count = store.repair(&mut told, &|progress| bars.show(progress));
    bars.clear();
    let count = count?;
    out.line(format_args!("{count} records repaired"));
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

fn back_up(args: &BackupArgs, out: &Out) -> ExitCode {
    crate::telemetry::start();
    let (file, directory) = (&args.file, &args.data.data_dir);
    if !store::holds_data(directory) {
        return no_data(directory);
    }
    let options = store_options(&args.data);
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
            out.line(format_args!(
                "backed up to {}, {} bytes:\n{}",
                file.display(),
                backup.file_bytes,
                backup.contents
            ));
            ExitCode::SUCCESS
        }
        Err(error) => fail(EXIT_FAILURE, &error),
    }
}

fn restore(args: &BackupArgs, out: &Out) -> ExitCode {
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
            out.line(format_args!(
                "restored into {} what was backed up at {}:\n{}",
                directory.display(),
                restored.backed_up_at,
                restored.contents
            ));
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
    // What is not a connection's: accepting them, and what is done now and then.
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
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
            () = &mut stop => {
                crate::telemetry::end();
                std::process::exit(0)
            }
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
    crate::telemetry::end();
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
        crate::telemetry::end();
        std::process::exit(i32::from(EXIT_FAILURE));
    });
    Ok(async move {
        let _ = stopped.await;
    })
}
