//! Decides the actions for certificates: which order is placed next, and which certificate is renewed at which time.
//!
//! Pure: events, the time and random numbers go in, actions come out. At most one order is under way, because [`RenewalPlan::next`]
//! is asked again only when the last action has ended.

use std::time::Duration;

/// Seconds since the Unix epoch.
pub(super) type UnixSeconds = i64;

/// The pause after the first failure of a name. It triples with each further one: four attempts within the first hour, where
/// Let's Encrypt allows five failed validations of a name.
const FIRST_PAUSE: Duration = Duration::from_secs(120);
/// The longest pause between two attempts for a name.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// The shortest pause of all names after the authority said that the account has reached a limit.
const ACCOUNT_PAUSE: Duration = Duration::from_secs(3600);
/// A certificate isn't ordered again before this time.
const SHORTEST_USE: Duration = Duration::from_secs(3600);
/// Interval at which the authority is asked for renewal windows, unless it names another time (RFC 9773 section 4.3.2).
const ASK_EVERY: Duration = Duration::from_secs(6 * 3600);
/// Limits of the time that the authority names.
const ASK_LIMITS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));

/// Validity of a certificate, or a window in which to renew it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period {
    pub start: UnixSeconds,
    pub end: UnixSeconds,
}

/// An event that concerns the certificate of a name.
#[derive(Clone, Debug)]
pub(super) enum AcmeEvent {
    /// The store has a certificate.
    Stored(Period),
    /// The authority has issued a certificate.
    Issued(Period),
    /// The authority suggests when to renew the certificate, and when to ask again.
    Suggested(Option<Period>, Option<Duration>),
    /// An order has failed.
    Failed(OrderFailure),
}

/// The failure of an order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OrderFailure {
    /// The authority refuses orders of the account, not only of this name.
    pub of_account: bool,
    /// The pause that the authority asks for.
    pub retry_after: Option<Duration>,
}

/// The next action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AcmeAction {
    /// Order a certificate for this name.
    Order(String),
    /// Ask when the certificate of this name should be renewed.
    AskWindow(String),
    /// Do nothing for this long.
    Wait(Duration),
}

/// The plan for all names.
#[derive(Debug)]
pub(super) struct RenewalPlan {
    names: Vec<PlannedName>,
    /// Time until which no order is placed.
    paused_until: UnixSeconds,
}

#[derive(Debug)]
struct PlannedName {
    name: String,
    /// Time at which the next order is due.
    order_at: UnixSeconds,
    /// Time at which the authority is asked for a window; `None` without a certificate.
    ask_at: Option<UnixSeconds>,
    failures: u32,
}

impl RenewalPlan {
    /// A plan for names without certificates: all of them are due.
    pub(super) fn new(names: &[String], now: UnixSeconds) -> Self {
        let planned = |name: &String| PlannedName {
            name: name.clone(),
            order_at: now,
            ask_at: None,
            failures: 0,
        };
        Self {
            names: names.iter().map(planned).collect(),
            paused_until: now,
        }
    }

    /// Takes account of an event about `name`. `draw` is a random number from 0 to 1.
    pub(super) fn on(&mut self, name: &str, event: AcmeEvent, now: UnixSeconds, draw: f64) {
        let Some(planned) = self.names.iter_mut().find(|p| p.name == name) else {
            return;
        };
        match event {
            AcmeEvent::Stored(validity) | AcmeEvent::Issued(validity) => {
                planned.order_at = renewal_time(validity, draw);
                if matches!(event, AcmeEvent::Issued(_)) {
                    // The limit also holds if the certificate seems to have expired, because this machine's clock is wrong.
                    planned.order_at = planned.order_at.max(now + seconds(SHORTEST_USE));
                }
                planned.ask_at = Some(now);
                planned.failures = 0;
            }
            AcmeEvent::Suggested(window, again_in) => {
                let again = again_in.map_or(ASK_EVERY, |t| t.clamp(ASK_LIMITS.0, ASK_LIMITS.1));
                planned.ask_at = Some(now + seconds(again));
                // A renewal that is due or has failed isn't postponed.
                if let Some(window) = window
                    && planned.order_at > now
                    && planned.failures == 0
                {
                    planned.order_at = at(window, draw);
                }
            }
            AcmeEvent::Failed(failure) => {
                planned.failures += 1;
                let pause = pause(planned.failures, draw);
                let pause = pause.max(failure.retry_after.unwrap_or_default());
                planned.order_at = now + seconds(pause);
                if failure.of_account {
                    let pause = pause.max(ACCOUNT_PAUSE);
                    self.paused_until = now + seconds(pause);
                }
            }
        }
    }

    /// Returns the action that is due at `now`. The name that has been due longest comes first.
    pub(super) fn next(&self, now: UnixSeconds) -> AcmeAction {
        let order = |p: &PlannedName| p.order_at.max(self.paused_until);
        if let Some(due) = self.names.iter().min_by_key(|p| order(p))
            && order(due) <= now
        {
            return AcmeAction::Order(due.name.clone());
        }
        let asked = self
            .names
            .iter()
            .find(|p| p.ask_at.is_some_and(|at| at <= now));
        if let Some(asked) = asked {
            return AcmeAction::AskWindow(asked.name.clone());
        }
        let times = self.names.iter().flat_map(|p| [Some(order(p)), p.ask_at]);
        let next = times.flatten().min().unwrap_or(now + seconds(ASK_EVERY));
        AcmeAction::Wait(Duration::from_secs(
            next.saturating_sub(now).max(1).cast_unsigned(),
        ))
    }

    /// The time at which the next order for `name` is due.
    pub(super) fn order_at(&self, name: &str) -> Option<UnixSeconds> {
        let planned = self.names.iter().find(|p| p.name == name)?;
        Some(planned.order_at.max(self.paused_until))
    }
}

/// A time in the first half of the last third of the validity, so that there is time for further attempts. Random, so that
/// certificates that were issued together aren't renewed together.
fn renewal_time(validity: Period, draw: f64) -> UnixSeconds {
    let third = (validity.end - validity.start).max(0) / 3;
    let start = validity.end - third;
    at(
        Period {
            start,
            end: start + third / 2,
        },
        draw,
    )
}

/// A random time in a window (RFC 9773 section 4.2).
fn at(window: Period, draw: f64) -> UnixSeconds {
    let length = (window.end - window.start).max(0);
    window.start + (length as f64 * draw) as i64
}

/// The pause after this many failures in a row, at least 1: between half and all of the time by [`FIRST_PAUSE`].
fn pause(failures: u32, draw: f64) -> Duration {
    let factor = 3_u32.saturating_pow(failures.saturating_sub(1));
    let most = FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE);
    most.mul_f64(0.5 + draw / 2.0)
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = 1_800_000_000;
    const DAY: i64 = 86_400;

    fn plan(names: &[&str]) -> RenewalPlan {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        RenewalPlan::new(&names, NOW)
    }

    fn order(name: &str) -> AcmeAction {
        AcmeAction::Order(name.to_owned())
    }

    fn valid(from: i64, days: i64) -> AcmeEvent {
        AcmeEvent::Issued(Period {
            start: from,
            end: from + days * DAY,
        })
    }

    #[test]
    fn names_without_certificates_are_ordered_one_after_another() {
        let mut plan = plan(&["a.test", "b.test"]);
        assert_eq!(plan.next(NOW), order("a.test"));
        plan.on("a.test", valid(NOW, 90), NOW, 0.0);
        assert_eq!(plan.next(NOW), order("b.test"));
        plan.on("b.test", valid(NOW, 90), NOW, 1.0);
        assert_eq!(plan.next(NOW), AcmeAction::AskWindow("a.test".to_owned()));
        for name in ["a.test", "b.test"] {
            plan.on(name, AcmeEvent::Suggested(None, None), NOW, 0.5);
        }
        assert_eq!(plan.next(NOW), AcmeAction::Wait(ASK_EVERY));
    }

    #[test]
    fn a_certificate_is_renewed_in_its_last_third() {
        for (draw, day) in [(0.0, 60), (0.5, 67), (1.0, 75)] {
            let mut plan = plan(&["a.test"]);
            plan.on("a.test", valid(NOW, 90), NOW, draw);
            let at = plan.order_at("a.test").unwrap();
            assert_eq!((at - NOW) / DAY, day, "{draw}");
            assert_eq!(plan.next(at), order("a.test"));
        }
    }

    #[test]
    fn an_expired_certificate_is_renewed_now() {
        let mut plan = plan(&["a.test"]);
        let validity = Period {
            start: NOW - 100 * DAY,
            end: NOW - 10 * DAY,
        };
        plan.on("a.test", AcmeEvent::Stored(validity), NOW, 0.9);
        assert_eq!(plan.next(NOW), order("a.test"));
        // Issued just now, it isn't ordered over and over.
        plan.on("a.test", AcmeEvent::Issued(validity), NOW, 0.9);
        assert_eq!(plan.order_at("a.test"), Some(NOW + 3600));
    }

    #[test]
    fn the_window_of_the_authority_wins_and_may_be_now() {
        let mut plan = plan(&["a.test"]);
        plan.on("a.test", valid(NOW, 90), NOW, 0.0);
        let window = |start: i64, end: i64| {
            let (start, end) = (NOW + start * DAY, NOW + end * DAY);
            AcmeEvent::Suggested(Some(Period { start, end }), Some(Duration::from_secs(7200)))
        };
        plan.on("a.test", window(30, 40), NOW, 0.5);
        assert_eq!(plan.order_at("a.test"), Some(NOW + 35 * DAY));
        assert_eq!(plan.next(NOW), AcmeAction::Wait(Duration::from_secs(7200)));
        // The certificate was revoked: the window has passed.
        plan.on("a.test", window(-2, -1), NOW, 0.5);
        assert_eq!(plan.next(NOW), order("a.test"));
        // A later window doesn't put off what is due.
        plan.on("a.test", window(30, 40), NOW, 0.5);
        assert_eq!(plan.next(NOW), order("a.test"));
    }

    #[test]
    fn failures_pause_longer_and_longer_and_only_their_name() {
        let mut plan = plan(&["a.test", "b.test"]);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            plan.on(
                "a.test",
                AcmeEvent::Failed(OrderFailure::default()),
                NOW,
                1.0,
            );
            pauses.push(plan.order_at("a.test").unwrap() - NOW);
            assert_eq!(plan.next(NOW), order("b.test"));
        }
        assert_eq!(pauses, [120, 360, 1080, 3240, 9720, 21_600, 21_600]);
        plan.on(
            "a.test",
            AcmeEvent::Failed(OrderFailure::default()),
            NOW,
            0.0,
        );
        assert_eq!(plan.order_at("a.test"), Some(NOW + 10_800));
        plan.on("a.test", valid(NOW, 90), NOW, 0.0);
        plan.on(
            "a.test",
            AcmeEvent::Failed(OrderFailure::default()),
            NOW,
            1.0,
        );
        assert_eq!(
            plan.order_at("a.test"),
            Some(NOW + 120),
            "a success forgives"
        );
    }

    #[test]
    fn a_limit_of_the_account_pauses_all_names() {
        let mut plan = plan(&["a.test", "b.test"]);
        let limited = |retry_after| {
            AcmeEvent::Failed(OrderFailure {
                of_account: true,
                retry_after,
            })
        };
        plan.on("a.test", limited(None), NOW, 1.0);
        assert_eq!(plan.next(NOW), AcmeAction::Wait(Duration::from_secs(3600)));
        plan.on(
            "a.test",
            limited(Some(Duration::from_secs(10 * 3600))),
            NOW,
            1.0,
        );
        let hours = Duration::from_secs(10 * 3600);
        assert_eq!(plan.next(NOW), AcmeAction::Wait(hours));
        assert_eq!(plan.order_at("b.test"), Some(NOW + 36_000));
    }
}
