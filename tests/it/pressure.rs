//! Clients that dribble, and crowds of them: good requests don't notice. The full counts are `cutover-bench bench --case pressure`.

use std::time::{Duration, Instant};

use crate::support::client::{Client, End};
use crate::support::h2_client::H2;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, single};
use crate::support::{PATIENCE, pause, until};

/// One worker, so that what one of them holds is all there is.
fn serve(limits: &str, origin: &Origin, more: &str) -> Proxy {
    let head = "listen = \"127.0.0.1:$PORT\"\nadmin = \"127.0.0.1:$ADMIN\"\nworkers = 1\n\
                state_dir = \"$DIR/state\"\n";
    let service = single(&origin.at(), more);
    Builder::new(&format!("{head}{limits}\n{service}")).start()
}

/// Answers each request with its body.
fn parrot() -> Origin {
    Origin::each(|request, conn| conn.reply(200, &request.text()))
}

fn send(proxy: &Proxy, bytes: &str) -> Client {
    let mut client = proxy.client();
    client.send(bytes);
    client
}

const SMALL: &str = "POST /small HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n";
const LARGE: &str = "POST /large HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\n";
const CHUNKED: &str = "POST /chunked HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n";

#[test]
fn bodies_that_dribble_take_no_place() {
    let origin = parrot();
    let proxy = serve("", &origin, "[service.app.limits]\nrequests = 1");
    let mut slow: Vec<Client> = (0..50).map(|_| send(&proxy, SMALL)).collect();
    let mut large: Vec<Client> = (0..50).map(|_| send(&proxy, LARGE)).collect();
    for byte in ["0", "1", "2"] {
        slow.iter_mut().for_each(|client| client.send(byte));
        large.iter_mut().for_each(|client| client.send(byte));
        assert_eq!(proxy.get("/good").status(), 200);
        let mut poster = send(&proxy, SMALL);
        poster.send("0123456789");
        assert_eq!(poster.answer("POST").text(), "0123456789");
    }
    assert_eq!(origin.hits(), 6, "a dribbled body reached the application");
    let mut last = slow.pop().expect("one of them");
    last.send("3456789");
    assert_eq!(last.answer("POST").text(), "0123456789");
    // The connection carries the next request as if nothing had been held.
    last.send(SMALL);
    last.send("abcde");
    last.send("fghij");
    assert_eq!(last.answer("POST").text(), "abcdefghij");
    assert_eq!(last.get("/good").status(), 200);
    drop(slow);
    assert_eq!(origin.hits(), 9, "half a body reached the application");
}

#[test]
fn a_held_body_that_falls_silent_is_the_clients_fault() {
    let origin = parrot();
    let proxy = serve("[limits]\nbody_timeout = \"300ms\"", &origin, "");
    let mut slow = send(&proxy, SMALL);
    slow.send("0");
    let answer = slow.answer("POST");
    let reason = answer.field("x-cutover-reason");
    assert_eq!(
        (answer.status(), reason.as_deref()),
        (408, Some("body-timeout"))
    );
    assert_ne!(slow.end_within(PATIENCE), End::Open);
    assert_eq!(origin.hits(), 0);
}

#[test]
fn a_large_body_in_pieces_arrives_whole() {
    let origin = parrot();
    let proxy = serve("", &origin, "");
    let noise = crate::support::noise(3, 100_000);
    let body: String = noise.iter().map(|b| char::from(b % 26 + b'a')).collect();
    let mut client = send(&proxy, LARGE);
    for (n, part) in body.as_bytes().chunks(30_000).enumerate() {
        assert_eq!(origin.connections(), usize::from(n > 2));
        client.send(part);
        if n == 2 {
            until("64 KiB are there", || {
                (origin.connections() == 1).then_some(())
            });
        }
    }
    assert!(client.answer("POST").text() == body, "damaged");
}

#[test]
fn a_held_body_is_sent_again_where_a_retry_may() {
    let failed = std::sync::atomic::AtomicBool::new(false);
    let origin = Origin::each(move |request, conn| {
        if failed.swap(true, std::sync::atomic::Ordering::SeqCst) {
            conn.reply(200, &request.text())
        } else {
            conn.reply(503, "not yet")
        }
    });
    let proxy = serve("", &origin, "retry.budget = \"100%\"");
    let mut client = send(&proxy, &SMALL.replace("POST", "PUT"));
    for part in ["01", "234", "56789"] {
        pause(Duration::from_millis(30));
        client.send(part);
    }
    assert_eq!(client.answer("PUT").text(), "0123456789");
    assert_eq!(origin.hits(), 2);
}

#[test]
fn a_client_that_waits_for_our_word_before_its_body_gets_it() {
    let origin = parrot();
    let proxy = serve("", &origin, "");
    let waits = SMALL.replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n");
    let mut client = send(&proxy, &waits);
    until("the application is asked", || {
        (origin.connections() == 1).then_some(())
    });
    client.send("0123456789");
    let mut answer = client.answer("POST");
    if answer.status() == 100 {
        answer = client.answer("POST");
    }
    assert_eq!(answer.text(), "0123456789");
}

#[test]
fn a_small_body_over_http2_is_held_too() {
    let origin = parrot();
    let proxy = serve("", &origin, "[service.app.limits]\nrequests = 1");
    crate::support::block_on(async {
        let client = H2::connect(proxy.port).await;
        let request = http::Request::post("http://test/small")
            .header("content-length", "10")
            .body(())
            .unwrap();
        let (answer, mut body) = client.open(request, false).await.unwrap();
        body.send_data("01234".into(), false).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let get = http::Request::get("http://test/good").body(()).unwrap();
        let (good, _) = client.open(get, true).await.unwrap();
        assert_eq!(good.await.unwrap().status(), 200);
        assert_eq!(origin.hits(), 1);
        body.send_data("56789".into(), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
    });
    assert_eq!(origin.last().text(), "0123456789");
}

#[test]
fn uploads_that_are_behind_give_their_places_to_who_comes() {
    let origin = parrot();
    let proxy = serve("", &origin, "[service.app.limits]\nrequests = 4");
    let begun = format!("{LARGE}{}", "x".repeat(64 * 1024));
    let mut slow: Vec<Client> = [&begun, CHUNKED, &begun, CHUNKED]
        .map(|head| send(&proxy, head))
        .into();
    let in_flight = || {
        let labels = [("service", "app"), ("version", "v1")];
        proxy.metrics().sum("http_requests_in_flight", &labels)
    };
    until("all places are taken", || {
        (in_flight() == 4.0).then_some(())
    });
    assert_eq!(proxy.get("/early").status(), 503, "nobody is behind yet");
    pause(Duration::from_millis(1100));
    assert_eq!(proxy.get("/good").status(), 200);
    for client in &mut slow {
        assert_eq!(client.answer("POST").status(), 408);
    }
    until("all places are free", || (in_flight() == 0.0).then_some(()));
}

#[test]
fn an_upload_that_keeps_up_keeps_its_place() {
    let origin = parrot();
    let proxy = serve("", &origin, "[service.app.limits]\nrequests = 1");
    let mut steady = send(&proxy, CHUNKED);
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < Duration::from_millis(1500) {
        steady.send(format!("64\r\n{}\r\n", "x".repeat(100)));
        sent += 100;
        pause(Duration::from_millis(50));
        let _ = proxy.get("/other");
    }
    steady.send("0\r\n\r\n");
    let answer = steady.answer("POST");
    assert_eq!((answer.status(), answer.text().len()), (200, sent));
}

#[test]
fn a_mixed_crowd_harms_no_good_request() {
    let big = "x".repeat(1 << 20);
    let origin = Origin::each(move |request, conn| {
        conn.reply(
            200,
            if request.target() == "/big" {
                &big
            } else {
                "blue"
            },
        )
    });
    let proxy = serve("", &origin, "[service.app.limits]\nrequests = 60");
    let mut crowd = Vec::new();
    for n in 0..400 {
        crowd.push(match n % 8 {
            0 => send(&proxy, "GET /big HTTP/1.1\r\nhost: test\r\n\r\n"),
            1 | 2 => send(&proxy, SMALL),
            _ => send(&proxy, "GET / HTTP/1.1\r\nhost: te"),
        });
    }
    let mut good = proxy.client();
    let mut slowest = Duration::ZERO;
    for (n, slow) in crowd.iter_mut().enumerate() {
        if n % 8 != 0 {
            let _ = slow.try_send("x");
        }
        let start = Instant::now();
        assert_eq!(good.get("/").status(), 200);
        slowest = slowest.max(start.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

#[test]
fn six_hundred_clients_on_256_descriptors_pass_without_a_trace() {
    let origin = Origin::named("blue");
    let proxy = Builder::rest(&single(&origin.at(), ""))
        .descriptors(256)
        .start();
    let mut inside = proxy.client();
    assert_eq!(inside.get("/").text(), "blue");
    let mut crowd: Vec<Client> = (0..600).map(|_| Client::new(proxy.port)).collect();
    for client in &mut crowd {
        let _ = client.try_send("GET / HTTP/1.1\r\nhost: te");
    }
    let (before, start) = (proxy.cpu(), Instant::now());
    while start.elapsed() < Duration::from_secs(1) {
        assert_eq!(inside.get("/").text(), "blue", "who is in is served");
        pause(Duration::from_millis(20));
    }
    let spent = proxy.cpu() - before;
    assert!(
        spent < start.elapsed() / 2,
        "{spent:?} of CPU in {:?} of waiting",
        start.elapsed()
    );
    assert_eq!(proxy.ask_admin("/readyz").status(), 200);
    drop(crowd);
    let gone = Instant::now();
    assert_eq!(proxy.get("/").text(), "blue");
    assert!(
        gone.elapsed() < Duration::from_millis(500),
        "{:?} after the crowd had gone",
        gone.elapsed()
    );
}

#[test]
fn a_beginning_that_may_become_either_protocol_has_the_time_of_a_head() {
    let origin = parrot();
    let proxy = serve("[limits]\nheader_timeout = \"300ms\"", &origin, "");
    let mut client = send(&proxy, "PRI * HT");
    let answer = client.answer("GET");
    let reason = answer.field("x-cutover-reason");
    assert_eq!(
        (answer.status(), reason.as_deref()),
        (408, Some("header-timeout"))
    );
}

/// More begin at a time than a worker takes up in one go: those that wait for their turn wait for nobody's answer.
#[test]
fn a_crowd_is_served_at_once_however_slow_the_endpoint() {
    const CROWD: usize = 300;
    let all_there = std::sync::Barrier::new(CROWD);
    let origin = Origin::each(move |request, conn| {
        if request.target() == "/crowd" {
            all_there.wait();
        }
        conn.reply(200, "yes")
    });
    let proxy = serve("", &origin, "");
    let mut clients: Vec<Client> = (0..CROWD).map(|_| proxy.client()).collect();
    // Parked once, and waiting for the next request with the memory of the first.
    for client in &mut clients[..CROWD / 2] {
        assert_eq!(client.get("/").status(), 200);
    }
    let request = "GET /crowd HTTP/1.1\r\nhost: test\r\n\r\n";
    clients.iter_mut().for_each(|client| client.send(request));
    for client in &mut clients {
        assert_eq!(client.answer("GET").text(), "yes");
    }
}

/// While the kernel enlarges it, the worker that needs a descriptor serves nobody for several milliseconds.
#[test]
fn the_table_of_descriptors_is_large_enough_before_clients_arrive() {
    let origin = parrot();
    let proxy = serve("", &origin, "");
    let before = proxy.descriptor_table();
    let clients: Vec<Client> = (0..300).map(|_| proxy.client()).collect();
    // Connections are accepted in order, so that the proxy has accepted all of them.
    assert_eq!(proxy.get("/good").status(), 200);
    assert!(proxy.descriptors() > clients.len());
    assert_eq!(proxy.descriptor_table(), before);
}
