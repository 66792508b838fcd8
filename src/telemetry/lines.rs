//! Lines on their way to standard error: a thread writes them, many at a time, so that no request waits for
//! whoever reads the log.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest time for which a line is not written.
const TICK: Duration = Duration::from_millis(10);
/// Bytes from which on whoever logs writes them himself: a log that nobody reads does not grow for ever.
const BYTES_MAX: usize = 1 << 20;

/// Lines that are not written yet. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    called: Condvar,
    /// Held by whoever writes, so that lines keep their order.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Whether the thread sleeps until it is called.
    is_idle: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lines {
    /// Starts the thread. Without one, if the machine has none left, lines are written when they are many, or another
    /// comes that is written at once.
    pub(super) fn start(&self) {
        let writer = self.clone();
        let thread = std::thread::Builder::new().name("log".to_owned());
        drop(thread.spawn(move || writer.write_for_ever()));
    }

    /// Writes what waits.
    pub(super) fn write_out(&self) {
        let _writing = lock(&self.0.writing);
        let bytes = std::mem::take(&mut lock(&self.0.waiting).bytes);
        // A log that cannot be written is nothing that a log could tell.
        let _ = io::stderr().lock().write_all(&bytes);
    }

    fn write_for_ever(&self) {
        loop {
            let mut waiting = lock(&self.0.waiting);
            waiting.is_idle = true;
            let called = self.0.called.wait_while(waiting, |w| w.bytes.is_empty());
            called.unwrap_or_else(PoisonError::into_inner).is_idle = false;
            std::thread::sleep(TICK);
            self.write_out();
        }
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = lock(&self.0.waiting);
        waiting.bytes.extend_from_slice(line);
        let (is_idle, is_full) = (waiting.is_idle, waiting.bytes.len() >= BYTES_MAX);
        drop(waiting);
        if is_idle {
            self.0.called.notify_one();
        }
        if is_full {
            self.write_out();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
