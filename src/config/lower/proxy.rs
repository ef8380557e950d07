//! Settings of the proxy as a whole: workers, admin API, shutdown and limits. Also the timeouts of services.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::{bind, route};
use crate::config::problems::{Problems, TextSpan};
use crate::config::raw::{RawTable, RawValue};
use crate::config::spec::{Admin, Bind, ProxyLimits, Shutdown, Timeouts};
use crate::config::value::SHORTEST;

/// Reads `workers`: `"auto"` or a number of threads.
pub(super) fn workers(file: &mut RawTable<'_>, out: &mut Problems) -> Option<usize> {
    let value = file.take("workers")?;
    match value.node {
        DeValue::Integer(_) => value.count(1..=1024, out).map(|n| n as usize),
        DeValue::String(text) if text == "auto" => None,
        _ => {
            value.mistyped("\"auto\" or a number of threads such as 4", out);
            None
        }
    }
}

/// Reads a path. The file isn't opened here: the code that uses it checks it, also after later changes.
pub(super) fn file_path(value: &RawValue<'_>, out: &mut Problems) -> Option<PathBuf> {
    let text = value.text("a path in quotes", out)?;
    if text.value.is_empty() || text.value.contains('\0') {
        out.error(
            value.span.clone(),
            format!("`{}` is not a path", value.path),
        )
        .label("expected a path such as \"/etc/cutover/tls/shop.pem\"");
        return None;
    }
    Some(PathBuf::from(text.value))
}

/// Reads `admin`: an address or a table. `listeners` are the addresses that it must not overlap.
pub(super) fn admin(
    file: &mut RawTable<'_>,
    listeners: &[(Bind, TextSpan)],
    out: &mut Problems,
) -> Option<Admin> {
    let value = file.take("admin")?;
    let (mut token_file, mut hosts) = (None, Vec::new());
    let listen = match value.as_table() {
        Some(mut table) => {
            let listen = table.need("listen", out, "write `listen = \"127.0.0.1:9900\"`");
            token_file = table.take("token_file").and_then(|v| file_path(&v, out));
            if let Some(value) = table.take("hosts") {
                let names = value.texts("a host such as \"cutover.internal\"", out);
                hosts = names.iter().filter_map(|n| route::host(n, out)).collect();
            }
            table.finish(out);
            listen?
        }
        None => value,
    };
    if listen.as_integer().is_some() {
        bind::not_text(&listen, out);
        return None;
    }
    let mut binds: Vec<(Bind, TextSpan)> = Vec::new();
    for text in listen.texts(bind::EXPECTED, out) {
        let Some(address) = bind::bind(&text, out) else {
            continue;
        };
        bind::check_overlap(&address, &text.span, listeners, out);
        bind::check_overlap(&address, &text.span, &binds, out);
        let exposed = match &address {
            Bind::Any(_) => true,
            Bind::Tcp(socket) => !socket.ip().is_loopback(),
            Bind::Unix(_) => false,
        };
        if exposed {
            out.warning(
                text.span.clone(),
                "the admin API is reachable from other machines",
            )
            .label("anyone who can connect can read the metrics; everything else needs the token in `token_file`")
            .help("listen on 127.0.0.1 or a `unix:` path if only this machine needs it");
        }
        binds.push((address, text.span));
    }
    Some(Admin {
        listen: binds.into_iter().map(|(bind, _)| bind).collect(),
        token_file,
        hosts,
    })
}

/// Reads `[shutdown]`.
pub(super) fn shutdown(file: &mut RawTable<'_>, out: &mut Problems) -> Shutdown {
    let mut result = Shutdown::default();
    let Some(mut table) = file
        .take("shutdown")
        .and_then(|v| v.table("a table with `delay` and `deadline`", out))
    else {
        return result;
    };
    table.set_duration("delay", &mut result.delay, Duration::ZERO, out);
    table.set_duration("deadline", &mut result.deadline, Duration::ZERO, out);
    table.finish(out);
    result
}

/// Reads `[limits]`.
pub(super) fn limits(file: &mut RawTable<'_>, out: &mut Problems) -> ProxyLimits {
    let mut result = ProxyLimits::default();
    let Some(mut table) = file.take("limits").and_then(|v| v.table("a table", out)) else {
        return result;
    };
    const KIB: u64 = 1024;
    if let Some(v) = table.take("header_bytes")
        && let Some(bytes) = v.size(KIB..=KIB * KIB, out)
    {
        result.header_bytes = bytes as usize;
    }
    if let Some(v) = table.take("headers")
        && let Some(n) = v.count(1..=256, out)
    {
        result.headers = n as usize;
    }
    if let Some(v) = table.take("target_bytes")
        && let Some(bytes) = v.size(128..=KIB * KIB, out)
    {
        result.target_bytes = bytes as usize;
    }
    if let Some(v) = table.take("body_bytes") {
        result.body_bytes = v.size(0..=i64::MAX as u64, out);
    }
    if let Some(v) = table.take("connections") {
        result.connections = v.count(1..=100_000_000, out).map(|n| n as usize);
    }
    if let Some(v) = table.take("streams")
        && let Some(n) = v.count(1..=10_000, out)
    {
        result.streams = n as u32;
    }
    if let Some(v) = table.take("underscores")
        && let Some(flag) = v.flag(out)
    {
        result.underscores = flag;
    }
    let times = [
        ("header_timeout", &mut result.header_timeout),
        ("body_timeout", &mut result.body_timeout),
        ("keepalive_timeout", &mut result.keepalive_timeout),
        ("handshake_timeout", &mut result.handshake_timeout),
    ];
    for (key, time) in times {
        table.set_duration(key, time, SHORTEST, out);
    }
    table.finish(out);
    result
}

/// Reads `[defaults.timeouts]` or `[service.NAME.timeouts]` over the values in `result`.
pub(super) fn timeouts(value: &RawValue<'_>, result: &mut Timeouts, out: &mut Problems) {
    let Some(mut table) = value.table("a table such as { total = \"30s\" }", out) else {
        return;
    };
    if let Some(total) = table.take("total") {
        result.total = match total.as_text() {
            // Lets a service remove the limit that `[defaults.timeouts]` sets.
            Some(text) if text.value == "none" => None,
            _ => total.duration(SHORTEST, out),
        };
    }
    let times = [
        ("connect", &mut result.connect),
        ("first_byte", &mut result.first_byte),
        ("idle", &mut result.idle),
    ];
    for (key, time) in times {
        table.set_duration(key, time, SHORTEST, out);
    }
    table.finish(out);
}
