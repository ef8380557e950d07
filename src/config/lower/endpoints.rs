//! Endpoints: how an address that serves a version is written.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::bind;
use crate::config::problems::{Problems, TextSpan};
use crate::config::raw::{RawString, RawValue, suggest};
use crate::config::spec::{EndpointAddress, EndpointSpec, Scheme};
use crate::config::units::quote;

/// The endpoints of a version; at least one, none twice.
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
        out.error(value.span.clone(), format!("`{}` has no endpoints", value.path))
            .label(format!("expected {expected}"))
            .help("to take a version out of service, take it out of `split` and `stable`, then out of `versions`");
    }
    let mut found: Vec<EndpointSpec> = Vec::new();
    let mut places: HashMap<(Scheme, EndpointAddress), TextSpan> = HashMap::new();
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
        match places.entry((endpoint.scheme, endpoint.address.clone())) {
            Entry::Occupied(first) => {
                out.error(
                    text.span,
                    format!("`{endpoint}` stands twice in `{}`", value.path),
                )
                .label("again here")
                .also(first.get().clone(), "first here")
                .help("give it more weight with a space and `weight=2`");
            }
            Entry::Vacant(place) => {
                place.insert(text.span);
                found.push(endpoint);
            }
        }
    }
    found
}

/// `host:port`, `http://…`, `https://…`, `h2c://…`, `unix:/path`; options after a space.
fn endpoint(text: &RawString<'_>, out: &mut Problems) -> Option<EndpointSpec> {
    let mut words = text.value.split(' ').filter(|w| !w.is_empty());
    let typed = words.next().unwrap_or_default();
    let place = |why: String, help: String, out: &mut Problems| {
        let message = format!("{} is not an endpoint", quote(typed));
        let problem = out.error(text.part_of(typed), message);
        problem.label(why);
        if !help.is_empty() {
            problem.help(help);
        }
    };
    if typed.starts_with("dns:") || typed.starts_with("srv:") {
        let message = format!("{} is not available yet", quote(typed));
        out.error(text.part_of(typed), message)
            .label("planned for a later version of cutover")
            .help("a name is resolved as it is, by A and AAAA: \"app.internal:8080\"");
        return None;
    }
    let target = if let Some(path) = typed.strip_prefix("unix:") {
        bind::socket_path(path, text, out).map(|path| (Scheme::Http, EndpointAddress::Unix(path)))
    } else {
        address(typed)
            .map_err(|(why, help)| place(why, help, out))
            .ok()
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

/// `weight=N`. False: what follows can't be read.
fn option(word: &str, text: &RawString<'_>, weight: &mut Option<u32>, out: &mut Problems) -> bool {
    let at = text.part_of(word);
    match word.split_once('=') {
        Some(("weight", "")) => return spaced(at, out),
        Some(("weight", value)) => {
            let parsed = value.parse().ok().filter(|n| (1..=1000).contains(n));
            if parsed.is_none() {
                let problem = out.error(at, format!("{} is not a weight", quote(value)));
                problem.label("expected a whole number from 1 to 1000");
                if value == "0" {
                    problem.help(
                        "to take an endpoint out of use, take it out of the list, or use `cutover drain`",
                    );
                }
            } else if weight.is_some() {
                out.error(at, "`weight` stands twice in one endpoint");
            }
            *weight = parsed;
        }
        _ if word == "weight" => return spaced(at, out),
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

fn spaced(at: TextSpan, out: &mut Problems) -> bool {
    out.error(at, "`weight` has no number")
        .label("expected `weight=N`, without spaces");
    false
}

/// What options of a server in nginx and HAProxy are here.
fn of_other_proxies(name: &str) -> Option<String> {
    let help = match name {
        "backup" => "put it into a version of its own, which the service names as `fallback`",
        "down" | "disabled" => {
            "to take an endpoint out of use, take it out of the list, or use `cutover drain`"
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

type EndpointProblem = (String, String);

/// Everything before the options, except Unix sockets. An error is why, and what to do.
fn address(typed: &str) -> Result<(Scheme, EndpointAddress), EndpointProblem> {
    const FORMS: &str =
        "expected `host:port`, `http://`, `https://` or `h2c://` before it, or `unix:/path`";
    let (scheme, rest, port) = match typed.split_once("://") {
        None => (Scheme::Http, typed, None),
        Some(("http", rest)) => (Scheme::Http, rest, Some(80)),
        Some(("https", rest)) => (Scheme::Https, rest, Some(443)),
        Some(("h2c", rest)) => (Scheme::H2c, rest, None),
        Some((other, _)) => {
            let help = suggest(other, &["http", "https", "h2c"], "the schemes are");
            return Err((format!("unknown scheme {}", quote(other)), help));
        }
    };
    let bare = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if bare.len() < rest.len() {
        let shown = typed.trim_end_matches(&rest[bare.len()..]);
        return Err((
            "an endpoint has no path".to_owned(),
            format!("did you mean {}?", quote(shown)),
        ));
    }
    if rest.contains('@') {
        return Err(("an endpoint has no user".to_owned(), String::new()));
    }
    if let Ok(address) = rest.parse::<SocketAddr>() {
        return with_port(address.port(), (scheme, EndpointAddress::Ip(address)));
    }
    if let Ok(ip) = rest.parse::<Ipv6Addr>() {
        let help = format!("write `[{ip}]:PORT`");
        return Err((
            "an IPv6 address stands in brackets, then the port".to_owned(),
            help,
        ));
    }
    let (host, port) = match (rest.rsplit_once(':'), port) {
        (Some((host, digits)), _) if !digits.contains(']') => {
            let Ok(port) = digits.parse::<u16>() else {
                let (why, help) = (format!("{} is not a port", quote(digits)), String::new());
                return Err(if host.is_empty() || host.contains(':') {
                    (FORMS.to_owned(), help)
                } else {
                    (why, help)
                });
            };
            (host, port)
        }
        (_, Some(port)) => (rest, port),
        _ if rest.is_empty() => return Err((FORMS.to_owned(), String::new())),
        _ => {
            let help = format!("such as {}", quote(&format!("{typed}:8080")));
            return Err(("the port is missing".to_owned(), help));
        }
    };
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if let Some(ip) = bracketed.and_then(|h| h.parse::<Ipv6Addr>().ok()) {
        return with_port(port, (scheme, EndpointAddress::Ip((ip, port).into())));
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return with_port(port, (scheme, EndpointAddress::Ip((ip, port).into())));
    }
    if !is_name(host) {
        return Err((FORMS.to_owned(), String::new()));
    }
    with_port(
        port,
        (
            scheme,
            EndpointAddress::Name(host.to_ascii_lowercase(), port),
        ),
    )
}

fn with_port<T>(port: u16, target: T) -> Result<T, EndpointProblem> {
    match port {
        0 => Err(("nothing can be reached at port 0".to_owned(), String::new())),
        _ => Ok(target),
    }
}

/// A name for the resolver; one that ends in a number would be taken for a broken address.
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
            "dns:app:80",
            "srv:_http._tcp.app",
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
