//! `listen`: one address, or a table of named listeners with their protocols and certificates.

use std::collections::HashMap;

use ipnet::IpNet;
use toml::de::DeValue;

use super::client_limits::{LimitScope, client_limits};
use super::{acme, bind, check_name, is_token, proxy, route, unknown_word};
use crate::config::problems::{Problems, TextSpan};
use crate::config::raw::{RawString, RawTable, RawValue};
use crate::config::spec::{
    Bind, Cert, ClientAuth, HostPattern, ListenerSpec, ServiceSpec, SocketAccess, TlsMinimum,
};
use crate::config::suggest::suggest;
use crate::config::units::quote;

/// The services that a listener names; `None` stands for all of them.
pub(super) type NamedServices<'t> = Option<Vec<RawString<'t>>>;

/// Listeners, their addresses with spans, and the services that each of them names.
type ReadListeners<'t> = (
    Vec<ListenerSpec>,
    Vec<(Bind, TextSpan)>,
    Vec<NamedServices<'t>>,
);

/// Reads all listeners. The caller compares their addresses with those of the admin API.
pub(super) fn listeners<'t>(file: &mut RawTable<'t>, out: &mut Problems) -> ReadListeners<'t> {
    let mut listeners = Vec::new();
    let mut named = Vec::new();
    let mut binds: Vec<(Bind, TextSpan)> = Vec::new();
    let Some(value) = file.take("listen") else {
        out.error(0..0, "the file defines no listener")
            .label("expected `listen`")
            .help("write `listen = \":8080\"` at the top of the file")
            .missing("", "listen");
        return (listeners, binds, named);
    };
    if let Some(text) = value.as_text() {
        if let Some(bind) = bind::bind(&text, out) {
            listeners.push(ListenerSpec::new("default", bind.clone()));
            named.push(None);
            binds.push((bind, text.span));
        }
        return (listeners, binds, named);
    }
    if value.as_table().is_none() {
        bind::not_text(&value, out);
        return (listeners, binds, named);
    }
    let Some(table) = value.table(bind::EXPECTED, out) else {
        return (listeners, binds, named);
    };
    let mut any = false;
    for (name, value) in table.named() {
        any = true;
        check_name(name, &value, "listener", out);
        if let Some((listener, at, services)) = listener(name, &value, out) {
            bind::check_overlap(&listener.bind, &at, &binds, out);
            binds.push((listener.bind.clone(), at));
            listeners.push(listener);
            named.push(services);
        }
    }
    if !any {
        value.empty(out);
    }
    (listeners, binds, named)
}

/// Reports services that listeners name and that don't exist.
pub(super) fn check_services(
    named: &[NamedServices<'_>],
    services: &[ServiceSpec],
    out: &mut Problems,
) {
    let names: Vec<&str> = services.iter().map(|s| s.name.as_str()).collect();
    let unknown = named.iter().flatten().flatten();
    for text in unknown.filter(|text| !names.contains(&text.value)) {
        if names.is_empty() {
            return; // That there are no services is reported already.
        }
        let message = format!("there is no service {}", quote(text.value));
        out.error(text.span.clone(), message)
            .label("not a service of this file")
            .help(suggest(text.value, &names, "the services are"))
            .absence();
    }
}

/// Reads `[listen.NAME]`. Also returns the span of its address, and the services that it names.
fn listener<'t>(
    name: &str,
    value: &RawValue<'t>,
    out: &mut Problems,
) -> Option<(ListenerSpec, TextSpan, NamedServices<'t>)> {
    let Some(mut table) = value.as_table() else {
        value.mistyped("a table: the settings of one listener", out);
        return None;
    };
    let at = table.need("bind", out, "write `bind = \"0.0.0.0:80\"`");
    let mut listener = ListenerSpec::new(name, Bind::Any(0));
    if let Some(value) = table.take("protocols") {
        protocols(&value, &mut listener, out);
    }
    let redirect = table.take("redirect");
    if let Some(value) = &redirect
        && let Some(text) = value.text("\"https\"", out)
    {
        listener.redirect_https = text.value == "https";
        if !listener.redirect_https {
            unknown_word(&text, &value.path, &["https"], out);
        }
    }
    if let Some(value) = table.take("trusted_proxies") {
        listener.trusted_proxies = networks(&value, out);
    }
    let services =
        { table.take("services") }.map(|value| value.texts("the name of a service", out));
    let name_of = |text: &RawString<'_>| text.value.to_owned();
    listener.services = { services.as_ref() }.map(|named| named.iter().map(name_of).collect());
    proxy_protocol(&mut table, &mut listener, out);
    if let Some(value) = table.take("merge_slashes") {
        listener.merge_slashes = value.flag(out).unwrap_or_default();
    }
    if let Some(value) = table.take("via") {
        listener.via = via(&value, out);
    }
    listener.access = socket_access(&mut table, at.as_ref(), out);
    let limits = table.take("client_limits");
    if let Some(value) = &limits {
        listener.client_limits = client_limits(value, LimitScope::Listener, out);
        check_limits(value, &listener, at.as_ref(), out);
    }
    let cert = table.take("cert");
    if let Some(value) = &cert {
        listener.certs = certs(value, out);
    }
    let obtained = table.take("acme");
    if let Some(value) = &obtained {
        listener.acme = acme::names(value, &listener.certs, out);
    }
    if let Some(value) = table.take("tls") {
        listener.tls_min = tls_minimum(&value, out).unwrap_or_default();
        if cert.is_none() && obtained.is_none() {
            out.error(
                value.key,
                format!("`{}` has no effect without `cert`", value.path),
            )
            .label("this listener speaks clear text")
            .help("add `[[listen.NAME.cert]]`, or leave this out");
        }
    }
    if let Some(value) = cert.or(obtained)
        && let Some(redirect) = redirect.filter(|_| listener.redirect_https)
    {
        out.error(
            redirect.span,
            format!("`{}` has certificates and a redirect to https", table.path),
        )
        .label("a listener with TLS has nothing to redirect to")
        .also(value.key, "the certificates")
        .help("put the redirect on the clear-text listener, usually port 80");
    }
    table.finish(out);
    // The address last, so that problems of the other keys are reported even without one.
    let at = at?;
    let Some(text) = at.as_text() else {
        bind::not_text(&at, out);
        return None;
    };
    listener.bind = bind::bind(&text, out)?;
    Some((listener, text.span, services))
}

/// Reads `proxy_protocol` and `proxy_sources`.
fn proxy_protocol(table: &mut RawTable<'_>, listener: &mut ListenerSpec, out: &mut Problems) {
    let required = match table.take("proxy_protocol") {
        Some(value) => value.flag(out),
        None => Some(false),
    };
    listener.proxy_protocol = required.unwrap_or_default();
    let Some(value) = table.take("proxy_sources") else {
        return;
    };
    listener.proxy_sources = networks(&value, out);
    if required == Some(false) {
        let message = format!("`{}` has no effect without `proxy_protocol`", value.path);
        out.error(value.key, message)
            .label("these peers are expected to send PROXY protocol headers")
            .help("add `proxy_protocol = true`, or leave this out; peers whose `X-Forwarded-For` is believed are `trusted_proxies`");
    }
}

/// Reads one network or a list of them.
fn networks(value: &RawValue<'_>, out: &mut Problems) -> Vec<IpNet> {
    let texts = value.texts("a network such as \"10.0.0.0/8\"", out);
    texts.iter().filter_map(|text| network(text, out)).collect()
}

/// Reports limits of clients that would have no effect on this listener, whose address is at `at`.
fn check_limits(
    value: &RawValue<'_>,
    listener: &ListenerSpec,
    at: Option<&RawValue<'_>>,
    out: &mut Problems,
) {
    let Some(limits) = &listener.client_limits else {
        return;
    };
    if limits.requests.is_some() && listener.redirect_https {
        out.error(
            value.key.clone(),
            format!("`{}` has no effect on requests", value.path),
        )
        .label("this listener answers every request with a redirect")
        .help("limit them on the listener with TLS, or limit `connections` here");
    }
    if limits.connections.is_some() && is_unix(at) {
        out.error(
            value.key.clone(),
            format!("`{}` counts connections by address", value.path),
        )
        .label("connections to a Unix socket have no address")
        .help("leave out `connections`");
    }
}

/// Whether this address is a Unix socket.
fn is_unix(at: Option<&RawValue<'_>>) -> bool {
    at.and_then(RawValue::as_text)
        .is_some_and(|text| text.value.starts_with("unix:"))
}

/// Reads `mode` and `group` of a listener at this address.
fn socket_access(
    table: &mut RawTable<'_>,
    at: Option<&RawValue<'_>>,
    out: &mut Problems,
) -> SocketAccess {
    let (mode, group) = (table.take("mode"), table.take("group"));
    for value in mode.iter().chain(&group) {
        if at.is_some() && !is_unix(at) {
            let message = format!("`{}` is for Unix sockets", value.path);
            out.error(value.key.clone(), message)
                .label("this listener has no file")
                .help("leave it out, or bind a socket: `bind = \"unix:/run/shop.sock\"`");
        }
    }
    SocketAccess {
        mode: mode.and_then(|value| file_mode(&value, out)),
        group: group.and_then(|value| {
            let text = value.text("the name of a group, or its number in quotes", out)?;
            if text.value.is_empty() {
                out.error(text.span, format!("`{}` is empty", value.path))
                    .label("expected the name of a group, or its number");
                return None;
            }
            Some(text.value.to_owned())
        }),
    }
}

/// Reads the mode of a file, in octal.
fn file_mode(value: &RawValue<'_>, out: &mut Problems) -> Option<u32> {
    const EXPECTED: &str = "permission bits in octal and in quotes, such as \"0660\"";
    let text = value.text(EXPECTED, out)?;
    let is_octal = text.value.bytes().all(|b| matches!(b, b'0'..=b'7'));
    let mode = u32::from_str_radix(text.value, 8).ok();
    match mode.filter(|mode| is_octal && *mode <= 0o777) {
        Some(mode) => Some(mode),
        None => {
            let message = format!("{} is not a file mode", quote(text.value));
            out.error(text.span, message)
                .label(format!("expected {EXPECTED}"));
            None
        }
    }
}

fn protocols(value: &RawValue<'_>, listener: &mut ListenerSpec, out: &mut Problems) {
    (listener.h1, listener.h2) = (false, false);
    for text in value.texts("\"h1\" or \"h2\"", out) {
        match text.value {
            "h1" => listener.h1 = true,
            "h2" => listener.h2 = true,
            _ => {
                unknown_word(&text, &value.path, &["h1", "h2"], out);
            }
        }
    }
}

/// Reads the pseudonym for `Via`, which is a token (RFC 9110 section 7.6.3); `false` means none.
fn via(value: &RawValue<'_>, out: &mut Problems) -> Option<String> {
    const EXPECTED: &str = "a name such as \"cutover\", or false";
    if matches!(value.node, DeValue::Boolean(false)) {
        return None;
    }
    let text = value.text(EXPECTED, out)?;
    if !is_token(text.value) {
        let message = format!("{} can't be a name in `Via`", quote(text.value));
        out.error(text.span, message)
            .label("expected letters, digits and `-`, `.` or `_`, without spaces");
        return None;
    }
    Some(text.value.to_owned())
}

/// Parses an IP address or a network. A network with host bits set is an error, since either the address or the prefix is
/// wrong.
pub(super) fn network(text: &RawString<'_>, out: &mut Problems) -> Option<IpNet> {
    if let Ok(address) = text.value.parse::<std::net::IpAddr>() {
        return Some(address.into());
    }
    let Ok(net) = text.value.parse::<IpNet>() else {
        let message = format!("{} is neither an address nor a network", quote(text.value));
        out.error(text.span.clone(), message)
            .label("expected a form such as \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.7\"");
        return None;
    };
    if net != net.trunc() {
        let message = format!("{} has bits set beyond its prefix", quote(text.value));
        out.error(text.span.clone(), message)
            .label("expected a network")
            .help(format!(
                "did you mean \"{}\", or the one address \"{}\"?",
                net.trunc(),
                net.addr()
            ));
        return None;
    }
    Some(net)
}

/// Reads `[[listen.NAME.cert]]`. No server name may select two certificates.
fn certs(value: &RawValue<'_>, out: &mut Problems) -> Vec<Cert> {
    let items = value.tables(out);
    if items.is_empty() && value.as_list().is_some() {
        value.empty(out);
    }
    let mut taken: HashMap<HostPattern, TextSpan> = HashMap::new();
    items
        .iter()
        .filter_map(|item| cert(item, &mut taken, out))
        .collect()
}

fn cert(
    item: &RawValue<'_>,
    taken: &mut HashMap<HostPattern, TextSpan>,
    out: &mut Problems,
) -> Option<Cert> {
    let mut table = item.table("a table with `cert` and `key`", out)?;
    let mut sni = Vec::new();
    if let Some(value) = table.take("sni") {
        for text in value.texts("a name such as \"shop.example.com\"", out) {
            let Some(pattern) = route::host(&text, out) else {
                continue;
            };
            if let Some(first) = taken.get(&pattern) {
                let message = format!("two certificates for {}", quote(text.value));
                out.error(text.span.clone(), message)
                    .label("again here")
                    .also(first.clone(), "first here");
                continue;
            }
            taken.insert(pattern.clone(), text.span.clone());
            sni.push(match pattern {
                HostPattern::Exact(name) => name,
                HostPattern::Suffix(suffix) => format!("*{suffix}"),
            });
        }
    }
    let path = |value: Option<RawValue<'_>>, out: &mut Problems| {
        value.and_then(|v| proxy::file_path(&v, out))
    };
    let cert = table.need("cert", out, "write `cert = \"/path/to/chain.pem\"`");
    let cert = path(cert, out);
    let key = table.need("key", out, "write `key = \"/path/to/key.pem\"`");
    let key = path(key, out);
    let client_ca = path(table.take("client_ca"), out);
    let client_auth = table.take("client_auth");
    if let Some(value) = client_auth.as_ref().filter(|_| !table.has("client_ca")) {
        let message = format!("`{}` has no effect without `client_ca`", value.path);
        out.error(value.key.clone(), message)
            .label("no authority issues the clients' certificates")
            .help("add `client_ca = \"/path/to/ca.pem\"`, or leave this out")
            .absence();
    }
    let client_auth = client_auth.and_then(|value| client_auth_word(&value, out));
    table.finish(out);
    Some(Cert {
        sni,
        cert: cert?,
        key: key?,
        client_ca,
        client_auth: client_auth.unwrap_or_default(),
        acme: false,
    })
}

/// Reads `tls` of a listener.
fn tls_minimum(value: &RawValue<'_>, out: &mut Problems) -> Option<TlsMinimum> {
    let mut table = value.table("a table such as { min = \"1.3\" }", out)?;
    let min = table.need("min", out, "write `min = \"1.3\"`");
    table.finish(out);
    let (min, words) = (min?, ["1.2", "1.3"]);
    let text = min.text("\"1.2\" or \"1.3\"", out)?;
    let word = TlsMinimum::parse(text.value);
    if word.is_none() {
        unknown_word(&text, &min.path, &words, out);
    }
    word
}

/// Reads `client_auth`.
fn client_auth_word(value: &RawValue<'_>, out: &mut Problems) -> Option<ClientAuth> {
    let text = value.text("\"required\" or \"optional\"", out)?;
    let word = ClientAuth::parse(text.value);
    if word.is_none() {
        unknown_word(&text, &value.path, &["required", "optional"], out);
    }
    word
}
