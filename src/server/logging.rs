//! The log: one line an event on stderr. `CUTOVER_LOG` says how much, `CUTOVER_LOG_FORMAT` how.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// Sets up the log of the process, by `CUTOVER_LOG` (`error`, `warn`, `info`, `debug`, `trace`, or a filter like
/// `info,cutover::server=debug`; default `info`) and `CUTOVER_LOG_FORMAT` (`text` or `json`; default `text`).
/// Panics are logged as well. A second call changes nothing.
pub fn init() {
    let wanted = std::env::var("CUTOVER_LOG").unwrap_or_default();
    let format = std::env::var("CUTOVER_LOG_FORMAT").unwrap_or_default();
    let filter = EnvFilter::try_new(if wanted.is_empty() { "info" } else { &wanted });
    let bad_filter = filter.as_ref().err().map(ToString::to_string);
    let base = fmt()
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_target(false);
    let set = match format.as_str() {
        "json" => base.json().flatten_event(true).try_init(),
        _ => base.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    if set.is_err() {
        return;
    }
    log_panics();
    if let Some(error) = bad_filter {
        tracing::warn!(
            "CUTOVER_LOG={wanted} is not a log filter ({error}); info is used. Example: CUTOVER_LOG=debug"
        );
    }
    if !matches!(format.as_str(), "" | "text" | "json") {
        tracing::warn!("CUTOVER_LOG_FORMAT={format} is neither text nor json; text is used");
    }
}

/// A panic in one connection's task ends that connection only: the log is where it is seen.
fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let message = info.payload_as_str().unwrap_or("no message");
        tracing::error!(thread = thread.name(), place, "panic: {message}");
    }));
}
