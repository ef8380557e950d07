//! The frames of the handover protocol, in JSON.
//!
//! Both sides may be programs of different versions. Fields are only ever added: a reader ignores fields that it doesn't know
//! and has a default for those that are missing. [`FORMAT`] says which steps a program knows, so that each side takes only the
//! steps that both know.

use serde::{Deserialize, Serialize};

use crate::edge::inherit::Label;
use crate::snapshot::ServiceState;

/// Programs with different numbers here can't take over from each other.
pub(super) const PROTOCOL: u32 = 1;
/// The format of this program. 1: up to [`Released`]. 2: services in the offer, refusals, and [`Claimed`].
pub(super) const FORMAT: u32 = 2;
/// From this format on a successor answers [`Released`] with [`Claimed`], and a predecessor that goes on says why.
pub(super) const CLAIMS: u32 = 2;

/// Programs before the field existed know format 1.
fn first_format() -> u32 {
    1
}

/// Service, version, endpoint.
pub(crate) type EndpointName = [String; 3];

/// Successor: wants the sockets.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol: u32,
    #[serde(default = "first_format")]
    pub(super) format: u32,
}

/// Predecessor: what there is. The descriptors of `sockets` follow, in this order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) protocol: u32,
    #[serde(default = "first_format")]
    pub(super) format: u32,
    pub(super) pid: u32,
    #[serde(default)]
    pub(super) generation: u64,
    /// What an operator drains.
    #[serde(default)]
    pub(super) draining: Vec<EndpointName>,
    #[serde(default)]
    pub(super) sockets: Vec<Label>,
    /// Split, gate and sessions, by service.
    #[serde(default)]
    pub(super) services: Vec<ServiceState>,
}

/// Successor: accepts on the sockets.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Serving {
    /// Addresses, as the predecessor's configuration wrote them, of sockets that the successor doesn't want.
    pub(super) unwanted: Vec<String>,
}

/// Predecessor: gives the sockets up, and, after [`Claimed`], has given them up.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Released {
    /// Why it does not: it goes on serving. Never sent to format 1, which would take this for a release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
    /// What an operator drains now; it may have changed since the offer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) draining: Option<Vec<EndpointName>>,
}

/// Successor: the sockets are its own from now on.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Claimed {}
