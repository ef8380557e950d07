//! Tasks that send requests to the proxy and report the results as events.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use super::action::{ActionRequest, UNDO_PATH, WatchAction};
use super::event_feed::{CLOCK, EventFeed};
use super::log_model::LogRow;
use super::model::WatchEvent;
use crate::admin::plan::PlanReport;
use crate::admin::series::ServiceSeries;
use crate::admin::status::ProxyStatus;
use crate::admin::writes::{UndoPlan, UndoRequest};
use crate::cli::author::{author, person};
use crate::cli::error::CommandError;
use crate::cli::logs::filter::LogFilter;
use crate::cli::logs::view::{LoggedLine, shown};
use crate::cli::plan::text_of;
use crate::cli::proxy::{Proxy, ProxyError};
use crate::cli::proxy_address::ProxyAddress;

/// Interval between two attempts to reach the proxy.
const RECONNECT: Duration = Duration::from_millis(500);

/// Interval between two attempts to follow the log.
const LOG_INTERVAL: Duration = Duration::from_millis(500);

/// Time limit for an action. `promote` may wait for a hook, and edits wait until they are adopted.
const ACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Largest number of lines of the log that were read and not handled yet.
const QUEUED_LINES: usize = 1024;

/// Follows the events of the proxy, also of one that takes over or is started later. Ends when the receiver has gone.
pub(super) async fn follow_status(
    address: ProxyAddress,
    (proxy, status): (Proxy, ProxyStatus),
    events: mpsc::Sender<WatchEvent>,
) {
    let feed = RefCell::new(EventFeed::new(status, Instant::now()));
    let mut current = Some(proxy);
    loop {
        let found = match current.take() {
            Some(proxy) => Ok(proxy),
            // Another process may have another address by now.
            None => Proxy::find(&address).await.map(|(proxy, _)| proxy),
        };
        let lost = match found {
            Ok(proxy) => follow_once(&proxy, &feed, &events).await,
            Err(error) => Err(error),
        };
        if let Err(error) = lost {
            let lost = WatchEvent::Lost(one_line(error.into()));
            if events.send(lost).await.is_err() {
                return;
            }
            sleep(RECONNECT).await;
        }
        if events.is_closed() {
            return;
        }
    }
}

/// Follows one stream to its end, and passes on the status when it changes, and every second.
async fn follow_once(
    proxy: &Proxy,
    feed: &RefCell<EventFeed>,
    events: &mpsc::Sender<WatchEvent>,
) -> Result<(), ProxyError> {
    let path = feed.borrow().path();
    let (changed, has_begun) = (Notify::new(), Cell::new(false));
    let mut reading = pin!(proxy.lines(&path, |line| {
        has_begun.set(true);
        if feed.borrow_mut().line(line, Instant::now()) {
            changed.notify_one();
        }
    }));
    loop {
        tokio::select! {
            ended = &mut reading => return ended,
            () = changed.notified() => {}
            () = sleep(CLOCK) => {}
        }
        // A proxy that takes the connection and doesn't answer is not there.
        if has_begun.get() {
            let status = Box::new(feed.borrow().status(Instant::now()));
            if events.send(WatchEvent::Status(status)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Asks for the last minutes of a service. `None` if the proxy doesn't answer, which the events show as well.
pub(super) async fn past(address: ProxyAddress, service: String) -> Option<WatchEvent> {
    let (proxy, _) = Proxy::find(&address).await.ok()?;
    let path = format!("/api/v1/services/{service}/series");
    let past: ServiceSeries = proxy.get(&path).await.ok()?;
    Some(WatchEvent::Past(service, Box::new(past)))
}

/// Follows the log, also that of a process that takes over or is started later. Ends when the receiver has gone.
pub(super) async fn follow(
    address: ProxyAddress,
    filter: LogFilter,
    events: mpsc::Sender<WatchEvent>,
) {
    let path = filter.path();
    loop {
        let ended = match Proxy::find(&address).await {
            Ok((proxy, _)) => lines(&proxy, &path, &events).await,
            Err(error) => Err(error),
        };
        let why = match ended {
            Ok(()) => "the proxy has ended it".to_owned(),
            Err(error) => one_line(error.into()),
        };
        if events.send(WatchEvent::LogBroken(why)).await.is_err() {
            return;
        }
        sleep(LOG_INTERVAL).await;
    }
}

/// Passes on lines until the response ends. Lines that come faster than they are taken are dropped and counted.
async fn lines(
    proxy: &Proxy,
    path: &str,
    events: &mpsc::Sender<WatchEvent>,
) -> Result<(), ProxyError> {
    let (queue, mut queued) = mpsc::channel(QUEUED_LINES);
    let mut dropped = 0;
    let reading = proxy.lines(path, move |line| {
        let event = match LoggedLine::parse(line) {
            LoggedLine::Request(request) => WatchEvent::Line(LogRow {
                status: request["status"].as_u64().unwrap_or_default(),
                text: anstream::adapter::strip_str(&shown(&request)).to_string(),
            }),
            LoggedLine::Dropped(lines) => WatchEvent::LinesDropped(lines),
            LoggedLine::HandedOver => WatchEvent::Line(LogRow {
                status: 0,
                text: "another process has taken over".to_owned(),
            }),
        };
        if dropped > 0 && queue.try_send(WatchEvent::LinesDropped(dropped)).is_ok() {
            dropped = 0;
        }
        if queue.try_send(event).is_err() {
            dropped += 1;
        }
    });
    let mut reading = std::pin::pin!(reading);
    loop {
        tokio::select! {
            Some(event) = queued.recv() => {
                // The view has gone; `follow` notices as well.
                let _ = events.send(event).await;
            }
            ended = &mut reading => return ended,
        }
    }
}

/// Carries out an action.
pub(super) async fn act(address: ProxyAddress, action: WatchAction) -> WatchEvent {
    let request = action.request(&person());
    let sent = async {
        let (proxy, _) = Proxy::find(&address).await?;
        let by = Some(author("status"));
        let ActionRequest { path, body } = request;
        proxy
            .post_as::<serde_json::Value>(&path, &body, by, ACTION_TIMEOUT)
            .await
    };
    match sent.await {
        Ok(report) => WatchEvent::Done(match report["generation"].as_u64() {
            Some(generation) => format!("{action} (generation {generation})"),
            None => action.to_string(),
        }),
        Err(error) => WatchEvent::Refused(one_line(error.into())),
    }
}

/// Asks for the changes that a shift would make.
pub(super) async fn plan_shift(address: ProxyAddress, shift: WatchAction) -> WatchEvent {
    let ActionRequest { path, body } = shift.request(&person());
    let asked = async {
        let (proxy, _) = Proxy::find(&address).await?;
        let path = format!("{path}?dry_run=true");
        proxy.post::<PlanReport>(&path, &body).await
    };
    match asked.await {
        Ok(report) => {
            let lines = text_of(&report).lines().map(str::to_owned).collect();
            WatchEvent::ShiftPlanned(shift, lines)
        }
        Err(error) => WatchEvent::Refused(one_line(error.into())),
    }
}

/// Asks for the changes that an undo would make.
pub(super) async fn plan_undo(address: ProxyAddress) -> WatchEvent {
    let request = UndoRequest {
        generation: None,
        running: None,
        plan: true,
    };
    let asked = async {
        let (proxy, _) = Proxy::find(&address).await?;
        proxy.post::<UndoPlan>(UNDO_PATH, &request).await
    };
    match asked.await {
        Ok(plan) => WatchEvent::UndoPlanned(plan),
        Err(error) => WatchEvent::Refused(one_line(error.into())),
    }
}

fn one_line(error: CommandError) -> String {
    let mut text = error.message;
    for line in error.detail {
        text += &format!("; {}", line.trim());
    }
    text
}
