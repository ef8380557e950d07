//! URLs of receivers.

use crate::config::problems::Problems;
use crate::config::raw::{RawString, RawValue};

/// Reads an `http` or `https` URL with a host. `example` is one.
pub(super) fn url<'t>(
    value: &RawValue<'t>,
    example: &str,
    out: &mut Problems,
) -> Option<RawString<'t>> {
    let text = value.text(&format!("a URL such as \"{example}\""), out)?;
    let scheme = ["http://", "https://"]
        .iter()
        .any(|scheme| text.value.starts_with(scheme));
    let parsed = text.value.parse::<http::Uri>().ok();
    let has_host = parsed.and_then(|uri| uri.host().map(|host| !host.is_empty())) == Some(true);
    if scheme && has_host {
        return Some(text);
    }
    let why = match scheme {
        true => "it has no host, or characters that a URL can't have",
        false => "it begins with `http://` or `https://`",
    };
    out.error(text.span, format!("`{}` is not a URL", value.path))
        .label(why);
    None
}
