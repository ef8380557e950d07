//! A request that is described instead of sent, for `explain`.
//!
//! Host and path are normalised and checked by the same functions as those of a received request, so that the explanation
//! matches what the data path would do.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use crate::http1::{Reject, authority, path, target};
use crate::routing::{ClientCertificate, RequestView};

/// A described request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DescribedRequest {
    pub(super) secure: bool,
    pub(super) port: u16,
    pub(super) method: String,
    pub(super) host: String,
    /// The path as given.
    typed_path: Vec<u8>,
    /// The path as routed, without dot segments.
    pub(super) path: Vec<u8>,
    query: Option<Vec<u8>>,
    fields: Vec<(String, String)>,
    client: IpAddr,
    certificate: Option<ClientCertificate>,
}

impl DescribedRequest {
    /// Creates a request from a URL (`http://host/path`, `https://…`, `host/path` or `/path`), a method (default GET),
    /// header fields (`name: value`; `Host` overrides the host of the URL) and a client address (default 127.0.0.1).
    ///
    /// # Errors
    /// A message that names the invalid part.
    pub(crate) fn new(
        url: &str,
        method: Option<&str>,
        headers: &[String],
        client: Option<IpAddr>,
    ) -> Result<Self, String> {
        let (secure, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some((scheme, _)) => return Err(format!("{scheme}:// is neither http nor https")),
            None => (false, url),
        };
        let rest = rest.split('#').next().unwrap_or("");
        let (named, path_and_query) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let mut fields = Vec::new();
        for header in headers {
            let (name, value) = header
                .split_once(':')
                .ok_or_else(|| format!("{header:?} is not a header: expected `name: value`"))?;
            let name = name.trim().to_ascii_lowercase();
            fields.push((name, value.trim().to_owned()));
        }
        let host_field = fields.iter().find(|(name, _)| name == "host");
        let named = host_field.map_or(named, |(_, value)| value.as_str());
        if !named.is_empty() {
            authority::check(named.as_bytes())
                .map_err(|_| format!("{named:?} is not a host or host:port"))?;
        }
        let (host, port) = authority::split(named.as_bytes());
        let host = String::from_utf8_lossy(host).to_ascii_lowercase();
        let refused =
            |reject: Reject| format!("the proxy would refuse the path with 400 {}", reject.reason);
        target::check_characters(path_and_query.as_bytes()).map_err(refused)?;
        let (raw, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query.into())),
            None => (path_and_query, None),
        };
        let path = path::normal(raw.as_bytes()).map_err(refused)?;
        Ok(Self {
            secure,
            port: port.unwrap_or(if secure { 443 } else { 80 }),
            method: method.unwrap_or("GET").to_owned(),
            host: host.trim_end_matches('.').to_owned(),
            typed_path: raw.as_bytes().to_vec(),
            path: path.into_owned(),
            query,
            fields,
            client: client.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            certificate: None,
        })
    }

    /// The same request from a client with this certificate; without any of its values, from a client without one.
    pub(crate) fn with_certificate(mut self, certificate: ClientCertificate) -> Self {
        self.certificate = (certificate != ClientCertificate::default()).then_some(certificate);
        self
    }

    /// The request as seen by a listener that merges repeated slashes; `None` if that makes no difference.
    pub(super) fn merged(&self) -> Option<Self> {
        let Cow::Owned(typed_path) = path::merge_slashes(&self.typed_path) else {
            return None;
        };
        // `new` has accepted this path, and merging slashes adds nothing that is refused: this never returns early.
        let path = path::normal(&typed_path).ok()?.into_owned();
        Some(Self {
            typed_path,
            path,
            ..self.clone()
        })
    }

    /// Other paths that recipients may read this one as, see [`path::readings`].
    pub(super) fn readings(&self) -> Vec<Vec<u8>> {
        path::readings(&self.typed_path, &self.path)
    }

    /// The path as given.
    pub(super) fn typed_path(&self) -> &[u8] {
        &self.typed_path
    }

    /// The query with its question mark; empty if there is none.
    pub(super) fn query_with_mark(&self) -> String {
        match &self.query {
            Some(query) => format!("?{}", String::from_utf8_lossy(query)),
            None => String::new(),
        }
    }

    /// The request as `METHOD host/path`.
    pub(super) fn shown(&self) -> String {
        format!("{} {}{}", self.method, self.host, self.shown_path())
    }

    pub(super) fn shown_path(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

impl RequestView for DescribedRequest {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn path(&self) -> &[u8] {
        &self.path
    }

    fn query(&self) -> Option<&[u8]> {
        self.query.as_deref()
    }

    fn any_field(&self, name: &str, see: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let mut values = self.fields.iter().filter(|(n, _)| n == name);
        values.any(|(_, value)| see(value.as_bytes()))
    }

    fn client(&self) -> IpAddr {
        self.client
    }

    fn certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_ref()
    }
}
