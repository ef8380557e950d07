//! The clients: eight keep-alive connections that send about 200 requests per second in total.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::tally::Tally;

/// Number of connections.
const CLIENTS: u32 = 8;

/// Interval between two requests of one client: 25 requests per second.
const INTERVAL: Duration = Duration::from_millis(40);

/// A request that takes longer counts as failed.
const TIMEOUT: Duration = Duration::from_secs(5);

type Sender = SendRequest<Empty<Bytes>>;

/// Starts the clients. They stop when the returned set is dropped.
pub(super) fn start(proxy: SocketAddr, tally: Rc<RefCell<Tally>>) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn_local(client(proxy, INTERVAL / CLIENTS * number, tally.clone()));
    }
    clients
}

async fn client(proxy: SocketAddr, offset: Duration, tally: Rc<RefCell<Tally>>) {
    let mut ticks = interval_at(Instant::now() + offset, INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    loop {
        ticks.tick().await;
        let begun = Instant::now();
        let sent = timeout(TIMEOUT, send(proxy, &mut connection)).await;
        let took = begun.elapsed();
        let mut tally = tally.borrow_mut();
        match sent {
            Ok(Ok(version)) => tally.answered(&version, took),
            Ok(Err(why)) => {
                connection = None;
                tally.failed(&why, took);
            }
            Err(_) => {
                connection = None;
                tally.failed(&format!("no answer within {TIMEOUT:?}"), took);
            }
        }
    }
}

/// Sends one request and returns the name of the version that answered it.
async fn send(proxy: SocketAddr, connection: &mut Option<Sender>) -> Result<String, String> {
    let mut sender = match connection.take() {
        // The proxy may close an idle connection at any time; that is not a failure.
        Some(sender) if !sender.is_closed() => sender,
        _ => open(proxy).await.map_err(|e| format!("connect: {e}"))?,
    };
    let request = Request::get("/")
        .header("host", proxy.to_string())
        .body(Empty::new());
    let request = request.map_err(|e| e.to_string())?;
    sender.ready().await.map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await;
    let (head, body) = answer.map_err(|e| e.to_string())?.into_parts();
    let body = body.collect().await.map_err(|e| format!("body: {e}"))?;
    if head.status != StatusCode::OK {
        return Err(format!("status {}", head.status));
    }
    let version = head.headers.get("x-version");
    let version = version.and_then(|v| v.to_str().ok()).unwrap_or_default();
    if body.to_bytes() != format!("hello from {version}\n") {
        return Err("an unexpected body".to_owned());
    }
    *connection = Some(sender);
    Ok(version.to_owned())
}

async fn open(proxy: SocketAddr) -> Result<Sender, Box<dyn std::error::Error>> {
    let stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(async move {
        // An error of the connection also fails the request in flight, which counts it.
        let _ = connection.await;
    });
    Ok(sender)
}
