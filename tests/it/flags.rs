//! Flags: who gets them, what the application is told, and what is counted.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use serde_json::json;

use crate::support::client::Client;
use crate::support::h2_client::H2;
use crate::support::h2_origin::H2Origin;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, command, serve};
use crate::support::{PATIENCE, block_on, until};

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
fn the_access_log_names_the_flags_that_were_on() {
    let origin = Origin::named("app");
    let flags = "search = { share = \"100%\" }\nnever = { share = \"0%\" }\nbeta = { when = { header.x-staff = \"yes\" } }\n";
    let off = "[service.plain]\nhosts = [\"plain.test\"]\n";
    let proxy = serve(&format!(
        "[access_log]\nto = \"$DIR/access.log\"\n{}{off}versions = {{ v1 = [\"{}\"] }}\n",
        file(&origin, flags),
        origin.at()
    ));
    let mut client = proxy.client();
    for (host, lines) in [
        ("app.test", ""),
        ("app.test", "x-staff: yes\r\n"),
        ("plain.test", "x-flags: forged\r\n"),
    ] {
        client.ask(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n{lines}\r\n"));
    }
    let text = until("three lines", || {
        let text = std::fs::read_to_string(proxy.dir().join("access.log")).ok()?;
        (text.lines().count() == 3).then_some(text)
    });
    let logged: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["flags"].clone())
        .collect();
    assert_eq!(logged, [json!("search"), json!("beta,search"), json!(null)]);
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

/// The command returns when every worker has the new share: no request after it may have the flag.
#[test]
fn the_kill_switch_is_live_on_every_worker_when_the_command_returns() {
    let origin = Origin::named("app");
    let flags = "# the line\nnew-checkout = { share = \"100%\" }   # of users\n";
    let proxy = serve(&file(&origin, flags));
    let before = proxy.text();
    assert!(!flags_of_many_connections(&proxy, &origin).is_empty());
    let killed = proxy.local(&["flag", "app", "new-checkout=0%"]);
    assert_eq!(killed.code, 0, "{}", killed.stderr);
    assert!(
        killed
            .stdout
            .starts_with("app: new-checkout 0%: live on every worker after"),
        "{}",
        killed.stdout
    );
    assert_eq!(flags_of_many_connections(&proxy, &origin), [""; 0]);
    assert_eq!(proxy.text(), before.replace("\"100%\"", "\"0%\""));
    let history = proxy.local(&["history", "app"]);
    let line = "flag new-checkout 100% -> 0%";
    assert!(history.stdout.contains(line), "{}", history.stdout);

    let unknown = proxy.local(&["flag", "app", "new-chekout=5%"]);
    assert_eq!(unknown.code, 1);
    assert!(
        unknown.stderr.contains("did you mean `new-checkout`?"),
        "{}",
        unknown.stderr
    );
}

/// The flags of requests on connections of their own, which the kernel spreads over the workers.
fn flags_of_many_connections(proxy: &Proxy, origin: &Origin) -> Vec<String> {
    let on_a_new_one = |_| flags(&mut proxy.client(), origin, "");
    (0..32).flat_map(on_a_new_one).collect()
}

/// The time from the save of the file to the end of the first round of requests without the flag, one on each of many connections.
#[test]
fn a_flag_is_off_on_every_worker_a_moment_after_the_file_is_saved() {
    let origin = Origin::named("app");
    let on = file(&origin, "f = { share = \"100%\" }\n");
    let proxy = serve(&on);
    let mut clients: Vec<Client> = (0..16).map(|_| proxy.client()).collect();
    let mut kill = || {
        std::fs::write(proxy.file(), proxy.whole(&on.replace("100%", "0%"))).expect("it is saved");
        let saved = Instant::now();
        while { clients.iter_mut() }.any(|client| !flags(client, &origin, "").is_empty()) {
            assert!(saved.elapsed() < PATIENCE, "it stays on");
        }
        let took = saved.elapsed();
        proxy.edit(&on);
        took
    };
    let took: Vec<Duration> = (0..5).map(|_| kill()).collect();
    eprintln!("off on every worker after {took:.0?}");
    // Other tests may have the processors for a while.
    let fastest = took.iter().min().expect("five of them");
    assert!(*fastest < Duration::from_millis(100), "{took:.0?}");
}

#[test]
fn a_proxy_edits_its_own_file_over_the_api() {
    let origin = Origin::named("app");
    let flags = "f = { when = { path = \"/staff\" } }\n";
    let builder = Builder::new(&format!(
        "listen = \"127.0.0.1:$PORT\"\n[admin]\nlisten = \"127.0.0.1:$ADMIN\"\ntoken_file = \"$DIR/token\"\n{}",
        file(&origin, flags)
    ));
    let token = builder.dir().join("token");
    std::fs::write(&token, "s3cret-token").expect("write the token");
    std::fs::set_permissions(&token, Permissions::from_mode(0o600)).expect("its mode");
    let proxy = builder.start();
    let address = format!("127.0.0.1:{}", proxy.admin);
    let token = token.to_str().expect("a path in UTF-8");
    let flag = |change: &str| {
        let arguments = [
            "flag",
            "app",
            change,
            "--admin",
            &address,
            "--token-file",
            token,
        ];
        command(&arguments, proxy.dir())
    };
    let edited = flag("f=25%");
    assert_eq!(edited.code, 0, "{}", edited.stderr);
    let line = "f = { when = { path = \"/staff\" }, share = \"25%\" }";
    assert!(proxy.text().contains(line), "{}", proxy.text());
    let unknown = flag("g=1%");
    assert_eq!(unknown.code, 1);
    assert!(unknown.stderr.contains("no flag `g`"), "{}", unknown.stderr);
    let off = proxy.local(&["flag", "app", "f=0%"]);
    assert!(
        off.stdout.contains("f stays on for requests"),
        "{}",
        off.stdout
    );
}

#[test]
fn explain_plan_and_status_show_flags() {
    let origin = Origin::named("app");
    let text = file(
        &origin,
        "all = { share = \"100%\" }\nstaff = { share = \"0%\", when = { header.x-staff = \"yes\" } }\n\
         [service.app.goals]\npurchase = \"POST /buy 2xx\"\n",
    );
    let proxy = serve(&text);
    let explained = proxy.local(&["explain", "http://app.test/", "-H", "x-staff: yes"]);
    for sentence in [
        "flag all is on: its share is 100%",
        "flag staff is on: header.x-staff = \"yes\"",
    ] {
        assert!(explained.stdout.contains(sentence), "{}", explained.stdout);
    }
    let plan = proxy.dir().join("plan.toml");
    let lowered = proxy.text().replace("\"100%\"", "\"60%\"");
    std::fs::write(&plan, lowered).expect("write");
    let planned = proxy.local(&["plan", plan.to_str().expect("UTF-8")]);
    assert!(
        planned.stdout.contains("40% of users lose flag all"),
        "{}",
        planned.stdout
    );

    let mut client = proxy.client();
    for request in ["POST /buy", "POST /buy", "GET /", "GET /"] {
        client.ask(&format!(
            "{request} HTTP/1.1\r\nhost: app.test\r\ncontent-length: 0\r\n\r\n"
        ));
    }
    let service = until("all are counted", || {
        let service = proxy.status()["services"][0].clone();
        (service["flags"][0]["requests"]["on"] == 4).then_some(service)
    });
    let all = &service["flags"][0];
    assert_eq!(all["name"], "all");
    assert_eq!(all["share"], "100%");
    let of_flag = &all["goals"]["purchase"]["on"];
    let of_version = &service["versions"][0]["goals"]["purchase"];
    for conversion in [of_flag, of_version] {
        assert_eq!(conversion["reached"], 2);
        assert_eq!(conversion["requests"], 4);
        assert_eq!(conversion["ratio"], 0.5);
        let (low, high) = (conversion["low"].as_f64(), conversion["high"].as_f64());
        assert!(low < Some(0.5) && high > Some(0.5), "{conversion}");
    }
    assert_eq!(service["flags"][1]["requests"]["off"], 4);
    let shown = proxy.local(&["status"]);
    for text in ["app: flags", "app: conversions", "all on", "50.00 %"] {
        assert!(shown.stdout.contains(text), "{}", shown.stdout);
    }
}
