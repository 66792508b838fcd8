//! What commands say: answers on standard output, errors on standard error.
//!
//! Neither may end a command half way. What is asked of the data is done whoever listens; that an answer could
//! not be written is found out at the end and then is an error, but for a reader who has seen enough (`| head`).

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use super::EXIT_FAILURE;

/// Where a command's answer goes: standard output, but in tests.
pub(super) struct Out<W = io::Stdout> {
    to: RefCell<W>,
    /// Why nothing more is written.
    failed: RefCell<Option<io::Error>>,
}

/// The answer could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
struct Unwritten(#[source] io::Error);

impl Out {
    pub(super) fn stdout() -> Self {
        Self::new(io::stdout())
    }
}

impl<W: Write> Out<W> {
    const fn new(to: W) -> Self {
        Self {
            to: RefCell::new(to),
            failed: RefCell::new(None),
        }
    }

    /// Writes a text and the end of its line.
    pub(super) fn line(&self, text: fmt::Arguments<'_>) {
        self.text(format_args!("{text}\n"));
    }

    /// Writes a text as it is. Nothing after the first failure.
    pub(super) fn text(&self, text: fmt::Arguments<'_>) {
        if self.is_open() {
            let written = self.to.borrow_mut().write_fmt(text);
            self.note(written);
        }
    }

    /// Writes what cannot be said again, and says whether it arrived; also a reader who has gone is an error.
    pub(super) fn once(&self, text: &str) -> io::Result<()> {
        let mut to = self.to.borrow_mut();
        writeln!(to, "{text}").and_then(|()| to.flush())
    }

    /// Says whether anything can still be written: else a long answer need not be made.
    pub(super) fn is_open(&self) -> bool {
        self.failed.borrow().is_none()
    }

    fn note(&self, written: io::Result<()>) {
        if let Err(error) = written {
            self.failed.borrow_mut().get_or_insert(error);
        }
    }

    /// Returns why the answer is not all written, if that is an error.
    fn failure(self) -> Option<io::Error> {
        if self.is_open() {
            let flushed = self.to.borrow_mut().flush();
            self.note(flushed);
        }
        let failed = self.failed.into_inner();
        failed.filter(|error| error.kind() != ErrorKind::BrokenPipe)
    }

    /// Ends a command: with its own code, or with a failure if its answer could not be written.
    pub(super) fn end(self, code: ExitCode) -> ExitCode {
        match self.failure() {
            Some(error) => fail(EXIT_FAILURE, &Unwritten(error)),
            None => code,
        }
    }
}

/// Says why a command failed, with the causes that the text does not name itself.
pub(super) fn fail(code: u8, error: &dyn Error) -> ExitCode {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    // What the log has said came before.
    crate::telemetry::end();
    beside(format_args!("memoryos: {text}"));
    ExitCode::from(code)
}

/// Writes a line to standard error.
pub(super) fn beside(line: fmt::Arguments<'_>) {
    // The exit code still tells of it.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Shows what clap has to say instead of a command: help, the version, or what is wrong with the arguments.
pub(super) fn told(said: &clap::Error, usage: u8) -> ExitCode {
    let out = Out::stdout();
    let printed = said.print();
    if said.use_stderr() {
        return ExitCode::from(usage);
    }
    out.note(printed);
    out.end(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that holds so many bytes and refuses more in that way.
    struct Bounded(usize, ErrorKind, Vec<u8>);

    impl Write for Bounded {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.2.len() + bytes.len() > self.0 {
                return Err(self.1.into());
            }
            self.2.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_a_failure_and_a_reader_who_left_is_none() {
        for (kind, failure) in [
            (ErrorKind::StorageFull, Some(ErrorKind::StorageFull)),
            (ErrorKind::BrokenPipe, None),
        ] {
            let out = Out::new(Bounded(7, kind, Vec::new()));
            out.line(format_args!("a{}", 1));
            assert!(out.is_open());
            out.line(format_args!("longer than that"));
            assert!(!out.is_open());
            // It would fit, but after a gap nothing follows.
            out.line(format_args!("b"));
            assert_eq!(out.to.borrow().2, b"a1\n");
            assert_eq!(out.once("secret").map_err(|e| e.kind()), Err(kind));
            assert_eq!(out.failure().map(|error| error.kind()), failure);
        }
    }
}
