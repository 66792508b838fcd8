//! An account moves to another e-mail address.
//!
//! The order: an intent; the new name claimed by a swap from nothing; the account's record, with its event;
//! the old name freed; the intent away. The record decides: on open, a claim that it does not bear out is
//! freed, and so is the old name once the record has the new one.

use crate::domain::account::AccountKey;
use crate::domain::event::{Cause, EventKind};
use crate::domain::time::Timestamp;

use super::accounts::NameTaken;
use super::codec::{decode, encode};
use super::schema::{KeyIntent, op_key};
use super::swap::SwapError;
use super::{Inner, OpError, Store, StoreError};

impl Store {
    /// Gives an account another name, which is an e-mail address; the old one is free from then on. Returns
    /// whether that was a change: it may have that name already.
    ///
    /// # Errors
    ///
    /// [`NameTaken::Name`] if another account has the name; nothing was changed then.
    pub async fn rename(
        &self,
        account: AccountKey,
        name: &str,
        now: Timestamp,
        cause: Cause,
    ) -> Result<bool, OpError<NameTaken>> {
        let inner = self.inner()?;
        let ticket = inner.admit()?;
        let step = || inner.rename(account, name, now, &cause);
        let changed = inner.run_alone(account, step).await?;
        ticket.commit().await?;
        Ok(changed)
    }
}

impl Inner {
    fn rename(
        &self,
        account: AccountKey,
        name: &str,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<bool, SwapError<NameTaken>> {
        let from = self.account_record(account)?.name;
        if from.as_deref() == Some(name) {
            return Ok(false);
        }
        let steps = self.steps();
        let intent = op_key(account, 0);
        let rename = KeyIntent::Rename {
            from: from.clone(),
            to: name.to_owned(),
        };
        self.trees.key_intents.insert(intent, encode(&rename)?)?;
        let claimed = self.swap(
            &self.trees.names,
            name.as_bytes(),
            |current| match current {
                None => Ok((Some(encode(&account)?), ())),
                Some(_) => Err(SwapError::Refused(NameTaken::Name)),
            },
        );
        if let Err(SwapError::Refused(_)) = &claimed {
            self.trees.key_intents.remove(intent)?;
            steps.complete();
            return claimed.map(|()| false);
        }
        claimed?;
        self.swap_account(account, |record| {
            record.name = Some(name.to_owned());
            let kind = EventKind::EmailChanged;
            record.events.push(now, cause.clone(), kind);
        })?;
        self.finish_rename(account, from.as_deref(), name)?;
        self.trees.key_intents.remove(intent)?;
        steps.complete();
        self.hand_over(account)?;
        Ok(true)
    }

    /// Frees whichever of the two names the account's record does not have. Done again, it ends the same.
    pub(super) fn finish_rename(
        &self,
        account: AccountKey,
        from: Option<&str>,
        to: &str,
    ) -> Result<(), StoreError> {
        let now = self.account_record(account)?.name;
        for name in from.into_iter().chain([to]) {
            if now.as_deref() != Some(name)
                && let Some(owner) = self.trees.names.get(name)?
                && decode::<AccountKey>(&owner)? == account
            {
                self.trees.names.remove(name)?;
            }
        }
        Ok(())
    }
}
