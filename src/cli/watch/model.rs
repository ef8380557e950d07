//! The state of the view. Only events change it; it has no clock of its own.

use std::time::{Duration, SystemTime};

use super::action::WatchAction;
use super::condition::{ServiceCondition, Urgency};
use super::key::TerminalKey;
use super::log_model::{LogModel, LogRow};
use super::series::TrafficSeries;
use crate::admin::series::ServiceSeries;
use crate::admin::status::{EndpointStatus, ProxyStatus, ServiceStatus, VersionStatus};
use crate::admin::writes::UndoPlan;
use crate::cli::logs::filter::LogFilter;

/// An event that changes the view.
#[derive(Debug)]
pub(super) enum WatchEvent {
    Key(TerminalKey),
    /// A status document has come.
    Status(Box<ProxyStatus>),
    /// The last minutes of the service with this name, as the proxy has recorded them.
    Past(String, Box<ServiceSeries>),
    /// The proxy doesn't answer, and why.
    Lost(String),
    /// A line of the log.
    Line(LogRow),
    /// This many lines of the log were not taken.
    LinesDropped(u64),
    /// The log has ended, and why.
    LogBroken(String),
    /// An action has succeeded.
    Done(String),
    /// An action was refused, and why.
    Refused(String),
    /// The changes that a shift would make, line by line.
    ShiftPlanned(WatchAction, Vec<String>),
    /// The changes that an undo would make.
    UndoPlanned(UndoPlan),
    /// A second has passed.
    Tick,
}

/// A task for the loop.
#[derive(Debug, PartialEq)]
pub(super) enum WatchEffect {
    Quit,
    Suspend,
    Redraw,
    Send(WatchAction),
    PlanUndo,
    /// Ask the proxy what a shift would change.
    PlanShift(WatchAction),
    /// Follow these lines of the log; `None` stops.
    Follow(Option<LogFilter>),
}

/// The view that fills the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WatchView {
    Services,
    Service(String),
    Log,
}

/// The box above the view.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum WatchOverlay {
    Help,
    /// Why the proxy rejects its current file.
    ConfigError,
    Confirm {
        action: WatchAction,
        /// The changes that it would make, as the proxy reports them.
        plan: Vec<String>,
    },
    /// Asks for the share of a version.
    Share {
        service: String,
        version: String,
        from: String,
        text: String,
        error: Option<String>,
    },
}

/// A remark about the last event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remark {
    pub text: String,
    pub is_error: bool,
    pub at: SystemTime,
}

/// A row of the service view that can be selected.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceTarget<'s> {
    pub version: &'s VersionStatus,
    /// The endpoint; `None` for the version as a whole.
    pub endpoint: Option<&'s EndpointStatus>,
}

/// The whole state.
///
/// The command's loop owns it, applies one event at a time and then draws it. Drawing changes nothing. Requests to the proxy run
/// elsewhere, and their results come back as events.
#[derive(Debug)]
pub(super) struct WatchModel {
    pub status: ProxyStatus,
    /// The condition of each service of the status.
    pub conditions: Vec<ServiceCondition>,
    pub series: TrafficSeries,
    pub view: WatchView,
    /// The view to which Escape returns from the log.
    pub before_log: WatchView,
    pub overlay: Option<WatchOverlay>,
    /// Text that the services' names have to contain.
    pub search: String,
    /// Whether keys go to the search.
    pub is_searching: bool,
    /// Name of the selected service.
    pub selected: String,
    /// Index of the selected row among the [`targets`] of the service view.
    pub target: usize,
    pub log: LogModel,
    /// Time since which the proxy has not answered, and why.
    pub lost: Option<(SystemTime, String)>,
    pub remark: Option<Remark>,
}

/// Time for which a remark is shown.
const REMARK_TIME: Duration = Duration::from_secs(10);

impl WatchModel {
    /// Begins with a document, and at a service, if one is named.
    pub(super) fn new(status: ProxyStatus, service: Option<&str>, now: SystemTime) -> Self {
        let view = match service {
            Some(name) => WatchView::Service(name.to_owned()),
            None => WatchView::Services,
        };
        let mut model = Self {
            status: ProxyStatus {
                services: Vec::new(),
                ..status.clone()
            },
            conditions: Vec::new(),
            series: TrafficSeries::default(),
            view,
            before_log: WatchView::Services,
            overlay: None,
            search: String::new(),
            is_searching: false,
            selected: service.unwrap_or_default().to_owned(),
            target: 0,
            log: LogModel::default(),
            lost: None,
            remark: None,
        };
        model.update_status(status, now);
        model
    }

    /// Takes a new document.
    pub(super) fn update_status(&mut self, status: ProxyStatus, now: SystemTime) {
        if let Some((since, _)) = self.lost.take() {
            let after = age(now, since);
            self.say(format!("connected again after {after}"), false, now);
        }
        if status.pid != self.status.pid {
            let text = format!("process {} has followed {}", status.pid, self.status.pid);
            self.say(text, false, now);
        }
        self.series.add(second(now), &status);
        self.conditions = status.services.iter().map(ServiceCondition::of).collect();
        self.status = status;
        if self.service(&self.selected).is_none() {
            let first = self.listed().first().copied();
            let first = first.map(|at| self.status.services[at].name.clone());
            self.selected = first.unwrap_or_default();
        }
        let targets = self.viewed().map_or(0, |service| targets(service).len());
        self.target = self.target.min(targets.saturating_sub(1));
    }

    /// Adds the last minutes of a service, as the proxy has recorded them.
    pub(super) fn add_past(&mut self, service: &str, past: &ServiceSeries, now: SystemTime) {
        self.series.add_past(second(now), service, past);
    }

    /// Shows a remark or an error until it is outdated.
    pub(super) fn say(&mut self, text: String, is_error: bool, now: SystemTime) {
        self.remark = Some(Remark {
            text,
            is_error,
            at: now,
        });
    }

    /// Removes a remark that is too old.
    pub(super) fn tick(&mut self, now: SystemTime) {
        let is_old = |r: &Remark| now.duration_since(r.at).is_ok_and(|age| age > REMARK_TIME);
        if self.remark.as_ref().is_some_and(is_old) {
            self.remark = None;
        }
    }

    /// The service of this name.
    pub(super) fn service(&self, name: &str) -> Option<&ServiceStatus> {
        self.status.services.iter().find(|s| s.name == name)
    }

    /// The service that the service view shows, if it still exists.
    pub(super) fn viewed(&self) -> Option<&ServiceStatus> {
        match &self.view {
            WatchView::Service(name) => self.service(name),
            WatchView::Services | WatchView::Log => None,
        }
    }

    /// The indices of the services that the list shows: those that the search finds, the most urgent first.
    pub(super) fn listed(&self) -> Vec<usize> {
        let wanted = self.search.to_lowercase();
        let is_found = |at: &usize| {
            let name = &self.status.services[*at].name;
            wanted.is_empty() || name.to_lowercase().contains(&wanted)
        };
        let mut found: Vec<usize> = (0..self.status.services.len()).filter(is_found).collect();
        // Equals keep the order of the file. Rollouts and calm services aren't sorted apart, so that the list changes little.
        found.sort_by_key(|at| self.conditions[*at].urgency.min(Urgency::Moving));
        found
    }

    /// The number of services that are in trouble.
    pub(super) fn troubled(&self) -> usize {
        let is_troubled = |c: &&ServiceCondition| c.urgency <= Urgency::Warning;
        self.conditions.iter().filter(is_troubled).count()
    }
}

fn second(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// The rows of a service that can be selected, from top to bottom: the versions, then their endpoints.
pub(super) fn targets(service: &ServiceStatus) -> Vec<ServiceTarget<'_>> {
    let versions = service.versions.iter().map(|version| ServiceTarget {
        version,
        endpoint: None,
    });
    let endpoints = service.versions.iter().flat_map(|version| {
        { version.endpoints.iter() }.map(move |endpoint| ServiceTarget {
            version,
            endpoint: Some(endpoint),
        })
    });
    versions.chain(endpoints).collect()
}

/// The time from `since` until `now` in whole seconds: `2m 5s`.
pub(super) fn age(now: SystemTime, since: SystemTime) -> String {
    // The clock may have been set back, so an age below zero counts as zero.
    let age = now.duration_since(since).unwrap_or_default();
    humantime::format_duration(Duration::from_secs(age.as_secs())).to_string()
}
