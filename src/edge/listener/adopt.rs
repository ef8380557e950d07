//! Opens a listener on inherited sockets.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use socket2::SockRef;

use super::bind::{self, BoundAddress, BoundSockets, Socket};
use crate::config::spec::Bind;
use crate::net::SocketFile;

/// Distributes the `inherited` sockets, at least one, among `workers` workers. With fewer workers than sockets some workers serve
/// several of them, because the kernel keeps spreading connections over all sockets of a port. With more workers than sockets,
/// further sockets are opened on the same port.
///
/// # Errors
/// The sockets are of the wrong kind, or no further sockets can be opened.
pub(super) fn adopt(
    inherited: Vec<OwnedFd>,
    bind: &Bind,
    workers: usize,
) -> Result<BoundSockets, String> {
    let adopted = match bind {
        Bind::Unix(path) => unix(inherited, path, workers),
        Bind::Any(_) | Bind::Tcp(_) => tcp(inherited, workers),
    };
    let at = bind::written(bind);
    adopted.map_err(|error| format!("the inherited sockets of {at} can't be used: {error}"))
}

fn tcp(inherited: Vec<OwnedFd>, workers: usize) -> io::Result<BoundSockets> {
    let mut listeners: Vec<TcpListener> = inherited.into_iter().map(TcpListener::from).collect();
    let address = listeners[0].local_addr()?;
    for listener in &listeners {
        listener.set_nonblocking(true)?;
        SockRef::from(listener).set_tcp_nodelay(true)?;
    }
    let shared = SockRef::from(&listeners[0]).reuse_port()?;
    while listeners.len() < workers {
        listeners.push(if shared {
            bind::open_shared(address)?
        } else {
            // Opened without SO_REUSEPORT, as the service manager does by default: all workers accept on the same socket.
            listeners[0].try_clone()?
        });
    }
    let duplicates = listeners
        .iter()
        .map(|l| l.try_clone().map(OwnedFd::from))
        .collect::<io::Result<_>>()?;
    Ok(BoundSockets {
        sockets: bind::distribute(listeners.into_iter().map(Socket::Tcp), workers),
        address: BoundAddress::Tcp(address),
        file: None,
        duplicates,
    })
}

fn unix(
    mut inherited: Vec<OwnedFd>,
    path: &std::path::Path,
    workers: usize,
) -> io::Result<BoundSockets> {
    let listener = UnixListener::from(inherited.swap_remove(0));
    listener.set_nonblocking(true)?;
    let clones = (0..workers).map(|_| listener.try_clone().map(Socket::Unix));
    let sockets = clones.collect::<io::Result<Vec<_>>>()?;
    Ok(BoundSockets {
        sockets: bind::distribute(sockets.into_iter(), workers),
        address: BoundAddress::Unix(path.to_owned()),
        file: Some(Arc::new(SocketFile::adopted(path)?)),
        duplicates: vec![listener.into()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::spec::SocketAccess;

    fn four() -> (Bind, Vec<OwnedFd>) {
        let bind = Bind::Tcp("127.0.0.1:0".parse().unwrap());
        let bound = bind::open(&bind, &SocketAccess::default(), 4, &[]).unwrap();
        (bind, bound.duplicates)
    }

    #[test]
    fn every_socket_is_served_with_any_number_of_workers() {
        for (workers, expected) in [
            (1, vec![4]),
            (3, vec![2, 1, 1]),
            (6, vec![1, 1, 1, 1, 1, 1]),
        ] {
            let (bind, sockets) = four();
            let bound = adopt(sockets, &bind, workers).unwrap();
            let counts: Vec<usize> = bound.sockets.iter().map(Vec::len).collect();
            assert_eq!(counts, expected);
            assert_eq!(bound.duplicates.len(), workers.max(4));
        }
    }

    #[test]
    fn a_socket_that_is_not_shared_is_cloned() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let bound = adopt(vec![socket.into()], &Bind::Tcp(address), 2).unwrap();
        assert_eq!(bound.address, BoundAddress::Tcp(address));
        assert_eq!(bound.sockets.iter().map(Vec::len).sum::<usize>(), 2);
    }
}
