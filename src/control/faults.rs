//! Injects panics at the trace events of the proxy. A subscriber of the log is called in the middle of the code that logs, so a
//! subscriber that panics injects a fault there, and the code itself needs no test hook.

use std::fmt::{self, Write};
use std::sync::{Mutex, Once};
use std::thread::ThreadId;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

/// The faults that are armed now, of all tests in this process.
static ARMED: Mutex<Vec<Fault>> = Mutex::new(Vec::new());

/// Where a panic is injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The message of the trace event.
    message: &'static str,
    /// The value of one of its fields, to tell proxies in one process apart.
    value: Option<String>,
    /// The thread that logs it, for events without such a field.
    thread: Option<ThreadId>,
    /// Whether only the first such event panics.
    once: bool,
}

impl Fault {
    /// Every event with a field of this value, until the guard is dropped.
    pub(super) fn wherever(message: &'static str, value: impl ToString) -> Self {
        Self {
            message,
            value: Some(value.to_string()),
            thread: None,
            once: false,
        }
    }

    /// The next event with a field of this value.
    pub(super) fn next(message: &'static str, value: impl ToString) -> Self {
        Self {
            once: true,
            ..Self::wherever(message, value)
        }
    }

    /// The next event on a thread.
    pub(super) fn next_on(message: &'static str, thread: ThreadId) -> Self {
        Self {
            message,
            value: None,
            thread: Some(thread),
            once: true,
        }
    }

    /// Makes it happen until the guard is dropped.
    pub(super) fn arm(self) -> ArmedFault {
        static SUBSCRIBED: Once = Once::new();
        SUBSCRIBED.call_once(|| {
            tracing::subscriber::set_global_default(FaultSubscriber)
                .expect("no other test sets the process log");
        });
        ARMED.lock().unwrap().push(self.clone());
        ArmedFault(self)
    }

    fn is_at(&self, event: &Fields) -> bool {
        let thread = std::thread::current().id();
        self.message == event.message
            && self.thread.is_none_or(|t| t == thread)
            && self.value.as_ref().is_none_or(|v| event.values.contains(v))
    }
}

/// Disarms its fault when it is dropped.
pub(super) struct ArmedFault(Fault);

impl Drop for ArmedFault {
    fn drop(&mut self) {
        let mut armed = ARMED.lock().unwrap();
        // One alone: a test that runs at the same time may have armed the same.
        if let Some(n) = armed.iter().position(|fault| *fault == self.0) {
            armed.remove(n);
        }
    }
}

/// The message and the fields of an event, as text.
#[derive(Default)]
struct Fields {
    message: String,
    values: Vec<String>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Writing to a string doesn't fail.
        write!(text, "{value:?}").unwrap();
        match field.name() {
            "message" => self.message = text,
            _ => self.values.push(text),
        }
    }
}

struct FaultSubscriber;

impl Subscriber for FaultSubscriber {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match self.enabled(metadata) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && *metadata.level() == Level::TRACE
            && metadata.target().starts_with("cutover")
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        // The lock is released before the panic, which would poison it.
        let found = {
            let mut armed = ARMED.lock().unwrap();
            let found = armed.iter().position(|fault| fault.is_at(&fields));
            found.map(|n| match armed[n].once {
                true => armed.remove(n),
                false => armed[n].clone(),
            })
        };
        if let Some(fault) = found {
            panic!("on purpose: {}", fault.message);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
