//! What the proxy tells the origin about the client, and whom it believes about it.

use bytes::Bytes;
use http::Request;

use crate::support::block_on;
use crate::support::h2_client::H2;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, before, serve, single};

/// A proxy with one listener that has these keys.
fn listening(keys: &str, services: &str) -> Builder {
    Builder::new(&format!(
        "admin = \"127.0.0.1:$ADMIN\"\nworkers = 1\nstate_dir = \"$DIR/state\"\n\
         [listen.front]\nbind = \"127.0.0.1:$PORT\"\n{keys}\n{services}"
    ))
}

const TRUSTING: &str = "trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\", \"::1\"]";

fn ask(proxy: &Proxy, lines: &str) -> String {
    let answer = proxy
        .client()
        .ask(&format!("GET / HTTP/1.1\r\nhost: test\r\n{lines}\r\n"));
    assert_eq!(answer.status(), 200, "{lines:?}");
    answer.text()
}

#[test]
fn the_client_is_read_from_right_to_left_over_all_lines_of_x_forwarded_for() {
    let (other, seven) = (Origin::named("other"), Origin::named("seven"));
    let proxy = listening(
        TRUSTING,
        &format!(
            "[service.app]\nstable = \"v1\"\nversions.v1 = [\"{}\"]\nversions.v2 = [\"{}\"]\n\
             [[service.app.match]]\nwhen = {{ ip = \"192.0.2.7\" }}\nto = \"v2\"\n",
            other.at(),
            seven.at()
        ),
    )
    .start();
    for (lines, client) in [
        ("x-forwarded-for: 192.0.2.7\r\n", "seven"),
        ("x-forwarded-for: 192.0.2.7, 10.1.1.1\r\n", "seven"),
        (
            "x-forwarded-for: 192.0.2.8, 192.0.2.7\r\nx-forwarded-for: 10.1.1.1\r\n",
            "seven",
        ),
        (
            "x-forwarded-for: 192.0.2.8\r\nx-forwarded-for: 192.0.2.7\r\nx-forwarded-for: \r\n",
            "seven",
        ),
        (
            "x-forwarded-for: 192.0.2.7\r\nx-forwarded-for: 192.0.2.8\r\n",
            "other",
        ),
        (
            "x-forwarded-for: 192.0.2.7\r\nx-forwarded-for: unknown\r\n",
            "other",
        ),
        ("x-forwarded-for: 192.0.2.7:80\r\n", "seven"),
        (
            "x-forwarded-for: 192.0.2.7:4711, [::1]:80, [::1], ::1, 10.1.1.1:80\r\n",
            "seven",
        ),
        ("x-forwarded-for: [::ffff:192.0.2.7]:80\r\n", "seven"),
        ("x-forwarded-for: 192.0.2.7, [::1]x\r\n", "other"),
    ] {
        assert_eq!(ask(&proxy, lines), client, "{lines:?}");
    }
    ask(
        &proxy,
        "x-forwarded-for: 192.0.2.8\r\nx-forwarded-for: 10.1.1.1\r\n",
    );
    assert_eq!(
        other.last().field("x-forwarded-for").as_deref(),
        Some("192.0.2.8, 10.1.1.1, 127.0.0.1")
    );
}

const FAMILY: [&str; 13] = [
    "forwarded",
    "x-forwarded",
    "x-forwarded-by",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-forwarded-client-cert",
    "x-real-ip",
    "front-end-https",
];

/// The family's fields with a forged value, as lines.
fn forged() -> String {
    FAMILY.map(|name| format!("{name}: forged\r\n")).concat()
}

#[test]
fn a_stranger_says_nothing_about_itself() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let upper = forged().to_ascii_uppercase();
    for lines in [forged(), upper] {
        ask(&proxy, &lines);
        let seen = origin.last();
        let head = String::from_utf8_lossy(&seen.head).to_ascii_lowercase();
        assert!(!head.contains("forged"), "{head}");
        assert_eq!(seen.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
        assert_eq!(seen.field("x-forwarded-proto").as_deref(), Some("http"));
        assert_eq!(seen.field("x-forwarded-host").as_deref(), Some("test"));
    }
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let mut request = Request::get("http://test/");
        for name in FAMILY {
            request = request.header(name, "forged");
        }
        let answer = client.ask(request.body(()).expect("a request"), Bytes::new());
        assert_eq!(answer.await.expect("an answer").status, 200);
    });
    let head = String::from_utf8_lossy(&origin.last().head).to_ascii_lowercase();
    assert!(!head.contains("forged"), "{head}");
    assert_eq!(
        origin.last().field("x-forwarded-proto").as_deref(),
        Some("http")
    );
}

#[test]
fn a_trusted_proxy_is_believed_in_all_that_it_says() {
    let origin = Origin::named("blue");
    let proxy = listening(TRUSTING, &single(&origin.at(), "")).start();
    ask(&proxy, &forged());
    for name in FAMILY {
        assert_eq!(
            origin.last().field(name).as_deref(),
            Some("forged"),
            "{name}"
        );
    }
}

#[test]
fn connection_cannot_remove_what_the_proxy_sets() {
    let origin = Origin::named("blue");
    let ours = "x-request-id, x-forwarded-proto, x-forwarded-host, x-forwarded-for, via";
    let lines = format!(
        "connection: {ours}, x-own\r\nx-request-id: theirs\r\nx-forwarded-proto: https\r\n\
         x-forwarded-host: other\r\nx-forwarded-for: 192.0.2.7\r\nvia: 1.1 theirs\r\nx-own: 1\r\n"
    );
    for keys in ["", TRUSTING] {
        let proxy = listening(keys, &single(&origin.at(), "")).start();
        ask(&proxy, &lines);
        let seen = origin.last();
        let id = seen.field("x-request-id").expect("an id");
        assert_eq!(id.len(), 32, "{id}");
        assert_eq!(seen.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
        assert_eq!(seen.field("x-forwarded-proto").as_deref(), Some("http"));
        assert_eq!(seen.field("x-forwarded-host").as_deref(), Some("test"));
        assert_eq!(seen.field("via").as_deref(), Some("1.1 cutover"));
        assert_eq!(seen.field("x-own"), None);
    }
}

#[test]
fn a_session_cookie_is_secure_where_a_trusted_proxy_says_https() {
    let origin = Origin::named("blue");
    let service = single(&origin.at(), "sticky.cookie = \"s\"");
    let is_secure = |proxy: &Proxy, lines: &str| {
        let request = format!("GET / HTTP/1.1\r\nhost: test\r\n{lines}\r\n");
        let cookie = proxy.client().ask(&request).field("set-cookie");
        cookie.expect("a cookie").contains("; Secure")
    };
    let strange = serve(&service);
    assert!(!is_secure(&strange, "x-forwarded-proto: https\r\n"));
    let trusting = listening(TRUSTING, &service).start();
    assert!(is_secure(&trusting, "x-forwarded-proto: https\r\n"));
    assert!(is_secure(&trusting, "x-forwarded-proto: HTTPS, http\r\n"));
    assert!(!is_secure(&trusting, "x-forwarded-proto: http\r\n"));
    assert!(!is_secure(&trusting, ""));
}

#[test]
fn an_origin_behind_a_unix_socket_gets_a_host_where_the_client_names_none() {
    let builder = Builder::rest(
        "[service.app]\nstable = \"v1\"\nversions.v1 = [\"unix:$DIR/origin.sock\"]\n",
    );
    Origin::unix_each(&builder.dir().join("origin.sock"), |request| {
        String::from_utf8_lossy(&request.head).into_owned()
    });
    let proxy = builder.start();
    let seen = proxy.client().ask("GET / HTTP/1.0\r\n\r\n").text();
    assert!(seen.contains("\r\nhost: localhost\r\n"), "{seen}");
}
