//! MemoryOS: which segments are drained, so that their space can be used again.
//!
//! To drain a segment, the pages that are live in it are written anew. Upstream
//! drains each segment that is half empty, so it writes a byte for each that it
//! wins, and most of those segments would have become emptier by themselves.
//! Here segments are drained only when too little of the file is live, and then
//! those that cost least.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Percent of the segments' bytes that are live, at least: less, and the
/// emptiest are drained.
const LIVE_PERCENT: usize = 50;

/// Returns the segments to drain: the emptiest, until enough of the rest is
/// live. `segments` are those that are full, each with its live bytes.
///
/// None that is drained has more live bytes than the rest have on average, so
/// each drained segment wins space.
pub(super) fn to_drain(
    segments: impl Iterator<Item = (usize, usize)>,
    segment_size: usize,
) -> Vec<usize> {
    let mut emptiest: BinaryHeap<_> = segments.map(|(id, live)| Reverse((live, id))).collect();
    let mut live: usize = emptiest.iter().map(|Reverse((live, _))| live).sum();
    let mut drained = vec![];
    while live * 100 < emptiest.len() * segment_size * LIVE_PERCENT {
        let Some(Reverse((its, id))) = emptiest.pop() else {
            break;
        };
        live -= its;
        drained.push(id);
    }
    drained
}
