//! Edits of header fields: which tables apply, in which order, what placeholders stand for, and what can't be edited.

use bytes::Bytes;
use http::Request;

use crate::support::client::Client;
use crate::support::h2_client::H2;
use crate::support::h2_origin::H2Origin;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, serve, single};
use crate::support::tls::Authority;
use crate::support::wire::Message;
use crate::support::{block_on, free_port};

fn ask(proxy: &Proxy, lines: &str) -> Message {
    let request = format!("GET /x?q=1 HTTP/1.1\r\nhost: shop.test\r\n{lines}\r\n");
    proxy.client().ask(&request)
}

/// The values of a field in the head that the origin received last.
fn sent(origin: &Origin, name: &str) -> Vec<String> {
    origin.last().all(name)
}

#[test]
fn the_inner_table_wins() {
    let (blue, green) = (Origin::named("blue"), Origin::named("green"));
    let proxy = serve(&format!(
        "[defaults.headers.request]\nset = {{ x-a = \"defaults\", x-b = \"defaults\", x-c = \"defaults\", x-d = \"defaults\" }}\n\
         add = {{ x-many = \"1\" }}\nremove = [\"x-gone\"]\n\
         [service.app]\nstable = \"blue\"\n[service.app.headers.request]\nset = {{ x-b = \"service\", x-c = \"service\", x-d = \"service\" }}\n\
         add = {{ x-many = [\"2\", \"3\"] }}\n\
         [service.app.versions.blue]\nendpoints = [\"{}\"]\nheaders.request.set = {{ x-c = \"blue\" }}\n\
         [service.app.versions.green]\nendpoints = [\"{}\"]\nheaders.request.set = {{ x-c = \"green\", x-d = \"green\" }}\n\
         [[service.app.match]]\nwhen = {{ header.x-team = \"1\" }}\nto = \"green\"\n\
         headers.request = {{ set = {{ x-d = \"rule\" }}, remove = [\"x-a\", \"x-many\"], add = {{ x-many = \"4\" }} }}\n\
         [[service.app.match]]\nwhen = {{ header.x-team = \"2\" }}\nheaders.request.set = {{ x-e = \"edits only\" }}\n",
        blue.at(),
        green.at()
    ));
    let client_sends = "X-A: client\r\nx-many: 0\r\nX-Gone: client\r\nx-stays: client\r\n";
    assert_eq!(ask(&proxy, client_sends).text(), "blue");
    for (name, values) in [
        ("x-a", &["defaults"][..]),
        ("x-b", &["service"]),
        ("x-c", &["blue"]),
        ("x-d", &["service"]),
        ("x-e", &[]),
        ("x-many", &["0", "1", "2", "3"]),
        ("x-gone", &[]),
        ("x-stays", &["client"]),
    ] {
        assert_eq!(sent(&blue, name), values, "{name}");
    }
    let answer = ask(&proxy, &format!("{client_sends}x-team: 1\r\n"));
    assert_eq!(answer.text(), "green");
    for (name, values) in [
        ("x-a", &[][..]),
        ("x-c", &["green"]),
        ("x-d", &["rule"]),
        ("x-many", &["4"]),
    ] {
        assert_eq!(sent(&green, name), values, "{name}");
    }
    let answer = ask(&proxy, "x-team: 2\r\n");
    assert_eq!(answer.text(), "blue");
    assert_eq!(sent(&blue, "x-e"), ["edits only"]);
    assert_eq!(sent(&blue, "x-c"), ["blue"]);
    let said = proxy.command(&["explain", "http://shop.test/", "-H", "x-team: 2"]);
    assert!(
        said.stdout.contains("set x-e: edits only"),
        "{}",
        said.stdout
    );
}

#[test]
fn placeholders_stand_for_the_request_and_drop_a_field_without_value() {
    let origin = Origin::named("app");
    let proxy = serve(&format!(
        "[service.app]\nversions = {{ v1 = [\"{at}\"] }}\n[service.app.headers.request.set]\n\
         x-real-ip = \"{{client_ip}}\"\nx-where = \"{{service}}/{{version}}/{{endpoint}} {{{{{{host}}}}}}\"\nx-id = \"{{request_id}}\"\n\
         x-client-cert = \"{{tls.client.subject}}\"\nx-tls = \"v={{tls.version}}\"\n\
         [service.app.headers.response]\nset = {{ x-served-by = \"{{version}}\", x-tls = \"{{tls.version}}\" }}\n",
        at = origin.at()
    ));
    let answer = ask(
        &proxy,
        "x-real-ip: 6.6.6.6\r\nX-Client-Cert: CN=forged\r\nx-tls: forged\r\nx-request-id: abc-1\r\n",
    );
    assert_eq!(answer.field("x-served-by").as_deref(), Some("v1"));
    assert_eq!(answer.field("x-tls"), None);
    assert_eq!(sent(&origin, "x-real-ip"), ["127.0.0.1"]);
    let at = origin.at();
    assert_eq!(
        sent(&origin, "x-where"),
        [format!("app/v1/{at} {{shop.test}}")]
    );
    assert_eq!(sent(&origin, "x-id"), sent(&origin, "x-request-id"));
    assert_eq!(sent(&origin, "x-client-cert"), Vec::<String>::new());
    assert_eq!(sent(&origin, "x-tls"), Vec::<String>::new());
}

#[test]
fn a_clients_certificate_reaches_the_application() {
    let (authority, partners) = (Authority::new(), Authority::new());
    let origin = Origin::named("app");
    let builder = Builder::new(&format!(
        "admin = \"127.0.0.1:$ADMIN\"\nworkers = 1\nstate_dir = \"$DIR/state\"\n\
         [listen.tls]\nbind = \"127.0.0.1:$PORT\"\n[[listen.tls.cert]]\ncert = \"$DIR/shop.pem\"\n\
         key = \"$DIR/shop.key\"\nclient_ca = \"$DIR/partners.pem\"\n{}[service.app.headers.request.set]\n\
         x-subject = \"{{tls.client.subject}}\"\nx-print = \"{{tls.client.fingerprint}}\"\nx-tls = \"{{tls.version}}\"\n",
        single(&origin.at(), "")
    ));
    authority.issue(&["shop.test"]).save(builder.dir(), "shop");
    partners.save(&builder.dir().join("partners.pem"));
    let proxy = builder.start();
    let partner = partners.issue(&["partner"]);
    let stream = authority.connect_as(proxy.port, "shop.test", &["http/1.1"], Some(&partner));
    let mut client = Client::over(stream.unwrap());
    client.ask("GET / HTTP/1.1\r\nhost: shop.test\r\nx-subject: CN=forged\r\n\r\n");
    assert_eq!(sent(&origin, "x-tls"), ["TLSv1.3"]);
    let print = sent(&origin, "x-print").concat();
    assert!(
        print.len() == 64 && print.bytes().all(|b| b.is_ascii_hexdigit()),
        "{print}"
    );
    let subjects = sent(&origin, "x-subject");
    assert!(
        subjects.len() == 1 && !subjects[0].contains("forged"),
        "{subjects:?}"
    );
}

#[test]
fn both_protocols_are_edited_on_both_sides() {
    let (one, two) = (Origin::named("one"), H2Origin::named("two"));
    let edits = "headers.request = { set = { x-env = \"prod\", x-forwarded-proto = \"https\" }, remove = [\"x-secret\", \"user-agent\"] }\n\
                 headers.response = { set = { server = \"edge\" }, add = { x-extra = \"{service}\" } }\n";
    let proxy = serve(&format!(
        "[service.one]\nhosts = [\"one.test\"]\n{edits}versions = {{ v1 = [\"{}\"] }}\n\
         [service.two]\nhosts = [\"two.test\"]\n{edits}versions = {{ v1 = [\"{}\"] }}\n",
        one.at(),
        two.h2c()
    ));
    block_on(async {
        let client = H2::connect(proxy.port).await;
        for host in ["one", "two"] {
            let request = Request::get(format!("http://{host}.test/"))
                .header("x-secret", "1")
                .header("user-agent", "curl")
                .header("x-env", "client")
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .body(())
                .unwrap();
            let answer = client.ask(request, Bytes::new()).await.unwrap();
            assert_eq!(answer.headers["server"], "edge", "{host}");
            assert_eq!(answer.headers["x-extra"], host);
        }
    });
    for host in ["one", "two"] {
        let request =
            format!("GET / HTTP/1.1\r\nhost: {host}.test\r\nx-secret: 1\r\nX-ENV: client\r\n\r\n");
        let answer = proxy.client().ask(&request);
        assert_eq!(answer.field("server").as_deref(), Some("edge"), "{host}");
    }
    for head in one.requests() {
        assert_eq!(head.field("x-env").as_deref(), Some("prod"));
        assert_eq!(head.field("x-forwarded-proto").as_deref(), Some("https"));
        assert_eq!(
            (head.field("x-secret"), head.field("user-agent")),
            (None, None)
        );
    }
    assert_eq!(
        one.requests()[0].field("cookie").as_deref(),
        Some("a=1; b=2")
    );
    let heads = two.heads();
    assert_eq!(heads.len(), 2);
    for head in heads {
        let all: Vec<_> = head.headers().get_all("x-env").iter().collect();
        assert_eq!(all, ["prod"]);
        let all: Vec<_> = head.headers().get_all("x-forwarded-proto").iter().collect();
        assert_eq!(all, ["https"]);
        assert!(!head.headers().contains_key("x-secret"));
        assert!(!head.headers().contains_key("user-agent"));
    }
}

#[test]
fn responses_of_the_proxy_are_edited_too() {
    let down = format!("127.0.0.1:{}", free_port());
    let proxy = serve(&format!(
        "[defaults.headers.response]\nset = {{ strict-transport-security = \"max-age=1\" }}\nremove = [\"x-cutover-reason\"]\n\
         [service.down]\nhosts = [\"down.test\"]\nversions = {{ v1 = [\"{down}\"] }}\nretry.tries = 1\n\
         headers.response.set = {{ x-version = \"{{version}}\", content-type = \"application/json\" }}\n\
         [service.off]\nhosts = [\"off.test\"]\nrespond = {{ status = 503, retry_after = \"5s\" }}\n\
         headers.response.set = {{ retry-after = \"7\", x-version = \"{{version}}\" }}\n"
    ));
    for (host, status, version, retry) in [
        ("nowhere.test", 404, None, None),
        ("down.test", 502, Some("v1"), None),
        ("off.test", 503, None, Some("7")),
    ] {
        let answer = proxy
            .client()
            .ask(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        assert_eq!(answer.status(), status, "{host}");
        let field = |name: &str| answer.field(name);
        assert_eq!(
            field("strict-transport-security").as_deref(),
            Some("max-age=1")
        );
        assert_eq!(field("x-cutover-reason"), None, "{host}");
        assert_eq!(field("x-version").as_deref(), version, "{host}");
        assert_eq!(field("retry-after").as_deref(), retry, "{host}");
        assert_eq!(
            field("content-type").as_deref(),
            Some("text/plain; charset=utf-8")
        );
    }
    let broken = proxy.client().ask("GET / HTTP/1.1\r\nhost: a b\r\n\r\n");
    assert_eq!(broken.status(), 400);
    assert!(broken.field("strict-transport-security").is_some());
    block_on(async {
        let client = H2::connect(proxy.port).await;
        let call = Request::post("http://down.test/x.Y/Z")
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let answer = client.ask(call, Bytes::new()).await.unwrap();
        assert_eq!(answer.headers["content-type"], "application/grpc");
        assert_eq!(answer.headers["grpc-status"], "14");
        assert_eq!(answer.headers["x-version"], "v1");
    });
}

#[test]
fn a_response_with_a_session_stays_uncacheable_and_has_one_date() {
    let origin = Origin::raw(
        "HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n",
    );
    let proxy = serve(&format!(
        "[service.app]\nversions = {{ v1 = [\"{}\"] }}\nsticky = {{ cookie = \"c\" }}\n\
         headers.response = {{ set = {{ cache-control = \"public\" }}, remove = [\"set-cookie\", \"date\"] }}\n",
        origin.at()
    ));
    let answer = ask(&proxy, "");
    assert_eq!(answer.field("cache-control").as_deref(), Some("no-store"));
    let cookie = answer.field("set-cookie").unwrap();
    assert!(cookie.starts_with("c="), "{cookie}");
    let date = answer.field("date").expect("the proxy's own date");
    assert!(!date.contains("1970"), "{date}");
}
