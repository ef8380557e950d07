//! Edits of heads that the configuration asks for: header fields, path and host.
//!
//! What a request needs is looked up in tables that were merged when the configuration was compiled. Without edits nothing is
//! looked at beyond whether there are any; with edits the values are rendered for each head, because they may hold placeholders.

use std::io::Write;

use super::error::LocalReply;
use super::headers::{Fields, RenderedFields, Request, RequestEdits};
use super::observe::Recording;
use crate::config::actions::{PathRewrite, Rewrite};
use crate::config::template::{Placeholder, Template};
use crate::routing::rewrite;
use crate::snapshot::{CompiledFields, Snapshot};

/// The target of a request after `rewrite`.
#[derive(Debug)]
pub(crate) struct Rewritten<'a> {
    /// Path and query, and the length of the path. `None`: as in the request.
    pub target: Option<(Vec<u8>, usize)>,
    /// The authority that endpoints get. `None`: as in the request.
    authority: Option<&'a str>,
    /// The value of `x-forwarded-prefix`, if a prefix was taken off.
    prefix: Option<Vec<u8>>,
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
    let flags = recording.record.flags;
    if compiled.is_none() && rewritten.is_none() && flags.is_none() {
        return None;
    }
    let mut edits = RequestEdits {
        fields: compiled.map(|compiled| rendered(compiled, recording)),
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
    if let Some(flags) = flags {
        let fields = edits.fields.get_or_insert_default();
        fields.put_flags(flags.text());
    }
    Some(Box::new(edits))
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
    Some(rendered(compiled, recording))
}

fn rendered<'a>(compiled: &'a CompiledFields, recording: &Recording<'_>) -> RenderedFields<'a> {
    // Clients choose the names in their certificates. A value must not end its line.
    let is_allowed = |b: &u8| *b == b'\t' || (*b >= b' ' && *b != 0x7f);
    let value = |template: &Template| {
        let value = template.render(|placeholder, out| put_value(placeholder, recording, out));
        value.filter(|value| value.iter().all(is_allowed))
    };
    let put = compiled.put.iter();
    let values = put.filter_map(|(name, template)| Some((name, value(template)?)));
    RenderedFields::new(compiled, values.collect())
}

/// Appends the value of a placeholder; `None` if it has none.
fn put_value(placeholder: Placeholder, recording: &Recording<'_>, out: &mut Vec<u8>) -> Option<()> {
    let record = &recording.record;
    let certificate = || recording.peer().certificate.as_ref();
    let text: &[u8] = match placeholder {
        Placeholder::ClientIp => {
            // Writing to a vector never fails.
            let _ = write!(out, "{}", record.client);
            return Some(());
        }
        Placeholder::Host => record.host.as_bytes(),
        Placeholder::RequestId => record.id,
        Placeholder::Service => record.service.as_bytes(),
        Placeholder::Version => recording.version()?.0.as_bytes(),
        Placeholder::Endpoint => record.last_try()?.endpoint?.0.as_bytes(),
        Placeholder::TlsVersion => recording.peer().tls_version?.as_str().as_bytes(),
        Placeholder::TlsSubject => certificate()?.subject.as_bytes(),
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
    // What a proxy before this one took off precedes it.
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
