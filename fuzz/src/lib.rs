//! What must hold for any bytes. `cargo test` replays the corpus through the same functions (tests/http1).

pub mod checks;
pub mod oracle;
