//! `/memory`, `/memory/{id}`, and what is derived from them: `/stats`, `/gpt-status`.

use memoryos::domain::plan::Plan;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Actor, Answer, Options, Server, assert_fields, at, memory};

const NOT_FOUND: (u16, &str, &str) = (404, "not_found", "Memory not found");

/// Asserts that a memory was refused with this sentence.
#[track_caller]
fn bad_memory(answer: Answer, problem: &str) {
    answer.refused(
        400,
        "invalid_memory",
        &format!("Invalid memory entry: {problem}"),
    );
}

/// Returns the text of a minimal memory with these members in addition.
fn text_with(members: &str) -> String {
    let text = memory("t").to_string();
    format!("{},{members}}}", text.strip_suffix('}').unwrap())
}

async fn post_text(by: &Actor, text: impl Into<String>) -> Answer {
    by.send(Method::POST, "/memory", text.into()).await
}

fn ids(answer: &Answer) -> Vec<String> {
    let list = answer.json["memories"].as_array().unwrap();
    list.iter()
        .map(|m| m["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_is_added_with_defaults() {
    // Shows the whole answer, that names are trimmed and texts are not, and what the server sets.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let body = json!({"topic": "  T é\n", "type": " note ", "category": "\tw ", "input": " in ",
                      "output": "", "success": false, "score": null, "tags": null});
    let made = bo.post("/memory", &body).await.ok(201);
    assert_fields(
        &made.json,
        &[
            "message",
            "entry",
            "total_memories",
            "memory_usage",
            "credit_info",
        ],
    );
    let id = made.json["entry"]["id"].as_str().unwrap();
    let entry = json!({
        "id": id, "topic": "T é", "type": "note", "category": "w", "input": " in ", "output": "",
        "success": false, "score": 15, "maxScore": 25, "tags": [], "reviewed": false,
        "timestamp": "2026-01-15T12:00:00.000000+00:00", "key_id": bo.key_id,
    });
    assert_eq!(made.json["entry"], entry);
    assert_eq!(made.json["message"], "Memory entry added successfully");
    assert_eq!(made.json["total_memories"], 1);
    assert_eq!(
        made.json["memory_usage"],
        json!({"current_count": 1, "limit": 100, "remaining": 99})
    );
    assert_eq!(
        made.json["credit_info"],
        json!({"credits_remaining": 98, "credits_used": 2})
    );
    let read = bo.get(&format!("/memory/{id}")).await.ok(200);
    assert_fields(&read.json, &["memory", "credit_info"]);
    assert_eq!(read.json["memory"], entry);
    assert_eq!(
        read.json["credit_info"],
        json!({"credits_remaining": 97, "credits_used": 1})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_adds_comes_back_as_it_was() {
    // Shows that unknown fields, their nesting and their numbers are kept to the digit.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let extras = [
        r#""price":1.50"#,
        r#""big":1e5"#,
        r#""max":18446744073709551615"#,
        r#""min":-9223372036854775808"#,
        r#""zero":-0.0"#,
        r#""null":null"#,
        r#""":"no name""#,
        r#""nested":{"a":[1,{"b":[true,null,"\u00e9\"\\"]}],"a b":{}}"#,
    ];
    let made = post_text(&bo, text_with(&extras.join(","))).await.ok(201);
    let id = made.json["entry"]["id"].as_str().unwrap();
    let read = bo.get(&format!("/memory/{id}")).await.ok(200);
    let listed = bo.get("/memory").await.ok(200);
    for answer in [&made, &read, &listed] {
        for extra in extras {
            assert!(answer.text.contains(extra), "{extra} in {}", answer.text);
        }
    }
    // A change elsewhere leaves them as they are.
    let path = format!("/memory/{id}");
    let changed = bo.patch(&path, &json!({"score": 1})).await.ok(200);
    for extra in extras {
        assert!(changed.text.contains(extra), "{extra}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_taken_strictly() {
    // Shows the depth limit, repeated names, numbers that nothing holds, and broken JSON.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let nested = |n: usize| format!(r#""deep":{}{}"#, "[".repeat(n), "]".repeat(n));
    post_text(&bo, text_with(&nested(16))).await.ok(201);
    let objects = format!(r#""deep":{}1{}"#, r#"{"a":"#.repeat(16), "}".repeat(16));
    post_text(&bo, text_with(&objects)).await.ok(201);
    let refused = [
        text_with(&nested(17)),
        text_with(&nested(1_000)),
        text_with(r#""x":1,"x":2"#),
        text_with(r#""topic":"again""#),
        text_with(r#""x":{"y":1,"y":1}"#),
        text_with(r#""x":[{"y":1,"\u0079":1}]"#),
        text_with(r#""x":1e400"#),
        text_with(r#""x":-1e400"#),
        text_with(r#""x":123456789012345678901234567890"#),
        text_with(r#""x":"\ud800""#),
        text_with(r#""x":01"#),
        text_with(r#""x":NaN"#),
        memory("t").to_string() + "x",
        memory("t").to_string() + "{}",
        "{".to_owned(),
        "nonsense".to_owned(),
        "[]".to_owned(),
        "\"x\"".to_owned(),
        "null".to_owned(),
        " ".to_owned(),
    ];
    for text in refused {
        let answer = post_text(&bo, text.clone()).await;
        assert_eq!(answer.status, 400, "{text}");
        answer.refused(400, "invalid_json", "Invalid JSON");
    }
    let utf8 = bo
        .send(Method::POST, "/memory", &b"{\"topic\":\"\xff\"}"[..])
        .await;
    utf8.refused(400, "invalid_json", "Invalid JSON");
    let empty = post_text(&bo, "").await;
    empty.refused(400, "missing_body", "No JSON data provided");
    assert_eq!(bo.credits().await, 96);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_required_field_is_named() {
    // Shows the original sentence for each field that is missing.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    for name in ["topic", "type", "input", "output", "success", "category"] {
        let mut body = memory("t");
        body.as_object_mut().unwrap().remove(name);
        let answer = bo.post("/memory", &body).await;
        assert_eq!(answer.json["field"], name);
        bad_memory(answer, &format!("Missing required field: {name}"));
    }
    let answer = bo.post("/memory", &json!({})).await;
    bad_memory(answer, "Missing required field: topic");
    assert_eq!(bo.credits().await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bound_holds() {
    // Shows for each field the greatest value that is taken, and which field is named beyond it.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let tags = |n: usize, chars: usize| json!(vec!["é".repeat(chars); n]);
    let good = [
        ("topic", json!("é".repeat(512))),
        ("topic", json!(format!(" {} ", "x".repeat(512)))),
        ("type", json!("é".repeat(128))),
        ("category", json!("é".repeat(128))),
        ("input", json!("")),
        ("score", json!(i64::MAX)),
        ("score", json!(i64::MIN)),
        ("maxScore", json!(-1)),
        ("tags", tags(64, 128)),
        ("tags", json!([])),
        ("reviewed", json!(true)),
    ];
    for (name, value) in good {
        let mut body = memory("t");
        body[name] = value;
        let answer = bo.post("/memory", &body).await;
        assert_eq!(answer.status, 201, "{name}: {}", answer.text);
    }
    let bad = [
        ("topic", json!("x".repeat(513))),
        ("topic", json!("")),
        ("topic", json!(" \t\n ")),
        ("topic", json!(5)),
        ("topic", json!(null)),
        ("topic", json!("a\u{0}b")),
        ("type", json!("x".repeat(129))),
        ("type", json!(" ")),
        ("type", json!("\u{0}")),
        ("category", json!("x".repeat(129))),
        ("category", json!([])),
        ("input", json!(5)),
        ("input", json!("a\u{0}b")),
        ("input", json!(null)),
        ("output", json!({})),
        ("output", json!("\u{0}")),
        ("success", json!("true")),
        ("success", json!(1)),
        ("success", json!(null)),
        ("score", json!(1.5)),
        ("score", json!("15")),
        ("score", json!(u64::MAX)),
        ("maxScore", json!(true)),
        ("tags", tags(65, 1)),
        ("tags", tags(1, 129)),
        ("tags", json!("tag")),
        ("tags", json!([1])),
        ("tags", json!([null])),
        ("tags", json!(["a\u{0}"])),
        ("reviewed", json!("no")),
        ("api_key", json!("x")),
    ];
    for (name, value) in bad {
        let mut body = memory("t");
        body[name] = value.clone();
        let answer = bo.post("/memory", &body).await;
        assert_eq!(
            (answer.status, &answer.json["code"], &answer.json["field"]),
            (400, &json!("invalid_memory"), &json!(name)),
            "{name}: {value}"
        );
        let error = answer.json["error"].as_str().unwrap();
        assert!(error.starts_with("Invalid memory entry: "), "{error}");
    }
    assert_eq!(bo.credits().await, 10_000 - 22);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_sets_cannot_be_sent() {
    // Shows that a client's id, timestamp, updated_at and key_id are ignored, whatever their type.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let mut body = memory("t");
    for (name, value) in [
        ("id", json!("mem_01ARZ3NDEKTSV4RRFFQ69G5FAV")),
        ("timestamp", json!(5)),
        ("updated_at", json!("2020-01-01T00:00:00Z")),
        ("key_id", json!("key_aaaaaaaaaaaa")),
    ] {
        body[name] = value;
    }
    let made = bo.post("/memory", &body).await.ok(201);
    let entry = &made.json["entry"];
    assert_ne!(entry["id"], body["id"]);
    assert_eq!(entry["key_id"], json!(bo.key_id));
    assert_eq!(entry["timestamp"], "2026-01-15T12:00:00.000000+00:00");
    assert_eq!(entry["updated_at"], Value::Null);
    let path = format!("/memory/{}", entry["id"].as_str().unwrap());
    body["topic"] = json!("changed");
    let changed = bo.patch(&path, &body).await.ok(200);
    let mut expected = entry.clone();
    expected["topic"] = json!("changed");
    expected["updated_at"] = json!("2026-01-15T12:00:00.000000+00:00");
    assert_eq!(changed.json["entry"], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_has_65536_bytes_at_most() {
    // Shows the limit to the byte, that a long memory comes back equal, and that a server can have
    // another limit.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let padded = |bytes: usize| {
        let mut body = memory("t");
        body["output"] = json!("");
        let room = bytes - body.to_string().len();
        // Two bytes a character, so that a cut in the middle of one would show.
        body["output"] = json!("é".repeat(room / 2) + &"x".repeat(room % 2));
        body
    };
    for bytes in [60_000, 65_536] {
        let body = padded(bytes);
        assert_eq!(body.to_string().len(), bytes);
        let made = bo.post("/memory", &body).await.ok(201);
        let id = made.json["entry"]["id"].as_str().unwrap();
        let read = bo.get(&format!("/memory/{id}")).await.ok(200);
        assert_eq!(read.json["memory"]["output"], body["output"]);
        assert_eq!(read.json["memory"], made.json["entry"]);
    }
    let answer = bo.post("/memory", &padded(65_537)).await;
    let answer = answer.refused(413, "body_too_large", "Request body too large");
    assert_eq!(answer.json["bytes_max"], 65_536);
    let listed = bo.get("/memory").await.ok(200);
    assert_eq!(ids(&listed).len(), 2);
    let small = Options {
        body_bytes_max: 2_000,
        ..Options::default()
    };
    let server = Server::spawn_with(small).await;
    let bo = server.account(Plan::FREE).await;
    bo.post("/memory", &padded(2_000)).await.ok(201);
    bo.post("/memory", &padded(2_001)).await.ok(413);
}

#[tokio::test(flavor = "multi_thread")]
async fn memories_are_listed_newest_first() {
    // Shows pages, their numbers, the greatest limit, and the end.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let empty = bo.get("/memory").await.ok(200);
    assert_fields(
        &empty.json,
        &["memories", "pagination", "timestamp", "credit_info"],
    );
    assert_eq!(empty.json["memories"], json!([]));
    assert_eq!(
        empty.json["pagination"],
        json!({"page": 1, "limit": 50, "total": 0, "pages": 0, "next_cursor": null})
    );
    assert_eq!(empty.json["timestamp"], "2026-01-15T12:00:00.000000+00:00");
    let mut added = Vec::new();
    for n in 0..7 {
        // The clock stands still, and goes back once: the order is that of the adds all the same.
        if n == 4 {
            server.clock.advance(-3_600);
        }
        added.insert(0, bo.add(&n.to_string()).await);
    }
    let all = bo.get("/memory").await.ok(200);
    assert_eq!(ids(&all), added);
    let page = bo.get("/memory?page=2&limit=3").await.ok(200);
    assert_eq!(ids(&page), added[3..6]);
    let cursor = page.json["pagination"]["next_cursor"].clone();
    assert!(cursor.is_string());
    assert_eq!(
        page.json["pagination"],
        json!({"page": 2, "limit": 3, "total": 7, "pages": 3, "next_cursor": cursor})
    );
    let last = bo.get("/memory?page=3&limit=3&other=1").await.ok(200);
    assert_eq!(ids(&last), added[6..]);
    assert_eq!(last.json["pagination"]["next_cursor"], Value::Null);
    // A page that ends with the oldest memory is the end, though it is full.
    let full = bo.get("/memory?limit=7").await.ok(200);
    assert_eq!(full.json["pagination"]["next_cursor"], Value::Null);
    let past = bo.get("/memory?page=4&limit=3").await.ok(200);
    assert_eq!(past.json["memories"], json!([]));
    assert_eq!(
        past.json["pagination"],
        json!({"page": 4, "limit": 3, "total": 7, "pages": 3, "next_cursor": null})
    );
    let wide = bo.get("/memory?limit=101").await.ok(200);
    assert_eq!(wide.json["pagination"]["limit"], 100);
    let huge = bo
        .get("/memory?limit=99999999999999999999999")
        .await
        .ok(200);
    assert_eq!(huge.json["pagination"]["limit"], 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_pages_are_refused() {
    // Shows 400 for each parameter, given wrongly or twice, and beyond 100,000 memories.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    for (query, name) in [
        ("page=0", "page"),
        ("page=-1", "page"),
        ("page=x", "page"),
        ("page=1.5", "page"),
        ("page=", "page"),
        ("page=+1", "page"),
        ("limit=0", "limit"),
        ("limit=abc", "limit"),
        ("page=1&page=1", "page"),
        ("page=1&p%61ge=2", "page"),
        ("limit=1&limit=2", "limit"),
        ("cursor=a&cursor=a", "cursor"),
        ("cursor=garbage", "cursor"),
        ("cursor=", "cursor"),
        ("cursor=%ff", "cursor"),
    ] {
        let answer = bo.get(&format!("/memory?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        answer.bad_field(name);
    }
    let deepest = bo.get("/memory?page=1001&limit=100").await.ok(200);
    assert_eq!(deepest.json["memories"], json!([]));
    for query in [
        "page=1002&limit=100",
        "page=100002&limit=1",
        "page=99999999999999999999999",
    ] {
        let answer = bo.get(&format!("/memory?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.text.contains("cursor"), "{}", answer.text);
    }
    // What the service does not know is not its business, also when it is no UTF-8.
    bo.get("/memory?x=1&x=2&%ff=%ff&=&&y").await.ok(200);
    assert_eq!(bo.credits().await, 98);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_walks_over_everything() {
    // Shows that 250 memories come once each and in order, also when new ones are added on the way and
    // after a restart.
    let mut server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    for n in 0..250 {
        bo.add(&n.to_string()).await;
    }
    let mut listed = Vec::new();
    for page in 1..=3 {
        let answer = bo
            .get(&format!("/memory?limit=100&page={page}"))
            .await
            .ok(200);
        listed.extend(ids(&answer));
    }
    assert_eq!(listed.len(), 250);
    let (mut walked, mut query) = (Vec::new(), "limit=90".to_owned());
    let mut bo = bo;
    loop {
        let answer = bo.get(&format!("/memory?{query}")).await.ok(200);
        walked.extend(ids(&answer));
        let Some(cursor) = answer.json["pagination"]["next_cursor"].as_str() else {
            break;
        };
        query = format!("limit=90&cursor={cursor}");
        bo.add("added on the way").await;
        server.restart().await;
        bo = server.key(&bo.key);
        let beside = bo.get(&format!("/memory?page=1&cursor={cursor}")).await;
        beside.bad_field("cursor");
    }
    assert_eq!(walked, listed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_one_accounts() {
    // Shows that another account's cursor and a changed one are refused, and that a cursor outlives the
    // memory that it points at.
    let server = Server::spawn().await;
    let (bo, al) = (
        server.account(Plan::PRO).await,
        server.account(Plan::PRO).await,
    );
    let mut added = Vec::new();
    for n in 0..4 {
        added.insert(0, bo.add(&n.to_string()).await);
        al.add("other").await;
    }
    let page = bo.get("/memory?limit=2").await.ok(200);
    let cursor = page.json["pagination"]["next_cursor"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("/memory?limit=2&cursor={cursor}");
    al.get(&path).await.bad_field("cursor");
    let (first, rest) = cursor.split_at(1);
    let other = if first == "A" { "B" } else { "A" };
    bo.get(&format!("/memory?cursor={other}{rest}"))
        .await
        .bad_field("cursor");
    bo.get(&format!("/memory?cursor={cursor}x"))
        .await
        .bad_field("cursor");
    bo.delete(&format!("/memory/{}", added[1])).await.ok(200);
    let next = bo.get(&path).await.ok(200);
    assert_eq!(ids(&next), added[2..]);
    assert_eq!(next.json["pagination"]["next_cursor"], Value::Null);
    assert_eq!(next.json["pagination"]["total"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_replaces_and_removes() {
    // Shows what PATCH does to each kind of field, and that id, time and place stay.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let first = bo.add("first").await;
    let mut body = memory("second");
    body["color"] = json!("red");
    body["size"] = json!(3);
    let made = bo.post("/memory", &body).await.ok(201);
    let third = bo.add("third").await;
    let entry = made.json["entry"].clone();
    let id = entry["id"].as_str().unwrap().to_owned();
    server.clock.set(at("2026-01-16T00:00:00Z"));
    let change = json!({"topic": " new ", "success": false, "tags": ["a"], "color": null,
                        "absent": null, "size": {"w": 1}, "shape": "round"});
    let changed = bo.patch(&format!("/memory/{id}"), &change).await.ok(200);
    assert_fields(&changed.json, &["message", "entry", "credit_info"]);
    assert_eq!(changed.json["message"], "Memory entry updated successfully");
    let mut expected = entry;
    for (name, value) in [
        ("topic", json!("new")),
        ("success", json!(false)),
        ("tags", json!(["a"])),
        ("size", json!({"w": 1})),
        ("shape", json!("round")),
        ("updated_at", json!("2026-01-16T00:00:00.000000+00:00")),
    ] {
        expected[name] = value;
    }
    expected.as_object_mut().unwrap().remove("color");
    assert_eq!(changed.json["entry"], expected);
    assert_eq!(
        changed.json["credit_info"],
        json!({"credits_remaining": 92, "credits_used": 2})
    );
    let listed = bo.get("/memory").await.ok(200);
    assert_eq!(ids(&listed), [third, id.clone(), first]);
    assert_eq!(listed.json["memories"][1], expected);
    let read = bo.get(&format!("/memory/{id}")).await.ok(200);
    assert_eq!(read.json["memory"], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_change_changes_nothing() {
    // Shows each refusal of a PATCH, and that the memory and the credits stay.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let made = bo.post("/memory", &memory("t")).await.ok(201);
    let entry = made.json["entry"].clone();
    let path = format!("/memory/{}", entry["id"].as_str().unwrap());
    for name in [
        "topic", "type", "category", "input", "output", "success", "score", "maxScore", "tags",
        "reviewed",
    ] {
        let answer = bo.patch(&path, &json!({"x": 1, name: null})).await;
        assert_eq!(
            (answer.status, &answer.json["code"], &answer.json["field"]),
            (400, &json!("invalid_memory"), &json!(name))
        );
    }
    for change in [
        json!({}),
        json!({"topic": " "}),
        json!({"success": "yes"}),
        json!({"tags": [1]}),
        json!({"api_key": "x"}),
    ] {
        let answer = bo.patch(&path, &change).await;
        assert_eq!(
            (answer.status, &answer.json["code"]),
            (400, &json!("invalid_memory"))
        );
    }
    let answer = bo.send(Method::PATCH, &path, "").await;
    answer.refused(400, "missing_body", "No JSON data provided");
    let answer = bo.send(Method::PATCH, &path, "[]").await;
    answer.refused(400, "invalid_json", "Invalid JSON");
    // Two bodies that are small enough make a memory that is not.
    let half = "x".repeat(40_000);
    let large = bo.patch(&path, &json!({"input": half})).await.ok(200);
    let answer = bo.patch(&path, &json!({"output": half})).await;
    answer.refused(413, "body_too_large", "Request body too large");
    let read = bo.get(&path).await.ok(200);
    assert_eq!(read.json["memory"], large.json["entry"]);
    assert_eq!(bo.credits().await, 10_000 - 2 - 2 - 1);
    // And back to a short one.
    let small = bo.patch(&path, &json!({"input": "in"})).await.ok(200);
    let mut expected = entry;
    expected["updated_at"] = json!("2026-01-15T12:00:00.000000+00:00");
    assert_eq!(small.json["entry"], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_changes_keep_each_others_fields() {
    // Shows that of 64 changes of 64 fields at once none is lost and each is paid.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let path = format!("/memory/{}", bo.add("t").await);
    let mut racers = Vec::new();
    for n in 0..64 {
        let (bo, path) = (bo.clone(), path.clone());
        let change = json!({format!("field{n}"): n});
        racers.push(tokio::spawn(async move { bo.patch(&path, &change).await }));
    }
    for racer in racers {
        racer.await.unwrap().ok(200);
    }
    let read = bo.get(&path).await.ok(200);
    for n in 0..64 {
        assert_eq!(read.json["memory"][format!("field{n}")], n);
    }
    assert_eq!(bo.credits().await, 10_000 - 2 - 128 - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_memory_is_gone_and_its_place_free() {
    // Shows the whole answer, that it costs nothing, and that at the limit one more fits at once.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    for n in 0..100 {
        bo.add(&n.to_string()).await;
    }
    let id = bo.add("last").await;
    let plan = format!("/admin/user/{}/plan", bo.account_id);
    server
        .admin()
        .put(&plan, &json!({"plan": "Free"}))
        .await
        .ok(200);
    let path = format!("/memory/{id}");
    let gone = bo.delete(&path).await.ok(200).unmetered();
    assert_eq!(
        gone.json,
        json!({"message": "Memory entry deleted successfully", "id": id,
               "memory_usage": {"current_count": 100, "limit": 100, "remaining": 0}})
    );
    let (status, code, error) = NOT_FOUND;
    bo.delete(&path).await.refused(status, code, error);
    bo.get(&path).await.refused(status, code, error);
    bo.patch(&path, &json!({"x": 1}))
        .await
        .refused(status, code, error);
    let full = bo.post("/memory", &memory("t")).await;
    full.refused(402, "memory_limit_exceeded", "Memory limit exceeded");
    let listed = bo.get("/memory?limit=1").await.ok(200);
    let newest = ids(&listed).remove(0);
    let gone = bo.delete(&format!("/memory/{newest}")).await.ok(200);
    assert_eq!(gone.json["memory_usage"]["remaining"], 1);
    bo.add("fits").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_do_not_see_each_other() {
    // Shows that every route answers for another's memory as for one that was never there.
    let server = Server::spawn().await;
    let (bo, al) = (
        server.account(Plan::FREE).await,
        server.account(Plan::FREE).await,
    );
    let id = bo.add("secret").await;
    let missing = [
        "mem_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "mem_",
        "x",
        "%20",
        "..%2Fx",
    ];
    for name in missing.iter().copied().chain([&*id]) {
        let path = format!("/memory/{name}");
        let answers = [
            al.get(&path).await,
            al.head(&path).await,
            al.patch(&path, &json!({"topic": "mine"})).await,
            al.delete(&path).await,
        ];
        for answer in answers {
            assert_eq!(answer.status, 404, "{name}");
            if !answer.text.is_empty() {
                assert_eq!(
                    answer.json["message"], "No memory of this account has this id.",
                    "{name}"
                );
                let (status, code, error) = NOT_FOUND;
                answer.refused(status, code, error).unmetered();
            }
        }
    }
    assert_eq!(al.credits().await, 100);
    let listed = al.get("/memory").await.ok(200);
    assert_eq!(listed.json["pagination"]["total"], 0);
    let stats = al.get("/stats").await.ok(200);
    assert_eq!(stats.json["total_memories"], 0);
    let gpt = al.get("/gpt-status").await.ok(200);
    assert_eq!(gpt.json["memory_count"], 0);
    let read = bo.get(&format!("/memory/{id}")).await.ok(200);
    assert_eq!(read.json["memory"]["topic"], "secret");
    // Another key of the same account sees all of it.
    let made = bo
        .post("/apikey/new", &json!({"plan": "Free"}))
        .await
        .ok(201);
    let second = server.made(&made);
    second.get(&format!("/memory/{id}")).await.ok(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_follow_every_write() {
    // Shows every field, for no memories and after adds, a change and a delete.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let stats = async || bo.get("/stats").await.ok(200);
    let empty = stats().await;
    assert_eq!(
        empty.json,
        json!({
            "total_memories": 0, "success_rate": "0%", "successful_entries": 0,
            "failed_entries": 0, "categories": {}, "types": {}, "recent_activity": "No activity",
            "timestamp": "2026-01-15T12:00:00.000000+00:00",
            "credit_info": {"credits_remaining": 9_999, "credits_used": 1},
        })
    );
    let mut last = String::new();
    for n in 0..8 {
        let mut body = memory(&format!("topic {n}"));
        body["success"] = json!(n != 3);
        body["category"] = json!(if n < 5 { "work" } else { "home" });
        body["type"] = json!(["note", "Note", "tésk"][n % 3]);
        server.clock.advance(1);
        let made = bo.post("/memory", &body).await.ok(201);
        last = made.json["entry"]["id"].as_str().unwrap().to_owned();
    }
    let answer = stats().await;
    for (name, value) in [
        ("total_memories", json!(8)),
        ("success_rate", json!("87.5%")),
        ("successful_entries", json!(7)),
        ("failed_entries", json!(1)),
        ("categories", json!({"home": 3, "work": 5})),
        ("types", json!({"Note": 3, "note": 3, "tésk": 2})),
        (
            "recent_activity",
            json!("Latest: topic 7 (2026-01-15T12:00:08.000000+00:00)"),
        ),
    ] {
        assert_eq!(answer.json[name], value, "{name}");
    }
    let change = json!({"category": "play", "success": false, "type": "note"});
    bo.patch(&format!("/memory/{last}"), &change).await.ok(200);
    let answer = stats().await;
    assert_eq!(answer.json["success_rate"], "75.0%");
    assert_eq!(
        answer.json["categories"],
        json!({"home": 2, "play": 1, "work": 5})
    );
    assert_eq!(
        answer.json["types"],
        json!({"Note": 2, "note": 4, "tésk": 2})
    );
    bo.delete(&format!("/memory/{last}")).await.ok(200);
    let answer = stats().await;
    assert_eq!(answer.json["total_memories"], 7);
    // 6 of 7 are 85.714… %.
    assert_eq!(answer.json["success_rate"], "85.7%");
    assert_eq!(answer.json["categories"], json!({"home": 2, "work": 5}));
    assert_eq!(
        answer.json["recent_activity"],
        "Latest: topic 6 (2026-01-15T12:00:07.000000+00:00)"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_name_a_thousand_at_most() {
    // Shows that exactly 1,000 names are whole, and that beyond the first in byte order are told,
    // with exact counts.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let add_all = async |from: usize, to: usize| {
        let mut adds = tokio::task::JoinSet::new();
        for worker in 0..16 {
            let bo = bo.clone();
            adds.spawn(async move {
                for n in (from..to).filter(|n| n % 16 == worker) {
                    let mut body = memory("t");
                    body["category"] = json!(format!("c{n:04}"));
                    bo.post("/memory", &body).await.ok(201);
                }
            });
        }
        adds.join_all().await;
    };
    add_all(1, 1_001).await;
    let answer = bo.get("/stats").await.ok(200);
    assert_eq!(answer.json["categories"].as_object().unwrap().len(), 1_000);
    assert_eq!(answer.json["truncated"], Value::Null);
    // c0000 comes first and pushes c1000 out; c0001 gets a second memory.
    add_all(0, 2).await;
    let answer = bo.get("/stats").await.ok(200);
    let names = answer.json["categories"].as_object().unwrap();
    assert_eq!(names.len(), 1_000);
    assert_eq!(answer.json["truncated"], true);
    assert_eq!((&names["c0000"], &names["c0001"]), (&json!(1), &json!(2)));
    assert!(names.contains_key("c0999") && !names.contains_key("c1000"));
    assert_eq!(answer.json["types"], json!({"note": 1_002}));
    assert_eq!(answer.json["total_memories"], 1_002);
}

#[tokio::test(flavor = "multi_thread")]
async fn gpt_status_tells_the_newest_memory() {
    // Shows every field, without a memory and with one.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let expected = |count: u64, last: Value, now: &str, left: u64| {
        json!({
            "system_status": "healthy", "memory_count": count, "last_activity": last,
            "api_accessible": true, "timestamp": now,
            "message": "MemoryOS is operational and ready for GPT integration",
            "credit_info": {"credits_remaining": left, "credits_used": 1},
        })
    };
    let now = "2026-01-15T12:00:00.000000+00:00";
    let answer = bo.get("/gpt-status").await.ok(200);
    let health = server.anonymous().get("/health").await.ok(200);
    let mut empty = expected(0, Value::Null, now, 99);
    empty["system_status"] = health.json["status"].clone();
    assert_eq!(answer.json, empty);
    bo.add("t").await;
    server.clock.advance(5);
    let answer = bo.get("/gpt-status").await.ok(200);
    let mut one = expected(1, json!(now), "2026-01-15T12:00:05.000000+00:00", 96);
    one["system_status"] = health.json["status"].clone();
    assert_eq!(answer.json, one);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_memory_can_still_be_changed() {
    // Shows that what the server adds does not count: a memory of a full body takes a small change.
    let server = Server::spawn().await;
    let bo = server.account(Plan::FREE).await;
    let mut body = memory("t");
    body["output"] = json!("x".repeat(65_536 - body.to_string().len() + "out".len()));
    assert_eq!(body.to_string().len(), 65_536);
    let made = bo.post("/memory", &body).await.ok(201);
    let path = format!("/memory/{}", made.json["entry"]["id"].as_str().unwrap());
    bo.patch(&path, &json!({"success": false, "reviewed": true}))
        .await
        .ok(200);
    let read = bo.get(&path).await.ok(200);
    assert_eq!(read.json["memory"]["output"], body["output"]);
    assert_eq!(read.json["memory"]["reviewed"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_tells_a_capped_key_its_own_room() {
    // Shows that memory_usage of a capped key's answers is the key's, total_memories the account's.
    let server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let made = bo
        .post("/apikey/new", &json!({"plan": "Free"}))
        .await
        .ok(201);
    let capped = server.made(&made);
    let own = bo.add("the account's").await;
    let made = capped.post("/memory", &memory("the key's")).await.ok(201);
    assert_eq!(made.json["total_memories"], 2);
    let room = |count: u64| json!({"current_count": count, "limit": 100, "remaining": 100 - count});
    assert_eq!(made.json["memory_usage"], room(1));
    let gone = capped.delete(&format!("/memory/{own}")).await.ok(200);
    assert_eq!(gone.json["memory_usage"], room(1));
    let id = made.json["entry"]["id"].as_str().unwrap();
    let gone = bo.delete(&format!("/memory/{id}")).await.ok(200);
    assert_eq!(
        gone.json["memory_usage"],
        json!({"current_count": 0, "limit": 2_000, "remaining": 2_000})
    );
    let credits = capped.get("/credits").await.ok(200);
    assert_eq!(credits.json["memory_usage"]["current_count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_after_a_restart() {
    // Shows that memories, their order, statistics, counts, credits, keys and plans outlive the process.
    let mut server = Server::spawn().await;
    let bo = server.account(Plan::PRO).await;
    let key = server.made(
        &bo.post("/apikey/new", &json!({"plan": "Free"}))
            .await
            .ok(201),
    );
    for n in 0..5 {
        key.add(&n.to_string()).await;
    }
    let gone = bo.add("gone").await;
    bo.delete(&format!("/memory/{gone}")).await.ok(200);
    let changed = bo.add("t").await;
    let change = json!({"category": "home", "output": "x".repeat(20_000)});
    bo.patch(&format!("/memory/{changed}"), &change)
        .await
        .ok(200);
    let told = async |bo: &Actor| {
        let memories = bo.get("/memory").await.ok(200).json["memories"].clone();
        let mut stats = bo.get("/stats").await.ok(200).json;
        stats.as_object_mut().unwrap().remove("credit_info");
        let keys = bo.get("/apikey/list?status=all").await.ok(200).json;
        (
            memories,
            stats,
            keys["total_keys"].clone(),
            keys["api_keys"][1].clone(),
        )
    };
    let before = told(&bo).await;
    let credits = bo.credits().await;
    server.restart().await;
    let again = server.key(&bo.key);
    assert_eq!(again.credits().await, credits);
    let mut after = told(&again).await;
    // Two reads more: the only thing that moved.
    assert_eq!(again.credits().await, credits - 2);
    assert_eq!(after.3["credits_remaining"], before.3["credits_remaining"]);
    after.3 = before.3.clone();
    assert_eq!(after, before);
    let health = server.anonymous().get("/health").await.ok(200);
    assert_eq!(health.json["metrics"]["memory_entries"], 6);
    assert_eq!(health.json["metrics"]["active_api_keys"], 2);
}
