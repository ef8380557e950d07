//! Listening sockets that this process did not open itself: it receives them from the process that it replaces, or from the
//! service manager (systemd socket activation and its file descriptor store).
//!
//! All of them are collected in [`Inherited`] with labels that say what they are for. Listeners and admin sockets take theirs
//! by purpose and address; what is left over is closed.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::listener::bind::written;
use crate::config::spec::{self, Bind};

/// What a socket is used for. Part of the handover protocol between processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Client traffic.
    Listener,
    /// The admin API at a configured address.
    Admin,
    /// The control socket.
    Control,
    /// The socket on which the next process requests a handover.
    Handover,
    /// A purpose added by a later version.
    #[serde(other)]
    Unknown,
}

/// Describes a socket. Part of the handover protocol between processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// What the socket is for.
    pub purpose: Purpose,
    /// Name of the listener; empty for other purposes.
    #[serde(default)]
    pub name: String,
    /// The address as written in the configuration of the process that opened it; `None` if the service manager passed the socket.
    #[serde(default)]
    pub bind: Option<String>,
}

/// Inherited sockets that are not in use yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(Label, OwnedFd)>);

impl Inherited {
    /// Sockets that a former process has handed over, each with its description.
    pub fn new(sockets: Vec<(Label, OwnedFd)>) -> Self {
        Self(sockets)
    }

    /// Takes the sockets that the service manager passed (`LISTEN_FDS`, see `sd_listen_fds(3)`): its own, or those that a former
    /// process has stored with it. To be called once, at startup.
    pub fn from_environment() -> Self {
        let passed = match sd_notify::listen_fds_with_names() {
            Ok(passed) => passed,
            Err(error) => {
                tracing::error!(
                    %error,
                    "can't use the service manager's sockets: LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES are inconsistent"
                );
                return Self::default();
            }
        };
        let label = |name: String| Label {
            purpose: Purpose::Listener,
            name: name
                .strip_prefix(STORED)
                .map_or_else(|| name.clone(), str::to_owned),
            bind: None,
        };
        Self(
            passed
                .map(|(fd, name)| (label(name), owned(fd)))
                .filter(|(label, fd)| listens(label, fd))
                .collect(),
        )
    }

    /// Takes all sockets that belong to this listener. Empty if there are none, or if clients can't reach them any more.
    pub(crate) fn listener(&mut self, listener: &spec::ListenerSpec) -> Vec<OwnedFd> {
        // Port 0 stands for a different port in each listener, so that the address alone doesn't identify it.
        let any_port = matches!(listener.bind, Bind::Any(0))
            || matches!(listener.bind, Bind::Tcp(a) if a.port() == 0);
        let address = written(&listener.bind);
        let sockets = self.take(|label, fd| {
            let named = label.name == listener.name;
            label.purpose == Purpose::Listener
                && match &label.bind {
                    Some(bind) => *bind == address && (named || !any_port),
                    None => named || is_at(fd, &listener.bind),
                }
        });
        if sockets.is_empty() || is_reachable(&listener.bind) {
            return sockets;
        }
        Vec::new()
    }

    /// Takes the socket with this purpose and address.
    pub fn one(&mut self, purpose: Purpose, bind: &Bind) -> Option<OwnedFd> {
        let address = written(bind);
        let mut sockets = self.take(|label, _| {
            label.purpose == purpose && label.bind.as_deref() == Some(address.as_str())
        });
        sockets.pop().filter(|_| is_reachable(bind))
    }

    fn take(&mut self, wanted: impl Fn(&Label, &OwnedFd) -> bool) -> Vec<OwnedFd> {
        let taken = self.0.extract_if(.., |(label, fd)| wanted(label, fd));
        taken.map(|(_, fd)| fd).collect()
    }

    /// The ports of the sockets that were not taken.
    pub fn ports(&self) -> Vec<u16> {
        let port = |(_, fd): &(Label, OwnedFd)| address(fd.as_fd()).map(|a| a.port());
        self.0.iter().filter_map(port).collect()
    }

    /// Closes the sockets that were not taken and returns their labels, without repetitions.
    pub fn give_up(self) -> Vec<Label> {
        let mut labels: Vec<Label> = self.0.into_iter().map(|(label, _)| label).collect();
        labels.dedup();
        labels
    }
}

/// Prefix of the names under which sockets are stored with the service manager: `listener.NAME`.
pub const STORED: &str = "listener.";

fn address(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    SockRef::from(&fd).local_addr().ok()?.as_socket()
}

/// Whether clients can connect to an inherited socket. They can't if it is a Unix socket whose file was deleted; such a socket has
/// to be opened again.
fn is_reachable(bind: &Bind) -> bool {
    match bind {
        Bind::Any(_) | Bind::Tcp(_) => true,
        Bind::Unix(path) => {
            let exists = path.symlink_metadata().is_ok();
            if !exists {
                tracing::warn!(
                    path = %path.display(),
                    "file of an inherited socket is missing, opening the socket again"
                );
            }
            exists
        }
    }
}

fn is_at(fd: &OwnedFd, bind: &Bind) -> bool {
    let local = SockRef::from(fd).local_addr().ok();
    match bind {
        Bind::Any(port) => local
            .and_then(|a| a.as_socket())
            .is_some_and(|a| a.port() == *port && a.ip().is_unspecified()),
        Bind::Tcp(wanted) => local.and_then(|a| a.as_socket()) == Some(*wanted),
        Bind::Unix(path) => local.is_some_and(|a| a.as_pathname() == Some(path)),
    }
}

/// Whether the descriptor is a listening stream socket. Logs a warning if it isn't.
fn listens(label: &Label, fd: &OwnedFd) -> bool {
    let socket = SockRef::from(fd);
    let stream = socket.r#type().is_ok_and(|t| t == socket2::Type::STREAM);
    let listens = stream && socket.is_listener().unwrap_or(false);
    if !listens {
        tracing::warn!(
            name = label.name,
            "ignoring a descriptor from the service manager: not a listening stream socket"
        );
    }
    listens
}

#[expect(
    unsafe_code,
    reason = "the service manager passes descriptors as numbers in the environment, which no safe API turns into owned ones"
)]
fn owned(fd: std::os::fd::RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: LISTEN_PID names this process, so that the descriptors from 3 on were opened for it and nothing else owns them.
    // `sd_notify` has set close-on-exec on each, which would have failed for one that isn't open. It is called once, at startup.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn socket(name: &str, bind: Option<&str>) -> ((Label, OwnedFd), SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let label = Label {
            purpose: Purpose::Listener,
            name: name.into(),
            bind: bind.map(str::to_owned),
        };
        ((label, socket.into()), address)
    }

    #[test]
    fn sockets_go_to_the_listener_that_is_bound_there() {
        let (a, _) = socket("a", Some("127.0.0.1:80"));
        let (b, _) = socket("b", Some("127.0.0.1:0"));
        let (c, address) = socket("unknown", None);
        let mut all = Inherited::new(vec![a, b, c]);
        assert_eq!(all.ports().len(), 3);
        let tcp = |at: &str| Bind::Tcp(at.parse().unwrap());
        let mut taken = |name: &str, bind| all.listener(&spec::ListenerSpec::new(name, bind)).len();
        assert_eq!(taken("other", tcp("127.0.0.1:0")), 0, "another's port");
        assert_eq!(taken("renamed", tcp("127.0.0.1:80")), 1);
        assert_eq!(taken("b", tcp("127.0.0.1:0")), 1);
        assert_eq!(taken("c", Bind::Any(address.port())), 0);
        assert_eq!(taken("c", Bind::Tcp(address)), 1);
        assert!(all.0.is_empty());
    }

    #[test]
    fn labels_of_unused_sockets_are_not_repeated() {
        let (a, _) = socket("a", Some("127.0.0.1:80"));
        let (again, _) = socket("a", Some("127.0.0.1:80"));
        let left = Inherited::new(vec![a, again]).give_up();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].name, "a");
    }
}
