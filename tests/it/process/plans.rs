//! Plans and prices from a file: the dry run, applying it, starts that refuse, what requests then cost.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::crash::{Dice, number};
use super::{ADMIN, PATIENCE, Process, memory, memoryos, run};

const FIRST: &str = r#"
[prices]
add_memory = 3
gpt_status = 0

[[plan]]
name = "Trial"
credits = 10
memories = 2
open = true

[[plan]]
name = "Team"
credits = 50000
memories = 20000
rate = 600
price = "$29/month"
"#;

/// The seed's plans with Free lower, a plan between, and Premium gone.
const SECOND: &str = r#"
[prices]
add_memory = 5
stats = 0

[[plan]]
name = "Free"
credits = 50
memories = 1
open = true

[[plan]]
name = "Team"
credits = 5000
memories = 500
rate = 600
price = "$9/month"

[[plan]]
name = "Pro"
credits = 10000
memories = 2000
open = true
"#;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// Writes a file of plans and returns its path.
    fn file(&self, text: &str) -> String {
        let path = self.path("plans.toml");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// `memoryos plans` on that directory.
    fn plans(&self, args: &[&str]) -> (i32, String, String) {
        let data = self.data();
        let all = [&["plans", "--data-dir", data.to_str().unwrap()], args].concat();
        run(&all, &[])
    }

    /// Serves until it ends by itself.
    fn refused(&self, args: &[&str]) -> (i32, String) {
        let data = self.data();
        let fixed = ["serve", "--port", "0", "--data-dir", data.to_str().unwrap()];
        let (code, _, errors) = run(&[&fixed, args].concat(), &[]);
        (code, errors)
    }
}

fn serve(data: &Path, args: &[&str]) -> Process {
    Process::start(data, args, &[("ADMIN_KEY", ADMIN)])
}

/// Shows that a new directory takes the file at its first start, what `GET /plans` tells, that requests cost what
/// the file says, and that later starts need no file.
#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
fn a_first_start_applies_the_file() {
    let place = Place::new();
    let file = place.file(FIRST);
    let server = serve(&place.data(), &["--plans", &file]);
    let expected = json!({
        "plans": [
            {"name": "Trial", "credits": 10, "memories": 2, "requests_per_minute": null, "price": null,
             "open": true},
            {"name": "Team", "credits": 50_000, "memories": 20_000, "requests_per_minute": 600,
             "price": "$29/month", "open": false},
        ],
        "prices": {"list_memories": 1, "read_memory": 1, "stats": 1, "gpt_status": 0, "add_memory": 3,
                   "update_memory": 2},
    });
    let mut client = server.client();
    assert_eq!(
        client.call("GET", "/plans", &[], None).expect(200).body,
        expected
    );
    // Without a plan it is the lowest; one that is not open, or is the seed's, is refused.
    let made = client.call("POST", "/signup", &[], Some("{}")).expect(201);
    assert_eq!(
        (
            &made.body["user"]["plan"],
            &made.body["user"]["credits_remaining"]
        ),
        (&json!("Trial"), &json!(10))
    );
    let key = made.str("api_key");
    let refused = client
        .call("POST", "/signup", &[], Some(r#"{"plan": "Team"}"#))
        .expect(403);
    assert_eq!(refused.code(), "plan_not_open");
    let refused = client
        .call("POST", "/signup", &[], Some(r#"{"plan": "Free"}"#))
        .expect(400);
    assert_eq!(refused.code(), "invalid_plan");
    assert!(refused.text.contains("GET /plans"), "{}", refused.text);
    let cost = |answer: &super::Answer| answer.header("x-credits-cost").map(str::to_owned);
    let added = client
        .with_key(&key, "POST", "/memory", Some(&memory("one")))
        .expect(201);
    assert_eq!(cost(&added).as_deref(), Some("3"));
    assert_eq!(
        added.body["credit_info"],
        json!({"credits_remaining": 7, "credits_used": 3})
    );
    let status = client
        .with_key(&key, "GET", "/gpt-status", None)
        .expect(200);
    assert_eq!(cost(&status).as_deref(), Some("0"));
    client
        .with_key(&key, "POST", "/memory", Some(&memory("two")))
        .expect(201);
    let full = client
        .with_key(&key, "POST", "/memory", Some(&memory("three")))
        .expect(402);
    assert_eq!(full.code(), "memory_limit_exceeded");
    let credits = client.with_key(&key, "GET", "/credits", None).expect(200);
    assert_eq!(credits.body["credits_remaining"], 4);
    // The list of routes and the description tell of these prices, not of the seed's.
    let index = client.call("GET", "/", &[], None).expect(200);
    assert!(
        index
            .text
            .contains("\"POST /memory - Add a memory (3 credits)\""),
        "{}",
        index.text
    );
    assert!(
        index
            .text
            .contains("\"GET /gpt-status - Status for a GPT\""),
        "{}",
        index.text
    );
    assert!(
        index
            .text
            .contains("\"GET /memory - List memories (1 credit)\""),
        "{}",
        index.text
    );
    let description = client
        .call("GET", "/openapi.json", &[], None)
        .expect(200)
        .text;
    assert!(
        description.contains("| Team | 50000 | 20000 |") && !description.contains("| Premium |")
    );
    server.stop();
    let server = serve(&place.data(), &[]);
    assert_eq!(
        server.client().call("GET", "/plans", &[], None).body,
        expected
    );
    server.stop();
    // The file that was applied changes nothing.
    serve(&place.data(), &["--plans", &file]).stop();
    let (code, shown, _) = place.plans(&[]);
    let lines: Vec<String> = shown
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        (code, lines),
        (
            0,
            [
                "plan credits memories rate price sign-up accounts capped keys",
                "Trial 10 2 - - open 1 0",
                "Team 50000 20000 600 $29/month closed 0 0",
                "list_memories costs 1 credit",
                "read_memory costs 1 credit",
                "stats costs 1 credit",
                "gpt_status costs 0 credits",
                "add_memory costs 3 credits",
                "update_memory costs 2 credits",
            ]
            .map(str::to_owned)
            .to_vec()
        )
    );
}

/// Shows the way of a changed file: a start refuses it and names the command, the dry run changes nothing and says
/// all, a plan in use stops both, `--apply` applies, and what accounts then have.
#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
fn a_changed_file_is_seen_before_it_is_applied() {
    let place = Place::new();
    let data = place.data();
    let server = serve(&data, &[]);
    let mut client = server.client();
    let bo = client.sign_up("bo@example.com", "Free");
    let al = client.sign_up("al@example.com", "Premium");
    for topic in ["one", "two"] {
        client
            .with_key(&bo, "POST", "/memory", Some(&memory(topic)))
            .expect(201);
    }
    let before = client.call("GET", "/plans", &[], None).body;
    server.stop();
    let file = place.file(SECOND);
    // Al is on Premium, and Bo's key says nothing of it.
    let in_use = "the plan Premium cannot go: 1 accounts are on it, and it caps 0 active keys";
    let (code, errors) = place.refused(&["--plans", &file]);
    assert_eq!((code, errors.contains(in_use)), (2, true), "{errors}");
    for args in [&["--plans", &*file][..], &["--plans", &file, "--apply"]] {
        let (code, _, errors) = place.plans(args);
        assert_eq!((code, errors.contains(in_use)), (2, true), "{errors}");
    }
    let server = serve(&data, &[]);
    let to_pro = Some(json!({"plan": "Pro"}));
    let path = "/admin/user/al@example.com/plan";
    server
        .client()
        .as_admin("PUT", path, to_pro.as_ref())
        .expect(200);
    server.stop();
    let (code, errors) = place.refused(&["--plans", &file]);
    assert_eq!(code, 2, "{errors}");
    let command = format!(
        "`memoryos plans --data-dir {} --plans {file}`",
        data.display()
    );
    assert!(
        errors.contains(&command) && errors.contains("--apply"),
        "{errors}"
    );
    let expected = [
        "changed  Free: credits 100 -> 50, memories 100 -> 1; 1 accounts, 0 capped keys",
        "new      Team: credits 5000, memories 500, rate 600 a minute, price $9/month, sign-up closed",
        "removed  Premium; 0 accounts, 0 capped keys",
        "price    stats: 1 credit -> 0 credits",
        "price    add_memory: 2 credits -> 5 credits",
        "room for memories, and the limits of capped keys, count at once; credits count from each account's next \
         cycle",
        "an account that holds more than it may keeps it all, and can add nothing",
    ];
    let (code, shown, errors) = place.plans(&["--plans", &file]);
    assert_eq!(code, 0, "{errors}");
    let lines: Vec<&str> = shown.lines().map(str::trim).collect();
    assert_eq!(lines[1..lines.len() - 1], expected);
    assert_eq!(
        lines[lines.len() - 1],
        "nothing was changed; add --apply to apply this"
    );
    let server = serve(&data, &[]);
    assert_eq!(
        server.client().call("GET", "/plans", &[], None).body,
        before
    );
    // A server that runs has the directory to itself.
    let (code, _, errors) = place.plans(&[]);
    assert_eq!((code, errors.contains("GET /plans")), (1, true), "{errors}");
    server.stop();
    let (code, shown, errors) = place.plans(&["--plans", &file, "--apply"]);
    assert_eq!(code, 0, "{errors}");
    assert!(
        shown.ends_with("applied; `memoryos serve` uses it from its next start on\n"),
        "{shown}"
    );
    let (code, shown, _) = place.plans(&["--plans", &file]);
    assert_eq!((code, shown.contains("already")), (0, true), "{shown}");
    let server = serve(&data, &["--plans", &file]);
    let mut client = server.client();
    let credits = client
        .with_key(&bo, "GET", "/credits", None)
        .expect(200)
        .body;
    // Granted for this cycle is granted: 100, of which the two memories cost 4.
    assert_eq!(
        (
            &credits["credits_remaining"],
            &credits["memory_usage"]["limit"]
        ),
        (&json!(96), &json!(1))
    );
    assert_eq!(credits["memory_usage"]["current_count"], 2);
    let full = client
        .with_key(&bo, "POST", "/memory", Some(&memory("three")))
        .expect(402);
    assert_eq!(full.code(), "memory_limit_exceeded");
    let page = client
        .with_key(&bo, "GET", "/memory", None)
        .expect(200)
        .body;
    assert_eq!(page["memories"].as_array().map(Vec::len), Some(2));
    let added = client
        .with_key(&al, "POST", "/memory", Some(&memory("one")))
        .expect(201);
    assert_eq!(added.header("x-credits-cost"), Some("5"));
    let report = client.as_admin("GET", "/admin/check", None).expect(200);
    assert_eq!(report.body["problems_total"], 0, "{}", report.text);
    server.stop();
}

/// Shows that mistakes end with 2, name the file or the flag, and make no data directory.
#[test]
fn a_wrong_file_ends_with_2_and_leaves_no_trace() {
    let place = Place::new();
    let typo = FIRST.replace("memories = 2\n", "memory = 2\n");
    let file = place.file(&typo);
    let says = |errors: &str| errors.contains("plans.toml line 9: unknown field `memory`");
    let (code, errors) = place.refused(&["--plans", &file]);
    assert_eq!((code, says(&errors)), (2, true), "{errors}");
    let (code, _, errors) = place.plans(&["--plans", &file]);
    assert_eq!((code, says(&errors)), (2, true), "{errors}");
    let file = place.file(FIRST);
    let (code, errors) = place.refused(&["--plans", &file, "--signup-plans", "Trial,Free"]);
    assert_eq!(code, 2, "{errors}");
    assert!(
        errors.contains("names \"Free\"; the plans are Trial, Team"),
        "{errors}"
    );
    let (code, errors) = place.refused(&["--plans", "/no/such/plans.toml"]);
    assert_eq!(
        (code, errors.contains("/no/such/plans.toml cannot be read")),
        (2, true),
        "{errors}"
    );
    let (code, _, errors) = place.plans(&["--apply"]);
    assert_eq!(
        (code, errors.contains("--apply needs --plans FILE")),
        (2, true),
        "{errors}"
    );
    let (code, _, errors) = place.plans(&[]);
    assert_eq!(
        (code, errors.contains("there is no data in")),
        (1, true),
        "{errors}"
    );
    assert!(!place.data().exists());
}

/// Shows that the setting of what is open to sign-up wins over the file, and that a restored copy has the plans.
#[test]
fn signup_plans_win_and_a_restore_keeps_the_plans() {
    let place = Place::new();
    let file = place.file(FIRST);
    let data = place.data();
    let server = serve(&data, &["--plans", &file, "--signup-plans", "Team"]);
    let mut client = server.client();
    let key = client.sign_up("bo@example.com", "Team");
    let plans = client.call("GET", "/plans", &[], None).body;
    assert_eq!(
        (&plans["plans"][0]["open"], &plans["plans"][1]["open"]),
        (&json!(false), &json!(true))
    );
    server.stop();
    let (backup, copy) = (place.path("a.backup"), place.path("copy"));
    let (backup, to) = (backup.to_str().unwrap(), copy.to_str().unwrap());
    let (code, _, errors) = run(
        &["backup", backup, "--data-dir", data.to_str().unwrap()],
        &[],
    );
    assert_eq!(code, 0, "{errors}");
    let (code, _, errors) = run(&["restore", backup, "--data-dir", to], &[]);
    assert_eq!(code, 0, "{errors}");
    let server = serve(&copy, &["--plans", &file, "--signup-plans", "Team"]);
    let mut client = server.client();
    assert_eq!(client.call("GET", "/plans", &[], None).body, plans);
    let credits = client
        .with_key(&key, "GET", "/credits", None)
        .expect(200)
        .body;
    assert_eq!(
        (&credits["plan"], &credits["credits_limit"]),
        (&json!("Team"), &json!(50_000))
    );
    server.stop();
}

/// A file of many plans, so that writing them takes a while; some are in one of two such files only.
fn many(which: usize) -> String {
    let plan = |n: usize| {
        let (credits, open) = (1_000 * (which + 1) + n, n == 0);
        format!(
            "[[plan]]\nname = \"Plan {n}\"\ncredits = {credits}\nmemories = 50\nopen = {open}\n"
        )
    };
    let plans: String = (0..60).filter(|n| n % 3 != which + 1).map(plan).collect();
    format!("[prices]\nadd_memory = {}\n{plans}", which + 1)
}

/// Applies a file, and kills that so long after it has said what it will change. Returns how long it took to its own
/// end, if it got there.
fn apply_and_kill(data: &Path, file: &str, after: Option<Duration>) -> Duration {
    let data = data.to_str().unwrap();
    let args = ["plans", "--data-dir", data, "--plans", file, "--apply"];
    let mut child = memoryos(&args, &[("RUST_LOG", "off")]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let begun = Instant::now();
    assert!(first.contains("changes in"), "{first}");
    if let Some(after) = after {
        while begun.elapsed() < after {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
    }
    child.wait().unwrap();
    begun.elapsed()
}

/// Shows that plans whose applying is killed at any moment, and the start after it too, are the earlier ones or the
/// new ones, each whole with its prices: at the next start, for a check, and for the accounts that are there.
/// `CRASH_ROUNDS` sets how many rounds (20), `CRASH_SEED` repeats the choices of a run.
#[test]
fn an_apply_that_is_killed_is_whole_or_not_at_all() {
    let rounds = number("CRASH_ROUNDS").unwrap_or(20);
    let seed = number("CRASH_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(since.subsec_nanos())
    });
    println!("CRASH_SEED={seed} CRASH_ROUNDS={rounds}");
    let mut dice = Dice(seed);
    let place = Place::new();
    let data = place.data();
    let files = [0, 1].map(|which| {
        let path = place.path(&format!("plans{which}.toml"));
        fs::write(&path, many(which)).unwrap();
        path.to_str().unwrap().to_owned()
    });
    // What each of the two is, as a server tells it; and how long applying takes.
    let mut told = Vec::new();
    let mut longest = Duration::ZERO;
    let mut key = String::new();
    let mut process = serve(&data, &["--plans", &files[0]]);
    for which in [0, 1] {
        if which == 1 {
            process.stop();
            longest = apply_and_kill(&data, &files[1], None);
            process = serve(&data, &[]);
        }
        let mut client = process.client();
        if which == 0 {
            key = client.sign_up("bo@example.com", "Plan 0");
        }
        let plans = client.call("GET", "/plans", &[], None).expect(200).body;
        assert_eq!(plans["plans"].as_array().unwrap().len(), 40, "{plans}");
        told.push(plans);
    }
    assert_ne!(told[0], told[1]);
    let (mut is, mut outcomes) = (1, BTreeMap::new());
    for round in 0..rounds {
        process.stop();
        let wanted = 1 - is;
        let micros = u64::try_from(longest.as_micros()).unwrap();
        let after = Duration::from_micros(dice.next() % (micros + micros / 4 + 1));
        apply_and_kill(&data, &files[wanted], Some(after));
        if round % 3 == 2 {
            let starting = Process::spawn(&data, &[], &[]);
            let micros = dice.next() % 60_000;
            starting.wait_for_address(Duration::from_micros(micros));
            starting.signal(libc::SIGKILL);
            starting.ended(PATIENCE);
        }
        process = serve(&data, &[]);
        let mut client = process.client();
        let plans = client.call("GET", "/plans", &[], None).expect(200).body;
        let found = told.iter().position(|told| *told == plans);
        let found = found.unwrap_or_else(|| {
            panic!("CRASH_SEED={seed}, round {round}: neither, after {after:?}: {plans}")
        });
        let what = if found == wanted { "new" } else { "old" };
        *outcomes.entry(what).or_insert(0) += 1;
        is = found;
        let shown = client.with_key(&key, "GET", "/credits", None).expect(200);
        assert_eq!(shown.body["plan"], "Plan 0");
        let checked = client.as_admin("GET", "/admin/check", None).expect(200);
        assert_eq!(
            checked.body["sound"], true,
            "round {round}: {}",
            checked.text
        );
    }
    process.stop();
    println!("applying takes {longest:?}; found: {outcomes:?}");
}
