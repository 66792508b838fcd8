//! Erasing an account: by whoever has a key for it, or by the admin.

use crate::domain::account::AccountKey;
use crate::domain::event::{Actor, Cause};
use crate::domain::scope::Scope;
use crate::domain::time::Timestamp;
use crate::domain::usage::KeyNo;
use crate::store::{EraseRefusal, Erased, Erasure, OpError, StoreError};

use super::{App, Failure, Principal, Target, random_bits};

/// What a key is told that was rotated: it is about to end, and takes nothing with it. As where it would manage keys.
const ROTATED: Failure = Failure::InsufficientScope(Scope::Account);

/// What proves that an account was erased; the audit log has it too.
#[derive(Debug)]
pub struct Receipt {
    /// `rcpt_` and 26 characters.
    pub id: String,
    /// When it was decided.
    pub at: Timestamp,
    /// What went, and what of the ledger stays.
    pub erased: Erased,
}

impl App {
    /// Erases the account that calls, if `confirm` is its account id.
    ///
    /// # Errors
    ///
    /// [`Failure::NotConfirmed`]; [`Failure::InsufficientScope`] if the key was rotated; [`Failure::InvalidKey`] if
    /// somebody else was faster.
    pub async fn erase_account(
        &self,
        principal: &Principal,
        confirm: &str,
        cause: Cause,
    ) -> Result<Receipt, Failure> {
        let key = self.store().key_by_id(&principal.key_id, self.now())?;
        if key.is_some_and(|key| key.successor.is_some()) {
            return Err(ROTATED);
        }
        let by = Some(principal.key_no);
        let erased = self.erase(principal.account, by, confirm, cause).await?;
        erased.ok_or(Failure::InvalidKey)
    }

    /// Erases an account, if `confirm` is its account id.
    ///
    /// # Errors
    ///
    /// [`Failure::UserNotFound`], [`Failure::NotConfirmed`].
    pub async fn erase_user(
        &self,
        target: &Target,
        confirm: &str,
        cause: Cause,
    ) -> Result<Receipt, Failure> {
        let account = self.target(target)?.ok_or(Failure::UserNotFound)?;
        let erased = self.erase(account, None, confirm, cause).await?;
        erased.ok_or(Failure::UserNotFound)
    }

    /// `None` if the account is not there any more.
    async fn erase(
        &self,
        account: AccountKey,
        by: Option<KeyNo>,
        confirm: &str,
        cause: Cause,
    ) -> Result<Option<Receipt>, Failure> {
        let account_id = match self.store().account_id(account) {
            Err(StoreError::NoAccount) => return Ok(None),
            account_id => account_id?,
        };
        let confirm = confirm.trim();
        // As everywhere an e-mail names an account.
        let is_same = if account_id.contains('@') {
            confirm.eq_ignore_ascii_case(&account_id)
        } else {
            confirm == account_id
        };
        if !is_same {
            return Err(Failure::NotConfirmed);
        }
        let now = self.now();
        let id = format!(
            "rcpt_{}",
            ulid::Ulid::from_parts(now.millis(), random_bits())
        );
        let who = match cause.actor {
            Actor::Key(_) => "a key of it",
            Actor::Operator => "the operator",
            Actor::Admin | Actor::Nobody | Actor::Service => "the admin",
        };
        let erasure = Erasure {
            account,
            receipt: id.clone(),
            ledger_id: AccountKey(random_bits().to_be_bytes()),
            now,
            by,
            cause,
        };
        let store = self.store().clone();
        // A task of its own: it goes on when the client does not wait for the answer.
        let task = tokio::spawn(async move { store.erase_account(erasure).await });
        let ended = task
            .await
            .map_err(|_| Failure::Internal("an erasure was interrupted".to_owned()))?;
        match ended {
            Ok(erased) => {
                log::info!("account {} was erased by {who}", account.anonymous_id());
                let at = now;
                Ok(Some(Receipt { id, at, erased }))
            }
            Err(
                OpError::Refused(EraseRefusal::NotThere) | OpError::Store(StoreError::NoAccount),
            ) => Ok(None),
            Err(OpError::Refused(EraseRefusal::Rotated)) => Err(ROTATED),
            Err(OpError::Store(error)) => Err(error.into()),
        }
    }
}
