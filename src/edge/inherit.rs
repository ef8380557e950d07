//! Sockets that this process did not open: those of the process whose place it takes, those of the service manager.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::listener::bind::written;
use crate::config::spec::{self, Bind};

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Purpose {
    /// Traffic.
    Listener,
    /// The admin API at an address of the configuration.
    Admin,
    /// The control socket.
    Control,
    /// The socket by which the next process asks for all of this.
    Handover,
    /// A purpose of a later program, which this one doesn't know.
    #[serde(other)]
    Unknown,
}

/// What a socket is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    /// What for.
    pub purpose: Purpose,
    /// Of its listener; else empty.
    #[serde(default)]
    pub name: String,
    /// As the configuration of its opener wrote it; `None` where the service manager opened it.
    #[serde(default)]
    pub bind: Option<String>,
}

/// Sockets of others, until they are taken.
#[derive(Debug, Default)]
pub(crate) struct Inherited(Vec<(Label, OwnedFd)>);

impl Inherited {
    /// These.
    pub(crate) fn new(sockets: Vec<(Label, OwnedFd)>) -> Self {
        Self(sockets)
    }

    /// What the service manager passed (`LISTEN_FDS`): sockets of its own, or those that a former process left with it.
    pub(crate) fn from_environment() -> Self {
        let passed = match sd_notify::listen_fds_with_names() {
            Ok(passed) => passed,
            Err(error) => {
                tracing::error!(
                    %error,
                    "the service manager's sockets can't be used: LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES don't fit together"
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

    /// All sockets of this listener, in the order of their workers.
    pub(crate) fn listener(&mut self, listener: &spec::ListenerSpec) -> Vec<OwnedFd> {
        // Port 0 is another port for each name.
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

    /// The socket for this purpose at this place.
    pub(crate) fn one(&mut self, purpose: Purpose, bind: &Bind) -> Option<OwnedFd> {
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

    /// Ports on which these sockets listen.
    pub(crate) fn ports(&self) -> Vec<u16> {
        let port = |(_, fd): &(Label, OwnedFd)| address(fd.as_fd()).map(|a| a.port());
        self.0.iter().filter_map(port).collect()
    }

    /// Closes what nobody took: the labels of that.
    pub(crate) fn give_up(self) -> Vec<Label> {
        let mut labels: Vec<Label> = self.0.into_iter().map(|(label, _)| label).collect();
        labels.dedup();
        labels
    }
}

/// How sockets are named that are left with the service manager: `listener.NAME`.
pub(crate) const STORED: &str = "listener.";

fn address(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    SockRef::from(&fd).local_addr().ok()?.as_socket()
}

/// Whether clients can reach an inherited socket by its address. They can't reach a Unix socket whose file was deleted; such
/// a socket has to be opened again.
fn is_reachable(bind: &Bind) -> bool {
    match bind {
        Bind::Any(_) | Bind::Tcp(_) => true,
        Bind::Unix(path) => {
            let exists = path.symlink_metadata().is_ok();
            if !exists {
                tracing::warn!(
                    path = %path.display(),
                    "the file of an inherited socket is gone: opening the socket again"
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

/// Whether it is a socket that listens for streams; what is not is said and left alone.
fn listens(label: &Label, fd: &OwnedFd) -> bool {
    let socket = SockRef::from(fd);
    let stream = socket.r#type().is_ok_and(|t| t == socket2::Type::STREAM);
    let listens = stream && socket.is_listener().unwrap_or(false);
    if !listens {
        tracing::warn!(
            name = label.name,
            "the service manager passed something that is not a listening stream socket: it is not used"
        );
    }
    listens
}

#[expect(
    unsafe_code,
    reason = "the protocol of the service manager is a number in the environment: there is no safe way from it to a descriptor"
)]
fn owned(fd: std::os::fd::RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: LISTEN_PID names this process, so the descriptors from 3 on are open and were passed for it alone to own;
    // `sd_notify` has set close-on-exec on each, which fails for one that is not open. This is called once, at boot.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn listener(name: &str, bind: Bind) -> spec::ListenerSpec {
        spec::ListenerSpec {
            name: name.into(),
            bind,
            h1: true,
            h2: true,
            redirect_https: false,
            trusted_proxies: Vec::new(),
            merge_slashes: false,
            via: None,
            certs: Vec::new(),
        }
    }

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
        let mut taken = |name: &str, bind| all.listener(&listener(name, bind)).len();
        assert_eq!(taken("other", tcp("127.0.0.1:0")), 0, "another's port");
        assert_eq!(taken("renamed", tcp("127.0.0.1:80")), 1);
        assert_eq!(taken("b", tcp("127.0.0.1:0")), 1);
        assert_eq!(taken("c", Bind::Any(address.port())), 0);
        assert_eq!(taken("c", Bind::Tcp(address)), 1);
        assert!(all.0.is_empty());
    }

    #[test]
    fn what_nobody_wants_is_named_once() {
        let (a, _) = socket("a", Some("127.0.0.1:80"));
        let (again, _) = socket("a", Some("127.0.0.1:80"));
        let left = Inherited::new(vec![a, again]).give_up();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].name, "a");
    }
}
