//! The state that the protocols and the requests of one connection share.

use std::rc::Rc;
use std::sync::Arc;

use super::listener_info::ListenerInfo;
use super::tls::TlsInfo;
use crate::net::TaskControl;
use crate::proxy::{Peer, Worker};

/// A connection as its requests see it.
pub(super) struct ConnectionContext<'a> {
    pub worker: &'a Worker,
    pub control: &'a Rc<TaskControl>,
    pub listener: &'a Arc<ListenerInfo>,
    pub peer: &'a Peer,
    pub tls: Option<&'a TlsInfo>,
}
