//! `[dns]`: the servers that names of endpoints are looked up with.

use std::net::{IpAddr, SocketAddr};

use crate::config::problems::Problems;
use crate::config::raw::{RawString, RawTable};
use crate::config::spec::DnsSpec;
use crate::config::units::quote;

/// The port of name servers.
const PORT: u16 = 53;
/// Most servers that are asked in turn. If all of them are down, each delays a lookup by some seconds.
const MOST: usize = 8;

/// Reads `[dns]`.
pub(super) fn dns(file: &mut RawTable<'_>, out: &mut Problems) -> DnsSpec {
    let mut spec = DnsSpec::default();
    let Some(mut table) = file
        .take("dns")
        .and_then(|v| v.table("a table such as { servers = [\"10.0.0.2:53\"] }", out))
    else {
        return spec;
    };
    if let Some(value) = table.take("servers") {
        let texts = value.texts("a name server such as \"10.0.0.2:53\"", out);
        if texts.len() > MOST {
            out.error(
                value.span,
                format!("`{}` has {} servers", value.path, texts.len()),
            )
            .label(format!("expected at most {MOST}"))
            .help(
                "they are asked one after the other until one answers, so more of them don't help",
            );
        }
        for text in &texts {
            let Some(server) = server(text, out) else {
                continue;
            };
            if spec.servers.contains(&server) {
                out.error(
                    text.span.clone(),
                    format!("name server {server} is listed twice"),
                )
                .help("leave out one of them");
                continue;
            }
            spec.servers.push(server);
        }
    }
    table.finish(out);
    spec
}

/// Reads an address, with port 53 where it has none.
fn server(text: &RawString<'_>, out: &mut Problems) -> Option<SocketAddr> {
    let typed = text.value;
    let with_port = typed.parse::<SocketAddr>();
    let found = with_port.or_else(|_| typed.parse::<IpAddr>().map(|ip| (ip, PORT).into()));
    if let Ok(server) = found
        && server.port() > 0
    {
        return Some(server);
    }
    let message = format!("{} is not the address of a name server", quote(typed));
    let problem = out.error(text.span.clone(), message);
    problem.label("expected an IP address, with a port if it isn't 53, such as \"10.0.0.2\" or \"[fd00::2]:5353\"");
    if typed.contains(|c: char| c.is_ascii_alphabetic()) && !typed.contains("://") {
        problem.help("a name would have to be looked up first: write the server's address");
    }
    None
}
