//! Tests of the library's public face, in one binary.

mod import;
