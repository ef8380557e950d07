//! `[acme]`, and `acme` of listeners: certificates that the proxy obtains itself.

use std::path::{Path, PathBuf};

use super::url::url;
use super::{proxy, unknown_word};
use crate::config::acme::{self, AcmeChallenge, AcmeSpec, ExternalAccount};
use crate::config::problems::Problems;
use crate::config::raw::{RawString, RawTable, RawValue};
use crate::config::spec::{Cert, ClientAuth, HostPattern, ListenerSpec};
use crate::config::units::quote;

/// Reads `[acme]`, and adds the certificates that it obtains to the listeners that name them.
pub(super) fn acme(
    file: &mut RawTable<'_>,
    listeners: &mut [ListenerSpec],
    state_dir: &Path,
    out: &mut Problems,
) -> Option<AcmeSpec> {
    let Some(value) = file.take("acme") else {
        if listeners.iter().any(|listener| !listener.acme.is_empty()) {
            let spec = settings(None, false, out)?;
            return Some(attach(spec, listeners, state_dir));
        }
        return None;
    };
    let table = value.table("a table such as { email = \"ops@example.com\" }", out)?;
    let at = table.at.clone();
    let spec = settings(Some(table), file.has("fleet"), out)?;
    if listeners.iter().all(|listener| listener.acme.is_empty()) {
        // Invalid names have been reported, and are missing from the listeners.
        if out.len() > 0 {
            return None;
        }
        out.error(at, "`acme` has no effect")
            .label("no listener obtains certificates")
            .help("write `acme = [\"shop.example.com\"]` in the `[listen.NAME]` that needs them");
        return None;
    }
    Some(attach(spec, listeners, state_dir))
}

/// Reads the keys of the table. `has_fleet` says whether the file has `[fleet]`.
fn settings(table: Option<RawTable<'_>>, has_fleet: bool, out: &mut Problems) -> Option<AcmeSpec> {
    let mut spec = AcmeSpec {
        directory: acme::DIRECTORY.to_owned(),
        email: None,
        challenge: AcmeChallenge::default(),
        ca: None,
        external_account: None,
        seal_key_file: None,
        store: Default::default(),
        names: Vec::new(),
    };
    let Some(mut table) = table else {
        return Some(spec);
    };
    if let Some(value) = table.take("directory")
        && let Some(text) = url(&value, acme::DIRECTORY, out)
    {
        if text.value.starts_with("http://") {
            out.warning(text.span.clone(), "the authority is asked over clear text")
                .label("certificates are of no use if anybody on the way can change them")
                .help("use an `https://` directory; a private authority's certificate is checked against `acme.ca`");
        }
        spec.directory = text.value.to_owned();
    }
    spec.email = table.take("email").and_then(|value| email(&value, out));
    if let Some(value) = table.take("challenge") {
        spec.challenge = challenge(&value, out).unwrap_or_default();
    }
    spec.ca = table
        .take("ca")
        .and_then(|value| proxy::file_path(&value, out));
    spec.external_account = external_account(&mut table, out);
    if let Some(value) = table.take("seal_key_file") {
        spec.seal_key_file = seal_key_file(&value, (spec.challenge, has_fleet), out);
    }
    table.finish(out);
    Some(spec)
}

/// Reads `seal_key_file`, which needs a fleet, and challenges that any of its members can answer.
fn seal_key_file(
    value: &RawValue<'_>,
    (challenge, has_fleet): (AcmeChallenge, bool),
    out: &mut Problems,
) -> Option<PathBuf> {
    if !has_fleet {
        let message = format!("`{}` has no effect without `[fleet]`", value.path);
        out.error(value.key.clone(), message)
            .label("it seals what the members of a fleet share")
            .help("add `[fleet]`, or leave it out");
    }
    if challenge == AcmeChallenge::Tls {
        let message = format!("`{}` and challenges over TLS", value.path);
        out.error(value.key.clone(), message)
            .label("only the member that orders could answer them")
            .help("write `challenge = \"http-01\"`, which any member answers");
    }
    proxy::file_path(value, out)
}

fn email(value: &RawValue<'_>, out: &mut Problems) -> Option<String> {
    let text = value.text("an address such as \"ops@example.com\"", out)?;
    let address = text.value.strip_prefix("mailto:").unwrap_or(text.value);
    let is_address = address.split_once('@').is_some_and(|(user, host)| {
        !user.is_empty() && host.contains('.') && address.bytes().all(|b| b.is_ascii_graphic())
    });
    if !is_address {
        out.error(
            text.span,
            format!("`{}` is not an e-mail address", value.path),
        )
        .label("expected an address such as \"ops@example.com\"");
        return None;
    }
    Some(address.to_owned())
}

fn challenge(value: &RawValue<'_>, out: &mut Problems) -> Option<AcmeChallenge> {
    let text = value.text("\"http-01\" or \"tls-alpn-01\"", out)?;
    let found = AcmeChallenge::parse(text.value);
    if found.is_none() {
        let known: Vec<_> = AcmeChallenge::ALL.iter().map(|c| c.as_str()).collect();
        let problem = unknown_word(&text, &value.path, &known, out);
        if text.value.starts_with("dns") {
            problem.help("records in the DNS can't be changed from here; for wildcard names use another tool, and name its files in `cert`");
        }
    }
    found
}

/// Reads `eab_kid` and `eab_hmac_file`, which need each other.
fn external_account(table: &mut RawTable<'_>, out: &mut Problems) -> Option<ExternalAccount> {
    let (kid, file) = (table.take("eab_kid"), table.take("eab_hmac_file"));
    let (kid, file) = match (kid, file) {
        (None, None) => return None,
        (Some(kid), Some(file)) => (kid, file),
        (Some(one), None) | (None, Some(one)) => {
            let message = format!("`{}` has no effect alone", one.path);
            out.error(one.key, message)
                .label("an external account has an identifier and a key")
                .help("write both `eab_kid` and `eab_hmac_file`, as the authority gave them");
            return None;
        }
    };
    let kid = kid.text("the identifier of the key", out)?.value.to_owned();
    let hmac_file = proxy::file_path(&file, out)?;
    Some(ExternalAccount { kid, hmac_file })
}

/// Reads `acme` of a listener: the names that it obtains certificates for. `certs` are its other certificates.
pub(super) fn names(value: &RawValue<'_>, certs: &[Cert], out: &mut Problems) -> Vec<String> {
    let mut names = Vec::new();
    let texts = value.texts("a name such as \"shop.example.com\"", out);
    for text in &texts {
        if let Some(name) = name(text, certs, out)
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

fn name(text: &RawString<'_>, certs: &[Cert], out: &mut Problems) -> Option<String> {
    let name = match super::route::host(text, out)? {
        HostPattern::Exact(name) => name,
        HostPattern::Suffix(_) => {
            out.error(text.span.clone(), format!("{} is a wildcard", quote(text.value)))
                .label("authorities issue certificates for wildcards only after a challenge in the DNS")
                .help("list the names, or obtain the certificate by another tool and name its files in `cert`");
            return None;
        }
    };
    if name.starts_with('[') || name.parse::<std::net::IpAddr>().is_ok() {
        let message = format!("{} is an address", quote(text.value));
        out.error(text.span.clone(), message)
            .label("expected a name such as \"shop.example.com\"");
        return None;
    }
    if certs.iter().any(|cert| cert.sni.contains(&name)) {
        out.error(
            text.span.clone(),
            format!("two certificates for {}", quote(text.value)),
        )
        .label("a `cert` of this listener is for the same name")
        .help("leave one of them out");
        return None;
    }
    Some(name)
}

/// Adds the certificates to the listeners, and the hosts for which each listener answers challenges.
fn attach(mut spec: AcmeSpec, listeners: &mut [ListenerSpec], state_dir: &Path) -> AcmeSpec {
    spec.store = acme::store(state_dir, &spec.directory);
    for listener in listeners.iter_mut() {
        for name in &listener.acme {
            let file = acme::certificate_file(&spec.store, name);
            listener.certs.push(Cert {
                sni: vec![name.clone()],
                cert: file.clone(),
                key: file,
                client_ca: None,
                client_auth: ClientAuth::default(),
                acme: true,
            });
            if !spec.names.contains(name) {
                spec.names.push(name.clone());
            }
        }
    }
    if spec.challenge == AcmeChallenge::Http {
        for listener in listeners {
            listener.challenge_hosts.clone_from(&spec.names);
        }
    }
    spec
}
