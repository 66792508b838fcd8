//! The log: lines with times to standard error, panics included. Each is there at once, but for those of requests,
//! which are there within some milliseconds: see [`lines`].

mod lines;

use std::io::IsTerminal;

use log::{LevelFilter, Log, Metadata, Record};
use pretty_env_logger::env_logger::{Target, WriteStyle};

use lines::Lines;

/// Our own targets start with it.
const OURS: &str = "memoryos";
/// The target of the line that each request is.
pub const REQUESTS: &str = "memoryos::http::trace";

/// A log that never shows what a library says below info: warp's traces hold the segments of a path,
/// and a path can hold a key.
#[derive(Debug)]
struct Discreet<L> {
    logger: L,
    lines: Lines,
}

impl<L: Log> Log for Discreet<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_ours = metadata.target().starts_with(OURS);
        (is_ours || metadata.level() <= LevelFilter::Info) && self.logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.logger.log(record);
            if record.target() != REQUESTS {
                self.lines.write_out();
            }
        }
    }

    fn flush(&self) {
        self.lines.write_out();
    }
}

/// Starts the log. `RUST_LOG` sets what is shown, `info` if it is not set.
pub fn start() {
    let mut builder = pretty_env_logger::formatted_timed_builder();
    builder.filter_level(LevelFilter::Info);
    // sled tells of each recovered segment; nobody needs it.
    builder.filter_module("sled", LevelFilter::Warn);
    builder.parse_env("RUST_LOG");
    let lines = Lines::default();
    builder.target(Target::Pipe(Box::new(lines.clone())));
    builder.write_style(if std::io::stderr().is_terminal() {
        WriteStyle::Always
    } else {
        WriteStyle::Never
    });
    let logger = builder.build();
    let level = logger.filter();
    // A second start, in a test, keeps the first.
    let discreet = Discreet {
        logger,
        lines: lines.clone(),
    };
    if log::set_boxed_logger(Box::new(discreet)).is_ok() {
        lines.start();
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

/// Writes what the log still holds. To be called before the process ends.
pub fn end() {
    log::logger().flush();
}
