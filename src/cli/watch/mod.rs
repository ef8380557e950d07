//! `cutover status -w` on a terminal: the services, their rollouts and the log on the whole screen, and the actions of an
//! operator on them.
//!
//! [`model`] is the state and [`mod@update`] applies events to it; [`frame`] draws it. Neither has a clock or does I/O.
//! [`requests`] talks to the proxy, [`terminal`] to the terminal, and [`run`] joins them.

mod action;
mod condition;
mod event_feed;
mod figures;
#[cfg(test)]
mod fixtures;
mod frame;
mod key;
mod log_model;
mod log_page;
mod model;
mod operator_keys;
mod overlay;
mod printable;
mod requests;
mod rollout_panel;
mod screen;
mod series;
mod service_list;
mod service_page;
mod styled_line;
mod terminal;
mod update;

use std::io::IsTerminal as _;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::error::CommandError;
use super::proxy::Proxy;
use super::proxy_address::ProxyAddress;
use crate::admin::status::ProxyStatus;
use key::TerminalKey;
use model::{WatchEffect, WatchEvent, WatchModel, WatchView};
use screen::TerminalAbilities;
use terminal::TerminalSession;
use update::update;

/// Events that are waiting to be applied.
const QUEUED_EVENTS: usize = 1024;

/// Most events that are applied before the screen is drawn again.
const EVENTS_PER_FRAME: usize = 2048;

/// Shortest time between two frames.
const FRAME_TIME: Duration = Duration::from_millis(25);

/// Whether the whole screen can be used: stdin and stdout are terminals, and `TERM` isn't `dumb`.
pub(super) fn is_possible() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    std::io::stdout().is_terminal() && std::io::stdin().is_terminal() && !is_dumb
}

/// Shows the proxy until the user quits, beginning with a service, if one is named. Returns the exit code.
///
/// # Errors
/// The terminal can't be used, or is gone.
pub(super) async fn run(
    address: &ProxyAddress,
    proxy: Proxy,
    status: ProxyStatus,
    service: Option<&str>,
) -> Result<u8, CommandError> {
    let failed = |error: std::io::Error| CommandError::new(format!("the terminal: {error}"));
    let signals = WatchSignals::listen().map_err(failed)?;
    let (keys, pressed) = mpsc::channel(QUEUED_EVENTS);
    let session = TerminalSession::begin(abilities()).map_err(failed)?;
    terminal::read_keys(keys).map_err(failed)?;
    let (events, received) = mpsc::channel(QUEUED_EVENTS);
    let known = (proxy, status.clone());
    let following = requests::follow_status(address.clone(), known, events.clone());
    let mut watch = Watch {
        address,
        model: WatchModel::new(status, service, SystemTime::now()),
        session,
        events,
        log: None,
        past_of: None,
    };
    let outcome = tokio::select! {
        outcome = watch.show(received, pressed, signals) => outcome.map_err(failed),
        // The task ends only after the receiver of its events, or by a panic.
        _ = spawn_local(following) => Err(CommandError::new("the status can't be read any more")),
    };
    // The view is dropped before an error is printed.
    drop(watch);
    outcome
}

/// The abilities of the terminal, from the environment.
fn abilities() -> TerminalAbilities {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
    let locale = locale.unwrap_or_default().to_lowercase();
    TerminalAbilities {
        colours: set("NO_COLOR").is_none(),
        unicode: locale.contains("utf-8") || locale.contains("utf8"),
    }
}

/// The signals that matter to a terminal.
struct WatchSignals {
    resized: Signal,
    stop: Signal,
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl WatchSignals {
    fn listen() -> std::io::Result<Self> {
        let tstp = SignalKind::from_raw(rustix::process::Signal::TSTP.as_raw());
        Ok(Self {
            resized: signal(SignalKind::window_change())?,
            stop: signal(tstp)?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// The view while it runs.
struct Watch<'a> {
    address: &'a ProxyAddress,
    model: WatchModel,
    session: TerminalSession,
    events: mpsc::Sender<WatchEvent>,
    /// The task that follows the log, and its events. Both are dropped together, so that no line of a former filter comes late.
    log: Option<(JoinHandle<()>, mpsc::Receiver<WatchEvent>)>,
    /// The service that is shown, whose last minutes were asked for.
    past_of: Option<String>,
}

/// Exit codes of a process that a signal has ended, as shells count them.
const TERMINATED: u8 = 128 + 15;
const HUNG_UP: u8 = 128 + 1;

impl Watch<'_> {
    /// Applies events and draws until the user quits or a signal ends the view.
    async fn show(
        &mut self,
        mut received: mpsc::Receiver<WatchEvent>,
        mut pressed: mpsc::Receiver<Option<TerminalKey>>,
        mut signals: WatchSignals,
    ) -> std::io::Result<u8> {
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            self.ask_for_the_past();
            self.draw()?;
            sleep(FRAME_TIME).await;
            let event = tokio::select! {
                biased;
                _ = signals.terminate.recv() => return Ok(TERMINATED),
                _ = signals.hangup.recv() => return Ok(HUNG_UP),
                _ = signals.interrupt.recv() => return Ok(0),
                _ = signals.stop.recv() => {
                    self.session.suspend()?;
                    continue;
                }
                _ = signals.resized.recv() => {
                    self.session.forget();
                    continue;
                }
                key = pressed.recv() => match key.flatten() {
                    Some(key) => WatchEvent::Key(key),
                    None => return Ok(HUNG_UP),
                },
                // `self` holds a sender, so the channel is open.
                Some(event) = received.recv() => event,
                Some(event) = next_line(&mut self.log) => event,
                _ = seconds.tick() => WatchEvent::Tick,
            };
            let mut next = Some(event);
            for _ in 0..EVENTS_PER_FRAME {
                let Some(event) = next else { break };
                if let Some(code) = self.apply(event)? {
                    return Ok(code);
                }
                let key = pressed.try_recv().ok().flatten().map(WatchEvent::Key);
                next = key
                    .or_else(|| received.try_recv().ok())
                    .or_else(|| self.log.as_mut()?.1.try_recv().ok());
            }
        }
    }

    /// Asks for the last minutes of the service that is shown, once each time that it is opened.
    fn ask_for_the_past(&mut self) {
        let shown = match &self.model.view {
            WatchView::Service(name) => Some(name.clone()),
            WatchView::Services | WatchView::Log => None,
        };
        if shown == self.past_of {
            return;
        }
        self.past_of.clone_from(&shown);
        if let Some(name) = shown {
            let (address, events) = (self.address.clone(), self.events.clone());
            spawn_local(async move {
                if let Some(past) = requests::past(address, name).await {
                    // The view may have been left.
                    let _ = events.send(past).await;
                }
            });
        }
    }

    fn draw(&mut self) -> std::io::Result<()> {
        let screen = frame::draw(&self.model, TerminalSession::size(), SystemTime::now());
        self.session.show(screen)
    }

    /// Applies an event and carries out its effects. Returns the exit code if the view ends.
    fn apply(&mut self, event: WatchEvent) -> std::io::Result<Option<u8>> {
        let Some(effect) = update(&mut self.model, event, SystemTime::now()) else {
            return Ok(None);
        };
        match effect {
            WatchEffect::Quit => return Ok(Some(0)),
            WatchEffect::Suspend => self.session.suspend()?,
            WatchEffect::Redraw => self.session.forget(),
            WatchEffect::Send(action) => {
                self.report(requests::act(self.address.clone(), action));
            }
            WatchEffect::PlanShift(shift) => {
                self.report(requests::plan_shift(self.address.clone(), shift));
            }
            WatchEffect::PlanUndo => self.report(requests::plan_undo(self.address.clone())),
            WatchEffect::Follow(filter) => {
                if let Some((former, _)) = self.log.take() {
                    former.abort();
                }
                self.log = filter.map(|filter| {
                    let (events, received) = mpsc::channel(QUEUED_EVENTS);
                    let following = requests::follow(self.address.clone(), filter, events);
                    (spawn_local(following), received)
                });
            }
        }
        Ok(None)
    }

    /// Runs a request beside the view. The proxy's events then show what it has changed.
    fn report(&self, request: impl Future<Output = WatchEvent> + 'static) {
        let events = self.events.clone();
        spawn_local(async move {
            let event = request.await;
            // The view may have been left.
            let _ = events.send(event).await;
        });
    }
}

/// The next event of the log; never ends while it isn't followed.
async fn next_line(
    log: &mut Option<(JoinHandle<()>, mpsc::Receiver<WatchEvent>)>,
) -> Option<WatchEvent> {
    match log {
        Some((_, received)) => received.recv().await,
        None => std::future::pending().await,
    }
}
