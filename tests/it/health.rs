//! Active checks through the real binary: who has traffic, and who is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, serve};
use crate::support::until;

/// An origin that answers with its name, and `/ready` as it is told.
struct Checked {
    origin: Origin,
    ready: Arc<AtomicBool>,
}

impl Checked {
    fn new(name: &str, ready: bool) -> Self {
        let (name, ready) = (name.to_owned(), Arc::new(AtomicBool::new(ready)));
        let told = ready.clone();
        let origin = Origin::each(move |request, conn| {
            let is_check = request.target() == "/ready";
            match !is_check || told.load(Ordering::SeqCst) {
                true => conn.reply(200, &name),
                false => conn.reply(503, "not yet"),
            }
        });
        Self { origin, ready }
    }

    fn set(&self, ready: bool) {
        self.ready.store(ready, Ordering::SeqCst);
    }

    /// Requests that were no checks.
    fn traffic(&self) -> usize {
        let requests = self.origin.requests();
        requests.iter().filter(|r| r.target() != "/ready").count()
    }
}

/// Blue and green, with checks every 20 ms.
fn file(stable: &str, split: &str, blue: &[&Checked], green: &[&Checked]) -> String {
    let list = |of: &[&Checked]| {
        let all: Vec<_> = of
            .iter()
            .map(|c| format!("\"{}\"", c.origin.at()))
            .collect();
        all.join(", ")
    };
    format!(
        "[service.app]\nstable = \"{stable}\"\nsplit = {{ {split} }}\nbalance = \"round_robin\"\n\
         [service.app.health]\npath = \"/ready\"\ninterval = \"20ms\"\ntimeout = \"10s\"\nfall = 2\n\
         [service.app.versions]\nblue = [{}]\ngreen = [{}]\n",
        list(blue),
        list(green)
    )
}

fn endpoint(proxy: &Proxy, version: usize, endpoint: usize) -> serde_json::Value {
    proxy.status()["services"][0]["versions"][version]["endpoints"][endpoint].clone()
}

#[track_caller]
fn until_health(proxy: &Proxy, at: (usize, usize), health: &str) {
    until(health, || {
        (endpoint(proxy, at.0, at.1)["health"] == health).then_some(())
    });
}

#[test]
fn who_fails_its_checks_has_no_traffic_until_it_passes_again() {
    let (a, b) = (Checked::new("a", true), Checked::new("b", true));
    let green = Checked::new("green", true);
    let proxy = serve(&file("blue", "", &[&a, &b], &[&green]));
    until_health(&proxy, (0, 1), "up");
    let mut client = proxy.client();
    let mut names = |n: usize| (0..n).map(|_| client.get("/").text()).collect::<Vec<_>>();
    assert!(names(4).contains(&"b".to_owned()));
    b.set(false);
    until_health(&proxy, (0, 1), "down");
    assert_eq!(names(10), ["a"; 10]);
    let at = b.origin.at();
    let labels = [("version", "blue"), ("endpoint", at.as_str())];
    assert_eq!(proxy.metrics().sum("cutover_endpoint_up", &labels), 0.0);
    b.set(true);
    until_health(&proxy, (0, 1), "up");
    assert!(names(4).contains(&"b".to_owned()));
    assert_eq!(proxy.metrics().sum("cutover_endpoint_up", &labels), 1.0);
}

#[test]
fn a_new_endpoint_has_traffic_after_its_first_pass() {
    let (a, new) = (Checked::new("a", true), Checked::new("new", false));
    let green = Checked::new("green", true);
    let proxy = serve(&file("blue", "", &[&a], &[&green]));
    proxy.edit(&file("blue", "", &[&a, &new], &[&green]));
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "a");
    }
    assert_eq!(endpoint(&proxy, 0, 1)["health"], "unproven");
    assert_eq!(new.traffic(), 0);
    new.set(true);
    until("it has traffic", || {
        (client.get("/").text() == "new").then_some(())
    });
}

#[test]
fn a_new_stable_is_waited_for() {
    let (blue, green) = (Checked::new("blue", true), Checked::new("green", false));
    let proxy = serve(&file("blue", "", &[&blue], &[&green]));
    assert_eq!(proxy.get("/").text(), "blue");
    proxy.edit(&file("green", "", &[&blue], &[&green]));
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "blue");
    }
    let service = &proxy.status()["services"][0];
    assert_eq!(service["awaiting"], serde_json::json!(["green"]));
    assert_eq!(service["stable"], "green");
    assert_eq!(service["split"]["effective"]["blue"], "100%");
    let waiting = [("service", "app"), ("version", "green")];
    assert_eq!(proxy.metrics().sum("cutover_gate_waiting", &waiting), 1.0);
    assert!(
        proxy
            .log()
            .contains("service app: green becomes stable once"),
        "{}",
        proxy.log()
    );
    let shown = proxy.command(&["status"]).stdout;
    assert!(
        shown.contains("waiting for green") && shown.contains("unproven"),
        "{shown}"
    );
    let why = proxy.command(&["explain", "http://any/"]).stdout;
    assert!(why.contains("green becomes stable once"), "{why}");
    green.set(true);
    until("green is stable", || {
        match client.get("/").text().as_str() {
            "green" => Some(()),
            other => {
                assert_eq!(other, "blue");
                None
            }
        }
    });
    let service = &proxy.status()["services"][0];
    assert_eq!(service["awaiting"], serde_json::json!([]));
    assert!(!proxy.metrics().has("cutover_gate_waiting", &[]));
    assert_eq!(green.traffic(), 1);
}

#[test]
fn checks_that_come_with_the_edit_are_waited_for_too() {
    let (blue, green) = (Checked::new("blue", true), Checked::new("green", false));
    let unchecked = |stable: &str| {
        let file = file(stable, "", &[&blue], &[&green]);
        let (head, rest) = file.split_once("[service.app.health]").expect("its checks");
        let versions = rest.find("[service.app.versions]").expect("its versions");
        format!("{head}{}", &rest[versions..])
    };
    let proxy = serve(&unchecked("blue"));
    assert_eq!(endpoint(&proxy, 0, 0)["health"], "unchecked");
    proxy.edit(&file("green", "", &[&blue], &[&green]));
    assert_eq!(proxy.get("/").text(), "blue");
    assert_eq!(endpoint(&proxy, 0, 0)["health"], "up", "it had traffic");
    assert_eq!(endpoint(&proxy, 1, 0)["health"], "unproven");
}

#[test]
fn a_shift_says_what_it_waits_for_and_returns_when_it_is_in_effect() {
    let (blue, green) = (Checked::new("blue", true), Checked::new("green", false));
    let proxy = serve(&file("blue", "", &[&blue], &[&green]));
    let shifted = std::thread::scope(|scope| {
        let shift = scope.spawn(|| proxy.command(&["shift", "app", "green"]));
        until("it is awaited", || {
            let service = &proxy.status()["services"][0];
            (service["awaiting"] == serde_json::json!(["green"])).then_some(())
        });
        green.set(true);
        shift.join().expect("a command")
    });
    assert_eq!(shifted.code, 0, "{}", shifted.stderr);
    assert_eq!(proxy.get("/").text(), "green");
}

#[test]
fn a_canary_that_rises_from_nothing_is_waited_for_and_goes_back_at_once() {
    let (blue, green) = (Checked::new("blue", true), Checked::new("green", false));
    let proxy = serve(&file("blue", "", &[&blue], &[&green]));
    proxy.edit(&file("blue", "green = \"50%\"", &[&blue], &[&green]));
    let service = &proxy.status()["services"][0];
    assert_eq!(service["awaiting"], serde_json::json!(["green"]));
    assert_eq!(service["split"]["desired"]["green"], "50%");
    assert_eq!(service["split"]["effective"]["green"], "0%");
    assert_eq!(proxy.get("/").text(), "blue");
    proxy.edit(&file("blue", "", &[&blue], &[&green]));
    let service = &proxy.status()["services"][0];
    assert_eq!(service["awaiting"], serde_json::json!([]));
    assert_eq!(green.traffic(), 0);
}

#[test]
fn who_takes_over_from_a_version_that_left_is_not_waited_for() {
    let (blue, green) = (Checked::new("blue", true), Checked::new("green", false));
    let proxy = serve(&file("blue", "", &[&blue], &[&green]));
    let gone = file("green", "", &[&blue], &[&green]).replace("\nblue = [", "\nother = [");
    proxy.edit(&gone);
    assert_eq!(proxy.get("/").text(), "green");
}
