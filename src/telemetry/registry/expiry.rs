//! Expiry of series whose subject left the configuration.
//!
//! Without it, a proxy whose services change often would export an ever growing number of series.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ejections::FURTHER;
use super::labels::Ejection;
use super::{Families, Telemetry};

/// Time for which series are kept after their subject left the configuration.
///
/// Longer than any range in our alerting rules, and long enough that counters continue after most rollbacks.
const RETENTION: Duration = Duration::from_secs(3600);

/// Time between two searches for expired series.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The subjects of a running configuration: those whose series are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresentSeries(BTreeSet<SeriesSubject>);

/// The subject of a series, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SeriesSubject {
    Service(String),
    Version(String, String),
    Endpoint(String, String, String),
    Flag(String, String),
    Listener(String),
}

impl SeriesSubject {
    /// The subject of an ejection's series: for further addresses, the version.
    fn of_ejection(what: &Ejection) -> Self {
        let (service, version) = (what.service.clone(), what.version.clone());
        match &*what.endpoint {
            FURTHER => Self::Version(service, version),
            endpoint => Self::Endpoint(service, version, endpoint.to_owned()),
        }
    }
}

impl PresentSeries {
    /// Adds a service.
    pub fn service(&mut self, service: &str) {
        self.0.insert(SeriesSubject::Service(service.to_owned()));
    }

    /// Adds a version of a service.
    pub fn version(&mut self, service: &str, version: &str) {
        let subject = SeriesSubject::Version(service.to_owned(), version.to_owned());
        self.0.insert(subject);
    }

    /// Adds an endpoint of a version, by its name in the configuration.
    pub fn endpoint(&mut self, service: &str, version: &str, endpoint: &str) {
        let [service, version, endpoint] = [service, version, endpoint].map(str::to_owned);
        self.0
            .insert(SeriesSubject::Endpoint(service, version, endpoint));
    }

    /// Adds a flag of a service.
    pub fn flag(&mut self, service: &str, flag: &str) {
        let subject = SeriesSubject::Flag(service.to_owned(), flag.to_owned());
        self.0.insert(subject);
    }

    /// Adds a listener.
    pub fn listener(&mut self, listener: &str) {
        self.0.insert(SeriesSubject::Listener(listener.to_owned()));
    }
}

/// Subjects that have series but are not in the configuration, and the time since which they are absent.
#[derive(Debug, Default)]
pub(super) struct Absent {
    since: BTreeMap<SeriesSubject, Instant>,
    checked: Option<Instant>,
}

impl Telemetry {
    /// Drops the series of subjects that have been absent from the configuration for [`RETENTION`] and are not in use.
    ///
    /// Cheap to call often: `present` is called at most once per [`CHECK_INTERVAL`].
    pub fn expire(&self, now: Instant, present: impl FnOnce() -> PresentSeries) {
        let mut families = self.families();
        let checked = families.absent.checked;
        if checked.is_some_and(|at| now.saturating_duration_since(at) < CHECK_INTERVAL) {
            return;
        }
        families.absent.checked = Some(now);
        let present = present();
        let mut since = std::mem::take(&mut families.absent.since);
        let subjects = families.subjects();
        since.retain(|subject, _| subjects.contains(subject) && !present.0.contains(subject));
        for subject in subjects.difference(&present.0) {
            since.entry(subject.clone()).or_insert(now);
        }
        let is_over = |at: &Instant| now.saturating_duration_since(*at) >= RETENTION;
        let expired = since.iter().filter(|(_, at)| is_over(at));
        let expired: BTreeSet<SeriesSubject> =
            expired.map(|(subject, _)| subject.clone()).collect();
        families.absent.since = since;
        if !expired.is_empty() {
            families.drop_series(&expired);
        }
    }
}

impl Families {
    /// Returns every subject that has series.
    fn subjects(&self) -> BTreeSet<SeriesSubject> {
        let versions = self.versions.keys();
        let versions = versions.map(|(s, v)| SeriesSubject::Version(s.clone(), v.clone()));
        // The service with the empty name counts requests without a route, and never expires.
        let counted = self.services.keys().filter(|name| !name.is_empty());
        let services = self.rules.keys().chain(self.labels.keys()).chain(counted);
        let services = services.chain(self.mirrors.keys());
        let services = services.map(|name| SeriesSubject::Service(name.clone()));
        let listeners = self.listeners.keys().cloned().map(SeriesSubject::Listener);
        let flags = self.flags.keys();
        let flags = flags.map(|(s, f)| SeriesSubject::Flag(s.clone(), f.clone()));
        let endpoints = self.ejections.keys().map(SeriesSubject::of_ejection);
        { versions.chain(services) }
            .chain(listeners)
            .chain(flags)
            .chain(endpoints)
            .collect()
    }

    /// Drops the series of `expired` subjects.
    ///
    /// Shards with another owner are kept: a request may still be in flight on a version that was removed, and its end
    /// must be counted. A later check drops them.
    fn drop_series(&mut self, expired: &BTreeSet<SeriesSubject>) {
        self.versions.retain(|(service, version), metrics| {
            let subject = SeriesSubject::Version(service.clone(), version.clone());
            Arc::strong_count(metrics) > 1 || !expired.contains(&subject)
        });
        self.listeners.retain(|name, shards| {
            let subject = SeriesSubject::Listener(name.clone());
            Arc::strong_count(shards) > 1 || !expired.contains(&subject)
        });
        self.services.retain(|service, metrics| {
            let subject = SeriesSubject::Service(service.clone());
            Arc::strong_count(metrics) > 1 || !expired.contains(&subject)
        });
        self.rules.retain(|service, hits| {
            let subject = SeriesSubject::Service(service.clone());
            Arc::strong_count(hits) > 1 || !expired.contains(&subject)
        });
        self.goals.retain(|(service, version, _), counter| {
            let subject = SeriesSubject::Version(service.clone(), version.clone());
            Arc::strong_count(counter) > 1 || !expired.contains(&subject)
        });
        self.flags.retain(|(service, flag), counter| {
            let subject = SeriesSubject::Flag(service.clone(), flag.clone());
            Arc::strong_count(counter) > 1 || !expired.contains(&subject)
        });
        let flags = &self.flags;
        self.flag_goals.retain(|(service, flag, _), counters| {
            let is_used = counters
                .iter()
                .any(|counter| Arc::strong_count(counter) > 1);
            is_used || flags.contains_key(&(service.clone(), flag.clone()))
        });
        self.mirrors.retain(|service, log| {
            let subject = SeriesSubject::Service(service.clone());
            Arc::strong_count(log) > 1 || !expired.contains(&subject)
        });
        self.ejections
            .retain(|what| !expired.contains(&SeriesSubject::of_ejection(what)));
        // Constant labels are needed for as long as any series of the service is exposed.
        let mut labelled: BTreeSet<&str> = self.versions.keys().map(|(s, _)| &**s).collect();
        labelled.extend(self.goals.keys().map(|(service, ..)| &**service));
        labelled.extend(self.flags.keys().map(|(service, _)| &**service));
        labelled.extend(self.rules.keys().map(|name| &**name));
        labelled.extend(self.mirrors.keys().map(|name| &**name));
        labelled.extend(self.services.keys().map(|name| &**name));
        labelled.extend(self.ejections.keys().map(|what| &*what.service));
        self.labels.retain(|service, _| {
            labelled.contains(&**service)
                || !expired.contains(&SeriesSubject::Service(service.clone()))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::record::{EjectionOutcome, EjectionReason};

    /// Service `shop` with these versions, each with the endpoint `a:1`, and this listener.
    fn present(versions: &[&str], listener: &str) -> PresentSeries {
        let mut present = PresentSeries::default();
        present.listener(listener);
        for version in versions {
            present.service("shop");
            present.version("shop", version);
            present.endpoint("shop", version, "a:1");
        }
        present
    }

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    fn busy() -> Arc<Telemetry> {
        let telemetry = Telemetry::new(1);
        for version in ["v1", "v2"] {
            telemetry.version("shop", version);
            telemetry.ejection(
                Ejection {
                    service: "shop".into(),
                    version: version.into(),
                    endpoint: "a:1".into(),
                    reason: EjectionReason::Consecutive5xx,
                    outcome: EjectionOutcome::Enforced,
                },
                false,
            );
        }
        telemetry.rules("shop", 1);
        telemetry.service("shop");
        telemetry.service("");
        telemetry.remember_labels("shop", &[("team".into(), "web".into())]);
        telemetry.listener("http");
        telemetry.listener("https");
        telemetry
    }

    /// How many versions, ejections, rules, labels and listeners have series.
    fn count(telemetry: &Telemetry) -> [usize; 5] {
        let services = telemetry.services().len();
        let families = telemetry.families();
        // As many as have rules, and the one without a name.
        assert_eq!(services, families.rules.len() + 1);
        [
            families.versions.len(),
            families.ejections.len(),
            families.rules.len(),
            families.labels.len(),
            families.listeners.len(),
        ]
    }

    #[test]
    fn series_of_what_left_expire_after_an_hour() {
        let (telemetry, began) = (busy(), Instant::now());
        let look = |after, versions: &[&str], listener: &str| {
            telemetry.expire(began + after, || present(versions, listener));
            count(&telemetry)
        };
        assert_eq!(look(minutes(0), &["v1", "v2"], "http"), [2, 2, 1, 1, 2]);
        assert_eq!(look(minutes(30), &["v1"], "http"), [2, 2, 1, 1, 2]);
        assert_eq!(look(minutes(60), &["v1"], "http"), [2, 2, 1, 1, 1], "https");
        assert_eq!(look(minutes(89), &["v1"], "http"), [2, 2, 1, 1, 1]);
        assert_eq!(look(minutes(90), &["v1"], "http"), [1, 1, 1, 1, 1], "v2");
        assert_eq!(look(minutes(91), &[], "http"), [1, 1, 1, 1, 1]);
        assert_eq!(look(minutes(151), &[], "http"), [0, 0, 0, 0, 1], "shop");
    }

    #[test]
    fn what_comes_back_begins_a_new_hour_and_what_is_in_use_stays() {
        let (telemetry, began) = (busy(), Instant::now());
        let look = |after, versions: &[&str]| {
            telemetry.expire(began + after, || present(versions, "http"));
            telemetry.versions().len()
        };
        assert_eq!(look(minutes(0), &["v1"]), 2);
        assert_eq!(look(minutes(59), &["v1", "v2"]), 2);
        assert_eq!(look(minutes(60), &["v1"]), 2);
        assert_eq!(look(minutes(119), &["v1"]), 2);
        let in_use = telemetry.version("shop", "v2");
        assert_eq!(look(minutes(121), &["v1"]), 2);
        drop(in_use);
        assert_eq!(look(minutes(122), &["v1"]), 1);
    }

    #[test]
    fn series_of_a_flag_and_its_goals_go_an_hour_after_the_flag() {
        let (telemetry, began) = (busy(), Instant::now());
        let look = |after, flags: &[&str]| {
            telemetry.expire(began + after, || {
                let mut present = present(&["v1"], "http");
                flags.iter().for_each(|flag| present.flag("shop", flag));
                present
            });
            let names = telemetry.flags().into_iter();
            let names: Vec<String> = names.map(|((_, flag), _)| flag).collect();
            let goals = telemetry.families().flag_goals.len();
            (names.join(" "), goals)
        };
        for flag in ["a", "b"] {
            telemetry.flag("shop", flag);
            telemetry.flag_goal("shop", flag, "purchase");
        }
        assert_eq!(look(minutes(0), &["a", "b"]), ("a b".to_owned(), 2));
        assert_eq!(look(minutes(10), &["a"]), ("a b".to_owned(), 2));
        assert_eq!(look(minutes(69), &["a"]), ("a b".to_owned(), 2));
        // A request that is in flight still counts.
        let in_use = telemetry.flag("shop", "b");
        assert_eq!(look(minutes(70), &["a"]), ("a b".to_owned(), 2));
        drop(in_use);
        assert_eq!(look(minutes(71), &["a"]), ("a".to_owned(), 1));
    }

    #[test]
    fn it_is_looked_once_a_minute() {
        let (telemetry, began) = (busy(), Instant::now());
        telemetry.expire(began, || present(&["v1", "v2"], "http"));
        telemetry.expire(began + Duration::from_secs(59), || {
            panic!("less than a minute later")
        });
    }
}
