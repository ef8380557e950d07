//! What a successor continues besides the sockets: the gate, the split, drains.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, command, serve};
use crate::support::until;

/// Blue, and green whose checks fail until it is told to pass them.
struct Pair {
    blue: Origin,
    green: Origin,
    passes: Arc<AtomicBool>,
}

impl Pair {
    fn new() -> Self {
        let passes = Arc::new(AtomicBool::new(false));
        let told = passes.clone();
        let green = Origin::each(move |request, conn| {
            match request.target() != "/ready" || told.load(Ordering::SeqCst) {
                true => conn.reply(200, "green"),
                false => conn.reply(503, "not yet"),
            }
        });
        Self {
            blue: Origin::named("blue"),
            green,
            passes,
        }
    }

    fn file(&self, stable: &str, split: &str) -> String {
        format!(
            "[service.app]\nstable = \"{stable}\"\nsplit = {{ {split} }}\n\
             [service.app.health]\npath = \"/ready\"\ninterval = \"20ms\"\ntimeout = \"10s\"\n\
             [service.app.versions]\nblue = [\"{}\"]\ngreen = [\"{}\"]\n",
            self.blue.at(),
            self.green.at()
        )
    }
}

/// Over the control socket: changes over TCP need a token.
#[track_caller]
fn drain(proxy: &Proxy, arguments: &[&str]) {
    let file = proxy.file();
    let place = ["-c", file.to_str().expect("UTF-8")];
    let drained = command(&[&["drain"], arguments, &place].concat(), proxy.dir());
    assert_eq!(drained.code, 0, "{drained:?}");
}

fn service(proxy: &Proxy) -> serde_json::Value {
    proxy.status()["services"][0].clone()
}

#[test]
fn a_takeover_does_not_open_the_gate() {
    let pair = Pair::new();
    let mut first = serve(&pair.file("blue", ""));
    first.edit(&pair.file("green", ""));
    assert_eq!(service(&first)["awaiting"], serde_json::json!(["green"]));
    let mut second = first.successor().expect("it takes over");
    assert_eq!(first.ended().code(), Some(0));
    // Once more: what was passed on is passed on.
    let third = second.successor().expect("it takes over");
    assert_eq!(second.ended().code(), Some(0));
    for _ in 0..20 {
        assert_eq!(third.get("/").text(), "blue");
    }
    let now = service(&third);
    assert_eq!(now["awaiting"], serde_json::json!(["green"]));
    assert_eq!(now["stable"], "green");
    assert_eq!(now["split"]["effective"]["blue"], "100%");
    pair.passes.store(true, Ordering::SeqCst);
    until("the gate opens", || {
        (third.get("/").text() == "green").then_some(())
    });
    assert_eq!(service(&third)["awaiting"], serde_json::json!([]));
}

#[test]
fn a_successor_by_an_edited_file_waits_like_a_reload_and_opens_by_itself() {
    let pair = Pair::new();
    let mut first = serve(&pair.file("blue", ""));
    // Whether the running process adopts the edit before it offers its sockets doesn't matter.
    first.signal(rustix::process::Signal::STOP);
    std::fs::write(
        first.file(),
        first.whole(&pair.file("blue", "green = \"100%\"")),
    )
    .expect("write");
    let second = first.start_successor();
    first.signal(rustix::process::Signal::CONT);
    until("it serves", || second.is_ready().then_some(()));
    assert_eq!(first.ended().code(), Some(0));
    for _ in 0..20 {
        assert_eq!(second.get("/").text(), "blue");
    }
    assert_eq!(service(&second)["awaiting"], serde_json::json!(["green"]));
    pair.passes.store(true, Ordering::SeqCst);
    until("the gate opens", || {
        (second.get("/").text() == "green").then_some(())
    });
}

#[test]
fn drains_go_on_and_so_does_their_end() {
    let pair = Pair::new();
    let (blue, green) = (pair.blue.at(), pair.green.at());
    let file = format!(
        "[service.app]\nstable = \"v1\"\nversions = {{ v1 = [\"{blue}\", \"{green}\"] }}\n"
    );
    let mut first = serve(&file);
    drain(&first, &["app", "v1", &blue]);
    let mut second = first.successor().expect("it takes over");
    assert_eq!(first.ended().code(), Some(0));
    for _ in 0..10 {
        assert_eq!(second.get("/").text(), "green");
    }
    drain(&second, &["app", "v1", &blue, "--undo"]);
    let third = second.successor().expect("it takes over");
    assert_eq!(second.ended().code(), Some(0));
    let endpoints = &service(&third)["versions"][0]["endpoints"];
    assert_eq!(
        (&endpoints[0]["draining"], &endpoints[1]["draining"]),
        (&false.into(), &false.into())
    );
}
