//! The codecs from outside: the corpus of the fuzzer, properties, and hyper and the h2 crate as oracles.

#[path = "../../fuzz/src/checks.rs"]
mod checks;
#[path = "../../fuzz/src/http2.rs"]
mod http2;
#[path = "../../fuzz/src/oracle.rs"]
mod oracle;

mod corpus;
mod differential;
mod properties;
