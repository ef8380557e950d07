//! The clients: keep-alive connections that send 25 requests per second each. [`Users`] send them in turn.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{COOKIE, HOST, SET_COOKIE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::tally::Tally;
use super::users::{UserTurn, Users};

/// Interval between two requests of one client: 25 requests per second.
const INTERVAL: Duration = Duration::from_millis(40);

/// A request that takes longer counts as failed.
const TIMEOUT: Duration = Duration::from_secs(5);

type Sender = SendRequest<Empty<Bytes>>;

/// A complete response with status 200.
struct Answer {
    version: String,
    /// The session cookie in the response, `name=value`.
    session: Option<String>,
}

/// Starts this number of clients, each of which uses one of the proxies. They stop when the returned set is dropped.
pub(super) fn start(
    proxies: &[SocketAddr],
    clients: u32,
    tally: &Rc<RefCell<Tally>>,
    users: &Rc<RefCell<Users>>,
) -> JoinSet<()> {
    let mut set = JoinSet::new();
    for (number, proxy) in (0..clients).zip(proxies.iter().copied().cycle()) {
        let offset = INTERVAL / clients * number;
        set.spawn_local(client(proxy, offset, tally.clone(), users.clone()));
    }
    set
}

async fn client(
    proxy: SocketAddr,
    offset: Duration,
    tally: Rc<RefCell<Tally>>,
    users: Rc<RefCell<Users>>,
) {
    let mut ticks = interval_at(Instant::now() + offset, INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    loop {
        ticks.tick().await;
        // Without a turn, all users are waiting for an answer.
        let Some(turn) = users.borrow_mut().turn() else {
            continue;
        };
        let cookie = turn.cookie.as_deref();
        let begun = Instant::now();
        let sent = timeout(TIMEOUT, send(proxy, &mut connection, cookie)).await;
        let took = begun.elapsed();
        let answer = sent.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")));
        if answer.is_err() {
            connection = None;
        }
        note(answer, took, &tally, (&users, &turn));
    }
}

/// Counts an answer, and gives it to the user.
fn note(
    answer: Result<Answer, String>,
    took: Duration,
    tally: &RefCell<Tally>,
    (users, turn): (&RefCell<Users>, &UserTurn),
) {
    match answer {
        Ok(answer) => {
            tally.borrow_mut().answered(&answer.version, took);
            let mut users = users.borrow_mut();
            users.answered(turn, &answer.version, answer.session);
        }
        Err(why) => {
            tally.borrow_mut().failed(&why, took);
            users.borrow_mut().failed(turn);
        }
    }
}

/// Sends one request.
async fn send(
    proxy: SocketAddr,
    connection: &mut Option<Sender>,
    cookie: Option<&str>,
) -> Result<Answer, String> {
    let mut sender = match connection.take() {
        // The proxy may close an idle connection at any time; that is not a failure.
        Some(sender) if !sender.is_closed() => sender,
        _ => open(proxy).await.map_err(|e| format!("connect: {e}"))?,
    };
    let mut request = Request::get("/").header(HOST, proxy.to_string());
    if let Some(cookie) = cookie {
        request = request.header(COOKIE, cookie);
    }
    let request = request.body(Empty::new()).map_err(|e| e.to_string())?;
    sender.ready().await.map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await;
    let (head, body) = answer.map_err(|e| e.to_string())?.into_parts();
    let body = body.collect().await.map_err(|e| format!("body: {e}"))?;
    if head.status != StatusCode::OK {
        return Err(format!("status {}", head.status));
    }
    let field = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok());
    let version = field("x-version").unwrap_or_default();
    if body.to_bytes() != format!("hello from {version}\n") {
        return Err("an unexpected body".to_owned());
    }
    *connection = Some(sender);
    let session = field(SET_COOKIE.as_str()).and_then(|set| set.split(';').next());
    Ok(Answer {
        version: version.to_owned(),
        session: session.map(str::to_owned),
    })
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
