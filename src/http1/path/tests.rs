use super::*;

fn norm(path: &str) -> Result<String, &'static str> {
    match normal(path.as_bytes()) {
        Ok(path) => Ok(String::from_utf8(path.into_owned()).unwrap()),
        Err(reject) => {
            assert_eq!(reject.status, 400);
            Err(reject.reason.as_str())
        }
    }
}

#[test]
fn dot_segments_are_removed() {
    for (path, want) in [
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/b/.", "/a/b/"),
        ("/.", "/"),
        ("/..", "/"),
        ("/../../a", "/a"),
        ("/./a", "/a"),
        ("/a/b/../../../c", "/c"),
        ("/a/b/c/./../../g", "/a/g"),
        ("/a//../b", "/a/b"),
        ("/a//.//b", "/a///b"),
        ("//..", "/"),
        ("/%2e/a", "/a"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/%2E./b", "/b"),
        ("/a/.%2E/b", "/b"),
        ("/a/%2e%2E", "/"),
        ("/a%20/%2e%2e/b%zz", "/b%zz"),
        ("/x%2fy/./z", "/x%2fy/z"),
    ] {
        assert_eq!(norm(path).as_deref(), Ok(want), "{path}");
    }
}

#[test]
fn all_else_stays_byte_for_byte_and_is_not_copied() {
    for path in [
        "/",
        "*",
        "/a/b",
        "/a.b",
        "/favicon.ico",
        "/.well-known/x",
        "/a/...",
        "/a/..b",
        "/a/b..",
        "/a/.b",
        "/a/%2e%2e%2e",
        "/a/%2ex",
        "//",
        "/a//b/",
        "/%41",
        "/caf%c3%a9",
        "/caf\u{e9}",
        "/%e2%82%ac",
        "/%C0",
        "/%c0%",
        "/%E0%A0%80",
        "/%f0%9f%98%80",
        "/%",
        "/%2",
        "/%zz",
        "/%0",
        "/%252e%252e/",
        "/%2500",
        "/a%2fb",
        "/a%5Cb",
        "/a\\b",
        "/a\\..b",
        "/%0a",
        "/a;..",
        "/..;/x",
        "/a%2f...",
    ] {
        let got = normal(path.as_bytes()).unwrap();
        assert_eq!(got, path.as_bytes(), "{path}");
        assert!(matches!(got, Cow::Borrowed(_)), "{path}");
    }
    assert_eq!(norm("").as_deref(), Ok("/"));
}

#[test]
fn what_is_refused() {
    for (path, reason) in [
        ("/%00", "nul-in-path"),
        ("/a%00.html", "nul-in-path"),
        ("/%%00", "nul-in-path"),
        ("/%c0%80", "overlong-utf8"),
        ("/%C0%AF", "overlong-utf8"),
        ("/a/%c0%ae%c0%ae/b", "overlong-utf8"),
        ("/%c1%9c", "overlong-utf8"),
        ("/%e0%80%af", "overlong-utf8"),
        ("/%E0%9f%bf", "overlong-utf8"),
        ("/%f0%80%80%af", "overlong-utf8"),
        ("/%f0%8f%bf%bf", "overlong-utf8"),
        ("/%f8%80%80%80%af", "overlong-utf8"),
        ("/%fc%80%80%80%80%af", "overlong-utf8"),
        ("/a%2f..%2fb", "hidden-dot-segment"),
        ("/a/..%2Fb", "hidden-dot-segment"),
        ("/a%2f..", "hidden-dot-segment"),
        ("/a%2f%2e%2E", "hidden-dot-segment"),
        ("/a/%2e%2e%5cb", "hidden-dot-segment"),
        ("/a\\..\\b", "hidden-dot-segment"),
        ("/..\\b", "hidden-dot-segment"),
        ("/a\\..", "hidden-dot-segment"),
        ("/.%2fadmin", "hidden-dot-segment"),
        ("/a/x%5c./b", "hidden-dot-segment"),
        ("/%zz%2f..", "hidden-dot-segment"),
    ] {
        assert_eq!(norm(path), Err(reason), "{path}");
    }
}

#[test]
fn other_readings_of_a_path() {
    for (path, seen) in [
        ("/admin%2fsecret", &["/admin/secret"][..]),
        ("/admin%2Fsecret", &["/admin/secret"]),
        ("/admin%5csecret", &["/admin/secret"]),
        ("/admin\\secret", &["/admin/secret"]),
        ("/%2fadmin", &["/admin", "//admin"]),
        ("//admin", &["/admin"]),
        ("//", &["/"]),
        ("/a///b//", &["/a/b/"]),
        ("//a%2f", &["/a%2f", "/a/", "//a/"]),
        ("/%61dmin", &["/admin"]),
        ("/%7Euser", &["/~user"]),
        ("/a%2e", &["/a."]),
        // Merged first and then without dots, and the other way round.
        ("/x//../admin", &["/admin"]),
        ("/b//..//admin", &["/admin", "/b/admin"]),
        ("/x%2f/../admin", &["/x/admin"]),
        ("/a/../b", &[]),
        ("/a/%252e", &[]),
        ("/a%20b", &[]),
        ("/caf%c3%a9", &[]),
        ("/%zz", &[]),
        ("/a.b/c", &[]),
        ("/", &[]),
        ("", &[]),
        ("*", &[]),
    ] {
        let normal = normal(path.as_bytes()).unwrap();
        let got = readings(path.as_bytes(), &normal).into_iter();
        let got: Vec<_> = got.map(|seen| String::from_utf8(seen).unwrap()).collect();
        assert_eq!(got, seen, "{path}");
    }
}

#[test]
fn repeated_slashes_are_merged() {
    for (path, merged) in [("//", "/"), ("///a//b/", "/a/b/"), ("/a/b//", "/a/b/")] {
        assert_eq!(merge_slashes(path.as_bytes()), merged.as_bytes());
    }
    for path in ["", "/", "/a/b/", "*", "/a%2f/b"] {
        assert!(
            matches!(merge_slashes(path.as_bytes()), Cow::Borrowed(_)),
            "{path}"
        );
    }
}
