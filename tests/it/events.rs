//! `/api/v1/events`: what a stream begins with, what it is told, and how it goes on.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::client::dial;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, before, serve};
use crate::support::until;

/// An event, or a comment with the kind `:`.
#[derive(Clone, Debug, PartialEq)]
struct Event {
    id: String,
    kind: String,
    data: Value,
}

/// An open stream of events.
struct Events {
    lines: BufReader<TcpStream>,
    status: u16,
}

impl Events {
    /// Opens a stream. The response to HTTP/1.0 isn't chunked.
    #[track_caller]
    fn open(proxy: &Proxy, query: &str, last: Option<&str>) -> Self {
        let mut socket = dial(proxy.admin);
        let last = last.map_or_else(String::new, |id| format!("last-event-id: {id}\r\n"));
        let host = format!("host: 127.0.0.1:{}\r\n", proxy.admin);
        let request = format!("GET /api/v1/events{query} HTTP/1.0\r\n{host}{last}\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        let mut stream = Self {
            lines: BufReader::new(socket),
            status: 0,
        };
        let head = stream.line().expect("an answer");
        stream.status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let fields = std::iter::from_fn(|| stream.line().filter(|line| !line.is_empty()));
        let fields: Vec<String> = fields.collect();
        if stream.status == 200 {
            let is_stream = |field: &String| field == "content-type: text/event-stream";
            assert!(fields.iter().any(is_stream), "{fields:?}");
        }
        stream
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
    let told: Vec<_> = (1..=5)
        .map(|n| {
            let text = shops(&["shop"], &origin).replace("5%", &format!("{}%", 10 * n));
            let start = std::time::Instant::now();
            std::fs::write(proxy.file(), proxy.whole(&text)).unwrap();
            let share = format!("{}%", 10 * n);
            stream.until("service", |s| s["split"]["effective"]["v2"] == *share);
            start.elapsed().as_millis()
        })
        .collect();
    // Figures are told once a second; of five in a row one may meet such a moment.
    let fastest = told.iter().min().unwrap();
    assert!(*fastest < 500, "{told:?} ms");
}
