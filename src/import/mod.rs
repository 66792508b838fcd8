//! The import of the old program's two files into a new data directory: offline, all or nothing.
//!
//! ```text
//! users.json  --legacy--> keys --plan--> accounts --.
//!                                                    +--store::Bulk--> data directory
//! memory.json --legacy--> entries --entries--> memories
//! ```
//!
//! Everything is read, merged and checked before anything is written. What is written is seen by nobody
//! before its last step, so that an import which failed or was killed can simply be run again; one that
//! is complete does nothing when it is run again. No secret is carried over: keys become their hashes,
//! and wherever else one stands in the files it becomes its key id or its masked form.

mod entries;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod legacy;
mod plan;
mod redact;
mod spill;

use std::fmt;
use std::path::{Path, PathBuf};

use rand::RngExt;
use sha2::{Digest, Sha256};

use crate::domain::account::Email;
use crate::domain::key::{KNOWN_KEY, KeyId};
use crate::domain::memory::MemoryId;
use crate::domain::time::Timestamp;
use crate::progress::Bar;
use crate::store::{self, Bulk, BulkMemory, NewTarget, StoreError, Target};

use entries::Entry;
use legacy::LegacyKey;
use plan::{Owner, Plan};
use redact::Redactor;
use spill::Spill;

/// What to import, and what to do with memories that cannot be kept as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct ImportArgs {
    /// The old program's users.json
    #[arg(long, value_name = "FILE")]
    pub users: PathBuf,
    /// The old program's memory.json
    #[arg(long, value_name = "FILE")]
    pub memories: PathBuf,
    /// Give memories without an owner to the account with this e-mail
    #[arg(long, value_name = "EMAIL", conflicts_with = "skip_unowned")]
    pub unowned_to: Option<String>,
    /// Leave memories without an owner out and write them to this new file, a JSON list
    #[arg(long, value_name = "FILE")]
    pub skip_unowned: Option<PathBuf>,
    /// Leave memories out that the service would refuse and write them to this new file, a JSON list of
    /// {index, reason, entry}
    #[arg(long, value_name = "FILE")]
    pub skip_invalid: Option<PathBuf>,
}

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Whether this very import was complete before: then nothing was done, and all counts are 0.
    pub already_imported: bool,
    /// Accounts made.
    pub accounts: u64,
    /// API keys that go on working.
    pub active_keys: u64,
    /// API keys kept as revoked.
    pub revoked_keys: u64,
    /// Memories imported.
    pub memories: u64,
    /// Those of them that had no owner and were given to `--unowned-to`.
    pub unowned_given: u64,
    /// Memories written to `--skip-unowned`.
    pub unowned_skipped: u64,
    /// Memories written to `--skip-invalid`.
    pub invalid_skipped: u64,
    /// The data directory.
    pub data_dir: PathBuf,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = self.data_dir.display();
        if self.already_imported {
            return write!(f, "{directory} holds this import already: nothing to do");
        }
        writeln!(f, "imported into {directory}:")?;
        writeln!(f, "  accounts   {:>9}", self.accounts)?;
        writeln!(
            f,
            "  API keys   {:>9} active, {} revoked",
            self.active_keys, self.revoked_keys
        )?;
        write!(f, "  memories   {:>9}", self.memories)?;
        if self.unowned_given > 0 {
            write!(f, ", {} of them had no owner", self.unowned_given)?;
        }
        for (count, why) in [
            (self.unowned_skipped, "without an owner"),
            (self.invalid_skipped, "that the service would refuse"),
        ] {
            if count > 0 {
                write!(f, "\n  left out   {count:>9} {why}")?;
            }
        }
        Ok(())
    }
}

/// Why an import did nothing. Each is one sentence that says what to do; the exit code is 1.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ImportFailure(String);

impl ImportFailure {
    fn new(sentence: impl fmt::Display) -> Self {
        Self(sentence.to_string())
    }
}

impl From<StoreError> for ImportFailure {
    fn from(error: StoreError) -> Self {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        let source = source.unwrap_or_default();
        Self(format!("{error}{source}; nothing was imported"))
    }
}

/// What is left out goes into two lists of JSON texts.
#[derive(Debug, Default)]
struct LeftOut {
    unowned: Vec<String>,
    invalid: Vec<String>,
}

/// What happens to an entry.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Keep(Owner),
    LeaveOut,
}

/// Imports the old files into `data_dir`, which is empty or absent, as of `now`.
///
/// Done again with the same files and options it does nothing and succeeds, whatever was done with the
/// directory in between. Reads both files whole; beyond them it needs some bytes for each memory.
///
/// # Errors
///
/// [`ImportFailure`] if a file cannot be read or has another shape, if memories have no owner or would be
/// refused and no option says what to do with them, if the directory holds anything else or is in use,
/// if the disk fails. The directory then is as it was, and no file was written.
pub fn run(args: &ImportArgs, data_dir: &Path, now: Timestamp) -> Result<Summary, ImportFailure> {
    let unowned_to = unowned_to(args)?;
    let users = read(&args.users)?;
    let memories = read(&args.memories)?;
    let fingerprint = fingerprint(args, unowned_to.as_ref(), &users, &memories);
    let target = match store::target(data_dir, &fingerprint).map_err(ImportFailure::new)? {
        Target::New(target) => target,
        Target::Imported => {
            return Ok(Summary {
                already_imported: true,
                data_dir: data_dir.to_owned(),
                ..Summary::default()
            });
        }
    };
    let in_file = |path: &Path, error: &dyn fmt::Display| {
        ImportFailure(format!("{} {error}; nothing was imported", path.display()))
    };
    let mut keys = legacy::read_users(&users).map_err(|error| in_file(&args.users, &error))?;
    let redactor = Redactor::new(keys.iter().map(|key| &key.secret));
    for key in &mut keys {
        key.description = redactor.redact_text(&key.description);
        if key.secret.reveal() == KNOWN_KEY {
            log::warn!("{KNOWN_KEY} is one of the keys, and everybody knows it: revoke it");
        }
    }
    let plan = Plan::merge(with_ids(keys)?, now, || rand::rng().random())
        .map_err(|error| in_file(&args.users, &error))?;
    let raws = legacy::read_memories(&memories).map_err(|error| in_file(&args.memories, &error))?;
    let to = unowned_to.map(|email| {
        let owner = plan.owner_named(email.as_str());
        owner.ok_or_else(|| no_such_account(args, &email))
    });
    let triage = Triage {
        args,
        plan: &plan,
        redactor: &redactor,
        unowned_to: to.transpose()?,
    };
    let (fates, left_out, mut summary) = triage.run(&raws)?;
    check_spills(args, data_dir, &target, &left_out)?;
    data_dir.clone_into(&mut summary.data_dir);
    write(
        args,
        &fingerprint,
        target,
        plan,
        &redactor,
        &raws,
        &fates,
        &left_out,
        now,
    )?;
    Ok(summary)
}

/// Returns the command that imports the old program's files, if `folder` has both: for a start on an
/// empty data directory, whose operator may have forgotten them. `None` if it has not.
#[must_use]
pub fn command_for(folder: &Path, data_dir: &Path) -> Option<String> {
    let [users, memories] = ["users.json", "memory.json"].map(|name| folder.join(name));
    (users.is_file() && memories.is_file()).then(|| {
        format!(
            "memoryos import --users {} --memories {} --data-dir {}",
            quoted(&users),
            quoted(&memories),
            quoted(data_dir)
        )
    })
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn read(path: &Path) -> Result<Vec<u8>, ImportFailure> {
    std::fs::read(path).map_err(|error| {
        ImportFailure(format!(
            "cannot read {}: {error}; nothing was imported",
            path.display()
        ))
    })
}

fn unowned_to(args: &ImportArgs) -> Result<Option<Email>, ImportFailure> {
    if args.unowned_to.is_some() && args.skip_unowned.is_some() {
        return Err(ImportFailure::new(
            "give --unowned-to or --skip-unowned, not both",
        ));
    }
    let parsed = args.unowned_to.as_deref().map(Email::parse).transpose();
    parsed.map_err(|error| ImportFailure(format!("--unowned-to is no e-mail address: {error}")))
}

fn no_such_account(args: &ImportArgs, email: &Email) -> ImportFailure {
    ImportFailure(format!(
        "no account in {} has the e-mail {} that --unowned-to names; nothing was imported",
        args.users.display(),
        email.as_str()
    ))
}

/// Names an import: its files' contents, and the options that decide which memories are kept.
fn fingerprint(
    args: &ImportArgs,
    unowned_to: Option<&Email>,
    users: &[u8],
    memories: &[u8],
) -> [u8; 32] {
    let unowned = match unowned_to {
        Some(email) => format!("to {}", email.as_str()),
        None if args.skip_unowned.is_some() => "skipped".to_owned(),
        None => "refused".to_owned(),
    };
    let mut hash = Sha256::new_with_prefix(b"memoryos import 1\n");
    // Hashes of fixed length first: no two imports can run together into the same bytes.
    hash.update(Sha256::digest(users));
    hash.update(Sha256::digest(memories));
    hash.update([u8::from(args.skip_invalid.is_some())]);
    hash.update(unowned.as_bytes());
    hash.finalize().into()
}

fn with_ids(keys: Vec<LegacyKey>) -> Result<Vec<(LegacyKey, KeyId)>, ImportFailure> {
    keys.into_iter()
        .map(|key| Ok((key, KeyId::generate().map_err(ImportFailure::new)?)))
        .collect()
}

/// Decides what becomes of each entry.
struct Triage<'a> {
    args: &'a ImportArgs,
    plan: &'a Plan,
    redactor: &'a Redactor,
    unowned_to: Option<Owner>,
}

impl Triage<'_> {
    /// Looks at every entry, in the order of the file.
    fn run(&self, raws: &[&str]) -> Result<(Vec<Fate>, LeftOut, Summary), ImportFailure> {
        let bar = Bar::new("checking");
        let (mut fates, mut left_out) = (Vec::with_capacity(raws.len()), LeftOut::default());
        let mut summary = self.accounts();
        let mut unowned = Vec::new();
        let mut invalid = None;
        for (index, raw) in raws.iter().enumerate() {
            let fate = match self.owner(raw) {
                Ok((entry, Some(owner))) => entry.check().map(|_| Some(owner)),
                Ok((entry, None)) => {
                    unowned.push(index);
                    match self.unowned_to {
                        None => Ok(None),
                        Some(owner) => entry.check().map(|_| Some(owner)),
                    }
                }
                Err(reason) => Err(reason),
            };
            let fate = match fate {
                Ok(Some(owner)) => {
                    summary.memories = summary.memories.saturating_add(1);
                    Fate::Keep(owner)
                }
                Ok(None) => {
                    left_out.unowned.push(self.shown(raw));
                    Fate::LeaveOut
                }
                Err(reason) => {
                    let reason = self.redactor.redact(&reason).into_owned();
                    left_out.invalid.push(self.invalid(index, &reason, raw));
                    invalid.get_or_insert((index, reason));
                    Fate::LeaveOut
                }
            };
            fates.push(fate);
            bar.show(count(fates.len()), count(raws.len()));
        }
        bar.clear();
        self.refuse(raws.len(), &unowned, &left_out, invalid)?;
        summary.unowned_skipped = count(left_out.unowned.len());
        summary.invalid_skipped = count(left_out.invalid.len());
        summary.unowned_given = given(&unowned, &fates);
        Ok((fates, left_out, summary))
    }

    /// Opens an entry and finds whose it is; nobody's if its key is in no account.
    fn owner(&self, raw: &str) -> Result<(Entry, Option<Owner>), String> {
        let entry = Entry::open(raw, self.redactor)?;
        let owner = entry
            .api_key
            .as_ref()
            .and_then(|key| self.plan.owners.get(&key.hash()))
            .copied();
        Ok((entry, owner))
    }

    /// Returns an entry as a file may hold it: no key in it, and none that is written with escapes.
    fn shown(&self, raw: &str) -> String {
        if raw.contains('\\') {
            let plain = entries::normalised(raw);
            let shown = self.redactor.redact_json(&plain);
            if shown != plain {
                return shown;
            }
        }
        self.redactor.redact_json(raw)
    }

    fn invalid(&self, index: usize, reason: &str, raw: &str) -> String {
        let reason = serde_json::Value::from(reason);
        let mut entry = self.shown(raw);
        if serde_json::from_str::<serde::de::IgnoredAny>(&entry).is_err() {
            // Not JSON itself, NaN perhaps: the file must be it all the same.
            entry = serde_json::Value::from(entry).to_string();
        }
        format!("{{\"index\": {index}, \"reason\": {reason}, \"entry\": {entry}}}")
    }

    /// Stops the import if something would be lost that no option speaks of.
    fn refuse(
        &self,
        total: usize,
        unowned: &[usize],
        left_out: &LeftOut,
        invalid: Option<(usize, String)>,
    ) -> Result<(), ImportFailure> {
        let file = self.args.memories.display();
        if let Some(first) = unowned.first()
            && self.unowned_to.is_none()
            && self.args.skip_unowned.is_none()
        {
            return Err(ImportFailure(format!(
                "{} of the {total} memories in {file} have no owner, the first at index {first} \
                 (counted from 0); nothing was imported: give them to an account with --unowned-to \
                 EMAIL, or leave them out with --skip-unowned FILE",
                unowned.len()
            )));
        }
        if let Some((index, reason)) = invalid
            && self.args.skip_invalid.is_none()
        {
            let others = match left_out.invalid.len().saturating_sub(1) {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            return Err(ImportFailure(format!(
                "the memory at index {index} (counted from 0){others} in {file} would be refused: \
                 {reason}; nothing was imported: correct it, or leave such memories out with \
                 --skip-invalid FILE"
            )));
        }
        Ok(())
    }

    fn accounts(&self) -> Summary {
        let keys = || self.plan.accounts.iter().flat_map(|account| &account.keys);
        Summary {
            accounts: count(self.plan.accounts.len()),
            active_keys: count(keys().filter(|key| key.revoked.is_none()).count()),
            revoked_keys: count(keys().filter(|key| key.revoked.is_some()).count()),
            ..Summary::default()
        }
    }
}

/// Counts the entries without an owner that are kept all the same.
fn given(unowned: &[usize], fates: &[Fate]) -> u64 {
    let is_kept = |index: &&usize| matches!(fates.get(**index), Some(Fate::Keep(_)));
    count(unowned.iter().filter(is_kept).count())
}

/// Refuses skip files that would overwrite something or land in the data directory, before anything is
/// written.
fn check_spills(
    args: &ImportArgs,
    data_dir: &Path,
    target: &NewTarget,
    left_out: &LeftOut,
) -> Result<(), ImportFailure> {
    if args.skip_unowned.is_some() && args.skip_unowned == args.skip_invalid {
        return Err(ImportFailure::new(
            "--skip-unowned and --skip-invalid must be two files",
        ));
    }
    for (flag, path, entries) in spills(args, left_out) {
        // After an import that was killed between its last steps the file is there, as it shall be.
        let is_left = target.is_unfinished() && Spill::is_there(path, entries);
        if path.exists() && !is_left {
            return Err(ImportFailure(format!(
                "{} exists already; name a new file with {flag}",
                path.display()
            )));
        }
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        if absolute(path).starts_with(absolute(data_dir)) {
            return Err(ImportFailure(format!(
                "{} is inside the data directory; name a file elsewhere with {flag}",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Returns the skip files asked for, with what goes into them.
fn spills<'a>(
    args: &'a ImportArgs,
    left_out: &'a LeftOut,
) -> impl Iterator<Item = (&'static str, &'a Path, &'a [String])> {
    let unowned = args.skip_unowned.as_deref();
    let invalid = args.skip_invalid.as_deref();
    [
        unowned.map(|path| ("--skip-unowned", path, left_out.unowned.as_slice())),
        invalid.map(|path| ("--skip-invalid", path, left_out.invalid.as_slice())),
    ]
    .into_iter()
    .flatten()
}

#[expect(
    clippy::too_many_arguments,
    reason = "each is a different thing, and all are needed"
)]
fn write(
    args: &ImportArgs,
    fingerprint: &[u8; 32],
    target: NewTarget,
    plan: Plan,
    redactor: &Redactor,
    raws: &[&str],
    fates: &[Fate],
    left_out: &LeftOut,
    now: Timestamp,
) -> Result<(), ImportFailure> {
    let mut placed = Vec::new();
    for (_, path, entries) in spills(args, left_out) {
        placed.push(Spill::write(path, entries).map_err(|error| cannot_write(path, &error))?);
    }
    let mut bulk = target.start().map_err(ImportFailure::new)?;
    write_memories(&mut bulk, &plan, redactor, raws, fates)?;
    for account in plan.accounts {
        bulk.put_account(account)?;
    }
    bulk.record(now)?;
    let built = bulk.build().map_err(ImportFailure::new)?;
    for (spill, (_, path, _)) in placed.iter_mut().zip(spills(args, left_out)) {
        spill.place().map_err(|error| cannot_write(path, &error))?;
    }
    built.finish(fingerprint).map_err(ImportFailure::new)?;
    placed.into_iter().for_each(Spill::keep);
    Ok(())
}

fn write_memories(
    bulk: &mut Bulk,
    plan: &Plan,
    redactor: &Redactor,
    raws: &[&str],
    fates: &[Fate],
) -> Result<(), ImportFailure> {
    let bar = Bar::new("writing");
    for (done, (raw, fate)) in raws.iter().zip(fates).enumerate() {
        bar.show(count(done), count(raws.len()));
        let Fate::Keep(owner) = fate else { continue };
        let Some(account) = plan.accounts.get(owner.account) else {
            continue;
        };
        let Some(key) = account.keys.get(owner.key) else {
            continue;
        };
        // Parsed a second time instead of kept: a file may hold more than memory should.
        let entry = Entry::open(raw, redactor).map_err(ImportFailure)?;
        let (memory, timestamp) = entry.check().map_err(ImportFailure)?;
        bulk.put_memory(BulkMemory {
            account: account.account,
            key_no: key.no,
            key_id: key.id.as_str(),
            id: MemoryId::new(timestamp.millis(), rand::rng().random()),
            timestamp,
            memory: &memory,
        })?;
    }
    bar.clear();
    Ok(())
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn cannot_write(path: &Path, error: &std::io::Error) -> ImportFailure {
    ImportFailure(format!(
        "cannot write {}: {error}; nothing was imported",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, Command, FromArgMatches, error::ErrorKind};

    fn parsed(args: &[&str]) -> Result<ImportArgs, ErrorKind> {
        let command = ImportArgs::augment_args(Command::new("import").no_binary_name(true));
        let matches = command
            .try_get_matches_from(args)
            .map_err(|error| error.kind())?;
        ImportArgs::from_arg_matches(&matches).map_err(|error| error.kind())
    }

    #[test]
    fn the_flags_are_what_the_help_says() {
        let files = ["--users", "u.json", "--memories", "m.json"];
        let with = |more: &[&str]| parsed(&[&files, more].concat());
        let args = with(&["--unowned-to", "bo@x.org", "--skip-invalid", "i.json"]).unwrap();
        assert_eq!(args.users, PathBuf::from("u.json"));
        assert_eq!(args.unowned_to.as_deref(), Some("bo@x.org"));
        assert_eq!(args.skip_invalid, Some(PathBuf::from("i.json")));
        let both = with(&["--unowned-to", "bo@x.org", "--skip-unowned", "s.json"]);
        assert_eq!(both, Err(ErrorKind::ArgumentConflict));
        assert_eq!(parsed(&[]), Err(ErrorKind::MissingRequiredArgument));
    }

    #[test]
    fn the_command_is_told_where_the_old_files_are() {
        let folder = tempfile::tempdir().unwrap();
        let data = Path::new("./data");
        std::fs::write(folder.path().join("users.json"), "{}").unwrap();
        assert_eq!(command_for(folder.path(), data), None);
        std::fs::write(folder.path().join("memory.json"), "[]").unwrap();
        let command = command_for(folder.path(), data).unwrap();
        assert!(command.starts_with("memoryos import --users "), "{command}");
        assert!(
            command.ends_with("memory.json --data-dir ./data"),
            "{command}"
        );
        let command = command_for(folder.path(), Path::new("my data's")).unwrap();
        assert!(command.ends_with(r"--data-dir 'my data'\''s'"), "{command}");
    }

    #[test]
    fn imports_differ_by_files_and_decisions() {
        let args = ImportArgs::default();
        let skipping = ImportArgs {
            skip_unowned: Some(PathBuf::from("s")),
            ..args.clone()
        };
        let strict = ImportArgs {
            skip_invalid: Some(PathBuf::from("s")),
            ..args.clone()
        };
        let elsewhere = ImportArgs {
            skip_unowned: Some(PathBuf::from("other")),
            ..args.clone()
        };
        let email = Email::parse("a@b.c").unwrap();
        let names = [
            fingerprint(&args, None, b"u", b"m"),
            fingerprint(&args, None, b"um", b""),
            fingerprint(&args, Some(&email), b"u", b"m"),
            fingerprint(&skipping, None, b"u", b"m"),
            fingerprint(&strict, None, b"u", b"m"),
        ];
        let different: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len());
        // Where the files go that are left out decides nothing.
        assert_eq!(fingerprint(&elsewhere, None, b"u", b"m"), names[3]);
    }
}
