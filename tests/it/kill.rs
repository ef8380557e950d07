//! Endpoints that are processes, killed and frozen under load.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, serve};
use crate::support::{free_port, pause, until};

const CONNECT: Duration = Duration::from_millis(500);
const FIRST_BYTE: Duration = Duration::from_secs(1);

/// An endpoint with a process of its own: this program before an origin.
struct Process {
    port: u16,
    origin: Origin,
    /// Requests that were no checks.
    hits: Arc<AtomicUsize>,
    process: Option<Proxy>,
}

impl Process {
    fn new(name: &'static str) -> Self {
        let hits = Arc::new(AtomicUsize::new(0));
        let seen = hits.clone();
        let mut this = Self {
            port: free_port(),
            origin: Origin::each(move |request, conn| {
                seen.fetch_add(usize::from(request.target() == "/"), Ordering::SeqCst);
                conn.reply(200, name)
            }),
            hits,
            process: None,
        };
        this.start();
        this
    }

    fn start(&mut self) {
        let text = format!(
            "listen = \"127.0.0.1:{}\"\nadmin = \"127.0.0.1:$ADMIN\"\nworkers = 1\nstate_dir = \"$DIR/state\"\n\
             [service.app]\nversions = {{ v1 = [\"{}\"] }}\n",
            self.port,
            self.origin.at()
        );
        self.process = Some(Builder::new(&text).start());
    }

    fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("it runs").signal(signal);
    }

    /// SIGKILL, and nothing is left of it.
    fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.process.take().expect("it ran").ended();
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

#[test]
fn endpoints_that_are_killed_and_frozen_cost_nobody_a_request() {
    let mut endpoints = ["a", "b", "c", "d"].map(Process::new);
    let all: Vec<_> = endpoints
        .iter()
        .map(|e| format!("\"127.0.0.1:{}\"", e.port))
        .collect();
    let proxy = serve(&format!(
        "[service.app]\nstable = \"v1\"\n\
         timeouts = {{ connect = \"{}ms\", first_byte = \"{}ms\" }}\n\
         [service.app.health]\npath = \"/ready\"\ninterval = \"100ms\"\ntimeout = \"1s\"\nrise = 1\nfall = 2\n\
         [service.app.outlier]\neject = \"1s\"\n\
         [service.app.versions]\nv1 = [{}]\n",
        CONNECT.as_millis(),
        FIRST_BYTE.as_millis(),
        all.join(", ")
    ));
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let slowest = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| drive(&proxy, &stop, &served)))
            .collect();
        let more = |what: &str| {
            let before = served.load(Ordering::SeqCst);
            until(what, || {
                (served.load(Ordering::SeqCst) > before + 200).then_some(())
            });
        };
        let script = AssertUnwindSafe(|| {
            more("the first answers");
            endpoints[0].kill();
            more("answers without the dead");
            endpoints[1].signal(Signal::STOP);
            more("answers without the dead and the frozen");
            until("both are known to be out", || {
                (usable(&proxy) == 2).then_some(())
            });
            more("answers from two");
            endpoints[0].start();
            endpoints[1].signal(Signal::CONT);
            for n in [0, 1] {
                let before = endpoints[n].hits();
                until("it has traffic again", || {
                    (endpoints[n].hits() > before + 100).then_some(())
                });
            }
        });
        let result = catch_unwind(script);
        stop.store(true, Ordering::SeqCst);
        let slowest = clients.into_iter().map(|c| c.join().expect("a client"));
        let slowest = slowest.max().expect("clients");
        if let Err(panic) = result {
            resume_unwind(panic);
        }
        slowest
    });
    // A retry pauses and is served by one that is well: what that may take is little, but for a machine that is busy.
    let most = CONNECT + FIRST_BYTE + Duration::from_millis(500);
    assert!(slowest < most, "the slowest took {slowest:?}");
    println!("{served:?} requests, the slowest took {slowest:?}");
}

/// Endpoints that pass their checks and are not ejected.
fn usable(proxy: &Proxy) -> usize {
    let status = proxy.status();
    let endpoints = status["services"][0]["versions"][0]["endpoints"].as_array();
    let usable = |e: &&serde_json::Value| e["health"] == "up" && e["ejected"].is_null();
    endpoints.expect("endpoints").iter().filter(usable).count()
}

/// GETs on one connection until told to stop; the longest that one took.
fn drive(proxy: &Proxy, stop: &AtomicBool, served: &AtomicUsize) -> Duration {
    let mut client = proxy.client();
    let mut slowest = Duration::ZERO;
    while !stop.load(Ordering::SeqCst) {
        let start = Instant::now();
        let answer = client.get("/");
        slowest = slowest.max(start.elapsed());
        assert_eq!(
            answer.status(),
            200,
            "{:?}",
            String::from_utf8_lossy(&answer.head)
        );
        served.fetch_add(1, Ordering::SeqCst);
        pause(Duration::from_millis(1));
    }
    slowest
}
