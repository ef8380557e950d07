//! What kamal-proxy does by `kamal deploy`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{FrontDoor, ask, ask_tls, field, request};
use crate::support::client::Client;
use crate::support::origin::{Conn, Origin};
use crate::support::tls::Authority;
use crate::support::until;
use crate::support::wire::Message;

/// A container: ready once it is, and slow at `/slow` until it may finish.
fn container(name: &'static str, ready: &Arc<AtomicBool>, finish: &Arc<AtomicBool>) -> Origin {
    let (ready, finish) = (ready.clone(), finish.clone());
    Origin::each(
        move |request: &Message, conn: &mut Conn| -> io::Result<()> {
            match request.target().as_str() {
                "/up" if !ready.load(Ordering::SeqCst) => conn.reply(503, "starting"),
                "/slow" => {
                    until("it may finish", || {
                        finish.load(Ordering::SeqCst).then_some(())
                    });
                    conn.reply(200, name)
                }
                _ => conn.reply(200, name),
            }
        },
    )
}

#[test]
fn a_deployment_waits_for_the_new_container_and_drains_the_old_one() {
    let authority = Authority::new();
    let [yes, no, finish] = [true, false, false].map(|on| Arc::new(AtomicBool::new(on)));
    let (old, new) = (
        container("old", &yes, &finish),
        container("new", &no, &finish),
    );
    let proxy = FrontDoor::new("kamal-deploy.toml")
        .before([("127.0.0.1:3001", &old), ("127.0.0.1:3002", &new)])
        .certified("shop", &authority, &["shop.example.com"])
        .open();
    let answer = ask(&proxy, "GET", "shop.example.com/a", "");
    assert_eq!(answer.status(), 308);
    assert_eq!(field(&answer, "location"), "https://shop.example.com/a");
    let served = || ask_tls(&proxy, &authority, "shop.example.com/", "").text();
    assert_eq!(served(), "old");

    // A container that doesn't become ready: the deployment fails, and nobody noticed.
    let target = format!("green={}", new.at());
    let deploy = ["deploy", "shop", &target, "--label", "abc123", "--wait"];
    let failed = proxy.local(&[&deploy[..], &["--timeout", "1s"]].concat());
    assert_eq!(failed.code, 1, "{failed:?}");
    assert_eq!(served(), "old");
    assert_eq!(proxy.local(&["undo"]).code, 0);

    // A request in flight stays where it began.
    let stream = authority.connect(proxy.port2, "shop.example.com", &["http/1.1"]);
    let mut slow = Client::over(stream.expect("a handshake"));
    slow.send(request("GET", "shop.example.com/slow", ""));
    until("it is in flight", || {
        let targets = old
            .requests()
            .iter()
            .map(Message::target)
            .collect::<Vec<_>>();
        targets.contains(&"/slow".to_owned()).then_some(())
    });
    no.store(true, Ordering::SeqCst);
    let done = proxy.local(&[&deploy[..], &["--timeout", "30s"]].concat());
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(served(), "new");
    finish.store(true, Ordering::SeqCst);
    assert_eq!(slow.answer("GET").text(), "old");

    // kamal rollback
    let back = proxy.local(&["deploy", "shop", "blue", "--wait"]);
    assert_eq!(back.code, 0, "{back:?}");
    assert_eq!(served(), "old");
    let large = ask_tls(
        &proxy,
        &authority,
        "shop.example.com/",
        "content-length: 40000001\r\n",
    );
    assert_eq!(large.status(), 413);
}
