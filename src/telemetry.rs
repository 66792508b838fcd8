//! The log: lines with times to standard error, panics included.

/// Starts the log. `RUST_LOG` sets what is shown, `info` if it is not set.
pub fn start() {
    let mut builder = pretty_env_logger::formatted_timed_builder();
    builder.filter_level(log::LevelFilter::Info);
    // sled tells of each recovered segment; nobody needs it.
    builder.filter_module("sled", log::LevelFilter::Warn);
    builder.parse_env("RUST_LOG");
    // A second start, in a test, keeps the first.
    let _ = builder.try_init();
    std::panic::set_hook(Box::new(|panic| {
        let at = panic
            .location()
            .map_or_else(String::new, ToString::to_string);
        // The payload can hold what a client sent: the place is enough to find the fault.
        log::error!("panic at {at}");
    }));
}
