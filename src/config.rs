//! Every setting of the server: its flag, its variable, its default. The only reader of the environment.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::{IpNet, Ipv4Net};

use crate::app::{AdminAccess, DEFAULT_ADMIN_KEY, RateLimits};
use crate::domain::catalog::Offer;
use crate::domain::key::{KNOWN_KEY, Secret};
use crate::domain::plan::{Plan, Plans};
use crate::domain::webhook::ENDPOINTS_MAX;
use crate::plans_file;
use crate::webhooks::{Endpoint, Schedule};

/// The shortest admin key that counts off loopback.
const ADMIN_KEY_CHARS_MIN: usize = 32;
/// The highest limit that can be set.
const LIMIT_MAX: i64 = 1_000_000;
/// Characters of the secret that webhooks are signed with.
const WEBHOOK_SECRET_CHARS: std::ops::RangeInclusive<usize> = 32..=256;

/// A setting that the server cannot start with; a sentence that names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Where the data is.
#[derive(Debug, Clone, Args)]
pub struct DataArgs {
    /// Directory of the database; `serve` and `import` make it if it is not there.
    #[arg(
        long,
        alias = "data",
        env = "DATA_DIR",
        default_value = "./data",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
    /// Page cache in MiB; memory in use is about twice that, and 35 MB for each million
    /// memories; 8 to 65536.
    #[arg(long, env = "CACHE_MIB", default_value_t = 64, value_name = "MIB",
          value_parser = clap::value_parser!(u64).range(8..=65_536))]
    pub cache_mib: u64,
}

/// The settings of `memoryos serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address or host name to listen on. 127.0.0.1 is this machine only, 0.0.0.0 every network.
    #[arg(long, env = "HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, env = "PORT", default_value_t = 5000)]
    pub port: u16,
    /// Send events to this https URL, signed with `WEBHOOK_SECRET`; up to 8, each with a --webhook of its own
    /// or separated by commas.
    #[arg(
        long = "webhook",
        env = "WEBHOOKS",
        hide_env_values = true,
        value_name = "URL",
        value_delimiter = ','
    )]
    pub webhooks: Vec<String>,
    /// Let webhooks be http, and go to addresses that are not public: loopback, link-local, private.
    #[arg(long, env = "WEBHOOK_ALLOW_PRIVATE")]
    pub webhook_allow_private: bool,
    /// Where the data is.
    #[command(flatten)]
    pub data: DataArgs,
    /// File of plans and prices; what differs from the data directory's is applied with `memoryos plans`
    /// [default: what was applied last, or Free, Pro and Premium]
    #[arg(long, env = "PLANS", value_name = "FILE")]
    pub plans: Option<PathBuf>,
    /// Plans that anybody can sign up for, separated by commas; empty closes sign-up
    /// [default: those that are open in the table of plans, which is all of the three]
    #[arg(long, env = "SIGNUP_PLANS", value_name = "PLANS")]
    pub signup_plans: Option<String>,
    /// Where clients reach the server, for example <https://memory.example.com>; goes into /openapi.json.
    #[arg(long, env = "PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// Largest request body in bytes; 1024 to 1048576.
    #[arg(long, env = "BODY_BYTES_MAX", default_value_t = 65_536, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(1_024..=1_048_576))]
    pub body_bytes_max: u32,
    /// Most connections at a time; further ones wait to be accepted; 1 to 1000000.
    #[arg(long, env = "CONNECTIONS_MAX", default_value_t = 4_096, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections_max: u32,
    /// Threads that answer requests [default: as many as processors]; 1 to 1024.
    #[arg(long, env = "WORKERS", value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub workers: Option<u16>,
    /// Most writes that may wait for the disk; further ones get 503 `overloaded` at once; 1 to 1000000.
    #[arg(long, env = "WAITING_WRITES_MAX", default_value_t = 2_048, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub waiting_writes_max: u32,
    /// Seconds that a connection may idle, and that a request's headers may take; 1 to 3600.
    #[arg(long, env = "IDLE_SECONDS", default_value_t = 30, value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub idle_seconds: u32,
    /// Seconds that requests under way get to end after SIGTERM or SIGINT; 0 to 3600.
    #[arg(long, env = "DRAIN_SECONDS", default_value_t = 10, value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(0..=3_600))]
    pub drain_seconds: u32,
    /// Folder for backups, made if it is not there [default: backups in the data directory]
    #[arg(long, env = "BACKUP_DIR", value_name = "DIR")]
    pub backup_dir: Option<PathBuf>,
    /// Make a backup this long after the last one: 30m, 24h, 7d; 1 minute to 365 days. Off unless set.
    #[arg(
        long,
        visible_alias = "every",
        env = "BACKUP_EVERY",
        value_name = "TIME"
    )]
    pub backup_every: Option<String>,
    /// How many of the backups made by --backup-every to keep; 1 to 10000.
    #[arg(long, visible_alias = "keep", env = "BACKUP_KEEP", default_value_t = 7, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub backup_keep: u32,
    /// Free MiB of the disk at which writes stop (507) and reads go on, uncharged, until there is more;
    /// 0 turns that off; at most 1048576.
    #[arg(long, env = "MIN_FREE_MIB", default_value_t = 256, value_name = "MIB",
          value_parser = clap::value_parser!(u64).range(0..=1_048_576))]
    pub min_free_mib: u64,
    /// How much may be asked for.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// The limits against abuse: each is a bucket that holds so many and is filled again in its time.
#[derive(Debug, Clone, Args)]
pub struct LimitArgs {
    /// All limits below, on or off; off is for tests and benchmarks.
    #[arg(long, env = "RATE_LIMITS", default_value = "on", value_name = "on|off")]
    pub rate_limits: Switch,
    /// Requests that cost no credits, for each account, a minute; 0 is no limit; at most 1000000.
    #[arg(long, env = "LIMIT_FREE_ROUTES", default_value_t = 600, value_name = "N",
          value_parser = clap::value_parser!(u32).range(0..=LIMIT_MAX))]
    pub limit_free_routes: u32,
    /// Keys made, changed, rotated and revoked by an account itself, an hour; 0 is no limit.
    #[arg(long, env = "LIMIT_KEY_CHANGES", default_value_t = 300, value_name = "N",
          value_parser = clap::value_parser!(u32).range(0..=LIMIT_MAX))]
    pub limit_key_changes: u32,
    /// Sign-ups from each address, an hour; an IPv6 address counts as its /64; 0 is no limit.
    #[arg(long, env = "LIMIT_SIGNUP_HOUR", default_value_t = 5, value_name = "N",
          value_parser = clap::value_parser!(u32).range(0..=LIMIT_MAX))]
    pub limit_signup_hour: u32,
    /// Sign-ups from each address, a day; 0 is no limit.
    #[arg(long, env = "LIMIT_SIGNUP_DAY", default_value_t = 20, value_name = "N",
          value_parser = clap::value_parser!(u32).range(0..=LIMIT_MAX))]
    pub limit_signup_day: u32,
    /// Sign-ups from all addresses together, an hour; 0 is no limit.
    #[arg(long, env = "LIMIT_SIGNUP_GLOBAL", default_value_t = 1_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(0..=LIMIT_MAX))]
    pub limit_signup_global: u32,
    /// Wrong API keys and admin keys from each address, a minute; a right one always passes; 0 is no limit.
    #[arg(long, env = "LIMIT_AUTH_FAILURES", default_value_t = 20, value_name = "N",
          value_parser = clap::value_parser!(u32).range(0..=LIMIT_MAX))]
    pub limit_auth_failures: u32,
    /// Proxies whose Forwarded and X-Forwarded-For are believed: addresses and networks, separated by
    /// commas, such as 127.0.0.1,10.0.0.0/8
    #[arg(
        long,
        env = "TRUSTED_PROXIES",
        default_value = "",
        value_name = "NETWORKS"
    )]
    pub trusted_proxies: String,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

impl LimitArgs {
    fn limits(&self) -> RateLimits {
        if self.rate_limits == Switch::Off {
            return RateLimits::OFF;
        }
        RateLimits {
            free_routes: self.limit_free_routes,
            key_changes: self.limit_key_changes,
            signup_hour: self.limit_signup_hour,
            signup_day: self.limit_signup_day,
            signup_global: self.limit_signup_global,
            auth_failures: self.limit_auth_failures,
        }
    }
}

/// Secrets, from the environment or a file only: a flag would show in the list of processes.
#[derive(Debug, Default)]
pub struct Secrets {
    /// `ADMIN_KEY`, or what is in the file `ADMIN_KEY_FILE`.
    pub admin_key: Option<Secret>,
    /// `ADMIN_KEY_PREVIOUS`, or what is in the file `ADMIN_KEY_PREVIOUS_FILE`.
    pub admin_key_previous: Option<Secret>,
    /// `JAVLIN_API_KEY`.
    pub api_key: Option<Secret>,
    /// `WEBHOOK_SECRET`.
    pub webhook_secret: Option<Secret>,
}

/// Who is told what happens; nobody by default.
#[derive(Clone, Debug, Default)]
pub struct WebhookConfig {
    /// The receivers, at most [`ENDPOINTS_MAX`].
    pub endpoints: Vec<Endpoint>,
    /// Whether they may be at addresses that are not public.
    pub allow_private: bool,
    /// When an event is sent again.
    pub schedule: Schedule,
}

/// The settings, checked.
#[derive(Debug)]
pub struct Config {
    /// Host to listen on.
    pub host: String,
    /// Port to listen on.
    pub port: u16,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Page cache in bytes.
    pub cache_bytes: u64,
    /// The file of plans and what it holds.
    pub plans: Option<(PathBuf, Offer)>,
    /// Names of the plans open to sign-up; `None` for what the table of plans says.
    pub signup_plans: Option<Vec<String>>,
    /// See [`crate::app::Settings::public_url`].
    pub public_url: Option<String>,
    /// Largest body in bytes.
    pub body_bytes_max: usize,
    /// Most connections.
    pub connections_max: usize,
    /// Threads that answer requests; 0 for the runtime that runs the server.
    pub workers: usize,
    /// Most writes that may wait for the disk.
    pub waiting_writes_max: usize,
    /// How long a connection may idle.
    pub idle: Duration,
    /// How long requests get to end at a stop.
    pub drain: Duration,
    /// Folder for backups; `None` for the one in the data directory.
    pub backup_dir: Option<PathBuf>,
    /// How long after a backup the next is due; `None` for never.
    pub backup_every: Option<Duration>,
    /// How many of those are kept.
    pub backup_keep: usize,
    /// Free bytes of the data directory's disk at which writes stop; 0 for never.
    pub min_free_bytes: u64,
    /// How much may be asked for.
    pub rate_limits: RateLimits,
    /// Proxies that are believed when they say for whom they ask.
    pub trusted_proxies: Vec<IpNet>,
    /// See [`crate::store::Options::on_hung_disk`].
    pub on_hung_disk: fn(),
    /// Who is told what happens.
    pub webhooks: WebhookConfig,
    /// The secrets.
    pub secrets: Secrets,
}

impl Config {
    /// Checks flags and environment.
    ///
    /// # Errors
    ///
    /// The first setting that is wrong.
    pub fn new(args: ServeArgs, secrets: Secrets) -> Result<Self, ConfigError> {
        Ok(Self {
            plans: args
                .plans
                .filter(|path| !path.as_os_str().is_empty())
                .map(read_plans)
                .transpose()?,
            signup_plans: args.signup_plans.as_deref().map(parse_names),
            public_url: args
                .public_url
                .as_deref()
                .filter(|url| !url.is_empty())
                .map(parse_url)
                .transpose()?,
            host: args.host,
            port: args.port,
            data_dir: args.data.data_dir,
            cache_bytes: args.data.cache_mib << 20,
            body_bytes_max: usize::try_from(args.body_bytes_max).unwrap_or(65_536),
            connections_max: usize::try_from(args.connections_max).unwrap_or(4_096),
            workers: args.workers.map_or_else(processors, usize::from),
            waiting_writes_max: usize::try_from(args.waiting_writes_max).unwrap_or(2_048),
            idle: Duration::from_secs(args.idle_seconds.into()),
            drain: Duration::from_secs(args.drain_seconds.into()),
            backup_dir: args.backup_dir.filter(|dir| !dir.as_os_str().is_empty()),
            backup_every: args
                .backup_every
                .as_deref()
                .filter(|text| !text.is_empty())
                .map(parse_every)
                .transpose()?,
            backup_keep: usize::try_from(args.backup_keep).unwrap_or(7),
            min_free_bytes: args.min_free_mib << 20,
            rate_limits: args.limits.limits(),
            trusted_proxies: parse_proxies(&args.limits.trusted_proxies)?,
            on_hung_disk: || {},
            webhooks: parse_webhooks(
                &args.webhooks,
                args.webhook_allow_private,
                secrets.webhook_secret.is_some(),
            )?,
            secrets,
        })
    }

    /// Decides who is the admin on a server that listens on loopback only, or not.
    ///
    /// Source: the HTTP contract, `ADMIN_KEY`. Returns why there is no admin key, for the log.
    #[must_use]
    pub fn admin_access(&self, loopback: bool) -> (AdminAccess, &'static str) {
        match (&self.secrets.admin_key, loopback) {
            (Some(key), _) if key.reveal() == DEFAULT_ADMIN_KEY => without_key(loopback),
            (Some(key), false) if is_short(key) => (
                AdminAccess::Disabled,
                "off: ADMIN_KEY has under 32 characters, too few off loopback",
            ),
            (Some(key), _) => self.with_key(key, loopback),
            (None, _) => without_key(loopback),
        }
    }

    /// Decides whether the previous key counts beside the key, by the same rules.
    fn with_key(&self, key: &Secret, loopback: bool) -> (AdminAccess, &'static str) {
        let (previous, state) = match &self.secrets.admin_key_previous {
            None => (None, "on, with ADMIN_KEY"),
            Some(previous) if previous.reveal() == DEFAULT_ADMIN_KEY => (
                None,
                "on, with ADMIN_KEY; ADMIN_KEY_PREVIOUS does not count, since everybody knows it",
            ),
            Some(previous) if !loopback && is_short(previous) => (
                None,
                "on, with ADMIN_KEY; ADMIN_KEY_PREVIOUS does not count: it has under 32 characters, too few \
                 off loopback",
            ),
            Some(previous) if previous.same_as(key) => {
                (None, "on, with ADMIN_KEY; ADMIN_KEY_PREVIOUS is the same")
            }
            Some(previous) => (
                Some(previous.clone()),
                "on, with ADMIN_KEY, and with ADMIN_KEY_PREVIOUS too: unset that once nobody uses it",
            ),
        };
        let current = key.clone();
        (AdminAccess::Key { current, previous }, state)
    }
}

fn is_short(key: &Secret) -> bool {
    key.reveal().chars().count() < ADMIN_KEY_CHARS_MIN
}

fn without_key(loopback: bool) -> (AdminAccess, &'static str) {
    if loopback {
        let warning = "on, with the default key admin-secret-key, from this machine only";
        (AdminAccess::LoopbackDefault, warning)
    } else {
        (
            AdminAccess::Disabled,
            "off: set ADMIN_KEY to 32 characters or more",
        )
    }
}

/// Reads the file of plans.
///
/// # Errors
///
/// What is wrong with it, and where.
pub fn read_plans(path: PathBuf) -> Result<(PathBuf, Offer), ConfigError> {
    let offer = plans_file::read(&path).map_err(|error| ConfigError(error.to_string()))?;
    Ok((path, offer))
}

fn parse_names(text: &str) -> Vec<String> {
    let names = text.split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(ToOwned::to_owned)
        .collect()
}

/// Finds the plans that are open to sign-up: those that the operator named, or else the table's.
///
/// # Errors
///
/// A name that no plan has.
pub fn signup_plans(
    names: Option<&[String]>,
    plans: &'static Plans,
) -> Result<Vec<Plan>, ConfigError> {
    let Some(names) = names else {
        let open = |plan: &Plan| plan.terms().open;
        return Ok(plans.iter().filter(open).collect());
    };
    let get = |name: &String| {
        plans.get(name).map_err(|_| {
            let all = plans.names();
            ConfigError(format!(
                "--signup-plans (SIGNUP_PLANS) names {name:?}; the plans are {all}"
            ))
        })
    };
    names.iter().map(get).collect()
}

/// Parses the value of `--trusted-proxies`; empty for none.
///
/// # Errors
///
/// The part that is neither an address nor a network, or is everybody.
pub fn parse_proxies(text: &str) -> Result<Vec<IpNet>, ConfigError> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let network = part
                .parse()
                .or_else(|_| part.parse().map(|address: IpAddr| IpNet::from(address)));
            let wrong = |why| {
                ConfigError(format!(
                    "--trusted-proxies (TRUSTED_PROXIES) has {part:?}, which {why}; it takes addresses and \
                     networks, such as 127.0.0.1,10.0.0.0/8,fd00::/8"
                ))
            };
            let network = network.map_err(|_| wrong("is neither an address nor a network"))?;
            if network.prefix_len() == 0 {
                return Err(wrong("would let every client name its own address"));
            }
            Ok(without_mapping(network))
        })
        .collect()
}

/// A network of IPv4 addresses written as IPv6 ones, as the network of IPv4 addresses that it is.
fn without_mapping(network: IpNet) -> IpNet {
    let IpNet::V6(mapped) = network else {
        return network;
    };
    let prefix = mapped.prefix_len().checked_sub(96);
    let address = mapped.addr().to_ipv4_mapped();
    let plain = address.zip(prefix).map(|(a, p)| Ipv4Net::new(a, p));
    plain.and_then(Result::ok).map_or(network, IpNet::V4)
}

/// Returns how many processors this process may use; 1 if nobody can say.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Parses a time such as `24h`.
fn parse_every(text: &str) -> Result<Duration, ConfigError> {
    let wrong = || {
        ConfigError(format!(
            "--backup-every (BACKUP_EVERY) is {text:?}; it takes minutes, hours or days, such as 30m, 24h or \
             7d, 1 minute to 365 days"
        ))
    };
    let units = [('m', 60), ('h', 3_600), ('d', 86_400)];
    let found = units.into_iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(seconds)
    });
    let is_allowed = |seconds: &u64| (60..=365 * 86_400).contains(seconds);
    let seconds = found.filter(is_allowed).ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

/// Parses the receivers of webhooks. No error has a URL in it: it may hold a token.
fn parse_webhooks(
    urls: &[String],
    allow_private: bool,
    has_secret: bool,
) -> Result<WebhookConfig, ConfigError> {
    let wrong = |what: String| Err(ConfigError(format!("--webhook (WEBHOOKS) {what}")));
    let urls = urls.iter().map(|url| url.trim());
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for (number, url) in (1..).zip(urls.filter(|url| !url.is_empty())) {
        let endpoint = match Endpoint::parse(url, allow_private) {
            Ok(endpoint) => endpoint,
            Err(error) => return wrong(format!("number {number} {error}")),
        };
        if endpoints.iter().any(|other| other.id() == endpoint.id()) {
            return wrong(format!("number {number} is there twice; take one out"));
        }
        endpoints.push(endpoint);
    }
    if endpoints.len() > ENDPOINTS_MAX {
        return wrong(format!(
            "names {} URLs; {ENDPOINTS_MAX} is the most",
            endpoints.len()
        ));
    }
    if !endpoints.is_empty() && !has_secret {
        return wrong(
            "is set and WEBHOOK_SECRET is not; set it to 32 to 256 visible ASCII characters, such as `openssl \
             rand -hex 32` prints, and give it to the receivers to check signatures with"
                .to_owned(),
        );
    }
    Ok(WebhookConfig {
        endpoints,
        allow_private,
        schedule: Schedule::default(),
    })
}

fn parse_url(text: &str) -> Result<String, ConfigError> {
    let wrong = || {
        ConfigError(format!(
            "--public-url (PUBLIC_URL) is {text:?}; it must be like https://memory.example.com"
        ))
    };
    let url: http::Uri = text.parse().map_err(|_| wrong())?;
    let is_web = matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some();
    let has_secret = url
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'));
    if !is_web || has_secret || url.query().is_some() {
        return Err(wrong());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

impl Secrets {
    /// Reads the secrets from the environment, and from the file that it names.
    ///
    /// # Errors
    ///
    /// The variable that is wrong; never its value.
    pub fn from_environment() -> Result<Self, ConfigError> {
        let admin_key = admin_key("ADMIN_KEY", "ADMIN_KEY_FILE")?;
        let admin_key_previous = admin_key_previous(admin_key.is_some())?;
        let api_key = variable("JAVLIN_API_KEY")?;
        if let Some(key) = &api_key {
            if key == KNOWN_KEY {
                return Err(ConfigError(format!(
                    "JAVLIN_API_KEY is {KNOWN_KEY}, which everybody knows; set another or unset it"
                )));
            }
            if !(12..=128).contains(&key.len()) || !is_visible_ascii(key) {
                return Err(ConfigError(
                    "JAVLIN_API_KEY must be 12 to 128 visible ASCII characters".to_owned(),
                ));
            }
        }
        let webhook_secret = variable("WEBHOOK_SECRET")?;
        if webhook_secret.as_ref().is_some_and(|secret| {
            !WEBHOOK_SECRET_CHARS.contains(&secret.len()) || !is_visible_ascii(secret)
        }) {
            return Err(ConfigError(
                "WEBHOOK_SECRET must be 32 to 256 visible ASCII characters, such as `openssl rand -hex 32` prints"
                    .to_owned(),
            ));
        }
        Ok(Self {
            admin_key,
            admin_key_previous,
            api_key: api_key.map(Secret::new),
            webhook_secret: webhook_secret.map(Secret::new),
        })
    }
}

fn admin_key_previous(has_current: bool) -> Result<Option<Secret>, ConfigError> {
    let previous = admin_key("ADMIN_KEY_PREVIOUS", "ADMIN_KEY_PREVIOUS_FILE")?;
    if previous.is_some() && !has_current {
        return Err(ConfigError(
            "ADMIN_KEY_PREVIOUS is set and ADMIN_KEY is not; set ADMIN_KEY to the new key"
                .to_owned(),
        ));
    }
    Ok(previous)
}

/// Reads an admin key from a variable, or from the file that another one names.
fn admin_key(name: &str, file: &str) -> Result<Option<Secret>, ConfigError> {
    let key = match (variable(name)?, variable(file)?) {
        (Some(_), Some(_)) => {
            return Err(ConfigError(format!(
                "{name} and {file} are both set; set one of them"
            )));
        }
        (None, Some(path)) => Some(read_key_file(file, &path)?),
        (key, None) => key,
    };
    if key.as_ref().is_some_and(|key| !is_visible_ascii(key)) {
        return Err(ConfigError(format!(
            "the admin key ({name}, {file}) must be visible ASCII characters"
        )));
    }
    Ok(key.map(Secret::new))
}

/// Checks `RUST_LOG` before the log starts, which would ignore what it does not know.
///
/// # Errors
///
/// The part that is neither a level nor a module with a level.
pub fn check_log_setting() -> Result<(), ConfigError> {
    parse_log(&variable("RUST_LOG")?.unwrap_or_default())
}

fn parse_log(text: &str) -> Result<(), ConfigError> {
    let is_level = |word: &str| word.parse::<log::LevelFilter>().is_ok();
    let is_module = |word: &str| {
        !word.is_empty()
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c))
    };
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let is_known = match part.split_once('=') {
            Some((module, level)) => is_module(module) && is_level(level),
            None => is_level(part),
        };
        if !is_known {
            return Err(ConfigError(format!(
                "RUST_LOG has {part:?}; it takes error, warn, info, debug, trace or off, or a module \
                 with one of them, such as memoryos::store=debug"
            )));
        }
    }
    Ok(())
}

fn is_visible_ascii(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

fn read_key_file(name: &str, path: &str) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError(format!("{name} {path} cannot be read: {error}")))?;
    let key = text.trim();
    if key.is_empty() {
        return Err(ConfigError(format!("{name} {path} is empty")));
    }
    Ok(key.to_owned())
}

/// Returns a variable; one that is empty counts as unset.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that may read the environment"
)]
fn variable(name: &str) -> Result<Option<String>, ConfigError> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(ConfigError(format!("{name} is not UTF-8 text")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(admin_key: Option<&str>) -> Config {
        Config {
            host: String::new(),
            port: 0,
            data_dir: PathBuf::new(),
            cache_bytes: 0,
            plans: None,
            signup_plans: None,
            public_url: None,
            body_bytes_max: 0,
            connections_max: 0,
            workers: 0,
            waiting_writes_max: 0,
            idle: Duration::ZERO,
            drain: Duration::ZERO,
            backup_dir: None,
            backup_every: None,
            backup_keep: 1,
            min_free_bytes: 0,
            rate_limits: RateLimits::OFF,
            trusted_proxies: Vec::new(),
            on_hung_disk: || {},
            webhooks: WebhookConfig::default(),
            secrets: Secrets {
                admin_key: admin_key.map(Secret::new),
                admin_key_previous: None,
                api_key: None,
                webhook_secret: None,
            },
        }
    }

    #[test]
    fn the_default_admin_key_is_for_loopback_only() {
        let long = "k".repeat(32);
        let access = |key, loopback| match config(key).admin_access(loopback).0 {
            AdminAccess::Key { .. } => "key",
            AdminAccess::LoopbackDefault => "default",
            AdminAccess::Disabled => "disabled",
        };
        assert_eq!(access(None, true), "default");
        assert_eq!(access(None, false), "disabled");
        assert_eq!(access(Some("admin-secret-key"), true), "default");
        assert_eq!(access(Some("admin-secret-key"), false), "disabled");
        assert_eq!(access(Some("short"), true), "key");
        assert_eq!(access(Some("short"), false), "disabled");
        assert_eq!(access(Some(&long[1..]), false), "disabled");
        assert_eq!(access(Some(&long), false), "key");
    }

    #[test]
    fn the_previous_admin_key_counts_by_the_same_rules_beside_the_key() {
        // Shows when ADMIN_KEY_PREVIOUS is good, and that the line for the log says so.
        let (long, other) = ("k".repeat(32), "o".repeat(32));
        let access = |key, previous: &str, loopback| {
            let mut config = config(Some(key));
            config.secrets.admin_key_previous = Some(Secret::new(previous));
            match config.admin_access(loopback) {
                (AdminAccess::Key { current, previous }, state) => {
                    assert_eq!(current.reveal(), key);
                    (previous.map(|key| key.reveal().to_owned()), state)
                }
                (_, state) => (None, state),
            }
        };
        for loopback in [true, false] {
            let (previous, state) = access(&long, &other, loopback);
            assert_eq!(previous.as_ref(), Some(&other));
            assert!(state.contains("ADMIN_KEY_PREVIOUS too"), "{state}");
            // The default key and the same key are none; without a key there is no previous one.
            for (key, previous, word) in [
                (&*long, DEFAULT_ADMIN_KEY, "everybody knows it"),
                (&*long, &*long, "is the same"),
                (DEFAULT_ADMIN_KEY, &*other, ""),
            ] {
                let (counts, state) = access(key, previous, loopback);
                assert_eq!(counts, None, "{state}");
                assert!(state.contains(word), "{state}");
            }
        }
        assert_eq!(access(&long, "short", true).0, Some("short".to_owned()));
        let (previous, state) = access(&long, &other[1..], false);
        assert_eq!(previous, None);
        assert!(state.contains("under 32 characters"), "{state}");
        assert_eq!(access("short", &other, false).0, None);
    }

    #[test]
    fn trusted_proxies_are_networks() {
        // Shows what is taken, that mapped IPv4 is IPv4, and that everybody is not.
        let parsed =
            parse_proxies(" 127.0.0.1, 10.1.2.3/8,,fd00::/8,::1,::ffff:192.0.2.0/120").unwrap();
        let contains = |text: &str| {
            let address: IpAddr = text.parse().unwrap();
            parsed.iter().any(|network| network.contains(&address))
        };
        for inside in ["127.0.0.1", "10.255.0.1", "fd12::1", "::1", "192.0.2.77"] {
            assert!(contains(inside), "{inside}");
        }
        for outside in ["127.0.0.2", "11.0.0.1", "fe80::1", "::2", "192.0.3.1"] {
            assert!(!contains(outside), "{outside}");
        }
        assert_eq!(parse_proxies(" , "), Ok(Vec::new()));
        for wrong in [
            "localhost",
            "10.0.0.0/33",
            "10.0.0",
            "0.0.0.0/0",
            "::/0",
            "10.0.0.1:80",
        ] {
            let error = parse_proxies(wrong).unwrap_err().0;
            assert!(error.contains("TRUSTED_PROXIES"), "{wrong}: {error}");
        }
    }

    #[test]
    fn webhooks_are_checked_and_their_urls_not_shown() {
        let parse = |urls: &[&str], private, secret| {
            let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
            parse_webhooks(&urls, private, secret)
        };
        let (one, two) = ("https://a.example/token-1", "https://a.example/token-2");
        let found = parse(&[one, "", " https://b.example "], false, true).unwrap();
        assert_eq!(found.endpoints.len(), 2);
        assert!(parse(&[""], false, false).unwrap().endpoints.is_empty());
        assert_eq!(
            parse(&["http://127.0.0.1:9/token"], true, true)
                .unwrap()
                .endpoints
                .len(),
            1
        );
        let many: Vec<String> = (0..9).map(|n| format!("https://a.example/{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(parse(&many[..8], false, true).unwrap().endpoints.len(), 8);
        let cases: [(&[&str], bool, &str); 6] = [
            (&[one], false, "WEBHOOK_SECRET"),
            (&[one, two, one], true, "number 3 is there twice"),
            (&["http://a.example/token"], true, "--webhook-allow-private"),
            (&["https://10.0.0.1/token"], true, "WEBHOOK_ALLOW_PRIVATE"),
            (
                &["https://me:token@a.example/"],
                true,
                "has a user or a password",
            ),
            (&many, true, "names 9 URLs; 8 is the most"),
        ];
        for (urls, secret, words) in cases {
            let error = parse(urls, false, secret).unwrap_err().0;
            assert!(
                error.contains("--webhook (WEBHOOKS)") && error.contains(words),
                "{error}"
            );
            assert!(
                !error.contains("token") && !error.contains(".example"),
                "{error}"
            );
        }
    }

    #[test]
    fn wrong_settings_are_named() {
        let open = |text: Option<&str>| {
            let names = text.map(parse_names);
            signup_plans(names.as_deref(), Plans::seed())
        };
        assert_eq!(open(Some(" Pro,,Free ")), Ok(vec![Plan::PRO, Plan::FREE]));
        assert_eq!(open(Some("")), Ok(vec![]));
        assert_eq!(open(None), Ok(vec![Plan::FREE, Plan::PRO, Plan::PREMIUM]));
        for (text, seconds) in [("30m", 1_800), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(parse_every(text), Ok(Duration::from_secs(seconds)));
        }
        for text in [
            "24",
            "h",
            "0m",
            "-1h",
            "1.5h",
            "24 h",
            "366d",
            "99999999999999999999d",
        ] {
            assert!(
                parse_every(text).unwrap_err().0.contains("BACKUP_EVERY"),
                "{text}"
            );
        }
        assert_eq!(
            open(Some("Gold")).unwrap_err().0,
            "--signup-plans (SIGNUP_PLANS) names \"Gold\"; the plans are Free, Pro, Premium"
        );
        for log in ["", "info", "DEBUG", "warn,memoryos::store=trace"] {
            assert_eq!(parse_log(log), Ok(()), "{log}");
        }
        for log in ["verbose", "=====", "memoryos=loud"] {
            assert!(parse_log(log).unwrap_err().0.contains("RUST_LOG"), "{log}");
        }
        assert_eq!(parse_url("https://a.b/c/"), Ok("https://a.b/c".to_owned()));
        for url in [
            "a.b",
            "ftp://a.b",
            "https://",
            "https://a.b/?x=1",
            "https://u:p@a.b",
        ] {
            assert!(
                parse_url(url).unwrap_err().0.contains("PUBLIC_URL"),
                "{url}"
            );
        }
    }
}
