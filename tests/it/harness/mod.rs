//! A server of one's own for each test, and those who call it.
//!
//! [`Server::spawn`] serves on a port that the system picks, in a directory of its own, with a clock that
//! stands still until the test moves it. Callers are [`Actor`]s: `anonymous()`, `account(plan)`,
//! `admin()`, `revoked_key()`.

pub(crate) mod receiver;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method};
use memoryos::app::RateLimits;
use memoryos::clock::{Clock, ManualClock};
use memoryos::config::{Config, Secrets, WebhookConfig, parse_proxies};
use memoryos::domain::key::Secret;
use memoryos::domain::plan::{Plan, Plans};
use memoryos::domain::time::Timestamp;
use memoryos::server::EndError;
use memoryos::server::StartError;
use memoryos::store::Store;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Where every test's clock stands at first.
pub(crate) const START: &str = "2026-01-15T12:00:00+00:00";
/// The default admin key of a server on loopback.
pub(crate) const ADMIN_KEY: &str = "admin-secret-key";
/// What every test's webhooks are signed with.
pub(crate) const WEBHOOK_SECRET: &str = "webhook-secret-0123456789abcdefgh";
/// The warning under a quarter of the credits.
pub(crate) const LOW: &str = "Low credits - less than 25% remaining";

/// What differs from test to test.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub host: &'static str,
    pub admin_key: Option<&'static str>,
    pub admin_key_previous: Option<&'static str>,
    /// `JAVLIN_API_KEY`.
    pub api_key: Option<&'static str>,
    pub signup_plans: Vec<Plan>,
    pub public_url: Option<&'static str>,
    pub body_bytes_max: usize,
    pub min_free_bytes: u64,
    pub start: &'static str,
    /// A folder for backups, and how often they are due.
    pub backups: Option<(PathBuf, Duration)>,
    /// Off, but for tests of them.
    pub rate_limits: RateLimits,
    pub trusted_proxies: &'static str,
    /// Who is told what happens.
    pub webhooks: WebhookConfig,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: "127.0.0.1",
            admin_key: None,
            admin_key_previous: None,
            api_key: None,
            signup_plans: Plans::seed().iter().collect(),
            public_url: None,
            body_bytes_max: 65_536,
            min_free_bytes: 0,
            start: START,
            backups: None,
            rate_limits: RateLimits::OFF,
            trusted_proxies: "",
            webhooks: WebhookConfig::default(),
        }
    }
}

/// A server that runs until it is dropped.
pub(crate) struct Server {
    /// The time, for the test to move.
    pub clock: ManualClock,
    options: Options,
    directory: TempDir,
    base: String,
    store: Option<Store>,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<Result<(), EndError>>>,
}

/// Returns the instant that a text in RFC 3339 names.
pub(crate) fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).unwrap()
}

impl Server {
    pub(crate) async fn spawn() -> Self {
        Self::spawn_with(Options::default()).await
    }

    pub(crate) async fn spawn_with(options: Options) -> Self {
        Self::try_spawn(options).await.unwrap()
    }

    /// A server on the data directory `data` in this folder.
    pub(crate) async fn spawn_on(folder: TempDir) -> Self {
        Self::try_spawn_on(folder, Options::default())
            .await
            .unwrap()
    }

    /// A server that makes backups by itself.
    pub(crate) async fn spawn_backing_up(folder: PathBuf, every: Duration) -> Self {
        let backups = Some((folder, every));
        Self::spawn_with(Options {
            backups,
            ..Options::default()
        })
        .await
    }

    pub(crate) async fn try_spawn(options: Options) -> Result<Self, StartError> {
        Self::try_spawn_on(tempfile::tempdir().unwrap(), options).await
    }

    async fn try_spawn_on(directory: TempDir, options: Options) -> Result<Self, StartError> {
        let mut server = Self {
            clock: ManualClock::new(at(options.start)),
            options,
            directory,
            base: String::new(),
            store: None,
            stop: None,
            task: None,
        };
        server.start().await?;
        Ok(server)
    }

    fn config(&self) -> Config {
        let options = &self.options;
        Config {
            host: options.host.to_owned(),
            port: 0,
            data_dir: self.directory.path().join("data"),
            cache_bytes: 8 << 20,
            plans: None,
            signup_plans: Some(
                options
                    .signup_plans
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            ),
            public_url: options.public_url.map(str::to_owned),
            body_bytes_max: options.body_bytes_max,
            connections_max: 1_024,
            workers: 0,
            waiting_writes_max: 2_048,
            idle: Duration::from_secs(60),
            drain: Duration::from_secs(5),
            backup_dir: options.backups.clone().map(|(folder, _)| folder),
            backup_every: options.backups.as_ref().map(|(_, every)| *every),
            backup_keep: 7,
            min_free_bytes: options.min_free_bytes,
            rate_limits: options.rate_limits,
            trusted_proxies: parse_proxies(options.trusted_proxies).unwrap(),
            on_hung_disk: || {},
            webhooks: options.webhooks.clone(),
            secrets: Secrets {
                admin_key: options.admin_key.map(Secret::new),
                admin_key_previous: options.admin_key_previous.map(Secret::new),
                api_key: options.api_key.map(Secret::new),
                webhook_secret: Some(Secret::new(WEBHOOK_SECRET)),
            },
        }
    }

    async fn start(&mut self) -> Result<(), StartError> {
        let clock = Clock::Manual(self.clock.clone());
        let server = memoryos::server::Server::start(self.config(), clock).await?;
        let mut address = server.local_addr().unwrap();
        if address.ip().is_unspecified() {
            address.set_ip([127, 0, 0, 1].into());
        }
        self.base = format!("http://{address}");
        self.store = Some(server.store());
        let (stop, stopped) = oneshot::channel();
        self.stop = Some(stop);
        self.task = Some(tokio::spawn(server.run(async move {
            drop(stopped.await);
        })));
        Ok(())
    }

    /// Returns host and port.
    pub(crate) fn address(&self) -> String {
        self.base.trim_start_matches("http://").to_owned()
    }

    /// What the next start begins with.
    pub(crate) fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }

    /// Stops the server, and waits until it has ended.
    pub(crate) async fn stop(mut self) {
        self.store = None;
        self.stop = None;
        self.task.take().unwrap().await.unwrap().unwrap();
    }

    /// Stops the server and starts it again on the same directory.
    pub(crate) async fn restart(&mut self) {
        self.store = None;
        self.stop = None;
        self.task.take().unwrap().await.unwrap().unwrap();
        // The directory is free when the last task has let go of the store; asking again is waiting.
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(60) {
            match self.start().await {
                Ok(()) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        self.start().await.unwrap();
    }

    /// Returns the data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Returns the store behind the server.
    pub(crate) fn store(&self) -> Store {
        self.store.clone().unwrap()
    }

    fn actor(&self, headers: &[(&str, &str)]) -> Actor {
        let client = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        Actor {
            client,
            base: self.base.clone(),
            headers: headers
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
            key: String::new(),
            key_id: String::new(),
            account_id: String::new(),
        }
    }

    /// Somebody without any credential.
    pub(crate) fn anonymous(&self) -> Actor {
        self.actor(&[])
    }

    /// The admin.
    pub(crate) fn admin(&self) -> Actor {
        let key = self.options.admin_key.unwrap_or(ADMIN_KEY);
        self.actor(&[("x-admin-key", key)])
    }

    /// Whoever has this key.
    pub(crate) fn key(&self, key: &str) -> Actor {
        Actor {
            key: key.to_owned(),
            ..self.actor(&[("x-api-key", key)])
        }
    }

    /// A new account without an e-mail, by its first key.
    pub(crate) async fn account(&self, plan: Plan) -> Actor {
        self.sign_up(json!({"plan": plan.name()})).await
    }

    /// A new account with an e-mail, by its first key.
    pub(crate) async fn account_of(&self, email: &str, plan: Plan) -> Actor {
        self.sign_up(json!({"plan": plan.name(), "email": email}))
            .await
    }

    async fn sign_up(&self, body: Value) -> Actor {
        let made = self.anonymous().post("/signup", &body).await.ok(201);
        self.made(&made)
    }

    /// Whoever has the key that an answer of `/signup` or `/apikey/new` shows.
    pub(crate) fn made(&self, answer: &Answer) -> Actor {
        let text = |name: &str| answer.json[name].as_str().unwrap().to_owned();
        Actor {
            key_id: text("key_id"),
            account_id: text("account_id"),
            ..self.key(&text("api_key"))
        }
    }

    /// A key of a new account that was revoked; the account has another one.
    pub(crate) async fn revoked_key(&self) -> Actor {
        let first = self.account(Plan::FREE).await;
        let second = self.made(&first.post("/apikey/new", &json!({})).await.ok(201));
        let path = format!("/apikey/{}", first.key_id);
        second.delete(&path).await.ok(200);
        first
    }
}

/// Somebody who calls the server.
#[derive(Clone)]
pub(crate) struct Actor {
    client: reqwest::Client,
    base: String,
    headers: Vec<(String, String)>,
    /// The API key; empty if there is none.
    pub key: String,
    pub key_id: String,
    pub account_id: String,
}

impl Actor {
    /// The same caller, who also sends this header.
    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let mut actor = self.clone();
        actor.headers.push((name.to_owned(), value.to_owned()));
        actor
    }

    pub(crate) fn masked(&self) -> String {
        format!("{}...{}", &self.key[..8], &self.key[28..])
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, reqwest::Body::from("")).await
    }

    pub(crate) async fn head(&self, path: &str) -> Answer {
        self.send(Method::HEAD, path, reqwest::Body::from("")).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, reqwest::Body::from(""))
            .await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send_json(Method::POST, path, body).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send_json(Method::PATCH, path, body).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send_json(Method::PUT, path, body).await
    }

    async fn send_json(&self, method: Method, path: &str, body: &Value) -> Answer {
        let actor = self.with("content-type", "application/json");
        actor.send(method, path, body.to_string()).await
    }

    /// Sends anything, with no header but the actor's own.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let url = format!("{}{path}", self.base);
        let mut request = self.client.request(method, url).body(body);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer {
            status,
            headers,
            text,
            json,
        }
    }

    /// Adds a memory and returns its id.
    pub(crate) async fn add(&self, topic: &str) -> String {
        let answer = self.post("/memory", &memory(topic)).await.ok(201);
        answer.json["entry"]["id"].as_str().unwrap().to_owned()
    }

    /// Spends that many credits, one by one.
    pub(crate) async fn spend(&self, credits: u64) {
        for _ in 0..credits {
            self.get("/gpt-status").await.ok(200);
        }
    }

    /// Returns the credits that are left; asking is free.
    pub(crate) async fn credits(&self) -> u64 {
        let answer = self.get("/credits").await.ok(200);
        answer.json["credits_remaining"].as_u64().unwrap()
    }
}

/// Returns a memory with nothing but what it must have.
pub(crate) fn memory(topic: &str) -> Value {
    json!({"topic": topic, "type": "note", "category": "work", "input": "in", "output": "out",
           "success": true})
}

/// What the server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    /// The body; null if it is no JSON.
    pub json: Value,
}

impl Answer {
    /// Asserts the status.
    #[track_caller]
    pub(crate) fn ok(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// Asserts status, code and text of an error, and the shape that every error has.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str, error: &str) -> Self {
        let word = |name: &str| self.json[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            (self.status, word("code"), word("error")),
            (status, code.to_owned(), error.to_owned()),
            "{}",
            self.text
        );
        assert!(!word("message").is_empty(), "{}", self.text);
        assert_eq!(Some(&*word("request_id")), self.header("x-request-id"));
        assert_eq!(self.header("content-type"), Some("application/json"));
        self
    }

    /// Asserts that a field was refused, and which.
    #[track_caller]
    pub(crate) fn bad_field(self, name: &str) -> Self {
        let refused = self.refused(400, "invalid_field", &format!("Invalid field: {name}"));
        assert_eq!(refused.json["field"], name);
        refused
    }

    /// Returns a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Returns the `X-Credits-*` headers as numbers: cost, limit, remaining, reset.
    #[track_caller]
    pub(crate) fn metered(&self) -> [u64; 4] {
        ["cost", "limit", "remaining", "reset"].map(|name| {
            let value = self.header(&format!("x-credits-{name}"));
            let value = value.unwrap_or_else(|| panic!("no x-credits-{name}: {self:?}"));
            value.parse().unwrap()
        })
    }

    /// Asserts that the answer tells nothing of credits in its headers.
    #[track_caller]
    pub(crate) fn unmetered(self) -> Self {
        for name in ["cost", "limit", "remaining", "reset"] {
            assert_eq!(self.header(&format!("x-credits-{name}")), None);
        }
        self
    }
}

/// Asserts that an object has these fields and no others.
#[track_caller]
pub(crate) fn assert_fields(object: &Value, names: &[&str]) {
    let found: BTreeSet<&str> = object
        .as_object()
        .unwrap_or_else(|| panic!("no object: {object}"))
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(found, names.iter().copied().collect());
}

/// Asserts that the text is a time in UTC with `+00:00`.
#[track_caller]
pub(crate) fn assert_time(value: &Value) {
    let text = value.as_str().unwrap_or_else(|| panic!("no time: {value}"));
    assert!(text.ends_with("+00:00"), "{text}");
    assert!(Timestamp::parse_rfc3339(text).is_some(), "{text}");
}
