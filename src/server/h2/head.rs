//! An HTTP/2 head as the request that routing and attempts see. What the h2 crate lets through and we don't is refused here.

use std::borrow::Cow;

use http::HeaderMap;
use http::request::Parts;

use crate::config::spec::ProxyLimits;
use crate::http1::{FieldId, Framing, Method, Reject, authority, number};
use crate::proxy::headers::{Fields, H2Fields, Request};
use crate::server::request::{client_of, host_of, target_of};

use super::Shared;

/// Longest method that is taken.
const MAX_METHOD: usize = 32;

/// A head, taken apart.
pub(super) struct Head<'a> {
    parts: &'a Parts,
    /// The method's class.
    pub method: Method,
    authority: &'a [u8],
    host: Cow<'a, str>,
    target: Cow<'a, [u8]>,
    path_len: usize,
    framing: Framing,
    expect_continue: bool,
}

/// What `content-length` says. The h2 crate has checked that it is a number and that all of them are the same one.
pub(super) fn length_of(fields: &HeaderMap) -> Option<u64> {
    number::decimal(fields.get(http::header::CONTENT_LENGTH)?.as_bytes())
}

impl<'a> Head<'a> {
    /// `ended`: no body follows.
    ///
    /// # Errors
    /// What can't be served.
    pub fn new(parts: &'a Parts, ended: bool, limits: &ProxyLimits) -> Result<Self, Reject> {
        let method = Method::from_bytes(parts.method.as_str().as_bytes());
        check_method(method, parts.method.as_str())?;
        check_size(parts, limits)?;
        check_fields(&parts.headers, limits)?;
        let authority = authority_of(parts)?;
        let typed = typed_target(parts, method, limits)?;
        let (target, path_len) = target_of(typed)?;
        let framing = match length_of(&parts.headers) {
            Some(n) => Framing::Length(n),
            None if ended => Framing::Empty,
            None => Framing::UntilClose,
        };
        let expects = expectation(&parts.headers)?;
        Ok(Self {
            parts,
            method,
            authority,
            host: host_of(authority),
            target,
            path_len,
            framing,
            expect_continue: expects && framing.has_body(),
        })
    }

    /// Lower case, without port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The request.
    pub fn request<'s>(&'s self, shared: &'s Shared) -> Request<'s, H2Fields<'s>> {
        let fields = H2Fields(&self.parts.headers);
        Request {
            method: self.method,
            method_text: self.parts.method.as_str().as_bytes(),
            authority: self.authority,
            host: &self.host,
            target: &self.target,
            path_len: self.path_len,
            framing: self.framing,
            expect_continue: self.expect_continue,
            upgrade: None,
            // Anything else in it was a stream error.
            te_trailers: self.parts.headers.contains_key(http::header::TE),
            peer: &shared.peer,
            client: client_of(&shared.peer, &shared.listening.trusted, &fields),
            id: shared.worker.request_id(fields.first(FieldId::XRequestId)),
            fields,
        }
    }
}

impl std::fmt::Debug for Head<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Head({} {})", self.parts.method, self.parts.uri)
    }
}

fn check_method(method: Method, text: &str) -> Result<(), Reject> {
    if method == Method::Connect {
        return Err(Reject {
            status: 405,
            reason: "connect",
        });
    }
    if text.len() > MAX_METHOD {
        return Err(Reject {
            status: 501,
            reason: "method-too-long",
        });
    }
    Ok(())
}

/// By the measure of RFC 9113 §6.5.2: 32 bytes for each field besides name and value.
fn check_size(parts: &Parts, limits: &ProxyLimits) -> Result<(), Reject> {
    let field = |name: usize, value: usize| name + value + 32;
    let uri = &parts.uri;
    let pseudo = field(":method".len(), parts.method.as_str().len())
        + field(
            ":path".len(),
            uri.path_and_query().map_or(0, |p| p.as_str().len()),
        )
        + uri
            .scheme_str()
            .map_or(0, |s| field(":scheme".len(), s.len()))
        + uri
            .authority()
            .map_or(0, |a| field(":authority".len(), a.as_str().len()));
    let fields = parts.headers.iter();
    let fields: usize = fields
        .map(|(name, value)| field(name.as_str().len(), value.len()))
        .sum();
    if pseudo + fields > limits.header_bytes {
        return Err(Reject {
            status: 431,
            reason: "head-too-large",
        });
    }
    Ok(())
}

fn check_fields(fields: &HeaderMap, limits: &ProxyLimits) -> Result<(), Reject> {
    if fields.len() > limits.headers {
        return Err(Reject {
            status: 431,
            reason: "too-many-fields",
        });
    }
    if !limits.underscores && fields.keys().any(|name| name.as_str().contains('_')) {
        return Err(Reject::bad("underscore-in-name"));
    }
    Ok(())
}

/// `:authority`, else the one `Host`; where both are there, they have to agree.
fn authority_of(parts: &Parts) -> Result<&[u8], Reject> {
    let mut hosts = parts.headers.get_all(http::header::HOST).iter();
    let host = hosts.next().map(|h| h.as_bytes());
    if hosts.next().is_some() {
        return Err(Reject::bad("duplicate-host"));
    }
    let named = parts.uri.authority().map(|a| a.as_str().as_bytes());
    let authority = match (named, host) {
        (Some(named), Some(host)) if !named.eq_ignore_ascii_case(host) => {
            return Err(Reject::bad("authority-unlike-host"));
        }
        (Some(one), _) | (None, Some(one)) => one,
        (None, None) => return Err(Reject::bad("missing-host")),
    };
    authority::check(authority)?;
    Ok(authority)
}

fn typed_target<'a>(
    parts: &'a Parts,
    method: Method,
    limits: &ProxyLimits,
) -> Result<&'a [u8], Reject> {
    if parts
        .uri
        .scheme_str()
        .is_some_and(|s| s != "http" && s != "https")
    {
        return Err(Reject::bad("bad-scheme"));
    }
    let typed = parts.uri.path_and_query().map_or("", |p| p.as_str());
    if typed.len() > limits.target_bytes {
        return Err(Reject {
            status: 414,
            reason: "target-too-long",
        });
    }
    if typed.starts_with('/') || (typed == "*" && method == Method::Options) {
        Ok(typed.as_bytes())
    } else {
        Err(Reject::bad("bad-target"))
    }
}

/// Whether the client waits for 100; any other expectation can't be met.
fn expectation(fields: &HeaderMap) -> Result<bool, Reject> {
    match fields.get(http::header::EXPECT) {
        None => Ok(false),
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(true),
        Some(_) => Err(Reject {
            status: 417,
            reason: "expect",
        }),
    }
}
