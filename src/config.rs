//! Every setting of the server: its flag, its variable, its default. The only reader of the environment.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::app::{AdminAccess, DEFAULT_ADMIN_KEY};
use crate::domain::key::{KNOWN_KEY, Secret};
use crate::domain::plan::{Plan, Plans};

/// The shortest admin key that counts off loopback.
const ADMIN_KEY_CHARS_MIN: usize = 32;

/// A setting that the server cannot start with; a sentence that names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Where the data is.
#[derive(Debug, Clone, Args)]
pub struct DataArgs {
    /// Directory of the database; `serve` and `import` make it if it is not there.
    #[arg(long, env = "DATA_DIR", default_value = "./data", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Page cache in MiB. Memory in use is about 1.5 times that, and 35 MB for each
    /// million memories; 8 to 65536.
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
    /// Where the data is.
    #[command(flatten)]
    pub data: DataArgs,
    /// Plans that anybody can sign up for, separated by commas; empty closes sign-up.
    #[arg(
        long,
        env = "SIGNUP_PLANS",
        default_value = "Free,Pro,Premium",
        value_name = "PLANS"
    )]
    pub signup_plans: String,
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
}

/// Secrets, from the environment or a file only: a flag would show in the list of processes.
#[derive(Debug, Default)]
pub struct Secrets {
    /// `ADMIN_KEY`, or what is in the file `ADMIN_KEY_FILE`.
    pub admin_key: Option<Secret>,
    /// `JAVLIN_API_KEY`.
    pub api_key: Option<Secret>,
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
    /// Plans open to sign-up.
    pub signup_plans: Vec<Plan>,
    /// See [`crate::app::Settings::public_url`].
    pub public_url: Option<String>,
    /// Largest body in bytes.
    pub body_bytes_max: usize,
    /// Most connections.
    pub connections_max: usize,
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
    /// See [`crate::store::Options::on_hung_disk`].
    pub on_hung_disk: fn(),
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
            signup_plans: parse_plans(&args.signup_plans)?,
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
            on_hung_disk: || {},
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
            (Some(key), false) if key.reveal().chars().count() < ADMIN_KEY_CHARS_MIN => (
                AdminAccess::Disabled,
                "off: ADMIN_KEY has under 32 characters, too few off loopback",
            ),
            (Some(key), _) => (AdminAccess::Key(key.clone()), "on, with ADMIN_KEY"),
            (None, _) => without_key(loopback),
        }
    }
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

fn parse_plans(text: &str) -> Result<Vec<Plan>, ConfigError> {
    let names = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    names
        .map(|name| {
            Plans::seed().get(name).map_err(|_| {
                ConfigError(format!(
                    "--signup-plans (SIGNUP_PLANS) names {name:?}; the plans are Free, Pro and Premium"
                ))
            })
        })
        .collect()
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
        let admin_key = match (variable("ADMIN_KEY")?, variable("ADMIN_KEY_FILE")?) {
            (Some(_), Some(_)) => {
                return Err(ConfigError(
                    "ADMIN_KEY and ADMIN_KEY_FILE are both set; set one of them".to_owned(),
                ));
            }
            (None, Some(path)) => Some(read_key_file(&path)?),
            (key, None) => key,
        };
        if admin_key.as_ref().is_some_and(|key| !is_visible_ascii(key)) {
            return Err(ConfigError(
                "the admin key (ADMIN_KEY, ADMIN_KEY_FILE) must be visible ASCII characters"
                    .to_owned(),
            ));
        }
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
        Ok(Self {
            admin_key: admin_key.map(Secret::new),
            api_key: api_key.map(Secret::new),
        })
    }
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

fn read_key_file(path: &str) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError(format!("ADMIN_KEY_FILE {path} cannot be read: {error}")))?;
    let key = text.trim();
    if key.is_empty() {
        return Err(ConfigError(format!("ADMIN_KEY_FILE {path} is empty")));
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
            signup_plans: Vec::new(),
            public_url: None,
            body_bytes_max: 0,
            connections_max: 0,
            idle: Duration::ZERO,
            drain: Duration::ZERO,
            backup_dir: None,
            backup_every: None,
            backup_keep: 1,
            min_free_bytes: 0,
            on_hung_disk: || {},
            secrets: Secrets {
                admin_key: admin_key.map(Secret::new),
                api_key: None,
            },
        }
    }

    #[test]
    fn the_default_admin_key_is_for_loopback_only() {
        let long = "k".repeat(32);
        let access = |key, loopback| match config(key).admin_access(loopback).0 {
            AdminAccess::Key(_) => "key",
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
    fn wrong_settings_are_named() {
        assert_eq!(parse_plans(" Pro,,Free "), Ok(vec![Plan::PRO, Plan::FREE]));
        assert_eq!(parse_plans(""), Ok(vec![]));
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
        assert!(parse_plans("Gold").unwrap_err().0.contains("SIGNUP_PLANS"));
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
