//! Host and path patterns of routes, preview hosts and server names.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::config::problems::Problems;
use crate::config::raw::RawString;
use crate::config::spec::{HostPattern, PathPattern};
use crate::config::units::quote;

/// Parses a host pattern: `shop.example.com`, `*.example.com`, `192.0.2.7` or `[::1]`. A trailing dot is removed.
pub(super) fn host(text: &RawString<'_>, out: &mut Problems) -> Option<HostPattern> {
    let typed = text.value.to_ascii_lowercase();
    if let Some(inner) = typed.strip_prefix('[').and_then(|t| t.strip_suffix(']'))
        && let Ok(ip) = inner.parse::<Ipv6Addr>()
    {
        return Some(HostPattern::Exact(format!("[{ip}]")));
    }
    let (star, name) = match typed.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, typed.as_str()),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if let Some((why, help)) = not_a_name(name, star, &typed) {
        let problem = out.error(
            text.span.clone(),
            format!("{} is not a host", quote(text.value)),
        );
        problem.label(why);
        if !help.is_empty() {
            problem.help(help);
        }
        return None;
    }
    Some(if star {
        HostPattern::Suffix(format!(".{name}"))
    } else {
        HostPattern::Exact(name.to_owned())
    })
}

/// Returns why `name` can't be the host of a request, and what to do, or `None` if it can.
///
/// The lengths are those of RFC 1035 section 2.3.4. A name whose last label is numeric is a malformed IPv4 address.
fn not_a_name(name: &str, star: bool, typed: &str) -> Option<(&'static str, String)> {
    let nothing = String::new();
    if let Some((_, rest)) = typed.split_once("://") {
        let host = rest.split('/').next().unwrap_or_default();
        return Some((
            "a host has no scheme",
            format!("did you mean {}?", quote(host)),
        ));
    }
    if typed == "*" {
        let help = "leave `hosts` out to answer for every host".to_owned();
        return Some((
            "a star is allowed only before a dot, as in \"*.example.com\"",
            help,
        ));
    }
    if name.contains('*') {
        let why = "a star is allowed only at the beginning, as in \"*.example.com\"";
        return Some((why, nothing));
    }
    if let Some((host, path)) = name.split_once('/') {
        let help = format!(
            "put {} into `hosts` and {} into `paths`",
            quote(host),
            quote(&format!("/{path}"))
        );
        return Some(("a host has no path", help));
    }
    if name.parse::<Ipv6Addr>().is_ok() {
        return Some((
            "an IPv6 address is written in brackets",
            format!("write \"[{name}]\""),
        ));
    }
    if let Some((host, _)) = name.split_once(':') {
        let help = format!("did you mean {}? the port is the listener's", quote(host));
        return Some(("a host has no port", help));
    }
    if !name.is_ascii() {
        let why = "expected the ASCII form of the name, beginning with `xn--`";
        return Some((why, nothing));
    }
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let good = name.len() <= 253 && name.split('.').all(label);
    let numbers = name
        .split('.')
        .next_back()
        .is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    if !good || (numbers && (star || name.parse::<Ipv4Addr>().is_err())) {
        let why = "expected a name such as \"shop.example.com\" or \"*.example.com\"";
        return Some((why, nothing));
    }
    None
}

/// Parses a path pattern: `/login`, `/v1/*` or `/*`.
pub(super) fn path(text: &RawString<'_>, out: &mut Problems) -> Option<PathPattern> {
    let typed = text.value;
    let body = typed.strip_suffix("/*").unwrap_or(typed);
    let why = if !typed.starts_with('/') {
        "a path begins with `/`"
    } else if body.contains('*') {
        "a star is allowed only at the end, after a slash, as in \"/v1/*\""
    } else if body.contains(['?', '#']) {
        "a path has no query and no fragment"
    } else if !body.bytes().all(|b| b.is_ascii_graphic()) {
        "expected visible ASCII characters; others are written as %XX"
    } else if body.contains('\\') {
        "a path has no backslash"
    } else if dot_segment(body) {
        "dot segments are removed from requests, so this would never match"
    } else {
        return Some(if body.len() < typed.len() {
            PathPattern::Prefix(body.to_owned())
        } else {
            PathPattern::Exact(typed.to_owned())
        });
    };
    let problem = out.error(text.span.clone(), format!("{} is not a path", quote(typed)));
    problem.label(why);
    let before_star = body
        .strip_suffix('*')
        .filter(|b| !b.contains('*') && b.starts_with('/'));
    if let Some(prefix) = before_star {
        problem.help(format!("did you mean {}?", quote(&format!("{prefix}/*"))));
    } else if !typed.starts_with('/') {
        problem.help(format!("did you mean {}?", quote(&format!("/{typed}"))));
    }
    None
}

/// Returns whether a segment is `.` or `..` (RFC 3986 section 5.2.4), also percent-encoded.
fn dot_segment(path: &str) -> bool {
    path.split('/').any(|segment| {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        plain == "." || plain == ".."
    })
}
