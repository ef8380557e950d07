//! Who is at the other end of a downstream connection.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::telemetry::ListenerShard;

/// Everything about a downstream connection that its requests need, written out once.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address; loopback for a Unix socket.
    pub ip: IpAddr,
    /// Whether its `Forwarded` and `X-Forwarded-*` are believed.
    pub trusted: bool,
    /// Whether it came by TLS.
    pub tls: bool,
    /// The counters of the listener that accepted it: one shard a worker.
    pub metrics: Arc<[ListenerShard]>,
    text: Box<str>,
}

impl Peer {
    /// The peer of a connection; `None` for a Unix socket.
    pub fn new(
        address: Option<SocketAddr>,
        tls: bool,
        metrics: Arc<[ListenerShard]>,
        trusted: &[IpNet],
    ) -> Self {
        let ip = address.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |a| a.ip().to_canonical());
        Self {
            ip,
            trusted: trusted.iter().any(|net| net.contains(&ip)),
            tls,
            metrics,
            text: ip.to_string().into(),
        }
    }

    /// The address as text.
    pub fn text(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static [u8] {
        if self.tls { b"https" } else { b"http" }
    }

    /// The client's address: the peer's, or, from a trusted proxy, the last address in `X-Forwarded-For` that isn't trusted itself.
    pub fn client(&self, forwarded_for: Option<&[u8]>, trusted: &[IpNet]) -> IpAddr {
        let Some(chain) = forwarded_for.filter(|_| self.trusted) else {
            return self.ip;
        };
        let mut client = self.ip;
        for hop in chain.rsplit(|b| *b == b',') {
            let Some(ip) = std::str::from_utf8(hop)
                .ok()
                .and_then(|text| text.trim().parse::<IpAddr>().ok())
            else {
                break;
            };
            client = ip.to_canonical();
            if !trusted.iter().any(|net| net.contains(&client)) {
                break;
            }
        }
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_last_hop_that_is_not_trusted() {
        let nets: Vec<IpNet> = vec!["10.0.0.0/8".parse().expect("net")];
        let proxy = Peer::new(
            Some("10.0.0.9:5".parse().expect("address")),
            false,
            Arc::new([]),
            &nets,
        );
        let client = |chain: &str| proxy.client(Some(chain.as_bytes()), &nets).to_string();
        assert_eq!(client("1.2.3.4"), "1.2.3.4");
        assert_eq!(client("6.6.6.6, 1.2.3.4, 10.1.1.1"), "1.2.3.4");
        assert_eq!(client("10.2.2.2, 10.1.1.1"), "10.2.2.2");
        assert_eq!(client("junk, 10.1.1.1"), "10.1.1.1");
        let stranger = Peer::new(
            Some("9.9.9.9:5".parse().expect("address")),
            false,
            Arc::new([]),
            &nets,
        );
        assert_eq!(
            stranger.client(Some(b"1.2.3.4"), &nets).to_string(),
            "9.9.9.9"
        );
    }
}
