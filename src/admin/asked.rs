//! A request that is described, not sent.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use crate::http1::{Reject, authority, path, target};
use crate::routing::RequestView;

/// A request as somebody describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DescribedRequest {
    pub(super) secure: bool,
    pub(super) port: u16,
    pub(super) method: String,
    pub(super) host: String,
    /// As typed.
    typed_path: Vec<u8>,
    /// Without dot segments.
    pub(super) path: Vec<u8>,
    query: Option<Vec<u8>>,
    fields: Vec<(String, String)>,
    client: IpAddr,
}

impl DescribedRequest {
    /// From a URL (`http://host/path`, `https://…`, `host/path` or `/path`), the method (default GET), header fields
    /// (`name: value`; `Host` counts more than the URL), the client's address (default 127.0.0.1).
    ///
    /// # Errors
    /// What of these makes no request, for the one who asked.
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
                .ok_or_else(|| format!("{header:?} is no header: expected `name: value`"))?;
            let name = name.trim().to_ascii_lowercase();
            fields.push((name, value.trim().to_owned()));
        }
        let host_field = fields.iter().find(|(name, _)| name == "host");
        let named = host_field.map_or(named, |(_, value)| value.as_str());
        if !named.is_empty() {
            authority::check(named.as_bytes())
                .map_err(|_| format!("{named:?} is not a host, with or without a port"))?;
        }
        let (host, port) = authority::split(named.as_bytes());
        let host = String::from_utf8_lossy(host).to_ascii_lowercase();
        let refused = |reject: Reject| format!("the path is refused with 400 {}", reject.reason);
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
        })
    }

    /// The request as a listener sees it that merges repeated slashes; `None` where that changes nothing.
    pub(super) fn merged(&self) -> Option<Self> {
        let Cow::Owned(typed_path) = path::merge_slashes(&self.typed_path) else {
            return None;
        };
        // What was refused in the path as typed would have ended it before, and fewer slashes bring no more of it.
        let path = path::normal(&typed_path).ok()?.into_owned();
        Some(Self {
            typed_path,
            path,
            ..self.clone()
        })
    }

    /// The paths that recipients may see instead.
    pub(super) fn readings(&self) -> Vec<Vec<u8>> {
        path::readings(&self.typed_path, &self.path)
    }

    /// `METHOD host path`.
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
}
