//! Validates an HTTP/2 request head and converts it to the [`Request`] that the data path uses.
//!
//! The h2 crate has checked what RFC 9113 calls malformed. The rest is rejected here, with the same reasons as over HTTP/1.

use std::borrow::Cow;

use http::request::Parts;
use http::{HeaderMap, HeaderValue};

use crate::config::spec::ProxyLimits;
use crate::edge::request::{RequestTarget, client_of};
use crate::http1::fields::has_underscore;
use crate::http1::{FieldId, Framing, Method, Reject, authority, number, target};
use crate::proxy::RejectedHead;
use crate::proxy::headers::{Fields, H2Fields, KnownFields, Request};
use crate::proxy::via::Via;
use crate::reason::Reason;

use super::state::ConnectionState;

/// Longest method that is accepted, in bytes.
const MAX_METHOD: usize = 32;

/// What a single pass over all fields finds.
#[derive(Debug, Default)]
pub(super) struct HeadScan<'a> {
    present: KnownFields,
    /// Size as in RFC 9113 §6.5.2: name, value and 32 bytes of overhead for each field.
    size: usize,
    host: Option<&'a HeaderValue>,
    hosts: usize,
    expect: Option<&'a HeaderValue>,
    has_underscore: bool,
    /// Value of `content-length`.
    pub length: Option<u64>,
    /// `content-length` is repeated or not a number. The h2 crate accepts repetitions, and takes an empty value for 0.
    bad_length: bool,
    /// The path had a fragment, which the h2 crate has removed.
    pub fragment: bool,
}

impl<'a> HeadScan<'a> {
    pub(super) fn of(fields: &'a HeaderMap) -> Self {
        let mut scan = Self::default();
        for (name, value) in fields {
            let name = name.as_str().as_bytes();
            let id = FieldId::of(name);
            scan.present.add(id);
            scan.size += measure(name.len(), value.len());
            match id {
                FieldId::Other => scan.has_underscore |= has_underscore(name),
                FieldId::Host => {
                    scan.host = Some(value);
                    scan.hosts += 1;
                }
                FieldId::ContentLength => {
                    let length = number::decimal(value.as_bytes());
                    scan.bad_length |= length.is_none() || scan.length.is_some();
                    scan.length = length;
                }
                FieldId::Expect => scan.expect = scan.expect.or(Some(value)),
                _ => {}
            }
        }
        scan
    }
}

fn measure(name: usize, value: usize) -> usize {
    name + value + 32
}

/// A validated head.
pub(super) struct RequestHead<'a> {
    parts: &'a Parts,
    present: KnownFields,
    /// The method, as far as the proxy distinguishes methods.
    pub method: Method,
    authority: &'a [u8],
    host: Cow<'a, str>,
    target: RequestTarget<'a>,
    framing: Framing,
    expect_continue: bool,
}

impl<'a> RequestHead<'a> {
    /// Validates a head. `ended` says that no body follows. `known` returns the length of the host in an authority that the
    /// connection has accepted before, so that it is not checked again.
    ///
    /// # Errors
    /// The first reason to reject the head.
    pub(super) fn new(
        parts: &'a Parts,
        scan: &HeadScan<'a>,
        ended: bool,
        (limits, merge_slashes): (&ProxyLimits, bool),
        known: impl Fn(&[u8]) -> Option<usize>,
    ) -> Result<Self, Reject> {
        let method = Method::from_bytes(parts.method.as_str().as_bytes());
        check_method(method, parts.method.as_str())?;
        check_size(parts, scan, limits)?;
        check_fields(&parts.headers, scan, limits)?;
        let authority = authority_of(parts, scan)?;
        let host = match known(authority) {
            Some(len) => std::str::from_utf8(&authority[..len])
                .unwrap_or_default()
                .into(),
            None => {
                authority::check(authority)?;
                authority::host(authority)
            }
        };
        if scan.fragment {
            return Err(Reject::bad(Reason::FragmentInTarget));
        }
        let typed = typed_target(parts, method, limits)?;
        let target = RequestTarget::new(typed, merge_slashes)?;
        let framing = match scan.length {
            Some(n) => Framing::Length(n),
            None if ended => Framing::Empty,
            None => Framing::UntilClose,
        };
        let expects = expectation(scan)?;
        Ok(Self {
            parts,
            present: scan.present,
            method,
            authority,
            host,
            target,
            framing,
            expect_continue: expects && framing.has_body(),
        })
    }

    /// The authority as sent, and the length of the host in it unless the host had to be normalised.
    pub(super) fn authority(&self) -> (&'a [u8], Option<usize>) {
        let plain = matches!(self.host, Cow::Borrowed(_));
        (self.authority, plain.then_some(self.host.len()))
    }

    /// The host in lower case, without port.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn request<'s>(&'s self, shared: &'s ConnectionState) -> Request<'s, H2Fields<'s>> {
        let fields = H2Fields {
            map: &self.parts.headers,
            present: self.present,
        };
        Request {
            method: self.method,
            method_text: self.parts.method.as_str().as_bytes(),
            authority: self.authority,
            host: &self.host,
            target: &self.target.path_and_query,
            path_len: self.target.path_len,
            typed_path: &self.target.typed_path,
            framing: self.framing,
            expect_continue: self.expect_continue,
            upgrade: None,
            // The h2 crate has reset streams with any other value (RFC 9113 §8.2.2).
            te_trailers: self.present.has(FieldId::Te),
            via: shared.listener.via.as_ref().map(Via::http2),
            peer: &shared.peer,
            client: client_of(&shared.peer, &shared.listener.trusted, &fields),
            id: shared.worker.request_id(fields.first(FieldId::XRequestId)),
            fields,
        }
    }
}

/// What is known of a head that [`RequestHead::new`] rejects.
pub(super) fn rejected(parts: &Parts) -> RejectedHead<'_> {
    let method_text = parts.method.as_str().as_bytes();
    let authority = parts.uri.authority().map_or("", |a| a.as_str());
    let path = parts.uri.path_and_query().map_or("", |p| p.path());
    RejectedHead {
        method: Method::from_bytes(method_text),
        method_text,
        host: authority::host(authority.as_bytes()),
        path: path.as_bytes(),
    }
}

impl std::fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RequestHead({} {})", self.parts.method, self.parts.uri)
    }
}

fn check_method(method: Method, text: &str) -> Result<(), Reject> {
    if method == Method::Connect {
        return Err(Reject {
            status: 405,
            reason: Reason::Connect,
        });
    }
    if text.len() > MAX_METHOD {
        return Err(Reject {
            status: 501,
            reason: Reason::MethodTooLong,
        });
    }
    Ok(())
}

fn check_size(parts: &Parts, scan: &HeadScan<'_>, limits: &ProxyLimits) -> Result<(), Reject> {
    let uri = &parts.uri;
    let path = uri.path_and_query().map_or(0, |p| p.as_str().len());
    let pseudo = measure(":method".len(), parts.method.as_str().len())
        + measure(":path".len(), path)
        + uri
            .scheme_str()
            .map_or(0, |s| measure(":scheme".len(), s.len()))
        + uri
            .authority()
            .map_or(0, |a| measure(":authority".len(), a.as_str().len()));
    if pseudo + scan.size > limits.header_bytes {
        return Err(Reject {
            status: 431,
            reason: Reason::HeadTooLarge,
        });
    }
    Ok(())
}

fn check_fields(
    fields: &HeaderMap,
    scan: &HeadScan<'_>,
    limits: &ProxyLimits,
) -> Result<(), Reject> {
    if fields.len() > limits.headers {
        return Err(Reject {
            status: 431,
            reason: Reason::TooManyFields,
        });
    }
    if scan.bad_length {
        return Err(Reject::bad(Reason::BadContentLength));
    }
    if !limits.underscores && scan.has_underscore {
        return Err(Reject::bad(Reason::UnderscoreInName));
    }
    Ok(())
}

/// Returns `:authority`, or else `Host`. If both are present they have to agree (RFC 9113 §8.3.1).
fn authority_of<'a>(parts: &'a Parts, scan: &HeadScan<'a>) -> Result<&'a [u8], Reject> {
    if scan.hosts > 1 {
        return Err(Reject::bad(Reason::DuplicateHost));
    }
    let named = parts.uri.authority().map(|a| a.as_str().as_bytes());
    match (named, scan.host.map(HeaderValue::as_bytes)) {
        (Some(named), Some(host)) if !named.eq_ignore_ascii_case(host) => {
            Err(Reject::bad(Reason::AuthorityUnlikeHost))
        }
        (Some(one), _) | (None, Some(one)) => Ok(one),
        (None, None) => Err(Reject::bad(Reason::MissingHost)),
    }
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
        return Err(Reject::bad(Reason::BadScheme));
    }
    let typed = parts.uri.path_and_query().map_or("", |p| p.as_str());
    if typed.len() > limits.target_bytes {
        return Err(Reject {
            status: 414,
            reason: Reason::TargetTooLong,
        });
    }
    if typed.starts_with('/') {
        target::check_characters(typed.as_bytes())?;
        Ok(typed.as_bytes())
    } else if typed == "*" && method == Method::Options {
        Ok(typed.as_bytes())
    } else {
        Err(Reject::bad(Reason::BadTarget))
    }
}

/// Whether the client waits for 100 Continue. Any other expectation is answered by 417 (RFC 9110 §10.1.1).
fn expectation(scan: &HeadScan<'_>) -> Result<bool, Reject> {
    match scan.expect {
        None => Ok(false),
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(true),
        Some(_) => Err(Reject {
            status: 417,
            reason: Reason::Expect,
        }),
    }
}
