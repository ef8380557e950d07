//! `cutover explain URL`: shows where a request would go, and why.
//!
//! The running proxy is asked, because only it knows health, drains and the keys of session cookies. Without one, the
//! configuration file is explained instead, with the health of every endpoint unknown.

use std::net::IpAddr;

use clap::Args;

use super::error::CommandError;
use super::proxy::{Proxy, ProxyError};
use super::proxy_address::{ProxyAddress, shown};
use super::{CommandResult, Json, block_on};
use crate::admin::explain::{Explanation, explain};
use crate::admin::request::DescribedRequest;
use crate::config;
use crate::routing::ClientCertificate;
use crate::snapshot::Snapshot;
use crate::telemetry::Telemetry;
use crate::upstream::Registry;

/// Explains the routing of a request that is described, not sent.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes:\n  0  the request goes to a version\n  1  error\n  2  the proxy itself would answer"
)]
pub(super) struct ExplainArgs {
    /// URL of the request: `http://host/path`, `https://…`, or just `/path`
    url: String,
    /// Method of the request
    #[arg(short = 'X', long, default_value = "GET")]
    method: String,
    /// Header field, `name: value`; may be repeated
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// IP address of the client [default: 127.0.0.1]
    #[arg(long)]
    ip: Option<IpAddr>,
    /// Subject of the client's certificate, such as `CN=partner,O=Example`
    #[arg(long, value_name = "SUBJECT")]
    client_subject: Option<String>,
    /// Subject alternative name of the client's certificate, such as `DNS:partner.test`; may be repeated
    #[arg(long, value_name = "NAME")]
    client_san: Vec<String>,
    /// SHA-256 fingerprint of the client's certificate, 64 hex digits
    #[arg(long, value_name = "HEX")]
    client_fingerprint: Option<String>,
    #[command(flatten)]
    json: Json,
}

impl ExplainArgs {
    pub(super) fn run(&self, address: &ProxyAddress) -> CommandResult {
        // Checked first, so that an invalid request is reported even if no proxy is running.
        let request = DescribedRequest::new(&self.url, Some(&self.method), &self.headers, self.ip)
            .map_err(CommandError::new)?
            .with_certificate(self.certificate());
        let explanation = match block_on(self.ask_proxy(address))? {
            Ok(explanation) => explanation,
            Err(ProxyError::Unreachable(fault)) if address.admin.is_some() => return Err(fault),
            Err(ProxyError::Unreachable(_)) => from_file(address, &request)?,
            Err(ProxyError::Failed(fault)) => return Err(fault),
        };
        if self.json.json {
            let json = serde_json::to_string_pretty(&explanation).unwrap_or_default();
            anstream::println!("{json}");
        } else {
            print(&explanation);
        }
        Ok(if explanation.answer.is_some() { 2 } else { 0 })
    }

    /// The client's certificate, from the options.
    fn certificate(&self) -> ClientCertificate {
        let fingerprint = self.client_fingerprint.as_deref().unwrap_or_default();
        ClientCertificate {
            subject: self.client_subject.clone().unwrap_or_default(),
            san: self.client_san.clone(),
            // OpenSSL writes the fingerprint in capitals and with colons.
            fingerprint: fingerprint.replace(':', "").to_ascii_lowercase(),
            ..ClientCertificate::default()
        }
    }

    async fn ask_proxy(&self, address: &ProxyAddress) -> Result<Explanation, ProxyError> {
        let (proxy, _) = Proxy::find(address).await?;
        let mut query = format!(
            "url={}&method={}",
            encoded(&self.url),
            encoded(&self.method)
        );
        for header in &self.headers {
            query += &format!("&header={}", encoded(header));
        }
        if let Some(ip) = self.ip {
            query += &format!("&ip={}", encoded(&ip.to_string()));
        }
        let certificate = self.certificate();
        let mut add = |name: &str, value: &str| {
            if !value.is_empty() {
                query += &format!("&{name}={}", encoded(value));
            }
        };
        add("client_subject", &certificate.subject);
        certificate
            .san
            .iter()
            .for_each(|name| add("client_san", name));
        add("client_fingerprint", &certificate.fingerprint);
        proxy.get(&format!("/api/v1/explain?{query}")).await
    }
}

fn from_file(
    address: &ProxyAddress,
    request: &DescribedRequest,
) -> Result<Explanation, CommandError> {
    let file = address.file()?;
    let loaded = config::load(&file).map_err(|failure| super::check::load_error(&failure))?;
    anstream::eprintln!("no proxy answers: explained from {}", shown(&file));
    let (registry, telemetry) = (Registry::new(), Telemetry::new(1));
    let snapshot = Snapshot::build(1, loaded.spec, &registry, &telemetry);
    let mut explanation = explain(&snapshot, request);
    for endpoint in explanation
        .candidates
        .iter_mut()
        .flat_map(|c| &mut c.endpoints)
    {
        // No health check has run, so the state of a new snapshot is meaningless.
        "unknown".clone_into(&mut endpoint.health);
    }
    Ok(explanation)
}

fn print(explanation: &Explanation) {
    let destination = match (
        &explanation.answer,
        &explanation.version,
        &explanation.service,
    ) {
        (Some(answer), _, _) => format!("answered by the proxy: {answer}"),
        (None, Some(version), Some(service)) => format!("{service} {version}"),
        (None, None, Some(service)) => {
            let names: Vec<_> = explanation.candidates.iter().map(|c| &*c.version).collect();
            format!("{service}, one of {}", names.join(", "))
        }
        _ => "nowhere".to_owned(),
    };
    anstream::println!("{} -> {destination}", explanation.request);
    for step in &explanation.why {
        anstream::println!("  {step}");
    }
    for candidate in &explanation.candidates {
        for endpoint in &candidate.endpoints {
            let (version, address) = (&candidate.version, &endpoint.address);
            let (weight, state) = (
                endpoint.weight,
                endpoint.state(std::time::SystemTime::now()),
            );
            anstream::println!("    {version}  {address}  weight {weight}  {state}");
        }
    }
}

/// Percent-encodes a query value: all but the unreserved characters of RFC 3986 §2.3, `/` and `:`.
fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(one).collect()
}
