//! The limiters of clients' requests. A reload that doesn't change a limit keeps its limiter, and with it the use of each client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::client_limit::ClientLimits;
use crate::config::spec::{ListenerSpec, RuleSpec, ServiceSpec};
use crate::index::RuleIx;
use crate::routing::client_limit::ClientLimiter;
use crate::routing::{RequestView, ServiceRouting};

/// The limiters of listeners.
#[derive(Debug, Default)]
pub(crate) struct ListenerClientLimits(Box<[(String, Arc<ClientLimiter>)]>);

/// The limiters of a service and of its rules.
#[derive(Debug, Default)]
pub(crate) struct ServiceClientLimits {
    service: Option<Arc<ClientLimiter>>,
    /// Limiters by rule. Empty if no rule has one.
    rules: Box<[Option<Arc<ClientLimiter>>]>,
}

/// A request above a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverLimit {
    /// The time after which the client may try again.
    pub wait: Duration,
    /// Index of the rule that has the limit; `None` if the service has it.
    pub rule: Option<RuleIx>,
}

/// The limiter for these limits: the running one if its limits are the same.
fn limiter(
    limits: Option<&ClientLimits>,
    running: Option<&Arc<ClientLimiter>>,
) -> Option<Arc<ClientLimiter>> {
    let limits = limits?;
    let rate = limits.requests.as_ref()?;
    let same = running.filter(|running| running.is_for(&limits.by, rate));
    let made = || Arc::new(ClientLimiter::new(&limits.by, rate, Instant::now()));
    Some(same.cloned().unwrap_or_else(made))
}

impl ListenerClientLimits {
    /// Builds the limiters of all listeners, which keep their names across reloads.
    pub(super) fn new(listeners: &[ListenerSpec], running: Option<&Self>) -> Self {
        let limiters = listeners.iter().filter_map(|listener| {
            let running = running.and_then(|running| running.get(&listener.name));
            let limiter = limiter(listener.client_limits.as_ref(), running)?;
            Some((listener.name.clone(), limiter))
        });
        Self(limiters.collect())
    }

    fn get(&self, listener: &str) -> Option<&Arc<ClientLimiter>> {
        let mut all = self.0.iter();
        all.find(|(name, _)| name == listener)
            .map(|(_, limiter)| limiter)
    }

    /// Admits a request that arrived on this listener at `now`.
    ///
    /// # Errors
    /// The time after which the client may try again.
    #[inline]
    pub(crate) fn admit(
        &self,
        listener: &str,
        request: &impl RequestView,
        now: Instant,
    ) -> Result<(), Duration> {
        match self.get(listener) {
            Some(limiter) => limiter.admit(request, now),
            None => Ok(()),
        }
    }
}

impl ServiceClientLimits {
    /// Builds the limiters of a service. `running` are its specification and limiters before.
    pub(super) fn new(spec: &ServiceSpec, running: Option<(&ServiceSpec, &Self)>) -> Self {
        let of_service = running.and_then(|(_, limits)| limits.service.as_ref());
        let of_rule = |rule: &RuleSpec| {
            let (spec, limits) = running?;
            // Rules have no names: the one with the same conditions is the same rule.
            let same =
                |was: &RuleSpec| was.when == rule.when && was.client_limits == rule.client_limits;
            let at = spec.rules.iter().position(same)?;
            limits.rules.get(at)?.as_ref()
        };
        let has_limit = |rule: &RuleSpec| rule.client_limits.is_some();
        let rules = spec.rules.iter();
        Self {
            service: limiter(spec.policies.client_limits.as_ref(), of_service),
            rules: match spec.rules.iter().any(has_limit) {
                true => rules
                    .map(|rule| limiter(rule.client_limits.as_ref(), of_rule(rule)))
                    .collect(),
                false => Box::default(),
            },
        }
    }

    /// Admits a request that arrived at `now`. `is_preview`: its host is a preview host, for which rules don't apply.
    ///
    /// # Errors
    /// The limit that the request is above.
    #[inline]
    pub(crate) fn admit(
        &self,
        routing: &ServiceRouting,
        is_preview: bool,
        request: &impl RequestView,
        now: Instant,
    ) -> Result<(), OverLimit> {
        if !self.rules.is_empty()
            && !is_preview
            && let Some(rule) = routing.matcher.find(request)
            && let Some(limiter) = &self.rules[rule.0]
        {
            let rule = Some(rule);
            { limiter.admit(request, now) }.map_err(|wait| OverLimit { wait, rule })?;
        }
        match &self.service {
            Some(limiter) => {
                { limiter.admit(request, now) }.map_err(|wait| OverLimit { wait, rule: None })
            }
            None => Ok(()),
        }
    }
}
