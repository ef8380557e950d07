//! The frames of the handover protocol, in JSON.
//!
//! The two processes may run different releases. Fields are only ever added: a reader ignores unknown fields and has defaults for
//! missing ones. [`FORMAT`] tells which steps a program knows, so that each side performs only the steps that both know.

use serde::{Deserialize, Serialize};

use crate::edge::inherit::Label;
use crate::edge::tls::TicketSecret;
use crate::snapshot::ServiceState;
use crate::upstream::resolve::record::{LookupName, ResolvedAddress};

/// Version of the protocol as a whole. Programs whose numbers differ can't take over from each other.
pub(super) const PROTOCOL: u32 = 1;
/// The format of this program. Format 1 ends with [`Released`]; 2 adds services in the offer, refusals, and [`Claimed`].
pub(super) const FORMAT: u32 = 2;
/// The first format in which a successor answers [`Released`] with [`Claimed`], and a predecessor that keeps serving sends the
/// reason.
pub(super) const CLAIMS: u32 = 2;

/// Programs that predate the field know format 1.
fn first_format() -> u32 {
    1
}

/// The name of an endpoint: service, version, address.
pub(crate) type EndpointName = [String; 3];

/// From the successor: asks for the sockets.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol: u32,
    #[serde(default = "first_format")]
    pub(super) format: u32,
}

/// From the predecessor: its state and its sockets. The descriptors of `sockets` follow, in the same order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) protocol: u32,
    #[serde(default = "first_format")]
    pub(super) format: u32,
    pub(super) pid: u32,
    #[serde(default)]
    pub(super) generation: u64,
    /// Endpoints that operators are draining.
    #[serde(default)]
    pub(super) draining: Vec<EndpointName>,
    #[serde(default)]
    pub(super) sockets: Vec<Label>,
    /// Effective split, gate and sessions, by service.
    #[serde(default)]
    pub(super) services: Vec<ServiceState>,
    /// The secrets of TLS tickets, so that clients can resume their sessions.
    #[serde(default)]
    pub(super) tickets: Vec<TicketSecret>,
    /// The addresses of endpoints' names. The successor looks them up itself, and uses these if it can't.
    #[serde(default)]
    pub(super) names: Vec<(LookupName, Vec<ResolvedAddress>)>,
}

/// From the successor: a message that it accepts on the sockets.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Serving {
    /// Addresses of sockets that the successor doesn't want, as the predecessor's configuration spells them.
    pub(super) unwanted: Vec<String>,
}

/// From the predecessor: a message that it agrees to release the sockets or, after [`Claimed`], has released them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Released {
    /// The reason why it keeps serving instead. Never sent to format 1, which would take the frame for a release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
    /// Endpoints that operators are draining now; this may have changed since the offer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) draining: Option<Vec<EndpointName>>,
}

/// From the successor: a message that the sockets and their files belong to it from now on.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Claimed {}
