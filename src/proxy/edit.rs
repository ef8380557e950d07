//! Edits of heads that the configuration asks for: header fields, path and host.
//!
//! The edits of a request are looked up in tables that were merged when the configuration was compiled. A service without edits
//! costs one check. With edits, the values are rendered for each head, because they may hold placeholders.

use std::io::Write;
use std::net::IpAddr;

use super::error::LocalReply;
use super::headers::{Fields, RenderedFields, Request, RequestEdits};
use super::observe::Recording;
use super::peer::Peer;
use crate::config::actions::{PathRewrite, Rewrite};
use crate::config::template::{Placeholder, Template};
use crate::index::{RuleIx, VersionIx};
use crate::routing::rewrite;
use crate::snapshot::{CompiledFields, Service, Snapshot};
use crate::telemetry::record::{RequestFlags, RequestRecord};
use crate::telemetry::trace::request::SentContext;

/// The target of a request after `rewrite`.
#[derive(Debug)]
pub(crate) struct Rewritten<'a> {
    /// Path and query, and the length of the path. `None` if they are unchanged.
    pub target: Option<(Vec<u8>, usize)>,
    /// The authority that endpoints get. `None` if it is unchanged.
    authority: Option<&'a str>,
    /// The value of `x-forwarded-prefix`, if a prefix was taken off.
    prefix: Option<Vec<u8>>,
}

/// The properties of a request on which edits and their placeholders depend.
#[derive(Clone, Copy)]
pub(super) struct EditFacts<'a> {
    service: Option<&'a Service>,
    /// Index of the match rule.
    rule: Option<RuleIx>,
    version: Option<(&'a str, VersionIx)>,
    /// Name of the endpoint.
    pub endpoint: Option<&'a str>,
    client: IpAddr,
    host: &'a str,
    id: &'a [u8],
    flags: Option<RequestFlags<'a>>,
    trace: Option<SentContext>,
    peer: &'a Peer,
}

impl<'a> EditFacts<'a> {
    pub(super) fn of(recording: &Recording<'a>) -> Self {
        let record = &recording.record;
        let endpoint = record.last_try().and_then(|attempt| attempt.endpoint);
        Self {
            service: recording.service(),
            rule: record.rule,
            version: recording.version(),
            endpoint: endpoint.map(|(name, _)| name),
            client: record.client,
            host: record.host,
            id: record.id,
            flags: record.flags,
            trace: record.trace.as_ref().map(|trace| trace.sent()),
            peer: recording.peer(),
        }
    }

    /// The facts for a second try beside the first one.
    pub(super) fn of_second(recording: &Recording<'a>) -> Self {
        let trace = recording.record.trace.as_ref();
        Self {
            trace: trace.map(|trace| trace.sent_by_second()),
            ..Self::of(recording)
        }
    }
}

/// The edits of a request that a try sends. `None` if there are none, as for nearly every request.
#[inline]
pub(super) fn of_request<'a>(
    rewritten: Option<&'a Rewritten<'a>>,
    recording: &Recording<'a>,
) -> Option<Box<RequestEdits<'a>>> {
    let service = recording.service()?;
    let version = recording.version().map(|(_, index)| index);
    let merged = service.actions.edits.of(recording.record.rule, version);
    let compiled = merged.and_then(|merged| merged.request.as_ref());
    let RequestRecord { flags, trace, .. } = &recording.record;
    if compiled.is_none() && rewritten.is_none() && flags.is_none() && trace.is_none() {
        return None;
    }
    Some(request_edits(
        compiled,
        rewritten,
        &EditFacts::of(recording),
    ))
}

/// Like [`of_request`], for a try that runs while another one uses the recording.
pub(super) fn of_facts<'a>(
    rewritten: Option<&'a Rewritten<'a>>,
    facts: &EditFacts<'a>,
) -> Option<Box<RequestEdits<'a>>> {
    let version = facts.version.map(|(_, index)| index);
    let merged = facts.service?.actions.edits.of(facts.rule, version);
    let compiled = merged.and_then(|merged| merged.request.as_ref());
    let edits = || request_edits(compiled, rewritten, facts);
    let is_edited =
        compiled.is_some() || rewritten.is_some() || facts.flags.is_some() || facts.trace.is_some();
    is_edited.then(edits)
}

#[cold]
fn request_edits<'a>(
    compiled: Option<&'a CompiledFields>,
    rewritten: Option<&'a Rewritten<'a>>,
    facts: &EditFacts<'a>,
) -> Box<RequestEdits<'a>> {
    let mut edits = RequestEdits {
        fields: compiled.map(|compiled| rendered(compiled, facts)),
        ..RequestEdits::default()
    };
    if let Some(rewritten) = rewritten {
        let target = rewritten.target.as_ref();
        edits.target = target.map(|(target, _)| &target[..]);
        edits.authority = rewritten.authority.map(str::as_bytes);
        if let Some(prefix) = &rewritten.prefix {
            let fields = edits.fields.get_or_insert_default();
            fields.put_prefix(prefix.clone());
        }
    }
    if let Some(flags) = facts.flags {
        let fields = edits.fields.get_or_insert_default();
        fields.put_flags(flags.text());
    }
    if let Some(sent) = &facts.trace {
        let fields = edits.fields.get_or_insert_default();
        fields.put_trace(sent);
    }
    Box::new(edits)
}

/// The edits of the response to a request, also of a local reply. `None` if there are none.
#[inline]
pub(super) fn of_response<'a>(
    snapshot: &'a Snapshot,
    recording: &Recording<'a>,
) -> Option<RenderedFields<'a>> {
    let merged = match recording.service() {
        Some(service) => {
            let version = recording.version().map(|(_, index)| index);
            service.actions.edits.of(recording.record.rule, version)?
        }
        None => &snapshot.default_edits,
    };
    let compiled = merged.response.as_ref()?;
    Some(rendered(compiled, &EditFacts::of(recording)))
}

fn rendered<'a>(compiled: &'a CompiledFields, facts: &EditFacts<'_>) -> RenderedFields<'a> {
    // Clients choose the names in their certificates. A value must not end its line.
    let is_allowed = |b: &u8| *b == b'\t' || (*b >= b' ' && *b != 0x7f);
    let value = |template: &Template| {
        let value = template.render(|placeholder, out| put_value(placeholder, facts, out));
        value.filter(|value| value.iter().all(is_allowed))
    };
    let put = compiled.put.iter();
    let values = put.filter_map(|(name, template)| Some((name, value(template)?)));
    RenderedFields::new(compiled, values.collect())
}

/// Appends the value of a placeholder; `None` if it has none.
fn put_value(placeholder: Placeholder, facts: &EditFacts<'_>, out: &mut Vec<u8>) -> Option<()> {
    let certificate = || facts.peer.certificate.as_ref();
    let text: &[u8] = match placeholder {
        Placeholder::ClientIp => {
            // Writing to a vector never fails.
            let _ = write!(out, "{}", facts.client);
            return Some(());
        }
        Placeholder::Host => facts.host.as_bytes(),
        Placeholder::RequestId => facts.id,
        Placeholder::Service => facts.service.map_or("", |service| &service.name).as_bytes(),
        Placeholder::Version => facts.version?.0.as_bytes(),
        Placeholder::Endpoint => facts.endpoint?.as_bytes(),
        Placeholder::TlsVersion => facts.peer.tls_version?.as_str().as_bytes(),
        Placeholder::TlsSubject => certificate()?.subject.as_bytes(),
        Placeholder::TlsSan => {
            let names = certificate()?.san.join(",");
            out.extend_from_slice(names.as_bytes());
            return (!names.is_empty()).then_some(());
        }
        Placeholder::TlsFingerprint => certificate()?.fingerprint.as_bytes(),
        // The configuration allows these in redirects only.
        Placeholder::Scheme | Placeholder::Path | Placeholder::Query => return None,
    };
    out.extend_from_slice(text);
    (!text.is_empty()).then_some(())
}

/// Rewrites the target of a request.
///
/// # Errors
/// The reply to a request whose new path would be ambiguous.
#[cold]
pub(super) fn rewritten<'a, F: Fields>(
    rewrite: &'a Rewrite,
    request: &Request<'_, F>,
) -> Result<Box<Rewritten<'a>>, LocalReply> {
    let (path, query) = request.target.split_at(request.path_len);
    let new = match &rewrite.path {
        // `OPTIONS *` is about the server as a whole.
        Some(change) if path != b"*" => rewrite::rewritten(change, request.typed_path, path)
            .map_err(|_| LocalReply::AMBIGUOUS_PATH)?,
        _ => None,
    };
    let strip = match &rewrite.path {
        Some(PathRewrite::Prefix { strip, .. }) if !strip.is_empty() => Some(strip.as_bytes()),
        _ => None,
    };
    let was_stripped = |strip: &&[u8]| rewrite::without_prefix(path, strip).is_some();
    // A prefix that an earlier proxy has taken off precedes this one.
    let before = |strip: &[u8]| {
        let mut prefix = Vec::new();
        if request.peer.trusted {
            request.fields.any("x-forwarded-prefix", &mut |value| {
                prefix.extend_from_slice(value);
                true
            });
        }
        prefix.extend_from_slice(strip);
        prefix
    };
    Ok(Box::new(Rewritten {
        target: new.map(|mut target| {
            let len = target.len();
            target.extend_from_slice(query);
            (target, len)
        }),
        authority: rewrite.host.as_deref(),
        prefix: strip.filter(was_stripped).map(before),
    }))
}
