//! The retry decision: whether another try follows a failed one, and on which version. Pure; the
//! caller applies limits and budget and acts on the result.

use super::error::ExchangeError;
use crate::config::policy;
use crate::telemetry::record::RetryReason;

/// A failed try, classified by what it allows next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TryFailure {
    /// A limit or a shortage of the proxy. Nothing was sent, and another endpoint of the version
    /// would fail the same way.
    Refused,
    /// No connection. Nothing was sent.
    Unsent,
    /// The exchange failed before a response head.
    Reset,
    /// No response head in time.
    Timeout,
    /// A response with this status.
    Status(u16),
}

impl TryFailure {
    /// Classifies an error; `None` if no other try may follow, such as for failures of the client.
    pub(crate) fn of(error: &ExchangeError) -> Option<Self> {
        match error {
            ExchangeError::Limit(_) => Some(Self::Refused),
            ExchangeError::Connect(e) if e.is_local() => Some(Self::Refused),
            ExchangeError::Connect(_) | ExchangeError::NoEndpoint => Some(Self::Unsent),
            ExchangeError::Upstream(_) => Some(Self::Reset),
            ExchangeError::FirstByteTimeout => Some(Self::Timeout),
            _ => None,
        }
    }

    /// The label in `cutover_retries_total`.
    pub(crate) fn reason(self) -> RetryReason {
        match self {
            Self::Refused | Self::Unsent => RetryReason::Connect,
            Self::Reset => RetryReason::Reset,
            Self::Timeout => RetryReason::Timeout,
            Self::Status(502) => RetryReason::BadGateway,
            Self::Status(503) => RetryReason::Unavailable,
            Self::Status(504) => RetryReason::GatewayTimeout,
            Self::Status(_) => RetryReason::Status,
        }
    }

    /// Whether nothing was sent to the version, so that even a request that isn't idempotent may be
    /// sent elsewhere.
    pub(crate) fn is_unsent(self) -> bool {
        matches!(self, Self::Refused | Self::Unsent)
    }

    /// Whether `limits.retries` applies. It bounds the load that repeated requests put on an
    /// application that answers with errors. Failures of a dead endpoint are quick and move to
    /// another one, so only the budget applies to them.
    pub(crate) fn is_answer(self) -> bool {
        matches!(self, Self::Status(_))
    }
}

/// The state of a request when a try has failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation<'a> {
    /// The service's `retry`.
    pub policy: &'a policy::Retry,
    /// The service's `shield`.
    pub shield: bool,
    /// Whether the method is idempotent (RFC 9110 §9.2.2).
    pub idempotent: bool,
    /// The body can be sent again from its start.
    pub can_rewind: bool,
    /// Number of tries so far.
    pub tries: u32,
    /// The version is a canary, and the request isn't pinned to it.
    pub may_leave: bool,
    /// The current try is on stable already, for the canary.
    pub shielded: bool,
    /// The version has a usable endpoint that hasn't been tried.
    pub has_untried: bool,
    /// A second try (`hedge`) is running, or has a response in reserve.
    pub second_runs: bool,
}

/// The action that follows a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// No further try: the failure is reported to the client.
    Nothing,
    /// Another try in the same version.
    Retry,
    /// One try on stable in place of the canary.
    Shield,
    /// The second try, which runs already.
    Second,
}

/// Decides what follows a failure. A [`Next::Retry`] is still subject to limit and budget; if these
/// are used up, [`after_retries`] decides.
pub(crate) fn next(failure: TryFailure, at: &Situation<'_>) -> Next {
    let next = without_second(failure, at);
    // A response that isn't retried goes to the client. Any other failure leaves the request to the second try, which is
    // ahead of whatever would begin now.
    match failure {
        TryFailure::Status(_) if next == Next::Nothing => next,
        _ if at.second_runs => Next::Second,
        _ => next,
    }
}

fn without_second(failure: TryFailure, at: &Situation<'_>) -> Next {
    if !at.can_rewind {
        return Next::Nothing;
    }
    let repeatable = at.idempotent || failure.is_unsent();
    let failed = !matches!(failure, TryFailure::Status(status) if status < 500);
    if at.shield && failed && repeatable && at.may_leave && !at.shielded {
        return Next::Shield;
    }
    let wanted = match failure {
        TryFailure::Refused => false,
        TryFailure::Unsent => at.policy.on.connect,
        TryFailure::Reset => at.policy.on.reset,
        TryFailure::Timeout => at.policy.on.timeout || at.policy.on.statuses.contains(&504),
        TryFailure::Status(status) => at.policy.on.statuses.contains(&status),
    };
    let may_retry = wanted
        && (repeatable || at.policy.all_methods)
        && at.tries < at.policy.tries
        && !at.shielded;
    // If stable can answer, trying the same unreachable endpoint again would only delay that.
    let unreached = after_retries(failure, at);
    if may_retry && (at.has_untried || unreached == Next::Nothing) {
        Next::Retry
    } else {
        unreached
    }
}

/// Decides what follows when the version may not be tried again: a request that never reached its
/// canary goes to stable, even without `shield`.
pub(crate) fn after_retries(failure: TryFailure, at: &Situation<'_>) -> Next {
    let spills = failure.is_unsent() && at.can_rewind && at.may_leave && !at.shielded;
    if spills { Next::Shield } else { Next::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::record::Origin;
    use crate::upstream::ConnectError;
    use crate::upstream::limits::Limit;

    fn refused() -> ExchangeError {
        ExchangeError::Connect(ConnectError::Io(
            std::io::ErrorKind::ConnectionRefused.into(),
        ))
    }

    fn policy() -> policy::Retry {
        policy::Policies::default().retry
    }

    fn at(policy: &policy::Retry) -> Situation<'_> {
        Situation {
            policy,
            shield: false,
            idempotent: true,
            can_rewind: true,
            tries: 1,
            may_leave: true,
            shielded: false,
            has_untried: true,
            second_runs: false,
        }
    }

    #[test]
    fn a_canary_that_was_not_reached_spills_to_stable_after_its_own_endpoints() {
        let policy = policy();
        let unsent = TryFailure::of(&refused()).expect("another try may follow");
        assert_eq!(next(unsent, &at(&policy)), Next::Retry);
        let alone = Situation {
            has_untried: false,
            ..at(&policy)
        };
        assert_eq!(next(unsent, &alone), Next::Shield);
        let post = Situation {
            idempotent: false,
            ..alone
        };
        assert_eq!(next(unsent, &post), Next::Shield, "nothing was sent");
        let strict = Situation {
            may_leave: false,
            ..alone
        };
        assert_eq!(next(unsent, &strict), Next::Retry);
        let done = Situation {
            shielded: true,
            ..alone
        };
        assert_eq!(next(unsent, &done), Next::Nothing);
    }

    #[test]
    fn a_limit_spills_from_a_canary_and_refuses_at_once_on_stable() {
        let policy = policy();
        let limit = TryFailure::of(&ExchangeError::Limit(Limit::Pending)).expect("unsent");
        assert_eq!(next(limit, &at(&policy)), Next::Shield);
        let stable = Situation {
            may_leave: false,
            ..at(&policy)
        };
        assert_eq!(next(limit, &stable), Next::Nothing);
    }

    #[test]
    fn failures_of_the_client_are_final() {
        for error in [
            ExchangeError::ClientGone(None),
            ExchangeError::BodyTimeout,
            ExchangeError::ClientSlow,
            ExchangeError::BodyTooLarge,
            ExchangeError::Shutdown,
        ] {
            assert_eq!(TryFailure::of(&error), None, "{error}");
            assert_ne!(error.failure(false).origin, Origin::Upstream);
        }
    }

    #[test]
    fn a_running_second_try_takes_over_from_a_failure_and_leaves_an_answer_to_the_client() {
        let policy = policy();
        let hedged = Situation {
            second_runs: true,
            tries: 2,
            has_untried: false,
            ..at(&policy)
        };
        for failure in [
            TryFailure::Reset,
            TryFailure::Timeout,
            TryFailure::Unsent,
            TryFailure::Refused,
        ] {
            assert_eq!(next(failure, &hedged), Next::Second, "{failure:?}");
        }
        assert_eq!(next(TryFailure::Status(500), &hedged), Next::Nothing);
        assert_eq!(next(TryFailure::Status(404), &hedged), Next::Nothing);
        let shield = Situation {
            shield: true,
            ..hedged
        };
        assert_eq!(next(TryFailure::Status(500), &shield), Next::Second);
        let early = Situation { tries: 1, ..hedged };
        assert_eq!(next(TryFailure::Status(503), &early), Next::Second);
    }

    #[test]
    fn without_the_shield_an_answer_stays_with_its_version() {
        let policy = policy();
        let alone = Situation {
            has_untried: false,
            ..at(&policy)
        };
        assert_eq!(next(TryFailure::Status(500), &alone), Next::Nothing);
        assert_eq!(next(TryFailure::Status(503), &alone), Next::Retry);
        let shield = Situation {
            shield: true,
            ..alone
        };
        assert_eq!(next(TryFailure::Status(500), &shield), Next::Shield);
        assert_eq!(next(TryFailure::Status(404), &shield), Next::Nothing);
        let post = Situation {
            idempotent: false,
            ..shield
        };
        assert_eq!(next(TryFailure::Status(500), &post), Next::Nothing);
    }
}
