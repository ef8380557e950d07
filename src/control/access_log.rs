//! Opens the access log that a configuration names, and keeps it open as long as the configuration does.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::config::Spec;
use crate::config::access_log::LogTarget;
use crate::config::paths;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::access_log::output::LogOutput;
use crate::telemetry::access_log::sink::LogSink;

/// The open log; none if the configuration has no `[access_log]`.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenLog(Option<(LogTarget, Arc<LogSink>)>);

impl OpenLog {
    /// Opens the log of a configuration. If its output is the one of this log, that stays open.
    ///
    /// # Errors
    /// The log can't be opened. The message has two sentences: the problem, and advice.
    pub(super) fn next(&self, spec: &Spec, log: &AccessLog) -> Result<Self, String> {
        let Some(wanted) = &spec.access_log else {
            return Ok(Self(None));
        };
        if let Some((target, sink)) = &self.0
            && *target == wanted.to
        {
            return Ok(Self(Some((target.clone(), sink.clone()))));
        }
        let sink = output(&wanted.to).and_then(|output| log.sink(output));
        match sink {
            Ok(sink) => Ok(Self(Some((wanted.to.clone(), sink)))),
            Err(error) => Err(unusable(&wanted.to, &error)),
        }
    }

    /// Replaces this log. Queued lines are still written to it.
    pub(super) fn replace(&mut self, next: Self) {
        let former = std::mem::replace(self, next);
        if let Some((_, sink)) = former.0
            && !self.sink().is_some_and(|now| Arc::ptr_eq(now, &sink))
        {
            sink.retire();
        }
    }

    /// The sink to which requests are logged.
    pub(super) fn sink(&self) -> Option<&Arc<LogSink>> {
        self.0.as_ref().map(|(_, sink)| sink)
    }

    /// Reopens the file.
    pub(super) fn reopen(&self) {
        if let Some((_, sink)) = &self.0 {
            sink.reopen();
        }
    }
}

fn output(target: &LogTarget) -> io::Result<LogOutput> {
    let duplicate = |stream: &dyn AsFd| stream.as_fd().try_clone_to_owned();
    Ok(match target {
        LogTarget::File(path) => LogOutput::file(path)?,
        LogTarget::Stdout => LogOutput::Stream(duplicate(&io::stdout())?),
        LogTarget::Stderr => LogOutput::Stream(duplicate(&io::stderr())?),
    })
}

/// The reason why a log can't be opened, with advice.
pub(super) fn unusable(target: &LogTarget, error: &io::Error) -> String {
    let help = match (target, error.kind()) {
        (LogTarget::File(path), io::ErrorKind::NotFound) => format!(
            "create the directory {}, writable for the proxy's user",
            paths::directory(path).display()
        ),
        (LogTarget::File(path), io::ErrorKind::PermissionDenied) => {
            format!("make {} writable for the proxy's user", path.display())
        }
        (LogTarget::File(_), io::ErrorKind::IsADirectory) => "name a file in it".to_owned(),
        _ => "leave `[access_log]` out to log no requests".to_owned(),
    };
    format!("the access log {target} can't be opened: {error}. {help}")
}
