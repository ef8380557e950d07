//! The crate proxy-header as oracle of our parser for headers of the PROXY protocol: what we accept, it must read alike.
//!
//! It accepts more than we do: a port `+1`, lines that are too long, any checksum and TLVs that don't add up.

use std::fmt::Debug;
use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxyHeader};

/// A header as somebody read it: its length, and the client if it names one.
pub type SeenHeader = (usize, Option<SocketAddr>);

/// The header at the start of the bytes, as the oracle reads it; `None` if it refuses or awaits more.
fn theirs(data: &[u8]) -> Option<SeenHeader> {
    let (header, length) = ProxyHeader::parse(data, ParseConfig::default()).ok()?;
    let client = header.proxied_address().map(|address| {
        // Ours shows an IPv4 client as such, however the sender writes it.
        let (ip, port) = (address.source.ip(), address.source.port());
        SocketAddr::new(ip.to_canonical(), port)
    });
    Some((length, client))
}

/// Any bytes: what `ours` says about them doesn't depend on how they arrive, and the oracle agrees. Panics otherwise.
pub fn agree<E: Debug + PartialEq>(
    data: &[u8],
    ours: impl Fn(&[u8]) -> Result<Option<SeenHeader>, E>,
) {
    let whole = ours(data);
    let mut end = 0;
    let arriving = loop {
        let answer = ours(&data[..end]);
        if answer != Ok(None) || end == data.len() {
            break answer;
        }
        end += 1;
    };
    let shown = || data.escape_ascii().to_string();
    assert_eq!(whole, arriving, "the split matters: {}", shown());
    let Ok(Some(seen)) = whole else { return };
    assert!(seen.0 == end && seen.0 <= data.len(), "{}", shown());
    // The oracle waits for 15 bytes and more, whatever they are.
    let mut longer = data.to_vec();
    longer.resize(longer.len().max(16), b'x');
    assert_eq!(Some(seen), theirs(&longer), "{}", shown());
}
