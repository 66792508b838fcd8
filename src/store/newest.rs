//! The first page of accounts' memories, as it was read last: what assistants ask for all day.
//!
//! While a memory of an account is being written, none of its pages is kept or given: from the moment at which
//! somebody may have seen the write, nobody sees a page from before it.

use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard};

use foldhash::HashMap;
use foldhash::fast::RandomState;
use lru::LruCache;

use crate::domain::account::AccountKey;

use super::StoreError;
use super::locks::lock;
use super::memories::Page;

const STRIPES: usize = 64;
/// Largest page that is kept, in bytes.
const PAGE_BYTES_MAX: usize = 256 << 10;

/// First pages by account, a bounded number of bytes.
#[derive(Debug)]
pub(super) struct NewestPages {
    stripes: [Mutex<Stripe>; STRIPES],
    hasher: RandomState,
    /// Most bytes of the pages of one stripe.
    bytes_max: usize,
}

#[derive(Debug)]
struct Stripe {
    pages: LruCache<AccountKey, FirstPage>,
    /// Bytes of all pages.
    bytes: usize,
    /// How many writes of an account are under way.
    writing: HashMap<AccountKey, usize>,
    /// How many writes have ended.
    written: u64,
}

#[derive(Debug)]
struct FirstPage {
    /// How many memories were asked for.
    limit: usize,
    page: Arc<Page>,
}

impl NewestPages {
    /// Makes room for `bytes` of pages, about.
    pub(super) fn new(bytes: usize) -> Self {
        let stripe = || Stripe {
            pages: LruCache::unbounded(),
            bytes: 0,
            writing: HashMap::default(),
            written: 0,
        };
        Self {
            stripes: std::array::from_fn(|_| Mutex::new(stripe())),
            hasher: RandomState::default(),
            bytes_max: bytes / STRIPES,
        }
    }

    #[expect(
        clippy::indexing_slicing,
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "a remainder is below what it was divided by"
    )]
    fn stripe(&self, account: AccountKey) -> MutexGuard<'_, Stripe> {
        lock(&self.stripes[self.hasher.hash_one(account) as usize % STRIPES])
    }

    /// Returns the first page of an account, `limit` memories long; `read` reads it if it is not kept.
    pub(super) fn read(
        &self,
        account: AccountKey,
        limit: usize,
        read: impl FnOnce() -> Result<Page, StoreError>,
    ) -> Result<Arc<Page>, StoreError> {
        let begun = {
            let mut stripe = self.stripe(account);
            if let Some(page) = stripe.kept(account, limit) {
                return Ok(page);
            }
            stripe.written
        };
        let page = Arc::new(read()?);
        let mut stripe = self.stripe(account);
        // A write that ended, or goes on: the page may be from before it.
        if stripe.written == begun && !stripe.writing.contains_key(&account) {
            stripe.keep(account, limit, Arc::clone(&page), self.bytes_max);
        }
        Ok(page)
    }

    /// Returns the first page of an account, `limit` memories long, if it is kept.
    pub(super) fn kept(&self, account: AccountKey, limit: usize) -> Option<Arc<Page>> {
        self.stripe(account).kept(account, limit)
    }

    /// Takes away what is kept of an account, and keeps nothing of it as long as what is returned lives.
    pub(super) fn writing(&self, account: AccountKey) -> Writing<'_> {
        let mut stripe = self.stripe(account);
        stripe.forget(account);
        let under_way = stripe.writing.entry(account).or_default();
        *under_way = under_way.saturating_add(1);
        Writing {
            pages: self,
            account,
        }
    }
}

impl Stripe {
    fn kept(&mut self, account: AccountKey, limit: usize) -> Option<Arc<Page>> {
        let kept = self.pages.get(&account)?;
        (kept.limit == limit).then(|| Arc::clone(&kept.page))
    }

    fn forget(&mut self, account: AccountKey) {
        if let Some(gone) = self.pages.pop(&account) {
            self.bytes = self.bytes.saturating_sub(gone.page.entries.len());
        }
    }

    fn keep(&mut self, account: AccountKey, limit: usize, page: Arc<Page>, bytes_max: usize) {
        self.forget(account);
        let bytes = page.entries.len();
        if bytes > PAGE_BYTES_MAX.min(bytes_max) {
            return;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.pages.push(account, FirstPage { limit, page });
        while self.bytes > bytes_max
            && let Some((_, oldest)) = self.pages.pop_lru()
        {
            self.bytes = self.bytes.saturating_sub(oldest.page.entries.len());
        }
    }
}

/// A write to an account's memories that is under way.
pub(super) struct Writing<'a> {
    pages: &'a NewestPages,
    account: AccountKey,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut stripe = self.pages.stripe(self.account);
        stripe.written = stripe.written.wrapping_add(1);
        if let Some(under_way) = stripe.writing.get_mut(&self.account) {
            *under_way = under_way.saturating_sub(1);
            if *under_way == 0 {
                stripe.writing.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AL: AccountKey = AccountKey([1; 16]);

    fn page(entries: &str) -> Page {
        Page {
            entries: entries.to_owned(),
            count: 1,
            next: None,
        }
    }

    /// What a reader gets who would read `otherwise`.
    fn seen(pages: &NewestPages, limit: usize, otherwise: &str) -> String {
        let read = pages.read(AL, limit, || Ok(page(otherwise)));
        read.unwrap().entries.clone()
    }

    #[test]
    fn a_page_is_kept_until_something_is_written() {
        // Shows that a page is read once for a limit, and anew after a write.
        let pages = NewestPages::new(1 << 20);
        assert_eq!(seen(&pages, 20, "one"), "one");
        assert_eq!(seen(&pages, 20, "two"), "one");
        assert_eq!(seen(&pages, 50, "three"), "three");
        drop(pages.writing(AL));
        assert_eq!(seen(&pages, 50, "four"), "four");
    }

    #[test]
    fn nothing_is_kept_from_beside_a_write() {
        // Shows that what was read while a write was under way, before its end or around it, is not kept.
        let pages = NewestPages::new(1 << 20);
        let write = pages.writing(AL);
        let other = pages.writing(AL);
        assert_eq!(seen(&pages, 20, "during"), "during");
        drop(other);
        assert_eq!(seen(&pages, 20, "still"), "still");
        drop(write);
        assert_eq!(seen(&pages, 20, "after"), "after");
        drop(pages.writing(AL));
        let around = pages.read(AL, 20, || {
            drop(pages.writing(AL));
            Ok(page("around"))
        });
        assert_eq!(around.unwrap().entries, "around");
        let into = pages.read(AL, 20, || {
            std::mem::forget(pages.writing(AL));
            Ok(page("into"))
        });
        assert_eq!(into.unwrap().entries, "into");
        assert_eq!(seen(&pages, 20, "new"), "new");
    }

    #[test]
    fn pages_take_no_more_than_their_bytes() {
        // Shows that old pages go, and that one too large is not kept at all.
        let pages = NewestPages::new(STRIPES * 1_000);
        for number in 0..10_000u32 {
            let account = AccountKey::new(number.into(), 0);
            pages
                .read(account, 20, || Ok(page(&"x".repeat(300))))
                .unwrap();
        }
        for stripe in &pages.stripes {
            let stripe = lock(stripe);
            assert_eq!((stripe.bytes, stripe.pages.len()), (900, 3));
        }
        assert_eq!(seen(&pages, 20, &"y".repeat(1_001)).len(), 1_001);
        assert_eq!(seen(&pages, 20, "small"), "small");
    }
}
