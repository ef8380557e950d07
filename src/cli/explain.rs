//! `cutover explain URL`

use std::net::IpAddr;

use clap::Args;

use super::fault::CommandError;
use super::proxy::{Proxy, Silence};
use super::proxy_address::{ProxyAddress, shown};
use super::{CommandResult, Json, block_on};
use crate::admin::asked::DescribedRequest;
use crate::admin::explain::{Explanation, explain};
use crate::config;
use crate::snapshot::Snapshot;
use crate::telemetry::Telemetry;
use crate::upstream::Registry;

/// Says where a request would go.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 it goes to a version, 1 error, 2 the proxy itself would answer."
)]
pub(super) struct Explain {
    /// `http://host/path`, `https://…`, or only `/path`
    url: String,
    /// Method
    #[arg(short = 'X', long, default_value = "GET")]
    method: String,
    /// Header field, `name: value`; may be repeated
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Address of the client [default: 127.0.0.1]
    #[arg(long)]
    ip: Option<IpAddr>,
    #[command(flatten)]
    json: Json,
}

impl Explain {
    pub(super) fn run(&self, place: &ProxyAddress) -> CommandResult {
        // Asked first, so that what is no request is said without a proxy.
        let asked = DescribedRequest::new(&self.url, Some(&self.method), &self.headers, self.ip)
            .map_err(CommandError::new)?;
        let told = match block_on(self.running(place))? {
            Ok(told) => told,
            Err(Silence::Nobody(fault)) if place.admin.is_some() => return Err(fault),
            Err(Silence::Nobody(_)) => from_file(place, &asked)?,
            Err(Silence::Trouble(fault)) => return Err(fault),
        };
        if self.json.json {
            let json = serde_json::to_string_pretty(&told).unwrap_or_default();
            anstream::println!("{json}");
        } else {
            print(&told);
        }
        Ok(if told.answer.is_some() { 2 } else { 0 })
    }

    async fn running(&self, place: &ProxyAddress) -> Result<Explanation, Silence> {
        let (proxy, _) = Proxy::find(place).await?;
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
        proxy.get(&format!("/api/v1/explain?{query}")).await
    }
}

fn from_file(place: &ProxyAddress, asked: &DescribedRequest) -> Result<Explanation, CommandError> {
    let file = place.file()?;
    let loaded = config::load(&file).map_err(|failure| super::check::fault(&failure))?;
    anstream::eprintln!("no proxy answers: explained from {}", shown(&file));
    let (registry, telemetry) = (Registry::new(), Telemetry::new(1));
    let snapshot = Snapshot::build(1, loaded.spec, &registry, &telemetry);
    let mut told = explain(&snapshot, asked);
    for endpoint in told.candidates.iter_mut().flat_map(|c| &mut c.endpoints) {
        // Nobody has asked them.
        "unknown".clone_into(&mut endpoint.health);
    }
    Ok(told)
}

fn print(told: &Explanation) {
    let goes = match (&told.answer, &told.version, &told.service) {
        (Some(answer), _, _) => format!("answered by the proxy: {answer}"),
        (None, Some(version), Some(service)) => format!("{service} {version}"),
        (None, None, Some(service)) => {
            let names: Vec<_> = told.candidates.iter().map(|c| &*c.version).collect();
            format!("{service}, one of {}", names.join(", "))
        }
        _ => "nowhere".to_owned(),
    };
    anstream::println!("{} -> {goes}", told.request);
    for step in &told.why {
        anstream::println!("  {step}");
    }
    for candidate in &told.candidates {
        for endpoint in &candidate.endpoints {
            let (version, address) = (&candidate.version, &endpoint.address);
            let (weight, standing) = (
                endpoint.weight,
                endpoint.standing(std::time::SystemTime::now()),
            );
            anstream::println!("    {version}  {address}  weight {weight}  {standing}");
        }
    }
}

fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(one).collect()
}
