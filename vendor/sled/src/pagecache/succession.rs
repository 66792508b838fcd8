//! MemoryOS: the next version of a leaf takes over the items of the one before it.
//!
//! Upstream clones a leaf for each link: a reference count up for every value
//! now, and down when the old version is freed, most of them in memory that no
//! cache holds. Here the next version is made of the same bits, and the two
//! share one ownership: the old version has it until the next one is
//! installed, and from then on the next one. Whoever has not got it is freed
//! without its items.
//!
//! A version that was replaced is freed when nobody can look at it any more,
//! after every version before it; so a value that a later link has replaced
//! outlives all who can reach it.

use crate::{node::Leaf, *};

use super::{CacheInfo, Page, Update};

/// What one of two versions of a leaf has and the other has not.
#[derive(Debug, Clone, Copy)]
enum Own {
    All,
    Nothing,
    /// The value of the item at this place.
    Value(usize),
    /// Its key as well.
    Item(usize),
}

/// The next version of a node, not installed yet. Dropped, it is freed
/// without what it has of the old version.
pub(super) struct Successor {
    /// Nothing once it is installed.
    page: Option<Owned<Page>>,
    /// What only it has.
    own: Own,
    /// What only the old version has.
    of_old: Own,
}

impl Successor {
    /// Makes the next version of any node, which shares nothing with the one
    /// before it.
    pub(super) fn whole(node: Node) -> Successor {
        Successor { page: Some(page_of(node)), own: Own::All, of_old: Own::All }
    }

    /// Makes the next version of a leaf. `None` if `old` is none, or the link
    /// is not one of an item.
    pub(super) fn of(old: &Node, link: &Link) -> Option<Successor> {
        let leaf = match old.data {
            Data::Leaf(ref leaf) => leaf,
            Data::Index(_) => return None,
        };
        let key = match link {
            Link::Set(key, _) | Link::Del(key) => key,
            _ => return None,
        };
        assert!(
            !old.merging,
            "somehow a link was applied to a node after it was merged"
        );
        if !old.hi.is_empty() {
            assert!(**key < old.hi[old.prefix_len as usize..]);
        }

        let found = leaf.keys.binary_search_by(|k| fastcmp(k, key));
        let (mut own, mut of_old) = (Own::Nothing, Own::Nothing);
        // SAFETY: nothing from here on can fail or panic before all is in the
        // `Successor`, which knows what it owns.
        let (mut keys, mut values) =
            unsafe { (bits_of(&leaf.keys), bits_of(&leaf.values)) };
        match (link, found) {
            (Link::Set(_, value), Ok(at)) => {
                own = Own::Value(at);
                of_old = Own::Value(at);
                std::mem::forget(std::mem::replace(
                    &mut values[at],
                    value.clone(),
                ));
            }
            (Link::Set(key, value), Err(at)) => {
                own = Own::Item(at);
                keys.insert(at, key.clone());
                values.insert(at, value.clone());
            }
            (_, Ok(at)) => {
                of_old = Own::Item(at);
                std::mem::forget(keys.remove(at));
                std::mem::forget(values.remove(at));
            }
            (_, Err(_)) => {}
        }
        let node = Node {
            // SAFETY: as above.
            lo: unsafe { std::ptr::read(&old.lo) },
            hi: unsafe { std::ptr::read(&old.hi) },
            data: Data::Leaf(Leaf { keys, values }),
            ..*old
        };
        Some(Successor { page: Some(page_of(node)), own, of_old })
    }

    /// Says whether it has items of the version that it was made of.
    pub(super) fn shares(&self) -> bool {
        !matches!(self.own, Own::All)
    }

    /// Installs it in place of `old`, which is the version that it was made
    /// of, unless it shares nothing with that. Returns what is there instead if it is another one.
    pub(super) fn install<'g>(
        &mut self,
        entry: &Atomic<Page>,
        old: Shared<'g, Page>,
        cache_infos: Vec<CacheInfo>,
        guard: &'g Guard,
    ) -> std::result::Result<Shared<'g, Page>, Shared<'g, Page>> {
        let mut page = self.page.take().expect("it is installed once");
        page.cache_infos = cache_infos;
        match entry.compare_and_set(old, page, SeqCst, guard) {
            Ok(installed) => {
                let (old, own) = (old.as_raw() as usize, self.of_old);
                // SAFETY: it was replaced, so nobody can find it any more;
                // who has found it holds a guard, which this waits for.
                unsafe {
                    guard.defer_unchecked(move || {
                        free(Owned::from_raw(old as *mut Page), own);
                    });
                }
                Ok(installed)
            }
            Err(error) => {
                self.page = Some(error.new);
                Err(error.current)
            }
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(page) = self.page.take() {
            free(page, self.own);
        }
    }
}

fn page_of(node: Node) -> Owned<Page> {
    Owned::new(Page {
        update: Some(Box::new(Update::Node(node))),
        cache_infos: Vec::default(),
    })
}

/// Frees a version of a node but for what the other version owns.
fn free(page: Owned<Page>, own: Own) {
    if let Own::All = own {
        return;
    }
    let Page { update, .. } = *page.into_box();
    if let Some(Update::Node(node)) = update.map(|update| *update) {
        let Node { lo, hi, data, .. } = node;
        std::mem::forget((lo, hi));
        if let Data::Leaf(Leaf { keys, values }) = data {
            let (key, value) = match own {
                Own::All | Own::Nothing => (None, None),
                Own::Value(at) => (None, Some(at)),
                Own::Item(at) => (Some(at), Some(at)),
            };
            keep_only(keys, key);
            keep_only(values, value);
        }
    }
}

/// Drops one item, and of the others nothing but the room that they had.
fn keep_only(mut items: Vec<IVec>, at: Option<usize>) {
    if let Some(at) = at {
        drop(items.swap_remove(at));
    }
    // SAFETY: there is nothing to initialize in no items.
    unsafe { items.set_len(0) };
}

/// Copies the bits of the items, with room for one more.
///
/// # Safety
///
/// Each item may be dropped by one of the two only.
unsafe fn bits_of(items: &[IVec]) -> Vec<IVec> {
    let mut bits = Vec::with_capacity(items.len() + 1);
    // SAFETY: there is room for all of them, and it is another allocation.
    unsafe {
        std::ptr::copy_nonoverlapping(
            items.as_ptr(),
            bits.as_mut_ptr(),
            items.len(),
        );
        bits.set_len(items.len());
    }
    bits
}
