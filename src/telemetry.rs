//! The log: lines with times to standard error, panics included.

use log::{LevelFilter, Log, Metadata, Record};

/// Our own targets start with it.
const OURS: &str = "memoryos";

/// A log that never shows what a library says below info: warp's traces hold the segments of a path,
/// and a path can hold a key.
#[derive(Debug)]
struct Discreet<L>(L);

impl<L: Log> Log for Discreet<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_ours = metadata.target().starts_with(OURS);
        (is_ours || metadata.level() <= LevelFilter::Info) && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// Starts the log. `RUST_LOG` sets what is shown, `info` if it is not set.
pub fn start() {
    let mut builder = pretty_env_logger::formatted_timed_builder();
    builder.filter_level(LevelFilter::Info);
    // sled tells of each recovered segment; nobody needs it.
    builder.filter_module("sled", LevelFilter::Warn);
    builder.parse_env("RUST_LOG");
    let logger = builder.build();
    let level = logger.filter();
    // A second start, in a test, keeps the first.
    if log::set_boxed_logger(Box::new(Discreet(logger))).is_ok() {
        log::set_max_level(level);
    }
    std::panic::set_hook(Box::new(|panic| {
        let at = panic
            .location()
            .map_or_else(String::new, ToString::to_string);
        // The payload can hold what a client sent: the place is enough to find the fault.
        log::error!("panic at {at}");
    }));
}
