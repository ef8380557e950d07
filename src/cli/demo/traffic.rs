//! The users: eight kept-alive connections, together about 200 requests a second.

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

/// Connections.
const USERS: u32 = 8;

/// Time between two requests of one user: 25 requests a second.
const PAUSE: Duration = Duration::from_millis(40);

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

type Sender = SendRequest<Empty<Bytes>>;

/// Starts the users; they stop when the result is dropped.
pub(super) fn start(proxy: SocketAddr, tally: Rc<RefCell<Tally>>) -> JoinSet<()> {
    let mut users = JoinSet::new();
    for number in 0..USERS {
        users.spawn_local(user(proxy, PAUSE / USERS * number, tally.clone()));
    }
    users
}

async fn user(proxy: SocketAddr, offset: Duration, tally: Rc<RefCell<Tally>>) {
    let mut ticks = interval_at(Instant::now() + offset, PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    loop {
        ticks.tick().await;
        let begun = Instant::now();
        let asked = timeout(PATIENCE, ask(proxy, &mut connection)).await;
        let took = begun.elapsed();
        let mut tally = tally.borrow_mut();
        match asked {
            Ok(Ok(version)) => tally.answered(&version, took),
            Ok(Err(why)) => {
                connection = None;
                tally.failed(&why, took);
            }
            Err(_) => {
                connection = None;
                tally.failed(&format!("no answer within {PATIENCE:?}"), took);
            }
        }
    }
}

/// One request: the version that answered it.
async fn ask(proxy: SocketAddr, connection: &mut Option<Sender>) -> Result<String, String> {
    let mut sender = match connection.take() {
        // The proxy may have closed it while it was idle: that is its right, and costs no request.
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
        return Err("an answer that is not whole".to_owned());
    }
    *connection = Some(sender);
    Ok(version.to_owned())
}

async fn open(proxy: SocketAddr) -> Result<Sender, Box<dyn std::error::Error>> {
    let stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(async move {
        // What goes wrong is seen by the request that it happens to.
        let _ = connection.await;
    });
    Ok(sender)
}
