//! Who is at the other end of a downstream connection.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::http1::lists::elements;
use crate::telemetry::ListenerShard;

/// A client's certificate, as far as origins may be told of it. Taken from the handshake alone, once a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its subject as RFC 4514 writes it, in ASCII: `CN=partner,O=Example`.
    pub subject: String,
    /// SHA-256 of its DER encoding, in lower-case hex.
    pub fingerprint: String,
}

/// Everything about a downstream connection that its requests need, written out once.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address; loopback for a Unix socket.
    pub ip: IpAddr,
    /// Whether what it says about the client is believed: `Forwarded`, `X-Forwarded-*` and the like.
    pub trusted: bool,
    /// Whether it came by TLS.
    pub tls: bool,
    /// The certificate that it proved to hold, where the listener asks for one.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// The counters of the listener that accepted it: one shard a worker.
    pub metrics: Arc<[ListenerShard]>,
    text: Box<str>,
}

impl Peer {
    /// The peer of a connection: its address (`None` for a Unix socket), whether it came by TLS, and with which certificate.
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
            certificate,
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
}

/// The client that trusted proxies name: the right-most address in `X-Forwarded-For` that isn't trusted itself. Its lines are
/// one list (RFC 9110 §5.3), which a client may have begun with what it likes.
#[derive(Debug)]
pub(crate) struct ForwardedFor<'a> {
    trusted: &'a [IpNet],
    /// What the lines so far say; `None` while they say nothing.
    client: Option<IpAddr>,
}

impl<'a> ForwardedFor<'a> {
    /// A list without lines.
    pub(crate) fn new(trusted: &'a [IpNet]) -> Self {
        Self {
            trusted,
            client: None,
        }
    }

    /// The next line.
    pub(crate) fn line(&mut self, line: &[u8]) {
        let mut leftmost = None;
        for hop in elements(line).rev().filter(|hop| !hop.is_empty()) {
            let Some(ip) = address(hop) else {
                // Nobody can say who is behind an unknown hop: it ends with the last that is known.
                self.client = leftmost;
                return;
            };
            leftmost = Some(ip);
            if !self.trusted.iter().any(|net| net.contains(&ip)) {
                self.client = leftmost;
                return;
            }
        }
        // Only trusted proxies: the lines before say for whom they speak.
        self.client = self.client.or(leftmost);
    }

    /// What all lines say; `None` if it is nothing.
    pub(crate) fn client(&self) -> Option<IpAddr> {
        self.client
    }
}

/// The address of a hop: `192.0.2.7`, `192.0.2.7:80`, `2001:db8::7`, `[2001:db8::7]`, `[2001:db8::7]:80`.
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
