//! Flags: who gets them, what the application is told, and what is counted.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::Request;

use crate::support::client::Client;
use crate::support::h2_client::H2;
use crate::support::h2_origin::H2Origin;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, serve};
use crate::support::{block_on, until};

const COHORT: &str = "[service.app.cohort]\nby = \"header:x-user\"\n";

/// A file for `origin` with these flags.
fn file(origin: &Origin, flags: &str) -> String {
    let at = origin.at();
    format!("[service.app]\nversions = {{ v1 = [\"{at}\"] }}\n{COHORT}[service.app.flags]\n{flags}")
}

fn requests(proxy: &Proxy, flag: &str, state: &str) -> f64 {
    let labels = [("service", "app"), ("flag", flag), ("state", state)];
    proxy.metrics().sum("cutover_flag_requests_total", &labels)
}

/// The values of `x-flags` that the origin gets for a request with these lines.
fn flags(client: &mut Client, origin: &Origin, lines: &str) -> Vec<String> {
    client.ask(&format!("GET / HTTP/1.1\r\nhost: app.test\r\n{lines}\r\n"));
    origin.last().all("x-flags")
}

/// The users among 400 who have a flag.
fn users(proxy: &Proxy, origin: &Origin) -> BTreeSet<u32> {
    let mut client = proxy.client();
    (0..400)
        .filter(|n| !flags(&mut client, origin, &format!("x-user: {n}\r\n")).is_empty())
        .collect()
}

#[test]
fn the_application_is_told_the_flags_that_are_on_and_clients_can_not_set_them() {
    let origin = Origin::named("app");
    let proxy = serve(&file(
        &origin,
        "search = { share = \"100%\" }\nnever = { share = \"0%\" }\nbeta = { when = { header.x-staff = \"yes\" } }\n",
    ));
    let mut client = proxy.client();
    let forged = "X-Flags: never\r\nx-flags: beta\r\n";
    assert_eq!(flags(&mut client, &origin, forged), ["search"]);
    let staff = format!("x-staff: yes\r\n{forged}");
    assert_eq!(flags(&mut client, &origin, &staff), ["beta,search"]);
    // A request is counted just after its client has got the response.
    until("both are counted", || {
        (requests(&proxy, "search", "on") == 2.0).then_some(())
    });
    for (flag, state, n) in [
        ("beta", "on", 1.0),
        ("beta", "off", 1.0),
        ("search", "off", 0.0),
        ("never", "off", 2.0),
        ("never", "on", 0.0),
    ] {
        assert_eq!(requests(&proxy, flag, state), n, "{flag} {state}");
    }
}

#[test]
fn no_flag_is_no_field_and_other_services_drop_it_from_clients_too() {
    let (flagged, plain) = (Origin::named("flagged"), Origin::named("plain"));
    let proxy = serve(&format!(
        "[service.app]\nversions = {{ v1 = [\"{}\"] }}\n{COHORT}[service.app.flags.f]\nshare = \"0%\"\n\
         [service.plain]\nhosts = [\"plain.test\"]\nversions = {{ v1 = [\"{}\"] }}\n",
        flagged.at(),
        plain.at()
    ));
    for (host, origin) in [("app.test", &flagged), ("plain.test", &plain)] {
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nx-flags: f\r\n\r\n");
        proxy.client().ask(&request);
        assert_eq!(origin.last().all("x-flags"), Vec::<String>::new(), "{host}");
    }
}

#[test]
fn a_trusted_proxy_decides_only_where_the_service_has_no_flags() {
    let (flagged, plain) = (Origin::named("flagged"), Origin::named("plain"));
    let proxy = Builder::new(&format!(
        "admin = \"127.0.0.1:$ADMIN\"\n[listen.main]\nbind = \"127.0.0.1:$PORT\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n\
         [service.app]\nversions = {{ v1 = [\"{}\"] }}\n{COHORT}[service.app.flags.f]\nshare = \"100%\"\n\
         [service.plain]\nhosts = [\"plain.test\"]\nversions = {{ v1 = [\"{}\"] }}\n",
        flagged.at(),
        plain.at()
    ))
    .start();
    for (host, origin, told) in [("app.test", &flagged, "f"), ("plain.test", &plain, "a,b")] {
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nx-flags: a,b\r\n\r\n");
        proxy.client().ask(&request);
        assert_eq!(origin.last().all("x-flags"), [told], "{host}");
    }
}

#[test]
fn users_keep_a_flag_while_its_share_rises_and_lose_it_in_the_reverse_order() {
    let origin = Origin::named("app");
    let text = |share: &str| {
        file(
            &origin,
            &format!("new-checkout = {{ share = \"{share}\" }}\n"),
        )
    };
    let proxy = serve(&text("5%"));
    let few = users(&proxy, &origin);
    proxy.edit(&text("25%"));
    let more = users(&proxy, &origin);
    assert!((60..=140).contains(&more.len()), "{}", more.len());
    assert!(
        few.len() < more.len() && few.is_subset(&more),
        "{few:?} {more:?}"
    );
    proxy.edit(&text("5%"));
    assert_eq!(users(&proxy, &origin), few);
    proxy.edit(&text("0%"));
    assert_eq!(users(&proxy, &origin), BTreeSet::new());
}

/// From HTTP/2 to HTTP/2, and to HTTP/1.1 in between.
#[test]
fn flags_reach_applications_over_http2() {
    let (h1, h2) = (Origin::named("h1"), H2Origin::named("h2"));
    let proxy = serve(&format!(
        "[service.app]\nstable = \"h1\"\n[service.app.versions]\nh1 = [\"{}\"]\nh2 = [\"{}\"]\n{COHORT}\
         [service.app.flags]\nb = {{ share = \"100%\" }}\na = {{ share = \"100%\" }}\n\
         [[service.app.match]]\nwhen = {{ path = \"/h2\" }}\nto = \"h2\"\n",
        h1.at(),
        h2.h2c()
    ));
    block_on(async {
        let client = H2::connect(proxy.port).await;
        for path in ["/h1", "/h2"] {
            let request =
                Request::get(format!("http://app.test{path}")).header("x-flags", "forged");
            let request = request.body(()).expect("a request");
            client.ask(request, Bytes::new()).await.expect("an answer");
        }
    });
    assert_eq!(h1.last().all("x-flags"), ["a,b"]);
    let heads = h2.heads();
    let told: Vec<_> = heads[0].headers().get_all("x-flags").iter().collect();
    assert_eq!(told, ["a,b"]);
}
