//! No key in a file or a log, no e-mail and no body in the log.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::{ADMIN, Process, memory};

const OPERATOR: &str = "operator-key-0123456789abcdef";
const EMAIL: &str = "secret.person@mail.example";
const BODY: &str = "what-nobody-else-may-read";

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

fn files(directory: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}

/// Makes keys by every route and sends them everywhere a client can put them. Returns all secrets.
fn use_keys_everywhere(process: &Process) -> Vec<String> {
    let mut client = process.client();
    let first = client.sign_up(EMAIL, "Pro");
    let mut made = |credential: (&str, &str), body: Option<&str>| {
        client
            .call("POST", "/apikey/new", &[credential], body)
            .expect(201)
            .str("api_key")
    };
    let own = made(("X-API-KEY", &first), Some(r#"{"description": "phone"}"#));
    let bearer = format!("Bearer {first}");
    let capped = made(("Authorization", &bearer), Some(r#"{"plan": "Free"}"#));
    let owner = json!({"email": EMAIL}).to_string();
    let by_admin = made(("X-ADMIN-KEY", ADMIN), Some(&owner));
    let new_account = made(
        ("X-ADMIN-KEY", ADMIN),
        Some(r#"{"email": "other@mail.example"}"#),
    );
    let strange = "0123456789ABCDEFghijklmnopqrstuv".to_owned();
    let secrets = vec![first, own, capped, by_admin, new_account, strange];

    for key in &secrets {
        let bearer = format!("Bearer {key}");
        let as_key = json!({"api_key": key}).to_string();
        let body = json!({"topic": BODY, "api_key": key}).to_string();
        let mut in_memory = memory(BODY);
        in_memory["input"] = json!(BODY);
        let in_memory = in_memory.to_string();
        let headers: [&[(&str, &str)]; 6] = [
            &[("X-API-KEY", key)],
            &[("Authorization", &bearer)],
            &[("X-API-KEY", key), ("Authorization", "Bearer another")],
            &[("X-API-KEY", key), ("X-API-KEY", key)],
            &[("X-ADMIN-KEY", key)],
            &[("X-API-KEY", key), ("X-ADMIN-KEY", ADMIN)],
        ];
        for headers in headers {
            for (method, path, body) in [
                ("GET", "/credits".to_owned(), None),
                ("GET", "/memory".to_owned(), None),
                ("POST", "/memory".to_owned(), Some(&in_memory)),
                ("POST", "/memory".to_owned(), Some(&body)),
                ("PATCH", format!("/memory/{key}"), Some(&body)),
                ("POST", "/login".to_owned(), Some(&as_key)),
                ("POST", "/apikey/new".to_owned(), Some(&as_key)),
                ("POST", "/signup".to_owned(), Some(&as_key)),
                ("GET", format!("/memory?api_key={key}"), None),
                ("GET", format!("/memory?cursor={key}&limit={key}"), None),
                ("GET", format!("/memory/{key}"), None),
                ("GET", format!("/{key}"), None),
                ("GET", format!("/admin/users?q={key}"), None),
                ("PUT", format!("/admin/user/{key}/plan"), Some(&as_key)),
                ("POST", "/memory".to_owned(), Some(key)),
            ] {
                let sent = body.map(String::as_str);
                let answer = client.call(method, &path, headers, sent);
                assert!(answer.status < 500, "{method} {path}: {}", answer.text);
                // An answer holds a key only if it was made for it, or is what the caller stored.
                assert!(
                    !answer.text.contains(key.as_str()),
                    "{path}: {}",
                    answer.text
                );
            }
        }
    }
    for (n, key) in secrets.iter().enumerate() {
        let path = format!("/apikey/{key}");
        let credential = if n % 2 == 0 {
            ("X-ADMIN-KEY", ADMIN)
        } else {
            ("X-API-KEY", secrets[0].as_str())
        };
        let answer = client.call("DELETE", &path, &[credential], None);
        assert!(!answer.text.contains(key.as_str()), "{}", answer.text);
        let path = format!("/admin/user/{key}/plan");
        let body = Some(r#"{"plan": "Pro"}"#);
        client.call("PUT", &path, &[("X-ADMIN-KEY", ADMIN)], body);
    }
    client
        .with_key(OPERATOR, "GET", "/credits", None)
        .expect(200);
    secrets
}

#[test]
fn no_key_is_in_any_file_or_log() {
    for level in ["debug", "trace"] {
        let data = tempfile::tempdir().unwrap();
        let env = [
            ("ADMIN_KEY", ADMIN),
            ("JAVLIN_API_KEY", OPERATOR),
            ("RUST_LOG", level),
        ];
        let process = Process::start(data.path(), &[], &env);
        let mut secrets = use_keys_everywhere(&process);
        let log = process.stop();
        secrets.extend([ADMIN.to_owned(), OPERATOR.to_owned()]);
        let mut found = Vec::new();
        files(data.path(), &mut found);
        assert!(
            found
                .iter()
                .any(|(name, bytes)| name.ends_with("/db/db") && bytes.len() > 9_999)
        );
        found.push((format!("the log at {level}"), log.into_bytes()));
        for (name, bytes) in &found {
            for secret in &secrets {
                assert!(!holds(bytes, secret), "{secret} is in {name}");
            }
        }
    }
}

#[test]
fn the_log_has_a_line_for_each_request_and_nothing_of_its_content() {
    let data = tempfile::tempdir().unwrap();
    let env = [("ADMIN_KEY", ADMIN), ("JAVLIN_API_KEY", OPERATOR)];
    let process = Process::start(data.path(), &[], &env);
    use_keys_everywhere(&process);
    let mut client = process.client();
    let key = client.sign_up("third@mail.example", "Free");
    let key_id = client.with_key(&key, "GET", "/credits", None).str("key_id");
    let made = client
        .with_key(&key, "POST", "/memory", Some(&memory(BODY)))
        .expect(201);
    let path = format!("/memory/{}", made.body["entry"]["id"].as_str().unwrap());
    let answers = [
        ("POST /memory 201", key_id.as_str(), made),
        (
            "GET /memory/{id} 200",
            &key_id,
            client.with_key(&key, "GET", &path, None),
        ),
        (
            "DELETE /apikey/{key} 400",
            &key_id,
            client.with_key(&key, "DELETE", &format!("/apikey/{key}"), None),
        ),
        (
            "GET /admin/users 200",
            "admin",
            client.as_admin("GET", "/admin/users?q=third@mail.example", None),
        ),
        (
            "GET /credits 401",
            "-",
            client.call("GET", "/credits", &[], None),
        ),
        (
            "GET - 404",
            "-",
            client.call("GET", &format!("/unknown/{EMAIL}"), &[], None),
        ),
    ];
    let ours = [
        ("X-API-KEY", key.as_str()),
        ("X-Request-Id", "their-own-id"),
    ];
    client.call("GET", "/credits", &ours, None).expect(200);
    let log = process.stop();
    for (words, who, answer) in answers {
        let id = answer.header("x-request-id").unwrap();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(id)).collect();
        let [line] = lines.as_slice() else {
            panic!("{words}: {lines:?}");
        };
        assert!(line.contains(words), "{line}");
        assert!(line.contains(&format!(" key={who} ")), "{line}");
        let rest = line.split_once(words).unwrap().1;
        let mut rest = rest.split_whitespace();
        // Why it was refused, in the code that the client was told.
        let refusal = answer.body["code"].as_str().unwrap_or("-").to_owned();
        assert_eq!(rest.next(), Some(refusal.as_str()), "{line}");
        let time = rest.next().unwrap();
        let micros = time.strip_suffix("us").expect("a time");
        assert!(micros.parse::<u64>().is_ok(), "{line}");
    }
    assert!(
        log.lines()
            .any(|line| line.contains("client_id=their-own-id"))
    );
    for text in [EMAIL, "mail.example", "secret.person", BODY] {
        let line = log.lines().find(|line| line.contains(text));
        assert!(line.is_none(), "{text} is in the log: {line:?}");
    }
}
