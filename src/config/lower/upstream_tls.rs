//! `tls` of a version: how its endpoints are verified, and the certificate that the proxy presents to them.

use rustls_pki_types::ServerName;

use super::proxy;
use crate::config::problems::Problems;
use crate::config::raw::{RawTable, RawValue};
use crate::config::spec::UpstreamTls;
use crate::config::units::quote;

/// Reads `tls`.
pub(super) fn upstream_tls(value: &RawValue<'_>, out: &mut Problems) -> Option<UpstreamTls> {
    const EXAMPLE: &str = "a table such as { ca = \"/etc/cutover/tls/internal-ca.pem\" }";
    let mut table = value.table(EXAMPLE, out)?;
    if table.named().next().is_none() {
        out.error(value.span.clone(), format!("`{}` is empty", value.path))
            .label("expected `ca`, `cert` and `key`, or `server_name`");
    }
    let mut path = |key| table.take(key).and_then(|v| proxy::file_path(&v, out));
    let (ca, cert, key) = (path("ca"), path("cert"), path("key"));
    alone(&table, ("cert", "key"), out);
    alone(&table, ("key", "cert"), out);
    let server_name = { table.take("server_name") }.and_then(|v| server_name(&v, out));
    table.finish(out);
    Some(UpstreamTls {
        ca,
        cert,
        key,
        server_name,
    })
}

/// Reports `cert` without `key`, or `key` without `cert`.
fn alone(table: &RawTable<'_>, (given, missing): (&str, &str), out: &mut Problems) {
    if !table.has(given) || table.has(missing) {
        return;
    }
    let written = { table.named() }.find(|(name, _)| *name == given);
    if let Some((_, value)) = written {
        out.error(value.key, format!("`{}` needs `{missing}`", value.path))
            .label("a certificate and its key belong together")
            .help(format!(
                "write `{missing} = \"/path/to/{missing}.pem\"` beside it"
            ))
            .absence();
    }
}

/// Reads the name that endpoints are verified by: a DNS name or an address.
fn server_name(value: &RawValue<'_>, out: &mut Problems) -> Option<ServerName<'static>> {
    const EXPECTED: &str = "a host name such as \"shop.internal\"";
    let text = value.text(EXPECTED, out)?;
    match ServerName::try_from(text.value.to_ascii_lowercase()) {
        Ok(name) => Some(name),
        Err(_) => {
            let message = format!("{} is not a server name", quote(text.value));
            out.error(text.span, message)
                .label(format!("expected {EXPECTED}, without scheme, port or `*`"));
            None
        }
    }
}
