//! The status of the proxy, kept up to date by its events. No clock, no I/O.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::admin::status::{ProxyStatus, ServiceStatus};

/// The status so far, from the lines of the stream.
#[derive(Debug)]
pub(super) struct EventFeed {
    status: ProxyStatus,
    /// Time at which the uptime was reported.
    told_at: Instant,
    /// ID of the last event that was applied, to continue after it.
    seen: Option<String>,
    /// The beginning of the event that is being read.
    id: String,
    kind: String,
}

/// The data of `removed`.
#[derive(Debug, Deserialize)]
struct RemovedService {
    name: String,
}

impl EventFeed {
    /// Begins with a document.
    pub(super) fn new(status: ProxyStatus, now: Instant) -> Self {
        Self {
            status,
            told_at: now,
            seen: None,
            id: String::new(),
            kind: String::new(),
        }
    }

    /// The path of a stream that continues after the last event.
    pub(super) fn path(&self) -> String {
        match &self.seen {
            Some(id) => format!("/api/v1/events?since={id}"),
            None => "/api/v1/events".to_owned(),
        }
    }

    /// The status at this time.
    pub(super) fn status(&self, now: Instant) -> ProxyStatus {
        let mut status = self.status.clone();
        status.uptime_s += now.saturating_duration_since(self.told_at).as_secs();
        status
    }

    /// Takes a line. Returns whether the line has changed the status. The proxy writes the data of an event as its last line.
    pub(super) fn line(&mut self, line: &[u8], now: Instant) -> bool {
        let line = String::from_utf8_lossy(line);
        match line.split_once(": ") {
            Some(("id", id)) => id.clone_into(&mut self.id),
            Some(("event", kind)) => kind.clone_into(&mut self.kind),
            Some(("data", data)) => {
                self.seen = Some(std::mem::take(&mut self.id));
                return self.apply(data, now).is_some();
            }
            _ => {}
        }
        false
    }

    /// Applies the data of an event; `None` if it doesn't change the status.
    fn apply(&mut self, data: &str, now: Instant) -> Option<()> {
        match &*self.kind {
            "status" => {
                self.status = parsed(data)?;
                self.told_at = now;
            }
            "proxy" => {
                let services = std::mem::take(&mut self.status.services);
                let Some(proxy) = parsed(data) else {
                    self.status.services = services;
                    return None;
                };
                self.status = ProxyStatus { services, ..proxy };
                self.told_at = now;
            }
            "service" => {
                let service: ServiceStatus = parsed(data)?;
                let mut services = self.status.services.iter_mut();
                match services.find(|known| known.name == service.name) {
                    Some(known) => *known = service,
                    None => self.status.services.push(service),
                }
            }
            "removed" => {
                let RemovedService { name } = parsed(data)?;
                self.status.services.retain(|service| service.name != name);
            }
            _ => return None,
        }
        Some(())
    }
}

/// Interval at which the status is shown again although nothing has changed, because its clocks advance.
pub(super) const CLOCK: Duration = Duration::from_secs(1);

fn parsed<T: DeserializeOwned>(data: &str) -> Option<T> {
    // Parsed from bytes, like other statuses: from text, all of its types would be compiled a second time.
    serde_json::from_slice(data.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::watch::fixtures::{document, four};

    fn feed(feed: &mut EventFeed, id: &str, kind: &str, data: &str) -> bool {
        let now = feed.told_at + Duration::from_secs(3);
        let [id, kind] = [format!("id: {id}"), format!("event: {kind}")];
        assert!(!feed.line(id.as_bytes(), now) && !feed.line(kind.as_bytes(), now));
        feed.line(format!("data: {data}").as_bytes(), now)
    }

    #[test]
    fn events_change_the_status() {
        let (before, now) = (document(&four()), Instant::now());
        let mut told = EventFeed::new(before.clone(), now);
        assert_eq!(told.status(now), before);
        assert_eq!(
            told.status(now + Duration::from_secs(2)).uptime_s,
            before.uptime_s + 2
        );
        assert_eq!(told.path(), "/api/v1/events");

        let mut service = before.services[0].clone();
        service.stable = "other".to_owned();
        let data = serde_json::to_string(&service).unwrap();
        assert!(feed(&mut told, "e-1", "service", &data));
        assert_eq!(told.status.services[0], service);
        assert_eq!(told.status.services[1..], before.services[1..]);
        service.name = "new".to_owned();
        let data = serde_json::to_string(&service).unwrap();
        assert!(feed(&mut told, "e-2", "service", &data));
        assert_eq!(told.status.services.last(), Some(&service));
        assert!(feed(&mut told, "e-3", "removed", r#"{"name":"new"}"#));
        assert_eq!(told.status.services.len(), before.services.len());

        let mut proxy = serde_json::to_value(&before).unwrap();
        proxy.as_object_mut().unwrap().remove("services");
        proxy["generation"] = 99.into();
        assert!(feed(&mut told, "e-4", "proxy", &proxy.to_string()));
        assert_eq!(told.status.generation, 99);
        assert_eq!(told.status.services.len(), before.services.len());

        for (kind, data) in [("adopted", "{}"), ("service", "{}"), ("later", "1")] {
            assert!(!feed(&mut told, "e-5", kind, data), "{kind}");
        }
        assert!(!told.line(b": nothing new", now));
        assert_eq!(told.path(), "/api/v1/events?since=e-5");
        let whole = serde_json::to_string(&before).unwrap();
        assert!(feed(&mut told, "f-1", "status", &whole));
        assert_eq!(told.status, before);
    }
}
