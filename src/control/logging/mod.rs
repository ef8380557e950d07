//! The process log, one line per event on stderr.
//!
//! `CUTOVER_LOG` sets the level ([`filter`]) and `CUTOVER_LOG_FORMAT` the format ([`mod@format`]). A line is formatted on the thread
//! that logs it and written by a separate thread ([`crate::telemetry::log_writer`]), so a stalled reader of stderr never blocks
//! the proxy; lines are dropped and counted instead.

mod filter;
mod format;

use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::telemetry::log_writer::{LogWriter, PROCESS_LOG_DROPPED};
use format::{Format, Line};

/// Longest time to write the queued lines when the process ends.
const FLUSH: Duration = Duration::from_secs(1);

/// Guard of the log. Dropping it writes the queued lines, for at most a second.
#[derive(Debug)]
#[must_use = "the last lines are lost if it is dropped early"]
pub(crate) struct Log(Option<Arc<LogWriter>>);

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(writer) = &self.0 {
            // On a timeout the remaining lines are lost: a stalled reader must not keep the process from exiting.
            let _ = writer.flush(FLUSH);
        }
    }
}

/// Sets up the process log and a panic hook that logs panics.
///
/// `CUTOVER_LOG` is a level (`error`, `warn`, `info`, `debug`, `trace`, `off`) or a filter such as `info,cutover::edge=debug,h2=debug`;
/// the default is `info`. `CUTOVER_LOG_FORMAT` is `text` (the default) or `json`. Invalid values are logged and replaced by the
/// default. A second call changes nothing.
///
/// # Errors
/// The writer thread can't be started.
pub(crate) fn init() -> io::Result<Log> {
    let wanted = std::env::var("CUTOVER_LOG").unwrap_or_default();
    let named = std::env::var("CUTOVER_LOG_FORMAT").unwrap_or_default();
    let format = match named.as_str() {
        "json" => Format::Json,
        _ => Format::Text {
            color: wants_color(),
        },
    };
    let parsed = filter::parse(&wanted);
    let bad_filter = parsed.as_ref().err().cloned();
    let report = move |n| dropped_lines(format, n);
    let writer = Arc::new(LogWriter::start(
        &PROCESS_LOG_DROPPED,
        io::stderr(),
        report,
    )?);
    let into = writer.clone();
    let layer = LogLayer {
        format,
        push: move |line| into.push(line),
    };
    let registry = tracing_subscriber::registry()
        .with(parsed.unwrap_or_else(|_| filter::default()))
        .with(layer);
    if registry.try_init().is_err() {
        return Ok(Log(None));
    }
    std::panic::set_hook(Box::new(log_panic));
    if let Some(error) = bad_filter {
        tracing::warn!(
            value = wanted,
            "CUTOVER_LOG is not a valid log filter, using info: {error}"
        );
    }
    if !matches!(named.as_str(), "" | "text" | "json") {
        tracing::warn!(
            value = named,
            "CUTOVER_LOG_FORMAT is neither text nor json, using text"
        );
    }
    Ok(Log(Some(writer)))
}

/// Whether to use colours: stderr is a terminal, and neither `NO_COLOR` nor `TERM=dumb` turns them off.
fn wants_color() -> bool {
    let stderr = io::stderr();
    stderr.is_terminal() && anstream::AutoStream::choice(&stderr) != anstream::ColorChoice::Never
}

fn dropped_lines(format: Format, n: u64) -> String {
    let lines = if n == 1 { "line" } else { "lines" };
    let message = format!("{n} log {lines} dropped: the log was not read fast enough");
    Line::of(format, Level::WARN, &message, &[("dropped", n)])
}

/// The tracing layer that formats events and passes the lines to `push`.
struct LogLayer<P> {
    format: Format,
    push: P,
}

/// A formatted span. Only libraries such as h2 open spans; the proxy has none of its own.
struct SpanText(String);

impl<S, P> Layer<S> for LogLayer<P>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    P: Fn(String) + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Line::new(Format::Text { color: false });
        attributes.record(&mut fields);
        let name = attributes.metadata().name();
        let text = format!("{name}{{{}}}", fields.into_fields().trim_start());
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(SpanText(text));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Line::new(self.format);
        event.record(&mut line);
        let target = event.metadata().target();
        if !target.starts_with("cutover") {
            line.put("target", target);
            let scope = context.event_scope(event).into_iter();
            let spans = scope.flat_map(|scope| scope.from_root());
            let texts = spans.filter_map(|span| {
                let extensions = span.extensions();
                extensions.get::<SpanText>().map(|text| text.0.clone())
            });
            let texts: Vec<String> = texts.collect();
            if !texts.is_empty() {
                line.put("span", texts.join(":"));
            }
        }
        (self.push)(line.finish(*event.metadata().level(), SystemTime::now()));
    }
}

/// Logs a panic. A panic in the task of a connection ends only that connection, so apart from `cutover_panics_total` the log is the
/// only place where it shows.
fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let message = info.payload_as_str().unwrap_or("no message");
    tracing::error!(
        thread = thread.name(),
        place,
        "panic caused by a bug in cutover, please report it: {message}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// The lines logged in `format` while `run` runs.
    fn logged(format: Format, filter: &str, run: impl FnOnce()) -> String {
        let page = Arc::new(Mutex::new(String::new()));
        let into = page.clone();
        let layer = LogLayer {
            format,
            push: move |line: String| into.lock().unwrap().push_str(&line),
        };
        let filter = filter::parse(filter).unwrap();
        let subscriber = tracing_subscriber::registry().with(filter).with(layer);
        tracing::subscriber::with_default(subscriber, run);
        let text = page.lock().unwrap();
        text.clone()
    }

    const TEXT: Format = Format::Text { color: false };

    #[test]
    fn a_panic_is_logged_with_its_thread_and_place() {
        const NAME: &str = "panics";
        let previous = std::panic::take_hook();
        // Panics of other tests, which run in parallel, keep the previous hook.
        std::panic::set_hook(Box::new(move |info| {
            match std::thread::current().name() == Some(NAME) {
                true => log_panic(info),
                false => previous(info),
            }
        }));
        let text = logged(TEXT, "info", || {
            // The test subscriber is thread-local, so the panicking thread has to install it itself.
            let subscriber = tracing::dispatcher::get_default(Clone::clone);
            let panics =
                move || tracing::dispatcher::with_default(&subscriber, || panic!("on purpose"));
            let thread = std::thread::Builder::new().name(NAME.into());
            assert!(thread.spawn(panics).unwrap().join().is_err());
        });
        for part in ["ERROR", NAME, "src/control/logging/mod.rs:", "on purpose"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn fields_are_fields_in_both_formats() {
        let happens = || {
            let error = io::Error::other("no route");
            tracing::warn!(
                service = "shop", endpoint = %"10.0.0.1:80", tries = 2, ratio = 0.5, up = false, %error,
                "endpoint is down"
            );
        };
        let text = logged(TEXT, "info", happens);
        let (_, rest) = text.split_once(' ').unwrap();
        assert_eq!(
            rest,
            " WARN endpoint is down service=shop endpoint=10.0.0.1:80 tries=2 ratio=0.5 up=false error=\"no route\"\n"
        );
        let json: serde_json::Value =
            serde_json::from_str(&logged(Format::Json, "info", happens)).unwrap();
        let at = json["timestamp"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(at).is_ok(), "{at}");
        let expected = serde_json::json!({
            "timestamp": at, "level": "WARN", "message": "endpoint is down", "service": "shop",
            "endpoint": "10.0.0.1:80", "tries": 2, "ratio": 0.5, "up": false, "error": "no route",
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_library_logs_when_it_is_named_with_its_name_and_spans() {
        let happens = || {
            let span = tracing::debug_span!(target: "h2::conn", "Connection", peer = "Server side");
            span.in_scope(|| tracing::debug!(target: "h2::conn", "received a frame"));
            tracing::error!(target: "rustls", "refused");
        };
        assert_eq!(logged(TEXT, "debug", happens), "");
        let text = logged(TEXT, "h2=debug", happens);
        let (_, rest) = text.split_once(' ').unwrap();
        assert_eq!(
            rest,
            "DEBUG received a frame target=h2::conn span=\"Connection{peer=\\\"Server side\\\"}\"\n"
        );
    }

    #[test]
    fn lines_that_were_dropped_are_counted_in_words_and_in_a_field() {
        assert!(dropped_lines(TEXT, 1).contains("WARN 1 log line dropped"));
        let json: serde_json::Value =
            serde_json::from_str(&dropped_lines(Format::Json, 4711)).unwrap();
        assert_eq!(json["dropped"], 4711);
        assert!(
            json["message"]
                .as_str()
                .unwrap()
                .starts_with("4711 log lines dropped")
        );
    }
}
