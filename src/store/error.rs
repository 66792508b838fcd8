//! What can go wrong below the rules.

use super::directory::Making;

/// A fault of the store. A refusal by the rules is never one of these.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database could not read.
    #[error("the database failed")]
    Database(#[from] sled::Error),
    /// A record cannot be decoded, or a fact that must be there is not.
    #[error("the stored data is damaged: {0}")]
    Corrupt(String),
    /// The account is not there: it was erased meanwhile. Nothing was changed.
    #[error("the account is not there any more")]
    NoAccount,
    /// Writes are stopped, since the disk failed, or the database is being opened anew; nothing was changed.
    #[error("writes are stopped until the store can write to its disk again")]
    Unavailable,
    /// Writes are stopped, since little space is left on the disk; nothing was changed.
    #[error("writes are stopped until there is more space on the disk")]
    Full,
    /// The write was applied but could not be made durable: after the next start it is there whole,
    /// with its debit, or not at all.
    #[error("the outcome of the write is unknown")]
    OutcomeUnknown,
    /// Too many writes wait for the disk, or for their turn on one account; nothing was changed.
    #[error("too many writes are waiting")]
    Overloaded,
}

impl StoreError {
    /// Turns the end of a swap that nothing refuses into an error.
    pub(super) fn of_swap(error: super::swap::SwapError<std::convert::Infallible>) -> Self {
        use super::swap::SwapError;
        match error {
            SwapError::Failed(error) => error,
            SwapError::Contended | SwapError::Refused(_) => Self::Overloaded,
        }
    }

    /// Says whether the disk is to blame.
    #[must_use]
    pub const fn is_disk_failure(&self) -> bool {
        matches!(self, Self::Database(sled::Error::Io(_)))
    }
}

impl OpenError {
    /// Returns the error for what the database said when it was opened.
    pub(super) fn of_database(path: &std::path::Path, error: sled::Error) -> Self {
        let path = path.display().to_string();
        match error {
            sled::Error::Io(source) => Self::Directory { path, source },
            error => Self::Damaged {
                path,
                reason: error.to_string(),
            },
        }
    }

    /// Says whether the disk is to blame and not what is on it: another attempt may end otherwise.
    #[must_use]
    pub const fn is_disk_failure(&self) -> bool {
        match self {
            Self::Directory { .. } => true,
            Self::Recovery { source, .. } => source.is_disk_failure(),
            _ => false,
        }
    }
}

/// Why a data directory could not be opened. Each is one line for the operator; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made or written.
    #[error("cannot use the data directory {path}: {source}")]
    Directory {
        /// The directory.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Somebody else's files are in it.
    #[error(
        "{0} is not empty and is no MemoryOS data directory; name an empty or a new one with --data-dir"
    )]
    Foreign(String),
    /// Another process has it open.
    #[error("the data directory {0} is in use by another MemoryOS process")]
    Locked(String),
    /// It was written by a newer release.
    #[error(
        "the data directory {path} has format {found}, this release knows format {known} at most; use a newer release"
    )]
    NewerFormat {
        /// The directory.
        path: String,
        /// The format found.
        found: u32,
        /// The newest format that this release reads.
        known: u32,
    },
    /// An import was interrupted.
    #[error(
        "the data directory {0} holds an unfinished import; run the same `memoryos import` again"
    )]
    UnfinishedImport(String),
    /// A restore was interrupted.
    #[error(
        "the data directory {0} holds an unfinished restore; run the same `memoryos restore` again"
    )]
    UnfinishedRestore(String),
    /// The directory was a data directory, and its database is no longer there.
    #[error(
        "the database of the data directory {0} is gone: its folder db is missing or holds no log; move the \
         directory away and restore a backup"
    )]
    NoDatabase(String),
    /// The database cannot be read.
    #[error("the database in {path} cannot be opened: {reason}; restore a backup")]
    Damaged {
        /// The directory.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The database holds less than a flush had put on the disk: its log is damaged and was cut off there.
    #[error(
        "the database in {0} lacks writes that were on the disk before, since the end of its log is damaged or \
         was replaced by an older one; move the directory away and restore a backup, or go on with what is left: \
         `memoryos check --repair`"
    )]
    Lost(String),
    /// Settling what a crash left failed.
    #[error("recovery of {path} failed: {source}")]
    Recovery {
        /// The directory.
        path: String,
        /// What failed.
        source: StoreError,
    },
}

impl OpenError {
    /// Returns the error for a directory that a command has not finished.
    pub(super) const fn of_unfinished(making: Making, directory: String) -> Self {
        match making {
            Making::Import => Self::UnfinishedImport(directory),
            Making::Restore => Self::UnfinishedRestore(directory),
        }
    }
}
