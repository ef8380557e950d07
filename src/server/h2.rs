//! HTTP/2 connections from clients.

use std::rc::Rc;

use super::conn::Conn;
use crate::proxy::Worker;
use crate::proxy::h1::H1;

/// Serves one; `wire` holds what was read of the preface.
pub(super) async fn serve(_worker: Rc<Worker>, _conn: Conn<'_>, _wire: H1) {}
