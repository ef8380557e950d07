//! SETTINGS of an HTTP/2 endpoint that arrive while requests wait for them.

use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::frames::{self, END_HEADERS, END_STREAM, frame, get_fields, kind};
use crate::support::origin::{Conn, Origin};
use crate::support::proxy::{Proxy, serve, single};

/// Streams that a connection may have before the endpoint has said how many it takes.
const ASSUMED: usize = 100;
/// What is asked for on one connection.
const REQUESTS: u32 = 128;

/// Reads requests until this many have come. Returns the numbers of their streams.
fn requests(conn: &mut Conn, count: usize) -> std::io::Result<Vec<u32>> {
    let mut streams = Vec::new();
    while streams.len() < count {
        let frame = frames::received(conn)?;
        if frame.kind == kind::HEADERS {
            streams.push(frame.stream);
        }
    }
    Ok(streams)
}

/// An endpoint that sends its settings when it has as many requests as it may get without them, and answers once it has all.
fn late(settings: &'static [u8]) -> Origin {
    Origin::script(move |conn| {
        conn.exact(frames::preface().len() - 9)?;
        let mut streams = requests(conn, ASSUMED)?;
        conn.write(&frame(kind::SETTINGS, 0, 0, settings))?;
        streams.extend(requests(conn, REQUESTS as usize - ASSUMED)?);
        for stream in streams {
            let ok = frames::block(&[(":status", "200")]);
            conn.write(&frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, &ok))?;
        }
        while frames::received(conn).is_ok() {}
        Ok(())
    })
}

/// Asks for everything at once, over one connection.
fn ask(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    let mut bytes = frames::preface();
    for n in 0..REQUESTS {
        bytes.extend(frames::request(2 * n + 1, &get_fields("/")));
    }
    client.send(bytes);
    client
}

#[test]
fn requests_that_wait_for_a_stream_go_on_when_the_endpoint_allows_more() {
    // None of the settings says how many streams: as many as one likes (RFC 9113 §6.5.2). Then 1,000.
    for settings in [&[][..], &[0, 3, 0, 0, 3, 232][..]] {
        let origin = late(settings);
        let endpoint = format!("h2c://{}", origin.at());
        let one = "[service.app.limits]\nconnections = 1";
        let proxy = serve(&single(&endpoint, one));
        let mut client = ask(&proxy);
        let (begun, mut answered) = (Instant::now(), 0);
        while answered < REQUESTS {
            let frame = frames::next(&mut client).expect("an answer to each");
            answered += u32::from(frame.kind == kind::HEADERS);
        }
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?}",
            begun.elapsed()
        );
    }
}
