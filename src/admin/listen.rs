//! Admin listeners: TCP addresses and Unix sockets.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::spec::Bind;
use crate::net::SocketFile;
use crate::net::keepalive::keep_alive;

/// Where the admin API listens.
#[derive(Debug)]
pub(crate) enum AdminListener {
    /// An address.
    Tcp(TcpListener),
    /// A Unix socket, mode 0600, and its file.
    Unix(UnixListener, Arc<SocketFile>),
}

impl AdminListener {
    /// The address as bound; `None` for a Unix socket.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// Whether other machines may reach it.
    pub(super) fn is_exposed(&self) -> bool {
        let is_loopback = |a: SocketAddr| a.ip().to_canonical().is_loopback();
        match self {
            Self::Tcp(listener) => !listener.local_addr().is_ok_and(is_loopback),
            Self::Unix(..) => false,
        }
    }

    /// A socket that another process opened at `bind`; call it inside a runtime. Its file stays that process's until it is claimed.
    ///
    /// # Errors
    /// It is no such socket, or its file is gone.
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

    /// The file of a Unix socket.
    pub(crate) fn file(&self) -> Option<&Arc<SocketFile>> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(_, file) => Some(file),
        }
    }

    /// A duplicate of its socket, for another process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Self::Unix(listener, _) => listener.as_fd().try_clone_to_owned(),
        }
    }

    /// Another process accepts here now.
    pub(super) fn leave(self) {
        if let Self::Unix(_, file) = self {
            file.leave();
        }
    }
}

/// Binds an admin listener; call it inside a runtime. The directory of a Unix socket is made (mode 0700) if it is
/// missing, and a file that a dead process left there is replaced.
///
/// # Errors
/// What the system says, with the address in the message; `AddrInUse` when a living process answers on the socket.
pub(crate) async fn bind(bind: &Bind) -> io::Result<AdminListener> {
    match bind {
        Bind::Any(port) => tcp(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), *port)).await,
        Bind::Tcp(address) => tcp(*address).await,
        Bind::Unix(path) => unix(path).await.map_err(|e| named(path.display(), &e)),
    }
}

fn named(place: impl std::fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("can't listen at {place}: {error}"))
}

async fn tcp(address: SocketAddr) -> io::Result<AdminListener> {
    let bound = TcpListener::bind(address).await;
    bound
        .map(AdminListener::Tcp)
        .map_err(|e| named(address, &e))
}

async fn unix(path: &Path) -> io::Result<AdminListener> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if !directory.exists() {
        fs::create_dir_all(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process answers there; is this proxy running already?",
        ));
    }
    // Bound under another name, closed to others, and only then put in place: nobody can connect in between.
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
    /// With the local address that the client connected to.
    Tcp(TcpStream, Option<IpAddr>),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// Accepts one connection.
pub(super) async fn next(listener: &AdminListener) -> io::Result<AdminStream> {
    Ok(match listener {
        AdminListener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            let ours = stream.local_addr().map(|a| a.ip()).ok();
            let _ = stream.set_nodelay(true);
            let _ = keep_alive(&stream, Duration::ZERO);
            AdminStream::Tcp(stream, ours)
        }
        AdminListener::Unix(listener, _) => AdminStream::Unix(listener.accept().await?.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_unix_socket_is_ours_alone_and_goes_with_its_listener() {
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
    async fn what_a_dead_process_left_is_replaced() {
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
