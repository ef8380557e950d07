//! The peer of a downstream connection, and the client that a trusted peer forwards for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::http1::lists::elements;
use crate::net::proxy_header::{ProxySource, ProxyTls};
use crate::routing::ClientCertificate;
use crate::telemetry::ListenerShard;

words! {
    /// A version of TLS, as `{tls.version}` shows it.
    pub enum TlsVersion {
        /// TLS 1.2.
        V12 "TLSv1.2",
        /// TLS 1.3.
        V13 "TLSv1.3",
    }
}

/// The properties of a downstream connection that its requests need, computed once.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Address of the peer, with IPv4-mapped IPv6 addresses as IPv4; loopback for a Unix socket.
    pub ip: IpAddr,
    /// Whether the address is in `trusted_proxies`.
    ///
    /// From a trusted peer, the proxy uses `X-Forwarded-For` for the client's address and
    /// `X-Forwarded-Proto` for the scheme, and forwards `X-Forwarded-Host` as the original host.
    /// `Forwarded` (RFC 7239) and similar fields are passed on unread. From any other peer, all of
    /// these are removed or replaced.
    pub trusted: bool,
    /// Whether the connection uses TLS.
    pub tls: bool,
    /// The TLS version of the connection.
    pub tls_version: Option<TlsVersion>,
    /// The client's certificate, if it has presented one.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// Port of the peer; `None` for a Unix socket.
    port: Option<u16>,
    /// The local address that the client connected to, if the configuration announces clients to endpoints. Boxed, because it is
    /// rarely there and every open connection has room for it.
    local: Option<Box<SocketAddr>>,
    /// Counters of the listener that accepted the connection, one shard for each worker.
    pub metrics: Arc<[ListenerShard]>,
    /// The lines of [`Self::forwarded_lines`].
    lines: Box<str>,
}

/// The text before the address in [`Peer::forwarded_lines`].
const FORWARDED_FOR: &str = "x-forwarded-for: ";
/// The text between the address and the scheme.
const FORWARDED_PROTO: &str = "\r\nx-forwarded-proto: ";

impl Peer {
    /// The peer of an accepted connection. `address` is `None` for a Unix socket; `trusted` are the
    /// listener's `trusted_proxies`.
    pub fn new(
        address: Option<SocketAddr>,
        tls: bool,
        certificate: Option<Arc<ClientCertificate>>,
        metrics: Arc<[ListenerShard]>,
        trusted: &[IpNet],
    ) -> Self {
        let ip = address.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |a| a.ip().to_canonical());
        Self {
            ip,
            trusted: trusted.iter().any(|net| net.contains(&ip)),
            tls,
            tls_version: None,
            certificate,
            port: address.map(|address| address.port()),
            local: None,
            metrics,
            lines: format!("{FORWARDED_FOR}{ip}{FORWARDED_PROTO}{}\r\n", scheme(tls)).into(),
        }
    }

    /// The same peer, with the TLS version of its connection.
    pub fn over(mut self, tls_version: Option<TlsVersion>) -> Self {
        self.tls_version = tls_version;
        self
    }

    /// The same peer, with the address that it connected to.
    pub(crate) fn connected_to(mut self, local: Option<SocketAddr>) -> Self {
        self.local = local.map(Box::new);
        self
    }

    /// The origin of a request of this client, for a header of the PROXY protocol.
    pub(crate) fn proxy_source<'a>(&'a self, client: IpAddr, id: &'a [u8]) -> ProxySource<'a> {
        // An address other than the peer's comes from a trusted proxy, which doesn't tell the port.
        let port = if client == self.ip {
            self.port
        } else {
            Some(0)
        };
        let certificate = self.certificate.as_ref();
        ProxySource {
            client: port.map(|port| SocketAddr::new(client, port)),
            destination: self.local.as_deref().copied(),
            tls: self.tls_version.map(|version| ProxyTls {
                version: version.as_str(),
                certificate: certificate.map(|certificate| &*certificate.common_name),
            }),
            unique_id: id,
        }
    }

    /// The address as text.
    pub fn text(&self) -> &[u8] {
        let behind = FORWARDED_PROTO.len() + self.scheme().len() + 2;
        &self.lines.as_bytes()[FORWARDED_FOR.len()..self.lines.len() - behind]
    }

    /// `X-Forwarded-For` and `X-Forwarded-Proto` as HTTP/1 lines, for requests of a peer that isn't
    /// trusted. The same for all requests of the connection, so they are rendered once.
    pub(crate) fn forwarded_lines(&self) -> &[u8] {
        self.lines.as_bytes()
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static [u8] {
        scheme(self.tls).as_bytes()
    }
}

fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

/// Finds the client in `X-Forwarded-For`: the right-most address that isn't a trusted proxy.
///
/// Each proxy appends the address of its peer, so only the entries at the right, added by trusted
/// proxies, are reliable; the client may have sent anything before them. Several field lines form
/// one list (RFC 9110 §5.3).
#[derive(Debug)]
pub(crate) struct ForwardedFor<'a> {
    trusted: &'a [IpNet],
    /// The result for the lines so far.
    client: Option<IpAddr>,
}

impl<'a> ForwardedFor<'a> {
    /// An empty list.
    pub(crate) fn new(trusted: &'a [IpNet]) -> Self {
        Self {
            trusted,
            client: None,
        }
    }

    /// Adds the next field line, in the order of the head.
    pub(crate) fn line(&mut self, line: &[u8]) {
        let mut leftmost = None;
        for hop in elements(line).rev().filter(|hop| !hop.is_empty()) {
            let Some(ip) = address(hop) else {
                // Whatever precedes an unreadable entry can't be verified. The nearest known hop
                // counts as the client, and earlier lines are discarded.
                self.client = leftmost;
                return;
            };
            leftmost = Some(ip);
            if !self.trusted.iter().any(|net| net.contains(&ip)) {
                self.client = leftmost;
                return;
            }
        }
        // All entries are trusted proxies, so the client is in the lines before. If there are none,
        // the left-most proxy sent the request itself.
        self.client = self.client.or(leftmost);
    }

    /// The client's address; `None` if the list is empty or its last entry is unreadable.
    pub(crate) fn client(&self) -> Option<IpAddr> {
        self.client
    }
}

/// Parses an entry: an address, with an optional port, and IPv6 with or without brackets.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?;
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let ip: IpAddr = match text.parse() {
        Ok(ip) => ip,
        Err(_) => match text.parse::<SocketAddr>() {
            Ok(address) => address.ip(),
            Err(_) => IpAddr::V6(bare()?),
        },
    };
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_forwarded_by_address_and_scheme() {
        for (address, tls, text, lines) in [
            (
                Some("10.1.2.3:9"),
                false,
                "10.1.2.3",
                "x-forwarded-for: 10.1.2.3\r\nx-forwarded-proto: http\r\n",
            ),
            (
                Some("[2001:db8::1]:443"),
                true,
                "2001:db8::1",
                "x-forwarded-for: 2001:db8::1\r\nx-forwarded-proto: https\r\n",
            ),
            (
                None,
                true,
                "127.0.0.1",
                "x-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: https\r\n",
            ),
        ] {
            let address = address.map(|a| a.parse().expect("an address"));
            let peer = Peer::new(address, tls, None, Arc::default(), &[]);
            assert_eq!(peer.text(), text.as_bytes());
            assert_eq!(peer.forwarded_lines(), lines.as_bytes());
        }
    }

    fn client(lines: &[&str]) -> Option<String> {
        let nets: Vec<IpNet> = vec![
            "10.0.0.0/8".parse().expect("net"),
            "::1/128".parse().expect("net"),
        ];
        let mut list = ForwardedFor::new(&nets);
        lines.iter().for_each(|line| list.line(line.as_bytes()));
        list.client().map(|ip| ip.to_string())
    }

    #[test]
    fn the_client_is_the_last_hop_that_is_not_trusted() {
        for (lines, want) in [
            (&["1.2.3.4"][..], Some("1.2.3.4")),
            (&["6.6.6.6, 1.2.3.4, 10.1.1.1"], Some("1.2.3.4")),
            (&["10.2.2.2, 10.1.1.1"], Some("10.2.2.2")),
            (&["junk, 10.1.1.1"], Some("10.1.1.1")),
            (&["1.2.3.4, junk"], None),
            (&[" ,, "], None),
            (&[], None),
        ] {
            assert_eq!(client(lines).as_deref(), want, "{lines:?}");
        }
    }

    #[test]
    fn lines_are_one_list() {
        for (lines, want) in [
            (&["6.6.6.6", "1.2.3.4", "10.1.1.1"][..], Some("1.2.3.4")),
            (&["1.2.3.4", "10.2.2.2, 10.1.1.1", ""], Some("1.2.3.4")),
            (&["10.3.3.3", "10.2.2.2, 10.1.1.1"], Some("10.3.3.3")),
            (&["1.2.3.4", "junk"], None),
            (&["1.2.3.4, junk", "10.1.1.1"], Some("10.1.1.1")),
            (&["1.2.3.4, junk, 10.2.2.2", "10.1.1.1"], Some("10.2.2.2")),
        ] {
            assert_eq!(client(lines).as_deref(), want, "{lines:?}");
        }
    }

    #[test]
    fn hops_may_have_brackets_and_ports() {
        for (hop, want) in [
            ("1.2.3.4:80", Some("1.2.3.4")),
            ("2001:db8::7", Some("2001:db8::7")),
            ("[2001:db8::7]", Some("2001:db8::7")),
            ("[2001:db8::7]:80", Some("2001:db8::7")),
            ("::ffff:1.2.3.4", Some("1.2.3.4")),
            ("[::ffff:1.2.3.4]:80", Some("1.2.3.4")),
            ("1.2.3.4:", None),
            ("1.2.3.4:x", None),
            ("1.2.3.4:99999", None),
            ("[1.2.3.4]", None),
            ("[::1", None),
            ("[::2]x", None),
            ("unknown", None),
            ("_hidden", None),
            ("\u{e9}", None),
        ] {
            assert_eq!(client(&[hop]).as_deref(), want, "{hop}");
        }
    }
}
