//! Sign-ups, keys, plans and lists, asked of the service and of the model.

use std::collections::BTreeMap;

use memoryos::app::{
    Caller, CreateKey, KeyAddress, KeyChange, KeyLimits, OwnerName, SignUp, Target,
};
use memoryos::domain::account::{AccountKey, Email};
use memoryos::domain::event::{Actor, Cause};
use memoryos::domain::key::{KeyId, Secret};
use memoryos::domain::ledger::Entry;
use memoryos::domain::plan::Plan;
use memoryos::domain::scope::{Scope, Scopes};
use memoryos::domain::time::Timestamp;
use memoryos::store::{AccountFilter, KeyRow};

use super::{Sim, Step, fault, no};
use crate::audit::{key_row, masked, numbers, row, same};
use crate::calendar::Micros;
use crate::model::{Account, Asked, Given, Key, Ledger, Money, Refused, Spent};
use crate::operations::{Form, Owner, Who};

impl Sim {
    pub(super) async fn sign_up(&mut self, email: Option<&str>, plan: Plan) -> Step {
        let request = SignUp {
            // As a client may write it.
            email: email.map(|email| Email::parse(&format!(" {}", email.to_uppercase())).unwrap()),
            plan: self.sold(plan),
        };
        let found = self
            .app()
            .sign_up(request, cause(&Caller::Nobody))
            .await
            .map_err(no);
        let taken = email.is_some()
            && self
                .model
                .accounts
                .iter()
                .any(|a| a.email.as_deref() == email);
        let expected = if taken {
            Err(Refused::UserExists)
        } else {
            Ok(())
        };
        let Some((made, ())) = self.agree("sign-up", found, expected)? else {
            return Ok(());
        };
        let key = made.account.keys[0].clone();
        let account_id = made.account.account_id.clone();
        self.made(
            made.account.account,
            &account_id,
            email,
            plan,
            (&key, &made.secret),
            &Asked::default(),
            false,
        )
    }

    /// Enters a new account with its first key into the model.
    #[expect(
        clippy::too_many_arguments,
        reason = "what a sign-up was asked and has answered"
    )]
    pub(super) fn made(
        &mut self,
        name: AccountKey,
        id: &str,
        email: Option<&str>,
        plan: Plan,
        (key, secret): (&KeyRow, &Secret),
        asked: &Asked,
        by_admin: bool,
    ) -> Step {
        let first = Given {
            pool: None,
            cap: None,
            credits: asked.credits.flatten(),
            scopes: asked.scopes.unwrap_or(Scopes::ALL),
            expires: None,
        };
        let (now, offer) = (self.now, self.model.offer);
        let granted = crate::offer::terms(offer, plan).0;
        let money = Money {
            offer,
            plan,
            anchor: now,
            cycle: 0,
            granted,
            used: 0,
            ever: 0,
            last: None,
        };
        let mut ledger = Ledger::default();
        ledger.enter(0, 0, Entry::Grant, granted as i64);
        let description = if by_admin {
            "Initial account setup"
        } else {
            "Initial account creation"
        };
        let account = Account {
            name,
            id: email.map_or_else(|| name.anonymous_id(), str::to_owned),
            email: email.map(str::to_owned),
            created: now,
            money,
            ledger,
            keys: vec![new_key(key, secret, description, (0, first), now)],
            memories: Vec::new(),
            newest: String::new(),
            replays: BTreeMap::new(),
            adjustments: BTreeMap::new(),
            suspended: None,
            emptied: false,
        };
        same("a new account's id", &id, &account.id.as_str())?;
        same("a new account's key", &row(key), &key_row(&account, 0, now))?;
        let mut gone = self.model.gone.iter();
        let is_afresh = email.is_some() && gone.any(|gone| gone.account.email == account.email);
        self.figures.afresh += u64::from(is_afresh);
        self.model.accounts.push(account);
        Ok(())
    }

    pub(super) async fn new_key(&mut self, by: Option<Who>, owner: &Owner, asked: &Asked) -> Step {
        let plan = asked.plan;
        let caller = match by {
            None => Caller::Admin,
            Some(by) => match self.principal(by)? {
                Some(principal) => Caller::Key(principal),
                None => return Ok(()),
            },
        };
        let request = CreateKey {
            owner: match owner {
                Owner::Nobody => None,
                Owner::Email(email) => Some(OwnerName::Email(Email::parse(email).unwrap())),
                Owner::Account(id) => Some(OwnerName::AccountId(id.clone())),
            },
            plan: plan.map(|plan| self.sold(plan)),
            description: None,
            limits: KeyLimits {
                expires_at: asked.expires.flatten().map(Timestamp::from_micros),
                scopes: asked.scopes,
                credits_per_cycle: asked.credits.flatten(),
            },
        };
        let found = self
            .app()
            .create_key(&caller, request, cause(&caller))
            .await
            .map_err(no);
        let accounts = &self.model.accounts;
        let named = match owner {
            Owner::Nobody => None,
            Owner::Email(id) | Owner::Account(id) => Some(id),
        };
        let position = named.map(|id| accounts.iter().position(|account| account.id == *id));
        let account = match (by, position) {
            (Some(by), None) => Ok(Some(by.0)),
            (Some(by), Some(at)) if at == Some(by.0) => Ok(Some(by.0)),
            (Some(_), Some(_)) => Err(Refused::NotYours),
            (None, None) => Err(Refused::NoOwner),
            (None, Some(Some(at))) => Ok(Some(at)),
            (None, Some(None)) if matches!(owner, Owner::Email(_)) => Ok(None),
            (None, Some(None)) => Err(Refused::NoSuchUser),
        };
        let now = self.now;
        let expected = account.and_then(|at| match at {
            None => {
                let credits = crate::offer::terms(self.model.offer, plan.unwrap_or(Plan::FREE)).0;
                let narrow = asked.scopes.is_some_and(|s| !s.contains(Scope::Keys));
                if asked.credits.flatten().is_some_and(|asked| asked > credits) {
                    Err(Refused::AboveCredits(credits))
                } else if narrow || asked.expires.is_some() {
                    Err(Refused::LastManager)
                } else {
                    Ok((None, None))
                }
            }
            Some(at) => self.model.accounts[at]
                .give(by.map(|by| by.1), asked, now)
                .map(|given| (Some(at), Some(given))),
        });
        let Some((made, (at, given))) = self.agree("new key", found, expected)? else {
            return Ok(());
        };
        let Some(at) = at else {
            let plan = plan.unwrap_or(Plan::FREE);
            same("plan of a new account", &made.plan, &plan)?;
            let (name, email) = (made.key.account, named.map(String::as_str));
            return self.made(
                name,
                &made.account_id,
                email,
                plan,
                (&made.key, &made.secret),
                asked,
                true,
            );
        };
        self.written(at);
        let account = &mut self.model.accounts[at];
        let key = account.keys.len();
        let given = given.unwrap();
        let given = (given.pool.unwrap_or(key), given);
        let new = new_key(&made.key, &made.secret, "API key", given, now);
        account.keys.push(new);
        same("account of a new key", &made.account_id, &account.id)?;
        same("new key", &row(&made.key), &key_row(account, key, now))?;
        same(
            "plan of a new key",
            &made.plan,
            &account.numbers(key, now).plan,
        )
    }

    /// Who asks for a change of a key. `None` if nobody, for the key has ended and was never let in.
    fn asking(&mut self, by: Option<Who>) -> Result<Option<Caller>, String> {
        match by {
            None => Ok(Some(Caller::Admin)),
            Some(by) => Ok(self.principal(by)?.map(Caller::Key)),
        }
    }

    pub(super) async fn rotate(&mut self, by: Option<Who>, key: Who, grace: u32) -> Step {
        let Some(caller) = self.asking(by)? else {
            return Ok(());
        };
        let id = self.model.accounts[key.0].keys[key.1].id.clone();
        let found = self
            .app()
            .rotate_key(&caller, KeyAddress::parse(id), grace, cause(&caller))
            .await
            .map_err(no);
        let now = self.now;
        let account = &mut self.model.accounts[key.0];
        let expected = if by.is_some_and(|by| by.0 != key.0) {
            Err(Refused::NoSuchKey)
        } else {
            account.rotate(by.map(|by| by.1), key.1, grace, now)
        };
        let Some((found, ())) = self.agree("rotate", found, expected)? else {
            return Ok(());
        };
        self.written(key.0);
        let account = &mut self.model.accounts[key.0];
        let (made, at) = (&found.successor, account.keys.len() - 1);
        let id = made.key.id.to_string();
        account.keys[key.1].successor = Some(id.clone());
        let new = &mut account.keys[at];
        (new.id, new.secret) = (id, made.secret.reveal().to_owned());
        let account = &self.model.accounts[key.0];
        same("successor", &row(&made.key), &key_row(account, at, now))?;
        same(
            "rotated key",
            &row(&found.old),
            &key_row(account, key.1, now),
        )?;
        same("plan of it", &made.plan, &account.numbers(at, now).plan)?;
        // From the answer on.
        self.principal(key)?;
        self.principal((key.0, at)).map(drop)
    }

    pub(super) async fn change_key(&mut self, by: Option<Who>, key: Who, asked: &Asked) -> Step {
        let Some(caller) = self.asking(by)? else {
            return Ok(());
        };
        let id = self.model.accounts[key.0].keys[key.1].id.clone();
        let change = KeyChange {
            description: asked.description.map(str::to_owned),
            scopes: asked.scopes,
            expires_at: asked.expires.map(|end| end.map(Timestamp::from_micros)),
            credits_cap: asked.credits,
        };
        let found = self
            .app()
            .change_key(&caller, KeyAddress::parse(id), change, cause(&caller))
            .await
            .map_err(no);
        let now = self.now;
        let account = &mut self.model.accounts[key.0];
        let expected = if by.is_some_and(|by| by.0 != key.0) {
            Err(Refused::NoSuchKey)
        } else {
            account.change_key(by.map(|by| by.1), key.1, asked, now)
        };
        let Some(((_, found), ())) = self.agree("change key", found, expected)? else {
            return Ok(());
        };
        let account = &self.model.accounts[key.0];
        same("changed key", &row(&found), &key_row(account, key.1, now))?;
        self.principal(key).map(drop)
    }

    pub(super) async fn revoke(&mut self, by: Option<Who>, key: Who, form: Form) -> Step {
        let caller = match by {
            None => Caller::Admin,
            // A request with a key that has ended ends before this, and so does one without the scope.
            Some(by) => {
                let asking = &self.model.accounts[by.0].keys[by.1];
                let over = asking.ended(self.now).is_some();
                let manages = asking.successor.is_none() && asking.scopes.contains(Scope::Keys);
                match self.principal(by)? {
                    Some(principal) if !over && manages => Caller::Key(principal),
                    _ => return Ok(()),
                }
            }
        };
        let target = &self.model.accounts[key.0].keys[key.1];
        let text = match form {
            Form::KeyId => target.id.clone(),
            Form::Masked => masked(&target.secret),
            Form::Secret => target.secret.clone(),
            Form::AccountId | Form::Unknown => "key_000000000000".to_owned(),
        };
        let found = self
            .app()
            .revoke_key(&caller, KeyAddress::parse(text), cause(&caller))
            .await
            .map_err(no);
        let own = by.is_none_or(|by| by.0 == key.0);
        let now = self.now;
        let expected = match form {
            Form::AccountId | Form::Unknown => Err(Refused::NoSuchKey),
            Form::Secret if !own => Err(Refused::NotYours),
            _ if !own => Err(Refused::NoSuchKey),
            _ => self.model.accounts[key.0].revoke(key.1, by.is_none(), now),
        };
        let Some((revoked, at)) = self.agree("revoke", found, expected)? else {
            return Ok(());
        };
        let account = &self.model.accounts[key.0];
        same(
            "revoked at",
            &revoked.key.ended_at.map(Timestamp::micros),
            &Some(at),
        )?;
        same(
            "revoked key",
            &row(&revoked.key),
            &key_row(account, key.1, now),
        )?;
        // I6: from the answer on.
        self.principal(key).map(drop)
    }

    pub(super) async fn keys(&mut self, by: Who, all: bool) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let (account, keys) = self.app().keys_of(&principal, all).await.map_err(fault)?;
        let model = &self.model.accounts[by.0];
        same("account of the keys", &account.account_id, &model.id)?;
        let found: Vec<_> = keys.iter().map(row).collect();
        let is_active = |key: &usize| model.keys[*key].ended(self.now).is_none();
        let listed = (0..model.keys.len()).filter(|key| all || is_active(key));
        let expected: Vec<_> = listed.map(|key| key_row(model, key, self.now)).collect();
        self.answered("2xx");
        same("keys", &found, &expected)
    }

    pub(super) async fn all_keys(&mut self, all: bool, skip: usize, limit: usize) -> Step {
        let found = self.app().all_keys(all, skip as u64, limit as u64).await;
        let (rows, total) = found.map_err(fault)?;
        let mut expected = Vec::new();
        for account in self.in_order() {
            for (at, key) in account.keys.iter().enumerate() {
                if all || key.ended(self.now).is_none() {
                    expected.push((account.id.clone(), key_row(account, at, self.now)));
                }
            }
        }
        let found: Vec<_> = rows
            .iter()
            .map(|(a, key)| (a.account_id.clone(), row(key)))
            .collect();
        same("number of all keys", &total, &(expected.len() as u64))?;
        let expected: Vec<_> = expected.into_iter().skip(skip).take(limit).collect();
        self.answered("2xx");
        same("all keys", &found, &expected)
    }

    /// The accounts as lists show them: oldest first; what was made in one millisecond, by name.
    pub(super) fn in_order(&self) -> Vec<&Account> {
        let mut accounts: Vec<&Account> = self.model.accounts.iter().collect();
        accounts.sort_by_key(|account| (account.created.div_euclid(1_000), account.name));
        accounts
    }

    pub(super) async fn accounts(
        &mut self,
        contains: Option<&str>,
        skip: usize,
        limit: usize,
    ) -> Step {
        let filter = AccountFilter {
            contains: contains.map(str::to_owned),
            email_prefix: None,
        };
        let page = self
            .app()
            .accounts(filter, skip as u64, limit as u64)
            .await
            .map_err(fault)?;
        let needle = contains.unwrap_or_default().to_lowercase();
        let mut fit = self.in_order();
        fit.retain(|account| account.id.to_lowercase().contains(&needle));
        let active = fit
            .iter()
            .filter(|account| account.active_at(self.now) > 0)
            .count();
        same(
            "accounts",
            &(page.total, page.active),
            &(fit.len() as u64, active as u64),
        )?;
        let found: Vec<_> = page
            .rows
            .iter()
            .map(|r| {
                (
                    r.account_id.clone(),
                    r.email.clone(),
                    r.active,
                    numbers(&r.usage.balance()),
                )
            })
            .collect();
        let shown = |a: &&Account| {
            let mut account = (*a).clone();
            // The account's own numbers are those of a key without a cap.
            (account.keys[0].cap, account.keys[0].credits) = (None, None);
            (
                a.id.clone(),
                a.email.clone(),
                a.active_at(self.now) > 0,
                account.numbers(0, self.now),
            )
        };
        let expected: Vec<_> = fit.iter().skip(skip).take(limit).map(shown).collect();
        self.answered("2xx");
        same("accounts listed", &found, &expected)
    }

    /// How an admin names an account, and what comes of the name.
    pub(super) fn target(&self, at: usize, form: Form) -> (Target, Result<(), Refused>) {
        let account = &self.model.accounts[at];
        let (name, expected) = match form {
            Form::KeyId => (account.keys[0].id.clone(), Ok(())),
            Form::Secret => (account.keys[0].secret.clone(), Ok(())),
            Form::AccountId => (account.id.clone(), Ok(())),
            Form::Masked | Form::Unknown => ("acct_nobody".to_owned(), Err(Refused::NoSuchUser)),
        };
        (Target::parse(name), expected)
    }

    pub(super) async fn plan(&mut self, at: usize, form: Form, plan: Plan) -> Step {
        let (target, expected) = self.target(at, form);
        let found = self
            .app()
            .change_plan(&target, self.sold(plan), cause(&Caller::Admin))
            .await
            .map_err(no);
        let Some((found, ())) = self.agree("plan", found, expected)? else {
            return Ok(());
        };
        self.written(at);
        let account = &mut self.model.accounts[at];
        let before = account.change_plan(plan, self.now);
        same(
            "plan before",
            &(found.account_id, found.previous),
            &(account.id.clone(), before),
        )?;
        let money = account.money;
        same(
            "after a plan change",
            &(
                found.usage.plan(),
                found.usage.granted,
                found.usage.used,
                found.usage.used_ever,
            ),
            &(money.plan, money.granted, money.used, money.ever),
        )
    }
}

fn new_key(
    row: &KeyRow,
    secret: &Secret,
    description: &'static str,
    (lineage, given): (usize, Given),
    now: Micros,
) -> Key {
    assert!(KeyId::parse(row.id.as_str()).is_some());
    Key {
        secret: secret.reveal().to_owned(),
        id: row.id.to_string(),
        description,
        created: now,
        lineage,
        cap: given.cap,
        credits: given.credits,
        spent: Spent::default(),
        scopes: given.scopes,
        expires: given.expires,
        successor: None,
        revoked: None,
        expired: false,
    }
}

/// The cause that `http` makes of a caller.
pub(super) fn cause(caller: &Caller) -> Cause {
    let actor = match caller {
        Caller::Nobody => Actor::Nobody,
        Caller::Key(principal) => Actor::Key(principal.key_id.clone()),
        Caller::Admin => Actor::Admin,
    };
    Cause {
        actor,
        ..Cause::service()
    }
}
