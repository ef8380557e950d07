//! A request and a service for tests.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{ClientCertificate, RequestView};
use crate::config::spec;
use crate::index::VersionIx;

/// A request made of plain values.
#[derive(Clone, Debug)]
pub(crate) struct Fake {
    pub(crate) method: &'static str,
    pub(crate) target: &'static str,
    pub(crate) fields: Vec<(&'static str, String)>,
    pub(crate) client: IpAddr,
    pub(crate) certificate: Option<ClientCertificate>,
}

impl Fake {
    pub(crate) fn get(target: &'static str) -> Self {
        Self {
            method: "GET",
            target,
            fields: Vec::new(),
            client: Ipv4Addr::LOCALHOST.into(),
            certificate: None,
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }
}

impl RequestView for Fake {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }

    fn host(&self) -> &str {
        "localhost"
    }

    fn path(&self) -> &[u8] {
        self.target.split('?').next().unwrap_or_default().as_bytes()
    }

    fn query(&self) -> Option<&[u8]> {
        self.target
            .split_once('?')
            .map(|(_, query)| query.as_bytes())
    }

    fn any_field(&self, name: &str, see: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let mut named = self.fields.iter().filter(|(n, _)| *n == name);
        named.any(|(_, value)| see(value.as_bytes()))
    }

    fn client(&self) -> IpAddr {
        self.client
    }

    fn certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_ref()
    }
}

/// A service with these versions, of which the first is stable.
pub(crate) fn service(name: &str, versions: &[&str]) -> spec::ServiceSpec {
    let version = |name: &&str| spec::VersionSpec {
        slow_start: None,
        name: (*name).to_owned(),
        label: None,
        endpoints: Vec::new(),
        max_share: None,
        tls: None,
        proxy_protocol: None,
        preview: Vec::new(),
        actions: Default::default(),
    };
    spec::ServiceSpec {
        policies: Default::default(),
        hash_by: vec![spec::CohortKey::Ip],
        name: name.to_owned(),
        hosts: Vec::new(),
        paths: Vec::new(),
        stable: VersionIx(0),
        split: Vec::new(),
        rolling: None,
        rollout: None,
        goals: Vec::new(),
        cohort: None,
        rules: Vec::new(),
        flags: Vec::new(),
        mirror: None,
        body_bytes: None,
        actions: Default::default(),
        balance: spec::Balance::default(),
        timeouts: spec::Timeouts {
            connect: Duration::from_secs(1),
            first_byte: Duration::from_secs(15),
            total: None,
            idle: Duration::from_secs(90),
        },
        labels: Vec::new(),
        versions: versions.iter().map(version).collect(),
    }
}
