//! The log: one line an event on stderr. `CUTOVER_LOG` says how much, `CUTOVER_LOG_FORMAT` how.

use std::io::IsTerminal;
use std::panic::PanicHookInfo;

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

/// A panic in one connection's task ends that connection only: the log is where it is seen, beside `cutover_panics_total`.
fn log_panics() {
    std::panic::set_hook(Box::new(log_panic));
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let message = info.payload_as_str().unwrap_or("no message");
    tracing::error!(
        thread = thread.name(),
        place,
        "a fault of cutover itself, please report it: {message}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_logged_with_its_thread_and_place() {
        const NAME: &str = "stumbles";
        let former = std::panic::take_hook();
        // The panics of all other tests go where they went before.
        std::panic::set_hook(Box::new(move |info| {
            match std::thread::current().name() == Some(NAME) {
                true => log_panic(info),
                false => former(info),
            }
        }));
        let page = Page::default();
        let into = page.clone();
        let subscriber = fmt().with_writer(move || into.clone()).finish();
        let stumbles = move || {
            tracing::subscriber::with_default(subscriber, || panic!("on purpose"));
        };
        let thread = std::thread::Builder::new().name(NAME.into());
        assert!(thread.spawn(stumbles).unwrap().join().is_err());
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        for part in ["ERROR", NAME, "src/server/logging.rs:", "on purpose"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
