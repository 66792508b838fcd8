//! The server: opens the store, listens, serves, and ends within its drain time.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::Service;

use crate::app::{App, BackupSettings, Failure, RateLimits, Settings, WebhookEndpoint};
use crate::clock::Clock;
use crate::config::{Config, ConfigError, WebhookConfig, signup_plans};
use crate::domain::catalog::{Catalog, Offer};
use crate::domain::key::Secret;
use crate::domain::plan::Plan;
use crate::http;
use crate::import;
use crate::store::{
    ApplyError, BACKUPS_FOLDER, BackupFolder, OpenError, Opened, Options, PlanInUse, Reopened,
    Store, StoreError,
};
use crate::webhooks::{Courier, Endpoint, Schedule, Senders};
use crate::workers::{self, Workers};

/// Connections that wait to be accepted: a burst of more than that waits a second for its next try.
const BACKLOG: u32 = 4_096;
/// Longest wait for the first request of a connection.
const FIRST_WAIT: Duration = Duration::from_secs(10);
/// Most bytes of a request's headers.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Most headers of a request.
const HEADERS_MAX: usize = 256;
/// The part of the drain time that is kept for the last flush.
const FLUSH_WAIT: Duration = Duration::from_millis(500);
/// The drain time when the database is lost.
const LOST_DRAIN: Duration = Duration::from_secs(1);
/// How often the watchdog of a connection looks.
const WATCH_TICK: Duration = Duration::from_millis(500);
/// How long after a failed attempt the database is first tried to be opened anew, and longest time between
/// two attempts.
const REOPEN_AFTER: Duration = Duration::from_millis(100);
const REOPEN_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long attempts may go on after the old database was closed; reads have stopped too by then.
const CLOSED_MAX: Duration = Duration::from_secs(60);
/// How long a request waits for a database that is being opened anew.
const OPENING_WAIT: Duration = Duration::from_secs(10);
/// The path that never waits.
const HEALTH: &str = "/health";
/// How often expired records are removed.
const SWEEP_EVERY: Duration = Duration::from_secs(300);
/// How often it is looked whether the clock was set back and what was counted is due.
const AUDIT_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked whether a backup is due.
const BACKUP_LOOK: Duration = Duration::from_secs(60);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The host is no address of a machine, and no name of one.
    #[error("--host (HOST) is {host:?}, which names no address: {source}")]
    Host {
        /// The host.
        host: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Host and port.
        address: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A setting does not fit the table of plans.
    #[error(transparent)]
    Setting(#[from] ConfigError),
    /// The file of plans leaves out a plan that is used.
    #[error("--plans (PLANS) {file}: {source}")]
    PlanInUse {
        /// The file.
        file: String,
        /// Which plan, and by whom.
        source: PlanInUse,
    },
    /// The file of plans is not what the data directory has.
    #[error(
        "--plans (PLANS) {file} is not what {directory} has; nothing was changed. See what it changes with \
         `memoryos plans --data-dir {directory} --plans {file}`, apply it by adding --apply, or leave --plans out"
    )]
    PlansDiffer {
        /// The file.
        file: String,
        /// The data directory.
        directory: String,
    },
    /// The first table of plans could not be written.
    #[error("the file of plans cannot be applied: {0}")]
    Apply(#[from] ApplyError),
    /// The folder for backups cannot be made.
    #[error("--backup-dir (BACKUP_DIR) {path} cannot be made: {source}")]
    BackupDir {
        /// The folder.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("webhooks cannot be sent: {0}")]
    Webhooks(io::Error),
    /// The operator's key could not be made.
    #[error("JAVLIN_API_KEY cannot be made a key: {0}")]
    DefaultKey(String),
    /// Opening was interrupted.
    #[error("opening the store was interrupted; see the log")]
    Failed,
}

impl StartError {
    /// Says whether a setting is to blame and not the machine.
    #[must_use]
    pub const fn is_of_setting(&self) -> bool {
        matches!(
            self,
            Self::Host { .. }
                | Self::Setting(_)
                | Self::PlanInUse { .. }
                | Self::PlansDiffer { .. }
        )
    }
}

/// Why the server ended otherwise than it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// The threads for the connections could not be started.
    #[error("the threads for connections cannot be started: {0}")]
    Workers(io::Error),
    /// The last flush failed.
    #[error("the last flush failed: {0}")]
    Flush(#[from] StoreError),
    /// After a failure the database could not be opened anew.
    #[error("the database could not be opened anew after a failure: {0}")]
    Reopen(#[from] OpenError),
    /// After a failure the disk did not let it be opened anew for a minute.
    #[error("after a failure the disk does not let the database be opened anew: {0}")]
    Closed(String),
    /// Opening it anew was interrupted.
    #[error("opening the database anew was interrupted; see the log")]
    Interrupted,
}

/// A server that listens and has its store open.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    app: App,
    store: Store,
    connections_max: usize,
    idle: Duration,
    drain: Duration,
    workers: usize,
    webhooks: Option<Webhooks>,
}

/// What sends webhooks, before it begins.
#[derive(Debug)]
struct Webhooks {
    courier: Courier,
    endpoints: Vec<Endpoint>,
    schedule: Schedule,
}

impl Webhooks {
    fn start(self, app: &App) -> Senders {
        Senders::start(app, &self.courier, self.endpoints, &self.schedule)
    }
}

impl Server {
    /// Listens and opens the store, in that order: a taken port leaves the data directory untouched.
    ///
    /// # Errors
    ///
    /// [`StartError`]
    pub async fn start(config: Config, clock: Clock) -> Result<Self, StartError> {
        let address = || format!("{}:{}", config.host, config.port);
        let listen = |source| StartError::Listen {
            address: address(),
            source,
        };
        let host = config.host.trim_start_matches('[').trim_end_matches(']');
        let no_such_host = |source| StartError::Host {
            host: config.host.clone(),
            source,
        };
        if host.is_empty() {
            return Err(no_such_host(io::Error::other("it is empty")));
        }
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, config.port))
            .await
            .map_err(no_such_host)?
            .collect();
        let listener = listen_on(&addresses).map_err(listen)?;
        let local = listener.local_addr().map_err(listen)?;
        let (admin, admin_state) = config.admin_access(local.ip().is_loopback());
        let options = Options {
            cache_bytes: config.cache_bytes,
            waiting_writes_max: config.waiting_writes_max,
            reserve_bytes: config.min_free_bytes,
            on_hung_disk: config.on_hung_disk,
        };
        let data_dir = config.data_dir.clone();
        let (plans, names) = (config.plans.clone(), config.signup_plans.clone());
        let opening = tokio::task::spawn_blocking(move || {
            open(&data_dir, options, plans.as_ref(), names.as_deref())
        });
        let opened = opening.await;
        let (store, opened) = opened.map_err(|_| StartError::Failed)??;
        let catalog = store.catalog();
        let signup_plans = signup_plans(config.signup_plans.as_deref(), catalog.plans)?;
        // Not before the data directory is one: the folder may lie in it.
        let backups = backup_settings(&config)?;
        announce(&config, local, &store, &opened, admin_state, &signup_plans);
        if matches!(admin, crate::app::AdminAccess::LoopbackDefault) {
            log::warn!(
                "the admin key is the default one; set ADMIN_KEY before others reach this server"
            );
        }
        let settings = Settings {
            plans: catalog.plans,
            prices: catalog.prices,
            signup_plans,
            admin,
            body_bytes_max: config.body_bytes_max,
            public_url: config.public_url,
            backups,
            rate_limits: config.rate_limits,
            trusted_proxies: config.trusted_proxies,
            webhooks: config
                .webhooks
                .endpoints
                .iter()
                .map(|endpoint| WebhookEndpoint {
                    id: endpoint.id(),
                    url: endpoint.to_string(),
                })
                .collect(),
        };
        let app = App::new(store.clone(), clock, settings);
        app.begin_audit();
        if let Some(key) = &config.secrets.api_key {
            match app.ensure_default_key(key).await {
                Ok(()) => {}
                // Reads go on meanwhile: one key is no reason to keep everybody out.
                Err(Failure::StorageUnavailable { .. } | Failure::StorageFull) => log::error!(
                    "JAVLIN_API_KEY is no key yet, since nothing can be written: make space on the \
                     disk and start again"
                ),
                Err(failure) => return Err(StartError::DefaultKey(failure.to_string())),
            }
        }
        let webhooks = begin_webhooks(&app, config.webhooks, config.secrets.webhook_secret).await?;
        let (connections_max, idle, drain) = (config.connections_max, config.idle, config.drain);
        let workers = config.workers;
        Ok(Self {
            listener,
            app,
            store,
            connections_max,
            idle,
            drain,
            workers,
            webhooks,
        })
    }

    /// Returns the address that the server listens on.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Returns the store, for tests that look behind the answers.
    #[must_use]
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// Serves until `stop` ends, then lets requests under way end, and flushes, within the drain time.
    /// After a failure of the disk it opens the database anew, as often as it takes.
    ///
    /// # Errors
    ///
    /// [`EndError`]; the process should end then, for its supervisor to start it again.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), EndError> {
        let Self {
            listener,
            app,
            store,
            connections_max,
            idle,
            drain,
            workers,
            webhooks,
        } = self;
        let senders = webhooks.map(|webhooks| webhooks.start(&app));
        let sweeper = tokio::spawn(sweep(app.clone()));
        let auditor = tokio::spawn(watch_audit(app.clone()));
        let backups = tokio::spawn(back_up(app.clone()));
        let slots = Arc::new(Semaphore::new(connections_max));
        let graceful = GracefulShutdown::new();
        let stopping = Arc::new(AtomicBool::new(false));
        let builder = connection_builder();
        let apart = || {
            let app = app.apart();
            let routes = warp::service(http::routes(&app));
            (app, routes)
        };
        let workers = Workers::start(workers, apart).map_err(EndError::Workers)?;
        let opening = keep_open(store.clone());
        // `Some` if the database is lost.
        let mut end = pin!(async {
            tokio::select! {
                () = stop => None,
                error = opening => Some(error),
            }
        });
        let ended = loop {
            let slot = tokio::select! {
                slot = Arc::clone(&slots).acquire_owned() => slot,
                ended = &mut end => break ended,
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                ended = &mut end => break ended,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    log::warn!("accepting a connection failed: {error}");
                    // Too many open files is the usual cause; trying at once would spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let activity = Arc::new(Activity::new(idle, Arc::clone(&stopping)));
            let accepted = Accepted {
                stream,
                peer,
                slot: slot.ok(),
            };
            let (builder, watcher) = (builder.clone(), graceful.watcher());
            workers.spawn(|(app, routes)| {
                let (app, routes) = (app.clone(), routes.clone());
                serve(accepted, app, routes, builder, watcher, activity)
            });
        };
        drop(listener);
        log::info!("stopping: requests under way get {} s", drain.as_secs());
        stopping.store(true, Ordering::Relaxed);
        // Without a database there is nothing to wait for but answers that say so.
        let drain = if ended.is_some() {
            drain.min(LOST_DRAIN)
        } else {
            drain
        };
        let_end(graceful, senders, drain.saturating_sub(FLUSH_WAIT)).await;
        workers.end().await;
        sweeper.abort();
        auditor.abort();
        backups.abort();
        app.stop_backups();
        if let Some(error) = ended {
            return Err(error);
        }
        app.end_audit().await;
        store
            .flush()
            .await
            .inspect_err(|error| log::error!("the last flush failed: {error}"))?;
        log::info!("stopped, everything is on the disk");
        Ok(())
    }
}

/// A connection, and its place among those that there may be.
struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    /// Always one: nobody closes the semaphore.
    slot: Option<OwnedSemaphorePermit>,
}

/// Answers what comes over a connection, until it ends or nothing has come for too long.
async fn serve<R>(
    accepted: Accepted,
    app: App,
    routes: R,
    builder: auto::Builder<TokioExecutor>,
    watcher: Watcher,
    activity: Arc<Activity>,
) where
    R: Service<
            hyper::Request<http::SharedBody<Incoming>>,
            Response = warp::reply::Response,
            Error = Infallible,
        > + Clone
        + Send
        + 'static,
    R::Future: Send,
{
    let Accepted { stream, peer, slot } = accepted;
    let noted = Arc::clone(&activity);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (app, routes) = (app.clone(), routes.clone());
        let under_way = noted.begin();
        let shares = request.version() == hyper::Version::HTTP_2;
        let one = shares.then(workers::one_more).flatten();
        async move {
            if !app.is_open() && request.uri().path() != HEALTH {
                // Past this time there is an answer all the same: 503.
                let _ = tokio::time::timeout(OPENING_WAIT, app.opened()).await;
            }
            let (request, rest) = http::keep_rest(request);
            let answer = http::answer(app, routes, request, peer.ip()).await;
            rest.throw_away();
            drop((one, under_way));
            answer
        }
    });
    let io = match moved_here(stream) {
        Ok(stream) => TokioIo::new(without_delay(stream)),
        Err(error) => return log::warn!("a connection is lost: {error}"),
    };
    let connection = watcher.watch(builder.serve_connection(io, service).into_owned());
    tokio::select! {
        // A client that goes away in the middle is told nothing.
        _ = connection => {}
        () = activity.ended() => {}
    }
    drop(slot);
}

/// Lets requests and deliveries under way end, within this time.
async fn let_end(graceful: GracefulShutdown, senders: Option<Senders>, limit: Duration) {
    let drained = tokio::time::timeout(limit, graceful.shutdown());
    let sent = async {
        if let Some(senders) = senders {
            senders.stop(limit).await;
        }
    };
    let (drained, ()) = tokio::join!(drained, sent);
    if drained.is_err() {
        log::warn!("connections were still open after the drain time; they are cut");
    }
}

/// hyper's timer for the headers of a request is off: it would be set anew for each request, and [`Activity`] ends
/// a connection that does not send them in time.
fn connection_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .header_read_timeout(None)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .max_concurrent_streams(128)
        .max_header_list_size(32 * 1024);
    builder
}

/// Listens on the first of the addresses that lets us.
fn listen_on(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let mut outcome = Err(io::ErrorKind::AddrNotAvailable.into());
    for address in addresses {
        outcome = try_listen_on(*address);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn try_listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A server that was stopped leaves its address waiting for a minute.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes a connection from the poller of the thread that accepted it to that of the thread it lives on.
fn moved_here(stream: TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(stream.into_std()?)
}

/// Small answers go out at once.
fn without_delay(stream: TcpStream) -> TcpStream {
    if let Err(error) = stream.set_nodelay(true) {
        log::debug!("TCP_NODELAY: {error}");
    }
    stream
}

/// Opens the database anew each time that a failure has stopped its writes, once the disk allows it. Ends
/// only if that cannot be done.
async fn keep_open(store: Store) -> EndError {
    loop {
        store.failed().await;
        let (mut closed_at, mut wait, mut told) = (None, REOPEN_AFTER, String::new());
        loop {
            let reopening = store.clone();
            let why = match tokio::task::spawn_blocking(move || reopening.reopen()).await {
                Ok(Ok(Reopened::NotNeeded)) => break,
                Ok(Ok(Reopened::Settled(settled))) => {
                    log::warn!(
                        "the database was opened anew, writes go on; interrupted writes settled: {settled}"
                    );
                    break;
                }
                Ok(Ok(Reopened::NotYet(why))) => why,
                Ok(Ok(Reopened::Closed(why))) => {
                    let closed_at = *closed_at.get_or_insert_with(Instant::now);
                    if closed_at.elapsed() >= CLOSED_MAX {
                        return EndError::Closed(why);
                    }
                    why
                }
                Ok(Err(error)) => return error.into(),
                Err(_) => return EndError::Interrupted,
            };
            if why != told {
                log::warn!("the database cannot be opened anew yet: {why}");
                told = why;
            }
            tokio::time::sleep(wait).await;
            wait = wait.saturating_mul(2).min(REOPEN_WAIT_MAX);
        }
    }
}

/// Says to the store where events go. Returns what sends them; `None` if nobody is to be told.
async fn begin_webhooks(
    app: &App,
    config: WebhookConfig,
    secret: Option<Secret>,
) -> Result<Option<Webhooks>, StartError> {
    match app.begin_webhooks().await {
        Ok(()) => {}
        Err(Failure::StorageUnavailable { .. } | Failure::StorageFull) => log::error!(
            "the webhooks are not the ones that are set, since nothing can be written: make space on the disk \
             and start again"
        ),
        Err(failure) => {
            let error = io::Error::other(failure.to_string());
            return Err(StartError::Webhooks(error));
        }
    }
    let Some(secret) = secret.filter(|_| !config.endpoints.is_empty()) else {
        return Ok(None);
    };
    for (number, endpoint) in (1..).zip(&config.endpoints) {
        log::info!("webhook {number}: {}", endpoint.authority());
    }
    let courier = Courier::new(secret, config.allow_private).map_err(StartError::Webhooks)?;
    Ok(Some(Webhooks {
        courier,
        endpoints: config.endpoints,
        schedule: config.schedule,
    }))
}

/// Opens the store, and holds the file of plans against the table that it remembers. To a store that nobody has
/// used yet the file is applied; else it changes nothing, since what it means is to be seen first.
fn open(
    directory: &Path,
    options: Options,
    plans: Option<&(PathBuf, Offer)>,
    signup_names: Option<&[String]>,
) -> Result<(Store, Opened), StartError> {
    // Before the directory is made, or a file applied: a wrong setting leaves no trace.
    let sold = match plans {
        Some((_, offer)) => Catalog::seed().with(offer).ok(),
        None => (!crate::store::holds_data(directory)).then_some(Catalog::seed()),
    };
    if let Some(catalog) = sold {
        signup_plans(signup_names, catalog.plans)?;
    }
    let (store, opened) = Store::open(directory, options)?;
    let Some((file, offer)) = plans else {
        return Ok((store, opened));
    };
    if store.catalog().changes(offer).is_empty() {
        return Ok((store, opened));
    }
    let file = file.display().to_string();
    if store.is_untouched().map_err(ApplyError::Store)? {
        store.apply(offer)?;
        log::info!("the plans and prices of {file} are applied");
        // A process has one table of plans: the store is opened anew with this one.
        drop(store);
        let (store, _) = Store::open(directory, options)?;
        return Ok((store, opened));
    }
    if let Some(source) = store.plan_in_use(offer).map_err(ApplyError::Store)? {
        return Err(StartError::PlanInUse { file, source });
    }
    let directory = directory.display().to_string();
    Err(StartError::PlansDiffer { file, directory })
}

async fn sweep(app: App) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        app.sweep().await;
    }
}

async fn watch_audit(app: App) {
    loop {
        app.watch_audit().await;
        tokio::time::sleep(AUDIT_EVERY).await;
    }
}

async fn back_up(app: App) {
    loop {
        app.back_up_if_due().await;
        tokio::time::sleep(BACKUP_LOOK).await;
    }
}

/// Says where backups go. A folder that the operator named is made at once: whether it can be is better
/// known now than when the first backup is due.
fn backup_settings(config: &Config) -> Result<BackupSettings, StartError> {
    let named = config.backup_dir.clone();
    let is_named = named.is_some();
    let path = named.unwrap_or_else(|| config.data_dir.join(BACKUPS_FOLDER));
    let folder = BackupFolder::new(path);
    if is_named {
        folder.make().map_err(|source| StartError::BackupDir {
            path: folder.path().display().to_string(),
            source,
        })?;
    }
    Ok(BackupSettings {
        folder,
        every: config.backup_every,
        keep: config.backup_keep,
    })
}

/// What a connection does: hyper has no time limit for one that sends nothing, half a preface or half the headers.
#[derive(Debug)]
struct Activity {
    started: Instant,
    under_way: AtomicUsize,
    /// When a request began or ended last; [`NEVER`] for none.
    last_ms: AtomicU64,
    idle: Duration,
    stopping: Arc<AtomicBool>,
}

/// No request has begun.
const NEVER: u64 = u64::MAX;

/// A request under way; its end counts as activity.
struct UnderWay(Arc<Activity>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.touch();
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Activity {
    fn new(idle: Duration, stopping: Arc<AtomicBool>) -> Self {
        let (under_way, last_ms) = (AtomicUsize::new(0), AtomicU64::new(NEVER));
        Self {
            started: Instant::now(),
            under_way,
            last_ms,
            idle,
            stopping,
        }
    }

    fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn touch(&self) {
        self.last_ms.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    /// Ends when the connection has done nothing for as long as it may: the idle time, [`FIRST_WAIT`]
    /// if it has never sent a request, a moment if the server is stopping.
    async fn ended(&self) {
        loop {
            tokio::time::sleep(WATCH_TICK).await;
            let last = self.last_ms.load(Ordering::Relaxed);
            let since = if last == NEVER { 0 } else { last };
            let quiet = Duration::from_millis(self.elapsed_ms().saturating_sub(since));
            let limit = match (self.stopping.load(Ordering::Relaxed), last) {
                (true, _) => WATCH_TICK,
                (false, NEVER) => self.idle.min(FIRST_WAIT),
                (false, _) => self.idle,
            };
            if self.under_way.load(Ordering::Relaxed) == 0 && quiet >= limit {
                return;
            }
        }
    }
}

fn announce(
    config: &Config,
    local: SocketAddr,
    store: &Store,
    opened: &crate::store::Opened,
    admin: &str,
    signup_plans: &[Plan],
) {
    let health = store.health();
    log::info!("MemoryOS {} listens on http://{local}", crate::cli::VERSION);
    let made = if opened.created {
        ", made just now"
    } else {
        ""
    };
    let directory = config.data_dir.display();
    log::info!("data in {directory}{made}, on {}", opened.file_system);
    if !opened.file_system.is_tested() {
        log::warn!(
            "durability was tested on ext4 and xfs, not on {}; keep backups",
            opened.file_system
        );
    }
    log::info!(
        "{} accounts, {} active keys, {} memories, {} bytes of database, {} MiB of cache",
        health.accounts,
        health.active_keys,
        health.memories,
        health.database_bytes,
        config.cache_bytes >> 20,
    );
    if opened.settled > 0 {
        log::warn!(
            "{} writes that a crash had interrupted were settled",
            opened.settled
        );
    }
    log::info!("admin: {admin}");
    announce_limits(config);
    if let Some(every) = config.backup_every {
        let minutes = every.as_secs() / 60;
        log::info!(
            "a backup every {minutes} minutes, the newest {} kept",
            config.backup_keep
        );
    }
    log::info!("plans: {}", store.catalog().plans.names());
    let plans: Vec<&str> = signup_plans.iter().map(|plan| plan.name()).collect();
    if plans.is_empty() {
        log::info!("sign-up: closed");
    } else {
        log::info!("sign-up: open for {}", plans.join(", "));
    }
    if health.accounts == 0
        && let Some(command) = import::command_for(Path::new("."), &config.data_dir)
    {
        log::warn!(
            "the old program's files are here, and {directory} holds no account. To take them over: stop \
             this server; if still nobody has signed up, remove {directory}; run: {command}"
        );
    }
}

/// Tells of the limits against abuse: that there are none is worth a warning.
fn announce_limits(config: &Config) {
    let limits = &config.rate_limits;
    if *limits == RateLimits::OFF {
        log::warn!(
            "rate limits: all off, so that anybody can sign up and guess keys without end; set RATE_LIMITS=on \
             before others reach this server"
        );
        return;
    }
    let told = |limit: u32| match limit {
        0 => "off".to_owned(),
        limit => limit.to_string(),
    };
    log::info!(
        "rate limits: sign-up {} an hour and {} a day from an address, {} an hour in all; {} wrong keys a minute \
         from an address; {} free requests a minute and {} changes of keys an hour for an account",
        told(limits.signup_hour),
        told(limits.signup_day),
        told(limits.signup_global),
        told(limits.auth_failures),
        told(limits.free_routes),
        told(limits.key_changes),
    );
    if !config.trusted_proxies.is_empty() {
        let networks: Vec<String> = config
            .trusted_proxies
            .iter()
            .map(ToString::to_string)
            .collect();
        log::info!(
            "addresses of clients are taken from proxies in {}",
            networks.join(", ")
        );
    }
}
