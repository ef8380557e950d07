//! The path that a request gets by `rewrite`. Pure, so that `explain` shows what the data path sends.

use crate::config::actions::PathRewrite;
use crate::http1::path;

/// The rewritten path would be ambiguous, so that it could reach paths that rules or routes guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambiguous;

/// The path that replaces `path`, which is normal; `None` if the path isn't changed. `typed` is the path as received.
///
/// # Errors
/// The new path has dot segments, begins with two slashes or none, or has a reading that isn't a rewrite of any reading of the old
/// path. Such a reading is the path as seen by an endpoint that decodes `%2f` or merges slashes.
pub fn rewritten(
    rewrite: &PathRewrite,
    typed: &[u8],
    path: &[u8],
) -> Result<Option<Vec<u8>>, Ambiguous> {
    let new = apply(rewrite, path);
    if let Some(new) = &new {
        let is_normal = path::normal(new).is_ok_and(|normal| *normal == **new);
        if !is_normal || !new.starts_with(b"/") || new.starts_with(b"//") {
            return Err(Ambiguous);
        }
    }
    let readings = path::readings(typed, path);
    let sent = new.as_deref().unwrap_or(path);
    let gained = new
        .as_ref()
        .map(|new| path::readings(new, new))
        .unwrap_or_default();
    // Readings that only the new path has: `/a/` and `/b` are joined to `/a//b`, or an escape is completed.
    let is_new = |seen: &Vec<u8>| readings.is_empty() && seen != sent;
    if gained.iter().any(is_new) {
        return Err(Ambiguous);
    }
    let agrees = |read: &Vec<u8>| {
        let seen = apply(rewrite, read).unwrap_or_else(|| read.clone());
        seen == sent || gained.contains(&seen) || (new.is_none() && seen == *read)
    };
    match readings.iter().all(agrees) {
        true => Ok(new),
        false => Err(Ambiguous),
    }
}

/// The path after a prefix of whole segments; `None` if the path doesn't begin with it.
pub(crate) fn without_prefix<'p>(path: &'p [u8], prefix: &[u8]) -> Option<&'p [u8]> {
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest[0] == b'/').then_some(rest)
}

fn apply(rewrite: &PathRewrite, path: &[u8]) -> Option<Vec<u8>> {
    match rewrite {
        PathRewrite::Prefix { strip, add } => {
            let rest = match without_prefix(path, strip.as_bytes()) {
                Some(rest) => rest,
                None if add.is_empty() => return None,
                // Without the prefix, nothing is taken off.
                None => path,
            };
            let mut new = add.clone().into_bytes();
            new.extend_from_slice(rest);
            if new.is_empty() {
                new.push(b'/');
            }
            Some(new)
        }
        PathRewrite::Regex { regex, to } => {
            let new = regex.replace(path, to.as_bytes());
            match new {
                std::borrow::Cow::Borrowed(_) => None,
                std::borrow::Cow::Owned(new) => Some(new),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(strip: &str, add: &str) -> PathRewrite {
        PathRewrite::Prefix {
            strip: strip.to_owned(),
            add: add.to_owned(),
        }
    }

    fn regex(regex: &str, to: &str) -> PathRewrite {
        PathRewrite::Regex {
            regex: regex::bytes::Regex::new(regex).expect("valid"),
            to: to.to_owned(),
        }
    }

    /// The path that is sent; `ambiguous` if none is.
    fn sent(rewrite: &PathRewrite, typed: &str) -> String {
        let normal = path::normal(typed.as_bytes()).expect("a good path");
        let new = match rewritten(rewrite, typed.as_bytes(), &normal) {
            Ok(new) => new.unwrap_or_else(|| normal.into_owned()),
            Err(Ambiguous) => b"ambiguous".to_vec(),
        };
        String::from_utf8(new).expect("ASCII")
    }

    #[test]
    fn prefixes_are_whole_segments() {
        let strip = prefix("/shop", "");
        for (path, expected) in [
            ("/shop/a", "/a"),
            ("/shop", "/"),
            ("/shop/", "/"),
            ("/shopping", "/shopping"),
            ("/other", "/other"),
            ("/shop/shop/a", "/shop/a"),
            ("/x/../shop/a", "/a"),
            ("/shop/a%20b", "/a%20b"),
            ("/shop/a%2fb", "/a%2fb"),
        ] {
            assert_eq!(sent(&strip, path), expected, "{path}");
        }
        let add = prefix("", "/v2");
        for (path, expected) in [("/a", "/v2/a"), ("/", "/v2/"), ("/v2/a", "/v2/v2/a")] {
            assert_eq!(sent(&add, path), expected, "{path}");
        }
        let both = prefix("/v1", "/v2");
        for (path, expected) in [
            ("/v1/a", "/v2/a"),
            ("/v1", "/v2"),
            ("/v1/", "/v2/"),
            ("/a", "/v2/a"),
        ] {
            assert_eq!(sent(&both, path), expected, "{path}");
        }
    }

    #[test]
    fn expressions_replace_the_first_match() {
        let old = regex("^/old/([^/]+)/(.*)$", "/new/$2/$1");
        assert_eq!(sent(&old, "/old/a/b/c"), "/new/b/c/a");
        assert_eq!(sent(&old, "/other"), "/other");
        assert_eq!(sent(&regex("/v1/", "/v2/"), "/v1/v1/x"), "/v2/v1/x");
    }

    #[test]
    fn no_rewrite_makes_a_path_that_can_be_read_in_two_ways() {
        let strip = prefix("/shop", "");
        for (rewrite, path) in [
            (&strip, "/shop//admin"),
            (&strip, "/sh%6fp/admin"),
            (&strip, "/shop%2fadmin"),
            (&strip, "//shop/admin"),
            (&regex("^/a(.*)$", "/$1"), "/a../admin"),
            (&regex("^/a(.*)$", "/$1"), "/a/admin"),
            (&regex("^/a/(.*)$", "$1"), "/a/admin"),
            (&regex("^/a/(.*)$", "/x/../$1"), "/a/admin"),
            (&regex("^/a/(.*)$", "/%2$1"), "/a/fadmin"),
            (&regex("^/a/(.*)$", "/x%2e%2e/$1%00"), "/a/b"),
        ] {
            assert_eq!(sent(rewrite, path), "ambiguous", "{path}");
        }
    }
}
