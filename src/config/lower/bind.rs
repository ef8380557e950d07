//! Addresses to listen on: their syntax, and whether two of them overlap.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::config::problems::{Problems, TextSpan};
use crate::config::raw::{RawString, RawValue};
use crate::config::spec::Bind;
use crate::config::units::quote;

/// The maximum length of a socket path in bytes: `sun_path` has 108, including the terminating NUL (unix(7)).
pub(super) const LONGEST_SOCKET_PATH: usize = 107;

/// The expected form, for messages.
pub(super) const EXPECTED: &str =
    "an address such as \":8080\", \"127.0.0.1:8080\" or \"unix:/path\"";

/// Parses an address to listen on.
pub(super) fn bind(text: &RawString<'_>, out: &mut Problems) -> Option<Bind> {
    let typed = text.value;
    if let Some(path) = typed.strip_prefix("unix:") {
        return socket_path(path, text, out).map(Bind::Unix);
    }
    if let Some(port) = typed.strip_prefix(':')
        && let Ok(port) = port.parse()
    {
        return Some(Bind::Any(port));
    }
    if let Ok(address) = typed.parse() {
        return Some(Bind::Tcp(address));
    }
    let problem = out.error(
        text.span.clone(),
        format!("{} is not an address to listen on", quote(typed)),
    );
    problem.label(format!("expected {EXPECTED}"));
    if typed.parse::<u16>().is_ok() {
        problem.help(format!("did you mean \":{typed}\"?"));
    } else if let Ok(ip) = typed.parse::<IpAddr>() {
        problem.help(format!(
            "the port is missing, such as in \"{}\"",
            SocketAddr::new(ip, 8080)
        ));
    } else if let Some(port) = typed.strip_prefix("localhost:") {
        problem.help(format!(
            "a name may have several addresses: did you mean \"127.0.0.1:{port}\"?"
        ));
    } else if let Some(port) = typed.strip_prefix("*:") {
        problem.help(format!("did you mean \":{port}\"?"));
    } else if let Some((_, rest)) = typed.split_once("://") {
        let address = rest.trim_end_matches('/');
        problem.help(format!(
            "an address has no scheme: did you mean \"{address}\"?"
        ));
    }
    None
}

/// Reports a value that is not a string and so can't be an address to listen on.
pub(super) fn not_text(value: &RawValue<'_>, out: &mut Problems) {
    let problem = value.mistyped(EXPECTED, out);
    if let Some(port) = value.as_integer().filter(|n| (1..=65_535).contains(n)) {
        problem.help(format!("did you mean \":{port}\"?"));
    } else if value.as_list().is_some() {
        problem.help("each listener has a name: `[listen.http]` with `bind = \":8080\"`");
    }
}

/// Checks the path of a Unix socket.
pub(super) fn socket_path(path: &str, text: &RawString<'_>, out: &mut Problems) -> Option<PathBuf> {
    let why = if !path.starts_with('/') {
        "expected an absolute path after `unix:`"
    } else if path.len() > LONGEST_SOCKET_PATH {
        "expected at most 107 bytes, the system's limit for the path of a socket"
    } else if path.contains('\0') {
        "a path can't contain NUL"
    } else {
        return Some(PathBuf::from(path));
    };
    out.error(
        text.span.clone(),
        format!("{} can't be the path of a socket", quote(path)),
    )
    .label(why);
    None
}

/// Reports an address that overlaps one of the others.
pub(super) fn check_overlap(
    bind: &Bind,
    at: &TextSpan,
    others: &[(Bind, TextSpan)],
    out: &mut Problems,
) {
    if let Some((other, first)) = others.iter().find(|(other, _)| overlap(bind, other)) {
        let label = if bind == other {
            "the same address again"
        } else {
            "overlaps the address of another listener"
        };
        out.error(at.clone(), "two listeners on one address")
            .label(label)
            .also(first.clone(), "the other listener");
    }
}

/// Returns whether a connection could belong to both. Port 0 stands for a new port each time, so it never overlaps.
fn overlap(a: &Bind, b: &Bind) -> bool {
    let tcp = |bind: &Bind| match bind {
        Bind::Any(port) => Some((None, *port)),
        Bind::Tcp(address) => Some((Some(address.ip()), address.port())),
        Bind::Unix(_) => None,
    };
    match (tcp(a), tcp(b)) {
        (None, None) => a == b,
        (Some((a, port)), Some((b, other))) if port == other && port != 0 => match (a, b) {
            (Some(a), Some(b)) => a.is_ipv4() == b.is_ipv4() && (a == b || is_any(a) || is_any(b)),
            _ => true,
        },
        _ => false,
    }
}

fn is_any(ip: IpAddr) -> bool {
    ip == Ipv4Addr::UNSPECIFIED || ip == Ipv6Addr::UNSPECIFIED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlapping(a: &str, b: &str) -> bool {
        let read = |text: &str| match text.strip_prefix(':') {
            Some(port) => Bind::Any(port.parse().unwrap()),
            None => Bind::Tcp(text.parse().unwrap()),
        };
        assert_eq!(overlap(&read(a), &read(b)), overlap(&read(b), &read(a)));
        overlap(&read(a), &read(b))
    }

    #[test]
    fn addresses_overlap() {
        assert!(overlapping(":80", ":80"));
        assert!(overlapping(":80", "127.0.0.1:80"));
        assert!(overlapping("0.0.0.0:80", "127.0.0.1:80"));
        assert!(overlapping("[::]:80", "[::1]:80"));
    }

    #[test]
    fn addresses_do_not_overlap() {
        assert!(!overlapping(":80", ":81"));
        assert!(!overlapping(":0", ":0"));
        assert!(!overlapping("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!overlapping("0.0.0.0:80", "[::]:80"));
    }
}
