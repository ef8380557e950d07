use http::HeaderName;
use http_body_util::BodyExt;

use super::*;

fn headers(of: &[(HeaderName, &'static str)]) -> HeaderMap {
    let pairs = of.iter().cloned();
    pairs
        .map(|(name, value)| (name, HeaderValue::from_static(value)))
        .collect()
}

fn sent(path: &str, of: &[(HeaderName, &'static str)]) -> AdminResponse {
    page(path, &headers(of)).expect("a page")
}

fn text(source: &Source) -> &'static str {
    std::str::from_utf8(source.body).expect("text")
}

#[tokio::test]
async fn the_page_comes_with_a_strict_policy() {
    let answer = sent("/", &[]);
    let header = |name: HeaderName| answer.headers()[name].to_str().unwrap().to_owned();
    let policy = header(CONTENT_SECURITY_POLICY);
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"));
    assert!(!policy.contains("unsafe"), "{policy}");
    for directive in [
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(policy.split("; ").any(|d| d == directive), "{directive}");
    }
    assert_eq!(header(X_CONTENT_TYPE_OPTIONS), "nosniff");
    assert_eq!(header(REFERRER_POLICY), "no-referrer");
    assert_eq!(header(CACHE_CONTROL), "no-cache");
    assert_eq!(header(http::header::CONTENT_TYPE), HTML);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, SOURCES[0].body);
}

#[test]
fn only_clients_that_accept_it_get_gzip() {
    let is_packed = |accepted: &'static str| {
        let answer = sent("/", &[(ACCEPT_ENCODING, accepted)]);
        assert_eq!(answer.headers()[VARY], "accept-encoding");
        answer.headers().contains_key(CONTENT_ENCODING)
    };
    for accepted in ["gzip", "br, GZIP;q=0.5", "deflate , gzip; q=1.0"] {
        assert!(is_packed(accepted), "{accepted}");
    }
    for accepted in ["", "identity", "gzip;q=0", "xgzip", "br, gzip; q=0.0"] {
        assert!(!is_packed(accepted), "{accepted}");
    }
}

#[test]
fn a_known_file_is_not_sent_again() {
    let gzip = (ACCEPT_ENCODING, "gzip");
    let first = sent("/dashboard/main.js", std::slice::from_ref(&gzip));
    let tag = first.headers()[ETAG].clone();
    assert_ne!(tag, sent("/dashboard/main.js", &[]).headers()[ETAG]);
    let mut again = headers(&[gzip]);
    again.insert(IF_NONE_MATCH, tag);
    let answer = page("/dashboard/main.js", &again).unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
    again.remove(ACCEPT_ENCODING);
    let answer = page("/dashboard/main.js", &again).unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "another form");
    assert!(page("/dashboard/none.js", &again).is_none());
}

#[test]
fn all_files_together_stay_small() {
    let bytes: usize = ASSETS.iter().map(|asset| asset.gzip.len()).sum();
    assert!(bytes < 100 * 1024, "{bytes} bytes");
}

#[test]
fn every_file_is_served() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/dashboard");
    let mut files = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = match &*name {
            "index.html" => "/".to_owned(),
            name => format!("/dashboard/{name}"),
        };
        assert!(is_page(&path), "{path}");
        files += 1;
    }
    assert_eq!(files, SOURCES.len());
}

#[test]
fn nothing_is_inline_and_text_never_becomes_markup() {
    let forbidden = [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "DOMParser",
        "createContextualFragment",
        "eval(",
        "new Function",
        "localStorage",
        "sessionStorage",
        "document.cookie",
    ];
    for source in SOURCES {
        for word in forbidden {
            assert!(!text(source).contains(word), "{word} in {}", source.path);
        }
        let hosts = text(source).replace("http://www.w3.org/2000/svg", "");
        let hosts = hosts.replace("https://shop.example.com/cart?id=7", "");
        assert!(!hosts.contains("://"), "a host in {}", source.path);
    }
    let html = text(&SOURCES[0]);
    assert!(!html.contains("<style") && !html.contains(" style="));
    assert_eq!(html.matches("<script").count(), 1);
    assert!(html.contains("src=\"/dashboard/main.js\"></script>"));
    assert!(!html.contains(" onload=") && !html.contains(" onclick="));
}

#[test]
fn every_import_is_served() {
    let scripts = SOURCES.iter().filter(|source| source.kind == SCRIPT);
    for source in scripts {
        for line in text(source).lines() {
            if let Some((_, from)) = line.split_once(" from \"./")
                && line.starts_with("import")
            {
                let path = format!("/dashboard/{}", from.trim_end_matches("\";"));
                assert!(is_page(&path), "{path} in {}", source.path);
            }
        }
    }
}
