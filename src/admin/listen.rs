//! Binds and accepts on the listeners of the admin API: TCP addresses and Unix sockets.
//!
//! A listener can also be adopted from another process during a takeover. The file of a Unix socket is removed only by the
//! process that owns it, see [`SocketFile`].

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::paths;
use crate::config::spec::Bind;
use crate::net::SocketFile;
use crate::net::keepalive::keep_alive;

/// A bound listener of the admin API.
#[derive(Debug)]
pub(crate) enum AdminListener {
    /// A TCP listener.
    Tcp(TcpListener),
    /// A Unix socket with mode 0600, and its file.
    Unix(UnixListener, Arc<SocketFile>),
}

impl AdminListener {
    /// The bound address; `None` for a Unix socket.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// Whether other machines can reach the listener. An address that can't be read counts as exposed.
    pub(super) fn is_exposed(&self) -> bool {
        let is_loopback = |a: SocketAddr| a.ip().to_canonical().is_loopback();
        match self {
            Self::Tcp(listener) => !listener.local_addr().is_ok_and(is_loopback),
            Self::Unix(..) => false,
        }
    }

    /// Adopts a listening socket that another process bound at `bind`. That process owns the file of a Unix socket until this
    /// one claims it.
    ///
    /// # Errors
    /// The descriptor is not such a socket, or its file is gone.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub(crate) fn adopt(bind: &Bind, socket: OwnedFd) -> io::Result<Self> {
        Ok(match bind {
            Bind::Unix(path) => {
                let listener = std::os::unix::net::UnixListener::from(socket);
                listener.set_nonblocking(true)?;
                let file = SocketFile::adopted(path)?;
                Self::Unix(UnixListener::from_std(listener)?, Arc::new(file))
            }
            Bind::Any(_) | Bind::Tcp(_) => {
                let listener = std::net::TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                Self::Tcp(TcpListener::from_std(listener)?)
            }
        })
    }

    /// The file of a Unix socket; `None` for TCP.
    pub(crate) fn file(&self) -> Option<&Arc<SocketFile>> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(_, file) => Some(file),
        }
    }

    /// Duplicates the socket for another process.
    ///
    /// # Errors
    /// The process has no file descriptors left.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Self::Unix(listener, _) => listener.as_fd().try_clone_to_owned(),
        }
    }

    /// Closes this process's socket without removing the file, because another process accepts there now.
    pub(super) fn leave(self) {
        if let Self::Unix(_, file) = self {
            file.leave();
        }
    }
}

/// Binds an admin listener. The directory of a Unix socket is created with mode 0700 if it is missing, and a socket file
/// left over from a dead process is replaced.
///
/// # Errors
/// The error of the system, with the address in its message; `AddrInUse` if a process answers on the Unix socket.
///
/// # Panics
/// Outside a tokio runtime with I/O enabled.
pub(crate) async fn bind(bind: &Bind) -> io::Result<AdminListener> {
    match bind {
        Bind::Any(port) => tcp(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), *port)).await,
        Bind::Tcp(address) => tcp(*address).await,
        Bind::Unix(path) => unix(path).await.map_err(|e| named(path.display(), &e)),
    }
}

fn named(address: impl std::fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("can't listen at {address}: {error}"))
}

async fn tcp(address: SocketAddr) -> io::Result<AdminListener> {
    let bound = TcpListener::bind(address).await;
    bound
        .map(AdminListener::Tcp)
        .map_err(|e| named(address, &e))
}

async fn unix(path: &Path) -> io::Result<AdminListener> {
    let directory = paths::directory(path);
    if !directory.exists() {
        fs::create_dir_all(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process answers there; is this proxy already running?",
        ));
    }
    // bind(2) creates the file with a mode from the umask. Bind under a temporary name, restrict the mode, and only then
    // rename the file into place, so that no other user can connect in between.
    let fresh = directory.join(format!(".c{}", std::process::id()));
    let _ = fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    let placed = fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&fresh, path))
        .and_then(|()| SocketFile::created(path));
    match placed {
        Ok(file) => Ok(AdminListener::Unix(listener, Arc::new(file))),
        Err(error) => {
            let _ = fs::remove_file(&fresh);
            Err(error)
        }
    }
}

/// An accepted connection.
pub(super) enum AdminStream {
    /// A TCP stream, with the local address that the client connected to.
    Tcp(TcpStream, Option<IpAddr>),
    /// A stream of a Unix socket.
    Unix(UnixStream),
}

/// Accepts one connection. Cancel safe: a dropped future loses no connection.
pub(super) async fn accept(listener: &AdminListener) -> io::Result<AdminStream> {
    Ok(match listener {
        AdminListener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            let local = stream.local_addr().map(|a| a.ip()).ok();
            let _ = stream.set_nodelay(true);
            let _ = keep_alive(&stream, Duration::ZERO);
            AdminStream::Tcp(stream, local)
        }
        AdminListener::Unix(listener, _) => AdminStream::Unix(listener.accept().await?.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_unix_socket_is_private_and_removed_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/control.sock");
        let first = bind(&Bind::Unix(path.clone())).await.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        let second = bind(&Bind::Unix(path.clone())).await.unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        assert!(second.to_string().contains("control.sock"), "{second}");
        drop(first);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_process_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = bind(&Bind::Unix(path.clone())).await.unwrap();
        assert!(UnixStream::connect(&path).await.is_ok());
        drop(listener);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
