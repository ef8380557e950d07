//! The HTTP/1 codec from outside: the corpus of the fuzzer, properties, and hyper as the oracle.

#[path = "../../fuzz/src/checks.rs"]
mod checks;
#[path = "../../fuzz/src/oracle.rs"]
mod oracle;

mod corpus;
mod differential;
mod properties;
