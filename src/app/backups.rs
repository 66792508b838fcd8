//! Backups while the service runs: one at a time, asked for or due.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::domain::time::Timestamp;
use crate::store::{Backup, BackupCause, BackupError, BackupFolder, StoreError};

use super::{App, Failure};

/// How often the log tells how far a backup is.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// Where backups go, and which are made unasked.
#[derive(Clone, Debug)]
pub struct BackupSettings {
    /// Their folder.
    pub folder: BackupFolder,
    /// How long after one the next is due; `None` for never.
    pub every: Option<Duration>,
    /// How many of those that were due are kept.
    pub keep: usize,
}

impl BackupSettings {
    /// Backups in this folder, and only when somebody asks.
    #[must_use]
    pub const fn asked_only(folder: PathBuf) -> Self {
        Self {
            folder: BackupFolder::new(folder),
            every: None,
            keep: 1,
        }
    }
}

/// A backup that was made.
#[derive(Clone, Debug)]
pub struct BackupMade {
    /// The name of its file in the folder.
    pub name: String,
    /// When it was begun.
    pub at: Timestamp,
    /// What is in it.
    pub backup: Backup,
    /// How long it took.
    pub took: Duration,
}

/// What backups of one service share.
#[derive(Debug)]
pub(super) struct Backups {
    /// Whose turn it is.
    turn: Arc<Semaphore>,
    /// Whether the service ends: a backup would only be in the way.
    stopping: Arc<AtomicBool>,
}

impl Backups {
    pub(super) fn new() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            stopping: Arc::default(),
        }
    }
}

impl App {
    /// Makes a backup, beside whatever else goes on. It is finished also if nobody waits for it any more.
    ///
    /// # Errors
    ///
    /// [`Failure::BackupInProgress`], [`Failure::StorageUnavailable`]; nothing is left behind then.
    pub async fn back_up(&self, cause: BackupCause) -> Result<BackupMade, Failure> {
        let turn = Arc::clone(&self.0.backups.turn).try_acquire_owned();
        let turn = turn.map_err(|_| Failure::BackupInProgress)?;
        let (app, at) = (self.clone(), self.now());
        let making = tokio::task::spawn_blocking(move || {
            let made = app.make_backup(cause, at);
            // Here, and not where it is waited for: who waits may be gone.
            drop(turn);
            made
        });
        let made = making.await;
        made.map_err(|_| Failure::Internal("a backup was interrupted".to_owned()))?
    }

    /// Makes a backup if one is due, and then removes those that are too old. A failure is an error in the
    /// log, and another try at the next call.
    pub async fn back_up_if_due(&self) {
        let settings = &self.settings().backups;
        let Some(every) = settings.every else { return };
        let folder = settings.folder.path().display();
        let seconds = i64::try_from(every.as_secs()).unwrap_or(i64::MAX);
        let now = self.now();
        match settings.folder.newest_due(now) {
            Ok(Some(newest)) if newest.plus_seconds(seconds) > now => return,
            Ok(_) => {}
            Err(error) => {
                log::error!("no automatic backup: cannot read {folder}: {error}");
                return;
            }
        }
        match self.back_up(BackupCause::Due).await {
            Ok(made) => match settings.folder.remove_old(settings.keep, made.at) {
                Ok(removed) if removed.is_empty() => {}
                Ok(removed) => log::info!("removed {} old automatic backups", removed.len()),
                Err(error) => log::error!("an old backup in {folder} cannot be removed: {error}"),
            },
            Err(Failure::BackupInProgress) => log::debug!("a backup is under way already"),
            Err(error) => log::error!("no automatic backup: {error}; it is tried again soon"),
        }
    }

    /// Ends a backup that is under way, and makes no more.
    pub fn stop_backups(&self) {
        self.0.backups.stopping.store(true, Ordering::Relaxed);
    }

    fn make_backup(&self, cause: BackupCause, at: Timestamp) -> Result<BackupMade, Failure> {
        let folder = &self.settings().backups.folder;
        let begun = Instant::now();
        let path = folder
            .make()
            .and_then(|()| folder.free_name(cause, at))
            .map_err(|error| {
                log::error!(
                    "no backup: cannot write {}: {error}",
                    folder.path().display()
                );
                Failure::StorageUnavailable {
                    outcome_unknown: false,
                }
            })?;
        let mut told = begun;
        let mut progress = |done: u64, all: u64| {
            if told.elapsed() >= TOLD_EVERY {
                told = Instant::now();
                log::info!("backing up: {done} of {all} memories");
            }
            if self.0.backups.stopping.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let backup = self.store().back_up(&path, at, &mut progress)?;
        let took = begun.elapsed();
        log::info!(
            "backed up to {}: {} accounts, {} memories, {} bytes, {} ms",
            path.display(),
            backup.contents.accounts,
            backup.contents.memories,
            backup.file_bytes,
            took.as_millis(),
        );
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(BackupMade {
            name: name.into_owned(),
            at,
            backup,
            took,
        })
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Store(StoreError::Corrupt(what)) => {
                Self::Internal(format!("no backup was made: {what}"))
            }
            BackupError::Store(error) => error.into(),
            error @ BackupError::Full(_) => {
                log::error!("{error}");
                Self::StorageFull
            }
            error @ BackupError::File { .. } => {
                log::error!("{error}");
                Self::StorageUnavailable {
                    outcome_unknown: false,
                }
            }
            error @ (BackupError::Exists(_) | BackupError::Stopped) => {
                Self::Internal(error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{AdminAccess, Settings};
    use crate::clock::{Clock, ManualClock};
    use crate::domain::plan::{Plans, Prices};
    use crate::store::{Options, Store, restore};

    const HOUR: i64 = 3_600;

    struct Service {
        folder: tempfile::TempDir,
        clock: ManualClock,
        app: App,
    }

    impl Service {
        fn start(every: Option<Duration>) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let clock = ManualClock::new(Timestamp::from_micros(1_767_225_600_000_000));
            let app = Self::app(&folder, &clock, every);
            Self { folder, clock, app }
        }

        fn app(folder: &tempfile::TempDir, clock: &ManualClock, every: Option<Duration>) -> App {
            let data = folder.path().join("data");
            let (store, _) = Store::open(&data, Options::default()).unwrap();
            let settings = Settings {
                plans: Plans::seed(),
                prices: Prices::SEED,
                signup_plans: Vec::new(),
                admin: AdminAccess::Disabled,
                body_bytes_max: 1_024,
                public_url: None,
                backups: BackupSettings {
                    folder: BackupFolder::new(folder.path().join("backups")),
                    every,
                    keep: 3,
                },
                rate_limits: crate::app::RateLimits::OFF,
                trusted_proxies: Vec::new(),
                webhooks: Vec::new(),
            };
            App::new(store, Clock::Manual(clock.clone()), settings)
        }

        fn names(&self) -> Vec<String> {
            let Ok(entries) = std::fs::read_dir(self.folder.path().join("backups")) else {
                return Vec::new();
            };
            let mut names: Vec<_> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }

        async fn after(&self, seconds: i64) -> Vec<String> {
            self.clock.advance(seconds);
            self.app.back_up_if_due().await;
            self.names()
        }
    }

    fn auto(hour: u32, minute: u32) -> String {
        format!("memoryos-auto-20260101T{hour:02}{minute:02}00Z.backup")
    }

    /// Shows that a backup is made when it is due and not before, also by a process that has just started,
    /// that the newest three stay with what the admin asked for, and that a clock put back waits for nothing.
    #[tokio::test]
    async fn backups_are_made_when_they_are_due() {
        let mut service = Service::start(Some(Duration::from_secs(3_600)));
        assert_eq!(service.after(0).await, [auto(0, 0)]);
        assert_eq!(service.after(HOUR - 1).await, [auto(0, 0)]);
        assert_eq!(service.after(1).await, [auto(0, 0), auto(1, 0)]);
        drop(service.app);
        service.app = Service::app(
            &service.folder,
            &service.clock,
            Some(Duration::from_secs(3_600)),
        );
        assert_eq!(service.after(HOUR / 2).await.len(), 2);
        let asked = service.app.back_up(BackupCause::Asked).await.unwrap().name;
        assert_eq!(asked, "memoryos-20260101T013000Z.backup");
        let expected = [asked.clone(), auto(0, 0), auto(1, 0), auto(2, 0)];
        assert_eq!(service.after(HOUR / 2).await, expected);
        let expected = [asked.clone(), auto(1, 0), auto(2, 0), auto(4, 0)];
        assert_eq!(service.after(2 * HOUR).await, expected);
        // Back before all of them: the one made now stays, and a wrong one goes.
        let expected = [asked.clone(), auto(0, 30), auto(1, 0), auto(2, 0)];
        let after = service.after(-(3 * HOUR) - HOUR / 2).await;
        assert_eq!((after.len(), &after[1]), (expected.len(), &expected[1]));
        for name in service.names() {
            let to = service.folder.path().join("restored").join(&name);
            let file = service.folder.path().join("backups").join(&name);
            restore(&file, &to, service.app.now(), &mut |_, _, _| {
                ControlFlow::Continue(())
            })
            .unwrap();
        }
    }

    /// Shows that a failure deletes nothing and is tried again, and that nothing is made unless asked for.
    #[tokio::test]
    async fn a_failed_backup_is_tried_again() {
        let service = Service::start(Some(Duration::from_secs(60)));
        for _ in 0..3 {
            service.after(60).await;
        }
        let three = service.names();
        assert_eq!(three.len(), 3);
        service.app.store().poison_for_test();
        assert_eq!(service.after(60).await, three);
        let failed = service.app.back_up(BackupCause::Asked).await;
        assert!(matches!(failed, Err(Failure::StorageUnavailable { .. })));

        let off = Service::start(None);
        assert_eq!(off.after(0).await, [""; 0]);
        // A file where the folder should be.
        std::fs::write(off.folder.path().join("backups"), "").unwrap();
        let failed = off.app.back_up(BackupCause::Asked).await;
        assert!(matches!(failed, Err(Failure::StorageUnavailable { .. })));
        std::fs::remove_file(off.folder.path().join("backups")).unwrap();
        off.app.back_up(BackupCause::Asked).await.unwrap();
        off.app.stop_backups();
        let stopped = off.app.back_up(BackupCause::Asked).await;
        assert!(matches!(stopped, Err(Failure::Internal(_))));
        assert_eq!(off.names().len(), 1);
    }

    /// Shows that there is one backup at a time, and that it is finished when nobody waits for it any more.
    #[tokio::test]
    async fn one_at_a_time_and_to_its_end() {
        let service = Service::start(None);
        let turn = service.app.0.backups.turn.try_acquire().unwrap();
        let second = service.app.back_up(BackupCause::Asked).await;
        assert!(matches!(second, Err(Failure::BackupInProgress)));
        drop(turn);
        let mut abandoned = Box::pin(service.app.back_up(BackupCause::Asked));
        tokio::select! {
            biased;
            _ = &mut abandoned => panic!("it was made before anybody could let go"),
            () = std::future::ready(()) => {}
        }
        drop(abandoned);
        drop(service.app.0.backups.turn.acquire().await.unwrap());
        assert_eq!(service.names(), ["memoryos-20260101T000000Z.backup"]);
    }
}
