//! Use cases: what a request does, told in the words of the rules and the store.
//!
//! Each reads the time once, checks what the rules need, asks the store for one atomic operation, and
//! returns values; `http` makes an answer of them.

mod accounts;
mod admin;
mod admin_user;
mod audit;
mod authenticate;
mod backups;
mod erasure;
mod failure;
mod keys;
mod ledger;
mod limits;
mod memories;
mod system;
mod webhooks;

use std::sync::Arc;
use std::time::Instant;

use rand::RngExt;

use crate::clock::Clock;
use crate::domain::key::Secret;
use crate::domain::plan::{Operation, Plan, Plans, Prices};
use crate::domain::scope::Scopes;
use crate::domain::time::Timestamp;
use crate::store::{Debited, OpError, Store, StoreError};

pub use accounts::{Credits, SignUp, SignedUp};
pub use admin::{PlanChange, Target};
pub use admin_user::{AdjustRequest, Adjusted, Moved, Recorded};
pub use authenticate::{AdminAccess, AdminProof, Caller, DEFAULT_ADMIN_KEY};
pub use backups::{BackupMade, BackupSettings};
pub use erasure::Receipt;
pub use failure::Failure;
pub use keys::{CreateKey, CreatedKey, KeyAddress, OwnerName, RevokedKey, RotatedKey};
pub use ledger::{HISTORY_DAYS_MAX, HistoryOf, LedgerRefusal, Span};
pub use limits::{Exceeded, Limits, Origin, RateLimits, Rule};
pub use memories::{AddRequest, Answered, Listed, PageRequest, UpdateRequest};
pub use system::{HealthReport, HealthStatus, StatsReport};
pub use webhooks::{WebhookEndpoint, WebhookStatus};

use backups::Backups;
use webhooks::Webhooks;

pub use crate::store::{
    AccountFilter, AccountRow, AccountsPage, AuditItem, AuditPage, BackupCause, CheckReport,
    DueEvent, KeyChange, KeyRow, Page, PageStart, Principal, Stats,
};

/// What an operator decides about the service.
#[derive(Debug)]
pub struct Settings {
    /// The table of plans, the store's too.
    pub plans: &'static Plans,
    /// What operations cost.
    pub prices: Prices,
    /// Plans that a sign-up may choose; empty closes sign-up.
    pub signup_plans: Vec<Plan>,
    /// Who is the admin.
    pub admin: AdminAccess,
    /// Largest request body, in bytes.
    pub body_bytes_max: usize,
    /// Where clients reach the service, for its description; without a slash at its end.
    pub public_url: Option<String>,
    /// Where backups go, and which are made unasked.
    pub backups: BackupSettings,
    /// How much may be asked for.
    pub rate_limits: RateLimits,
    /// Proxies that are believed when they say for whom they ask.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Who is told what happens.
    pub webhooks: Vec<WebhookEndpoint>,
}

/// The service: the store, the clock and the settings, passed to every use case. Clones share it.
///
/// Each request makes some clones. What they count is shared by the clones of [`Self::apart`] only: threads that
/// have one each do not wait for each other's counter.
#[derive(Clone, Debug)]
#[expect(
    clippy::redundant_allocation,
    reason = "the outer one is a thread's own"
)]
pub struct App(Arc<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    store: Store,
    clock: Clock,
    settings: Settings,
    started: Instant,
    backups: Backups,
    audit: audit::Audit,
    limits: Limits,
    webhooks: Webhooks,
}

impl App {
    /// Puts a service together.
    #[must_use]
    pub fn new(store: Store, clock: Clock, settings: Settings) -> Self {
        let limits = Limits::new(&settings.rate_limits, settings.plans, &clock);
        let webhooks = Webhooks::new(&settings.webhooks);
        Self(Arc::new(Arc::new(Inner {
            store,
            clock,
            settings,
            started: Instant::now(),
            backups: Backups::new(),
            audit: audit::Audit::default(),
            limits,
            webhooks,
        })))
    }

    /// Returns the same service, for a thread of its own.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self(Arc::new(Arc::clone(&self.0)))
    }

    /// Returns the time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Returns the settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Returns the limits against abuse.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Returns the table of plans.
    #[must_use]
    pub fn plans(&self) -> &'static Plans {
        self.0.settings.plans
    }

    /// Returns what an operation costs, in credits.
    #[must_use]
    pub fn price(&self, operation: Operation) -> u64 {
        self.0.settings.prices.of(operation)
    }

    fn store(&self) -> &Store {
        &self.0.store
    }

    /// Says whether there is a database, which there is but for moments after a failure.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.store().is_open()
    }

    /// Waits until there is a database, which is at once unless it is being opened anew after a failure.
    pub async fn opened(&self) {
        self.store().opened().await;
    }

    /// Removes what has expired. Called now and then; each call does a bounded amount of work.
    pub async fn sweep(&self) {
        self.limits().sweep();
        match self.store().sweep_replays(self.now()).await {
            Ok(0) | Err(StoreError::Unavailable | StoreError::Full) => {}
            Ok(removed) => log::debug!("removed {removed} recorded answers older than a day"),
            Err(error) => log::warn!("removing old recorded answers failed: {error}"),
        }
        match self.store().finish_erasures().await {
            Ok(0) | Err(StoreError::Unavailable | StoreError::OutcomeUnknown) => {}
            Ok(finished) => log::info!("finished {finished} erasures that were interrupted"),
            Err(error) => log::warn!("finishing an erasure failed: {error}"),
        }
        match self.store().sweep_expired_keys(self.now()).await {
            Ok(0) | Err(StoreError::Unavailable | StoreError::Full) => {}
            Ok(ended) => log::info!("{ended} keys have expired"),
            Err(error) => log::warn!("ending expired keys failed: {error}"),
        }
    }

    /// Debits a metered read, once what it answers with has been read.
    async fn debit(
        &self,
        principal: &Principal,
        operation: Operation,
        now: Timestamp,
    ) -> Result<Debited, Failure> {
        let price = self.price(operation);
        self.store()
            .debit(
                principal.account,
                principal.payer(),
                (operation, price),
                now,
            )
            .await
            .map_err(|error| match error {
                OpError::Refused(refusal) => Failure::of_usage(refusal, price),
                OpError::Store(error) => error.into(),
            })
    }

    /// Runs something that may read a lot on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        let store = self.store().clone();
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .map_err(|_| Failure::Internal("a task was interrupted".to_owned()))?
            .map_err(Failure::from)
    }
}

/// Returns random bits for an id.
fn random_bits() -> u128 {
    rand::rng().random()
}

/// What bounds a key besides a plan; `None` for what bounds its maker.
#[derive(Clone, Debug, Default)]
pub struct KeyLimits {
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// What it may do.
    pub scopes: Option<Scopes>,
    /// Most credits that it may spend in a cycle.
    pub credits_per_cycle: Option<u64>,
}

/// Returns what the store is told of a new key.
fn new_key(
    secret: &Secret,
    description: String,
    cap: Option<Plan>,
    limits: &KeyLimits,
) -> Result<crate::store::NewKey, Failure> {
    Ok(crate::store::NewKey {
        hash: secret.hash(),
        id: crate::domain::key::KeyId::generate()?,
        masked: secret.masked(),
        description,
        cap,
        credits_cap: limits.credits_per_cycle,
        scopes: limits.scopes,
        expires_at: limits.expires_at,
    })
}
