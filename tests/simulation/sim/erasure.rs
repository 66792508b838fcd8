//! Accounts that are erased: by a key of theirs, or by the admin.

use memoryos::app::{Caller, Target};
use memoryos::domain::key::Secret;
use memoryos::domain::scope::Scope;

use super::accounts::cause;
use super::{Sim, Step, no};
use crate::audit::{rows, same};
use crate::model::{Gone, Refused};
use crate::operations::{Form, Who};

impl Sim {
    pub(super) async fn erase(
        &mut self,
        by: Option<Who>,
        at: usize,
        form: Form,
        confirm: &str,
    ) -> Step {
        let rows = rows(self.store(), &self.model.accounts[at])?.len() as u64;
        let account = &self.model.accounts[at];
        let (key_of, suspended) = (by.map(|by| account.keys[by.1].clone()), account.suspended);
        let rotated = key_of.as_ref().is_some_and(|key| key.successor.is_some());
        let (done, named) = if let Some(by) = by {
            // Whom no key lets in, or not this far, is refused before this.
            let may = key_of.is_some_and(|key| {
                key.ended(self.now).is_none() && key.scopes.contains(Scope::Account)
            });
            let principal = self.principal(by)?;
            let Some(principal) = principal.filter(|_| may && suspended.is_none()) else {
                return Ok(());
            };
            let cause = cause(&Caller::Key(principal.clone()));
            let done = self.app().erase_account(&principal, confirm, cause).await;
            (done, Ok(()))
        } else {
            let (target, named) = self.target(at, form);
            let cause = cause(&Caller::Admin);
            (self.app().erase_user(&target, confirm, cause).await, named)
        };
        let account = &self.model.accounts[at];
        let is_confirmed = match &account.email {
            Some(email) => *email == confirm.trim().to_lowercase(),
            None => account.id == confirm.trim(),
        };
        let expected = match named {
            _ if rotated => Err(Refused::Lacks(Scope::Account)),
            Ok(()) if !is_confirmed => Err(Refused::NotConfirmed),
            named => named,
        };
        let Some((receipt, ())) = self.agree("erase", done.map_err(no), expected)? else {
            return Ok(());
        };
        self.written(at);
        let account = self.model.accounts.remove(at);
        let erased = receipt.erased;
        let found = (erased.memories, erased.keys, erased.ledger_rows_kept);
        let expected = (
            account.memories.len() as u64,
            account.keys.len() as u64,
            rows,
        );
        same("what was erased", &found, &expected)?;
        same("erased at", &receipt.at.micros(), &self.now)?;
        // From the answer on: nobody is let in, and nothing is named by what named it.
        for key in &account.keys {
            let found = self.app().authenticate(&Secret::new(key.secret.as_str()));
            let found = found.map(drop).map_err(no);
            same("an erased key", &found, &Err(Refused::UnknownKey))?;
        }
        let target = Target::parse(account.id.clone());
        let again = self
            .app()
            .erase_user(&target, &account.id, cause(&Caller::Admin));
        let again = again.await.map(drop).map_err(no);
        same("erased again", &again, &Err(Refused::NoSuchUser))?;
        self.model.gone.push(Gone { account, rows });
        Ok(())
    }

    /// Looks for erased accounts in every record of the database, which nobody has open. What names one is the
    /// audit log, its index, and what waits for the receiver of webhooks, by their internal names; nothing has the
    /// hash of a key. The rows of their ledgers are all there.
    pub(super) async fn traces(&self) -> Step {
        if self.model.gone.is_empty() {
            return Ok(());
        }
        let config = sled::Config::new().path(self.directory().join("db"));
        // What the store did last may still hold it: also a task of this very runtime.
        let mut opened = config.open();
        for _ in 0..10_000 {
            if opened.is_ok() {
                break;
            }
            tokio::task::yield_now().await;
            std::thread::sleep(std::time::Duration::from_millis(1));
            opened = config.open();
        }
        let db = opened.map_err(|error| format!("the database does not open: {error}"))?;
        let gone = self.model.gone.iter();
        let names: Vec<_> = gone
            .clone()
            .map(|gone| gone.account.name.0.to_vec())
            .collect();
        let keys = gone.clone().flat_map(|gone| &gone.account.keys);
        let hashes: Vec<_> = keys
            .map(|key| Secret::new(key.secret.as_str()).hash().0.to_vec())
            .collect();
        for name in db.tree_names() {
            let tree = db.open_tree(&name).map_err(|error| error.to_string())?;
            let name = String::from_utf8_lossy(&name).into_owned();
            if name == "erased_ledger" {
                let rows = gone.clone().map(|gone| gone.rows).sum();
                same("rows kept of erased ledgers", &(tree.len() as u64), &rows)?;
            }
            let may_name = matches!(name.as_str(), "audit" | "audit_accounts" | "outbox");
            for record in &tree {
                let (key, value) = record.map_err(|error| error.to_string())?;
                let is_in = |hint: &Vec<u8>| holds(&key, hint) || holds(&value, hint);
                if hashes.iter().any(is_in) || !may_name && names.iter().any(is_in) {
                    return Err(format!("{name} {key:?} is of an erased account"));
                }
            }
        }
        Ok(())
    }
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}
