//! Configurations for tests of what a valid one means.

use cutover::config::{self, Spec};

/// Parses a valid text that gives no warnings.
///
/// # Panics
/// With the first diagnostic.
#[track_caller]
pub fn parsed(text: &str) -> Spec {
    let (spec, warnings) = config::parse_with_warnings(text, "cutover.toml")
        .unwrap_or_else(|errors| panic!("{}\n{text}", errors[0]));
    assert!(warnings.is_empty(), "{}\n{text}", warnings[0]);
    spec
}

/// A file with the service `shop`, whose version `v1` is stable and `v2` is not: `top` before the service, `lines` in it.
pub fn shop(top: &str, lines: &str) -> String {
    format!(
        "listen = ':80'\n{top}\n[service.shop]\nstable = 'v1'\nversions = {{ v1 = ['a:1'], v2 = ['a:2'] }}\n{lines}\n"
    )
}
