//! The endpoints of a version: the syntax of their addresses and options.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::bind;
use crate::config::problems::{Problems, TextSpan};
use crate::config::raw::{RawString, RawValue};
use crate::config::spec::{EndpointAddress, EndpointSpec, Scheme};
use crate::config::suggest::suggest;
use crate::config::units::quote;

/// Reads the endpoints of a version: at least one, without duplicates.
pub(super) fn endpoints(value: &RawValue<'_>, out: &mut Problems) -> Vec<EndpointSpec> {
    let expected = "a list of endpoints such as [\"10.0.1.10:8080\"]";
    let Some(items) = value.as_list() else {
        let problem = value.mistyped(expected, out);
        if let Some(text) = value.as_text() {
            problem.help(format!("put it in brackets: [\"{}\"]", text.value));
        }
        return Vec::new();
    };
    if items.is_empty() {
        out.error(
            value.span.clone(),
            format!("`{}` has no endpoints", value.path),
        )
        .label(format!("expected {expected}"))
        .help("to remove a version, remove it from `split` and `stable`, then from `versions`");
    }
    let mut found: Vec<EndpointSpec> = Vec::new();
    let mut spans: HashMap<(Scheme, EndpointAddress), TextSpan> = HashMap::new();
    for item in items {
        let Some(text) = item.as_text() else {
            let problem = item.mistyped("an endpoint such as \"10.0.1.10:8080\"", out);
            if let Some(port) = item.as_integer().filter(|n| (1..=65_535).contains(n)) {
                problem.help(format!("did you mean \"127.0.0.1:{port}\"?"));
            }
            continue;
        };
        let Some(endpoint) = endpoint(&text, out) else {
            continue;
        };
        match spans.entry((endpoint.scheme, endpoint.address.clone())) {
            Entry::Occupied(first) => {
                out.error(
                    text.span,
                    format!("`{endpoint}` is listed twice in `{}`", value.path),
                )
                .label("again here")
                .also(first.get().clone(), "first here")
                .help("to give it more traffic, write `weight=2` after a space");
            }
            Entry::Vacant(entry) => {
                entry.insert(text.span);
                found.push(endpoint);
            }
        }
    }
    found
}

/// Parses an endpoint: `host:port`, `dns:host:port`, `srv:service`, any of them after `http://`, `https://` or `h2c://`, or
/// `unix:/path`; with options after a space.
fn endpoint(text: &RawString<'_>, out: &mut Problems) -> Option<EndpointSpec> {
    let mut words = text.value.split(' ').filter(|w| !w.is_empty());
    let typed = words.next().unwrap_or_default();
    let refuse = |(why, help): EndpointProblem, out: &mut Problems| {
        let message = format!("{} is not an endpoint", quote(typed));
        let problem = out.error(text.part_of(typed), message);
        problem.label(why);
        if !help.is_empty() {
            problem.help(help);
        }
    };
    let target = if let Some(path) = typed.strip_prefix("unix:") {
        bind::socket_path(path, text, out).map(|path| (Scheme::Http, EndpointAddress::Unix(path)))
    } else {
        address(typed).map_err(|problem| refuse(problem, out)).ok()
    };
    let mut weight = None;
    for word in words {
        if !option(word, text, &mut weight, out) {
            break;
        }
    }
    let (scheme, address) = target?;
    Some(EndpointSpec {
        scheme,
        address,
        weight: weight.unwrap_or(1),
    })
}

/// Reads one option; `weight=N` is the only one. Returns whether the words after it are worth reading.
fn option(word: &str, text: &RawString<'_>, weight: &mut Option<u32>, out: &mut Problems) -> bool {
    let at = text.part_of(word);
    match word.split_once('=') {
        Some(("weight", "")) => return number_missing(at, out),
        Some(("weight", value)) => {
            let parsed = value.parse().ok().filter(|n| (1..=1000).contains(n));
            if parsed.is_none() {
                let problem = out.error(at, format!("{} is not a weight", quote(value)));
                problem.label("expected a whole number from 1 to 1000");
                if value == "0" {
                    problem.help(
                        "to take an endpoint out of service, remove it from the list or use `cutover drain`",
                    );
                }
            } else if weight.is_some() {
                out.error(at, "`weight` is set twice for one endpoint");
            }
            *weight = parsed;
        }
        _ if word == "weight" => return number_missing(at, out),
        _ => {
            let name = word.split('=').next().unwrap_or_default();
            let help = of_other_proxies(name)
                .unwrap_or_else(|| suggest(name, &["weight"], "the options are"));
            out.error(at, format!("unknown option {} of an endpoint", quote(name)))
                .label("expected `weight=N`")
                .help(help);
        }
    }
    true
}

/// Reports `weight = 2` or the like: its parts are separate words, of which the others would be reported as unknown.
fn number_missing(at: TextSpan, out: &mut Problems) -> bool {
    out.error(at, "`weight` has no number")
        .label("expected `weight=N`, without spaces");
    false
}

/// Translates options of a server in nginx and HAProxy.
fn of_other_proxies(name: &str) -> Option<String> {
    let help = match name {
        "backup" => {
            "put it in a version of its own, and name that version as the service's `fallback`"
        }
        "down" | "disabled" => {
            "to take an endpoint out of service, remove it from the list or use `cutover drain`"
        }
        "max_fails" | "fail_timeout" => "`[service.NAME.outlier]` says when endpoints are ejected",
        "max_conns" | "maxconn" => "`[service.NAME.limits]` limits the connections of a version",
        "check" | "inter" | "rise" | "fall" => {
            "`[service.NAME.health]` says how endpoints are checked"
        }
        "slow_start" | "slowstart" => "`slow_start` is a key of the version",
        _ => return None,
    };
    Some(help.to_owned())
}

/// Why an address is refused, and what to do about it (empty if there is nothing to say).
type EndpointProblem = (String, String);

/// The expected forms, for a text that resembles none of them.
const FORMS: &str = "expected `host:port`, `srv:SERVICE`, `http://`, `https://` or `h2c://` before one of them, or `unix:/path`";

/// Parses everything before the options, except for Unix sockets.
fn address(typed: &str) -> Result<(Scheme, EndpointAddress), EndpointProblem> {
    let (scheme, authority, default_port) = split_scheme(typed)?;
    refuse_path_and_user(typed, authority)?;
    if let Some(name) = authority.strip_prefix("srv:")
        // With a port after it, `srv` is the name of a host.
        && !is_port(name)
    {
        return Ok((scheme, service(name)?));
    }
    let authority = match authority.strip_prefix("dns:") {
        Some(host) if !is_port(host) => host_after_dns(host)?,
        _ => authority,
    };
    // The standard parser comes first, because it also knows the zone of a link-local address: `[fe80::1%2]:80`.
    let (address, port) = match authority.parse::<SocketAddr>() {
        Ok(socket) => (EndpointAddress::Ip(socket), socket.port()),
        Err(_) => {
            let (host, port) = split_port(typed, authority, default_port)?;
            (host_address(host, port)?, port)
        }
    };
    if port == 0 {
        return Err(("an endpoint can't have port 0".to_owned(), String::new()));
    }
    Ok((scheme, address))
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Parses the text after `srv:`: the name of a service, whose records have the ports.
fn service(name: &str) -> Result<EndpointAddress, EndpointProblem> {
    if let Some((host, port)) = name.rsplit_once(':')
        && is_port(port)
    {
        let help = format!("write `srv:{host}`, or `dns:{name}` if this is a host");
        return Err(("an SRV record has the port".to_owned(), help));
    }
    match is_name(name) {
        true => Ok(EndpointAddress::Srv(name.to_ascii_lowercase())),
        false => Err((
            "expected the name of a service after `srv:`".to_owned(),
            "such as `srv:_http._tcp.app.internal`".to_owned(),
        )),
    }
}

/// Parses the text after `dns:`, which states that a host is looked up. Every host without it is looked up as well.
fn host_after_dns(host: &str) -> Result<&str, EndpointProblem> {
    let is_address = host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok();
    match is_address {
        true => Err((
            "an address isn't looked up".to_owned(),
            format!("did you mean `{host}`?"),
        )),
        false => Ok(host),
    }
}

fn host_address(host: &str, port: u16) -> Result<EndpointAddress, EndpointProblem> {
    let ipv6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if let Some(ip) = ipv6.and_then(|h| h.parse::<Ipv6Addr>().ok()) {
        return Ok(EndpointAddress::Ip((ip, port).into()));
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(EndpointAddress::Ip((ip, port).into()));
    }
    if is_name(host) {
        return Ok(EndpointAddress::Name(host.to_ascii_lowercase(), port));
    }
    Err((FORMS.to_owned(), String::new()))
}

/// Returns the scheme, the rest of the text, and the default port of the scheme. Only `http://` and `https://` have one.
fn split_scheme(typed: &str) -> Result<(Scheme, &str, Option<u16>), EndpointProblem> {
    const SCHEMES: [&str; 3] = ["http", "https", "h2c"];
    let incomplete = |scheme: &str, rest: &str, why: String| {
        let shown = quote(&format!("{scheme}://{rest}"));
        Err((why, format!("did you mean {shown}?")))
    };
    if let Some((scheme, rest)) = typed.split_once("//")
        && SCHEMES.contains(&scheme)
    {
        return incomplete(scheme, rest, format!("expected `:` after `{scheme}`"));
    }
    Ok(match typed.split_once("://") {
        None => match typed.split_once(':') {
            // With a port after it, the word is the name of a host.
            Some((scheme, rest)) if SCHEMES.contains(&scheme) && !is_port(rest) => {
                let rest = rest.trim_start_matches('/');
                return incomplete(scheme, rest, format!("expected `//` after `{scheme}:`"));
            }
            _ => (Scheme::Http, typed, None),
        },
        Some(("http", rest)) => (Scheme::Http, rest, Some(80)),
        Some(("https", rest)) => (Scheme::Https, rest, Some(443)),
        Some(("h2c", rest)) => (Scheme::H2c, rest, None),
        Some((other, _)) => {
            let help = suggest(other, &SCHEMES, "the schemes are");
            return Err((format!("unknown scheme {}", quote(other)), help));
        }
    })
}

/// Refuses the parts of a URL that have no meaning for an endpoint.
fn refuse_path_and_user(typed: &str, authority: &str) -> Result<(), EndpointProblem> {
    let bare = authority.split(['/', '?', '#']).next().unwrap_or_default();
    if bare.len() < authority.len() {
        let shown = typed.trim_end_matches(&authority[bare.len()..]);
        return Err((
            "an endpoint has no path".to_owned(),
            format!("did you mean {}?", quote(shown)),
        ));
    }
    if authority.contains('@') {
        return Err(("an endpoint has no user".to_owned(), String::new()));
    }
    Ok(())
}

/// Splits host and port. The host keeps the brackets of an IPv6 address, and isn't checked further.
fn split_port<'t>(
    typed: &str,
    authority: &'t str,
    default_port: Option<u16>,
) -> Result<(&'t str, u16), EndpointProblem> {
    // Without brackets, the last group of an IPv6 address would be taken for the port.
    if let Ok(ip) = authority.parse::<Ipv6Addr>() {
        return Err((
            "an IPv6 address is written in brackets, followed by the port".to_owned(),
            format!("write `[{ip}]:PORT`"),
        ));
    }
    match (authority.rsplit_once(':'), default_port) {
        // A `]` after the last colon: the colon is part of an IPv6 address, and there is no port.
        (Some((host, digits)), _) if !digits.contains(']') => match digits.parse() {
            Ok(port) => Ok((host, port)),
            Err(_) if host.is_empty() || host.contains(':') => {
                Err((FORMS.to_owned(), String::new()))
            }
            Err(_) => Err((format!("{} is not a port", quote(digits)), String::new())),
        },
        (_, Some(port)) => Ok((authority, port)),
        _ if authority.is_empty() => Err((FORMS.to_owned(), String::new())),
        _ => {
            let help = format!("such as {}", quote(&format!("{typed}:8080")));
            Err(("the port is missing".to_owned(), help))
        }
    }
}

/// Returns whether `host` is a host name (RFC 1123 section 2.1, with `_`). A name whose last label is numeric is refused,
/// because it is more likely a malformed IPv4 address.
fn is_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253 && host.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(typed: &str) -> Option<String> {
        address(typed).ok().map(|(scheme, address)| {
            EndpointSpec {
                scheme,
                address,
                weight: 1,
            }
            .to_string()
        })
    }

    #[test]
    fn forms_of_endpoints() {
        for (typed, expected) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("http://10.0.0.1:81", "10.0.0.1:81"),
            ("http://app", "app:80"),
            ("https://App.example.com", "https://app.example.com:443"),
            ("https://[2001:db8::1]", "https://[2001:db8::1]:443"),
            ("h2c://app:9000", "h2c://app:9000"),
            ("[::1]:8080", "[::1]:8080"),
            ("dns:App.internal:80", "app.internal:80"),
            ("https://dns:app", "https://app:443"),
            ("h2c://dns:app:9000", "h2c://app:9000"),
            ("dns:8080", "dns:8080"),
            ("srv:8080", "srv:8080"),
            ("http:8080", "http:8080"),
            ("srv:_HTTP._tcp.app", "srv:_http._tcp.app"),
            (
                "https://srv:shop.service.consul.",
                "https://srv:shop.service.consul.",
            ),
            ("h2c://srv:_grpc._tcp.app", "h2c://srv:_grpc._tcp.app"),
        ] {
            assert_eq!(read(typed).as_deref(), Some(expected), "{typed}");
        }
    }

    #[test]
    fn what_is_no_endpoint() {
        for typed in [
            "",
            ":",
            ":80",
            "10.0.0.1",
            "app",
            "h2c://app",
            "::1:80",
            "app:0",
            "app:99999",
            "app:80/x",
            "ftp://app:80",
            "h2c:/app:80",
            "http:app:80",
            "dns:app",
            "dns:10.0.0.1:80",
            "dns:",
            "srv:",
            "srv:app:80",
            "srv:a b",
            "user@app:80",
            "10.0.0.256:80",
            "a b:80",
            "[::1]",
            "http://",
            "app:",
            "1:2:3",
            "ä:80",
        ] {
            assert_eq!(read(typed), None, "{typed}");
        }
    }
}
