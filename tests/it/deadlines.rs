//! Drains and deadlines hold to the second for bodies that never stop moving, of every kind.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::Request;

use crate::support::client::Client;
use crate::support::h2_client::{H2, piece, send};
use crate::support::origin::{Conn, Origin};
use crate::support::proxy::{Builder, Proxy};
use crate::support::{PATIENCE, block_on, pause, until};

/// `drain.requests`, and `shutdown.deadline`.
const REQUESTS: Duration = Duration::from_millis(1000);
/// `drain.streams`
const STREAMS: Duration = Duration::from_millis(2500);
/// How much later an end may be noticed on a busy machine.
const LATE: Duration = Duration::from_millis(1000);

/// Bodies without an end, either way.
fn origin() -> Origin {
    Origin::script(|conn: &mut Conn| {
        let request = conn.head()?.expect("a request");
        match request.target().as_str() {
            "/length" => {
                conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1099511627776\r\n\r\n")?;
                pour(conn, &[b'x'; 256 * 1024])
            }
            "/trickle" => {
                conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1099511627776\r\n\r\n")?;
                loop {
                    conn.write(b"a little")?;
                    pause(Duration::from_millis(5));
                }
            }
            "/chunked" => {
                conn.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
                pour(conn, chunk().as_bytes())
            }
            "/tunnel" => {
                conn.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")?;
                pour(conn, &[b'x'; 32 * 1024])
            }
            _ => conn.peer_closes(4 * PATIENCE).map(drop),
        }
    })
}

/// One of 4 KiB.
fn chunk() -> String {
    format!("1000\r\n{}\r\n", "x".repeat(4096))
}

/// Without a pause: whenever the proxy looks, something has moved.
fn pour(conn: &mut Conn, bytes: &[u8]) -> std::io::Result<()> {
    loop {
        conn.write(bytes)?;
    }
}

/// A body on its way, how long it may go on, and when its client saw it end.
struct Moving {
    name: &'static str,
    limit: Duration,
    ended: JoinHandle<Instant>,
}

impl Moving {
    fn new(name: &'static str, limit: Duration, client: impl FnOnce() + Send + 'static) -> Self {
        let ended = std::thread::spawn(move || {
            client();
            Instant::now()
        });
        Self { name, limit, ended }
    }

    fn download(name: &'static str, limit: Duration, port: u16) -> Self {
        Self::new(name, limit, move || {
            let mut client = Client::new(port);
            let wish = match name {
                "/tunnel" => "connection: upgrade\r\nupgrade: echo\r\n",
                _ => "",
            };
            client.send(format!("GET {name} HTTP/1.1\r\nhost: test\r\n{wish}\r\n"));
            let start = Instant::now();
            let more = |client: &mut Client| client.piece().is_ok_and(|piece| !piece.is_empty());
            while start.elapsed() < PATIENCE && more(&mut client) {}
        })
    }

    fn upload(framing: &'static str, port: u16) -> Self {
        Self::new(framing, REQUESTS, move || {
            let mut client = Client::new(port);
            client.send(format!(
                "POST /upload HTTP/1.1\r\nhost: test\r\n{framing}\r\n\r\n"
            ));
            // Both framings take it: by length it is just bytes.
            let many = chunk().repeat(20);
            let start = Instant::now();
            while start.elapsed() < PATIENCE && client.try_send(&many).is_ok() {}
        })
    }

    /// Over HTTP/2, a connection for each.
    fn stream(path: &'static str, limit: Duration, port: u16) -> Self {
        Self::new(path, limit, move || {
            let moving = async {
                let client = H2::connect(port).await;
                let url = format!("http://test{path}");
                if path == "/upload" {
                    let request = Request::post(url).body(()).expect("a request");
                    let (answer, mut body) = client.open(request, false).await.expect("a stream");
                    while send(&mut body, vec![7; 16_000].into(), false).await.is_ok() {}
                    assert!(answer.await.is_err());
                    return;
                }
                let request = Request::get(url).body(()).expect("a request");
                let (answer, _) = client.open(request, true).await.expect("a stream");
                let mut body = answer.await.expect("an answer").into_body();
                while let Some(Ok(_)) = piece(&mut body).await {}
            };
            block_on(async { tokio::time::timeout(PATIENCE, moving).await.unwrap_or(()) });
        })
    }

    fn of_every_kind(port: u16) -> Vec<Self> {
        vec![
            Self::download("/length", REQUESTS, port),
            Self::download("/trickle", REQUESTS, port),
            Self::download("/chunked", STREAMS, port),
            Self::download("/tunnel", STREAMS, port),
            Self::upload("transfer-encoding: chunked", port),
            Self::upload("content-length: 1099511627776", port),
            Self::stream("/length", REQUESTS, port),
            Self::stream("/trickle", REQUESTS, port),
            Self::stream("/chunked", STREAMS, port),
            Self::stream("/upload", REQUESTS, port),
        ]
    }
}

/// Nothing is cut before its time, counted from `began`, and nothing outlives it, counted from `at_the_latest`.
#[track_caller]
fn end_in_time(moving: Vec<Moving>, began: Instant, at_the_latest: Instant) {
    let mut wrong = Vec::new();
    for Moving { name, limit, ended } in moving {
        let ended = ended.join().expect("a client");
        let early = ended.duration_since(began) < limit.saturating_sub(Duration::from_millis(20));
        if early || ended.duration_since(at_the_latest) > limit + LATE {
            wrong.push(format!("{name}: {:?}, not {limit:?}", ended - began));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn text(second: &str, endpoint: &str) -> String {
    format!(
        "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\nshutdown = {{ deadline = \"1s\" }}\n\
         [listen.one]\nbind = \"127.0.0.1:$PORT\"\n{second}\
         [service.app]\ndrain = {{ requests = \"1s\", streams = \"2500ms\" }}\n\
         timeouts.connect = \"10s\"\nversions = {{ v1 = [\"{endpoint}\"] }}\n"
    )
}

const SECOND: &str = "[listen.two]\nbind = \"127.0.0.1:$PORT2\"\n";

fn all_are_moving(origin: &Origin, moving: &[Moving]) {
    until("all are moving", || {
        (origin.hits() == moving.len()).then_some(())
    });
    pause(Duration::from_millis(100));
}

fn rewrite(proxy: &Proxy, text: &str) {
    std::fs::write(proxy.file(), proxy.filled(text)).expect("write the configuration");
}

/// One at a time: each keeps its proxy as busy as it can.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_listener_that_is_removed_cuts_moving_bodies_at_the_end_of_its_drain() {
    let (_alone, origin) = (alone(), origin());
    let proxy = Builder::new(&text(SECOND, &origin.at())).start();
    let moving = Moving::of_every_kind(proxy.port2);
    all_are_moving(&origin, &moving);
    let began = Instant::now();
    rewrite(&proxy, &text("", &origin.at()));
    end_in_time(moving, began, began);
}

#[test]
fn an_endpoint_that_is_removed_cuts_moving_bodies_at_the_end_of_its_drain() {
    let (_alone, origin, other) = (alone(), origin(), Origin::named("other"));
    let proxy = Builder::new(&text(SECOND, &origin.at())).start();
    let moving = Moving::of_every_kind(proxy.port);
    all_are_moving(&origin, &moving);
    let began = Instant::now();
    rewrite(&proxy, &text(SECOND, &other.at()));
    end_in_time(moving, began, began);
}

#[test]
fn a_process_that_was_replaced_cuts_moving_bodies_at_its_deadline() {
    let (_alone, origin) = (alone(), origin());
    let proxy = Builder::new(&text(SECOND, &origin.at())).start();
    let moving = Moving::of_every_kind(proxy.port);
    all_are_moving(&origin, &moving);
    let began = Instant::now();
    let _successor = proxy.successor().expect("it takes over");
    end_in_time(moving, began, Instant::now());
}
