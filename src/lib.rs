//! MemoryOS.
pub mod app;
pub mod clock;
pub mod domain;
pub mod import;
pub mod store;
