//! Opens the sockets of a listener: one a worker for TCP, so that the kernel spreads connections; one for all for Unix.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket as RawSocket, Type};

use super::{adopt, holder};
use crate::config::spec::Bind;
use crate::net::SocketFile;

/// Connections that may wait to be accepted, a socket.
const BACKLOG: i32 = 4096;

/// A socket that listens, not yet on any runtime.
#[derive(Debug)]
pub(crate) enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// Unix.
    Unix(UnixListener),
}

/// Where a listener is bound: a configured port 0 is a real one here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BoundAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// Unix.
    Unix(PathBuf),
}

impl fmt::Display for BoundAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listener's sockets.
#[derive(Debug)]
pub(crate) struct Bound {
    /// By worker.
    pub sockets: Vec<Vec<Socket>>,
    /// Where they are bound.
    pub place: BoundAddress,
    /// Of a Unix listener.
    pub file: Option<Arc<SocketFile>>,
    /// A duplicate of every socket, for the process that may take over.
    pub held: Vec<OwnedFd>,
}

/// How a configuration writes it.
pub(crate) fn written(bind: &Bind) -> String {
    match bind {
        Bind::Any(port) => format!(":{port}"),
        Bind::Tcp(address) => address.to_string(),
        Bind::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// Opens `workers` sockets at `bind`. `ours` are the ports on which this process listens already.
///
/// # Errors
/// Where, why, who holds the address, and what to do.
pub(crate) fn open(bind: &Bind, workers: usize, ours: &[u16]) -> Result<Bound, String> {
    let opened = match bind {
        Bind::Any(port) => any(*port, workers, ours),
        Bind::Tcp(address) => tcp(*address, workers, ours),
        Bind::Unix(path) => unix(path, workers),
    };
    opened.map_err(|error| format!("can't listen at {}: {}", written(bind), hint(bind, &error)))
}

/// Every address of the machine: IPv6 and IPv4 by one socket, or IPv4 alone where there is no IPv6.
fn any(port: u16, workers: usize, ours: &[u16]) -> io::Result<Bound> {
    let both = tcp((Ipv6Addr::UNSPECIFIED, port).into(), workers, ours);
    match both {
        Err(e) if no_ipv6(&e) => tcp((Ipv4Addr::UNSPECIFIED, port).into(), workers, ours),
        other => other,
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn tcp(mut address: SocketAddr, workers: usize, ours: &[u16]) -> io::Result<Bound> {
    if address.port() != 0 && !ours.contains(&address.port()) {
        // SO_REUSEPORT would let two processes of one user share the port, each with half of the connections.
        // So it is tried without it first: that fails if anybody listens there.
        tcp_socket(address, false)?;
    }
    let mut sockets = Vec::with_capacity(workers);
    let mut held = Vec::with_capacity(workers);
    for _ in 0..workers {
        let listener = beside(address)?;
        address = listener.local_addr()?;
        held.push(listener.try_clone()?.into());
        sockets.push(Socket::Tcp(listener));
    }
    Ok(Bound {
        sockets: adopt::dealt(sockets.into_iter(), workers),
        place: BoundAddress::Tcp(address),
        file: None,
        held,
    })
}

/// Opens one more socket at `address`, beside those of ours that listen there.
pub(super) fn beside(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = tcp_socket(address, true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn tcp_socket(address: SocketAddr, shared: bool) -> io::Result<RawSocket> {
    let socket = RawSocket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if let SocketAddr::V6(v6) = address {
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
        // Accepted connections inherit it: a system call saved on each of them.
        socket.set_tcp_nodelay(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn unix(path: &Path, workers: usize) -> io::Result<Bound> {
    clear(path)?;
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    let file = SocketFile::created(path)?;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        sockets.push(Socket::Unix(listener.try_clone()?));
    }
    Ok(Bound {
        sockets: adopt::dealt(sockets.into_iter(), workers),
        place: BoundAddress::Unix(path.to_owned()),
        file: Some(Arc::new(file)),
        held: vec![listener.into()],
    })
}

/// Removes what a dead process left at `path`; never a socket that answers, never anything but a socket.
fn clear(path: &Path) -> io::Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file which is not a socket. Move it away, or choose another path",
        ));
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(e) => Err(e),
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// What the system says, and what to do.
fn hint(bind: &Bind, error: &io::Error) -> String {
    let port = match bind {
        Bind::Any(port) => Some(*port),
        Bind::Tcp(address) => Some(address.port()),
        Bind::Unix(_) => None,
    };
    match (error.kind(), port) {
        (io::ErrorKind::AddrInUse, Some(port)) => match holder::of_port(port) {
            Some(holder) => {
                format!("address already in use, by {holder}. Stop it, or choose another address")
            }
            None => format!(
                "address already in use, maybe by a process of another user. `ss -ltnp 'sport = :{port}'` as root shows by whom"
            ),
        },
        (io::ErrorKind::AddrInUse, None) => {
            "another process answers on this socket. Stop it, or choose another path".to_owned()
        }
        (io::ErrorKind::PermissionDenied, Some(port)) => format!(
            "port {port} needs the right to bind low ports. Use the systemd unit, `setcap cap_net_bind_service=+ep` on the binary, or a port from 1024"
        ),
        (io::ErrorKind::AddrNotAvailable, Some(_)) => {
            "this machine has no such address. `ip address` shows those it has".to_owned()
        }
        (io::ErrorKind::InvalidInput, None) => {
            format!("{error}. The path of a Unix socket has at most 107 bytes")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn localhost(port: u16) -> Bind {
        Bind::Tcp((Ipv4Addr::LOCALHOST, port).into())
    }

    fn port(bound: &Bound) -> u16 {
        match &bound.place {
            BoundAddress::Tcp(address) => address.port(),
            BoundAddress::Unix(path) => panic!("{}", path.display()),
        }
    }

    #[test]
    fn every_worker_gets_a_socket_on_the_same_port() {
        let bound = open(&localhost(0), 3, &[]).unwrap();
        assert_eq!(bound.sockets.len(), 3);
        for socket in bound.sockets.iter().flatten() {
            let Socket::Tcp(listener) = socket else {
                panic!("{socket:?}")
            };
            assert_eq!(listener.local_addr().unwrap().port(), port(&bound));
        }
    }

    #[test]
    fn accepted_connections_do_not_wait_for_more() {
        let bound = open(&localhost(0), 1, &[]).unwrap();
        let Socket::Tcp(listener) = &bound.sockets[0][0] else {
            panic!("{bound:?}")
        };
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(listener.accept().unwrap().0.nodelay().unwrap());
    }

    #[test]
    fn any_answers_on_both_families() {
        let bound = open(&Bind::Any(0), 1, &[]).unwrap();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port(&bound))).unwrap();
        if matches!(bound.place, BoundAddress::Tcp(SocketAddr::V6(_))) {
            std::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port(&bound))).unwrap();
        }
    }

    #[test]
    fn a_port_in_use_is_refused_with_the_holder_even_if_it_could_be_shared() {
        let first = open(&localhost(0), 1, &[]).unwrap();
        let taken = port(&first);
        let error = open(&localhost(taken), 1, &[]).unwrap_err();
        let pid = std::process::id();
        assert!(error.contains(&format!("127.0.0.1:{taken}")), "{error}");
        assert!(error.contains(&format!("pid {pid}")), "{error}");
        // Our own port may be shared for the moment of a reload.
        open(&localhost(taken), 1, &[taken]).unwrap();
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let error = open(&Bind::Tcp("192.0.2.1:80".parse().unwrap()), 1, &[]).unwrap_err();
        assert!(error.contains("no such address"), "{error}");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let bind = Bind::Unix(path.clone());
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let bound = open(&bind, 2, &[]).unwrap();
        assert_eq!(bound.sockets.len(), 2);
        UnixStream::connect(&path).unwrap();
        let error = open(&bind, 1, &[]).unwrap_err();
        assert!(error.contains("another process answers"), "{error}");
        drop(bound);
        assert!(!path.exists(), "the file goes with the listener");
    }

    #[test]
    fn a_file_is_not_mistaken_for_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "x").unwrap();
        let error = open(&Bind::Unix(path.clone()), 1, &[]).unwrap_err();
        assert!(error.contains("not a socket"), "{error}");
        assert!(path.exists());
    }
}
