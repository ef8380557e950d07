//! `client_limits` of a listener, a service or a match rule.

use std::time::Duration;

use super::{is_token, not_a_token, unknown_word};
use crate::config::client_limit::{ClientKey, ClientLimits, RequestRate};
use crate::config::problems::Problems;
use crate::config::raw::{RawTable, RawValue};

/// The longest time after which a burst is available again. A longer one is taken for a typing error.
const LONGEST_REFILL: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The maximum of a burst and of the connections of one client.
const MOST: u32 = 1_000_000;

/// The kind of table that the limits are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitScope {
    /// A listener, which counts connections too.
    Listener,
    /// A service or a rule, which see requests only.
    Requests,
}

/// Reads `client_limits`.
pub(super) fn client_limits(
    value: &RawValue<'_>,
    scope: LimitScope,
    out: &mut Problems,
) -> Option<ClientLimits> {
    let Some(mut table) = value.as_table() else {
        let problem = value.mistyped("a table such as { requests = \"100/s\" }", out);
        if let Some(rate) = value.as_text() {
            problem.help(format!("write `{{ requests = \"{}\" }}`", rate.value));
        }
        return None;
    };
    let by = table.take("by");
    let key = by.as_ref().map_or(Some(ClientKey::Ip), |v| key(v, out));
    let rate = table.take("requests");
    let is_limited = rate.is_some() || table.has("connections");
    let requests = rate.and_then(|value| value.rate(out));
    let requests = burst(&mut table, requests, out);
    let connections = connections(&mut table, scope, by.as_ref(), key.as_ref(), out);
    if !is_limited {
        out.error(
            value.span.clone(),
            format!("`{}` limits nothing", table.path),
        )
        .label("expected `requests`")
        .help("write `requests = \"100/s\"`")
        .absence();
    }
    table.finish(out);
    Some(ClientLimits {
        by: key?,
        requests,
        connections,
    })
}

/// Reads the property that tells clients apart.
fn key(value: &RawValue<'_>, out: &mut Problems) -> Option<ClientKey> {
    let text = value.text("\"ip\" or \"header:NAME\"", out)?;
    if text.value == "ip" {
        return Some(ClientKey::Ip);
    }
    match text.value.split_once(':') {
        Some(("header", name)) if is_token(name) => {
            Some(ClientKey::Header(name.to_ascii_lowercase()))
        }
        Some(("header", name)) => {
            not_a_token("header", name, &text, out);
            None
        }
        _ => {
            unknown_word(&text, &value.path, &["ip", "header:NAME"], out);
            None
        }
    }
}

/// Reads `burst` over the default of the rate.
fn burst(
    table: &mut RawTable<'_>,
    requests: Option<RequestRate>,
    out: &mut Problems,
) -> Option<RequestRate> {
    let Some(value) = table.take("burst") else {
        return requests;
    };
    if !table.has("requests") {
        out.error(value.key.clone(), format!("`{}` has no effect", value.path))
            .label("there is no `requests`")
            .help("write the rate as well: `requests = \"100/s\"`");
    }
    // The range ends at a `u32`, so that the cast loses nothing.
    let burst = value.count(1..=u64::from(MOST), out)? as u32;
    let rate = RequestRate { burst, ..requests? };
    if rate.time_to_refill() > LONGEST_REFILL {
        let message = format!("`{}` is too large for {rate}", value.path);
        out.error(value.span, message)
            .label("a client that has used it up would wait for more than 30 days");
        return None;
    }
    Some(rate)
}

/// Reads `connections`, which are counted by address where they are accepted.
fn connections(
    table: &mut RawTable<'_>,
    scope: LimitScope,
    by: Option<&RawValue<'_>>,
    key: Option<&ClientKey>,
    out: &mut Problems,
) -> Option<u32> {
    let value = table.take("connections")?;
    if scope == LimitScope::Requests {
        let message = format!("`{}` belongs to a listener", value.path);
        out.error(value.key.clone(), message)
            .label("a connection isn't bound to a service")
            .help("write it under `[listen.NAME.client_limits]`");
    }
    if let (Some(by), Some(ClientKey::Header(_))) = (by, key) {
        let message = format!("`{}` counts by address", value.path);
        out.error(value.key.clone(), message)
            .label("a connection has no header")
            .also(by.span.clone(), "this is for requests alone")
            .help("leave out `by`, or `connections`");
    }
    value.count(1..=u64::from(MOST), out).map(|n| n as u32)
}
