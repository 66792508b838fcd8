//! MemoryOS: the log's file grows ahead of its writes.
//!
//! A flush that makes a file longer has to write the file system's journal as
//! well, which takes half as long again as the flush alone. So the file grows
//! by pieces of zeros, before the write that needs the room; the flushes that
//! follow find it there. The zeros read as what is behind the end of a file
//! does: as no message.

use std::convert::TryFrom;
use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};

use super::{LogOffset, pwrite_all};

/// What the file grows by: less, and more flushes write the journal; more,
/// and whoever flushes meanwhile waits longer for the zeros.
const PIECE: LogOffset = 256 * 1024;

/// How far the file has grown: nothing was ever written behind that.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// Not known before the first write.
    end: Mutex<Option<LogOffset>>,
}

impl Growth {
    /// Makes room for a write that ends at `end`, which is about to be made.
    ///
    /// All writes of messages ask here first. So whoever is let through to
    /// write into a piece finds its zeros written, and no zero is written over
    /// a message. A failure is left to the write that follows: it has the same
    /// file and the same disk.
    pub(super) fn reach(&self, file: &File, segment_size: usize, end: LogOffset) -> io::Result<()> {
        let mut grown = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let from = match *grown {
            Some(from) => from,
            None => *grown.insert(file.metadata()?.len()),
        };
        if end > from {
            // Pieces divide segments: none reaches into one that is not in use.
            let piece = PIECE.min(LogOffset::try_from(segment_size).unwrap());
            let to = end.next_multiple_of(piece);
            let is_room = write_zeros(file, from, to).is_ok();
            *grown = Some(if is_room { to } else { end });
        }
        Ok(())
    }

    /// The file is about to be cut off at `end`.
    pub(super) fn cut(&self, end: LogOffset) {
        let mut grown = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        *grown = grown.map(|before| before.min(end));
    }
}

fn write_zeros(file: &File, mut from: LogOffset, to: LogOffset) -> io::Result<()> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

    while from < to {
        let len = ZEROS.len().min(usize::try_from(to - from).unwrap());
        pwrite_all(file, &ZEROS[..len], from)?;
        from += LogOffset::try_from(len).unwrap();
    }
    Ok(())
}
