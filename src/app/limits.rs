//! Limits against abuse: token buckets for each account, each address, and all sign-ups together.
//!
//! | limit | counts | of |
//! | --- | --- | --- |
//! | `free-routes` | requests that cost no credits; what costs some is limited by them | an account |
//! | `key-changes` | keys made, changed, rotated and revoked: each leaves a trace for ever | an account |
//! | `signup-hour`, `signup-day` | accounts made, and e-mails that turned out to have one | an address |
//! | `signup-global` | the same | all addresses together |
//! | `auth-failures` | credentials that are wrong; not those that are missing | an address |
//!
//! A bucket of 5 an hour holds 5 tokens and gets one back every 12 minutes. What is refused takes nothing
//! from any bucket. Buckets are in memory only: a restart fills them.

mod buckets;
mod origin;

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::{Quota, RateLimiter};

use crate::clock::Clock;
use crate::domain::account::AccountKey;
use crate::domain::plan::{Plan, Plans};
use crate::store::Principal;

use super::{App, Failure};
use buckets::{Buckets, Room};

pub use origin::Origin;

/// How often buckets are looked through for full ones while there is no room for new keys.
const SWEEP_NANOS: u64 = 10_000_000_000;
/// How often the log tells that a limit strikes.
const TOLD_NANOS: u64 = 60_000_000_000;

/// How many of each there may be; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// Requests of an account to free routes, a minute.
    pub free_routes: u32,
    /// Changes of an account's keys by themselves, an hour.
    pub key_changes: u32,
    /// Sign-ups from an address, an hour.
    pub signup_hour: u32,
    /// Sign-ups from an address, a day.
    pub signup_day: u32,
    /// Sign-ups from all addresses together, an hour.
    pub signup_global: u32,
    /// Wrong credentials from an address, a minute.
    pub auth_failures: u32,
}

impl RateLimits {
    /// No limit at all.
    pub const OFF: Self = Self {
        free_routes: 0,
        key_changes: 0,
        signup_hour: 0,
        signup_day: 0,
        signup_global: 0,
        auth_failures: 0,
    };
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            free_routes: 600,
            key_changes: 300,
            signup_hour: 5,
            signup_day: 20,
            signup_global: 1_000,
            auth_failures: 20,
        }
    }
}

/// One of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// [`RateLimits::free_routes`]
    FreeRoutes,
    /// [`RateLimits::key_changes`]
    KeyChanges,
    /// [`RateLimits::signup_hour`]
    SignupHour,
    /// [`RateLimits::signup_day`]
    SignupDay,
    /// [`RateLimits::signup_global`]
    SignupGlobal,
    /// [`RateLimits::auth_failures`]
    AuthFailures,
}

impl Rule {
    /// Returns its name, as headers, answers and the log have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FreeRoutes => "free-routes",
            Self::KeyChanges => "key-changes",
            Self::SignupHour => "signup-hour",
            Self::SignupDay => "signup-day",
            Self::SignupGlobal => "signup-global",
            Self::AuthFailures => "auth-failures",
        }
    }

    /// Returns the seconds in which an empty bucket gets full.
    #[must_use]
    pub const fn window_seconds(self) -> u32 {
        match self {
            Self::FreeRoutes | Self::AuthFailures => 60,
            Self::KeyChanges | Self::SignupHour | Self::SignupGlobal => 3_600,
            Self::SignupDay => 86_400,
        }
    }
}

/// A limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// Which.
    pub rule: Rule,
    /// How many there may be in its window.
    pub quota: u32,
    /// Seconds until there may be one more; rounded up, at least 1.
    pub wait_seconds: u64,
}

/// The time of buckets: it never goes back, unless a test's does.
#[derive(Clone, Debug)]
struct Pace {
    clock: Clock,
    started: Instant,
}

impl governor::clock::Clock for Pace {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        let nanos = match &self.clock {
            // Not wall time, which may be set.
            Clock::System => u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            Clock::Manual(_) => {
                let micros = u64::try_from(self.clock.now().micros()).unwrap_or(0);
                micros.saturating_mul(1_000)
            }
        };
        Nanos::new(nanos)
    }
}

/// One limit with its buckets.
#[derive(Debug)]
struct Limit<K: Copy + Eq + Hash> {
    rule: Rule,
    quota: u32,
    /// How long one token takes to come.
    period: Nanos,
    buckets: Buckets<K>,
    limiter: RateLimiter<K, Buckets<K>, Pace, NoOpMiddleware<Nanos>>,
    swept_at: AtomicU64,
    /// How often it struck since the log told.
    struck: AtomicU64,
    /// When the log told; 0 for never.
    told_at: AtomicU64,
}

impl<K: Copy + Eq + Hash> Limit<K> {
    /// Makes a limit. `None` for no limit.
    fn new(rule: Rule, quota: u32, pace: &Pace, room: Room) -> Option<Self> {
        let burst = NonZeroU32::new(quota)?;
        let window = Duration::from_secs(rule.window_seconds().into());
        let period = window.checked_div(quota)?;
        let allowed = Quota::with_period(period)?.allow_burst(burst);
        let buckets = Buckets::new(room);
        Some(Self {
            rule,
            quota,
            period: period.into(),
            limiter: RateLimiter::new(allowed, buckets.clone(), pace.clone()),
            buckets,
            swept_at: AtomicU64::new(0),
            struck: AtomicU64::new(0),
            told_at: AtomicU64::new(0),
        })
    }

    /// Takes a token.
    fn take(&self, key: &K) -> Result<(), Exceeded> {
        if self.buckets.are_full() {
            self.sweep_now_and_then();
        }
        let Err(refused) = self.limiter.check_key(key) else {
            return Ok(());
        };
        let now = self.limiter.clock().now();
        self.tell(now.as_u64());
        let wait = refused
            .wait_time_from(now)
            .as_nanos()
            .div_ceil(1_000_000_000);
        Err(Exceeded {
            rule: self.rule,
            quota: self.quota,
            wait_seconds: u64::try_from(wait).unwrap_or(u64::MAX).max(1),
        })
    }

    /// Gives a token back.
    fn give_back(&self, key: &K) {
        self.buckets.give_back(key, self.period);
    }

    fn sweep_now_and_then(&self) {
        let now = self.limiter.clock().now().as_u64();
        let swept_at = self.swept_at.load(Ordering::Relaxed);
        let is_due = now.saturating_sub(swept_at) >= SWEEP_NANOS;
        // Who loses the swap leaves it to who wins.
        if is_due && swap(&self.swept_at, swept_at, now) {
            self.limiter.retain_recent();
        }
    }

    fn sweep(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }

    /// Tells the log, but not each time. Neither accounts nor addresses are named.
    fn tell(&self, now: u64) {
        self.struck.fetch_add(1, Ordering::Relaxed);
        let told_at = self.told_at.load(Ordering::Relaxed);
        let is_due = told_at == 0 || now.saturating_sub(told_at) >= TOLD_NANOS;
        if is_due && swap(&self.told_at, told_at, now.max(1)) {
            let times = self.struck.swap(0, Ordering::Relaxed);
            log::warn!(
                "rate limit {} ({} in {} s) strikes; refused since this was last told: {times}",
                self.rule.name(),
                self.quota,
                self.rule.window_seconds()
            );
        }
    }
}

fn swap(place: &AtomicU64, from: u64, to: u64) -> bool {
    place
        .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed)
        .is_ok()
}

/// All limits of a service.
#[derive(Debug)]
pub struct Limits {
    free_routes: Option<Limit<AccountKey>>,
    /// Those of plans that have their own, by how many a minute.
    of_plans: Vec<(u32, Limit<AccountKey>)>,
    key_changes: Option<Limit<AccountKey>>,
    signup_hour: Option<Limit<Origin>>,
    signup_day: Option<Limit<Origin>>,
    signup_global: Option<Limit<()>>,
    auth_failures: Option<Limit<Origin>>,
}

impl Limits {
    /// Makes the limits, all buckets full. A plan's own requests a minute are in the place of
    /// [`RateLimits::free_routes`], unless all limits are off.
    #[must_use]
    pub fn new(limits: &RateLimits, plans: &'static Plans, clock: &Clock) -> Self {
        let own = plans.iter().filter_map(requests_per_minute);
        Self::with_room(limits, own.collect(), clock, Room::DEFAULT)
    }

    /// Makes the limits with these of plans.
    fn with_room(limits: &RateLimits, mut of_plans: Vec<u32>, clock: &Clock, room: Room) -> Self {
        let pace = &Pace {
            clock: clock.clone(),
            started: Instant::now(),
        };
        let one = Room { own: 1, shared: 1 };
        of_plans.retain(|_| *limits != RateLimits::OFF);
        of_plans.sort_unstable();
        of_plans.dedup();
        let of_plan = |quota| Some((quota, Limit::new(Rule::FreeRoutes, quota, pace, room)?));
        Self {
            free_routes: Limit::new(Rule::FreeRoutes, limits.free_routes, pace, room),
            of_plans: of_plans.into_iter().filter_map(of_plan).collect(),
            key_changes: Limit::new(Rule::KeyChanges, limits.key_changes, pace, room),
            signup_hour: Limit::new(Rule::SignupHour, limits.signup_hour, pace, room),
            signup_day: Limit::new(Rule::SignupDay, limits.signup_day, pace, room),
            signup_global: Limit::new(Rule::SignupGlobal, limits.signup_global, pace, one),
            auth_failures: Limit::new(Rule::AuthFailures, limits.auth_failures, pace, room),
        }
    }

    /// Counts a request of an account to a free route. `of_plan` looks up how many its plan has of its own.
    fn take_free_route(
        &self,
        account: AccountKey,
        of_plan: impl FnOnce() -> Result<Option<u32>, Failure>,
    ) -> Result<(), Failure> {
        // Most services have no plan with its own: then nothing is looked up.
        let own = if self.of_plans.is_empty() {
            None
        } else {
            of_plan()?
        };
        let limit = match own {
            Some(own) => {
                let mut of_plans = self.of_plans.iter();
                of_plans
                    .find(|(quota, _)| *quota == own)
                    .map(|(_, limit)| limit)
            }
            None => self.free_routes.as_ref(),
        };
        take(limit, &account)
    }

    /// Counts a change of an account's keys by one of them.
    ///
    /// # Errors
    ///
    /// [`Failure::RateLimited`] if there were too many.
    pub fn take_key_change(&self, principal: &Principal) -> Result<(), Failure> {
        take(self.key_changes.as_ref(), &principal.account)
    }

    /// Counts a sign-up, before it is known how it ends: else a race would pass. One that made nothing and
    /// told nothing is given back by [`Self::give_back_sign_up`].
    ///
    /// # Errors
    ///
    /// [`Failure::RateLimited`]; then it is not counted.
    pub fn take_sign_up(&self, origin: Origin) -> Result<(), Failure> {
        take(self.signup_hour.as_ref(), &origin)?;
        take(self.signup_day.as_ref(), &origin)
            .inspect_err(|_| give_back(self.signup_hour.as_ref(), &origin))?;
        take(self.signup_global.as_ref(), &()).inspect_err(|_| {
            give_back(self.signup_hour.as_ref(), &origin);
            give_back(self.signup_day.as_ref(), &origin);
        })
    }

    /// Uncounts a sign-up.
    pub fn give_back_sign_up(&self, origin: Origin) {
        give_back(self.signup_hour.as_ref(), &origin);
        give_back(self.signup_day.as_ref(), &origin);
        give_back(self.signup_global.as_ref(), &());
    }

    /// Counts a credential that was found wrong.
    ///
    /// # Errors
    ///
    /// [`Failure::RateLimited`] if there were too many.
    pub fn take_auth_failure(&self, origin: Origin) -> Result<(), Failure> {
        take(self.auth_failures.as_ref(), &origin)
    }

    /// Forgets buckets that are full again. Called now and then.
    pub(super) fn sweep(&self) {
        for limit in [&self.signup_hour, &self.signup_day, &self.auth_failures] {
            limit.iter().for_each(Limit::sweep);
        }
        let of_plans = self.of_plans.iter().map(|(_, limit)| limit);
        self.free_routes
            .iter()
            .chain(&self.key_changes)
            .chain(of_plans)
            .for_each(Limit::sweep);
    }
}

impl App {
    /// Counts a request to a free route, against the limit of its account's plan or that of all.
    ///
    /// # Errors
    ///
    /// [`Failure::RateLimited`], or what the store says.
    pub fn take_free_route(&self, principal: &Principal) -> Result<(), Failure> {
        self.limits().take_free_route(principal.account, || {
            let of_plan = self
                .store()
                .see_usage(principal.account, self.now(), |usage| {
                    requests_per_minute(usage.plan())
                })?;
            Ok(of_plan)
        })
    }
}

/// Returns how many free requests a minute the plan has of its own.
const fn requests_per_minute(plan: Plan) -> Option<u32> {
    plan.terms().requests_per_minute
}

fn take<K: Copy + Eq + Hash>(limit: Option<&Limit<K>>, key: &K) -> Result<(), Failure> {
    limit.map_or(Ok(()), |limit| {
        limit.take(key).map_err(Failure::RateLimited)
    })
}

fn give_back<K: Copy + Eq + Hash>(limit: Option<&Limit<K>>, key: &K) {
    if let Some(limit) = limit {
        limit.give_back(key);
    }
}

#[cfg(test)]
mod tests;
