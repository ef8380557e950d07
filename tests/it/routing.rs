//! Which service and which version a request goes to.

use crate::support::client::Client;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, command, serve};

/// The body of the answer to a GET with these header lines, or its status.
#[track_caller]
fn asks(client: &mut Client, method: &str, target: &str, fields: &str) -> String {
    let answer = client.ask(&format!("{method} {target} HTTP/1.1\r\n{fields}\r\n\r\n"));
    match answer.status() {
        200 => answer.text(),
        status => status.to_string(),
    }
}

#[test]
fn the_most_specific_route_wins() {
    let services = [
        ("any", ""),
        ("exact", "hosts = [\"shop.test\"]"),
        ("wild", "hosts = [\"*.test\"]"),
        ("deep", "hosts = [\"*.api.test\"]"),
        ("path", "hosts = [\"shop.test\"]\npaths = [\"/v1/*\"]"),
        ("deeper", "hosts = [\"shop.test\"]\npaths = [\"/v1/x/*\"]"),
        ("one", "hosts = [\"shop.test\"]\npaths = [\"/v1/x/one\"]"),
        ("only", "hosts = [\"only.test\"]\npaths = [\"/only\"]"),
    ];
    let origins = services.map(|(name, _)| Origin::named(name));
    let file: String = services
        .iter()
        .zip(&origins)
        .map(|((name, keys), origin)| {
            let at = origin.at();
            format!("[service.{name}]\n{keys}\nstable = \"v\"\nversions.v = [\"{at}\"]\n")
        })
        .collect();
    let proxy = serve(&file);
    let mut client = proxy.client();
    for (host, path, name) in [
        ("nowhere.example", "/", "any"),
        ("shop.test", "/", "exact"),
        ("SHOP.test", "/", "exact"),
        ("shop.test.", "/", "exact"),
        ("shop.test:8080", "/", "exact"),
        ("a.test", "/", "wild"),
        ("a.b.test", "/", "wild"),
        ("a.api.test", "/", "deep"),
        ("test", "/", "any"),
        ("shop.test", "/v1", "path"),
        ("shop.test", "/v1/", "path"),
        ("shop.test", "/v1/y", "path"),
        ("shop.test", "/v10", "exact"),
        ("shop.test", "/v1/x", "deeper"),
        ("shop.test", "/v1/x/one", "one"),
        ("shop.test", "/v1/x/one/", "deeper"),
        ("shop.test", "/v1/x/one?q", "one"),
        ("shop.test", "/V1/x", "exact"),
        ("only.test", "/only", "only"),
        ("only.test", "/else", "wild"),
    ] {
        let got = asks(&mut client, "GET", path, &format!("host: {host}"));
        assert_eq!(got, name, "{host}{path}");
    }
}

#[test]
fn rules_see_every_part_of_a_request() {
    let names = ["stable", "canary"];
    let origins = names.map(Origin::named);
    let rules = [
        "header.x-canary = \"always\"",
        "header.x-email = \"*@example.com\", path = \"/api/*\"",
        "cookie.group = [\"beta\", \"gamma\"]",
        "query.v = \"/^2\\\\.[0-9]+$/\"",
        "method = \"PUT\", ip = \"127.0.0.0/8\"",
        "ip = [\"10.0.0.0/8\", \"::1\"]",
    ];
    let rules: String = rules
        .map(|when| format!("[[service.app.match]]\nwhen = {{ {when} }}\nto = \"canary\"\n"))
        .concat();
    let proxy = serve(&format!(
        "[service.app]\nstable = \"stable\"\n{rules}[service.app.versions]\nstable = [\"{}\"]\ncanary = [\"{}\"]\n",
        origins[0].at(),
        origins[1].at()
    ));
    let mut client = proxy.client();
    for (method, target, fields, canary) in [
        ("GET", "/", "", false),
        ("GET", "/", "x-canary: always", true),
        ("GET", "/", "X-CANARY: always", true),
        ("GET", "/", "x-canary: Always", false),
        ("GET", "/", "x-canary: alway", false),
        ("GET", "/", "x-canary: no\r\nx-canary: always", true),
        ("GET", "/api/x", "x-email: me@example.com", true),
        ("GET", "/", "x-email: me@example.com", false),
        ("GET", "/api/x", "x-email: me@example.org", false),
        ("GET", "/", "cookie: a=b; group=beta", true),
        ("GET", "/", "cookie: group=gamma", true),
        ("GET", "/", "cookie: group=delta", false),
        ("GET", "/", "cookie: xgroup=beta", false),
        ("GET", "/?v=2.10", "", true),
        ("GET", "/?a=b&v=2.1", "", true),
        ("GET", "/?v=2.x", "", false),
        ("PUT", "/", "content-length: 0", true),
    ] {
        let fields = format!("host: test\r\n{fields}");
        let got = asks(&mut client, method, target, fields.trim_end());
        assert_eq!(
            got,
            names[usize::from(canary)],
            "{method} {target} {fields}"
        );
    }
    let hits = |rule: &str| {
        let labels = [("service", "app"), ("rule", rule)];
        proxy.metrics().sum("cutover_match_hits_total", &labels)
    };
    assert_eq!(
        ["0", "1", "2", "3", "4", "5"].map(hits),
        [3.0, 1.0, 2.0, 2.0, 1.0, 0.0]
    );
}

#[test]
fn explain_says_what_the_proxy_does() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let proxy = serve(&format!(
        "[service.app]\nstable = \"a\"\nsplit = {{ b = \"30%\" }}\ncohort.by = [\"header:x-user\"]\n\
         [service.app.versions]\na = [\"{}\"]\nb = [\"{}\"]\n",
        a.at(),
        b.at()
    ));
    let mut client = proxy.client();
    for user in 0..30 {
        let fields = format!("host: test\r\nx-user: u{user}");
        let got = asks(&mut client, "GET", "/", &fields);
        let header = format!("x-user: u{user}");
        let url = format!("http://test:{}/", proxy.port);
        let said = proxy.command(&["explain", &url, "-H", &header]);
        assert_eq!(said.code, 0, "{said:?}");
        let decided = said.stdout.lines().next().unwrap_or_default();
        assert!(
            decided.ends_with(&format!("-> app {got}")),
            "{got}: {said:?}"
        );
    }
}

/// The admin API's explanation of a GET with these header lines.
fn explained(proxy: &Proxy, host: &str, target: &str, fields: &[String]) -> serde_json::Value {
    let encoded = |text: &str| -> String {
        let bytes = text.bytes();
        bytes.map(|b| format!("%{b:02x}")).collect()
    };
    let mut query = format!("url={}", encoded(&format!("http://{host}{target}")));
    for field in fields {
        query += &format!("&header={}", encoded(field));
    }
    let answer = proxy.ask_admin(&format!("/api/v1/explain?{query}"));
    serde_json::from_slice(&answer.body).expect("an explanation")
}

/// The version that the explanation names, or the status of the proxy's own answer.
fn named(told: &serde_json::Value) -> String {
    let text = |key: &str| told[key].as_str().map(str::to_owned);
    let own = text("answer").map(|a| a.split(' ').next().unwrap_or_default().to_owned());
    own.or_else(|| text("version"))
        .unwrap_or_else(|| panic!("neither a version nor an answer in {told:#}"))
}

#[test]
fn explain_names_the_version_that_answers() {
    let names = ["v1", "v2", "v3"];
    let origins = names.map(Origin::named);
    let [v1, v2, v3] = [0, 1, 2].map(|i| origins[i].at());
    let proxy = serve(&format!(
        r#"
[service.app]
stable = "v1"
split = {{ v2 = "40%", v3 = "20%" }}
cohort.by = ["cookie:uid", "header:x-user", "ip"]
sticky = {{}}
outlier = {{ panic = "0%" }}
[service.app.versions]
v1 = ["{v1}"]
v2 = ["{v2}"]
[service.app.versions.v3]
endpoints = ["{v3}"]
preview = "v3.test"
[[service.app.match]]
when = {{ header.x-to = "v2" }}
to = "v2"
[[service.app.match]]
when = {{ header.x-to = "only-v2" }}
to = "v2"
strict = true
[[service.app.match]]
when = {{ query.v = "3", path = "/api/*" }}
to = "v3"
"#
    ));
    let mut requests: Vec<(&str, &str, Vec<String>)> = vec![
        ("v3.test", "/", vec![]),
        ("V3.TEST.", "/?a#b", vec!["x-to: v2".into()]),
        ("app.test", "/", vec![]),
        ("app.test", "/api/x?v=3", vec![]),
        ("app.test", "/api/../x?v=3", vec![]),
        ("app.test", "/", vec!["x-to: v2".into()]),
        ("app.test", "/", vec!["x-to: only-v2".into()]),
        ("app.test", "/", vec!["X-User:   42  ".into()]),
        (
            "app.test",
            "/",
            vec!["cookie: uid=".into(), "x-user: 42".into()],
        ),
    ];
    let mut client = proxy.client();
    for user in 0..40 {
        let uid = format!("cookie: uid={user}");
        let answer = client.ask(&format!(
            "GET / HTTP/1.1\r\nhost: app.test\r\n{uid}\r\n\r\n"
        ));
        let set = answer.field("set-cookie").expect("a session begins");
        let session = set.split(';').next().expect("a cookie").to_owned();
        requests.push(("app.test", "/", vec![uid]));
        // The session of one user with the cohort key of another.
        let other = user + 1;
        requests.push((
            "app.test",
            "/",
            vec![format!("cookie: uid={other}; {session}")],
        ));
    }
    let mut agree = |state: &str| {
        for (host, target, fields) in &requests {
            let lines = fields.join("\r\n");
            let target_sent = target.split('#').next().unwrap_or_default();
            let fields_sent = format!("host: {host}\r\n{lines}");
            let got = asks(&mut client, "GET", target_sent, fields_sent.trim_end());
            let told = explained(&proxy, host, target, fields);
            assert_eq!(
                named(&told),
                got,
                "{state}: {host}{target} {fields:?} {told:#}"
            );
        }
    };
    agree("all are up");
    let file = proxy.file();
    for (version, state) in [("v2", "v2 is down"), ("v1", "only v3 is up")] {
        let file = file.to_str().expect("UTF-8");
        // By the control socket, which needs no token.
        let drained = command(&["drain", "app", version, "-c", file], proxy.dir());
        assert_eq!(drained.code, 0, "{drained:?}");
        agree(state);
    }
    let said = proxy.command(&["explain", "http://app.test/", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(named(&told), "v3");
}
