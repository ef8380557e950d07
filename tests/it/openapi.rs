//! The answers of the admin API are as `docs/openapi.json` describes them.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::description::Description;
use crate::support::dns::DnsServer;
use crate::support::etcd::Etcd;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, serve};
use crate::support::tls::Authority;
use crate::support::wire::Message;
use crate::support::{pause, until};

const DESCRIPTION: &[u8] = include_bytes!("../../docs/openapi.json");

/// A proxy of whose services the status says as much as possible.
struct Described {
    proxy: Proxy,
    description: Description,
    _dns: DnsServer,
    _origins: [Origin; 2],
}

impl Described {
    fn new() -> Self {
        let stable = Origin::named("stable");
        let canary = Origin::each(|request, conn| match &*request.target() {
            "/ready" => conn.reply(200, "ok"),
            _ => conn.reply(500, "no"),
        });
        let dns = DnsServer::start();
        dns.set_addresses("app.test", 60, &["127.0.0.1"]);
        let (v1, v2) = (stable.at(), canary.at());
        let builder = Builder::new(&format!(
            "workers = 2\nstate_dir = \"$DIR/state\"\n[dns]\nservers = [\"{}\"]\n\
             [admin]\nlisten = \"127.0.0.1:$ADMIN\"\ntoken_file = \"$DIR/token\"\n\
             [listen.http]\nbind = \"127.0.0.1:$PORT\"\n\
             [listen.tls]\nbind = \"127.0.0.1:$PORT2\"\n[[listen.tls.cert]]\n\
             cert = \"$DIR/server.pem\"\nkey = \"$DIR/server.key\"\n\
             [service.shop]\nhosts = [\"test\"]\nstable = \"v1\"\nsplit = {{ v2 = \"rollout\" }}\ncheck = \"/ready\"\n\
             cohort.by = [\"ip\"]\n\
             [service.shop.versions]\nv1 = [\"{v1}\"]\nv2 = [\"{v2}\", \"127.0.0.1:1\"]\n\
             [service.shop.rollout]\nsteps = [\"1% until approved\", \"100% for 1h\"]\n\
             [service.shop.mirror]\nto = \"v2\"\nshare = \"100%\"\n\
             [service.shop.goals]\nbuy = \"GET /buy 2xx\"\n\
             [[service.shop.match]]\nwhen = {{ path = \"/canary/*\" }}\nto = \"v2\"\n\
             [service.plain]\nhosts = [\"plain\"]\nstable = \"v1\"\nsplit = {{ v2 = \"0%\" }}\ncohort.by = [\"ip\"]\n\
             [service.plain.versions]\nv1 = [\"{v1}\"]\nv2 = [\"app.test:1\"]\n\
             [service.plain.flags.fast]\nshare = \"10%\"\nwhen = {{ path = \"/fast\" }}\n",
            dns.address
        ));
        Authority::new()
            .issue(&["localhost"])
            .save(builder.dir(), "server");
        let token = builder.dir().join("token");
        std::fs::write(&token, "s3cret").expect("write the token");
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&token, mode).expect("its mode");
        Self {
            proxy: builder.start(),
            description: Description::parse(DESCRIPTION),
            _dns: dns,
            _origins: [stable, canary],
        }
    }

    fn send(&self, method: &str, target: &str, body: Option<&Value>, fields: &str) -> Message {
        let mut client = Client::new(self.proxy.admin);
        let body = body.map_or_else(String::new, Value::to_string);
        client.send(format!(
            "{method} {target} HTTP/1.1\r\n{fields}connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        client.answer(method)
    }

    fn host(&self) -> String {
        format!("host: 127.0.0.1:{}\r\n", self.proxy.admin)
    }

    /// Sends a request with the token, and checks the answer, which must have this status.
    #[track_caller]
    fn ask(&mut self, method: &str, target: &str, body: Option<Value>, status: u16) -> Value {
        let fields = self.host() + "authorization: Bearer s3cret\r\n";
        let answer = self.send(method, target, body.as_ref(), &fields);
        assert_eq!(
            answer.status(),
            status,
            "{method} {target}: {}",
            answer.text()
        );
        self.description.check(method, target, &answer)
    }

    #[track_caller]
    fn get(&mut self, target: &str, status: u16) -> Value {
        self.ask("GET", target, None, status)
    }

    #[track_caller]
    fn post(&mut self, target: &str, body: Value, status: u16) -> Value {
        self.ask("POST", target, Some(body), status)
    }

    /// Every operation refuses a request of another site, and changes need the token.
    fn refusals(&mut self) {
        let operations = self.description.operations().into_iter();
        let operations: Vec<(String, String)> = operations.map(|(m, p, _)| (m, p)).collect();
        for (method, path) in operations {
            let target = path.replace("{service}", "shop").replace("{version}", "v1");
            let target = target.replace("{command}", "pause");
            let is_open = matches!(&*path, "/healthz" | "/readyz" | "/metrics");
            let attempts = [
                (String::new(), 400),
                ("host: evil.example.com\r\n".to_owned(), 403),
                (self.host(), 401),
            ];
            for (fields, status) in attempts {
                let is_read = method == "GET" && path != "/api/v1/logs";
                if is_open && status == 403 || is_read && status == 401 {
                    continue;
                }
                let answer = self.send(&method, &target, None, &fields);
                assert_eq!(answer.status(), status, "{method} {target}");
                self.description.check(&method, &target, &answer);
            }
        }
    }

    fn reads(&mut self) {
        self.get("/", 200);
        self.get("/healthz", 200);
        self.get("/readyz", 200);
        self.get("/metrics", 200);
        let served = self.get("/api/v1/openapi.json", 200);
        assert_eq!(
            served,
            serde_json::from_slice::<Value>(DESCRIPTION).unwrap()
        );
        let status = self.get("/api/v1/status", 200);
        // The parts that are not in every status are in this one.
        for part in [
            "/certificates/0",
            "/services/0/rollout/evidence",
            "/services/0/new_errors/0",
            "/services/0/mirror/differences/0",
            "/services/0/versions/0/goals/buy",
            "/services/1/flags/0",
            "/services/1/versions/1/names/0",
        ] {
            assert!(
                status.pointer(part).is_some(),
                "{part} is missing in {status:#}"
            );
        }
        self.get("/api/v1/config", 200);
        self.get("/api/v1/history", 200);
        self.get("/api/v1/history?service=shop", 200);
        self.get("/api/v1/history?generation=1", 400);
        self.get("/api/v1/explain?url=http://test/canary/1&ip=10.0.0.1", 200);
        self.get("/api/v1/explain?url=http://plain/fast&header=x-a:%201", 200);
        self.get("/api/v1/explain?url=http://nowhere/", 200);
        self.get("/api/v1/explain", 400);
        self.get("/api/v1/services/shop/mirror", 200);
        self.get("/api/v1/services/plain/mirror", 404);
        let series = self.get("/api/v1/services/shop/series", 200);
        assert!(series["evidence"]["total"].is_array(), "{series}");
        let rates = series["clients"]["rate"].as_array().expect("a list");
        assert!(
            rates.iter().any(|rate| rate.as_f64() > Some(0.0)),
            "{series}"
        );
        let clients = &status["services"][0]["clients"]["1m"];
        assert!(clients["rate"].as_f64() > Some(0.0), "{status:#}");
        self.get("/api/v1/services/none/series", 404);
        self.get("/api/v1/events?service=none", 404);
        self.get("/api/v1/events?what=1", 400);
        self.get("/api/v1/logs?service=none", 404);
        self.get("/api/v1/logs?failed=maybe", 400);
    }

    fn changes(&mut self) {
        const PLAIN: &str = "/api/v1/services/plain";
        let plain = |rest: &str| format!("{PLAIN}/{rest}");
        self.post(&plain("split"), json!({ "v2": "5%" }), 200);
        for dry in ["dry_run", "dry_run=1", "dry_run=true"] {
            let plan = self.post(&plain(&format!("split?{dry}")), json!({ "v2": "50%" }), 200);
            self.description.check_document("PlanReport", &plan);
            assert!(plan["services"][0]["moves"][0].is_object(), "{plan}");
        }
        self.post(&plain("split?dry_run=maybe"), json!({ "v2": "50%" }), 400);
        self.post(&plain("split"), json!({ "v2": "lots" }), 400);
        self.post(&plain("split"), json!({ "v9": "5%" }), 404);
        for path in [
            "undo",
            "plan",
            "announce",
            "services/plain/drain",
            "services/plain/deploy",
            "services/shop/rollout/pause",
        ] {
            self.post(&format!("/api/v1/{path}"), json!([null, null]), 400);
        }
        self.post("/api/v1/services/none/split", json!({ "v2": "5%" }), 404);
        self.post(&plain("flags"), json!({ "fast": "20%" }), 200);
        self.post(&plain("flags?dry_run"), json!({ "fast": "30%" }), 200);
        self.post(&plain("flags"), json!({ "slow": "20%" }), 404);
        self.post(&plain("versions/v1"), json!({ "label": "1.1" }), 200);
        self.post(
            &plain("versions/v1"),
            json!({ "endpoints": ["nonsense:"] }),
            422,
        );
        self.post(&plain("versions/v1"), json!({}), 400);
        self.post(&plain("deploy?dry_run=1"), json!({ "version": "v2" }), 200);
        self.post(&plain("deploy"), json!({ "version": "v9" }), 404);
        let plan = self.post("/api/v1/undo?dry_run=1", json!({}), 200);
        self.description.check_document("UndoPlan", &plan);
        let undone = self.ask("POST", "/api/v1/undo", None, 200);
        self.description.check_document("UndoReport", &undone);
        self.post("/api/v1/undo", json!({ "generation": 9999 }), 404);
        self.post("/api/v1/undo", json!({ "running": "0" }), 409);
        let text = self.proxy.text();
        self.post("/api/v1/plan", json!({ "text": text }), 200);
        self.post("/api/v1/plan", json!({ "text": "listen = 1" }), 422);
        self.post("/api/v1/plan", json!({ "txt": text }), 400);
        self.post(
            "/api/v1/announce",
            json!({ "hash": "0123456789abcdef", "by": "alice" }),
            200,
        );
        self.post(
            "/api/v1/announce",
            json!({ "hash": "0", "by": "alice" }),
            400,
        );
        self.ask("POST", "/api/v1/reload", None, 200);
        self.ask("POST", &plain("drain"), None, 409);
        self.post(&plain("drain"), json!({ "version": "v2" }), 200);
        self.post(&plain("drain"), json!({ "version": "v9" }), 404);
        self.ask("DELETE", &plain("drain"), None, 200);
        self.ask("DELETE", "/api/v1/services/none/drain", None, 404);
        const ROLLOUT: &str = "/api/v1/services/shop/rollout";
        self.ask("POST", &format!("{ROLLOUT}/retry"), None, 409);
        let by = json!({ "by": "alice" });
        self.post(&format!("{ROLLOUT}/abort"), by, 200);
        self.ask("POST", &format!("{ROLLOUT}/retry"), None, 200);
        self.ask("POST", "/api/v1/services/none/rollout/abort", None, 404);
        self.ask("POST", "/api/v1/services/shop/rollout/dance", None, 404);
        std::fs::write(self.proxy.file(), "listen = 1").unwrap();
        self.ask("POST", "/api/v1/reload", None, 422);
    }

    /// The beginning of a stream.
    fn stream(&mut self, target: &str, token: &str, mark: &str) -> String {
        let mut client = Client::new(self.proxy.admin);
        client.send(format!(
            "GET {target} HTTP/1.0\r\n{}{token}\r\n",
            self.host()
        ));
        let head = client.through(b"\r\n\r\n");
        let is_read = AtomicBool::new(false);
        let body = thread::scope(|scope| {
            scope.spawn(|| {
                // Workers learn of a follower within a tick.
                for _ in 0..500 {
                    if is_read.load(Ordering::Relaxed) {
                        break;
                    }
                    self.proxy.get("/");
                    pause(Duration::from_millis(20));
                }
            });
            let body = client.through(mark.as_bytes());
            is_read.store(true, Ordering::Relaxed);
            body
        });
        let answer = Message {
            head,
            body,
            trailers: Vec::new(),
        };
        self.description.check("GET", target, &answer);
        answer.text()
    }

    fn streams(&mut self) {
        let text = self.stream("/api/v1/events", "", "\n\n");
        let (_, data) = text
            .split_once("event: status\ndata: ")
            .expect("the status comes first");
        let status: Value = serde_json::from_str(data).unwrap();
        self.description.check_document("ProxyStatus", &status);
        let token = "authorization: Bearer s3cret\r\n";
        let line = self.stream("/api/v1/logs?failed=0&canary=false", token, "\n");
        assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
    }
}

#[test]
fn answers_are_as_described() {
    let mut described = Described::new();
    until("every part of the status is there", || {
        let mut client = described.proxy.client();
        for path in ["/", "/buy", "/canary/1"] {
            client.get(path);
        }
        let status = described.proxy.status();
        let shop = &status["services"][0];
        let has_evidence = shop["rollout"]["state"] == "awaiting-approval";
        let differs = shop["mirror"]["differences"][0].is_object();
        (has_evidence && differs && shop["new_errors"][0].is_object()).then_some(())
    });
    until("there is a point of the evidence", || {
        let series = described.proxy.ask_admin("/api/v1/services/shop/series");
        let series: Value = serde_json::from_slice(&series.body).unwrap();
        let rate = |rate: &Value| rate.as_f64() > Some(0.0);
        let has_traffic = series["clients"]["rate"]
            .as_array()
            .is_some_and(|all| all.iter().any(rate));
        (series["evidence"]["total"].is_array() && has_traffic).then_some(())
    });
    described.refusals();
    described.reads();
    described.streams();
    described.changes();
    assert_eq!(described.description.unseen(), [""; 0]);
}

/// A member of a fleet with a rollout, and what its status says of the fleet and of the rollout's part in it.
fn member(etcd: &str, origin: &Origin, is_as_wanted: impl Fn(&Value) -> bool) -> (Proxy, Value) {
    let at = origin.at();
    let proxy = serve(&format!(
        "[fleet]\netcd = \"{etcd}\"\nname = \"test\"\nmember = \"a\"\n\
         [service.shop]\nstable = \"v1\"\nsplit = {{ v2 = \"rollout\" }}\n\
         [service.shop.versions]\nv1 = [\"{at}\"]\nv2 = [\"{at}\"]\n\
         [service.shop.rollout]\nsteps = [\"5% for 1h\"]\n"
    ));
    let status = until("its fleet is as wanted", || {
        let status = proxy.status();
        is_as_wanted(&status).then_some(status)
    });
    (proxy, status)
}

/// Checks the status and the event of the proxy, which say what is known of the fleet.
fn check_member(proxy: &Proxy, status: &Value) {
    let mut description = Description::parse(DESCRIPTION);
    description.check_document("ProxyStatus", status);
    for target in ["/api/v1/status", "/api/v1/services/shop/series"] {
        description.check("GET", target, &proxy.ask_admin(target));
    }
    let mut facts = status.clone();
    facts.as_object_mut().expect("an object").remove("services");
    description.check_document("ProxyFacts", &facts);
    facts["fleet"]["name"] = json!(1);
    let checked = std::panic::catch_unwind(|| description.check_document("ProxyFacts", &facts));
    assert!(checked.is_err(), "the fleet is not checked");
}

#[test]
fn the_fleet_of_a_member_is_as_described() {
    let origin = Origin::named("x");
    // Nothing listens there.
    let (alone, status) = member("http://127.0.0.1:1", &origin, |status| {
        status["fleet"]["alone_s"].is_u64()
    });
    let fleet = &status["fleet"];
    assert_eq!(
        (&fleet["member"], &fleet["connected"]),
        (&json!("a"), &json!(false))
    );
    check_member(&alone, &status);
    if std::env::var_os("CUTOVER_ETCD").is_none() {
        eprintln!("skipped: a member with etcd, without CUTOVER_ETCD=1");
        return;
    }
    let Some(etcd) = Etcd::start() else { return };
    let (joined, status) = member(&etcd.url(), &origin, |status| {
        status["services"][0]["rollout"]["fleet"]["driver"] == "a"
    });
    assert_eq!(status["fleet"]["members"][0]["name"], "a");
    check_member(&joined, &status);
}

#[test]
fn the_description_is_checked_for_what_is_not_in_it() {
    let description = Description::parse(DESCRIPTION);
    let good = json!({ "generation": 1 });
    description.check_document("Generation", &good);
    for bad in [
        json!({}),
        json!({ "generation": -1 }),
        json!({ "generation": "1" }),
        json!({ "generation": 1, "more": 1 }),
    ] {
        let checked = std::panic::catch_unwind(|| description.check_document("Generation", &bad));
        assert!(checked.is_err(), "{bad} fits");
    }
}
