//! Everything at once, at random but repeatable: whatever breaks, nobody ever gets somebody else's bytes.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use fastrand::Rng;
use http::Request;

use crate::support::block_on;
use crate::support::h2_client::H2;
use crate::support::h2_origin::{Exchange, H2Origin};
use crate::support::origin::{Conn, Origin};
use crate::support::proxy::{Proxy, serve};
use crate::support::until;
use crate::support::wire::Message;

const CLIENTS: u64 = 8;
const REQUESTS: usize = 250;

/// What comes back for a request: its target and body, many times over.
fn echo_of(target: &str, body: &[u8]) -> Vec<u8> {
    let one = [target.as_bytes(), b" ", body, b"\n"].concat();
    let times = 1 + one.len() * 7 % 300;
    one.repeat(times)
}

/// Answers in a way that the target's number chooses; some ways are broken.
fn answer(request: &Message, conn: &mut Conn) -> io::Result<()> {
    let target = request.target();
    let way: u64 = target
        .rsplit('-')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    let body = echo_of(&target, &request.body);
    let length = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    let stop = || Err(io::Error::other("the script ends the connection"));
    match way % 12 {
        0..=3 => conn.write(&[length.as_bytes(), &body].concat()),
        4 | 5 => {
            conn.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            for piece in body.chunks(1 + body.len() / 5) {
                conn.write(format!("{:x}\r\n", piece.len()).as_bytes())?;
                conn.write(&[piece, b"\r\n"].concat())?;
            }
            conn.write(b"0\r\nx-trailer: 1\r\n\r\n")
        }
        6 => {
            conn.write(&[b"HTTP/1.1 200 OK\r\n\r\n", &body[..]].concat())?;
            stop()
        }
        7 => {
            conn.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")?;
            conn.write(&[length.as_bytes(), &body].concat())?;
            // Closed behind the proxy's back.
            stop()
        }
        8 => {
            conn.write(length.as_bytes())?;
            conn.write(&body[..body.len() / 2])?;
            stop()
        }
        9 => {
            conn.write(&length.as_bytes()[..length.len() / 2])?;
            conn.reset()?;
            stop()
        }
        10 => stop(),
        _ => conn.write(&[length.as_bytes(), &body, b"surplus that belongs to nobody"].concat()),
    }
}

/// One client's life: its own numbers in every target, so that a stranger's answer would show.
fn client(proxy: &Proxy, id: u64, whole: &AtomicUsize) {
    let mut rng = Rng::with_seed(id);
    let mut connection = proxy.client();
    for n in 0..REQUESTS {
        let target = format!("/{id}-{n}-{}", rng.u64(0..12));
        let body = "b".repeat(rng.usize(0..3) * rng.usize(0..5000));
        let (method, framing, sent) = match rng.u8(0..4) {
            0 | 1 => ("GET", String::new(), String::new()),
            2 => ("PUT", format!("content-length: {}\r\n", body.len()), body),
            _ => {
                let chunk = match body.len() {
                    0 => String::new(),
                    len => format!("{len:x}\r\n{body}\r\n"),
                };
                (
                    "POST",
                    "transfer-encoding: chunked\r\n".to_owned(),
                    format!("{chunk}0\r\n\r\n"),
                )
            }
        };
        let request = format!("{method} {target} HTTP/1.1\r\nhost: test\r\n{framing}\r\n{sent}");
        if rng.u8(0..20) == 0 {
            // Gone in the middle of it.
            let _cut = connection.try_send(&request.as_bytes()[..rng.usize(0..request.len())]);
            connection.reset();
            connection = proxy.client();
            continue;
        }
        match (connection.try_send(&request), connection.try_answer(method)) {
            (Ok(()), Ok(answer)) => check(&target, &answer, whole),
            _ => connection = proxy.client(),
        }
        if rng.u8(0..30) == 0 {
            connection = proxy.client();
        }
    }
}

fn check(target: &str, answer: &Message, whole: &AtomicUsize) {
    match answer.status() {
        200 => {
            let start = format!("{target} ");
            assert!(
                answer.body.starts_with(start.as_bytes()),
                "{target} got {answer:?}"
            );
            let line = answer
                .body
                .split(|&b| b == b'\n')
                .next()
                .unwrap_or_default();
            let own = &line[start.len()..];
            assert!(answer.body == echo_of(target, own), "{target}: damaged");
            whole.fetch_add(1, Ordering::Relaxed);
        }
        status => {
            assert_eq!(status, 502, "{target}");
            assert!(answer.field("x-cutover-reason").is_some());
        }
    }
}

#[test]
fn nobody_gets_the_bytes_of_somebody_else() {
    let origins = [Origin::each(answer), Origin::each(answer)];
    let file = |first: usize, share: usize| {
        let (a, b) = (origins[first].at(), origins[1 - first].at());
        format!(
            "[service.app]\nstable = \"a\"\nsplit = {{ b = \"{share}%\" }}\n[service.app.versions]\na = [\"{a}\"]\nb = [\"{b}\"]\n"
        )
    };
    let proxy = serve(&file(0, 50));
    let (whole, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|id| {
                scope.spawn({
                    let (proxy, whole) = (&proxy, &whole);
                    move || client(proxy, id, whole)
                })
            })
            .collect();
        scope.spawn(|| {
            for n in 0.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                proxy.edit(&file(n % 2, 10 + n % 80));
            }
        });
        let results: Vec<_> = clients.into_iter().map(|c| c.join()).collect();
        done.store(true, Ordering::Relaxed);
        for result in results {
            result.expect("a client");
        }
    });
    // Of twelve ways eight give a whole answer.
    let all = CLIENTS as usize * REQUESTS;
    let whole = whole.load(Ordering::Relaxed);
    assert!(whole > all / 2, "only {whole} of {all} were answered whole");
    until("everything is given back", || {
        let metrics = proxy.metrics();
        let rest = [
            "http_requests_in_flight",
            "queue_depth",
            "cutover_connections",
        ]
        .iter()
        .all(|name| metrics.sum(name, &[]) == 0.0);
        rest.then_some(())
    });
    assert_eq!(proxy.get("/after-0").status(), 200);
    // Origins learn of a close when their threads get to it.
    until("as many connections are counted as are open", || {
        let open = origins.iter().map(Origin::open).sum::<usize>() as f64;
        let counted = proxy.metrics().sum("cutover_upstream_connections", &[]);
        ((counted - open).abs() <= 2.0).then_some(())
    });
    assert!(!proxy.log().contains("panick"), "cutover panicked");
}

/// One HTTP/2 request; true when it was answered whole.
async fn ask(client: &H2, target: String, body: usize) -> bool {
    let body = "b".repeat(body);
    let method = if body.is_empty() { "GET" } else { "PUT" };
    let request = Request::builder().method(method);
    let request = request
        .uri(format!("http://test{target}"))
        .body(())
        .unwrap();
    // What was cut is an error; that the connection itself stays usable is seen by the requests after it.
    let Ok(answer) = client.ask(request, Bytes::from(body.clone())).await else {
        return false;
    };
    if answer.status != 200 {
        assert_eq!(answer.status, 502, "{target}");
        assert!(answer.headers.contains_key("x-cutover-reason"));
        return false;
    }
    let whole = answer.body == echo_of(&target, body.as_bytes());
    assert!(
        whole,
        "{target}: {} bytes of something else",
        answer.body.len()
    );
    true
}

#[test]
fn nobody_gets_the_bytes_of_somebody_else_over_http2() {
    let broken = Origin::each(answer);
    let leaving = H2Origin::script(|x: Exchange| async move {
        let target = x.path();
        x.answer_with(move |body| echo_of(&target, body).into())
            .await
    });
    leaving.goaway_after(20);
    let file = |share: usize| {
        let (a, b) = (broken.at(), leaving.h2c());
        format!(
            "[service.app]\nstable = \"a\"\nsplit = {{ b = \"{share}%\" }}\n[service.app.versions]\na = [\"{a}\"]\nb = [\"{b}\"]\n"
        )
    };
    let proxy = serve(&file(50));
    let (whole, all) = block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        let mut shared = H2::connect(proxy.port).await;
        for id in 0..40u64 {
            if id % 10 == 9 {
                shared = H2::connect(proxy.port).await;
            }
            let shared = shared.clone();
            tasks.spawn(async move {
                let mut rng = Rng::with_seed(id);
                let mut whole = 0;
                for n in 0..50 {
                    let target = format!("/{id}-{n}-{}", rng.u64(0..12));
                    let body = rng.usize(0..3) * rng.usize(0..5000);
                    whole += usize::from(ask(&shared, target, body).await);
                }
                whole
            });
        }
        let mut whole = 0;
        while let Some(task) = tasks.join_next().await {
            whole += task.expect("a client");
        }
        (whole, 40 * 50)
    });
    // Half goes to an origin that answers eight of twelve ways whole, half to one that only leaves now and then.
    assert!(
        whole > all * 3 / 4,
        "only {whole} of {all} were answered whole"
    );
    until("everything is given back", || {
        let metrics = proxy.metrics();
        let gauges = [
            "http_requests_in_flight",
            "queue_depth",
            "cutover_connections",
        ];
        let rest = gauges.iter().all(|name| metrics.sum(name, &[]) == 0.0);
        rest.then_some(())
    });
    assert!(!proxy.log().contains("panick"), "cutover panicked");
}
