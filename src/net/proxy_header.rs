//! Writes headers of the PROXY protocol, versions 1 and 2, for endpoints that want to know the client of a connection.
//!
//! Specification: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. [`super::proxy_protocol`] reads them.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use super::proxy_protocol::{V2_FIXED, V2_SIGNATURE, crc32c};

/// Version 2, commands LOCAL and PROXY.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
/// Families with stream sockets, or none.
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// Types of TLVs.
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;
/// Flags in the TLV about TLS: the client used TLS; it presented a certificate on this connection.
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERT_CONN: u8 = 0x02;
/// Longest unique id.
const MAX_ID: usize = 128;
/// Longest common name that is sent (X.520 allows 64 characters).
const MAX_CN: usize = 256;

/// The addresses in the PROXY protocol header of a client's connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProxySource<'a> {
    /// The client's address; `None` if it isn't known. The port is 0 where only the address is.
    pub client: Option<SocketAddr>,
    /// The address that the client connected to, if it is known.
    pub destination: Option<SocketAddr>,
    /// The client's TLS. `None`: clear text.
    pub tls: Option<ProxyTls<'a>>,
    /// Identifies the connection, or the request.
    pub unique_id: &'a [u8],
}

/// The client's TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProxyTls<'a> {
    /// The version, such as `TLSv1.3`.
    pub version: &'a str,
    /// The common name of the client's certificate, which was verified. `None`: there is no certificate.
    pub certificate: Option<&'a str>,
}

/// A header of version 1. `None` stands for a connection that the proxy makes for itself, such as a health check.
pub(crate) fn v1(source: Option<&ProxySource<'_>>) -> Vec<u8> {
    let mut header = Vec::with_capacity(107);
    let _written = match source.and_then(addresses) {
        None => header.write_all(b"PROXY UNKNOWN\r\n"),
        Some((client, to)) => write!(
            header,
            "PROXY {} {} {} {} {}\r\n",
            if client.is_ipv4() { "TCP4" } else { "TCP6" },
            client.ip(),
            to.ip(),
            client.port(),
            to.port()
        ),
    };
    header
}

/// A header of version 2. `None` stands for a connection that the proxy makes for itself: LOCAL.
pub(crate) fn v2(source: Option<&ProxySource<'_>>) -> Vec<u8> {
    let mut header = V2_SIGNATURE.to_vec();
    let Some(source) = source else {
        header.extend_from_slice(&[LOCAL, UNSPECIFIED, 0, 0]);
        return header;
    };
    let addresses = addresses(source);
    let family = match addresses {
        None => UNSPECIFIED,
        Some((client, _)) if client.is_ipv4() => TCP4,
        Some(_) => TCP6,
    };
    header.extend_from_slice(&[PROXY, family, 0, 0]);
    if let Some((client, to)) = addresses {
        put_ip(&mut header, client.ip());
        put_ip(&mut header, to.ip());
        header.extend_from_slice(&client.port().to_be_bytes());
        header.extend_from_slice(&to.port().to_be_bytes());
    }
    if !source.unique_id.is_empty() && source.unique_id.len() <= MAX_ID {
        put_tlv(&mut header, UNIQUE_ID, source.unique_id);
    }
    if let Some(tls) = &source.tls {
        put_tlv(&mut header, SSL, &about_tls(tls));
    }
    put_tlv(&mut header, CRC32C, &[0; 4]);
    // The parts above have limits that add up to less than a kilobyte.
    let length = u16::try_from(header.len() - V2_FIXED).expect("a short header");
    header[V2_FIXED - 2..V2_FIXED].copy_from_slice(&length.to_be_bytes());
    // Over the whole header, with zeros in place of the checksum.
    let checksum = crc32c(header.iter()).to_be_bytes();
    let at = header.len() - checksum.len();
    header[at..].copy_from_slice(&checksum);
    header
}

/// Both addresses in the same family. An unknown destination is the unspecified address.
fn addresses(source: &ProxySource<'_>) -> Option<(SocketAddr, SocketAddr)> {
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let client = canonical(source.client?);
    let to = source.destination.map(canonical);
    let to = to.unwrap_or_else(|| SocketAddr::new(unspecified(client.ip()), 0));
    if client.is_ipv4() == to.is_ipv4() {
        return Some((client, to));
    }
    // A trusted proxy forwards for a client of another family than its own.
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    Some((mapped(client), mapped(to)))
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    }
}

fn put_ip(header: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => header.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => header.extend_from_slice(&ip.octets()),
    }
}

/// Appends a TLV. No value is longer than a kilobyte.
fn put_tlv(header: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    header.push(kind);
    header.extend_from_slice(&length.to_be_bytes());
    header.extend_from_slice(&value[..usize::from(length)]);
}

/// The value of the TLV about TLS: flags, the result of the verification (0 is success), and TLVs.
fn about_tls(tls: &ProxyTls<'_>) -> Vec<u8> {
    let (flags, result) = match tls.certificate {
        Some(_) => (CLIENT_SSL | CLIENT_CERT_CONN, 0u32),
        None => (CLIENT_SSL, 1),
    };
    let mut value = vec![flags];
    value.extend_from_slice(&result.to_be_bytes());
    put_tlv(&mut value, SSL_VERSION, tls.version.as_bytes());
    let common_name = tls
        .certificate
        .filter(|name| !name.is_empty() && name.len() <= MAX_CN);
    if let Some(name) = common_name {
        put_tlv(&mut value, SSL_CN, name.as_bytes());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::super::proxy_protocol::{ConnectionSource, parse};
    use super::*;

    fn source(client: &str, destination: Option<&str>) -> ProxySource<'static> {
        ProxySource {
            client: Some(client.parse().expect("an address")),
            destination: destination.map(|to| to.parse().expect("an address")),
            ..ProxySource::default()
        }
    }

    #[test]
    fn version_1_has_the_addresses_in_words() {
        for (client, to, line) in [
            (
                "192.0.2.7:12345",
                Some("10.0.0.1:80"),
                "TCP4 192.0.2.7 10.0.0.1 12345 80",
            ),
            (
                "[2001:db8::7]:1",
                Some("[::1]:443"),
                "TCP6 2001:db8::7 ::1 1 443",
            ),
            (
                "[::ffff:192.0.2.7]:1",
                Some("[::ffff:10.0.0.1]:2"),
                "TCP4 192.0.2.7 10.0.0.1 1 2",
            ),
            ("192.0.2.7:0", None, "TCP4 192.0.2.7 0.0.0.0 0 0"),
            (
                "192.0.2.7:0",
                Some("[2001:db8::1]:443"),
                "TCP6 ::ffff:192.0.2.7 2001:db8::1 0 443",
            ),
        ] {
            let header = v1(Some(&source(client, to)));
            assert_eq!(
                String::from_utf8_lossy(&header),
                format!("PROXY {line}\r\n")
            );
            assert!(matches!(parse(&header), Ok(Some((length, _))) if length == header.len()));
        }
        for unknown in [None, Some(&ProxySource::default())] {
            assert_eq!(v1(unknown), b"PROXY UNKNOWN\r\n");
        }
    }

    #[test]
    fn version_2_is_read_back_with_its_checksum() {
        let tls = ProxyTls {
            version: "TLSv1.3",
            certificate: Some("partner"),
        };
        for (client, to) in [
            ("192.0.2.7:12345", Some("10.0.0.1:80")),
            ("[2001:db8::7]:12345", None),
        ] {
            let source = ProxySource {
                tls: Some(tls),
                unique_id: b"request-1",
                ..source(client, to)
            };
            let mut header = v2(Some(&source));
            let expected = ConnectionSource::Client(client.parse().expect("an address"));
            assert_eq!(parse(&header), Ok(Some((header.len(), expected))));
            let has = |part: &[u8]| header.windows(part.len()).any(|window| window == part);
            assert!(has(b"\x05\0\x09request-1"));
            // Flags, a good result, the version, and the name.
            assert!(has(b"\x03\0\0\0\0\x21\0\x07TLSv1.3\x22\0\x07partner"));
            header[20] ^= 1;
            assert!(parse(&header).is_err(), "the checksum covers every byte");
        }
        let anonymous = ProxySource {
            tls: Some(ProxyTls {
                certificate: None,
                ..tls
            }),
            ..ProxySource::default()
        };
        let header = v2(Some(&anonymous));
        assert_eq!(
            parse(&header),
            Ok(Some((header.len(), ConnectionSource::Sender)))
        );
        assert!(header.windows(5).any(|window| window == b"\x01\0\0\0\x01"));
    }

    #[test]
    fn a_connection_of_the_proxy_itself_is_local() {
        assert_eq!(v2(None), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
        assert_eq!(parse(&v2(None)), Ok(Some((16, ConnectionSource::Sender))));
    }

    #[test]
    fn what_is_too_long_is_left_out() {
        let id = [b'x'; MAX_ID + 1];
        let source = ProxySource {
            unique_id: &id,
            ..source("192.0.2.7:1", None)
        };
        let header = v2(Some(&source));
        assert!(matches!(parse(&header), Ok(Some(_))));
        assert!(header.len() < MAX_ID);
    }
}
