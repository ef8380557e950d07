//! Access control of the admin API.
//!
//! A web page in an operator's browser must not reach the API. Against DNS rebinding, `Host` must be a name or address of
//! this proxy; against cross-origin requests, `Origin` must be one as well if it is present. Changes over TCP need the token. So
//! does every request on a listener that other machines can reach, except for the files of the dashboard, which contain no
//! data. Health and metrics contain no secrets and change nothing. They answer under any name, as probes and scrapers need.

use std::net::IpAddr;
use std::path::Path;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, StatusCode, Version, request};

use super::dashboard;
use crate::config::Spec;
use crate::config::secret;
use crate::config::spec::{Admin, HostPattern};

/// The kind of listener that a request came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenerKind {
    /// TCP.
    Tcp {
        /// The local address that the client connected to.
        local: Option<IpAddr>,
        /// Whether the listener is bound to an address other than loopback.
        exposed: bool,
    },
    /// A Unix socket. The mode of its file is the access control.
    Unix,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdminRefusal {
    /// Status of the response.
    pub status: StatusCode,
    /// Message for the client.
    pub message: String,
}

impl AdminRefusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }
}

/// Checks whether a request may be answered at all. `admin` comes from the running configuration.
///
/// # Errors
/// 400 if `Host` is missing or ambiguous, 403 for a foreign `Host` or `Origin` unless the path is open ([`is_open`]), 401 or
/// 403 without the token on an exposed listener.
pub(crate) fn admit(
    head: &request::Parts,
    listener: ListenerKind,
    admin: Option<&Admin>,
) -> Result<(), AdminRefusal> {
    let host = host(head, listener)?;
    if is_open(head.uri.path()) {
        return Ok(());
    }
    let names = admin.map_or(&[][..], |a| &a.hosts);
    if let ListenerKind::Tcp { local, .. } = listener
        && let Some(host) = &host
        && !is_own_host(host, local, names)
    {
        let message = format!(
            "host {host:?} is not a name of this proxy: use localhost, the address of the admin listener or the \
             machine's name, or add the name to `hosts` under [admin] (admin.hosts)"
        );
        return Err(AdminRefusal::new(StatusCode::FORBIDDEN, message));
    }
    for origin in head.headers.get_all(ORIGIN) {
        let origin = origin.to_str().unwrap_or("").to_ascii_lowercase();
        let authority = origin.split_once("://").map(|(_, rest)| rest);
        // If a proxy in front rewrites Host, the browser's origin matches only a configured name. `Origin: null` (RFC 6454
        // §7.3) has no authority and is always foreign.
        let listed = authority
            .and_then(host_of)
            .is_some_and(|h| is_listed(h, names));
        if !listed && (authority.is_none() || authority != host.as_deref()) {
            let message = format!(
                "origin {origin:?} is foreign: requests from pages of other origins are refused unless their host is \
                 in `hosts` under [admin] (admin.hosts)"
            );
            return Err(AdminRefusal::new(StatusCode::FORBIDDEN, message));
        }
    }
    match listener {
        ListenerKind::Tcp { exposed: true, .. } if !dashboard::is_page(head.uri.path()) => {
            let token = admin.and_then(|a| a.token_file.as_deref());
            authorise(&head.headers, listener, token)
        }
        _ => Ok(()),
    }
}

/// Whether a path is answered under any `Host`, and without the token on any listener.
fn is_open(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics")
}

/// The authority of a request in lower case; `None` if it is missing and may be. An absolute-form target overrides `Host`
/// (RFC 9112 §3.2.2).
fn host(head: &request::Parts, listener: ListenerKind) -> Result<Option<String>, AdminRefusal> {
    let mut fields = head.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        let message = "more than one Host header";
        return Err(AdminRefusal::new(StatusCode::BAD_REQUEST, message));
    }
    if let Some(authority) = head.uri.authority() {
        return Ok(Some(authority.as_str().to_ascii_lowercase()));
    }
    match field {
        Some(value) => match value.to_str() {
            Ok(text) => Ok(Some(text.to_ascii_lowercase())),
            Err(_) => Err(AdminRefusal::new(
                StatusCode::BAD_REQUEST,
                "invalid Host header",
            )),
        },
        // HTTP/1.0 does not require Host, and no browser sends requests without one.
        None if head.version < Version::HTTP_11 || listener == ListenerKind::Unix => Ok(None),
        None => Err(AdminRefusal::new(
            StatusCode::BAD_REQUEST,
            "missing Host header",
        )),
    }
}

/// The host of an authority without its port and brackets; `None` if it is malformed.
fn host_of(authority: &str) -> Option<&str> {
    match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) if port.is_empty() || port.starts_with(':') => Some(host),
            _ => None,
        },
        None => Some(
            authority
                .split_once(':')
                .map_or(authority, |(host, _)| host),
        ),
    }
}

/// Whether a `Host` or `:authority` value names this proxy, with or without a port.
fn is_own_host(authority: &str, local: Option<IpAddr>, names: &[HostPattern]) -> bool {
    let Some(host) = host_of(authority) else {
        return false;
    };
    if host == "localhost" || is_listed(host, names) || is_this_machine(host) {
        return true;
    }
    let Ok(address) = host.parse::<IpAddr>() else {
        return false;
    };
    address.is_loopback()
        || local.is_some_and(|local| local.to_canonical() == address.to_canonical())
}

/// Whether `admin.hosts` contains the host.
fn is_listed(host: &str, names: &[HostPattern]) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    names.iter().any(|name| match name {
        HostPattern::Exact(name) => name.trim_start_matches('[').trim_end_matches(']') == host,
        HostPattern::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
    })
}

/// Whether the host is the name of this machine, in full or without its domain.
fn is_this_machine(host: &str) -> bool {
    let system = rustix::system::uname();
    let Ok(name) = system.nodename().to_str() else {
        return false;
    };
    let short = name.split('.').next().unwrap_or(name);
    !short.is_empty() && [name, short].iter().any(|n| n.eq_ignore_ascii_case(host))
}

/// Reads the token from `token_file`.
///
/// # Errors
/// The file can't be read, is empty, too large or not UTF-8, or other users can read or write it.
fn token(file: &Path) -> Result<String, String> {
    let bytes = secret::read(file, "admin token", "change what this proxy does")?;
    let shown = file.display();
    if bytes.len() as u64 > secret::MOST {
        return Err(format!(
            "admin token {shown}: more than {} bytes",
            secret::MOST
        ));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("admin token {shown}: not text"))?;
    match text.trim() {
        "" => Err(format!("admin token {shown}: the file is empty")),
        token => Ok(token.to_owned()),
    }
}

/// Checks that the token file of a configuration can be used, if it names one.
///
/// # Errors
/// A message that says what is wrong with the file.
pub(crate) fn check_token(spec: &Spec) -> Result<(), String> {
    let file = spec.admin.as_ref().and_then(|a| a.token_file.as_deref());
    file.map_or(Ok(()), |file| token(file).map(drop))
}

/// Checks the token of a request. Requests over a Unix socket need none.
///
/// # Errors
/// 403 if no token is configured or its file can't be used, 401 if the request does not carry the token.
pub(crate) fn authorise(
    headers: &HeaderMap,
    listener: ListenerKind,
    token_file: Option<&Path>,
) -> Result<(), AdminRefusal> {
    if listener == ListenerKind::Unix {
        return Ok(());
    }
    let what = match listener {
        ListenerKind::Tcp { exposed: true, .. } => {
            "a request to this address, except for health and metrics,"
        }
        _ => "a change over TCP",
    };
    let Some(file) = token_file else {
        let message =
            format!("{what} needs `token_file` under [admin]; the control socket needs none");
        return Err(AdminRefusal::new(StatusCode::FORBIDDEN, message));
    };
    // Read on every request, so that a replaced token takes effect at once.
    let token = token(file).map_err(|error| {
        tracing::error!("{error}");
        let message = "the file of token_file can't be used; see the proxy's log";
        AdminRefusal::new(StatusCode::FORBIDDEN, message)
    })?;
    let given = headers
        .get(AUTHORIZATION)
        .map(|value| value.as_bytes())
        .and_then(|value| value.split_at_checked(7))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
        .map(|(_, token)| token.trim_ascii());
    // Compared in constant time, so that response times do not reveal a prefix of the token.
    let matches = given.is_some_and(|given| {
        aws_lc_rs::constant_time::verify_slices_are_equal(given, token.as_bytes()).is_ok()
    });
    if matches {
        Ok(())
    } else {
        let message = format!("{what} needs `Authorization: Bearer` with the token of token_file");
        Err(AdminRefusal::new(StatusCode::UNAUTHORIZED, message))
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
