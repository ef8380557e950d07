//! The settings of a listener that its connections depend on.

use std::sync::Arc;

use ipnet::IpNet;

use super::acme::AcmeAnswers;
use crate::net::ListenerId;
use crate::proxy::headers::Request;
use crate::proxy::via::Via;
use crate::telemetry::ListenerShard;

/// The listener's settings at the time a connection was accepted. They hold for the life of the connection.
///
/// Immutable, and shared by the listener and its connections. A reload makes a new one for later connections. What must follow a
/// reload at once, such as routes and limits, is in the snapshot instead.
#[derive(Debug)]
pub struct ListenerInfo {
    /// A number that the listener keeps across reloads.
    pub id: ListenerId,
    /// The name in `[listen.NAME]`.
    pub name: String,
    /// Whether HTTP/1.1 is offered.
    pub h1: bool,
    /// Whether HTTP/2 is offered.
    pub h2: bool,
    /// Whether every request is answered by a redirect to https.
    pub redirect_https: bool,
    /// Peers whose `X-Forwarded-*` fields are trusted.
    pub trusted: Vec<IpNet>,
    /// Whether repeated slashes in a path are merged.
    pub merge_slashes: bool,
    /// The value added to `Via` (RFC 9110 §7.6.3).
    pub via: Option<Via>,
    /// The hosts for which challenges of an ACME authority are answered, and the answers.
    pub challenges: Option<(Vec<String>, Arc<AcmeAnswers>)>,
    /// The listener's metrics, one shard per worker.
    pub metrics: Arc<[ListenerShard]>,
}

impl ListenerInfo {
    /// The answer to a request, if it is a challenge of an ACME authority.
    #[inline]
    pub(crate) fn challenge_answer<F>(&self, request: &Request<'_, F>) -> Option<String> {
        let (hosts, answers) = self.challenges.as_ref()?;
        let answer = answers.to_path(request.typed_path)?;
        hosts
            .iter()
            .any(|host| host == request.host)
            .then_some(answer)
    }
}
