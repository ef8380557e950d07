//! Endpoints by name: each address is an endpoint that comes and goes with the answers of a scripted name server.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::dns::{A, AAAA, Answer, DnsServer, SRV, address, alias, service};
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, serve};
use crate::support::{Ended, PATIENCE, free_port, pause, until};

/// A file with this name server, and one service with one version at these endpoints.
fn file(dns: &DnsServer, endpoints: &str, more: &str) -> String {
    format!(
        "[dns]\nservers = [\"{}\"]\n[service.app]\n{more}\n[service.app.versions]\nv1 = [{endpoints}]\n",
        dns.address
    )
}

fn on(last: u8, port: u16) -> SocketAddr {
    ([127, 0, 0, last], port).into()
}

/// The endpoints of the first version, as the status shows them.
fn endpoints(proxy: &Proxy) -> Vec<String> {
    let status = proxy.status();
    let all = status["services"][0]["versions"][0]["endpoints"].as_array();
    let address = |e: &serde_json::Value| e["address"].as_str().expect("a string").to_owned();
    all.expect("a list").iter().map(address).collect()
}

fn until_endpoints(proxy: &Proxy, expected: &[SocketAddr]) {
    let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
    until("the endpoints are those of the name", || {
        (endpoints(proxy) == expected).then_some(())
    });
}

/// The first name in the status.
fn name(proxy: &Proxy) -> serde_json::Value {
    proxy.status()["services"][0]["versions"][0]["names"][0].clone()
}

/// Sends requests until it is dropped or asked to end; every one must be answered with 200.
struct Traffic {
    ends: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<usize>>,
}

impl Traffic {
    fn before(proxy: &Proxy) -> Self {
        let (ends, mut client) = (Arc::new(AtomicBool::new(false)), proxy.client());
        let until = ends.clone();
        let thread = thread::spawn(move || {
            let mut answered = 0;
            while !until.load(Ordering::SeqCst) {
                assert_eq!(client.get("/").status(), 200);
                answered += 1;
            }
            answered
        });
        Self {
            ends,
            thread: Some(thread),
        }
    }

    fn end(mut self) -> usize {
        self.ends.store(true, Ordering::SeqCst);
        let thread = self.thread.take().expect("it runs");
        thread.join().expect("every request is answered with 200")
    }
}

#[test]
fn addresses_come_and_go_and_what_is_in_flight_is_finished() {
    let (dns, port) = (DnsServer::start(), free_port());
    let finish = Arc::new(AtomicBool::new(false));
    let may_finish = finish.clone();
    let old = Origin::each_at(on(2, port), move |request, conn| {
        if request.target() == "/slow" {
            until("the set has changed", || {
                may_finish.load(Ordering::SeqCst).then_some(())
            });
        }
        conn.reply(200, "old")
    });
    let new = Origin::named_at(on(3, port), "new");
    dns.set_addresses("app.test", 0, &["127.0.0.2"]);
    let proxy = serve(&file(&dns, &format!("\"app.test.:{port}\""), ""));
    let history = proxy.ask_admin("/api/v1/history").text();
    assert_eq!(endpoints(&proxy), [old.at()]);
    let mut slow = proxy.client();
    slow.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n");
    until("it is in flight", || (old.hits() > 0).then_some(()));
    let traffic = Traffic::before(&proxy);
    let both = ["127.0.0.3", "127.0.0.2"].map(|ip| address("app.test", 0, ip));
    dns.set("app.test", A, Answer::Truncated(both.to_vec()));
    until_endpoints(&proxy, &[on(2, port), on(3, port)]);
    until("the new address gets traffic", || {
        (new.hits() > 0).then_some(())
    });
    let aliased = [
        alias("app.test", 0, "b.test"),
        address("b.test", 0, "127.0.0.3"),
    ];
    dns.set("app.test", A, Answer::Forged(aliased.to_vec()));
    until_endpoints(&proxy, &[on(3, port)]);
    let before = old.hits();
    for _ in 0..20 {
        assert_eq!(proxy.get("/").text(), "new");
    }
    assert_eq!(old.hits(), before, "a removed address gets no new work");
    finish.store(true, Ordering::SeqCst);
    assert_eq!(slow.answer("GET").text(), "old");
    assert!(traffic.end() > 0);
    until("its connections are closed", || {
        (old.open() == 0).then_some(())
    });
    let metrics = proxy.metrics();
    let at = new.at();
    assert_eq!(
        metrics.sum("cutover_endpoint_up", &[("endpoint", &at)]),
        1.0
    );
    assert_eq!(metrics.sum("cutover_endpoint_up", &[]), 1.0);
    let of_name = [("name", "app.test.")];
    assert_eq!(metrics.sum("cutover_name_addresses", &of_name), 1.0);
    assert_eq!(metrics.sum("cutover_upstream_failures_total", &[]), 0.0);
    assert_eq!(
        proxy.ask_admin("/api/v1/history").text(),
        history,
        "the file has not changed"
    );
    let shown = proxy.command(&["status"]).stdout;
    assert!(
        shown.contains("app: name app.test.: 127.0.0.3 ("),
        "{shown}"
    );
    let log = proxy.log();
    assert!(log.contains("name resolved to other addresses"), "{log}");
}

#[test]
fn the_last_good_set_serves_whatever_the_server_answers() {
    let (dns, port) = (DnsServer::start(), free_port());
    let _origin = Origin::named_at(on(2, port), "app");
    dns.set_addresses("app.test", 0, &["127.0.0.2"]);
    let proxy = serve(&file(&dns, &format!("\"app.test.:{port}\""), ""));
    let traffic = Traffic::before(&proxy);
    let answers = [
        Answer::ServFail,
        Answer::Records(Vec::new()),
        Answer::NoSuchName,
    ];
    for (answer, failure) in answers
        .into_iter()
        .zip(["SERVFAIL", "no address", "NXDOMAIN"])
    {
        dns.set("app.test", A, answer.clone());
        dns.set("app.test", AAAA, answer);
        let shown = until("the failure is shown", || {
            let name = name(&proxy);
            let shown = name["failure"].as_str()?.contains(failure);
            shown.then_some(name)
        });
        assert_eq!(shown["addresses"][0], "127.0.0.2");
        assert!(
            shown["failing_s"].is_u64() && shown["age_s"].is_u64(),
            "{shown}"
        );
    }
    let metrics = proxy.metrics();
    let of_name = [("name", "app.test.")];
    assert_eq!(
        metrics.sum("cutover_name_last_lookup_successful", &of_name),
        0.0
    );
    assert_eq!(metrics.sum("cutover_name_addresses", &of_name), 1.0);
    assert!(traffic.end() > 0);
    let log = proxy.log();
    let warned = "name can't be resolved: the last addresses stay in use";
    assert!(
        log.contains(warned) && log.contains("name=app.test."),
        "{log}"
    );
}

#[test]
fn an_ejection_survives_other_addresses() {
    let (dns, port) = (DnsServer::start(), free_port());
    let bad = Origin::each_at(on(2, port), |_, conn| conn.reply(500, "bad"));
    let _good = Origin::named_at(on(3, port), "good");
    let third = Origin::named_at(on(4, port), "third");
    dns.set_addresses("app.test", 0, &["127.0.0.2", "127.0.0.3"]);
    let outlier = "outlier = { consecutive_5xx = 3, eject = \"5m\" }";
    let proxy = serve(&file(&dns, &format!("\"app.test.:{port}\""), outlier));
    let ejected = |proxy: &Proxy| {
        let status = proxy.status();
        let first = &status["services"][0]["versions"][0]["endpoints"][0];
        assert_eq!(first["address"], on(2, port).to_string());
        first["ejected"].is_u64()
    };
    let mut client = proxy.client();
    until("it is ejected", || {
        client.get("/");
        ejected(&proxy).then_some(())
    });
    let hits = bad.hits();
    dns.set_addresses("app.test", 0, &["127.0.0.4", "127.0.0.3", "127.0.0.2"]);
    until_endpoints(&proxy, &[on(2, port), on(3, port), on(4, port)]);
    until("the third gets traffic", || {
        assert_eq!(client.get("/").status(), 200);
        (third.hits() > 0).then_some(())
    });
    assert!(ejected(&proxy));
    assert_eq!(bad.hits(), hits);
}

#[test]
fn records_of_a_larger_priority_serve_while_no_other_is_usable() {
    let dns = DnsServer::start();
    let (first, second) = (free_port(), free_port());
    let backup = Origin::named("backup");
    let backup_port = backup.at().rsplit(':').next().unwrap().parse().unwrap();
    let up = Arc::new(AtomicBool::new(true));
    let primary = |port: u16, name: &'static str| {
        let up = up.clone();
        Origin::each_at(on(1, port), move |request, conn| {
            match request.target() == "/ready" && !up.load(Ordering::SeqCst) {
                true => conn.reply(503, "down"),
                false => conn.reply(200, name),
            }
        })
    };
    let (a, b) = (primary(first, "a"), primary(second, "b"));
    let srv = "_http._tcp.app.test";
    let records = [
        ([10, 3, first], "a.test"),
        ([10, 1, second], "a.test"),
        ([20, 9, backup_port], "b.test"),
    ];
    let records = records
        .map(|(numbers, target)| service(srv, 1, numbers, target))
        .to_vec();
    dns.set(srv, SRV, Answer::Records(records));
    dns.set_addresses("a.test", 1, &["127.0.0.1"]);
    dns.set_addresses("b.test", 1, &["127.0.0.1"]);
    let more = "balance = \"round_robin\"\nhealth = { path = \"/ready\", interval = \"20ms\", rise = 1, fall = 1 }";
    // One connection is served by one worker, whose turns are exact.
    let proxy = serve(&file(&dns, &format!("\"srv:{srv}.\""), more));
    until("all are up", || {
        let status = proxy.status();
        let all = status["services"][0]["versions"][0]["endpoints"]
            .as_array()?
            .clone();
        (all.len() == 3 && all.iter().all(|e| e["health"] == "up")).then_some(())
    });
    let mut client = proxy.client();
    let mut answered = |count: usize| {
        let mut names: Vec<String> = (0..count).map(|_| client.get("/").text()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(answered(8), ["a", "a", "a", "a", "a", "a", "b", "b"]);
    assert_eq!(name(&proxy)["name"], format!("srv:{srv}."));
    let checked = a.requests().into_iter().find(|r| r.target() == "/ready");
    assert_eq!(
        checked.unwrap().field("host"),
        Some(format!("app.test:{first}"))
    );
    up.store(false, Ordering::SeqCst);
    until("the backup serves", || {
        (answered(1) == ["backup"]).then_some(())
    });
    assert_eq!(answered(4), ["backup"; 4]);
    up.store(true, Ordering::SeqCst);
    until("the others are back", || {
        (answered(1) != ["backup"]).then_some(())
    });
    until("both are up", || {
        (proxy.metrics().sum("cutover_endpoint_up", &[]) == 3.0).then_some(())
    });
    assert!(answered(8).iter().all(|name| name != "backup"));
    assert!(b.hits() > 0);
}

#[test]
fn a_name_without_addresses_is_awaited_and_others_serve() {
    let (dns, port) = (DnsServer::start(), free_port());
    for kind in [A, AAAA] {
        dns.set("new.test", kind, Answer::Silence);
    }
    let _new = Origin::named_at(on(3, port), "new");
    let old = Origin::named("old");
    let began = Instant::now();
    let proxy = serve(&file(&dns, &format!("\"new.test.:{port}\""), ""));
    assert!(
        began.elapsed() < PATIENCE,
        "a silent server doesn't hold up the start"
    );
    let refused = proxy.get("/");
    assert_eq!(refused.status(), 503);
    assert_eq!(
        refused.field("x-cutover-reason").as_deref(),
        Some("unresolved-name")
    );
    let shown = name(&proxy);
    assert_eq!(
        shown["addresses"].as_array().map(Vec::len),
        Some(0),
        "{shown}"
    );
    let versions = |stable: &str| {
        let head = format!(
            "[dns]\nservers = [\"{}\"]\n[service.app]\nstable = \"{stable}\"\n",
            dns.address
        );
        format!(
            "{head}[service.app.versions]\nv1 = [\"new.test.:{port}\"]\nv2 = [\"{}\"]\n",
            old.at()
        )
    };
    proxy.edit(&versions("v2"));
    assert_eq!(proxy.get("/").text(), "old");
    // Without any check, the version still waits for an address.
    proxy.edit(&versions("v1"));
    assert_eq!(proxy.get("/").text(), "old");
    assert_eq!(proxy.status()["services"][0]["awaiting"][0], "v1");
    dns.set(
        "new.test",
        A,
        Answer::Records(vec![address("new.test", 1, "127.0.0.3")]),
    );
    dns.set("new.test", AAAA, Answer::Records(Vec::new()));
    until("the new one is stable", || {
        (proxy.get("/").text() == "new").then_some(())
    });
    assert!(
        proxy.status()["services"][0]["awaiting"]
            .as_array()
            .is_some_and(Vec::is_empty)
    );
}

#[test]
fn localhost_is_one_endpoint_by_the_hosts_file() {
    let dns = DnsServer::start();
    let origin = Origin::named("app");
    let port = origin.at().rsplit(':').next().unwrap().to_owned();
    let proxy = serve(&file(&dns, &format!("\"localhost:{port}\""), ""));
    assert_eq!(endpoints(&proxy), [origin.at()]);
    for _ in 0..4 {
        assert_eq!(proxy.client().get("/").text(), "app");
    }
    assert_eq!(dns.queries("localhost", A), 0);
}

#[test]
fn a_successor_serves_with_the_addresses_of_its_predecessor() {
    let (dns, port) = (DnsServer::start(), free_port());
    let _origin = Origin::named_at(on(2, port), "app");
    dns.set_addresses("app.test", 300, &["127.0.0.2"]);
    let proxy = serve(&file(&dns, &format!("\"app.test.:{port}\""), ""));
    for kind in [A, AAAA] {
        dns.set("app.test", kind, Answer::Silence);
    }
    let next = proxy.successor().expect("it takes over");
    assert_eq!(endpoints(&next), [on(2, port).to_string()]);
    assert_eq!(next.get("/").text(), "app");
}

#[test]
fn a_real_dnsmasq_is_followed() {
    if Command::new("dnsmasq").arg("--version").output().is_err() {
        eprintln!("skipped: dnsmasq isn't installed");
        return;
    }
    let (server, port) = (free_port(), free_port());
    let dir = tempfile::tempdir().expect("a directory");
    let hosts = dir.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.2 app.test\n").expect("write");
    let [first, second] =
        [2, 3].map(|last| Origin::named_at(on(last, port), &format!("127.0.0.{last}")));
    let mut dnsmasq = Command::new("dnsmasq");
    dnsmasq
        .args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
        ])
        .args([
            "--bind-interfaces",
            "--listen-address=127.0.0.1",
            "--pid-file=",
            "--user=root",
        ])
        .args([
            "--local=/test/",
            "--local-ttl=1",
            "--cname=alias.test,app.test",
        ])
        .arg(format!("--port={server}"))
        .arg(format!("--addn-hosts={}", hosts.display()))
        .arg(format!(
            "--srv-host=_http._tcp.app.test,app.test,{port},10,1"
        ))
        .stderr(Stdio::null());
    let dnsmasq = Ended(dnsmasq.spawn().expect("start dnsmasq"));
    let proxy = serve(&format!(
        "[dns]\nservers = [\"127.0.0.1:{server}\"]\n[service.app]\nstable = \"v1\"\n[service.app.versions]\n\
         v1 = [\"dns:alias.test.:{port}\"]\nv2 = [\"srv:_http._tcp.app.test.\"]\n"
    ));
    until_endpoints(&proxy, &[on(2, port)]);
    let traffic = Traffic::before(&proxy);
    std::fs::write(&hosts, "127.0.0.3 app.test\n").expect("write");
    let pid = rustix::process::Pid::from_child(&dnsmasq.0);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("dnsmasq runs");
    until_endpoints(&proxy, &[on(3, port)]);
    until("the service has the other address as well", || {
        let status = proxy.status();
        let at = &status["services"][0]["versions"][1]["endpoints"][0]["address"];
        (*at == on(3, port).to_string()).then_some(())
    });
    assert_eq!(proxy.get("/").text(), "127.0.0.3");
    assert!(traffic.end() > 0 && first.hits() > 0 && second.hits() > 0);
}

/// Up to 1,000 requests a second on one connection for so long: how many, and how many of them took more than 10 ms.
fn latencies(proxy: &Proxy, time: Duration) -> (usize, usize) {
    let (mut client, began) = (proxy.client(), Instant::now());
    let (mut all, mut slow) = (0, 0);
    while began.elapsed() < time {
        pause(Duration::from_millis(1));
        let start = Instant::now();
        assert_eq!(client.get("/").status(), 200);
        all += 1;
        slow += usize::from(start.elapsed() > Duration::from_millis(10));
    }
    (all, slow)
}

/// `just names` runs it with 1,000 names for ten minutes and shows what it measured.
#[test]
fn many_names_are_looked_up_every_second() {
    let seconds = std::env::var("CUTOVER_NAMES_SECONDS").ok();
    let seconds = seconds.map(|s| s.parse().expect("a number of seconds"));
    let (names, time) = match seconds {
        Some(seconds) => (1000, Duration::from_secs(seconds)),
        None => (50, Duration::from_secs(3)),
    };
    let (dns, origin) = (DnsServer::start(), Origin::named("app"));
    let port = origin.at().rsplit(':').next().unwrap().to_owned();
    let services = |host: &dyn Fn(usize) -> String| {
        let service = |n: usize| {
            let hosts = if n == 0 {
                ""
            } else {
                "hosts = [\"unused.test\"]\n"
            };
            let hosts = hosts.replace("unused", &format!("unused-{n}"));
            format!(
                "[service.s{n}]\n{hosts}versions.v1 = [\"{}:{port}\"]\n",
                host(n)
            )
        };
        let all: String = (0..names).map(service).collect();
        format!("[dns]\nservers = [\"{}\"]\n{all}", dns.address)
    };
    for n in 0..names {
        dns.set_addresses(&format!("n{n}.test"), 1, &["127.0.0.1"]);
    }
    let without = serve(&services(&|_| "127.0.0.1".to_owned()));
    let proxy = serve(&services(&|n| format!("n{n}.test.")));
    until("all names are looked up", || {
        let metrics = proxy.metrics();
        (metrics.sum("cutover_name_last_lookup_successful", &[]) == names as f64).then_some(())
    });
    let (generation, resident, cpu) = (proxy.generation(), proxy.resident(), proxy.cpu());
    let descriptors = proxy.descriptors();
    // At the same time, so that whatever else the machine does delays both.
    let (without, with) = thread::scope(|scope| {
        let without = scope.spawn(|| latencies(&without, time));
        let with = latencies(&proxy, time);
        (without.join().expect("all are answered"), with)
    });
    let asked: usize = (0..names)
        .map(|n| dns.queries(&format!("n{n}.test"), A))
        .sum();
    let cpu = (proxy.cpu() - cpu).as_secs_f64() / time.as_secs_f64();
    let grown = proxy.resident().saturating_sub(resident) >> 20;
    if seconds.is_some() {
        println!("requests, slower than 10 ms: without names {without:?}, with names {with:?}");
        let now = proxy.descriptors();
        println!(
            "{asked} lookups, {cpu:.2} cores, {grown} MiB grown, descriptors {descriptors} then {now}"
        );
    }
    assert!(
        asked >= names * (time.as_secs() as usize * 2 / 3),
        "{asked} lookups"
    );
    assert_eq!(proxy.generation(), generation, "no set has changed");
    assert!(grown < 64, "{grown} MiB");
    // A lookup has a socket for as long as it lasts, and two are under way at most for each name.
    until("the sockets of lookups are closed", || {
        (proxy.descriptors() <= descriptors + 8).then_some(())
    });
}
