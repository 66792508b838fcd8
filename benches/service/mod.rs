//! A service in process, without a socket, for benches: the store, the use cases and the routes that requests
//! go through. Its time stands still until somebody moves it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use memoryos::app::{AdminAccess, App, BackupSettings, Principal, RateLimits, Settings};
use memoryos::clock::{Clock, ManualClock};
use memoryos::domain::account::AccountKey;
use memoryos::domain::event::Cause;
use memoryos::domain::json::Object;
use memoryos::domain::key::{KeyId, Secret};
use memoryos::domain::memory::{MemoryId, NewMemory};
use memoryos::domain::plan::{Operation, Plan, Plans, Prices};
use memoryos::domain::time::Timestamp;
use memoryos::http::{answer, keep_rest, routes};
use memoryos::store::{AddMemory, NewAccount, NewKey, Options, Store};
use warp::filters::BoxedFilter;

/// When it is at first: 1 January 2026, and a part of a second, as it nearly always is.
pub(crate) const START: Timestamp = Timestamp::from_micros(1_767_225_600_123_456);
/// Accounts, one key each.
const ACCOUNTS: u64 = 64;
/// Memories of the first account; the others have none.
const MEMORIES: u64 = 1_000;
/// Memories of a page.
pub(crate) const PAGE: usize = 20;
/// Bytes of a memory's JSON.
const MEMORY_BYTES: usize = 300;
/// What is sent to add such a memory.
pub(crate) const BODY: &str = concat!(
    r#"{"topic":"t","type":"note","input":"How does Ana take her coffee early in the morning now?","#,
    r#""output":"o","success":true,"category":"c"}"#
);
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An account on Premium, and its only key.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) secret: Secret,
    pub(crate) principal: Arc<Principal>,
}

/// The service, and those who call it.
pub(crate) struct Service {
    pub(crate) store: Store,
    pub(crate) app: App,
    pub(crate) clock: ManualClock,
    pub(crate) accounts: Vec<Account>,
    /// What [`BODY`] is.
    memory: NewMemory,
    routes: BoxedFilter<(Response<Bytes>,)>,
}

impl Service {
    /// Makes a service in this directory, with all limits far away.
    pub(crate) async fn make(directory: &Path) -> Self {
        let (store, _) = Store::open(&directory.join("store"), Options::default()).unwrap();
        let clock = ManualClock::new(START);
        let settings = Settings {
            plans: Plans::seed(),
            prices: Prices::SEED,
            signup_plans: Vec::new(),
            admin: AdminAccess::Disabled,
            body_bytes_max: 65_536,
            public_url: None,
            backups: BackupSettings::asked_only(directory.join("backups")),
            // Counted as in a server, and never reached.
            rate_limits: RateLimits {
                free_routes: 1_000_000_000,
                ..RateLimits::default()
            },
            trusted_proxies: Vec::new(),
            webhooks: Vec::new(),
        };
        let app = App::new(store.clone(), Clock::Manual(clock.clone()), settings);
        let mut accounts = Vec::new();
        for n in 0..ACCOUNTS {
            let secret = Secret::new(format!("ABCDEFGHIJKLMNOPQRSTUVWXYZ{n:06}"));
            let key = NewKey {
                hash: secret.hash(),
                id: KeyId::parse(&format!("key_ABCDEFGHIJ{n:02}")).unwrap(),
                masked: secret.masked(),
                description: "bench".to_owned(),
                cap: None,
                credits_cap: None,
                scopes: None,
                expires_at: None,
            };
            let new = NewAccount {
                account: AccountKey::new(START.millis(), u128::from(n)),
                name: Some(format!("account{n}@example.com")),
                plan: Plan::PREMIUM,
                key,
                created_at: START,
                cause: Cause::service(),
            };
            store.create_account(new).await.unwrap();
            let principal = app.authenticate(&secret).unwrap();
            accounts.push(Account { secret, principal });
        }
        let service = Self {
            store,
            routes: routes(&app),
            app,
            clock,
            accounts,
            memory: NewMemory::parse(Object::parse(BODY.as_bytes()).unwrap()).unwrap(),
        };
        for n in 0..MEMORIES {
            service.add_unflushed(0, n).await;
        }
        service.store.flush().await.unwrap();
        service
    }

    /// Debits a read of an account.
    pub(crate) async fn debit(&self, account: usize) {
        let account = self.accounts[account].principal.account;
        let payer = self.accounts[0].principal.payer();
        let price = (Operation::ReadMemory, 1);
        let debited = self.store.debit(account, payer, price, START).await;
        assert_eq!(debited.unwrap().cost, 1);
    }

    /// Adds a memory that is newer the greater `n` is, and does not wait for the disk.
    pub(crate) async fn add_unflushed(&self, account: usize, n: u64) {
        let principal = &self.accounts[account].principal;
        let add = AddMemory {
            account: principal.account,
            payer: principal.payer(),
            key_id: principal.key_id.as_str(),
            memory: &self.memory,
            id: MemoryId::new(START.millis() + n, 1 << 60),
            cost: 2,
            now: START,
            replay: None,
        };
        let adding = self
            .store
            .add_memory_unflushed_for_bench(add, |added| added.entry.clone());
        let (entry, _) = adding.await.unwrap();
        assert_eq!(entry.len(), MEMORY_BYTES);
    }

    /// Answers a request as the server does, all but the socket, and returns the body of the answer.
    pub(crate) async fn answer(
        &self,
        request: Request<Full<Bytes>>,
        expected: StatusCode,
    ) -> Bytes {
        let (request, rest) = keep_rest(request);
        let routes = warp::service(self.routes.clone());
        let answered = answer(self.app.clone(), routes, request, PEER).await;
        rest.throw_away();
        let response = answered.unwrap();
        assert_eq!(response.status(), expected);
        response.into_body().collect().await.unwrap().to_bytes()
    }

    /// Returns a request as a client sends it.
    pub(crate) fn request(
        &self,
        account: usize,
        method: Method,
        path: &'static str,
        body: &'static str,
    ) -> Request<Full<Bytes>> {
        let key = self.accounts[account].secret.reveal();
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "127.0.0.1:5000")
            .header(header::USER_AGENT, "curl/8.5.0")
            .header(header::ACCEPT, "*/*")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, body.len())
            .header("X-API-KEY", key)
            .body(Full::new(Bytes::from_static(body.as_bytes())))
            .unwrap()
    }
}
