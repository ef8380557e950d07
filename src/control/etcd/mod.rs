//! A client of etcd (API v3, gRPC) for the fleet's shared state.
//!
//! It runs on the control thread, keeps one connection to one member of etcd, and moves to another one when that fails. Nothing
//! here blocks. Answers of etcd are untrusted: sizes are bounded, and values are only passed on.
//!
//! [`grpc`] makes calls over HTTP/2, [`connect`] opens connections and [`link`] keeps one; [`kv`], [`txn`], [`lease`] and [`watch`]
//! are the operations.

mod connect;
mod error;
mod grpc;
mod kv;
mod lease;
mod link;
mod proto;
mod txn;
mod watch;

use std::rc::Rc;

use prost::Message;
use tokio::sync::watch::Receiver;
use tokio::task::spawn_local;

use crate::config::fleet::FleetSpec;

pub(in crate::control) use connect::read_password;
pub(in crate::control) use error::EtcdError;
pub(in crate::control) use kv::{Entry, Listing, MAX_VALUE};
pub(in crate::control) use lease::LeaseId;
pub(in crate::control) use link::Connection;
use link::Link;
pub(in crate::control) use txn::CasOutcome;
#[cfg(test)]
pub(in crate::control) use watch::Watch;
pub(in crate::control) use watch::{WatchEvent, WatchNews};

/// Revision of etcd's store, which counts its changes; above 0.
pub(in crate::control) type Revision = i64;

/// A client. Cheap to clone; the connection closes with the last clone.
#[derive(Clone)]
pub(in crate::control) struct Etcd(Rc<OpenClient>);

struct OpenClient {
    link: Rc<Link>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for OpenClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Etcd")
    }
}

impl Etcd {
    /// Starts to connect. Must be called on a local runtime.
    pub(in crate::control) fn new(spec: &FleetSpec) -> Self {
        let link = Rc::new(Link::new(spec));
        let task = spawn_local(link.clone().keep());
        Self(Rc::new(OpenClient { link, task }))
    }

    /// The state of the connection.
    pub(in crate::control) fn connection(&self) -> Receiver<Connection> {
        self.0.link.state()
    }

    /// Whether there is a usable connection now.
    pub(in crate::control) fn is_connected(&self) -> bool {
        matches!(*self.connection().borrow(), Connection::Connected { .. })
    }

    /// Makes a unary call, within the time limit of calls.
    async fn call<R: Message + Default>(
        &self,
        method: &str,
        message: &impl Message,
    ) -> Result<R, EtcdError> {
        self.0.link.call(method, message).await
    }
}

#[cfg(test)]
mod cluster;
#[cfg(test)]
pub(in crate::control) use cluster::Cluster;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod real_tests;
#[cfg(test)]
mod tests;
