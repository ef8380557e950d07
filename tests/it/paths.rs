//! Paths that origins read in different ways: refused where another reading leads to another route.

use crate::support::block_on;
use crate::support::h2_client::H2;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy};
use crate::support::wire::Message;

/// Spellings that an origin reads as `/admin/x` if it decodes escapes, takes backslashes for slashes, or merges slashes.
const HIDDEN: [&str; 13] = [
    "/%2fadmin/x",
    "/%5cadmin/x",
    "/\\admin/x",
    "//admin/x",
    "/.//admin/x",
    "///admin//x",
    "/x//../admin/x",
    "/x/..//admin/x",
    "/%2f%2fadmin%2fx",
    "/admin%2fx",
    "/admin%5cx",
    "/%61dmin/x",
    "//%61dmin/x",
];

/// A catch-all service `open` and a service `guarded` under `/admin/*`; the listener has these keys.
fn guarded(keys: &str, open: &Origin, guarded: &Origin) -> Proxy {
    Builder::new(&format!(
        "admin = \"127.0.0.1:$ADMIN\"\nworkers = 1\nstate_dir = \"$DIR/state\"\n\
         [listen.front]\nbind = \"127.0.0.1:$PORT\"\n{keys}\n\
         [service.open]\nstable = \"v\"\nversions.v = [\"{}\"]\n\
         [service.guarded]\npaths = [\"/admin/*\"]\nstable = \"v\"\nversions.v = [\"{}\"]\n",
        open.at(),
        guarded.at()
    ))
    .start()
}

#[track_caller]
fn refused(answer: &Message, target: &str) {
    assert_eq!(answer.status(), 400, "{target}");
    let reason = answer.field("x-cutover-reason");
    assert_eq!(reason.as_deref(), Some("ambiguous-path"), "{target}");
}

/// What `explain` says of a path: the service, or the answer.
fn explained(proxy: &Proxy, target: &str) -> String {
    let escaped = target.replace('%', "%25").replace('\\', "%5C");
    let answer = proxy.ask_admin(&format!(
        "/api/v1/explain?url=http://test:{}{escaped}",
        proxy.port
    ));
    let told: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    let text = |key: &str| told[key].as_str().map(str::to_owned);
    text("answer").or(text("service")).expect("a decision")
}

#[test]
fn a_path_that_an_origin_may_read_as_a_guarded_one_is_refused() {
    let (open, admin) = (Origin::named("open"), Origin::named("guarded"));
    let proxy = guarded("", &open, &admin);
    for target in HIDDEN {
        refused(&proxy.get(target), target);
        assert_eq!(explained(&proxy, target), "400 ambiguous-path", "{target}");
    }
    block_on(async {
        let client = H2::connect(proxy.port).await;
        for target in HIDDEN {
            let answer = client.get(&format!("http://test{target}")).await;
            let answer = answer.expect("an answer");
            assert_eq!(answer.status, 400, "{target}");
            assert_eq!(answer.headers["x-cutover-reason"], "ambiguous-path");
        }
    });
    assert_eq!((open.hits(), admin.hits()), (0, 0));
}

#[test]
fn a_path_whose_readings_lead_to_one_route_passes_byte_for_byte() {
    let (open, admin) = (Origin::named("open"), Origin::named("guarded"));
    let proxy = guarded("", &open, &admin);
    for (target, service) in [
        ("/a//b/", "open"),
        ("//", "open"),
        ("/projects/group%2fname", "open"),
        ("/?next=//admin/x", "open"),
        ("/admin//x", "guarded"),
        ("/admin/a%2fb//c", "guarded"),
    ] {
        let answer = proxy.get(target);
        assert_eq!(answer.text(), service, "{target}");
        let origin = if service == "open" { &open } else { &admin };
        assert_eq!(origin.last().target(), target);
        assert_eq!(explained(&proxy, target), service, "{target}");
    }
}

#[test]
fn merge_slashes_makes_one_of_several_for_routing_and_upstream() {
    let (open, admin) = (Origin::named("open"), Origin::named("guarded"));
    let proxy = guarded("merge_slashes = true", &open, &admin);
    for (target, sent) in [
        ("//admin/x", "/admin/x"),
        ("///admin//x?a=//b", "/admin/x?a=//b"),
        ("/x//../admin/x", "/admin/x"),
        ("/x/..//admin/x", "/admin/x"),
    ] {
        assert_eq!(proxy.get(target).text(), "guarded", "{target}");
        assert_eq!(admin.last().target(), sent, "{target}");
        assert_eq!(explained(&proxy, target), "guarded", "{target}");
    }
    assert_eq!(proxy.get("//a///b/").text(), "open");
    assert_eq!(open.last().target(), "/a/b/");
    // What hides behind escapes isn't merged.
    for target in ["/%2fadmin/x", "//%5cadmin/x", "//admin%2fx"] {
        refused(&proxy.get(target), target);
        assert_eq!(explained(&proxy, target), "400 ambiguous-path", "{target}");
    }
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let answer = client.get("http://test//admin//y").await;
        assert_eq!(answer.expect("an answer").body, b"guarded");
    });
    assert_eq!(admin.last().target(), "/admin/y");
}
