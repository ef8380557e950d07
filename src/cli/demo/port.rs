//! The port of the demo's proxy, reserved against other demos.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

use crate::cli::fault::CommandError;

/// The port that is tried first.
const FIRST: u16 = 8080;
/// Ports of the kernel's choice that are tried.
const TRIES: usize = 16;

/// An address on which nobody listens. Other demos keep off as long as this lives.
///
/// The proxy binds the address itself, later and with `SO_REUSEPORT`, so that two demos that found the same port free would
/// share its connections. An abstract Unix socket named after the port is what they see of each other: binding it is atomic,
/// it belongs to a network namespace as ports do, and it goes with its process.
#[derive(Debug)]
pub(super) struct Reserved {
    pub(super) address: SocketAddr,
    _claim: UnixListener,
}

impl Reserved {
    /// `port`, or else the first that is free: 8080, then any.
    ///
    /// # Errors
    /// The port is in use, or none can be had.
    pub(super) fn new(port: Option<u16>) -> Result<Self, CommandError> {
        let cannot =
            |at: &str, e: io::Error| CommandError::new(format!("can't listen at {at}: {e}"));
        if let Some(port) = port.filter(|port| *port != 0) {
            return Self::at(port).map_err(|e| cannot(&format!("127.0.0.1:{port}"), e));
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
        // Bound without sharing, to see that it is free.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.local_addr()?;
        let name = format!("cutover-demo-{}", address.port());
        let claim = UnixListener::bind_addr(&UnixAddr::from_abstract_name(name)?)?;
        // The demo that had claimed it may have ended in between, with a proxy that still listens: bound once more, behind the claim.
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
        // All of these look at once.
        let barrier = std::sync::Barrier::new(8);
        let ports: std::collections::HashSet<u16> = std::thread::scope(|scope| {
            let one = || {
                barrier.wait();
                Reserved::new(None).unwrap()
            };
            let all: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
            // Held until all have one.
            let all: Vec<Reserved> = all.into_iter().map(|t| t.join().unwrap()).collect();
            all.iter().map(|reserved| reserved.address.port()).collect()
        });
        assert_eq!(ports.len(), 8);
    }
}
