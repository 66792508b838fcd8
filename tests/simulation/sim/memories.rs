//! Credits and memories, asked of the service and of the model.

use memoryos::app::{AddRequest, Answered, App, PageRequest, UpdateRequest};
use memoryos::domain::json::Object;
use memoryos::domain::memory::{MemoryId, NewMemory};
use memoryos::domain::plan::Operation;
use memoryos::domain::time::Timestamp;
use memoryos::store::{Added, PageStart, Principal};
use serde_json::{Value, json};

use super::{Sim, Step, Unflushed, no, word};
use crate::audit::{numbers, same};
use crate::model::{Account, Numbers, READ, Refused, Replay, WRITE};
use crate::operations::Who;

impl Sim {
    /// Debits a read in the model, which a crash may take back until something flushes.
    pub(super) fn debit(&mut self, by: Who, operation: Operation) -> Result<Numbers, Refused> {
        let account = &mut self.model.accounts[by.0];
        let before = Unflushed {
            account: account.name,
            first: account.keys[by.1].lineage,
            money: account.money,
            spent: account.first(by.1).spent,
            ledger: account.ledger.clone(),
        };
        let numbers = account.debit(by.1, operation, READ, self.now)?;
        self.unflushed.push(before);
        Ok(numbers)
    }

    pub(super) fn credits(&mut self, by: Who) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let found = self.app().credits(&principal).map_err(no);
        let account = &self.model.accounts[by.0];
        let expected = account.affordable(by.1, 0, self.now);
        let Some((found, ())) = self.agree("credits", found, expected)? else {
            return Ok(());
        };
        let account = &self.model.accounts[by.0];
        let key = account.first(by.1);
        let last = if key.cap.is_some() || key.credits.is_some() {
            key.spent.last
        } else {
            account.money.last
        };
        same("credits: account", &found.account_id, &account.id)?;
        same(
            "credits",
            &numbers(&found.balance),
            &account.numbers(by.1, self.now),
        )?;
        same(
            "last activity",
            &found.last_activity.map(Timestamp::micros),
            &last,
        )
    }

    pub(super) async fn add(&mut self, by: Who, sent: &Value, name: Option<&str>) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let body = sent.to_string();
        let found = add(self.app().clone(), &principal, &body, name).await;
        self.added(by, sent, &body, name, found)
    }

    pub(super) async fn twins(&mut self, by: Who, sent: &Value, name: &str) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let body = sent.to_string();
        let app = self.app().clone();
        let (first, second) = tokio::join!(
            add(app.clone(), &principal, &body, Some(name)),
            add(app, &principal, &body, Some(name)),
        );
        self.added(by, sent, &body, Some(name), first)?;
        if second == Err(Refused::InFlight) {
            self.answered(word(&Refused::InFlight));
            return Ok(());
        }
        self.added(by, sent, &body, Some(name), second)
    }

    fn added(
        &mut self,
        by: Who,
        sent: &Value,
        body: &str,
        name: Option<&str>,
        found: Result<Addition, Refused>,
    ) -> Step {
        let now = self.now;
        let account = &mut self.model.accounts[by.0];
        let replay = name.map_or(Ok(None), |name| account.replay(name, body, now));
        let replay = replay.map(|answer| answer.map(str::to_owned));
        let expected = match replay {
            Err(no) => Err(no),
            Ok(Some(answer)) => account.affordable(by.1, 0, now).map(|()| Addition {
                answer,
                cost: 0,
                replayed: true,
                numbers: account.numbers(by.1, now),
            }),
            Ok(None) => {
                let answer = found
                    .as_ref()
                    .ok()
                    .map(|found| found.answer.clone())
                    .unwrap_or_default();
                let shown: Value = serde_json::from_str(&answer).unwrap_or_default();
                let id = shown["entry"]["id"].as_str().unwrap_or_default().to_owned();
                if found.is_ok() && id <= account.newest {
                    return Err(format!("the id {id} is not above {}", account.newest));
                }
                let added = account.add(by.1, &id, sent, now);
                if let (Ok((entry, numbers)), Ok(_)) = (&added, &found) {
                    let total = account.memories.len();
                    let expected =
                        json!({"entry": entry, "total": total, "left": numbers.remaining});
                    same("answer to an addition", &shown, &expected)?;
                    if let Some(name) = name {
                        let replay = Replay {
                            at: now,
                            sent: body.to_owned(),
                            answer: answer.clone(),
                        };
                        account.replays.insert(name.to_owned(), replay);
                    }
                }
                added.map(|(_, numbers)| Addition {
                    answer,
                    cost: WRITE,
                    replayed: false,
                    numbers,
                })
            }
        };
        if expected.as_ref().is_ok_and(|e| e.replayed) {
            self.answered("replayed");
        }
        match self.agree("add", found, expected)? {
            None => Ok(()),
            Some((found, expected)) => {
                if !expected.replayed {
                    self.written(by.0);
                }
                same("add", &found, &expected)
            }
        }
    }

    pub(super) async fn change(&mut self, by: Who, id: &str, change: &Value) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let text = change.to_string();
        let request = UpdateRequest {
            id: MemoryId::parse(id).unwrap(),
            change: Object::parse(text.as_bytes()).unwrap(),
        };
        let found = self
            .app()
            .update_memory(&principal, request)
            .await
            .map_err(no);
        let expected = self.model.accounts[by.0].change(by.1, id, change, self.now);
        let Some((found, (entry, left))) = self.agree("change", found, expected)? else {
            return Ok(());
        };
        self.written(by.0);
        same(
            "changed",
            &serde_json::from_str(&found.0.entry).ok(),
            &Some(entry),
        )?;
        same(
            "after a change",
            &(found.1.cost, numbers(&found.1.balance)),
            &(WRITE, left),
        )
    }

    pub(super) async fn delete(&mut self, by: Who, id: &str) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let found = self
            .app()
            .delete_memory(&principal, MemoryId::parse(id))
            .await
            .map_err(no);
        let expected = self.model.accounts[by.0].delete(by.1, id, self.now);
        let Some((found, left)) = self.agree("delete", found, expected)? else {
            return Ok(());
        };
        self.written(by.0);
        same("after a delete", &numbers(&found.balance), &left)
    }

    pub(super) async fn read(&mut self, by: Who, id: &str) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let found = self
            .app()
            .read_memory(&principal, MemoryId::parse(id))
            .await
            .map_err(no);
        let expected = match self.model.accounts[by.0].find(id) {
            Err(no) => Err(no),
            Ok(at) => self.debit(by, Operation::ReadMemory).map(|left| (at, left)),
        };
        let Some((found, (at, left))) = self.agree("read", found, expected)? else {
            return Ok(());
        };
        let entry = &self.model.accounts[by.0].memories[at].entry;
        same(
            "read",
            &serde_json::from_str(&found.0).ok().as_ref(),
            &Some(entry),
        )?;
        same(
            "after a read",
            &(found.1.cost, numbers(&found.1.balance)),
            &(READ, left),
        )
    }

    pub(super) async fn page(
        &mut self,
        by: Who,
        start: PageStart,
        limit: usize,
    ) -> Result<Option<MemoryId>, String> {
        let Some(principal) = self.principal(by)? else {
            return Ok(None);
        };
        let request = PageRequest { start, limit };
        let found = self
            .app()
            .list_memories(&principal, request)
            .await
            .map_err(no);
        let expected = self.debit(by, Operation::ListMemories);
        let Some((found, left)) = self.agree("page", found, expected)? else {
            return Ok(None);
        };
        let memories = &self.model.accounts[by.0].memories;
        let mut older = memories.iter().rev();
        match start {
            PageStart::Skip(skip) => older.by_ref().take(skip).for_each(drop),
            PageStart::Before(id) => {
                let id = id.to_string();
                let newer = memories.iter().filter(|m| m.id >= id).count();
                older.by_ref().take(newer).for_each(drop);
            }
        }
        let listed: Vec<_> = older.by_ref().take(limit).collect();
        let next = listed
            .last()
            .filter(|_| older.next().is_some())
            .map(|memory| memory.id.clone());
        let entries = format!("[{}]", found.page.entries);
        let entries: Vec<Value> = serde_json::from_str(&entries).map_err(|e| e.to_string())?;
        let expected: Vec<_> = listed.iter().map(|memory| memory.entry.clone()).collect();
        same("page", &entries, &expected)?;
        same("count of a page", &found.page.count, &expected.len())?;
        same(
            "next page",
            &found.page.next.map(|id| id.to_string()),
            &next,
        )?;
        same("total of a page", &found.total, &(memories.len() as u64))?;
        let debited = (found.debited.cost, numbers(&found.debited.balance));
        same("after a page", &debited, &(READ, left))?;
        Ok(found.page.next)
    }

    pub(super) async fn stats(&mut self, by: Who) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let found = self.app().stats(&principal).await.map_err(no);
        let expected = self.debit(by, Operation::Stats);
        let Some((found, left)) = self.agree("stats", found, expected)? else {
            return Ok(());
        };
        let account = &self.model.accounts[by.0];
        same("stats", &found.stats, &crate::audit::stats(account))?;
        newest(account, found.newest.as_deref())?;
        same("after stats", &numbers(&found.debited.balance), &left)
    }

    pub(super) async fn gpt_status(&mut self, by: Who) -> Step {
        let Some(principal) = self.principal(by)? else {
            return Ok(());
        };
        let found = self.app().gpt_status(&principal).await.map_err(no);
        let expected = self.debit(by, Operation::GptStatus);
        let Some((found, left)) = self.agree("status", found, expected)? else {
            return Ok(());
        };
        let account = &self.model.accounts[by.0];
        same(
            "status: memories",
            &found.0,
            &(account.memories.len() as u64),
        )?;
        newest(account, found.1.as_deref())?;
        same(
            "after status",
            &(found.2.cost, numbers(&found.2.balance)),
            &(READ, left),
        )
    }
}

fn newest(account: &Account, found: Option<&str>) -> Step {
    let found: Option<Value> = found.and_then(|text| serde_json::from_str(text).ok());
    let expected = account.memories.last().map(|memory| &memory.entry);
    same("newest memory", &found.as_ref(), &expected)
}

/// What an addition answers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Addition {
    answer: String,
    cost: u64,
    replayed: bool,
    numbers: Numbers,
}

async fn add(
    app: App,
    principal: &Principal,
    body: &str,
    name: Option<&str>,
) -> Result<Addition, Refused> {
    let request = AddRequest {
        memory: NewMemory::parse(Object::parse(body.as_bytes()).unwrap()).unwrap(),
        idempotency: name.map(|name| (name.to_owned(), body.as_bytes().to_vec())),
    };
    let respond = |added: &Added| {
        let (entry, total) = (&added.entry, added.total);
        format!(
            r#"{{"entry":{entry},"total":{total},"left":{}}}"#,
            added.balance.credits_remaining
        )
    };
    let answered = app
        .add_memory(principal, &request, respond)
        .await
        .map_err(no)?;
    let Answered {
        status,
        body,
        cost,
        replayed,
        balance,
    } = answered;
    assert_eq!(status, 201);
    Ok(Addition {
        answer: body,
        cost,
        replayed,
        numbers: numbers(&balance),
    })
}
