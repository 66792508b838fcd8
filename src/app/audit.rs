//! The audit log: what the service itself puts into it, and what the admin reads of it.
//!
//! What changes a record carries its event there by itself. Here is what changes none: who was let in as the
//! admin and who was not, a key that was kept, a clock that was set back. It is never a reason for a request
//! to fail: what cannot be written is a line of the log.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::StepWatch;
use crate::domain::account::AccountKey;
use crate::domain::event::{Actor, Cause, EventKind, RequestId};
use crate::domain::key::KeyId;
use crate::domain::time::Timestamp;
use crate::store::{AuditFilter, AuditPage};

use super::{AdminAccess, App, Failure, Target};

/// How often the same refusal is a row, at most.
const REFUSAL_SECONDS: i64 = 60;
/// Refusals that are told apart.
const REFUSALS_MAX: usize = 4_096;
/// Before any time.
const NEVER: Timestamp = Timestamp::from_micros(i64::MIN);
/// How often the head is a line of the log.
const HEAD_EVERY: Duration = Duration::from_secs(3_600);

/// What is known from one request to the next.
#[derive(Debug, Default)]
pub(super) struct Audit {
    /// Whether it is in the log that the default admin key is in use.
    default_key_told: AtomicBool,
    /// Requests that were refused an admin's route, by route.
    refused: Mutex<Tally<String>>,
    /// Keys that were not revoked.
    kept: Mutex<Tally<KeyId>>,
    watch: Mutex<Watch>,
}

#[derive(Debug, Default)]
struct Watch {
    clock: StepWatch,
    /// When the head was told, since the start.
    head_told: Duration,
}

/// Counts what happens often, so that it is told at once and then once a minute.
#[derive(Debug)]
struct Tally<K> {
    told: HashMap<K, Told>,
    /// When room was made last: once a minute, or a flood would have all of it looked at each time.
    cleared: Timestamp,
}

#[derive(Debug)]
struct Told {
    /// When it was told last.
    at: Timestamp,
    /// How often it happened since.
    count: u64,
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self {
            told: HashMap::new(),
            cleared: NEVER,
        }
    }
}

impl Told {
    /// Says whether it may be told again: also if the clock was set back.
    fn is_due(&self, now: Timestamp) -> bool {
        is_a_minute(self.at, now)
    }
}

/// Says whether a minute has passed, also if nobody can tell since the clock was set back.
fn is_a_minute(since: Timestamp, now: Timestamp) -> bool {
    now < since || since.plus_seconds(REFUSAL_SECONDS) <= now
}

impl<K: Clone + Eq + Hash> Tally<K> {
    /// Counts one. Returns how many are to be told now; `None` if none are.
    fn count(&mut self, of: K, now: Timestamp) -> Option<u64> {
        if !self.told.contains_key(&of) && self.told.len() >= REFUSALS_MAX {
            if is_a_minute(self.cleared, now) {
                self.cleared = now;
                self.told
                    .retain(|_, told| told.count > 0 || !told.is_due(now));
            }
            if self.told.len() >= REFUSALS_MAX {
                return None;
            }
        }
        let told = self.told.entry(of).or_insert(Told {
            at: NEVER,
            count: 0,
        });
        told.count = told.count.saturating_add(1);
        if !told.is_due(now) {
            return None;
        }
        told.at = now;
        Some(std::mem::take(&mut told.count))
    }

    /// Takes what was counted and not told yet: what is due, or all.
    fn take(&mut self, now: Timestamp, all: bool) -> Vec<(K, u64)> {
        let mut taken = Vec::new();
        for (of, told) in &mut self.told {
            if told.count > 0 && (all || told.is_due(now)) {
                told.at = now;
                taken.push((of.clone(), std::mem::take(&mut told.count)));
            }
        }
        taken
    }
}

impl App {
    /// Returns rows of the audit log below the number `before` (from the newest if `None`), newest first;
    /// those of one account, and from a time on, if that is asked for.
    ///
    /// # Errors
    ///
    /// [`Failure::UserNotFound`].
    pub async fn audit_log(
        &self,
        account: Option<Target>,
        from: Option<Timestamp>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<AuditPage, Failure> {
        let account = account
            .map(|target| self.audited_account(&target))
            .transpose()?;
        let filter = AuditFilter { account, from };
        self.blocking(move |store| store.audit_page(&filter, before, limit))
            .await
    }

    /// Returns the account that a name is of. The id that an account has in the log's lines is one too: of an
    /// account that is gone nothing else is left.
    fn audited_account(&self, target: &Target) -> Result<AccountKey, Failure> {
        if let Some(account) = self.target(target)? {
            return Ok(account);
        }
        match target {
            Target::AccountIdOrKey(text) => {
                AccountKey::parse_anonymous_id(text).ok_or(Failure::UserNotFound)
            }
            Target::KeyId(_) => Err(Failure::UserNotFound),
        }
    }

    /// Notes that the admin's request for a route was let in: a row each.
    pub fn admin_let_in(&self, route: String, request: Option<RequestId>) {
        let cause = Cause {
            request,
            ..Cause::by(Actor::Admin)
        };
        let is_default = matches!(self.settings().admin, AdminAccess::LoopbackDefault);
        if is_default && !self.0.audit.default_key_told.swap(true, Ordering::Relaxed) {
            self.audit(None, cause.clone(), EventKind::DefaultAdminKey);
        }
        self.audit(None, cause, EventKind::AdminGranted { route });
    }

    /// Notes that a command on the machine did what leaves no event of its own.
    pub fn operator_let_in(&self, command: &str, cause: Cause) {
        let route = command.to_owned();
        self.audit(None, cause, EventKind::AdminGranted { route });
    }

    /// Notes that a request for a route was refused that only the admin may make, or that came with a wrong
    /// admin key: at once, and then once a minute for each route, with how many they were. Waits for no disk.
    pub fn admin_refused(&self, route: String) {
        let now = self.now();
        let Some(count) = lock(&self.0.audit.refused).count(route.clone(), now) else {
            return;
        };
        let app = self.clone();
        let write = move || app.audit_refused(route, count);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(write)),
            Err(_) => write(),
        }
    }

    fn audit_refused(&self, route: String, count: u64) {
        let kind = EventKind::AdminRefused { route, count };
        self.audit(None, Cause::by(Actor::Nobody), kind);
    }

    /// Notes that a key was not revoked, since no other of its account manages keys: once a minute.
    pub(super) fn key_kept(&self, account: AccountKey, key: KeyId, cause: Cause) {
        let now = self.now();
        if lock(&self.0.audit.kept).count(key.clone(), now).is_some() {
            self.audit(Some(account), cause, EventKind::KeyKept { key });
        }
    }

    /// Tells the head, and notes that the clock is behind what the log says; at start.
    pub fn begin_audit(&self) {
        if let Ok(Some(last)) = self.store().audit_last_at() {
            let behind = self.now().micros().saturating_sub(last.micros());
            let seconds = behind.div_euclid(1_000_000);
            if seconds < StepWatch::STEP_SECONDS_MIN.saturating_neg() {
                self.clock_stepped(seconds);
            }
        }
        self.tell_audit_head();
    }

    /// Notes a clock that was set back and refusals that were counted, and tells the head each hour. Called
    /// every few seconds.
    pub async fn watch_audit(&self) {
        let app = self.clone();
        // A disk that hangs holds up this alone.
        let watched = tokio::task::spawn_blocking(move || {
            let (elapsed, now) = (app.0.started.elapsed(), app.now());
            let mut watch = lock(&app.0.audit.watch);
            let step = watch.clock.look(elapsed, now);
            let tells = elapsed.saturating_sub(watch.head_told) >= HEAD_EVERY;
            if tells {
                watch.head_told = elapsed;
            }
            drop(watch);
            if let Some(seconds) = step {
                app.clock_stepped(seconds);
            }
            app.audit_counted(false);
            if tells {
                app.tell_audit_head();
            }
        });
        // It has told why, if it panicked.
        let _ = watched.await;
    }

    /// Notes the refusals that were counted, and tells the head; at the end.
    pub async fn end_audit(&self) {
        let app = self.clone();
        let ended = tokio::task::spawn_blocking(move || {
            app.audit_counted(true);
            app.tell_audit_head();
        });
        let _ = ended.await;
    }

    fn audit_counted(&self, all: bool) {
        let counted = lock(&self.0.audit.refused).take(self.now(), all);
        for (route, count) in counted {
            self.audit_refused(route, count);
        }
    }

    fn clock_stepped(&self, seconds: i64) {
        log::warn!("the clock was set back by {} s", seconds.unsigned_abs());
        self.audit(None, Cause::service(), EventKind::ClockStep { seconds });
    }

    fn tell_audit_head(&self) {
        match self.store().audit_head() {
            Ok(head) => log::info!("audit log: head {head}"),
            Err(error) => log::warn!("audit log: the head cannot be told: {error}"),
        }
    }

    /// Puts into the log what changed no record; what cannot be put there is a line of the log.
    fn audit(&self, account: Option<AccountKey>, cause: Cause, kind: EventKind) {
        let line = Line(&cause, &kind).to_string();
        if let Err(error) = self.store().record_event(account, self.now(), cause, kind) {
            log::error!("not in the audit log, since {error}: {line}");
        }
    }
}

/// An event as a line of the log.
struct Line<'a>(&'a Cause, &'a EventKind);

impl Display for Line<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(cause, kind) = self;
        write!(f, "{} by {} {}", kind.name(), cause.actor, kind.details())?;
        match cause.request {
            Some(id) => write!(f, " id={id}"),
            None => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{BackupSettings, RateLimits, Settings};
    use crate::clock::{Clock, ManualClock};
    use crate::domain::plan::{Plans, Prices};
    use crate::store::{BackupFolder, Options, Store};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(0).plus_seconds(seconds)
    }

    #[test]
    fn a_flood_is_told_once_a_minute() {
        // Shows that the first is told at once, a hundred thousand more in a minute are one number, and that
        // nothing is lost at the end or when the clock is set back.
        let mut tally = Tally::default();
        assert_eq!(tally.count("a", at(0)), Some(1));
        for n in 0..100_000 {
            assert_eq!(tally.count("a", at(n % 60)), None);
        }
        assert_eq!(tally.count("b", at(59)), Some(1));
        assert_eq!(tally.take(at(59), false), []);
        assert_eq!(tally.count("a", at(60)), Some(100_001));
        assert_eq!(tally.count("a", at(61)), None);
        assert_eq!(tally.take(at(119), false), []);
        assert_eq!(tally.take(at(120), false), [("a", 1)]);
        assert_eq!(tally.take(at(200), false), []);
        assert_eq!(tally.count("b", at(-500)), Some(1));
        assert_eq!(tally.count("b", at(-499)), None);
        assert_eq!(tally.take(at(-499), true), [("b", 1)]);
    }

    #[test]
    fn a_tally_is_bounded() {
        // Shows that a million names take no more room than the bound, that those told long ago make room, and
        // that what was counted and not told yet is kept.
        let mut tally = Tally::default();
        assert_eq!(tally.count(-1, at(0)), Some(1));
        assert_eq!(tally.count(-1, at(0)), None);
        for n in 0..1_000_000 {
            tally.count(n, at(1));
        }
        assert_eq!(tally.told.len(), REFUSALS_MAX);
        assert_eq!(tally.count(2_000_000, at(61)), Some(1));
        assert_eq!(tally.told.len(), 2);
        assert_eq!(tally.take(at(61), false), [(-1, 1)]);
    }

    /// Shows that a clock that is set back while the server runs, or while it does not, is a row, once, with
    /// how far; and that refusals that were counted are written when they are due, and at the end.
    #[tokio::test]
    async fn a_clock_that_is_set_back_is_a_row() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path(), Options::default()).unwrap();
        let clock = ManualClock::new(at(1_000_000));
        let app = App::new(
            store.clone(),
            Clock::Manual(clock.clone()),
            settings(folder.path()),
        );
        let rows = || {
            let page = store
                .audit_page(&AuditFilter::default(), None, 100)
                .unwrap();
            let rows = page.rows.into_iter().rev().map(|item| item.entry);
            rows.map(|row| format!("{} {}", row.action, row.details))
                .collect::<Vec<_>>()
        };
        app.begin_audit();
        app.watch_audit().await;
        app.watch_audit().await;
        clock.advance(-50);
        app.watch_audit().await;
        assert_eq!(rows(), [""; 0]);
        clock.advance(-3_600);
        app.watch_audit().await;
        app.watch_audit().await;
        assert_eq!(rows().len(), 1);
        assert!(
            rows()[0].starts_with(r#"clock.step {"seconds":-360"#),
            "{:?}",
            rows()
        );
        clock.advance(-7_200);
        // Another start.
        let app = App::new(
            store.clone(),
            Clock::Manual(clock.clone()),
            settings(folder.path()),
        );
        app.begin_audit();
        assert_eq!(rows()[1..], [r#"clock.step {"seconds":-7200}"#]);
        app.begin_audit();
        for n in 0..3 {
            // As the routes do, but for the thread that writes.
            let count = lock(&app.0.audit.refused).count("GET /a".to_owned(), app.now());
            assert_eq!(count, (n == 0).then_some(1));
        }
        app.watch_audit().await;
        assert_eq!(rows().len(), 2);
        clock.advance(60);
        app.watch_audit().await;
        assert_eq!(
            rows()[2..],
            [r#"admin.refused {"count":2,"route":"GET /a"}"#]
        );
        lock(&app.0.audit.refused).count("GET /a".to_owned(), app.now());
        app.end_audit().await;
        assert_eq!(
            rows()[3..],
            [r#"admin.refused {"count":1,"route":"GET /a"}"#]
        );
    }

    /// Shows that a log that takes no rows makes nothing fail, and forgets nobody's refusal.
    #[tokio::test]
    async fn a_disk_that_fails_fails_no_request() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path(), Options::default()).unwrap();
        let clock = ManualClock::new(at(1_000_000));
        let app = App::new(store.clone(), Clock::Manual(clock), settings(folder.path()));
        let head = store.audit_head().unwrap();
        store.poison_for_test();
        app.admin_let_in("GET /a".to_owned(), None);
        app.admin_refused("GET /a".to_owned());
        app.watch_audit().await;
        app.end_audit().await;
        assert_eq!(store.audit_head().unwrap(), head);
    }

    fn settings(folder: &std::path::Path) -> Settings {
        let plans = Plans::seed();
        Settings {
            plans,
            prices: Prices::SEED,
            signup_plans: Vec::new(),
            admin: AdminAccess::Disabled,
            body_bytes_max: 65_536,
            public_url: None,
            backups: BackupSettings {
                folder: BackupFolder::new(folder.join("backups")),
                every: None,
                keep: 1,
            },
            rate_limits: RateLimits::OFF,
            trusted_proxies: Vec::new(),
            webhooks: Vec::new(),
        }
    }
}
