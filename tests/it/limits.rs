//! When there are more clients than room.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::support::client::{Client, get};
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, serve, single};
use crate::support::wire::Message;
use crate::support::{PATIENCE, until, until_within};

#[test]
fn connections_beyond_the_limit_wait_their_turn() {
    let origin = Origin::named("blue");
    let proxy = serve(&format!(
        "[limits]\nconnections = 4\n{}",
        single(&origin.at(), "")
    ));
    let mut inside: Vec<_> = (0..4).map(|_| proxy.client()).collect();
    for client in &mut inside {
        assert_eq!(client.get("/").text(), "blue");
    }
    let mut waiting = proxy.client();
    waiting.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    waiting.patience(Duration::from_millis(200));
    assert!(waiting.try_answer("GET").is_err(), "a fifth was let in");
    inside.pop();
    waiting.patience(crate::support::PATIENCE);
    assert_eq!(waiting.answer("GET").text(), "blue");
    assert_eq!(proxy.ask_admin("/readyz").status(), 200);
}

#[test]
fn who_does_nothing_makes_room_for_who_comes() {
    let origin = Origin::named("blue");
    let head = "listen = \"127.0.0.1:$PORT\"\nadmin = \"127.0.0.1:$ADMIN\"\nworkers = 1\n\
                state_dir = \"$DIR/state\"\n[limits]\nconnections = 3\n";
    let proxy = Builder::new(&format!("{head}{}", single(&origin.at(), ""))).start();
    // One worker: each sheds those of its own, and which worker a connection comes to is for the kernel to say.
    let (mut idle, mut dawdling, mut busy) = (proxy.client(), proxy.client(), proxy.client());
    idle.get("/");
    dawdling.send("GET / HTTP/1.1\r\nhost:");
    busy.get("/");
    let mut come = Vec::new();
    for gone in [&mut idle, &mut dawdling] {
        let mut next = proxy.client();
        next.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        next.patience(Duration::from_millis(100));
        let answer = until("there is room", || {
            assert_eq!(busy.get("/").text(), "blue");
            for other in &mut come {
                let other: &mut Client = other;
                assert_eq!(other.get("/").text(), "blue");
            }
            next.try_answer("GET").ok()
        });
        assert_eq!(answer.text(), "blue");
        assert_ne!(gone.end_within(PATIENCE), crate::support::client::End::Open);
        next.patience(PATIENCE);
        come.push(next);
    }
}

#[test]
fn a_proxy_out_of_descriptors_serves_who_is_in_and_recovers_at_once() {
    let origin = Origin::named("blue");
    let proxy = Builder::rest(&single(&origin.at(), ""))
        .descriptors(160)
        .start();
    let mut inside = proxy.client();
    assert_eq!(inside.get("/").text(), "blue");
    let flood: Vec<Client> = (0..300).map(|_| Client::new(proxy.port)).collect();
    // The reserve is for upstream and admin: both work for those who are in.
    assert_eq!(inside.get("/").text(), "blue");
    assert_eq!(proxy.ask_admin("/readyz").status(), 200);
    let cpu = || proxy.metrics().sum("process_cpu_seconds_total", &[]);
    let (before, start) = (cpu(), Instant::now());
    until("half a second", || {
        (start.elapsed() > Duration::from_millis(500)).then_some(())
    });
    let spent = cpu() - before;
    assert!(spent < 0.3, "{spent} s of CPU in half a second of waiting");
    drop(flood);
    let start = Instant::now();
    assert_eq!(get(proxy.port, "/").text(), "blue");
    assert!(
        start.elapsed() < Duration::from_millis(1500),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn descriptors_that_run_out_are_the_proxys_fault_and_it_recovers_at_once() {
    let origin = Origin::each(|request, conn| match request.target().as_str() {
        "/hold" => conn.peer_closes(4 * PATIENCE).map(drop),
        _ => conn.reply(200, "blue"),
    });
    // The first failure that is charged would eject the endpoint, and every other request would be told so.
    let more = "outlier.consecutive_gateway = 1\nretry.tries = 1";
    let proxy = Builder::rest(&single(&origin.at(), more))
        .descriptors(96)
        .start();
    assert_eq!(get(proxy.port, "/").text(), "blue");
    // All are inside before the first of them needs a connection upstream: half of the descriptors isn't enough for that.
    let mut crowd: Vec<Client> = (0..45).map(|_| proxy.client()).collect();
    for client in &mut crowd {
        assert_eq!(client.get("/").text(), "blue");
    }
    for client in &mut crowd {
        client.send("GET /hold HTTP/1.1\r\nhost: test\r\n\r\n");
        client.patience(Duration::from_millis(1));
    }
    let refused = until("a client is told", || {
        let mut answers = crowd.iter_mut().filter_map(|c| c.try_answer("GET").ok());
        answers.next()
    });
    let reason = refused.field("x-cutover-reason");
    assert_eq!(
        (refused.status(), reason.as_deref()),
        (503, Some("no-descriptors"))
    );
    assert_eq!(refused.field("retry-after").as_deref(), Some("1"));
    // Now nobody can be accepted either.
    crowd.extend((0..20).map(|_| proxy.client()));
    let (before, start) = (proxy.cpu(), Instant::now());
    until("half a second", || {
        (start.elapsed() > Duration::from_millis(500)).then_some(())
    });
    let spent = proxy.cpu() - before;
    assert!(
        spent < Duration::from_millis(250),
        "{spent:?} of CPU in half a second"
    );
    drop(crowd);
    // Those that the kernel still held for the crowd are accepted, and found to be gone, first.
    until_within(Duration::from_secs(1), "it has recovered", || {
        (get(proxy.port, "/").status() == 200).then_some(())
    });
    let metrics = proxy.metrics();
    for status in ["502", "503", "504"] {
        let labels = [("version", "v1"), ("status", status)];
        assert_eq!(metrics.sum("http_requests_total", &labels), 0.0, "{status}");
    }
    assert_eq!(metrics.sum("cutover_ejections_total", &[]), 0.0);
}

#[test]
fn slow_clients_harm_nobody() {
    let origin = Origin::named("blue");
    let proxy = serve(&single(&origin.at(), ""));
    let start = proxy.resident();
    let slow: Vec<Client> = (0..500)
        .map(|n| {
            let mut client = proxy.client();
            client.send(&"GET / HTTP/1.1\r\nhost: slow!"[..n % 27]);
            client
        })
        .collect();
    let mut client = proxy.client();
    for _ in 0..200 {
        assert_eq!(client.get("/").status(), 200);
    }
    let each = (proxy.resident() - start) / slow.len() as u64;
    assert!(each < 64 * 1024, "{each} bytes for a slow client");
}

#[test]
fn a_listener_may_be_a_unix_socket() {
    let origin = Origin::named("blue");
    let proxy = Builder::new(&format!(
        "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n\
         [listen.local]\nbind = \"unix:$DIR/front.sock\"\n{}",
        single(&origin.at(), "")
    ))
    .start();
    let socket = std::os::unix::net::UnixStream::connect(proxy.dir().join("front.sock"));
    let mut client = Client::over(socket.unwrap());
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "blue");
    }
    let listener = [("listener", "local")];
    assert_eq!(proxy.metrics().sum("cutover_connections", &listener), 1.0);
}

/// One service with one endpoint and these ceilings.
fn limited(origin: &Origin, limits: &str) -> Proxy {
    let more = format!("[service.app.limits]\n{limits}");
    serve(&single(&origin.at(), &more))
}

/// Answers each request when its path's gate is opened.
#[derive(Clone, Default)]
struct Gates(Arc<(Mutex<HashSet<String>>, Condvar)>);

impl Gates {
    fn open(&self, path: &str) {
        self.0.0.lock().unwrap().insert(path.to_owned());
        self.0.1.notify_all();
    }

    fn pass(&self, path: &str) {
        let open = self.0.0.lock().unwrap();
        let shut = |open: &mut HashSet<String>| !open.contains(path);
        drop(self.0.1.wait_timeout_while(open, PATIENCE, shut).unwrap());
    }

    fn origin(&self) -> Origin {
        let gates = self.clone();
        Origin::each(move |request, conn| {
            gates.pass(&request.target());
            conn.reply(200, &request.target())
        })
    }
}

fn send(proxy: &Proxy, path: &str) -> Client {
    let mut client = proxy.client();
    client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
    client
}

#[track_caller]
fn assert_refused(answer: &Message, reason: &str) {
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.field("x-cutover-reason").as_deref(), Some(reason));
    assert_eq!(answer.field("retry-after").as_deref(), Some("1"));
}

fn rejected(proxy: &Proxy, limit: &str) -> f64 {
    let labels = [("service", "app"), ("version", "v1"), ("limit", limit)];
    let metrics = proxy.metrics();
    metrics.sum("cutover_limit_rejections_total", &labels)
}

fn queued(proxy: &Proxy) -> f64 {
    let labels = [("service", "app"), ("version", "v1")];
    proxy.metrics().sum("queue_depth", &labels)
}

#[test]
fn requests_beyond_the_ceiling_are_refused_at_once() {
    let gates = Gates::default();
    let origin = gates.origin();
    let proxy = limited(&origin, "requests = 2");
    let mut inside = ["/a", "/b"].map(|path| send(&proxy, path));
    until("both are in flight", || (origin.hits() == 2).then_some(()));
    for n in 1..=5 {
        assert_refused(&proxy.get("/c"), "limit-requests");
        assert_eq!(rejected(&proxy, "requests"), f64::from(n));
    }
    gates.open("/a");
    assert_eq!(inside[0].answer("GET").text(), "/a");
    gates.open("/c");
    until("there is room again", || {
        (proxy.get("/c").status() == 200).then_some(())
    });
    gates.open("/b");
    assert_eq!(inside[1].answer("GET").text(), "/b");
}

#[test]
fn who_finds_no_connection_waits_in_a_queue_that_has_an_end() {
    let gates = Gates::default();
    let origin = gates.origin();
    let proxy = limited(&origin, "connections = 1\npending = 2");
    let mut inside = send(&proxy, "/a");
    until("it has the connection", || {
        (origin.hits() == 1).then_some(())
    });
    assert_eq!(queued(&proxy), 0.0);
    let mut waiting = ["/b", "/c"].map(|path| send(&proxy, path));
    until("two wait", || (queued(&proxy) == 2.0).then_some(()));
    assert_refused(&proxy.get("/d"), "limit-pending");
    assert_eq!(rejected(&proxy, "pending"), 1.0);
    assert_eq!(origin.connections(), 1);
    for path in ["/a", "/b", "/c"] {
        gates.open(path);
    }
    assert_eq!(inside.answer("GET").text(), "/a");
    for (client, path) in waiting.iter_mut().zip(["/b", "/c"]) {
        assert_eq!(client.answer("GET").text(), path);
    }
    until("nobody waits", || (queued(&proxy) == 0.0).then_some(()));
    assert_eq!(rejected(&proxy, "connections"), 0.0);
}

#[test]
fn who_waits_too_long_for_a_connection_is_refused() {
    let gates = Gates::default();
    let held = gates.clone();
    let origin = Origin::each(move |_, conn| {
        conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha")?;
        held.pass("/");
        conn.write(b"lf")
    });
    let more = "timeouts.first_byte = \"300ms\"\n[service.app.limits]\nconnections = 1";
    let proxy = serve(&single(&origin.at(), more));
    let mut inside = send(&proxy, "/");
    assert_eq!(inside.head().unwrap().status(), 200);
    let start = Instant::now();
    assert_refused(&proxy.get("/"), "limit-connections");
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(rejected(&proxy, "connections"), 1.0);
    assert_eq!(queued(&proxy), 0.0);
    gates.open("/");
    assert_eq!(inside.exact(4), b"half");
}

#[test]
fn a_client_that_leaves_the_queue_leaves_no_gap() {
    let gates = Gates::default();
    let origin = gates.origin();
    let proxy = limited(&origin, "connections = 1\npending = 1");
    let mut inside = send(&proxy, "/a");
    until("it has the connection", || {
        (origin.hits() == 1).then_some(())
    });
    for n in 0..5 {
        let waiting = send(&proxy, "/gone");
        until("one waits", || (queued(&proxy) == 1.0).then_some(()));
        drop(waiting);
        until(&format!("{n} left"), || {
            (queued(&proxy) == 0.0).then_some(())
        });
    }
    let mut last = send(&proxy, "/last");
    until("one waits", || (queued(&proxy) == 1.0).then_some(()));
    gates.open("/a");
    gates.open("/last");
    assert_eq!(inside.answer("GET").text(), "/a");
    assert_eq!(last.answer("GET").text(), "/last");
    assert_eq!(origin.hits(), 2, "nobody asked for those who left");
}

#[test]
fn a_connection_carries_as_many_requests_as_it_may() {
    let origin = Origin::named("blue");
    let proxy = limited(&origin, "requests_per_connection = 2");
    let mut client = proxy.client();
    for n in 1..=7 {
        assert_eq!(client.get("/").text(), "blue");
        assert_eq!(origin.connections(), usize::div_ceil(n, 2));
    }
    until("only the last is open", || {
        (origin.open() == 1).then_some(())
    });
}

#[test]
fn retries_of_answers_have_a_ceiling() {
    let gates = Gates::default();
    let seen = Mutex::new(HashSet::new());
    let held = gates.clone();
    let origin = Origin::each(move |request, conn| {
        if seen.lock().unwrap().insert(request.target()) {
            return conn.reply(503, "theirs");
        }
        held.pass(&request.target());
        conn.reply(200, "at last")
    });
    let more = "retry.budget = \"100%\"\n[service.app.limits]\nretries = 1";
    let proxy = serve(&single(&origin.at(), more));
    let mut inside = send(&proxy, "/a");
    until("it is tried again", || (origin.hits() == 2).then_some(()));
    let answer = proxy.get("/b");
    assert_eq!((answer.status(), answer.text().as_str()), (503, "theirs"));
    assert_eq!(rejected(&proxy, "retries"), 1.0);
    gates.open("/a");
    gates.open("/c");
    assert_eq!(inside.answer("GET").text(), "at last");
    // The client has its answer before the retry gives up its place.
    until("the place is free", || {
        let running = proxy.metrics().sum("http_requests_in_flight", &[]);
        (running == 0.0).then_some(())
    });
    assert_eq!(proxy.get("/c").text(), "at last");
}
