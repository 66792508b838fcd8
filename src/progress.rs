//! Bars on standard error, for commands that take a while; none if that is no terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that shows how far a command is.
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Bar {
    /// Makes a bar with a word in front. Nothing is shown before it is told something.
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        let bar = ProgressBar::new(0).with_message(what);
        Self(
            match ProgressStyle::with_template("{msg:>10} {bar:40} {human_pos}/{human_len} {eta}") {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            },
        )
    }

    /// Shows that `done` of `all` are done.
    pub fn show(&self, done: u64, all: u64) {
        self.0.set_length(all);
        self.0.set_position(done);
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}
