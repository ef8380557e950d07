//! The document of `/api/v1/config`: the running configuration with defaults filled in, in the syntax of the file.
//!
//! Files appear by path and are never read, so neither the admin token nor a private key can leak here. `control::audit`
//! and `explain` format single values with the same functions.

mod actions;
mod policies;

use std::fmt::Display;
use std::time::Duration;

use serde_json::{Map, Value, json};

pub(crate) use actions::answer;

use crate::config::Spec;
use crate::config::access_log::AccessLogSpec;
use crate::config::acme::AcmeSpec;
use crate::config::client_limit::ClientLimits;
use crate::config::fleet::FleetSpec;
use crate::config::mirror::MirrorSpec;
use crate::config::spec::{
    Admin, Balance, Bind, Cert, CohortKey, CohortSpec, Condition, Conditions, EndpointSpec,
    HostPattern, ListenerSpec, PathPattern, Pattern, ProxyLimits, RuleSpec, ServiceSpec, Share,
    Timeouts, UpstreamTls, VersionSpec,
};
use crate::config::trace::TraceSpec;
use crate::index::{FlagIx, VersionIx};

/// Renders a whole configuration.
pub(crate) fn config(spec: &Spec) -> Value {
    json!({
        "workers": spec.workers.map_or(json!("auto"), |n| json!(n)),
        "admin": spec.admin.as_ref().map(admin),
        "state_dir": spec.state_dir,
        "shutdown": {
            "delay": time(spec.shutdown.delay),
            "deadline": time(spec.shutdown.deadline),
        },
        "limits": limits(&spec.limits),
        "access_log": spec.access_log.as_ref().map(access_log),
        "trace": spec.trace.as_ref().map(trace),
        "acme": spec.acme.as_ref().map(acme),
        "fleet": spec.fleet.as_ref().map(fleet),
        "defaults": { "headers": actions::headers(&spec.headers) },
        "listen": named(&spec.listeners, |l| (&l.name, listener(l))),
        "service": named(&spec.services, |s| (&s.name, service(s))),
    })
}

fn named<T>(items: &[T], entry: impl Fn(&T) -> (&String, Value)) -> Value {
    let entries = items.iter().map(|item| {
        let (name, value) = entry(item);
        (name.clone(), value)
    });
    Value::Object(entries.collect::<Map<_, _>>())
}

fn texts<T>(items: &[T], text: impl Fn(&T) -> String) -> Value {
    items.iter().map(text).collect()
}

fn time(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn admin(admin: &Admin) -> Value {
    json!({
        "listen": texts(&admin.listen, bind),
        "token_file": admin.token_file,
        "hosts": texts(&admin.hosts, host),
    })
}

fn limits(limits: &ProxyLimits) -> Value {
    json!({
        "header_bytes": limits.header_bytes,
        "headers": limits.headers,
        "target_bytes": limits.target_bytes,
        "body_bytes": limits.body_bytes,
        "header_timeout": time(limits.header_timeout),
        "body_timeout": time(limits.body_timeout),
        "keepalive_timeout": time(limits.keepalive_timeout),
        "handshake_timeout": time(limits.handshake_timeout),
        "connections": limits.connections,
        "streams": limits.streams,
        "underscores": limits.underscores,
    })
}

fn access_log(log: &AccessLogSpec) -> Value {
    json!({
        "to": log.to.to_string(),
        "format": log.format.as_str(),
        "sample": log.sample.to_string(),
        "slow": time(log.slow),
        "fields": texts(&log.fields, |field| field.key.clone()),
    })
}

fn acme(acme: &AcmeSpec) -> Value {
    let external = acme.external_account.as_ref();
    json!({
        "directory": acme.directory,
        "email": acme.email,
        "challenge": acme.challenge.as_str(),
        "ca": acme.ca,
        "eab_kid": external.map(|account| &account.kid),
        "eab_hmac_file": external.map(|account| &account.hmac_file),
    })
}

fn fleet(fleet: &FleetSpec) -> Value {
    json!({
        "etcd": texts(&fleet.etcd, ToString::to_string),
        "name": fleet.name,
        "member": fleet.member,
        "tls": fleet.tls.as_ref().map(upstream_tls),
        "user": fleet.user.as_ref().map(|user| &user.name),
        "on_lost": fleet.on_lost.to_string(),
        "join_wait": time(fleet.join_wait),
        "password_file": fleet.user.as_ref().map(|user| &user.password_file),
        "divide_limits": fleet.divide_limits,
        "share": texts(&fleet.share, |table| table.as_str().to_owned()),
    })
}

/// The receiver's URL and the fields for it may contain credentials.
fn trace(trace: &TraceSpec) -> Value {
    let fields = trace.headers.iter();
    let fields = fields.map(|field| (field.name.clone(), json!("***")));
    json!({
        "otlp": trace.receiver(),
        "headers": fields.collect::<Map<_, _>>(),
        "sample": trace.sample.to_string(),
        "always": texts(&trace.always, |kind| kind.as_str().to_owned()),
    })
}

/// Renders a listener.
pub(crate) fn listener(listener: &ListenerSpec) -> Value {
    let mut protocols = Vec::new();
    if listener.h1 {
        protocols.push("h1");
    }
    if listener.h2 {
        protocols.push("h2");
    }
    json!({
        "bind": bind(&listener.bind),
        "protocols": protocols,
        "redirect": listener.redirect_https.then_some("https"),
        "trusted_proxies": texts(&listener.trusted_proxies, ToString::to_string),
        "services": listener.services,
        "merge_slashes": listener.merge_slashes,
        "via": listener.via.as_deref().map_or(Value::Bool(false), Value::from),
        "proxy_protocol": listener.proxy_protocol,
        "proxy_sources": texts(&listener.proxy_sources, ToString::to_string),
        "mode": listener.access.mode.map(|mode| format!("{mode:04o}")),
        "group": listener.access.group,
        "client_limits": listener.client_limits.as_ref().map(client_limits),
        "cert": listener.certs.iter().filter(|c| !c.acme).map(cert).collect::<Vec<_>>(),
        "acme": listener.acme,
        "tls": (!listener.certs.is_empty()).then(|| json!({ "min": listener.tls_min.as_str() })),
    })
}

fn cert(cert: &Cert) -> Value {
    json!({
        "sni": cert.sni,
        "cert": cert.cert,
        "key": cert.key,
        "client_ca": cert.client_ca,
        "client_auth": cert.client_ca.as_ref().map(|_| cert.client_auth.as_str()),
    })
}

/// Renders a service.
pub(crate) fn service(service: &ServiceSpec) -> Value {
    let version = |index: VersionIx| service.versions[index].name.clone();
    let split = service.split.iter();
    let hashed = service.balance == Balance::Hash;
    let mut shown = json!({
        "hosts": texts(&service.hosts, host),
        "paths": texts(&service.paths, path),
        "stable": service.stable_name(),
        "split": split
            .map(|(v, share)| (version(*v), share_of(*share, service.rolling_version() == Some(*v))))
            .collect::<Map<_, _>>(),
        "cohort": service.cohort.as_ref().map(cohort),
        "match": service
            .rules
            .iter()
            .map(|r| rule(r, r.to.map(version)))
            .collect::<Vec<_>>(),
        "flags": FlagIx::enumerate(&service.flags)
            .map(|(at, flag)| {
                let share = share_of(flag.share, service.rolling_flag() == Some(at));
                let shown = json!({ "share": share, "when": alternatives(&flag.when) });
                (flag.name.clone(), shown)
            })
            .collect::<Map<_, _>>(),
        "mirror": service.mirror.as_ref().map(|m| mirror(m, version(m.to))),
        "body_bytes": service.body_bytes,
        "balance": service.balance.as_str(),
        "hash_by": hashed.then(|| texts(&service.hash_by, cohort_key)),
        "timeouts": timeouts(&service.timeouts),
        "labels": service
            .labels
            .iter()
            .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
            .collect::<Map<_, _>>(),
        "versions": named(&service.versions, |v| (&v.name, one_version(v))),
    });
    extend(&mut shown, actions::actions(&service.actions));
    extend(&mut shown, policies::policies(service));
    shown
}

fn extend(shown: &mut Value, more: impl IntoIterator<Item = (String, Value)>) {
    if let Some(keys) = shown.as_object_mut() {
        keys.extend(more);
    }
}

fn mirror(mirror: &MirrorSpec, to: String) -> Value {
    json!({
        "to": to,
        "share": mirror.share.to_string(),
        "methods": mirror.methods,
        "diff": texts(&mirror.diff, ToString::to_string),
        "body_bytes": mirror.body_bytes,
        "requests": mirror.requests,
        "timeout": time(mirror.timeout),
        "credentials": mirror.credentials,
        "bodies": mirror.bodies,
    })
}

fn cohort(cohort: &CohortSpec) -> Value {
    json!({ "by": texts(&cohort.by, cohort_key), "salt": cohort.salt })
}

fn conditions(conditions: &Conditions) -> Value {
    let keys = |all: &[Condition]| {
        let keys = all.iter().map(|condition| {
            let patterns = texts(&condition.patterns, pattern);
            (condition.subject.to_string(), patterns)
        });
        keys.collect::<Map<_, _>>()
    };
    let mut shown = keys(&conditions.all);
    if !conditions.none.is_empty() {
        shown.insert("not".to_owned(), Value::Object(keys(&conditions.none)));
    }
    Value::Object(shown)
}

/// Formats conditions as a phrase: `path = "/a/*" and not ip = "10.0.0.0/8"`.
pub(crate) fn when(alternatives: &[Conditions]) -> String {
    let one = |conditions: &Conditions| {
        let all = conditions.all.iter().map(condition);
        let none = conditions
            .none
            .iter()
            .map(|c| format!("not {}", condition(c)));
        all.chain(none).collect::<Vec<_>>().join(" and ")
    };
    let all = alternatives.iter().map(one);
    all.collect::<Vec<_>>().join(", or ")
}

/// Renders alternatives as the file has them: one table, or a list of them.
fn alternatives(when: &[Conditions]) -> Value {
    match when {
        [] => Value::Null,
        [only] => conditions(only),
        several => several.iter().map(conditions).collect(),
    }
}

/// A share as the file writes it.
fn share_of(share: Share, follows_rollout: bool) -> Value {
    match follows_rollout {
        true => Value::from("rollout"),
        false => Value::from(share.to_string()),
    }
}

fn rule(rule: &RuleSpec, to: Option<String>) -> Value {
    let mut shown = json!({
        "when": alternatives(&rule.when),
        "to": to,
        "strict": rule.strict,
    });
    if let Some(limits) = &rule.client_limits {
        extend(
            &mut shown,
            [("client_limits".to_owned(), client_limits(limits))],
        );
    }
    extend(&mut shown, actions::actions(&rule.actions));
    shown
}

/// Renders limits of clients.
fn client_limits(limits: &ClientLimits) -> Value {
    json!({
        "by": limits.by.to_string(),
        "requests": limits.requests.map(|rate| rate.to_string()),
        "burst": limits.requests.map(|rate| rate.burst),
        "connections": limits.connections,
    })
}

/// Formats the limit on requests as a phrase: `100/s by ip, 200 at once`. `None` if there is none.
pub(crate) fn client_rate(limits: &ClientLimits) -> Option<String> {
    let rate = limits.requests.as_ref()?;
    Some(format!("{rate} by {}, {} at once", limits.by, rate.burst))
}

fn timeouts(timeouts: &Timeouts) -> Value {
    json!({
        "connect": time(timeouts.connect),
        "first_byte": time(timeouts.first_byte),
        "total": timeouts.total.map(time),
        "idle": time(timeouts.idle),
    })
}

/// Renders a version.
pub(crate) fn one_version(version: &VersionSpec) -> Value {
    let mut shown = json!({
        "label": version.label,
        "endpoints": texts(&version.endpoints, endpoint),
        "preview": texts(&version.preview, host),
        "slow_start": version.slow_start.map(time),
        "tls": version.tls.as_ref().map(upstream_tls),
        "proxy_protocol": version.proxy_protocol.map(|version| version.as_str()),
    });
    extend(&mut shown, actions::actions(&version.actions));
    shown
}

fn upstream_tls(tls: &UpstreamTls) -> Value {
    json!({
        "ca": tls.ca,
        "cert": tls.cert,
        "key": tls.key,
        "server_name": tls.server_name.as_ref().map(|name| name.to_str()),
    })
}

/// Formats an endpoint as the file does: `10.0.0.1:80 weight=2`.
pub(crate) fn endpoint(endpoint: &EndpointSpec) -> String {
    match endpoint.weight {
        1 => endpoint.to_string(),
        weight => format!("{endpoint} weight={weight}"),
    }
}

/// Formats an address to bind as the file does: `:8080`, `127.0.0.1:8080`, `unix:/path`.
pub(crate) fn bind(bind: &Bind) -> String {
    match bind {
        Bind::Any(port) => format!(":{port}"),
        Bind::Tcp(address) => address.to_string(),
        Bind::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// Formats a host pattern as the file does: `shop.example.com`, `*.example.com`.
pub(crate) fn host(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Suffix(suffix) => format!("*{suffix}"),
    }
}

/// Formats a path pattern as the file does: `/login`, `/v1/*`.
pub(crate) fn path(path: &PathPattern) -> String {
    match path {
        PathPattern::Exact(path) => path.clone(),
        PathPattern::Prefix(prefix) => format!("{prefix}/*"),
    }
}

/// Formats a cohort key as the file does: `cookie:uid`, `ip`.
pub(crate) fn cohort_key(key: &CohortKey) -> String {
    match key {
        CohortKey::Cookie(name) => format!("cookie:{name}"),
        CohortKey::Header(name) => format!("header:{name}"),
        CohortKey::Query(name) => format!("query:{name}"),
        CohortKey::Ip => "ip".to_owned(),
    }
}

fn pattern(pattern: &Pattern) -> String {
    match pattern {
        Pattern::Exact(text) | Pattern::Glob(text) => text.clone(),
        Pattern::Regex(regex) => format!("/{regex}/"),
        Pattern::Net(net) => net.to_string(),
    }
}

/// Formats a condition as a phrase: `header.x-canary = "always"`, `ip = "10.0.0.0/8" or "::1"`.
fn condition(condition: &Condition) -> String {
    let quoted = |item: &dyn Display| format!("\"{item}\"");
    let patterns: Vec<_> = condition
        .patterns
        .iter()
        .map(|p| quoted(&pattern(p)))
        .collect();
    format!("{} = {}", condition.subject, patterns.join(" or "))
}
