//! A listener on sockets that another process opened.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use socket2::SockRef;

use super::bind::{self, Bound, BoundAddress, Socket};
use crate::config::spec::Bind;
use crate::net::SocketFile;

/// Shares `inherited` (at least one) among so many workers: with fewer workers than sockets some serve several, because
/// the kernel goes on spreading connections over all of them; with more, sockets are opened beside them.
///
/// # Errors
/// They are not what this listener needs, or none can be opened beside them.
pub(super) fn adopt(inherited: Vec<OwnedFd>, bind: &Bind, workers: usize) -> Result<Bound, String> {
    let adopted = match bind {
        Bind::Unix(path) => unix(inherited, path, workers),
        Bind::Any(_) | Bind::Tcp(_) => tcp(inherited, workers),
    };
    let at = bind::written(bind);
    adopted.map_err(|error| format!("the inherited sockets of {at} can't be used: {error}"))
}

fn tcp(inherited: Vec<OwnedFd>, workers: usize) -> io::Result<Bound> {
    let mut listeners: Vec<TcpListener> = inherited.into_iter().map(TcpListener::from).collect();
    let address = listeners[0].local_addr()?;
    for listener in &listeners {
        listener.set_nonblocking(true)?;
        SockRef::from(listener).set_tcp_nodelay(true)?;
    }
    let shared = SockRef::from(&listeners[0]).reuse_port()?;
    while listeners.len() < workers {
        listeners.push(if shared {
            bind::beside(address)?
        } else {
            // The service manager opened one for all.
            listeners[0].try_clone()?
        });
    }
    let held = listeners
        .iter()
        .map(|l| l.try_clone().map(OwnedFd::from))
        .collect::<io::Result<_>>()?;
    Ok(Bound {
        sockets: dealt(listeners.into_iter().map(Socket::Tcp), workers),
        place: BoundAddress::Tcp(address),
        file: None,
        held,
    })
}

fn unix(mut inherited: Vec<OwnedFd>, path: &std::path::Path, workers: usize) -> io::Result<Bound> {
    let listener = UnixListener::from(inherited.swap_remove(0));
    listener.set_nonblocking(true)?;
    let clones = (0..workers).map(|_| listener.try_clone().map(Socket::Unix));
    let sockets = clones.collect::<io::Result<Vec<_>>>()?;
    Ok(Bound {
        sockets: dealt(sockets.into_iter(), workers),
        place: BoundAddress::Unix(path.to_owned()),
        file: Some(Arc::new(SocketFile::adopted(path)?)),
        held: vec![listener.into()],
    })
}

/// One after the other to the workers, round and round.
pub(super) fn dealt(sockets: impl Iterator<Item = Socket>, workers: usize) -> Vec<Vec<Socket>> {
    let mut dealt: Vec<Vec<Socket>> = (0..workers).map(|_| Vec::new()).collect();
    for (n, socket) in sockets.enumerate() {
        dealt[n % workers].push(socket);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn four() -> (Bind, Vec<OwnedFd>) {
        let bind = Bind::Tcp("127.0.0.1:0".parse().unwrap());
        let bound = bind::open(&bind, 4, &[]).unwrap();
        (bind, bound.held)
    }

    #[test]
    fn every_socket_is_served_by_somebody_whatever_the_number_of_workers() {
        for (workers, expected) in [
            (1, vec![4]),
            (3, vec![2, 1, 1]),
            (6, vec![1, 1, 1, 1, 1, 1]),
        ] {
            let (bind, sockets) = four();
            let bound = adopt(sockets, &bind, workers).unwrap();
            let counts: Vec<usize> = bound.sockets.iter().map(Vec::len).collect();
            assert_eq!(counts, expected);
            assert_eq!(bound.held.len(), workers.max(4));
        }
    }

    #[test]
    fn a_socket_that_is_not_shared_is_cloned() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let bound = adopt(vec![socket.into()], &Bind::Tcp(address), 2).unwrap();
        assert_eq!(bound.place, BoundAddress::Tcp(address));
        assert_eq!(bound.sockets.iter().map(Vec::len).sum::<usize>(), 2);
    }
}
