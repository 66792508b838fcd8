//! What the store's own tests have in common: a time, keys, memories.

use crate::domain::account::AccountKey;
use crate::domain::event::{Actor, Cause};
use crate::domain::json::Object;
use crate::domain::key::{KeyId, Secret};
use crate::domain::memory::{MemoryId, NewMemory};
use crate::domain::plan::Plan;
use crate::domain::time::Timestamp;
use crate::domain::usage::{KeyNo, Payer};

use super::{AddMemory, NewAccount, NewKey, Store, UpdateMemory};

/// 1 January 2026.
pub(super) const NOW: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

pub(super) fn new_key(secret: &str) -> NewKey {
    let secret = Secret::new(secret);
    NewKey {
        hash: secret.hash(),
        id: KeyId::generate().unwrap(),
        masked: secret.masked(),
        description: "test".to_owned(),
        cap: None,
        credits_cap: None,
        scopes: None,
        expires_at: None,
    }
}

pub(super) fn memory(category: &str, input_bytes: usize) -> NewMemory {
    let input = "x".repeat(input_bytes);
    let json = format!(
        r#"{{"topic":"t","type":"k","input":"{input}","output":"o","success":true,"category":"{category}"}}"#
    );
    NewMemory::parse(Object::parse(json.as_bytes()).unwrap()).unwrap()
}

pub(super) async fn add(
    store: &Store,
    account: AccountKey,
    key_no: KeyNo,
    n: u64,
    bytes: usize,
) -> MemoryId {
    let id = MemoryId::new(NOW.millis() + n, 1 << 60);
    let replay = match n {
        2 => Some(
            store
                .begin_replay(account, [7; 16], [8; 32], NOW)
                .await
                .unwrap(),
        ),
        _ => None,
    };
    let rows = store.keys(account, NOW).unwrap();
    let key_id = rows.iter().find(|row| row.share.key_no == key_no).unwrap();
    let add = AddMemory {
        account,
        payer: Payer::first(key_no),
        key_id: key_id.id.as_str(),
        memory: &memory("a", bytes),
        id,
        cost: 2,
        now: NOW,
        replay: replay.as_ref(),
    };
    let respond = |added: &crate::store::Added| added.entry.clone();
    store.add_memory(add, respond).await.unwrap();
    id
}

pub(super) async fn change(store: &Store, account: AccountKey, id: MemoryId, bytes: usize) {
    let to = |_: Object<'_>| Ok::<_, std::convert::Infallible>(memory("b", bytes));
    let update = UpdateMemory {
        account,
        payer: Payer::first(1),
        id,
        cost: 2,
        now: NOW,
    };
    store.update_memory(update, to).await.unwrap();
}

pub(super) async fn sign_up(
    store: &Store,
    name: Option<&str>,
    millis: u64,
    key: NewKey,
) -> AccountKey {
    let account = AccountKey::new(millis, 9);
    let new = NewAccount {
        account,
        name: name.map(str::to_owned),
        plan: Plan::PRO,
        key,
        created_at: NOW,
        cause: Cause::service(),
    };
    store.create_account(new).await.unwrap();
    account
}

/// Adds a memory whose input is a text, and no recorded answer.
pub(super) async fn add_text(store: &Store, account: AccountKey, n: u64, input: &str) -> MemoryId {
    let id = MemoryId::new(NOW.millis() + n, 1 << 60);
    let json = serde_json::json!({
        "topic": "t", "type": "k", "input": input, "output": "o", "success": true, "category": "c",
    });
    let memory = NewMemory::parse(Object::parse(json.to_string().as_bytes()).unwrap()).unwrap();
    let rows = store.keys(account, NOW).unwrap();
    let add = AddMemory {
        account,
        payer: Payer::first(1),
        key_id: rows[0].id.as_str(),
        memory: &memory,
        id,
        cost: 2,
        now: NOW,
        replay: None,
    };
    let respond = |_: &crate::store::Added| String::new();
    store.add_memory(add, respond).await.unwrap();
    id
}

/// Copies a directory as it is, whoever writes to it.
pub(super) fn copy_directory(from: &std::path::Path, to: &std::path::Path) {
    use std::fs;
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_directory(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// Closes a store once nothing else has it: an add may have left a task behind that saves aggregates.
pub(super) async fn close(store: Store) {
    let inner = store.inner().unwrap();
    while std::sync::Arc::strong_count(&inner) > 2 {
        tokio::task::yield_now().await;
        std::thread::yield_now();
    }
}

/// A key of an account as the cause of something, or `admin`.
pub(super) fn by(name: &str) -> Cause {
    let actor = match name {
        "admin" => Actor::Admin,
        id => Actor::Key(KeyId::parse(id).unwrap()),
    };
    Cause {
        actor,
        ..Cause::service()
    }
}
