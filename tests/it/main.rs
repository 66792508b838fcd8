//! Tests of the whole service.

mod process;
