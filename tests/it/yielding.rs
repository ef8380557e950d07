//! A version whose endpoints are all down gives its share away, and has it back when they are well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, serve};
use crate::support::until;

/// An endpoint that answers with its version's name whatever its check says.
struct Checked {
    origin: Origin,
    well: Arc<AtomicBool>,
}

impl Checked {
    fn new(name: &'static str) -> Self {
        let well = Arc::new(AtomicBool::new(true));
        let told = well.clone();
        let origin = Origin::each(move |request, conn| {
            match request.target() == "/ready" && !told.load(Ordering::SeqCst) {
                true => conn.reply(503, "down"),
                false => conn.reply(200, name),
            }
        });
        Self { origin, well }
    }
}

/// `v1` is stable, `v2` and `v3` are canaries of 10 % and 20 %, `v4` is the fallback; rules lead to `v2`.
struct Stage {
    versions: [Checked; 4],
    proxy: Proxy,
}

impl Stage {
    fn new() -> Self {
        let versions = ["v1", "v2", "v3", "v4"].map(Checked::new);
        let lists: Vec<_> = (1..)
            .zip(&versions)
            .map(|(n, v)| format!("v{n} = [\"{}\"]\n", v.origin.at()))
            .collect();
        let proxy = serve(&format!(
            "[service.app]\nstable = \"v1\"\nsplit = {{ v2 = \"10%\", v3 = \"20%\" }}\nfallback = \"v4\"\n\
             [service.app.health]\npath = \"/ready\"\ninterval = \"20ms\"\ntimeout = \"10s\"\nrise = 1\nfall = 1\n\
             [service.app.versions]\n{}\
             [[service.app.match]]\nwhen = {{ header.x-to = \"v2\" }}\nto = \"v2\"\n\
             [[service.app.match]]\nwhen = {{ header.x-to = \"v2!\" }}\nto = \"v2\"\nstrict = true\n",
            lists.concat()
        ));
        Self { versions, proxy }
    }

    /// Says who is well, and waits until the proxy has seen it.
    fn well(&self, well: [bool; 4]) {
        for (version, well) in self.versions.iter().zip(well) {
            version.well.store(well, Ordering::SeqCst);
        }
        until("the checks have seen it", || {
            let status = self.proxy.status();
            let versions = &status["services"][0]["versions"];
            let seen = |(n, well): (usize, bool)| {
                let health = &versions[n]["endpoints"][0]["health"];
                health == if well { "up" } else { "down" }
            };
            well.into_iter().enumerate().all(seen).then_some(())
        });
    }

    /// How many of 100 requests each version answered; over two connections, so that both workers may be asked.
    fn shares(&self) -> [usize; 4] {
        let mut clients = [self.proxy.client(), self.proxy.client()];
        let mut counts = [0; 4];
        for n in 0..100 {
            let answer = clients[n % 2].get("/");
            assert_eq!(answer.status(), 200);
            let version = answer.text()[1..].parse::<usize>().expect("v and a number");
            counts[version - 1] += 1;
        }
        counts
    }

    fn to(&self, to: &str) -> String {
        let request = format!("GET / HTTP/1.1\r\nhost: test\r\nx-to: {to}\r\n\r\n");
        let answer = self.proxy.client().ask(&request);
        assert_eq!(answer.status(), 200);
        answer.text()
    }
}

#[track_caller]
fn assert_near(seen: [usize; 4], wanted: [usize; 4]) {
    let near = seen.iter().zip(wanted).all(|(s, w)| s.abs_diff(w) <= 2);
    assert!(near, "{seen:?}, not {wanted:?}");
}

#[test]
fn a_canary_that_is_down_yields_to_stable() {
    let stage = Stage::new();
    stage.well([true; 4]);
    assert_near(stage.shares(), [70, 10, 20, 0]);
    stage.well([true, false, true, true]);
    assert_near(stage.shares(), [80, 0, 20, 0]);
    stage.well([true; 4]);
    assert_near(stage.shares(), [70, 10, 20, 0]);
}

#[test]
fn rules_yield_unless_they_are_strict() {
    let stage = Stage::new();
    stage.well([true; 4]);
    assert_eq!(
        (stage.to("v2"), stage.to("v2!")),
        ("v2".into(), "v2".into())
    );
    stage.well([true, false, true, true]);
    assert_eq!(
        (stage.to("v2"), stage.to("v2!")),
        ("v1".into(), "v2".into())
    );
}

#[test]
fn stable_yields_to_the_largest_canary_then_to_the_fallback() {
    let stage = Stage::new();
    stage.well([false, true, true, true]);
    assert_near(stage.shares(), [0, 10, 90, 0]);
    stage.well([false, true, false, true]);
    assert_eq!(stage.shares(), [0, 100, 0, 0]);
    stage.well([false, false, false, true]);
    assert_eq!(stage.shares(), [0, 0, 0, 100]);
}

#[test]
fn when_nobody_is_well_all_are_asked() {
    let stage = Stage::new();
    stage.well([false; 4]);
    assert_near(stage.shares(), [70, 10, 20, 0]);
    assert_eq!(stage.to("v2!"), "v2");
}
