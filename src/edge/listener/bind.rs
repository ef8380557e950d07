//! Opens the sockets of a listener.
//!
//! A TCP listener has one socket per worker with SO_REUSEPORT, so that the kernel spreads connections over the workers. All
//! workers accept on the one socket of a Unix listener, because a path can be bound only once.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{Domain, Protocol, SockAddr, Socket as RawSocket, Type};

use super::{port_owner, socket_access};
use crate::config::spec::{Bind, SocketAccess};
use crate::net::SocketFile;

/// Length of each socket's accept queue. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A listening socket that is not registered with a runtime yet.
#[derive(Debug)]
pub enum Socket {
    /// On an address and a port.
    Tcp(TcpListener),
    /// On a path in the file system.
    Unix(UnixListener),
}

/// The address that a listener is bound to. A configured port 0 is replaced by the port that the kernel has chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundAddress {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
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

/// A listener's open sockets.
#[derive(Debug)]
pub(crate) struct BoundSockets {
    /// The sockets of each worker.
    pub sockets: Vec<Vec<Socket>>,
    pub address: BoundAddress,
    /// The file of a Unix socket.
    pub file: Option<Arc<SocketFile>>,
    /// A duplicate of every socket, to hand over to another process or to a worker that is started later.
    pub duplicates: Vec<OwnedFd>,
}

/// The address as it is written in a configuration.
pub fn written(bind: &Bind) -> String {
    match bind {
        Bind::Any(port) => format!(":{port}"),
        Bind::Tcp(address) => address.to_string(),
        Bind::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// Opens sockets at `bind` for `workers` workers. `ours` are the ports on which this process listens already.
///
/// # Errors
/// A message with the address, the cause and what to do. For an address in use it names the process that uses it.
pub(crate) fn open(
    bind: &Bind,
    access: &SocketAccess,
    workers: usize,
    ours: &[u16],
) -> Result<BoundSockets, String> {
    let opened = match bind {
        Bind::Any(port) => any(*port, workers, ours),
        Bind::Tcp(address) => tcp(*address, workers, ours),
        Bind::Unix(path) => unix(path, access, workers),
    };
    opened.map_err(|error| {
        format!(
            "can't listen at {}: {}",
            written(bind),
            explain(bind, &error)
        )
    })
}

/// All addresses of the machine: one dual-stack socket per worker, or IPv4 only if the kernel has no IPv6.
fn any(port: u16, workers: usize, ours: &[u16]) -> io::Result<BoundSockets> {
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

fn tcp(mut address: SocketAddr, workers: usize, ours: &[u16]) -> io::Result<BoundSockets> {
    if address.port() != 0 && !ours.contains(&address.port()) {
        // SO_REUSEPORT lets processes of the same user share a port, each getting a part of the connections. A second proxy
        // that is started by mistake must fail instead: a bind without the option fails if any socket listens on the port.
        tcp_socket(address, false)?;
    }
    let mut sockets = Vec::with_capacity(workers);
    let mut duplicates = Vec::with_capacity(workers);
    for _ in 0..workers {
        let listener = open_shared(address)?;
        address = listener.local_addr()?;
        duplicates.push(listener.try_clone()?.into());
        sockets.push(Socket::Tcp(listener));
    }
    Ok(BoundSockets {
        sockets: distribute(sockets.into_iter(), workers),
        address: BoundAddress::Tcp(address),
        file: None,
        duplicates,
    })
}

/// Opens a socket that shares `address` with the other sockets of this process.
pub(super) fn open_shared(address: SocketAddr) -> io::Result<TcpListener> {
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
        // `[::]` accepts IPv4 as well. Stated in both cases, because the default is a setting of the machine
        // (`net.ipv6.bindv6only`).
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    // Otherwise connections of a former process that are in TIME_WAIT would keep the port for a minute.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
        // Accepted connections inherit it, which saves a system call on each of them.
        socket.set_tcp_nodelay(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn unix(path: &Path, access: &SocketAccess, workers: usize) -> io::Result<BoundSockets> {
    remove_stale(path)?;
    let socket = RawSocket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::created(path)?;
    // No client can connect before the socket listens, whatever mode the umask has given its file.
    socket_access::apply(access, path).map_err(io::Error::other)?;
    socket.listen(BACKLOG)?;
    let listener = UnixListener::from(socket);
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        sockets.push(Socket::Unix(listener.try_clone()?));
    }
    Ok(BoundSockets {
        sockets: distribute(sockets.into_iter(), workers),
        address: BoundAddress::Unix(path.to_owned()),
        file: Some(Arc::new(file)),
        duplicates: vec![listener.into()],
    })
}

/// Distributes sockets among workers, round robin.
pub(super) fn distribute(
    sockets: impl Iterator<Item = Socket>,
    workers: usize,
) -> Vec<Vec<Socket>> {
    let mut by_worker: Vec<Vec<Socket>> = (0..workers).map(|_| Vec::new()).collect();
    for (n, socket) in sockets.enumerate() {
        by_worker[n % workers].push(socket);
    }
    by_worker
}

/// Removes the file of a Unix socket that no process listens on any more. Never removes any other kind of file.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file that is not a socket. Move it away, or choose another path",
        ));
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(e) => Err(e),
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Explains an error of `bind(2)` or `listen(2)`, and says what to do about it.
fn explain(bind: &Bind, error: &io::Error) -> String {
    let port = match bind {
        Bind::Any(port) => Some(*port),
        Bind::Tcp(address) => Some(address.port()),
        Bind::Unix(_) => None,
    };
    match (error.kind(), port) {
        (io::ErrorKind::AddrInUse, Some(port)) => match port_owner::of_port(port) {
            Some(owner) => {
                format!("address already in use, by {owner}. Stop it, or choose another address")
            }
            None => format!(
                "address already in use, maybe by a process of another user. `ss -ltnp 'sport = :{port}'` as root shows it"
            ),
        },
        (io::ErrorKind::AddrInUse, None) => {
            "another process answers on this socket. Stop it, or choose another path".to_owned()
        }
        (io::ErrorKind::PermissionDenied, Some(port)) => format!(
            "port {port} needs the right to bind low ports. Use the systemd unit, `setcap cap_net_bind_service=+ep` on the binary, or a port from 1024"
        ),
        (io::ErrorKind::AddrNotAvailable, Some(_)) => {
            "this machine has no such address. `ip address` lists those that it has".to_owned()
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

    fn port(bound: &BoundSockets) -> u16 {
        match &bound.address {
            BoundAddress::Tcp(address) => address.port(),
            BoundAddress::Unix(path) => panic!("{}", path.display()),
        }
    }

    #[test]
    fn every_worker_gets_a_socket_on_the_same_port() {
        let bound = open(&localhost(0), &SocketAccess::default(), 3, &[]).unwrap();
        assert_eq!(bound.sockets.len(), 3);
        for socket in bound.sockets.iter().flatten() {
            let Socket::Tcp(listener) = socket else {
                panic!("{socket:?}")
            };
            assert_eq!(listener.local_addr().unwrap().port(), port(&bound));
        }
    }

    #[test]
    fn accepted_connections_have_nodelay() {
        let bound = open(&localhost(0), &SocketAccess::default(), 1, &[]).unwrap();
        let Socket::Tcp(listener) = &bound.sockets[0][0] else {
            panic!("{bound:?}")
        };
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(listener.accept().unwrap().0.nodelay().unwrap());
    }

    #[test]
    fn any_answers_on_both_families() {
        let bound = open(&Bind::Any(0), &SocketAccess::default(), 1, &[]).unwrap();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port(&bound))).unwrap();
        if matches!(bound.address, BoundAddress::Tcp(SocketAddr::V6(_))) {
            std::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port(&bound))).unwrap();
        }
    }

    #[test]
    fn a_port_in_use_is_refused_and_names_its_owner_even_if_it_could_be_shared() {
        let first = open(&localhost(0), &SocketAccess::default(), 1, &[]).unwrap();
        let taken = port(&first);
        let error = open(&localhost(taken), &SocketAccess::default(), 1, &[]).unwrap_err();
        let pid = std::process::id();
        assert!(error.contains(&format!("127.0.0.1:{taken}")), "{error}");
        assert!(error.contains(&format!("pid {pid}")), "{error}");
        // A port of this process may be bound again during a reload.
        open(&localhost(taken), &SocketAccess::default(), 1, &[taken]).unwrap();
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let error = open(
            &Bind::Tcp("192.0.2.1:80".parse().unwrap()),
            &SocketAccess::default(),
            1,
            &[],
        )
        .unwrap_err();
        assert!(error.contains("no such address"), "{error}");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let bind = Bind::Unix(path.clone());
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let bound = open(&bind, &SocketAccess::default(), 2, &[]).unwrap();
        assert_eq!(bound.sockets.len(), 2);
        UnixStream::connect(&path).unwrap();
        let error = open(&bind, &SocketAccess::default(), 1, &[]).unwrap_err();
        assert!(error.contains("another process answers"), "{error}");
        drop(bound);
        assert!(!path.exists(), "the file goes with the listener");
    }

    #[test]
    fn a_file_is_not_mistaken_for_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "x").unwrap();
        let error = open(&Bind::Unix(path.clone()), &SocketAccess::default(), 1, &[]).unwrap_err();
        assert!(error.contains("not a socket"), "{error}");
        assert!(path.exists());
    }
}
