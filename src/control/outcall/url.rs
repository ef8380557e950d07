//! URLs of hooks, receivers and Prometheus servers.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};

/// A URL with scheme `http` or `https`, taken apart.
///
/// `Debug` and `Display` write `host:port` only, because everything else may be a secret.
#[derive(Clone)]
pub(super) struct OutcallUrl {
    /// Whether the scheme is `https`.
    pub https: bool,
    /// The host, an IPv6 address without its brackets.
    pub host: String,
    pub port: u16,
    /// `Host` of requests: the port is left out if it is the scheme's own.
    pub authority: String,
    /// Path and query, from `/` on.
    pub target: PathAndQuery,
    /// `Authorization` from the user information of the URL (RFC 7617). `None` if it has none.
    pub basic: Option<HeaderValue>,
}

impl OutcallUrl {
    /// Takes a URL apart. A fragment is dropped.
    ///
    /// # Errors
    /// A message that says what is wrong, without any part of the URL.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let uri: Uri = text.parse().map_err(|_| "not a valid URL")?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("not a URL with http:// or https://"),
        };
        let authority = uri.authority().ok_or("a URL without a host")?.as_str();
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, authority),
        };
        let (host, port) = host_and_port(address)?;
        let default_port = if https { 443 } else { 80 };
        let port = port.unwrap_or(default_port);
        // `Display` begins with `/` even if the path is empty, as in `http://host?query` (RFC 9112 section 3.2.1).
        let target = uri.path_and_query().map_or("/".into(), ToString::to_string);
        let target = target.parse().map_err(|_| "not a valid URL")?;
        let authority = match port == default_port {
            true => host.to_owned(),
            false => format!("{host}:{port}"),
        };
        Ok(Self {
            https,
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            authority,
            target,
            basic: user.map(basic),
        })
    }

    /// Returns the URL with `path` appended to its own path. The query stays.
    pub(super) fn join(mut self, path: &str) -> Self {
        let base = self.target.path().trim_end_matches('/');
        let joined = match self.target.query() {
            Some(query) => format!("{base}{path}?{query}"),
            None => format!("{base}{path}"),
        };
        if let Ok(target) = joined.parse() {
            self.target = target;
        }
        self
    }
}

impl fmt::Display for OutcallUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for OutcallUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Splits `host`, `host:port` and `[v6]:port`. An empty port counts as none (RFC 3986 section 3.2.3).
fn host_and_port(address: &str) -> Result<(&str, Option<u16>), &'static str> {
    let end = address.rfind(']').map_or(0, |bracket| bracket + 1);
    let (host, port) = match address[end..].find(':') {
        Some(colon) => (&address[..end + colon], &address[end + colon + 1..]),
        None => (address, ""),
    };
    if host.is_empty() || host == "[]" {
        return Err("a URL without a host");
    }
    if port.is_empty() {
        return Ok((host, None));
    }
    match port.parse() {
        Ok(0) | Err(_) => Err("a URL whose port isn't from 1 to 65535"),
        Ok(port) => Ok((host, Some(port))),
    }
}

/// Encodes `user:password`, percent-decoded, for basic authentication.
fn basic(user: &str) -> HeaderValue {
    let mut credentials = percent_decode(user);
    if !user.contains(':') {
        credentials.push(b':');
    }
    let encoded = format!("Basic {}", STANDARD.encode(credentials));
    // Base64 consists of characters that field values may contain.
    let mut value = HeaderValue::from_str(&encoded).expect("base64 is a field value");
    value.set_sensitive(true);
    value
}

/// Decodes `%XX`. Anything else is unchanged, a lone `%` too.
fn percent_decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|d| char::from(*d).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high << 4 | low) as u8);
                rest = &after[2..];
            }
            _ => {
                decoded.push(byte);
                rest = after;
            }
        }
    }
    decoded
}

/// Encodes one pair for a body of type `application/x-www-form-urlencoded`.
pub(super) fn form_pair(name: &str, value: &str) -> String {
    let mut encoded = format!("{name}=");
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => {
                encoded.push(char::from(byte));
            }
            b' ' => encoded.push('+'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, String, String) {
        let url = OutcallUrl::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        (
            url.to_string(),
            url.authority.clone(),
            url.target.to_string(),
        )
    }

    #[test]
    fn urls_are_taken_apart() {
        for (text, peer, authority, target) in [
            ("http://a", "a:80", "a", "/"),
            (
                "https://a.example/x?y=1#z",
                "a.example:443",
                "a.example",
                "/x?y=1",
            ),
            ("HTTP://a:80/", "a:80", "a", "/"),
            ("http://a:443", "a:443", "a:443", "/"),
            ("http://a:", "a:80", "a", "/"),
            ("http://a?q=1", "a:80", "a", "/?q=1"),
            ("https://[::1]/x", "[::1]:443", "[::1]", "/x"),
            (
                "http://[2001:db8::1]:9090",
                "[2001:db8::1]:9090",
                "[2001:db8::1]:9090",
                "/",
            ),
            (
                "http://u:p@10.0.0.1:8088/h",
                "10.0.0.1:8088",
                "10.0.0.1:8088",
                "/h",
            ),
        ] {
            let expected = (peer.into(), authority.into(), target.into());
            assert_eq!(parsed(text), expected, "{text}");
        }
        let url = OutcallUrl::parse("https://[::1]:8443").unwrap();
        assert_eq!(
            (url.host.as_str(), url.port, url.https),
            ("::1", 8443, true)
        );
    }

    #[test]
    fn other_texts_are_refused_without_being_quoted() {
        for text in [
            "",
            "a",
            "/secret",
            "ftp://secret/x",
            "http://",
            "http:///secret",
            "http://a:0/secret",
            "http://a:70000/secret",
            "http://a:secret/",
            "http://a b/secret",
            "unix:/run/secret.sock",
        ] {
            let error = OutcallUrl::parse(text).expect_err(text);
            assert!(!error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn user_information_becomes_basic_authentication() {
        let basic = |text| OutcallUrl::parse(text).unwrap().basic;
        assert_eq!(basic("http://a/"), None);
        // RFC 7617 section 2.
        let aladdin = basic("http://Aladdin:open%20sesame@a/").unwrap();
        assert_eq!(aladdin, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(aladdin.is_sensitive());
        assert_eq!(basic("http://user@a/").unwrap(), "Basic dXNlcjo=");
        assert_eq!(percent_decode("%40%zz%4%"), b"@%zz%4%");
    }

    #[test]
    fn nothing_but_the_peer_is_shown() {
        let url = OutcallUrl::parse("https://user:secret@a/secret?secret#secret").unwrap();
        assert_eq!(format!("{url} {url:?}"), "a:443 a:443");
    }

    #[test]
    fn paths_are_joined_below_the_base() {
        let join = |text| {
            OutcallUrl::parse(text)
                .unwrap()
                .join("/api/v1/query")
                .target
        };
        assert_eq!(join("http://a"), "/api/v1/query");
        assert_eq!(join("http://a/"), "/api/v1/query");
        assert_eq!(join("http://a/prom/"), "/prom/api/v1/query");
        assert_eq!(
            join("http://a/prom?tenant=x"),
            "/prom/api/v1/query?tenant=x"
        );
    }

    #[test]
    fn form_values_are_encoded() {
        let query = "sum(rate(x{v=\"v2\"}[1m])) + 1 é&";
        assert_eq!(
            form_pair("query", query),
            "query=sum%28rate%28x%7Bv%3D%22v2%22%7D%5B1m%5D%29%29+%2B+1+%C3%A9%26"
        );
    }
}
