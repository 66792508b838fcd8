//! Tests of the whole program, over HTTP where it has any.

mod openapi;
