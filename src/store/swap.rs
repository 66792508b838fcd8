//! The one compare-and-swap loop of the crate.

use super::error::StoreError;

/// Attempts before the account's lock takes over.
const ATTEMPTS_MAX: u32 = 64;

/// Why a swap did not happen.
#[derive(Debug)]
pub(crate) enum SwapError<E> {
    /// The rules said no.
    Refused(E),
    /// Every attempt lost a race; nothing was changed. The caller takes the account's lock and tries again.
    Contended,
    /// The store failed.
    Failed(StoreError),
}

impl<E> From<StoreError> for SwapError<E> {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl<E> From<sled::Error> for SwapError<E> {
    fn from(error: sled::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Changes the value under one key with `step`, which sees the current value and returns the next one
/// (`None` removes it) and a result. `step` runs again when another thread was faster, 64 times at most.
pub(crate) fn swap<T, E>(
    tree: &sled::Tree,
    key: &[u8],
    mut step: impl FnMut(Option<&[u8]>) -> Result<(Option<Vec<u8>>, T), SwapError<E>>,
) -> Result<T, SwapError<E>> {
    let mut current = tree.get(key)?;
    until_won(|| {
        let (next, result) = step(current.as_deref())?;
        match tree.compare_and_swap(key, current.as_deref(), next)? {
            Ok(()) => Ok(result),
            Err(lost) => {
                current = lost.current;
                Err(SwapError::Contended)
            }
        }
    })
}

/// Runs a swap until it wins its race, [`ATTEMPTS_MAX`] times at most.
pub(crate) fn until_won<T, E>(
    mut attempt: impl FnMut() -> Result<T, SwapError<E>>,
) -> Result<T, SwapError<E>> {
    for _ in 0..ATTEMPTS_MAX {
        match attempt() {
            Err(SwapError::Contended) => {}
            outcome => return outcome,
        }
    }
    Err(SwapError::Contended)
}
