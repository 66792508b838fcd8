//! What only the admin may do.

use std::time::{Duration, Instant};

use crate::domain::account::AccountKey;
use crate::domain::event::Cause;
use crate::domain::key::{KeyId, Secret};
use crate::domain::plan::Plan;
use crate::domain::usage::Usage;
use crate::store::{AccountFilter, AccountsPage, CheckReport, StoreError};

use super::{App, Failure};

/// How an admin's request names an account.
#[derive(Debug)]
pub enum Target {
    /// By the id of one of its keys.
    KeyId(KeyId),
    /// By its account id, or one of its keys.
    AccountIdOrKey(String),
}

impl Target {
    /// Says what kind of name the text is.
    #[must_use]
    pub fn parse(text: String) -> Self {
        KeyId::parse(&text).map_or(Self::AccountIdOrKey(text), Self::KeyId)
    }
}

/// A plan that was changed, or was the same.
#[derive(Debug)]
pub struct PlanChange {
    /// The account's public id.
    pub account_id: String,
    /// The plan before.
    pub previous: Plan,
    /// The counters after.
    pub usage: Usage,
}

impl App {
    /// Returns accounts, oldest first.
    ///
    /// # Errors
    ///
    /// Whatever the store says.
    pub async fn accounts(
        &self,
        filter: AccountFilter,
        skip: u64,
        limit: u64,
    ) -> Result<AccountsPage, Failure> {
        let now = self.now();
        self.blocking(move |store| store.accounts(&filter, skip, limit, now))
            .await
    }

    /// Changes an account's plan.
    ///
    /// # Errors
    ///
    /// [`Failure::UserNotFound`].
    pub async fn change_plan(
        &self,
        target: &Target,
        plan: Plan,
        cause: Cause,
    ) -> Result<PlanChange, Failure> {
        let account = self.target(target)?.ok_or(Failure::UserNotFound)?;
        let now = self.now();
        let changed = self.store().change_plan(account, plan, now, cause).await;
        let (previous, usage) = changed.map_err(not_there)?;
        log::info!(
            "plan of {} changed from {previous} to {plan}",
            account.anonymous_id()
        );
        Ok(PlanChange {
            account_id: self.store().account_id(account).map_err(not_there)?,
            previous,
            usage,
        })
    }

    pub(super) fn target(&self, target: &Target) -> Result<Option<AccountKey>, Failure> {
        let now = self.now();
        let key = match target {
            Target::KeyId(id) => {
                if let Some(key) = self.store().key_by_id(id, now)? {
                    return Ok(Some(key.account));
                }
                // A key that an operator chose can look like an id.
                self.store()
                    .key_by_hash(&Secret::new(id.as_str()).hash(), now)?
            }
            Target::AccountIdOrKey(text) => {
                let name = text.trim().to_ascii_lowercase();
                let named = if name.contains('@') { &name } else { text };
                if let Some(account) = self.store().account_named(named)? {
                    return Ok(Some(account));
                }
                self.store()
                    .key_by_hash(&Secret::new(text.as_str()).hash(), now)?
            }
        };
        Ok(key.map(|key| key.account))
    }

    /// Checks everything beside writes, one check at a time. Returns the report, and how long it took.
    ///
    /// # Errors
    ///
    /// [`Failure::CheckInProgress`], [`Failure::StorageUnavailable`].
    pub async fn check(&self) -> Result<(CheckReport, Duration), Failure> {
        let begun = Instant::now();
        let report = self.store().check_beside_writes().await?;
        let took = begun.elapsed();
        if report.is_sound() {
            log::info!("checked in {} ms: {}", took.as_millis(), report.totals());
        } else {
            log::error!("checked in {} ms: {}", took.as_millis(), report.totals());
        }
        Ok((report, took))
    }

    /// Counts every account's memories and corrects the counters: the number of accounts, and for each
    /// one corrected its id, the count before and the one found.
    ///
    /// # Errors
    ///
    /// Whatever the store says.
    pub async fn sync_memory_counts(&self) -> Result<(u64, Vec<(String, u64, u64)>), Failure> {
        const CHUNK: usize = 1_000;
        let (mut seen, mut corrected, mut last) = (0u64, Vec::new(), None);
        loop {
            let accounts = self
                .blocking(move |store| store.accounts_after(last, CHUNK))
                .await?;
            for account in &accounts {
                seen = seen.saturating_add(1);
                let recounted = match self.store().recount(*account).await {
                    // Erased meanwhile.
                    Err(StoreError::NoAccount) => continue,
                    recounted => recounted?,
                };
                if let Some((was, is)) = recounted {
                    log::warn!(
                        "memory count of {} was {was}, is {is}",
                        account.anonymous_id()
                    );
                    corrected.push((self.store().account_id(*account)?, was, is));
                }
            }
            last = accounts.last().copied();
            if accounts.len() < CHUNK {
                return Ok((seen, corrected));
            }
        }
    }
}

/// Says to an admin that the account was erased meanwhile.
fn not_there(error: StoreError) -> Failure {
    match error {
        StoreError::NoAccount => Failure::UserNotFound,
        error => error.into(),
    }
}
