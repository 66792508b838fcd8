//! MemoryOS.
pub mod domain;
