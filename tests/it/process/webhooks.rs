//! Webhooks of the real process: killed before it could send, and its secret nowhere to be found.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::json;

use crate::harness::receiver::{Hook, Receiver, Say, of};

use super::{ADMIN, PATIENCE, Process, run};

const SECRET: &str = "webhook-secret-of-the-operator-0123456789";

/// A server that sends webhooks to these receivers on this machine.
fn start(data: &Path, receivers: &[&Receiver]) -> Process {
    let urls: Vec<String> = receivers.iter().map(|receiver| receiver.url()).collect();
    let env = [
        ("ADMIN_KEY", ADMIN),
        ("WEBHOOKS", &urls.join(",")),
        ("WEBHOOK_SECRET", SECRET),
        ("WEBHOOK_ALLOW_PRIVATE", "true"),
    ];
    Process::start(data, &[], &env)
}

// Shows that events whose effects were answered are sent by the next server, with SIGKILL before any of
// them was taken, and by one that is killed in turn.
#[test]
fn what_was_not_sent_before_a_kill_is_sent_after_it() {
    let data = tempfile::tempdir().unwrap();
    let receiver = Receiver::new([Say::Nothing]);
    let process = start(data.path(), &[&receiver]);
    let mut client = process.client();
    let first = client.sign_up("bo@example.com", "Pro");
    let login = client.with_key(&first, "POST", "/login", None).expect(200);
    let mut keys = BTreeSet::from([login.body["key"]["key_id"].as_str().unwrap().to_owned()]);
    for _ in 0..20 {
        let made = client.with_key(&first, "POST", "/apikey/new", Some(&json!({})));
        keys.insert(made.expect(201).str("key_id"));
    }
    receiver.wait_until(|hooks| !hooks.is_empty());
    process.kill();

    let before = receiver.hooks().len();
    let process = start(data.path(), &[&receiver]);
    receiver.wait_until(|hooks| hooks.len() > before);
    process.kill();

    // A command in between, which knows no settings, changes nothing about it.
    let (code, out, errors) = run(&["check", "--data-dir", data.path().to_str().unwrap()], &[]);
    assert_eq!(code, 0, "{out}{errors}");

    receiver.say(Say::Status(200));
    let process = start(data.path(), &[&receiver]);
    let key_ids = |hooks: &[Hook]| -> BTreeSet<String> {
        let key_id = |hook: &Hook| hook.body["data"]["key_id"].as_str().unwrap().to_owned();
        hooks.iter().map(key_id).collect()
    };
    let hooks = receiver.wait_until(|hooks| key_ids(hooks).is_superset(&keys));
    process.stop();
    assert_eq!(key_ids(&hooks), keys);
    for hook in &hooks {
        hook.assert_signed(SECRET);
        assert_eq!(hook.body["type"], "key.created");
    }
    // Each event kept its id through all of it.
    for hook in &hooks {
        let same = hooks.iter().filter(|other| other.text == hook.text).count();
        let same_id = hooks.iter().filter(|other| other.id() == hook.id()).count();
        assert_eq!(same, same_id);
    }
}

// Shows that the secret and the receivers' tokens are in no file, no log line and no answer.
#[test]
fn the_secret_is_nowhere() {
    let data = tempfile::tempdir().unwrap();
    let (taking, failing) = (
        Receiver::new([Say::Status(200)]),
        Receiver::new([Say::Status(500)]),
    );
    let process = start(data.path(), &[&taking, &failing]);
    let mut client = process.client();
    client.sign_up("bo@example.com", "Free");
    taking.wait_until(|hooks| of(hooks, "key.created").len() == 1);
    process
        .log
        .wait_for("webhook 2 does not take", PATIENCE)
        .unwrap();
    let admin = client.as_admin("GET", "/admin/webhooks", None).expect(200);
    let log = process.stop();
    let shown = [admin.text, log];
    for secret in [SECRET, "t-o-k-e-n"] {
        for text in &shown {
            assert!(!text.contains(secret), "{text}");
        }
        let mut folders = vec![data.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let bytes = fs::read(&path).unwrap();
                let holds = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
                assert!(!holds, "{}", path.display());
            }
        }
    }
    // What waits for the second names the account by its key, not by its address.
    assert!(!shown[1].contains("bo@example.com"));
}

/// Arguments, environment, and what the error must say.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);

// Shows that settings which cannot be right end the start with 2, and say the way out, not the URL.
#[test]
fn wrong_settings_are_refused() {
    let secret = ("WEBHOOK_SECRET", SECRET);
    let hook = "https://hooks.example.com/t-o-k-e-n";
    let data = tempfile::tempdir().unwrap();
    let data = data.path().join("data");
    let cases: [Case<'_>; 7] = [
        (&["--webhook", hook], &[], "WEBHOOK_SECRET"),
        (&[], &[("WEBHOOKS", hook)], "openssl rand -hex 32"),
        (
            &["--webhook", hook],
            &[("WEBHOOK_SECRET", "short")],
            "32 to 256",
        ),
        (
            &["--webhook", "http://a.example/t-o-k-e-n"],
            &[secret],
            "--webhook-allow-private",
        ),
        (
            &["--webhook", "https://127.0.0.1/t-o-k-e-n"],
            &[secret],
            "loopback",
        ),
        (
            &["--webhook", "https://[::ffff:10.0.0.1]/t-o-k-e-n"],
            &[secret],
            "private",
        ),
        (
            &["--webhook", "https://me:t-o-k-e-n@a.example/"],
            &[secret],
            "a user or a password",
        ),
    ];
    for (args, env, words) in cases {
        let args = [&["--port", "0", "--data-dir", data.to_str().unwrap()], args].concat();
        let (code, _, errors) = run(&args, env);
        assert_eq!(code, 2, "{errors}");
        assert!(errors.contains(words), "{errors}");
        assert!(
            !errors.contains("t-o-k-e-n") && !errors.contains(SECRET),
            "{errors}"
        );
        assert!(!data.exists());
    }
    let help = run(&["--help"], &[("WEBHOOKS", hook), secret]).1;
    assert!(help.contains("WEBHOOKS") && help.contains("WEBHOOK_SECRET"));
    assert!(!help.contains("t-o-k-e-n") && !help.contains(SECRET));
}
