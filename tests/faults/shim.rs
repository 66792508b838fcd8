//! Faults below the store, for tests of the real process: a library for `LD_PRELOAD` that stands between the
//! binary and the C library's `pwrite64`, `fsync`, `fdatasync` and `clock_gettime`.
//!
//! A test makes a file of [`SLOTS`] little-endian numbers of 64 bits, names it in `FAULTS_FILE`, and changes it
//! while the process runs; both map it. Only files below `FAULTS_ROOT` are touched.
//!
//! | slot | meaning |
//! | --- | --- |
//! | 0, 1 | writes to the database so far; syncs so far |
//! | 2, 3 | writes from this number on fail, up to (not including) that one |
//! | 4, 5 | the same of syncs |
//! | 6 | errno of a failure |
//! | 7 | how a sync fails: 0 without doing anything, 1 after it was done |
//! | 8 | how a write fails: 0 without doing anything, 1 with half of the bytes written |
//! | 9 | while it is not 0, syncs wait |
//! | 10 | nanoseconds, signed, that the time of day is ahead |
//! | 11 | 0: syncs of every file below the root count; 1: of the database's log only |
//! | 12 | while it is not 0, syncs from this number on wait |

#![expect(
    unsafe_code,
    reason = "a library that takes the C library's place speaks its language"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "the environment is how it is told"
)]

use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Numbers in the file.
const SLOTS: usize = 16;

const WRITES: usize = 0;
const SYNCS: usize = 1;
const WRITE_FROM: usize = 2;
const WRITE_UNTIL: usize = 3;
const SYNC_FROM: usize = 4;
const SYNC_UNTIL: usize = 5;
const ERRNO: usize = 6;
const SYNC_MODE: usize = 7;
const WRITE_MODE: usize = 8;
const HANG: usize = 9;
const CLOCK_AHEAD: usize = 10;
const LOG_ONLY: usize = 11;
const HANG_FROM: usize = 12;
const HELD: usize = 13;

struct Control {
    slots: &'static [AtomicU64; SLOTS],
    root: String,
}

impl Control {
    fn slot(&self, slot: usize) -> &AtomicU64 {
        self.slots.get(slot).unwrap_or(&self.slots[0])
    }

    fn get(&self, slot: usize) -> u64 {
        self.slot(slot).load(Ordering::Acquire)
    }

    /// Counts one more; says whether it is one of those that fail.
    fn fails(&self, counter: usize, from: usize, until: usize) -> bool {
        let number = self.slot(counter).fetch_add(1, Ordering::AcqRel);
        (self.get(from)..self.get(until)).contains(&number)
    }

    /// Says whether the descriptor is of a file below the root; `database` for the database's log only.
    fn concerns(&self, fd: i32, database: bool) -> bool {
        let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
        path.starts_with(&self.root) && (!database || path.ends_with("db/db"))
    }
}

/// Returns the control, if the process was given one.
fn control() -> Option<&'static Control> {
    static CONTROL: OnceLock<Option<Control>> = OnceLock::new();
    CONTROL.get_or_init(open).as_ref()
}

fn open() -> Option<Control> {
    let (path, root) = (
        std::env::var("FAULTS_FILE").ok()?,
        std::env::var("FAULTS_ROOT").ok()?,
    );
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .ok()?;
    let bytes = SLOTS.checked_mul(size_of::<AtomicU64>())?;
    let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a new mapping of a file that is open for both; nothing else in this process knows of it.
    let map = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            access,
            shared,
            file.as_raw_fd(),
            0,
        )
    };
    if map == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the mapping is page-aligned, as long as the array, never unmapped, and used by atomics only.
    let slots = unsafe { &*map.cast::<[AtomicU64; SLOTS]>() };
    Some(Control { slots, root })
}

fn fail(control: &Control) {
    let errno = i32::try_from(control.get(ERRNO)).unwrap_or(libc::EIO);
    // SAFETY: the C library's own variable of this thread.
    unsafe { *libc::__errno_location() = errno };
}

/// Takes the place of `pwrite64`.
///
/// # Safety
///
/// As the original.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(
    fd: libc::c_int,
    bytes: *const libc::c_void,
    length: libc::size_t,
    offset: libc::off64_t,
) -> libc::ssize_t {
    let mut length = length;
    if let Some(control) = control()
        && control.concerns(fd, true)
        && control.fails(WRITES, WRITE_FROM, WRITE_UNTIL)
    {
        if control.get(WRITE_MODE) == 0 || length < 2 {
            fail(control);
            return -1;
        }
        // The rest is asked for again, and that call fails.
        length /= 2;
        control.slot(WRITE_MODE).store(0, Ordering::Release);
        control.slot(WRITE_UNTIL).fetch_add(1, Ordering::AcqRel);
    }
    // SAFETY: the caller's promise, handed on.
    let written = unsafe { libc::syscall(libc::SYS_pwrite64, fd, bytes, length, offset) };
    libc::ssize_t::try_from(written).unwrap_or(-1)
}

fn sync(fd: i32, number: libc::c_long) -> i32 {
    // SAFETY: takes any number, and says EBADF for one that is no descriptor.
    let really = || i32::try_from(unsafe { libc::syscall(number, fd) }).unwrap_or(-1);
    let is_meant = |control: &&Control| control.concerns(fd, control.get(LOG_ONLY) != 0);
    let Some(control) = control().filter(is_meant) else {
        return really();
    };
    let hangs = || {
        let from = control.get(HANG_FROM);
        control.get(HANG) != 0 || (from != 0 && control.get(SYNCS) >= from)
    };
    if hangs() {
        control.slot(HELD).fetch_add(1, Ordering::SeqCst);
    }
    while hangs() {
        std::thread::sleep(Duration::from_millis(5));
    }
    if !control.fails(SYNCS, SYNC_FROM, SYNC_UNTIL) {
        return really();
    }
    if control.get(SYNC_MODE) == 1 {
        really();
    }
    fail(control);
    -1
}

/// Takes the place of `fdatasync`.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: libc::c_int) -> libc::c_int {
    sync(fd, libc::SYS_fdatasync)
}

/// Takes the place of `fsync`.
#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: libc::c_int) -> libc::c_int {
    sync(fd, libc::SYS_fsync)
}

/// Takes the place of `clock_gettime`: the time of day is moved, all other clocks are as they are.
///
/// # Safety
///
/// As the original.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    const SECOND: i64 = 1_000_000_000;
    // SAFETY: the caller's promise, handed on.
    let outcome = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    if outcome == 0
        && clock == libc::CLOCK_REALTIME
        && let Some(control) = control()
    {
        let ahead = control.get(CLOCK_AHEAD).cast_signed();
        // SAFETY: the call above has filled it.
        let time = unsafe { &mut *time };
        let nanos = time.tv_nsec.saturating_add(ahead.rem_euclid(SECOND));
        time.tv_sec = time
            .tv_sec
            .saturating_add(ahead.div_euclid(SECOND))
            .saturating_add(nanos.div_euclid(SECOND));
        time.tv_nsec = nanos.rem_euclid(SECOND);
    }
    i32::try_from(outcome).unwrap_or(-1)
}
