//! What must hold for any bytes that come from outside: one function for each place where they come in.
//!
//! Each takes bytes, does with them what the service would, and returns what does not hold. `cargo fuzz`
//! runs them (`fuzz/README.md`), and so do plain tests, over the committed corpora and over random changes of
//! them. Built for these two only: the program that is shipped has none of it.

#[cfg(test)]
mod tests;

/// What did not hold, as a sentence for whoever mends it.
pub type Outcome = Result<(), String>;

/// Something that bytes are given to, and its name.
pub type Target = (&'static str, fn(&[u8]) -> Outcome);

/// Every target: its name, which is that of its corpus, and its function.
pub const TARGETS: [Target; 6] = [
    ("credentials", crate::http::fuzzing::credentials),
    ("paths", crate::http::fuzzing::paths),
    ("query", crate::http::fuzzing::query),
    ("memory_body", crate::http::fuzzing::memory_body),
    ("import_files", crate::import::fuzzing::import_files),
    ("stored_records", crate::store::fuzzing::stored_records),
];

/// Runs a target by its name.
///
/// # Errors
///
/// What does not hold, or that there is no such target.
pub fn run(name: &str, bytes: &[u8]) -> Outcome {
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    let (_, target) = target.ok_or_else(|| format!("there is no target {name}"))?;
    target(bytes)
}

/// Ends a target unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}
pub(crate) use ensure;
