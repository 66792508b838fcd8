//! What "on the disk" means: `fdatasync`.
//!
//! sled 0.34 calls `sync_file_range` after it has written its log, which empties neither the disk's
//! write cache nor the file's metadata: what was acknowledged could be lost with the power. The symbol
//! is defined here instead, so that sled's call links to ours, and ours is `fdatasync`. A failure
//! reaches sled as one and stops its writes. [`flushes`] lets the store prove at each start that the
//! replacement is in the binary.

use std::sync::atomic::{AtomicU64, Ordering};

static FLUSHES: AtomicU64 = AtomicU64::new(0);

/// Returns how often the database has had its log made durable in this process.
pub(crate) fn flushes() -> u64 {
    FLUSHES.load(Ordering::Relaxed)
}

/// Takes the place of the C library's function for this process; see the module.
///
/// # Safety
///
/// As `fdatasync`: none beyond `fd` being a number.
#[expect(
    unsafe_code,
    reason = "the one place: sled offers no other way to a durable flush"
)]
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn sync_file_range(
    fd: libc::c_int,
    _offset: libc::off64_t,
    _bytes: libc::off64_t,
    _flags: libc::c_uint,
) -> libc::c_int {
    FLUSHES.fetch_add(1, Ordering::Relaxed);
    // SAFETY: fdatasync takes any number, and says EBADF for one that is no descriptor.
    unsafe { libc::fdatasync(fd) }
}
