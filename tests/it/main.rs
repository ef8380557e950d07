//! The integration tests: the real binary between scripted origins and exact clients.

#[expect(dead_code, reason = "the tests that use the rest follow")]
#[path = "../support/mod.rs"]
mod support;

mod harness;
