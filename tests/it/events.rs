//! `/api/v1/events`: what a stream begins with, what it is told, and how it goes on.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::client::dial;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, before, serve};
use crate::support::{Duplex, PATIENCE, until};

/// An event, or a comment with the kind `:`.
#[derive(Clone, Debug, PartialEq)]
struct Event {
    id: String,
    kind: String,
    data: Value,
}

/// An open stream of events.
struct Events {
    lines: BufReader<Box<dyn Duplex>>,
    status: u16,
}

impl Events {
    /// Opens a stream. The response to HTTP/1.0 isn't chunked.
    #[track_caller]
    fn open(proxy: &Proxy, query: &str, last: Option<&str>) -> Self {
        let last = last.map_or_else(String::new, |id| format!("last-event-id: {id}\r\n"));
        let host = format!("host: 127.0.0.1:{}\r\n", proxy.admin);
        let mut stream = Self::asked(
            dial(proxy.admin),
            &format!("{query} HTTP/1.0\r\n{host}{last}"),
        );
        stream.head();
        stream
    }

    /// Asks for a stream and reads nothing yet.
    #[track_caller]
    fn asked(mut socket: impl Duplex + 'static, rest: &str) -> Self {
        let request = format!("GET /api/v1/events{rest}\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        Self {
            lines: BufReader::new(Box::new(socket)),
            status: 0,
        }
    }

    /// As [`Self::asked`], on the control socket: other than those of TCP, its buffers have a fixed size.
    #[track_caller]
    fn asked_local(proxy: &Proxy, last: Option<&str>) -> Self {
        let state = std::fs::read_dir(proxy.dir().join("state")).unwrap();
        let is_control = |path: &std::path::PathBuf| path.to_str().unwrap().contains("/control-");
        let mut paths = state.map(|entry| entry.unwrap().path());
        let socket = UnixStream::connect(paths.find(is_control).unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let last = last.map_or_else(String::new, |id| format!("last-event-id: {id}\r\n"));
        Self::asked(socket, &format!(" HTTP/1.0\r\nhost: localhost\r\n{last}"))
    }

    /// Reads the head of the response.
    #[track_caller]
    fn head(&mut self) {
        let stream = self;
        let head = stream.line().expect("an answer");
        stream.status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let fields = std::iter::from_fn(|| stream.line().filter(|line| !line.is_empty()));
        let fields: Vec<String> = fields.collect();
        if stream.status == 200 {
            let is_stream = |field: &String| field == "content-type: text/event-stream";
            assert!(fields.iter().any(is_stream), "{fields:?}");
        }
    }

    /// The next line; `None` at the end of the stream.
    #[track_caller]
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).expect("a line in time");
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// The next event; `None` at the end of the stream.
    #[track_caller]
    fn next(&mut self) -> Option<Event> {
        let mut event = Event {
            id: String::new(),
            kind: ":".to_owned(),
            data: Value::Null,
        };
        loop {
            let line = self.line()?;
            match line.split_once(": ") {
                Some(("id", id)) => event.id = id.to_owned(),
                Some(("event", kind)) => event.kind = kind.to_owned(),
                Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                _ if line.is_empty() => return Some(event),
                _ => {}
            }
        }
    }

    /// Reads until such an event.
    #[track_caller]
    fn until(&mut self, kind: &str, is_it: impl Fn(&Value) -> bool) -> Event {
        loop {
            let event = self.next().expect("the stream goes on");
            if event.kind == kind && is_it(&event.data) {
                return event;
            }
        }
    }
}

fn shops(names: &[&str], origin: &Origin) -> String {
    let at = origin.at();
    let one = |name: &&str| {
        format!(
            "[service.{name}]\npaths = [\"/{name}\"]\nstable = \"v1\"\nsplit = {{ v2 = \"5%\" }}\n\
             [service.{name}.versions]\nv1 = [\"{at}\"]\nv2 = [\"{at}\"]\n"
        )
    };
    names.iter().map(one).collect()
}

#[test]
fn a_stream_begins_with_the_status_and_is_told_what_changes() {
    let origin = Origin::named("x");
    let proxy = serve(&shops(&["api", "shop"], &origin));
    let mut stream = Events::open(&proxy, "", None);
    let first = stream.next().unwrap();
    assert_eq!(first.kind, "status");
    let mut status = proxy.status();
    // Both were taken at other times.
    status["uptime_s"] = first.data["uptime_s"].clone();
    status["listeners"] = first.data["listeners"].clone();
    assert_eq!(first.data, status);

    proxy.edit(&shops(&["api", "shop"], &origin).replacen("5%", "25%", 1));
    let is_shifted = |api: &Value| api["name"] == "api" && api["split"]["effective"]["v2"] == "25%";
    stream.until("service", is_shifted);
    let adopted = stream.until("adopted", |_| true);
    assert_eq!(adopted.data["changes"][0]["service"], "api");
    assert_eq!(adopted.data["generation"], proxy.generation());

    proxy.get("/shop");
    let is_counted = |shop: &Value| {
        assert_eq!(shop["name"], "shop", "nothing changes in the other service");
        shop["versions"][0]["red"]["10s"]["rate"].as_f64() > Some(0.0)
    };
    stream.until("service", is_counted);
}

#[test]
fn the_stream_of_a_service_begins_with_it_and_ends_when_it_leaves() {
    let origin = Origin::named("x");
    let proxy = serve(&shops(&["api", "shop"], &origin));
    let unknown = Events::open(&proxy, "?service=shopp", None);
    assert_eq!(unknown.status, 404);
    let mut stream = Events::open(&proxy, "?service=shop", None);
    let first = stream.next().unwrap();
    assert_eq!(
        (&*first.kind, &first.data["name"]),
        ("service", &"shop".into())
    );
    assert_eq!(first.data["split"]["effective"]["v2"], "5%");
    // Of the other service it is told nothing.
    proxy.edit(&shops(&["api", "shop"], &origin).replacen("5%", "25%", 1));
    proxy.get("/api");
    proxy.edit(&shops(&["api", "shop"], &origin).replace("5%", "25%"));
    let [service, adopted] = [(); 2].map(|()| stream.next().unwrap());
    assert_eq!(
        (&*service.kind, &service.data["name"]),
        ("service", &"shop".into())
    );
    assert_eq!(adopted.kind, "adopted");
    assert_eq!(adopted.data["changes"][0]["service"], "shop");
    // A new one is known at once.
    proxy.edit(&shops(&["api", "shop", "more"], &origin).replace("5%", "25%"));
    let mut more = Events::open(&proxy, "?service=more", None);
    assert_eq!(more.next().unwrap().data["name"], "more");
    proxy.edit(&shops(&["api"], &origin).replace("5%", "25%"));
    for (mut stream, name) in [(stream, "shop"), (more, "more")] {
        let removed = stream.until("removed", |_| true);
        assert_eq!(removed.data, serde_json::json!({ "name": name }));
        let rest: Vec<_> = std::iter::from_fn(|| stream.next()).collect();
        assert!(rest.iter().all(|event| event.kind == "adopted"), "{rest:?}");
    }
    assert_eq!(Events::open(&proxy, "?service=shop", None).status, 404);
}

#[test]
fn a_client_that_comes_back_is_told_what_it_has_missed() {
    let origin = Origin::named("x");
    let proxy = serve(&shops(&["api", "shop"], &origin));
    let first = Events::open(&proxy, "", None).next().unwrap();
    proxy.edit(&shops(&["shop"], &origin));
    let mut again = Events::open(&proxy, "", Some(&first.id));
    let removed = again.next().unwrap();
    assert_eq!(
        (&*removed.kind, &removed.data["name"]),
        ("removed", &"api".into())
    );
    let mut by_address = Events::open(&proxy, &format!("?since={}", first.id), None);
    assert_eq!(by_address.next().unwrap(), removed);
    // A browser repeats the address, but knows more by then.
    let both = format!("?since={}", first.id);
    let mut both = Events::open(&proxy, &both, Some(&removed.id));
    assert_ne!(both.next().unwrap().kind, "removed");
    let mut narrow = Events::open(&proxy, "?service=shop", Some(&first.id));
    proxy.edit(&shops(&["shop"], &origin).replace("5%", "25%"));
    let service = narrow.next().unwrap();
    assert_eq!(
        (&*service.kind, &service.data["name"]),
        ("service", &"shop".into())
    );
}

#[test]
fn another_process_says_so_and_begins_again() {
    let origin = Origin::named("x");
    let mut proxy = before(&origin.at());
    let mut stream = Events::open(&proxy, "", None);
    let first = stream.next().unwrap();
    let mut successor = proxy.successor().expect("it takes over");
    // Connections to the predecessor end, so that clients reach the successor.
    while stream.next().is_some() {}
    for id in [&*first.id, "nonsense"] {
        let mut again = Events::open(&successor, "", Some(id));
        let reset = again.next().unwrap();
        assert_eq!(reset.kind, "reset");
        assert_eq!(reset.data["reason"], "restarted");
        let status = again.next().unwrap();
        assert_eq!(status.kind, "status");
        assert_eq!(status.data["pid"], successor.pid());
    }
    assert_eq!(proxy.ended().code(), Some(0));
    successor.signal(Signal::TERM);
    assert_eq!(
        successor.ended().code(),
        Some(0),
        "a stream holds up nothing"
    );
}

#[test]
fn streams_leave_room_for_other_requests() {
    let origin = Origin::named("x");
    let proxy = before(&origin.at());
    let mut streams: Vec<Events> = Vec::new();
    let refused = loop {
        let stream = Events::open(&proxy, "", None);
        if stream.status != 200 {
            break stream;
        }
        streams.push(stream);
        assert!(streams.len() < 256, "there is no end");
    };
    assert_eq!(refused.status, 503);
    assert!(streams.len() >= 128, "{} streams", streams.len());
    assert_eq!(proxy.ask_admin("/api/v1/status").status(), 200);
    assert_eq!(proxy.local(&["status"]).code, 0);
    // All of them are told, and one that ends makes room.
    for stream in &mut streams {
        assert_eq!(stream.next().unwrap().kind, "status");
    }
    proxy.edit(&crate::support::proxy::single(
        &origin.at(),
        "retry.tries = 1",
    ));
    for stream in &mut streams {
        stream.until("adopted", |_| true);
    }
    drop(streams.pop());
    until("there is room", || {
        (Events::open(&proxy, "", None).status == 200).then_some(())
    });
}

#[test]
fn a_shift_of_a_service_is_told_within_a_moment() {
    let origin = Origin::named("x");
    let proxy = serve(&shops(&["shop"], &origin));
    let mut stream = Events::open(&proxy, "?service=shop", None);
    stream.next().unwrap();
    let mut told: Vec<_> = (1..=5)
        .map(|n| {
            let text = shops(&["shop"], &origin).replace("5%", &format!("{}%", 10 * n));
            let start = std::time::Instant::now();
            std::fs::write(proxy.file(), proxy.whole(&text)).unwrap();
            let share = format!("{}%", 10 * n);
            stream.until("service", |s| s["split"]["effective"]["v2"] == *share);
            start.elapsed().as_millis()
        })
        .collect();
    // Figures are told once a second: the first may meet such a moment, the others begin just after one.
    told.sort_unstable();
    assert!(told[2] < 500, "{told:?} ms");
}

#[test]
fn an_ejection_and_its_end_are_told_within_a_moment() {
    let (well, ill) = (
        Origin::named("well"),
        Origin::each(|_, conn| conn.reply(500, "no")),
    );
    let names = ["a", "b", "c"];
    let one = |name: &&str| {
        format!(
            "[service.{name}]\npaths = [\"/{name}\"]\nstable = \"v1\"\noutlier.eject = \"1s\"\n\
             versions.v1 = [\"{}\", \"{}\"]\n",
            well.at(),
            ill.at()
        )
    };
    let proxy = serve(&names.iter().map(one).collect::<String>());
    let mut stream = Events::open(&proxy, "", None);
    stream.next().unwrap();
    let ejected = |service: &Value| service["versions"][0]["endpoints"][1]["ejected"].is_u64();
    let mut told = Vec::new();
    for name in names {
        // A worker counts failures in a row.
        let mut client = proxy.client();
        for _ in 0..5 {
            while client.get(&format!("/{name}")).status() == 200 {}
        }
        let start = Instant::now();
        stream.until("service", |s| s["name"] == name && ejected(s));
        told.push(start.elapsed().as_millis());
    }
    // Figures are told once a second: the first may meet such a moment, the others begin just after one.
    told.sort_unstable();
    assert!(told[1] < 500, "{told:?} ms");
    stream.until("service", |s| s["name"] == "c" && !ejected(s));
}

/// The services of a stream as its events tell them, and the id of the last event.
struct Told {
    services: BTreeMap<String, Value>,
    last: Option<String>,
}

impl Told {
    /// Takes an event. Nothing may be missing between it and the last one.
    #[track_caller]
    fn take(&mut self, event: Event) {
        if event.kind == ":" {
            return;
        }
        let number = |id: &str| id.rsplit_once('-').unwrap().1.parse::<u64>().unwrap();
        let is_next = |last: &String| number(&event.id) == number(last) + 1;
        let begins = matches!(&*event.kind, "status" | "reset");
        assert!(
            begins || self.last.as_ref().is_none_or(is_next),
            "{:?}, {event:?}",
            self.last
        );
        let name = |service: &Value| service["name"].as_str().unwrap().to_owned();
        match &*event.kind {
            "status" => {
                let services = event.data["services"].as_array().unwrap();
                self.services = services.iter().map(|s| (name(s), s.clone())).collect();
            }
            "service" => drop(self.services.insert(name(&event.data), event.data)),
            _ => {}
        }
        self.last = Some(event.id);
    }

    fn are_all_at(&self, share: &str) -> bool {
        let is_at = |service: &Value| service["split"]["effective"]["v2"] == share;
        !self.services.is_empty() && self.services.values().all(is_at)
    }

    /// Reads until all services have this share. Returns whether the stream has ended before.
    fn follow(&mut self, stream: &mut Events, share: &str) -> bool {
        while !self.are_all_at(share) {
            let Some(event) = stream.next() else {
                return true;
            };
            self.take(event);
        }
        false
    }
}

#[test]
fn a_stream_that_stalls_holds_up_no_other_and_misses_nothing() {
    let origin = Origin::named("x");
    let names: Vec<String> = (0..300).map(|number| format!("s{number:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let proxy = serve(&shops(&names, &origin));
    let told = || Told {
        services: BTreeMap::new(),
        last: None,
    };
    let mut live = Events::open(&proxy, "", None);
    let mut of_live = told();
    assert!(!of_live.follow(&mut live, "5%"));
    // The first event alone is more than the buffers hold.
    let mut stalled: Vec<Events> = (0..40).map(|_| Events::asked_local(&proxy, None)).collect();
    let stalled_at = Instant::now();
    let before = proxy.resident();
    let shares = ["10%", "15%", "20%"];
    for share in shares {
        let start = Instant::now();
        proxy.edit(&shops(&names, &origin).replace("5%", share));
        assert!(!of_live.follow(&mut live, share), "it goes on");
        assert!(
            start.elapsed() < Duration::from_secs(8),
            "{:?}",
            start.elapsed()
        );
    }
    // A copy of what each of them has not read would be 70 MB.
    let grown = proxy.resident().saturating_sub(before) >> 20;
    assert!(grown < 40, "{grown} MB more");

    let mut stream = stalled.pop().unwrap();
    let mut of_stalled = told();
    stream.head();
    while of_stalled.follow(&mut stream, shares[2]) {
        stream = Events::asked_local(&proxy, of_stalled.last.as_deref());
        stream.head();
    }
    let share_of = |told: &Told| -> Vec<Value> {
        told.services.values().map(|s| s["split"].clone()).collect()
    };
    assert_eq!(share_of(&of_stalled), share_of(&of_live));
    if std::env::var_os("CUTOVER_STALLS").is_none() {
        eprintln!("the write timeout is waited for with CUTOVER_STALLS=1");
        return;
    }
    let open = proxy.descriptors();
    let ended = crate::support::until_within(Duration::from_secs(20), "they are closed", || {
        (proxy.descriptors() + stalled.len() <= open).then(|| stalled_at.elapsed())
    });
    assert!(ended >= Duration::from_secs(10), "{ended:?}");
    eprintln!("closed {ended:?} after they stalled");
    proxy.edit(&shops(&names, &origin).replace("5%", "25%"));
    assert!(!of_live.follow(&mut live, "25%"), "the others go on");
}
