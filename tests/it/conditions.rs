//! Rules that exclude or list alternatives, listeners for some services, and limits of bodies by service.

use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, serve};

fn ask(proxy: &Proxy, target: &str, lines: &str) -> u16 {
    let request = format!("GET {target} HTTP/1.1\r\nhost: test\r\n{lines}\r\n");
    proxy.client().ask(&request).status()
}

#[test]
fn conditions_under_not_exclude_and_a_list_has_alternatives() {
    let origin = Origin::named("app");
    let proxy = serve(&format!(
        "[service.app]\nversions = {{ v1 = [\"{}\"] }}\n\
         [[service.app.match]]\nwhen = {{ path = \"/admin/*\", not.ip = [\"10.0.0.0/8\", \"::1\"] }}\nrespond = {{ status = 403 }}\n\
         [[service.app.match]]\nwhen = [{{ header.x-a = \"1\" }}, {{ query.b = \"2\", not = {{ header.x-c = \"*\", method = \"PUT\" }} }}]\n\
         respond = {{ status = 404 }}\n\
         [[service.app.match]]\nwhen = {{ not.header.accept = \"*\" }}\nrespond = {{ status = 406 }}\n",
        origin.at()
    ));
    for (target, lines, status) in [
        ("/admin/x", "accept: a\r\n", 403),
        ("/%61dmin/x", "accept: a\r\n", 400),
        ("/", "accept: a\r\n", 200),
        ("/", "", 406),
        ("/", "x-a: 1\r\n", 404),
        ("/?b=2", "accept: a\r\n", 404),
        ("/?b=2", "accept: a\r\nx-c: any\r\n", 200),
        ("/?b=2", "accept: a\r\nx-c: any\r\nx-a: 1\r\n", 404),
    ] {
        assert_eq!(ask(&proxy, target, lines), status, "{target} {lines}");
    }
    let said = proxy
        .command(&["explain", "http://test/?b=2", "-H", "accept: a"])
        .stdout;
    let rule = "rule 2 (header.x-a = \"1\", or query.b = \"2\" and not header.x-c = \"*\" and not method = \"PUT\")";
    assert!(said.contains(rule), "{said}");
}

#[test]
fn a_body_may_be_larger_or_smaller_by_service() {
    let origin = Origin::named("app");
    let versions = format!("versions = {{ v1 = [\"{}\"] }}", origin.at());
    let proxy = Builder::new(&format!(
        "listen = \"127.0.0.1:$PORT\"\nadmin = \"127.0.0.1:$ADMIN\"\nworkers = 1\nstate_dir = \"$DIR/state\"\n\
         limits.body_bytes = \"100B\"\n[service.same]\nhosts = [\"same.test\"]\n{versions}\n\
         [service.more]\nhosts = [\"more.test\"]\nbody_bytes = \"200B\"\n{versions}\n\
         [service.less]\nhosts = [\"less.test\"]\nbody_bytes = \"10B\"\n{versions}\n\
         [service.any]\nhosts = [\"any.test\"]\nbody_bytes = \"none\"\n{versions}\n"
    ))
    .start();
    for (host, length, status) in [
        ("same", 100, 200),
        ("same", 101, 413),
        ("more", 200, 200),
        ("more", 201, 413),
        ("less", 10, 200),
        ("less", 11, 413),
        ("any", 5000, 200),
    ] {
        let body = "x".repeat(length);
        let whole = format!(
            "POST / HTTP/1.1\r\nhost: {host}.test\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        assert_eq!(
            proxy.client().ask(&whole).status(),
            status,
            "{host} {length}"
        );
        let chunks = format!(
            "POST / HTTP/1.1\r\nhost: {host}.test\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
        );
        assert_eq!(
            proxy.client().ask(&chunks).status(),
            status,
            "{host} {length} in chunks"
        );
    }
}

#[test]
fn a_listener_offers_the_services_that_it_names() {
    let (shop, admin, any) = (
        Origin::named("shop"),
        Origin::named("admin"),
        Origin::named("any"),
    );
    let file = |services: &str| {
        format!(
            "admin = \"127.0.0.1:$ADMIN\"\nworkers = 1\nstate_dir = \"$DIR/state\"\n\
             [listen.public]\nbind = \"127.0.0.1:$PORT\"\nservices = {services}\n\
             [listen.internal]\nbind = \"127.0.0.1:$PORT2\"\n\
             [service.shop]\nhosts = [\"shop.test\"]\nversions = {{ v1 = [\"{}\"] }}\n\
             [service.admin]\nhosts = [\"admin.test\"]\nversions = {{ v1 = [\"{}\"] }}\n\
             [service.any]\nversions = {{ v1 = [\"{}\"] }}\n",
            shop.at(),
            admin.at(),
            any.at()
        )
    };
    let proxy = Builder::new(&file("[\"shop\"]")).start();
    let ask = |port: u16, host: &str| {
        let mut client = crate::support::client::Client::new(port);
        let answer = client.ask(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        match answer.status() {
            200 => answer.text(),
            status => status.to_string(),
        }
    };
    let port2 = proxy.filled("$PORT2").parse().unwrap();
    let hosts = ["shop.test", "admin.test", "other.test"];
    assert_eq!(hosts.map(|h| ask(proxy.port, h)), ["shop", "404", "404"]);
    assert_eq!(hosts.map(|h| ask(port2, h)), ["shop", "admin", "any"]);
    let url = format!("http://admin.test:{}/", proxy.port);
    let said = proxy.command(&["explain", &url]).stdout;
    assert!(said.contains("404 no-route"), "{said}");
    assert!(said.contains("offers these services only: shop"), "{said}");
    let text = proxy.filled(&file("[\"any\", \"shop\"]"));
    std::fs::write(proxy.file(), text).unwrap();
    crate::support::until("the listener offers more", || {
        (ask(proxy.port, "admin.test") == "any").then_some(())
    });
    assert_eq!(hosts.map(|h| ask(port2, h)), ["shop", "admin", "any"]);
}
