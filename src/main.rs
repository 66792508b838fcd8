//! The binary `memoryos`.

use std::process::ExitCode;

fn main() -> ExitCode {
    memoryos::cli::run()
}
