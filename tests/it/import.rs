//! The import, ended on the files that the old program really wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use memoryos::domain::account::AccountKey;
use memoryos::domain::key::Secret;
use memoryos::domain::plan::{Operation, Plan};
use memoryos::domain::time::Timestamp;
use memoryos::domain::usage::Payer;
use memoryos::import::{ImportArgs, Summary, run};
use memoryos::store::{
    AccountFilter, AccountRow, AuditFilter, KeyState, OpenError, Options, PageStart, Store,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const ANA: &str = "fB9sxs1Ne3gm4dJDlXz1s1xqS3l9YduA";
const ANA_PHONE: &str = "UOsH8sDEN6mTHYDdYCHOZ9cL2T89amx5";
const ANA_REVOKED: &str = "Om8Rm8Q8NvI7Hp8BklggxXjPGdkZ6gHX";
const BO: &str = "uhW53D0Z7nwj9ydvL7JtQZewJbnG84Kj";

fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).unwrap()
}

/// An hour and a half after the old program wrote its files.
fn now() -> Timestamp {
    at("2026-11-22T16:00:00Z")
}

/// A folder with the old files and a data directory to be.
struct Place {
    folder: TempDir,
    args: ImportArgs,
}

impl Place {
    fn real() -> Self {
        let legacy = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/legacy");
        let read = |name: &str| fs::read_to_string(legacy.join(name)).unwrap();
        Self::with(&read("users.json"), &read("memory.json"))
    }

    fn with(users: &str, memories: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let args = ImportArgs {
            users: folder.path().join("users.json"),
            memories: folder.path().join("memory.json"),
            ..ImportArgs::default()
        };
        fs::write(&args.users, users).unwrap();
        fs::write(&args.memories, memories).unwrap();
        Self { folder, args }
    }

    fn of(users: &Value, memories: &Value) -> Self {
        Self::with(&users.to_string(), &memories.to_string())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.file("data")
    }

    fn unowned_to(mut self, email: &str) -> Self {
        self.args.unowned_to = Some(email.to_owned());
        self
    }

    fn skip_unowned(mut self) -> Self {
        self.args.skip_unowned = Some(self.file("unowned.json"));
        self
    }

    fn skip_invalid(mut self) -> Self {
        self.args.skip_invalid = Some(self.file("invalid.json"));
        self
    }

    fn import_at(&self, now: Timestamp) -> Result<Summary, String> {
        run(&self.args, &self.data(), now).map_err(|failure| failure.to_string())
    }

    fn import(&self) -> Summary {
        self.import_at(now()).unwrap()
    }

    fn refused(&self) -> String {
        self.import_at(now()).unwrap_err()
    }

    fn open(&self) -> Store {
        Store::open(&self.data(), Options::default()).unwrap().0
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.file(name)).unwrap()).unwrap()
    }
}

/// Every file below a folder but the lock, with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.ends_with("lock") {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

fn accounts(store: &Store) -> Vec<AccountRow> {
    let filter = AccountFilter::default();
    store.accounts(&filter, 0, 1_000, now()).unwrap().rows
}

fn memories(store: &Store, account: AccountKey) -> Vec<Value> {
    let page = store.page(account, PageStart::Skip(0), 1_000).unwrap();
    serde_json::from_str(&format!("[{}]", page.entries)).unwrap()
}

fn topics(list: &[Value]) -> Vec<&str> {
    list.iter().map(|m| m["topic"].as_str().unwrap()).collect()
}

fn assert_no_secret(folder: &Path, secrets: &[&str]) {
    for (path, bytes) in files(folder) {
        for secret in secrets {
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "a key is in {}", path.display());
        }
    }
}

fn user(plan: &str, email: &Value) -> Value {
    json!({
        "plan": plan, "credits_remaining": 60, "credits_used_this_cycle": 40,
        "total_credits_used": 400, "reset_date": "2026-12-10T00:00:00+00:00",
        "created_at": "2026-10-10T00:00:00+00:00", "email": email, "status": "active",
    })
}

fn changed(mut user: Value, name: &str, value: Value) -> Value {
    user[name] = value;
    user
}

fn memory(topic: &str, key: &str) -> Value {
    json!({
        "topic": topic, "type": "Note", "category": "work", "input": "i", "output": "o",
        "success": true, "timestamp": "2026-11-01T10:00:00Z", "api_key": key,
    })
}

#[test]
fn memories_without_an_owner_stop_the_import() {
    let place = Place::real();
    let error = place.refused();
    assert!(error.contains("24 of the 61 memories"), "{error}");
    assert!(
        error.contains("--unowned-to") && error.contains("--skip-unowned"),
        "{error}"
    );
    assert!(!place.data().exists());
}

#[test]
fn the_real_files_become_five_accounts() {
    let place = Place::real().skip_unowned();
    let summary = place.import();
    assert_eq!(
        (summary.accounts, summary.active_keys, summary.revoked_keys),
        (5, 6, 1)
    );
    assert_eq!((summary.memories, summary.unowned_skipped), (37, 24));
    let store = place.open();
    // The import is the first row of the audit log.
    let page = store.audit_page(&AuditFilter::default(), None, 9).unwrap();
    let [row] = page.rows.as_slice() else {
        panic!("{page:?}")
    };
    let row = &row.entry;
    let told = (&*row.action, &*row.actor, &*row.details, row.at);
    let expected = r#"{"accounts":5,"memories":37}"#;
    assert_eq!(told, ("data.imported", "operator", expected, now()));
    let rows = accounts(&store);
    let shape: Vec<_> = rows
        .iter()
        .map(|row| {
            let balance = row.usage.balance();
            (
                row.email.as_deref(),
                balance.plan,
                balance.credits_remaining,
                balance.credits_used,
                row.usage.used_ever,
                balance.memory_count,
                row.keys.len(),
            )
        })
        .collect();
    let expected = [
        (Some("ana@example.com"), Plan::PRO, 9_951, 49, 49, 20, 2),
        (Some("bo@example.com"), Plan::FREE, 86, 14, 14, 7, 1),
        (None, Plan::PREMIUM, 99_992, 8, 8, 4, 1),
        (Some("di@example.com"), Plan::FREE, 60, 40, 40, 0, 1),
        (
            Some("enterprise@example.com"),
            Plan::PREMIUM,
            99_988,
            12,
            12,
            6,
            1,
        ),
    ];
    assert_eq!(shape, expected);
    let reset = at("2026-12-22T14:39:51.248738Z");
    assert_eq!(rows[0].usage.cycle_end, reset);
    assert_eq!(rows[0].created_at, at("2026-11-22T14:39:51.248738Z"));
    assert!(
        rows.iter()
            .all(|row| row.usage.shares.iter().all(|s| s.cap.is_none()))
    );
    assert_eq!(store.health().memories, 37);
    assert_eq!(
        (store.health().accounts, store.health().active_keys),
        (5, 6)
    );
}

#[test]
fn keys_keep_what_they_were() {
    let place = Place::real().skip_unowned();
    place.import();
    let store = place.open();
    let ana = store.account_named("ana@example.com").unwrap().unwrap();
    let keys = store.keys(ana, now()).unwrap();
    let shape: Vec<_> = keys
        .iter()
        .map(|k| {
            (
                k.masked.as_str(),
                k.description.as_str(),
                k.share.used,
                k.share.held,
            )
        })
        .collect();
    assert_eq!(
        shape,
        [
            ("fB9sxs1N...YduA", "Initial account creation", 33, 12),
            ("UOsH8sDE...amx5", "Mobile app key", 10, 5),
            ("Om8Rm8Q8...6gHX", "Old laptop", 6, 3),
        ]
    );
    assert_eq!(keys[2].ended_at, Some(at("2026-11-22T14:39:54.012572Z")));
    assert_eq!(
        keys[1].share.last_activity,
        Some(at("2026-11-22T14:39:52.131538Z"))
    );
    for (secret, active) in [
        (ANA, true),
        (ANA_PHONE, true),
        (BO, true),
        (ANA_REVOKED, false),
    ] {
        let state = store
            .authenticate(&Secret::new(secret).hash(), now())
            .unwrap()
            .unwrap();
        assert_eq!(matches!(state, KeyState::Active(_)), active);
    }
}

#[test]
fn memories_are_in_the_files_order_with_every_field() {
    let place = Place::real().skip_unowned();
    place.import();
    let store = place.open();
    let ana = store.account_named("ana@example.com").unwrap().unwrap();
    let keys = store.keys(ana, now()).unwrap();
    let found = memories(&store, ana);
    let old = place.json("memory.json");
    let secrets = [ANA, ANA_PHONE, ANA_REVOKED];
    let mut expected: Vec<Value> = old.as_array().unwrap().clone();
    expected.retain(|m| secrets.contains(&m["api_key"].as_str().unwrap_or("")));
    expected.reverse();
    assert_eq!((found.len(), topics(&found)), (20, topics(&expected)));
    for (found, mut old) in found.into_iter().zip(expected) {
        let owner = secrets.iter().position(|s| old["api_key"] == *s).unwrap();
        assert_eq!(found["key_id"], keys[owner].id.to_string());
        let fields = old.as_object_mut().unwrap();
        fields.remove("api_key");
        fields.insert("id".to_owned(), found["id"].clone());
        fields.insert("key_id".to_owned(), found["key_id"].clone());
        assert_eq!(found, old);
    }
}

#[test]
fn what_is_left_out_is_written_out_as_it_was() {
    let place = Place::real().skip_unowned();
    place.import();
    let old = place.json("memory.json");
    let unowned: Vec<_> = old.as_array().unwrap()[..24].to_vec();
    assert_eq!(place.json("unowned.json"), Value::from(unowned));
}

#[test]
fn memories_without_an_owner_go_to_whom_the_operator_says() {
    let place = Place::real().unowned_to("ANA@Example.com");
    let summary = place.import();
    assert_eq!((summary.memories, summary.unowned_given), (61, 24));
    let store = place.open();
    let ana = store.account_named("ana@example.com").unwrap().unwrap();
    let found = memories(&store, ana);
    assert_eq!(found.len(), 44);
    assert_eq!(found[43]["topic"], "System Rebuild Complete");
    assert_eq!(found[43]["timestamp"], "2025-01-20T15:30:00.000000+00:00");
    let keys = store.keys(ana, now()).unwrap();
    assert_eq!(found[43]["key_id"], keys[0].id.to_string());
    assert_eq!(
        keys.iter().map(|k| k.share.held).collect::<Vec<_>>(),
        [36, 5, 3]
    );
    let ids: Vec<_> = found.iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a > b));
    let error = Place::real().unowned_to("no@example.com").refused();
    assert!(
        error.contains("no account") && error.contains("no@example.com"),
        "{error}"
    );
}

#[test]
fn no_key_is_in_any_file() {
    let place = Place::real().skip_unowned();
    let users = place.json("users.json");
    let secrets: Vec<_> = users
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(secrets.len(), 7);
    // One where nobody expects it, in what is imported and in what is left out.
    let mut list = place.json("memory.json");
    list[0]["context"] = json!({ "note": format!("curl -H 'X-API-KEY: {ANA}'") });
    list[30]["context"] = json!({ BO: BO });
    fs::write(&place.args.memories, list.to_string()).unwrap();
    let summary = place.import();
    assert!(
        secrets
            .iter()
            .all(|secret| !summary.to_string().contains(secret))
    );
    drop(place.open());
    assert_no_secret(&place.data(), &secrets);
    let unowned = place.json("unowned.json");
    assert_eq!(
        unowned[0]["context"]["note"],
        "curl -H 'X-API-KEY: fB9sxs1N...YduA'"
    );
    let store = place.open();
    let ana = store.account_named("ana@example.com").unwrap().unwrap();
    let masked = json!({ "uhW53D0Z...84Kj": "uhW53D0Z...84Kj" });
    assert!(memories(&store, ana).iter().any(|m| m["context"] == masked));
}

#[tokio::test]
async fn the_same_import_again_does_nothing_even_after_changes() {
    let place = Place::real().skip_unowned();
    assert!(!place.import().already_imported);
    let store = place.open();
    let ana = store.account_named("ana@example.com").unwrap().unwrap();
    store
        .debit(ana, Payer::first(1), (Operation::ReadMemory, 1), now())
        .await
        .unwrap();
    store.flush().await.unwrap();
    let error = place.refused();
    assert!(error.contains("in use"), "{error}");
    drop(store);
    let before = files(&place.data());
    let again = place.import();
    assert!(again.already_imported && again.to_string().contains("nothing to do"));
    assert_eq!(files(&place.data()), before);
    assert_eq!(place.open().usage(ana, now()).unwrap().used, 50);
}

#[test]
fn other_data_is_refused_and_stays_as_it_is() {
    let place = Place::real().skip_unowned();
    place.import();
    fs::remove_file(place.file("unowned.json")).unwrap();
    let before = files(&place.data());
    // The same files, but another decision.
    let other = ImportArgs {
        skip_unowned: None,
        unowned_to: Some("bo@example.com".to_owned()),
        ..place.args.clone()
    };
    let error = run(&other, &place.data(), now()).unwrap_err().to_string();
    assert!(error.contains("is one already"), "{error}");
    // Another file.
    fs::write(&place.args.memories, "[]").unwrap();
    assert!(place.refused().contains("is one already"));
    assert_eq!(files(&place.data()), before);
    assert!(!place.file("unowned.json").exists());
    // Somebody else's directory.
    let foreign = Place::real().skip_unowned();
    fs::create_dir(foreign.data()).unwrap();
    fs::write(foreign.data().join("notes.txt"), "mine").unwrap();
    assert!(foreign.refused().contains("no MemoryOS data directory"));
    assert_eq!(files(&foreign.data()).len(), 1);
    // A server's own.
    let served = Place::real().skip_unowned();
    drop(served.open());
    assert!(served.refused().contains("is one already"));
}

#[test]
fn an_interrupted_import_is_refused_by_a_start_and_completed_by_the_next_import() {
    let place = Place::real().skip_unowned();
    // Killed in the middle, and just before the last step.
    for complete in [false, true] {
        if complete {
            fs::remove_file(place.data().join("FORMAT")).unwrap();
        }
        fs::create_dir_all(place.data().join("import.tmp/db")).unwrap();
        fs::write(place.data().join("import.tmp/db/db"), "half").unwrap();
        let refused = Store::open(&place.data(), Options::default()).unwrap_err();
        assert!(
            matches!(refused, OpenError::UnfinishedImport(_)),
            "{refused}"
        );
        let summary = place.import();
        assert_eq!((summary.memories, summary.already_imported), (37, false));
        assert!(!place.data().join("import.tmp").exists());
        assert_eq!(accounts(&place.open()).len(), 5);
    }
}

#[test]
fn a_failure_leaves_nothing_behind() {
    let place = Place::real().skip_unowned().skip_invalid();
    fs::write(place.file("invalid.json"), "mine").unwrap();
    let error = place.refused();
    assert!(
        error.contains("exists already") && error.contains("--skip-invalid"),
        "{error}"
    );
    assert_eq!(fs::read(place.file("invalid.json")).unwrap(), b"mine");
    assert!(!place.data().exists() && !place.file("unowned.json").exists());
    // A folder that cannot be made: the data directory would be inside a file.
    let unwritable = Place::real().skip_unowned();
    let inside = unwritable.args.users.join("data");
    run(&unwritable.args, &inside, now()).unwrap_err();
    let left: BTreeSet<_> = files(unwritable.folder.path()).into_keys().collect();
    assert_eq!(left.len(), 2, "{left:?}");
    let mut within = Place::real().skip_unowned();
    within.args.skip_unowned = Some(within.data().join("unowned.json"));
    assert!(within.refused().contains("inside the data directory"));
}

#[test]
fn entries_that_the_contract_refuses_stop_the_import_or_are_left_out() {
    let place = Place::real().skip_unowned();
    let mut list = place.json("memory.json");
    list[30]["success"] = json!("yes");
    list[33]["output"] = json!("x".repeat(70_000));
    list[40] = json!(7);
    fs::write(&place.args.memories, list.to_string()).unwrap();
    let error = place.refused();
    assert!(
        error.contains("index 30") && error.contains("'success'"),
        "{error}"
    );
    assert!(
        error.contains("and 2 more") && error.contains("--skip-invalid"),
        "{error}"
    );
    assert!(!place.data().exists() && !place.file("unowned.json").exists());
    let place = place.skip_invalid();
    let summary = place.import();
    assert_eq!((summary.memories, summary.invalid_skipped), (34, 3));
    let left_out = place.json("invalid.json");
    assert_eq!(left_out[0]["index"], 30);
    assert_eq!(left_out[0]["entry"]["topic"], list[30]["topic"]);
    assert_eq!(left_out[0]["entry"]["api_key"], "fB9sxs1N...YduA");
    assert_eq!(left_out[1]["reason"], "it is larger than 65536 bytes");
    assert_eq!(
        left_out[2],
        json!({"index": 40, "reason": "it is no JSON object", "entry": 7})
    );
}

#[test]
fn what_python_writes_and_json_lacks_is_one_bad_entry() {
    let bad = memory("bad", "k").to_string().replace("true", "NaN");
    let list = format!("[{}, {bad}, {}]", memory("1", "k"), memory("2", "k"));
    let place = Place::with(
        &json!({ "k": user("Free", &json!(null)) }).to_string(),
        &list,
    );
    let error = place.refused();
    assert!(
        error.contains("index 1 ") && error.contains("not valid JSON"),
        "{error}"
    );
    let place = place.skip_invalid();
    assert_eq!(
        (place.import().memories, place.import().already_imported),
        (2, true)
    );
    let left_out = place.json("invalid.json");
    assert_eq!(left_out[0]["index"], 1);
    assert!(
        left_out[0]["entry"]
            .as_str()
            .unwrap()
            .contains("\"success\":NaN")
    );
}

#[test]
fn keys_of_one_email_are_merged() {
    let now_passed = json!("2026-11-10T00:00:00+00:00");
    let older = changed(
        user("Free", &json!("Bo@x.org")),
        "created_at",
        json!("2026-09-01T00:00:00"),
    );
    let newest = changed(
        user("Pro", &json!("bo@x.org")),
        "created_at",
        json!("2026-11-01T00:00:00Z"),
    );
    let users = json!({
        "bo-pro": user("Pro", &json!("bo@X.ORG")),
        "bo-free": older,
        "bo-passed": changed(newest, "reset_date", now_passed.clone()),
        "lone": user("Pro", &json!(null)),
        "lone-passed": changed(user("Pro", &json!("")), "reset_date", now_passed),
    });
    let list = json!([
        memory("1", "bo-free"),
        memory("2", "bo-pro"),
        memory("3", "lone")
    ]);
    let place = Place::of(&users, &list);
    place.import();
    let store = place.open();
    let rows = accounts(&store);
    let shape: Vec<_> = rows
        .iter()
        .map(|row| {
            let usage = &row.usage;
            let left = usage.balance().credits_remaining;
            (
                row.email.as_deref(),
                usage.plan(),
                left,
                usage.used,
                usage.used_ever,
            )
        })
        .collect();
    assert_eq!(
        shape,
        [
            (Some("bo@x.org"), Plan::PRO, 9_920, 80, 1_200),
            (None, Plan::PRO, 60, 40, 400),
            (None, Plan::PRO, 10_000, 0, 400),
        ]
    );
    let bo = &rows[0];
    assert_eq!(bo.created_at, at("2026-09-01T00:00:00Z"));
    let shares: Vec<_> = bo
        .usage
        .shares
        .iter()
        .map(|s| (s.cap, s.used, s.held))
        .collect();
    assert_eq!(
        shares,
        [(Some(Plan::FREE.no()), 40, 1), (None, 40, 1), (None, 0, 0)]
    );
    assert!(
        bo.keys
            .iter()
            .all(|key| key.description == "Legacy API key")
    );
    assert_eq!(topics(&memories(&store, bo.account)), ["2", "1"]);
    assert_eq!(rows[2].usage.cycle_end, at("2026-12-10T00:00:00Z"));
}

#[tokio::test]
async fn an_imported_account_goes_on_as_any_other() {
    let long = "é".repeat(20_000);
    let mut entry = memory("long", "some-old-key");
    entry["input"] = json!(long);
    entry["timestamp"] = json!("2099-01-01T00:00:00.123456");
    let list = json!([
        memory("first", "some-old-key"),
        entry,
        memory("last", "some-old-key")
    ]);
    let place = Place::of(&json!({ "some-old-key": user("Pro", &json!(null)) }), &list);
    place.import();
    let store = place.open();
    let account = accounts(&store).remove(0);
    let found = memories(&store, account.account);
    // The order is the file's, whatever the times say.
    assert_eq!(topics(&found), ["last", "long", "first"]);
    assert_eq!(found[1]["input"], long);
    assert_eq!(found[1]["timestamp"], "2099-01-01T00:00:00.123456+00:00");
    let stats = store.stats(account.account).await.unwrap();
    assert_eq!((stats.total, stats.categories["work"]), (3, 3));
    let id = memoryos::domain::memory::MemoryId::parse(found[1]["id"].as_str().unwrap()).unwrap();
    store
        .delete_memory(account.account, 1, id, now())
        .await
        .unwrap();
    let stats = store.stats(account.account).await.unwrap();
    assert_eq!((stats.total, stats.types["Note"]), (2, 2));
    drop(store);
    let store = place.open();
    assert_eq!(store.stats(account.account).await.unwrap().total, 2);
    assert_eq!(store.usage(account.account, now()).unwrap().held, 2);
    assert_eq!(store.recount(account.account).await.unwrap(), None);
}

#[test]
fn wrong_files_and_options_are_said_clearly() {
    let wrong = |users: &str, memories: &str| Place::with(users, memories).refused();
    assert!(wrong("[]", "[]").contains("users.json must be a JSON object"));
    assert!(wrong("{}", "{}").contains("memory.json must be a JSON list"));
    assert!(wrong("{", "[]").contains("users.json is not valid JSON"));
    let bad = json!({ ANA: changed(user("Free", &json!("nobody")), "x", json!(1)) });
    let error = Place::of(&bad, &json!([])).refused();
    assert!(
        error.contains("fB9sxs1N...YduA") && error.contains("exactly one @"),
        "{error}"
    );
    assert!(!error.contains(ANA));
    let many: serde_json::Map<_, _> = (0..101)
        .map(|n| (format!("key-number-{n}"), user("Free", &json!("a@b.org"))))
        .collect();
    let error = Place::of(&many.into(), &json!([])).refused();
    assert!(error.contains("101 active keys"), "{error}");
    let mut missing = Place::real();
    missing.args.users = missing.file("nothing.json");
    assert!(missing.refused().contains("cannot read"));
    let both = Place::real().skip_unowned().unowned_to("ana@example.com");
    assert!(both.refused().contains("not both"));
    // An empty start is one too.
    let empty = Place::with("{}", "[]");
    assert_eq!(empty.import().accounts, 0);
    assert_eq!(accounts(&empty.open()).len(), 0);
}

/// Shows that a key that stands in the description of one is not carried over, long or short.
#[test]
fn a_key_in_a_description_is_masked() {
    let user = |description: &str| {
        json!({"plan": "Free", "credits_remaining": 1, "credits_used_this_cycle": 0,
               "reset_date": "2026-12-22T00:00:00+00:00", "created_at": "2026-11-22T00:00:00+00:00",
               "email": null, "last_activity": null, "total_credits_used": 0, "status": "active",
               "description": description})
    };
    let users = json!({ANA: user(&format!("see {BO}")), BO: user("short-secret"), "short-secret": user("x")});
    let place = Place::of(&users, &json!([]));
    place.import();
    let described = |key: &str| {
        let row = place.open().key_by_hash(&Secret::new(key).hash(), now());
        row.unwrap().unwrap().description
    };
    assert_eq!(described(ANA), "see uhW53D0Z...84Kj");
    assert_eq!(described(BO), "sh...et");
}
