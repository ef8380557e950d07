//! Whose requests are answered.
//!
//! A web page that an operator happens to visit must not be able to reach the API: neither by a name of its own that
//! resolves to this machine (so `Host` must be ours), nor from its own origin (so `Origin` must be ours, if there is one).

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, StatusCode, Version, request};

/// Through which kind of listener a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// TCP, by this address of ours.
    Tcp(Option<IpAddr>),
    /// A Unix socket, whose file mode says who may.
    Unix,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// For the one who asked.
    pub message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }
}

/// Whether a request may be answered at all.
///
/// # Errors
/// 403 for a foreign `Host` or `Origin`, 400 where `Host` is missing or ambiguous.
pub fn admit(head: &request::Parts, door: Door) -> Result<(), Refusal> {
    let host = host(head, door)?;
    if let Door::Tcp(ours) = door
        && let Some(host) = &host
        && !is_ours(host, ours)
    {
        let message = format!(
            "the host {host:?} is not this proxy's: use localhost or the address that admin listens at"
        );
        return Err(Refusal::new(StatusCode::FORBIDDEN, message));
    }
    for origin in head.headers.get_all(ORIGIN) {
        let origin = origin.to_str().unwrap_or("");
        let authority = origin.split_once("://").map(|(_, rest)| rest);
        if authority.is_none() || authority != host.as_deref() {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "requests from other origins are refused",
            ));
        }
    }
    Ok(())
}

/// The authority that a request names; `None` where it may be missing.
fn host(head: &request::Parts, door: Door) -> Result<Option<String>, Refusal> {
    let mut fields = head.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        let message = "Host is there twice";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
    }
    if let Some(authority) = head.uri.authority() {
        return Ok(Some(authority.as_str().to_ascii_lowercase()));
    }
    match field {
        Some(value) => match value.to_str() {
            Ok(text) => Ok(Some(text.to_ascii_lowercase())),
            Err(_) => Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "Host is not a host name",
            )),
        },
        // Whoever speaks HTTP/1.0 without Host is no browser.
        None if head.version < Version::HTTP_11 || door == Door::Unix => Ok(None),
        None => Err(Refusal::new(StatusCode::BAD_REQUEST, "Host is missing")),
    }
}

fn is_ours(authority: &str, ours: Option<IpAddr>) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) if port.is_empty() || port.starts_with(':') => host,
            _ => return false,
        },
        None => authority
            .split_once(':')
            .map_or(authority, |(host, _)| host),
    };
    if host == "localhost" {
        return true;
    }
    let Ok(address) = host.parse::<IpAddr>() else {
        return false;
    };
    address.is_loopback() || ours.is_some_and(|ours| ours.to_canonical() == address.to_canonical())
}

/// Whether a request may change anything: over a Unix socket always, over TCP with the token of `token_file`.
///
/// # Errors
/// 403 where no token is configured or its file can't be read, 401 where the request has not the right one.
pub fn authorise(
    headers: &HeaderMap,
    door: Door,
    token_file: Option<&Path>,
) -> Result<(), Refusal> {
    if door == Door::Unix {
        return Ok(());
    }
    let Some(file) = token_file else {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "changes over TCP need `token_file` under [admin]; the control socket needs none",
        ));
    };
    // Read each time: a token that is replaced counts at once.
    let text = fs::read_to_string(file).map_err(|error| {
        tracing::error!(file = %file.display(), %error, "the admin token can't be read");
        Refusal::new(
            StatusCode::FORBIDDEN,
            "the file that token_file names can't be read",
        )
    })?;
    let token = text.trim();
    if token.is_empty() {
        let message = "the file that token_file names is empty";
        return Err(Refusal::new(StatusCode::FORBIDDEN, message));
    }
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
        Err(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "changes over TCP need `Authorization: Bearer` with the token of token_file",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: Door = Door::Tcp(Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7))));

    fn head(fields: &[(&str, &str)]) -> request::Parts {
        let mut builder = http::Request::get("/api/v1/status");
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn status(fields: &[(&str, &str)], door: Door) -> u16 {
        match admit(&head(fields), door) {
            Ok(()) => 200,
            Err(refusal) => refusal.status.as_u16(),
        }
    }

    #[test]
    fn only_our_own_names_are_ours() {
        for ours in [
            "localhost",
            "LocalHost:9900",
            "127.0.0.1:9900",
            "127.1.2.3",
            "[::1]:9900",
            "10.0.0.7:9900",
        ] {
            assert_eq!(status(&[("host", ours)], TCP), 200, "{ours}");
        }
        for foreign in [
            "evil.example",
            "localhost.evil.example",
            "10.0.0.8:9900",
            "127.0.0.1.evil.example",
            "[::1",
            "",
        ] {
            assert_eq!(status(&[("host", foreign)], TCP), 403, "{foreign}");
            assert_eq!(status(&[("host", foreign)], Door::Unix), 200, "{foreign}");
        }
        assert_eq!(status(&[], TCP), 400);
        assert_eq!(status(&[("host", "localhost"), ("host", "x")], TCP), 400);
    }

    #[test]
    fn a_foreign_origin_is_refused_at_every_door() {
        let with = |origin| [("host", "localhost:9900"), ("origin", origin)];
        for door in [TCP, Door::Unix] {
            assert_eq!(status(&with("http://localhost:9900"), door), 200);
            for foreign in [
                "http://evil.example",
                "null",
                "http://localhost:3000",
                "localhost:9900",
            ] {
                assert_eq!(status(&with(foreign), door), 403, "{foreign}");
            }
        }
    }

    #[test]
    fn changes_over_tcp_need_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        fs::write(&file, "s3cret\n").unwrap();
        let ask = |authorization: &str, door, file: Option<&Path>| {
            let head = head(&[("authorization", authorization)]);
            authorise(&head.headers, door, file).map_err(|r| r.status.as_u16())
        };
        assert_eq!(ask("Bearer s3cret", TCP, Some(&file)), Ok(()));
        assert_eq!(ask("bearer s3cret", TCP, Some(&file)), Ok(()));
        assert_eq!(ask("Bearer s3cre", TCP, Some(&file)), Err(401));
        assert_eq!(ask("Bearer ", TCP, Some(&file)), Err(401));
        assert_eq!(ask("s3cret", TCP, Some(&file)), Err(401));
        assert_eq!(ask("Bearer s3cret", TCP, None), Err(403));
        assert_eq!(ask("", Door::Unix, None), Ok(()));
        fs::write(&file, "\n").unwrap();
        assert_eq!(ask("Bearer ", TCP, Some(&file)), Err(403));
    }
}
