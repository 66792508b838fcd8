//! Doors to parts of a request, for `benches/request.rs`.

use crate::app::{Listed, Principal};
use crate::domain::memory::MemoryId;
use crate::store::Added;

use super::memory;

/// Returns the body of the answer to an add.
#[must_use]
pub fn added_body(added: &Added, cost: u64) -> String {
    memory::added_body(added, cost)
}

/// Returns the body of the answer with the first page, but for its memories.
#[must_use]
pub fn page_rest(principal: &Principal, listed: &Listed, limit: u64) -> String {
    memory::page_rest(principal, listed, Some(1), limit)
}

/// Returns the cursor that goes on after a memory.
#[must_use]
pub fn cursor(principal: &Principal, id: MemoryId) -> String {
    memory::cursor(principal, id)
}

/// Returns the memory after which a cursor goes on. `None` if the account has no such cursor.
#[must_use]
pub fn parse_cursor(principal: &Principal, text: &str) -> Option<MemoryId> {
    memory::parse_cursor(principal, text).ok()
}
