//! When there are more clients than room.

use std::time::{Duration, Instant};

use crate::support::client::{Client, get};
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, serve, single};
use crate::support::until;

#[test]
fn connections_beyond_the_limit_wait_their_turn() {
    let origin = Origin::named("blue");
    let proxy = serve(&format!(
        "[limits]\nconnections = 4\n{}",
        single(&origin.at(), "")
    ));
    let mut inside: Vec<_> = (0..4).map(|_| proxy.client()).collect();
    for client in &mut inside {
        assert_eq!(client.get("/").text(), "blue");
    }
    let mut waiting = proxy.client();
    waiting.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    waiting.patience(Duration::from_millis(200));
    assert!(waiting.try_answer("GET").is_err(), "a fifth was let in");
    inside.pop();
    waiting.patience(crate::support::PATIENCE);
    assert_eq!(waiting.answer("GET").text(), "blue");
    assert_eq!(proxy.ask_admin("/readyz").status(), 200);
}

#[test]
fn a_proxy_out_of_descriptors_serves_who_is_in_and_recovers_at_once() {
    let origin = Origin::named("blue");
    let proxy = Builder::rest(&single(&origin.at(), ""))
        .descriptors(160)
        .start();
    let mut inside = proxy.client();
    assert_eq!(inside.get("/").text(), "blue");
    let flood: Vec<Client> = (0..300).map(|_| Client::new(proxy.port)).collect();
    // The reserve is for upstream and admin: both work for those who are in.
    assert_eq!(inside.get("/").text(), "blue");
    assert_eq!(proxy.ask_admin("/readyz").status(), 200);
    let cpu = || proxy.metrics().sum("process_cpu_seconds_total", &[]);
    let (before, start) = (cpu(), Instant::now());
    until("half a second", || {
        (start.elapsed() > Duration::from_millis(500)).then_some(())
    });
    let spent = cpu() - before;
    assert!(spent < 0.3, "{spent} s of CPU in half a second of waiting");
    drop(flood);
    let start = Instant::now();
    assert_eq!(get(proxy.port, "/").text(), "blue");
    assert!(
        start.elapsed() < Duration::from_millis(1500),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn slow_clients_harm_nobody() {
    let origin = Origin::named("blue");
    let proxy = serve(&single(&origin.at(), ""));
    let start = proxy.resident();
    let slow: Vec<Client> = (0..500)
        .map(|n| {
            let mut client = proxy.client();
            client.send(&"GET / HTTP/1.1\r\nhost: slow!"[..n % 27]);
            client
        })
        .collect();
    let mut client = proxy.client();
    for _ in 0..200 {
        assert_eq!(client.get("/").status(), 200);
    }
    let each = (proxy.resident() - start) / slow.len() as u64;
    assert!(each < 64 * 1024, "{each} bytes for a slow client");
}

#[test]
fn a_listener_may_be_a_unix_socket() {
    let origin = Origin::named("blue");
    let proxy = Builder::new(&format!(
        "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n\
         [listen.local]\nbind = \"unix:$DIR/front.sock\"\n{}",
        single(&origin.at(), "")
    ))
    .start();
    let socket = std::os::unix::net::UnixStream::connect(proxy.dir().join("front.sock"));
    let mut client = Client::over(socket.unwrap());
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "blue");
    }
    let listener = [("listener", "local")];
    assert_eq!(proxy.metrics().sum("cutover_connections", &listener), 1.0);
}
