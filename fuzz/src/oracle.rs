//! hyper as oracle: where both it and we accept a message, both must have read the same.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use cutover::http1::framing::trailers;
use cutover::http1::{Field, Framing, Method, RequestHead, ResponseHead};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::checks::{LIMITS, decode};

type Fields = BTreeMap<String, Vec<Vec<u8>>>;

/// One message as somebody read it.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    /// Method and target, or status.
    pub line: String,
    pub fields: Fields,
    pub body: Vec<u8>,
    /// What trailers may go on.
    pub trailers: Fields,
}

/// Reads a request with both; panics where both accept it and differ.
pub fn agree_on_request(wire: &[u8]) {
    if let (Some(ours), Some(theirs)) = (our_request(wire), hypers_request(wire)) {
        agree(ours, theirs, wire);
    }
}

/// The same with a response to GET.
pub fn agree_on_response(wire: &[u8]) {
    if let (Some(ours), Some(theirs)) = (our_response(wire), hypers_response(wire)) {
        agree(ours, theirs, wire);
    }
}

fn agree(ours: Seen, mut theirs: Seen, wire: &[u8]) {
    // hyper hands on all trailers that it takes for valid.
    theirs
        .trailers
        .retain(|name, _| ours.trailers.contains_key(name));
    assert_eq!(ours, theirs, "{}", wire.escape_ascii());
}

/// The first request on the wire, if we accept it and it is complete.
pub fn our_request(wire: &[u8]) -> Option<Seen> {
    let mut head = RequestHead::new();
    let len = head.parse(wire, &LIMITS).ok()??;
    let mut target = String::from_utf8_lossy(head.target.of(wire));
    if !target.starts_with('/') {
        // hyper shows absolute-form normalised: scheme in lower case, `/` for an empty path.
        let uri = target.parse::<hyper::Uri>().ok()?;
        target = uri.to_string().into();
    }
    let method = String::from_utf8_lossy(head.method_span.of(wire));
    our_body(
        format!("{method} {target}"),
        wire,
        len,
        &head.fields,
        head.framing,
    )
}

/// The response on the wire, if we accept it and it is complete.
pub fn our_response(wire: &[u8]) -> Option<Seen> {
    let mut head = ResponseHead::new();
    let len = head.parse(wire, Method::Get, &LIMITS).ok()??;
    if head.status < 200 {
        return None;
    }
    our_body(
        head.status.to_string(),
        wire,
        len,
        &head.fields,
        head.framing,
    )
}

fn our_body(
    line: String,
    wire: &[u8],
    len: usize,
    fields: &[Field],
    framing: Framing,
) -> Option<Seen> {
    let decoded = decode(&wire[len..], framing, false, &[5, 1, 9]);
    if !decoded.done && framing != Framing::UntilClose {
        return None;
    }
    let mut seen = Seen {
        line,
        fields: Fields::new(),
        body: decoded.content,
        trailers: Fields::new(),
    };
    for field in fields {
        push(&mut seen.fields, field.name.of(wire), field.value.of(wire));
    }
    if !decoded.trailers.is_empty() {
        for trailer in trailers(&decoded.trailers).ok()? {
            push(&mut seen.trailers, trailer.name, trailer.value);
        }
    }
    Some(seen)
}

/// The first request that hyper's server takes from the wire, with its whole body.
pub fn hypers_request(wire: &[u8]) -> Option<Seen> {
    let seen = Rc::new(RefCell::new(None));
    let kept = seen.clone();
    run(async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let kept = kept.clone();
            async move {
                let (parts, body) = request.into_parts();
                let line = format!("{} {}", parts.method, parts.uri);
                let read = read(line, &parts.headers, body).await;
                kept.borrow_mut().get_or_insert(read);
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let connection = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(server), service);
        let mut answer = Vec::new();
        let talk = async {
            // Either may fail when hyper closes early.
            let _ = client.write_all(wire).await;
            let _ = client.shutdown().await;
            let _ = client.read_to_end(&mut answer).await;
        };
        let _ = tokio::join!(connection, talk);
    });
    seen.take().flatten()
}

/// The response that hyper's client takes from the wire, with its whole body.
pub fn hypers_response(wire: &[u8]) -> Option<Seen> {
    run(async move {
        let (client, mut server) = tokio::io::duplex(64 * 1024);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client))
            .await
            .ok()?;
        let ask = async {
            let request = Request::get("/")
                .header("host", "a")
                .body(Empty::<Bytes>::new())
                .ok()?;
            let (parts, body) = sender.send_request(request).await.ok()?.into_parts();
            read(parts.status.as_str().to_owned(), &parts.headers, body).await
        };
        let answer = async {
            // The request first: what comes before it would be refused as unasked for.
            let mut asked = [0; 256];
            let _ = server.read(&mut asked).await;
            let _ = server.write_all(wire).await;
            let _ = server.shutdown().await;
            drop(server);
        };
        tokio::join!(ask, connection, answer).0
    })
}

async fn read(line: String, headers: &HeaderMap, body: Incoming) -> Option<Seen> {
    let body = body.collect().await.ok()?;
    let mut seen = Seen {
        line,
        fields: fields(headers),
        trailers: body.trailers().map(fields).unwrap_or_default(),
        body: Vec::new(),
    };
    seen.body = body.to_bytes().to_vec();
    Some(seen)
}

fn fields(headers: &HeaderMap) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in headers {
        push(&mut fields, name.as_str().as_bytes(), value.as_bytes());
    }
    fields
}

fn push(fields: &mut Fields, name: &[u8], value: &[u8]) {
    let name = String::from_utf8_lossy(name).to_lowercase();
    fields.entry(name).or_default().push(value.to_vec());
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime needs no resources");
    runtime.block_on(work)
}
