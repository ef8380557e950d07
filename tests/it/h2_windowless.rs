//! HTTP/2 clients that grant no window hold little of the proxy's memory, whatever the origin has answered.

use std::collections::BTreeSet;

use crate::support::client::Client;
use crate::support::frames::{self, frame, get_fields, kind};
use crate::support::h2_origin::H2Origin;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, serve, single};
use crate::support::until;

const CONNECTIONS: usize = 8;
const STREAMS: u32 = 128;

/// A body that the proxy can read whole while its client takes nothing.
const BODY: &str = match std::str::from_utf8(&[b'x'; 60 * 1024]) {
    Ok(text) => text,
    Err(_) => panic!("ASCII"),
};

/// A connection whose streams have no window, with as many requests as it may have.
fn windowless(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE = 0
    bytes.extend(frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    for n in 0..STREAMS {
        bytes.extend(frames::request(2 * n + 1, &get_fields("/")));
    }
    client.send(bytes);
    client
}

/// What the proxy's memory grows by when all streams have their answers, and none a window for them.
fn grown(proxy: &Proxy, answered: impl Fn() -> usize) -> u64 {
    // Code and tables are in memory before the count begins.
    assert_eq!(proxy.get("/").status(), 200);
    let start = proxy.resident();
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| windowless(proxy)).collect();
    for client in &mut clients {
        let mut heads = 0;
        while heads < STREAMS {
            let frame = frames::next(client).expect("a frame");
            heads += u32::from(frame.kind == kind::HEADERS);
            assert!(!matches!(frame.kind, kind::RST_STREAM | kind::GOAWAY));
        }
    }
    until("all are answered", || {
        (answered() > CONNECTIONS * STREAMS as usize).then_some(())
    });
    proxy.resident().saturating_sub(start)
}

/// This many connections at a time take a busy machine longer than an origin is given by default.
const LIMITS: &str = "timeouts.connect = \"30s\"\ntimeouts.first_byte = \"30s\"\n\
                      [service.app.limits]\nconnections = 2000\nrequests = 2000";

#[test]
fn answers_of_http1_origins_to_streams_without_window_take_bounded_memory() {
    let origin = Origin::each(|_, conn| conn.reply(200, BODY));
    let proxy = serve(&single(&origin.at(), LIMITS));
    let grown = grown(&proxy, || origin.hits());
    assert!(grown < 64 * 1024 * 1024, "{} KiB", grown / 1024);
}

#[test]
fn finished_answers_beyond_a_bound_of_memory_make_room_for_others() {
    let origin = Origin::each(|request, conn| match request.target().as_str() {
        "/good" => conn.reply(200, "good"),
        _ => conn.reply(200, &BODY[..10_000]),
    });
    let limits = LIMITS.replace("requests = 2000", "requests = 64");
    let service = single(&origin.at(), &limits);
    let proxy = serve(&format!("limits.streams = 300\n{service}"));
    let mut client = proxy.client();
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    client.send(frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    let (mut answered, mut reset) = (BTreeSet::new(), BTreeSet::new());
    for n in 0..300 {
        let stream = 2 * n + 1;
        client.send(frames::request(stream, &get_fields("/")));
        while !answered.contains(&stream) {
            let frame = frames::next(&mut client).expect("a frame");
            match frame.kind {
                kind::HEADERS => drop(answered.insert(frame.stream)),
                kind::RST_STREAM => drop(reset.insert(frame.stream)),
                _ => {}
            }
        }
    }
    // 2 MiB hold 113 with buffers of 16 KiB, and 64 more hold a slot: the others made room for the newest.
    let most = 300 - reset.len();
    assert!(most <= 128 + 64, "{most} answers are held");
    assert!(most >= 128, "only {most} answers are held");
    for _ in 0..100 {
        assert_eq!(proxy.get("/good").text(), "good");
    }
}

#[test]
fn answers_of_http2_origins_to_streams_without_window_take_bounded_memory() {
    let origin = H2Origin::script(|x| x.reply(BODY));
    let proxy = serve(&single(&origin.h2c(), LIMITS));
    let grown = grown(&proxy, || origin.heads().len());
    assert!(grown < 64 * 1024 * 1024, "{} KiB", grown / 1024);
}
