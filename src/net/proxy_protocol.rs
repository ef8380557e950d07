//! Headers of the PROXY protocol, versions 1 and 2, as load balancers send them before the first byte of a connection.
//!
//! Specification: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. The parser is strict, because the header says who
//! the client is: it refuses whatever it can't read exactly.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// First bytes of every header of version 1.
const V1_START: &[u8] = b"PROXY ";
/// Longest header of version 1, with its line end.
const V1_MAX: usize = 107;
/// First bytes of every header of version 2.
pub(super) const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of version 2 before the addresses: signature, version and command, family and transport, length.
pub(super) const V2_FIXED: usize = 16;
/// Most bytes of a header of version 2. Senders need a few hundred; a client certificate in a TLV takes up to 3 KiB.
const V2_MAX: usize = 4096;

/// Type of the TLV with a checksum of the header.
const TLV_CRC32C: u8 = 0x03;
/// Type of the TLV that holds others about TLS.
const TLV_SSL: u8 = 0x20;
/// Bytes of that TLV before the others: flags and the result of the verification.
const SSL_FIXED: usize = 5;

/// The origin of a connection, according to its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionSource {
    /// The connection was made for this client.
    Client(SocketAddr),
    /// The sender made it for itself, such as for a health check, or doesn't know the client's address: the address of the
    /// socket counts.
    Sender,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// The first bytes are those of neither version.
    NoHeader,
    /// The header doesn't end within the longest permitted length.
    TooLong,
    /// A line end of version 1 isn't CR LF.
    LineEnd,
    /// The words of a header of version 1 are not the ones that it consists of.
    Words,
    /// An address isn't one of the stated family.
    Address,
    /// A port isn't a decimal number from 0 to 65535 without leading zeros.
    Port,
    /// The version or command of a binary header isn't defined.
    Command,
    /// The family or transport isn't defined.
    Family,
    /// The stated length is less than the addresses take.
    TooShort,
    /// The lengths of the TLVs don't add up.
    Tlv,
    /// The checksum is wrong.
    Checksum,
}

impl HeaderError {
    fn as_str(self) -> &'static str {
        match self {
            Self::NoHeader => "the connection doesn't begin with a PROXY protocol header",
            Self::TooLong => "the PROXY protocol header is too long",
            Self::LineEnd => "the line of the PROXY protocol header doesn't end with CR LF",
            Self::Words => {
                "the PROXY protocol header isn't `PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT`"
            }
            Self::Address => "the PROXY protocol header has an invalid address",
            Self::Port => "the PROXY protocol header has an invalid port",
            Self::Command => "the PROXY protocol header has an unknown version or command",
            Self::Family => "the PROXY protocol header has an unknown address family or transport",
            Self::TooShort => "the PROXY protocol header is shorter than its addresses",
            Self::Tlv => "the PROXY protocol header has TLVs of inconsistent lengths",
            Self::Checksum => "the PROXY protocol header has a wrong CRC-32C",
        }
    }
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for HeaderError {}

/// Reads the header at the start of `bytes`. `Ok(None)`: all of these bytes belong to a header that isn't complete yet.
/// Otherwise returns the length of the header, and the origin of the connection.
///
/// # Errors
/// The bytes are no valid header, whatever follows.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(usize, ConnectionSource)>, HeaderError> {
    if starts_alike(bytes, V1_START) {
        return parse_v1(bytes);
    }
    if starts_alike(bytes, V2_SIGNATURE) {
        return parse_v2(bytes);
    }
    Err(HeaderError::NoHeader)
}

/// Whether `bytes` begin with `start`, or are the beginning of it.
fn starts_alike(bytes: &[u8], start: &[u8]) -> bool {
    let n = bytes.len().min(start.len());
    bytes[..n] == start[..n]
}

fn parse_v1(bytes: &[u8]) -> Result<Option<(usize, ConnectionSource)>, HeaderError> {
    let seen = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = seen.iter().position(|b| matches!(b, b'\r' | b'\n')) else {
        return match seen.len() {
            V1_MAX => Err(HeaderError::TooLong),
            _ => Ok(None),
        };
    };
    match (seen[end], seen.get(end + 1)) {
        (b'\r', Some(b'\n')) => {}
        (b'\r', None) if seen.len() < V1_MAX => return Ok(None),
        (b'\r', None) => return Err(HeaderError::TooLong),
        _ => return Err(HeaderError::LineEnd),
    }
    let words = std::str::from_utf8(&seen[V1_START.len().min(end)..end]);
    let words = words.map_err(|_| HeaderError::Words)?;
    Ok(Some((end + 2, v1_source(words)?)))
}

/// The origin of a connection by the words after `PROXY `. Anything may follow `UNKNOWN`, and is ignored.
fn v1_source(words: &str) -> Result<ConnectionSource, HeaderError> {
    if words == "UNKNOWN" || words.starts_with("UNKNOWN ") {
        return Ok(ConnectionSource::Sender);
    }
    let words: Vec<&str> = words.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = words[..] else {
        return Err(HeaderError::Words);
    };
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4),
        _ => text.parse::<Ipv6Addr>().map(IpAddr::V6),
    };
    if !matches!(family, "TCP4" | "TCP6") {
        return Err(HeaderError::Words);
    }
    let ip = address(source).map_err(|_| HeaderError::Address)?;
    address(destination).map_err(|_| HeaderError::Address)?;
    port(destination_port)?;
    Ok(client(ip, port(source_port)?))
}

fn port(text: &str) -> Result<u16, HeaderError> {
    let is_digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_digits || (text.len() > 1 && text.starts_with('0')) {
        return Err(HeaderError::Port);
    }
    text.parse().map_err(|_| HeaderError::Port)
}

fn client(ip: IpAddr, port: u16) -> ConnectionSource {
    ConnectionSource::Client(SocketAddr::new(ip.to_canonical(), port))
}

fn parse_v2(bytes: &[u8]) -> Result<Option<(usize, ConnectionSource)>, HeaderError> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED>() else {
        return Ok(None);
    };
    let [.., command, family, high, low] = *fixed;
    let is_proxied = match command {
        0x20 => false,
        0x21 => true,
        _ => return Err(HeaderError::Command),
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if V2_FIXED + length > V2_MAX {
        return Err(HeaderError::TooLong);
    }
    let block = address_block(family).ok_or(HeaderError::Family)?;
    if length < block {
        return Err(HeaderError::TooShort);
    }
    if rest.len() < length {
        return Ok(None);
    }
    let header = &bytes[..V2_FIXED + length];
    check_tlvs(header, V2_FIXED + block)?;
    let source = match is_proxied {
        true => v2_source(family, &rest[..block]),
        false => ConnectionSource::Sender,
    };
    Ok(Some((header.len(), source)))
}

/// Number of bytes that the addresses of a family take. `None` if the family isn't defined.
fn address_block(family: u8) -> Option<usize> {
    match family {
        0x00 => Some(0),
        // TCP and UDP over IPv4, over IPv6, and Unix sockets.
        0x11 | 0x12 => Some(12),
        0x21 | 0x22 => Some(36),
        0x31 | 0x32 => Some(216),
        _ => None,
    }
}

/// The client's address is the first part of the block. Its port comes after both addresses.
fn v2_source(family: u8, block: &[u8]) -> ConnectionSource {
    let port_at = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    match family >> 4 {
        1 => match block.first_chunk::<4>() {
            Some(ip) => client(Ipv4Addr::from(*ip).into(), port_at(8)),
            None => ConnectionSource::Sender,
        },
        2 => match block.first_chunk::<16>() {
            Some(ip) => client(Ipv6Addr::from(*ip).into(), port_at(32)),
            None => ConnectionSource::Sender,
        },
        // Without an address, or with the path of a Unix socket.
        _ => ConnectionSource::Sender,
    }
}

/// Checks the TLVs of a whole header, which start at `at`.
fn check_tlvs(header: &[u8], at: usize) -> Result<(), HeaderError> {
    let mut rest = &header[at..];
    while !rest.is_empty() {
        let (kind, value, behind) = next_tlv(rest)?;
        let value_at = header.len() - behind.len() - value.len();
        match kind {
            TLV_CRC32C => check_crc(header, value_at, value)?,
            TLV_SSL => {
                let mut inner = value.get(SSL_FIXED..).ok_or(HeaderError::Tlv)?;
                while !inner.is_empty() {
                    (_, _, inner) = next_tlv(inner)?;
                }
            }
            _ => {}
        }
        rest = behind;
    }
    Ok(())
}

/// Type and value of the first TLV, and the bytes after it.
fn next_tlv(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), HeaderError> {
    let ([kind, high, low], rest) = bytes.split_first_chunk().ok_or(HeaderError::Tlv)?;
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let (value, behind) = rest.split_at_checked(length).ok_or(HeaderError::Tlv)?;
    Ok((*kind, value, behind))
}

/// Compares a checksum with that of the header, computed with zeros in its place.
fn check_crc(header: &[u8], at: usize, value: &[u8]) -> Result<(), HeaderError> {
    let stated = value.first_chunk().ok_or(HeaderError::Tlv)?;
    if value.len() != stated.len() {
        return Err(HeaderError::Tlv);
    }
    let parts = [&header[..at], &[0; 4], &header[at + 4..]];
    match crc32c(parts.iter().copied().flatten()) == u32::from_be_bytes(*stated) {
        true => Ok(()),
        false => Err(HeaderError::Checksum),
    }
}

/// CRC-32C (RFC 3720 appendix B.4), bit by bit: few headers have one, and they are short.
pub(super) fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    /// The polynomial, least significant bit first.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc >>= 1;
            if carry == 1 {
                crc ^= POLYNOMIAL;
            }
        }
    }
    !crc
}

#[cfg(test)]
#[path = "proxy_protocol_tests.rs"]
mod tests;
