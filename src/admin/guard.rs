//! Whose requests are answered.
//!
//! A web page that an operator happens to visit must not be able to reach the API: neither by a name of its own that
//! resolves to this machine (so `Host` must be ours), nor from its own origin (so `Origin` must be ours, if there is one).
//! Health and metrics carry no secret and change nothing: they answer under any name, as probes and scrapers use.

use std::net::IpAddr;
use std::path::Path;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, StatusCode, Version, request};

use crate::config::Spec;
use crate::config::secret;
use crate::config::spec::{Admin, HostPattern};

/// Through which kind of listener a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenerKind {
    /// TCP.
    Tcp {
        /// The local address that the client connected to.
        ours: Option<IpAddr>,
        /// Whether the listener is bound to more than the loopback interface.
        exposed: bool,
    },
    /// A Unix socket, whose file mode says who may.
    Unix,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdminRefusal {
    /// The answer's status.
    pub status: StatusCode,
    /// For the one who asked.
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

/// Whether a request may be answered at all. `admin` is the running configuration's.
///
/// # Errors
/// 400 where `Host` is missing or ambiguous, 403 for a foreign `Host` or `Origin` unless the path is [`is_open`], 401 or
/// 403 without the token on a listener that other machines reach.
pub(crate) fn admit(
    head: &request::Parts,
    door: ListenerKind,
    admin: Option<&Admin>,
) -> Result<(), AdminRefusal> {
    let host = host(head, door)?;
    if is_open(head.uri.path()) {
        return Ok(());
    }
    let names = admin.map_or(&[][..], |a| &a.hosts);
    if let ListenerKind::Tcp { ours, .. } = door
        && let Some(host) = &host
        && !is_ours(host, ours, names)
    {
        let message = format!(
            "the host {host:?} is not one of this proxy's: use localhost, the address that admin listens at or this \
             machine's name, or add the name to `hosts` under [admin] (admin.hosts)"
        );
        return Err(AdminRefusal::new(StatusCode::FORBIDDEN, message));
    }
    for origin in head.headers.get_all(ORIGIN) {
        let origin = origin.to_str().unwrap_or("").to_ascii_lowercase();
        let authority = origin.split_once("://").map(|(_, rest)| rest);
        // Behind a proxy that rewrites Host, the browser's origin is the name that the operator listed.
        let listed = authority
            .and_then(host_of)
            .is_some_and(|h| is_listed(h, names));
        if !listed && (authority.is_none() || authority != host.as_deref()) {
            let message = format!(
                "the origin {origin:?} is foreign: pages of other origins are refused unless their host is in `hosts` \
                 under [admin] (admin.hosts)"
            );
            return Err(AdminRefusal::new(StatusCode::FORBIDDEN, message));
        }
    }
    match door {
        ListenerKind::Tcp { exposed: true, .. } => {
            let token = admin.and_then(|a| a.token_file.as_deref());
            authorise(&head.headers, door, token)
        }
        _ => Ok(()),
    }
}

/// Paths that answer under any `Host`, and without the token on every listener.
fn is_open(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics")
}

/// The authority that a request names; `None` where it may be missing.
fn host(head: &request::Parts, door: ListenerKind) -> Result<Option<String>, AdminRefusal> {
    let mut fields = head.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        let message = "Host is there twice";
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
                "Host is not a host name",
            )),
        },
        // Whoever speaks HTTP/1.0 without Host is no browser.
        None if head.version < Version::HTTP_11 || door == ListenerKind::Unix => Ok(None),
        None => Err(AdminRefusal::new(
            StatusCode::BAD_REQUEST,
            "Host is missing",
        )),
    }
}

/// The host of an authority, without its port; `None` if it is no authority.
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

fn is_ours(authority: &str, ours: Option<IpAddr>, names: &[HostPattern]) -> bool {
    let Some(host) = host_of(authority) else {
        return false;
    };
    if host == "localhost" || is_listed(host, names) || is_this_machine(host) {
        return true;
    }
    let Ok(address) = host.parse::<IpAddr>() else {
        return false;
    };
    address.is_loopback() || ours.is_some_and(|ours| ours.to_canonical() == address.to_canonical())
}

/// Whether `admin.hosts` names it.
fn is_listed(host: &str, names: &[HostPattern]) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    names.iter().any(|name| match name {
        HostPattern::Exact(name) => name.trim_start_matches('[').trim_end_matches(']') == host,
        HostPattern::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
    })
}

/// Whether it is the name of this machine, in full or without its domain.
fn is_this_machine(host: &str) -> bool {
    let system = rustix::system::uname();
    let Ok(name) = system.nodename().to_str() else {
        return false;
    };
    let short = name.split('.').next().unwrap_or(name);
    !short.is_empty() && [name, short].iter().any(|n| n.eq_ignore_ascii_case(host))
}

/// Reads the token of `token_file`.
///
/// # Errors
/// The file can't be read, is empty or too large, or others may read or write it.
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

/// Checks that the token of a configuration can be used, if it names one.
///
/// # Errors
/// What is wrong with its file, and what to do.
pub(crate) fn check_token(spec: &Spec) -> Result<(), String> {
    let file = spec.admin.as_ref().and_then(|a| a.token_file.as_deref());
    file.map_or(Ok(()), |file| token(file).map(drop))
}

/// Whether a request may change anything: over a Unix socket always, over TCP with the token of `token_file`.
///
/// # Errors
/// 403 where no token is configured or its file can't be used, 401 where the request has not the right one.
pub(crate) fn authorise(
    headers: &HeaderMap,
    door: ListenerKind,
    token_file: Option<&Path>,
) -> Result<(), AdminRefusal> {
    if door == ListenerKind::Unix {
        return Ok(());
    }
    let what = match door {
        ListenerKind::Tcp { exposed: true, .. } => {
            "everything but health and metrics on this address"
        }
        _ => "a change over TCP",
    };
    let Some(file) = token_file else {
        let message =
            format!("{what} needs `token_file` under [admin]; the control socket needs none");
        return Err(AdminRefusal::new(StatusCode::FORBIDDEN, message));
    };
    // Read each time: a token that is replaced counts at once.
    let token = token(file).map_err(|error| {
        tracing::error!("{error}");
        let message = "the file that token_file names can't be used; the proxy's log says why";
        AdminRefusal::new(StatusCode::FORBIDDEN, message)
    })?;
    let given = headers
        .get(AUTHORIZATION)
        .map(|value| value.as_bytes())
        .and_then(|value| value.split_at_checked(7))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
        .map(|(_, token)| token.trim_ascii());
    let right = given.is_some_and(|given| {
        aws_lc_rs::constant_time::verify_slices_are_equal(given, token.as_bytes()).is_ok()
    });
    if right {
        Ok(())
    } else {
        let message = format!("{what} needs `Authorization: Bearer` with the token of token_file");
        Err(AdminRefusal::new(StatusCode::UNAUTHORIZED, message))
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
