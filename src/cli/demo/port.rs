//! Reserves the port of the demo's proxy against other demos on the same machine.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

use crate::cli::error::CommandError;

/// The port that is tried first.
const FIRST: u16 = 8080;
/// Number of ports chosen by the kernel that are tried after it.
const TRIES: usize = 16;

/// A free address that no other demo uses while this value lives.
///
/// The proxy binds the address itself, later and with `SO_REUSEPORT`, so two demos that found the same port free would share
/// its connections. Each demo therefore claims its port by an abstract Unix socket named after it: binding one is atomic,
/// abstract names are scoped to the network namespace as ports are, and the kernel releases them when the process dies.
#[derive(Debug)]
pub(super) struct Reserved {
    pub(super) address: SocketAddr,
    _claim: UnixListener,
}

impl Reserved {
    /// Reserves `port`, or the first free one of 8080 and ports chosen by the kernel. Port 0 means any port.
    ///
    /// # Errors
    /// The port is in use, or no free port was found.
    pub(super) fn new(port: Option<u16>) -> Result<Self, CommandError> {
        let cannot =
            |at: &str, e: io::Error| CommandError::new(format!("can't listen at {at}: {e}"));
        if let Some(port) = port.filter(|port| *port != 0) {
            return Self::at(port).map_err(|e| {
                cannot(&format!("127.0.0.1:{port}"), e)
                    .with("without --port, the demo takes a free one")
            });
        }
        let mut last = Self::at(if port.is_none() { FIRST } else { 0 });
        for _ in 0..TRIES {
            if last.is_ok() {
                break;
            }
            last = Self::at(0);
        }
        last.map_err(|e| cannot("127.0.0.1", e))
    }

    fn at(port: u16) -> io::Result<Self> {
        // A bind without SO_REUSEPORT fails if anything listens there.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.local_addr()?;
        let name = format!("cutover-demo-{}", address.port());
        let claim = UnixListener::bind_addr(&UnixAddr::from_abstract_name(name)?)?;
        // Another demo may have released its claim between the two calls while its proxy still listens. Bind once more, now
        // that the claim is ours.
        drop(TcpListener::bind(address)?);
        Ok(Self {
            address,
            _claim: claim,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_an_error_only_if_it_was_asked_for() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(Reserved::new(Some(port)).is_err());
        assert!(Reserved::new(None).is_ok());
    }

    #[test]
    fn two_demos_never_get_the_same_port() {
        let first = Reserved::new(Some(0)).unwrap();
        let port = first.address.port();
        let error = Reserved::new(Some(port)).unwrap_err();
        assert!(error.message.contains("in use"), "{error:?}");
        drop(first);
        assert_eq!(Reserved::new(Some(port)).unwrap().address.port(), port);
        // Many demos look for a port at the same time.
        let barrier = std::sync::Barrier::new(8);
        let ports: std::collections::HashSet<u16> = std::thread::scope(|scope| {
            let one = || {
                barrier.wait();
                Reserved::new(None).unwrap()
            };
            let all: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
            // All reservations are held until every thread has one.
            let all: Vec<Reserved> = all.into_iter().map(|t| t.join().unwrap()).collect();
            all.iter().map(|reserved| reserved.address.port()).collect()
        });
        assert_eq!(ports.len(), 8);
    }
}
