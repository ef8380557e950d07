//! `[fleet]`: the fleet that this proxy belongs to, and its etcd.

use std::net::IpAddr;
use std::time::Duration;

use super::upstream_tls::upstream_tls;
use super::url::url;
use super::{check_name, proxy, unknown_word};
use crate::config::fleet::{EtcdUrl, EtcdUser, FleetSpec, OnLost, SharedTable};
use crate::config::problems::Problems;
use crate::config::raw::{RawString, RawTable, RawValue};
use crate::config::units::{self, quote};

const EXAMPLE: &str = "https://10.0.0.5:2379";
/// etcd's port for clients.
const PORT: u16 = 2379;
const JOIN_WAIT: Duration = Duration::from_secs(5);
/// Shortest time without an answer after which etcd counts as lost.
const SHORTEST_LOSS: Duration = Duration::from_secs(10);
/// Largest number of etcd members that are named. Clusters have three, five or seven.
const MOST: usize = 16;

/// Reads `[fleet]`.
pub(super) fn fleet(file: &mut RawTable<'_>, out: &mut Problems) -> Option<FleetSpec> {
    let value = file.take("fleet")?;
    let mut table = value.table("a table with `etcd` and `name`", out)?;
    let etcd = table.need("etcd", out, "write `etcd = [\"https://10.0.0.5:2379\"]`");
    let etcd = etcd.map(|value| urls(&value, out));
    let name = table.need(
        "name",
        out,
        "write `name = \"front\"`: proxies with the same name are a fleet",
    );
    let name = name.and_then(|value| named(&value, "fleet", out));
    let member = { table.take("member") }.and_then(|value| named(&value, "member", out));
    let written = table.take("tls");
    let tls = written.as_ref().and_then(|value| upstream_tls(value, out));
    if let (Some(value), Some(etcd)) = (&written, &etcd)
        && !etcd.is_empty()
        && etcd.iter().all(|url| !url.https)
    {
        out.error(value.key.clone(), format!("`{}` has no effect", value.path))
            .label("no URL in `etcd` begins with `https://`");
    }
    let on_lost = { table.take("on_lost") }.and_then(|value| on_lost(&value, out));
    let join_wait =
        { table.take("join_wait") }.and_then(|value| value.duration(Duration::ZERO, out));
    let user = user(&mut table, out);
    if let (Some(etcd), Some((user, value))) = (&etcd, &user)
        && etcd.iter().any(|url| !url.https && !is_loopback(&url.host))
    {
        let message = format!(
            "the password of {} is sent in clear text",
            quote(&user.name)
        );
        out.warning(value.span.clone(), message)
            .label("anybody on the way can read it")
            .help("write `https://` URLs, and `tls` with the authority that issued etcd's certificate");
    }
    let divide_limits = { table.take("divide_limits") }.and_then(|value| value.flag(out));
    let share = { table.take("share") }.map(|value| share(&value, out));
    table.finish(out);
    Some(FleetSpec {
        etcd: etcd?,
        name: name?,
        member,
        tls,
        user: user.map(|(user, _)| user),
        divide_limits: divide_limits.unwrap_or(false),
        on_lost: on_lost.unwrap_or_default(),
        join_wait: join_wait.unwrap_or(JOIN_WAIT),
        share: share.unwrap_or_default(),
    })
}

/// Reads `on_lost`: `"stay"` or `"rollback 10m"`.
fn on_lost(value: &RawValue<'_>, out: &mut Problems) -> Option<OnLost> {
    let text = value.text("\"stay\", or such as \"rollback 10m\"", out)?;
    let words: Vec<_> = text.value.split_whitespace().collect();
    let parsed = match words[..] {
        ["stay"] => Ok(OnLost::Stay),
        ["rollback", time] => match units::duration(time) {
            Ok(after) if after < SHORTEST_LOSS => Err("expected at least 10s".to_owned()),
            Ok(after) => Ok(OnLost::Rollback(after)),
            Err(why) => Err(why),
        },
        ["rollback"] => Err("after how long? such as \"rollback 10m\"".to_owned()),
        _ => Err("expected \"stay\", or such as \"rollback 10m\"".to_owned()),
    };
    match parsed {
        Ok(on_lost) => Some(on_lost),
        Err(label) => {
            let message = format!("{} is not what `on_lost` can be", quote(text.value));
            out.error(text.span, message).label(label);
            None
        }
    }
}

/// Reads `share`: the names of tables.
fn share(value: &RawValue<'_>, out: &mut Problems) -> Vec<SharedTable> {
    let items = value.as_list();
    let items = items.unwrap_or_else(|| vec![value.clone()]);
    if items.is_empty() {
        value.empty(out);
    }
    let mut tables = Vec::new();
    for item in &items {
        let Some(text) = item.text("the name of a table in quotes", out) else {
            continue;
        };
        let table = SharedTable::ALL
            .into_iter()
            .find(|table| table.as_str() == text.value);
        match table {
            Some(table) if tables.contains(&table) => {
                let message = format!("{} is listed twice", quote(text.value));
                out.error(text.span, message);
            }
            Some(table) => tables.push(table),
            None => {
                let known = SharedTable::ALL.map(SharedTable::as_str);
                unknown_word(&text, &value.path, &known, out);
            }
        }
    }
    tables
}

fn is_loopback(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Reads a name that becomes part of keys.
fn named(value: &RawValue<'_>, what: &str, out: &mut Problems) -> Option<String> {
    let text = value.text(&format!("the name of a {what} in quotes"), out)?;
    check_name(text.value, value, what, out);
    Some(text.value.to_owned())
}

/// Reads `user` and `password_file`, which need each other.
fn user<'t>(table: &mut RawTable<'t>, out: &mut Problems) -> Option<(EtcdUser, RawValue<'t>)> {
    let (name, file) = match (table.take("user"), table.take("password_file")) {
        (None, None) => return None,
        (Some(name), Some(file)) => (name, file),
        (Some(one), None) | (None, Some(one)) => {
            let message = format!("`{}` has no effect alone", one.path);
            out.error(one.key, message)
                .label("a user has a name and a password")
                .help("write both `user` and `password_file`");
            return None;
        }
    };
    let text = name.text("the name of a user in quotes", out);
    let password_file = proxy::file_path(&file, out);
    let user = EtcdUser {
        name: text?.value.to_owned(),
        password_file: password_file?,
    };
    Some((user, name))
}

/// Reads `etcd`.
fn urls(value: &RawValue<'_>, out: &mut Problems) -> Vec<EtcdUrl> {
    let items = value.as_list();
    let items = items.unwrap_or_else(|| vec![value.clone()]);
    if items.is_empty() {
        value.empty(out);
    }
    if items.len() > MOST {
        let message = format!("`{}` has {} URLs", value.path, items.len());
        out.error(value.span.clone(), message)
            .label(format!("expected at most {MOST}"));
    }
    let mut urls: Vec<EtcdUrl> = Vec::new();
    for item in &items {
        let text = url(item, EXAMPLE, out);
        let Some((text, url)) = text.and_then(|text| Some((text.clone(), etcd(&text, out)?)))
        else {
            continue;
        };
        if urls.contains(&url) {
            out.error(text.span, format!("{} is listed twice", quote(text.value)))
                .help("leave out one of them");
            continue;
        }
        urls.push(url);
    }
    urls
}

/// Takes a URL apart. Its form has been checked.
fn etcd(text: &RawString<'_>, out: &mut Problems) -> Option<EtcdUrl> {
    let uri: http::Uri = text.value.parse().ok()?;
    let authority = uri.authority()?.as_str();
    let mut refuse = |label: &str, help: &str| {
        let message = format!("{} is not the URL of a member of etcd", quote(text.value));
        let problem = out.error(text.span.clone(), message);
        problem.label(label.to_owned());
        problem.help(help.to_owned());
    };
    if authority.contains('@') {
        refuse(
            "it has a user",
            "write `user` and `password_file` in `[fleet]`",
        );
        return None;
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        refuse(
            "it has a path",
            "write the URL without a path, such as \"https://10.0.0.5:2379\"",
        );
        return None;
    }
    Some(EtcdUrl {
        https: uri.scheme_str() == Some("https"),
        host: uri.host()?.trim_matches(['[', ']']).to_ascii_lowercase(),
        port: uri.port_u16().unwrap_or(PORT),
    })
}
