//! What an admin does with one account: credits, suspension, another e-mail address.

use memoryos::app::{AdjustRequest, Adjusted, Caller};
use memoryos::domain::account::Email;
use serde_json::{Value, json};

use super::accounts::cause;
use super::{Sim, Step, no};
use crate::audit::same;
use crate::model::{Refused, Replay, recorded};
use crate::operations::{Form, Op};

impl Sim {
    pub(super) async fn admin(&mut self, op: &Op) -> Step {
        match op {
            Op::Adjust {
                account,
                form,
                amount,
                name,
            } => self.adjust(*account, *form, *amount, name).await,
            Op::Suspend {
                account,
                form,
                suspended,
            } => self.suspend(*account, *form, *suspended).await,
            Op::Email {
                account,
                form,
                email,
            } => self.email(*account, *form, email).await,
            other => Err(format!("{other:?} is no admin's")),
        }
    }

    async fn adjust(&mut self, at: usize, form: Form, amount: i64, name: &str) -> Step {
        let (target, named) = self.target(at, form);
        let (now, body) = (self.now, amount.to_string());
        let request = AdjustRequest {
            target,
            amount,
            idempotency: (name.to_owned(), body.clone().into_bytes()),
        };
        let respond = |adjusted: &Adjusted<'_>| {
            let usage = adjusted.usage;
            json!({"id": adjusted.account_id, "granted": usage.granted, "used": usage.used})
                .to_string()
        };
        let done = self
            .app()
            .adjust_credits(&request, cause(&Caller::Admin), respond)
            .await;
        let found = done.map_err(no);
        let account = &mut self.model.accounts[at];
        let replay = recorded(&account.adjustments, name, &body, now);
        let replay = replay.map(|answer| answer.map(str::to_owned));
        let expected = named.and(replay).and_then(|answer| match answer {
            Some(answer) => Ok((answer, true)),
            None => account.adjust(amount, now).map(|money| {
                let (granted, used) = (money.granted, money.used);
                let answer = json!({"id": account.id, "granted": granted, "used": used});
                (answer.to_string(), false)
            }),
        });
        let Some((found, (answer, replayed))) = self.agree("adjust", found, expected)? else {
            return Ok(());
        };
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let shown = (found.status, parsed(&found.body), found.replayed);
        same("adjustment", &shown, &(200, parsed(&answer), replayed))?;
        if !replayed {
            let replay = Replay {
                at: now,
                sent: body,
                answer,
            };
            let account = &mut self.model.accounts[at];
            account.adjustments.insert(name.to_owned(), replay);
            self.written(at);
        }
        Ok(())
    }

    async fn suspend(&mut self, at: usize, form: Form, suspended: bool) -> Step {
        let (target, expected) = self.target(at, form);
        let done = self
            .app()
            .suspend(&target, suspended, cause(&Caller::Admin))
            .await;
        let Some((row, ())) = self.agree("suspend", done.map_err(no), expected)? else {
            return Ok(());
        };
        let now = self.now;
        let account = &mut self.model.accounts[at];
        account.suspended = match (suspended, account.suspended) {
            (true, None) => Some(now),
            (true, since) => since,
            (false, _) => None,
        };
        let status = match (account.suspended.is_some(), account.active_at(self.now) > 0) {
            (true, _) => "suspended",
            (false, true) => "active",
            (false, false) => "inactive",
        };
        let since = row.suspended.then_some(row.standing_since.micros());
        let shown = (row.account_id.as_str(), row.status(), since);
        same(
            "standing",
            &shown,
            &(account.id.as_str(), status, account.suspended),
        )?;
        // From the answer on.
        let last = account.keys.len() - 1;
        self.principal((at, last)).map(drop)
    }

    async fn email(&mut self, at: usize, form: Form, email: &str) -> Step {
        let (target, expected) = self.target(at, form);
        let wanted = Email::parse(&format!(" {}", email.to_uppercase())).unwrap();
        let done = self
            .app()
            .change_email(&target, &wanted, cause(&Caller::Admin))
            .await;
        let accounts = &self.model.accounts;
        let owner = accounts
            .iter()
            .position(|a| a.email.as_deref() == Some(email));
        let expected = expected.and(match owner {
            Some(owner) if owner != at => Err(Refused::UserExists),
            owner => Ok(owner.is_none()),
        });
        let Some((moved, changed)) = self.agree("e-mail", done.map_err(no), expected)? else {
            return Ok(());
        };
        let account = &mut self.model.accounts[at];
        let shown = (moved.previous_account_id, moved.account_id, moved.changed);
        same(
            "move",
            &shown,
            &(account.id.clone(), email.to_owned(), changed),
        )?;
        email.clone_into(&mut account.id);
        account.email = Some(email.to_owned());
        Ok(())
    }
}
