//! Listeners on Unix sockets: who may connect, and clients that don't read.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::client::{Client, End};
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, command, single};
use crate::support::{PATIENCE, pause, until};

fn text(access: &str, origin: &Origin) -> String {
    format!(
        "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\nlisten.web.bind = \"127.0.0.1:$PORT\"\n\
         [listen.local]\nbind = \"unix:$DIR/front.sock\"\n{access}\n{}",
        single(&origin.at(), "")
    )
}

/// Permission bits and group of the socket.
fn access(proxy: &Proxy) -> (u32, u32) {
    let found = proxy.dir().join("front.sock").metadata().expect("a socket");
    (found.mode() & 0o777, found.gid())
}

#[test]
fn a_socket_has_the_mode_and_group_of_its_listener_also_after_a_reload() {
    let origin = Origin::named("v1");
    // The one group that every user may choose.
    let own = rustix::process::getgid().as_raw();
    let proxy = Builder::new(&text(
        &format!("mode = \"0660\"\ngroup = \"{own}\""),
        &origin,
    ))
    .start();
    assert_eq!(access(&proxy), (0o660, own));
    edit(&proxy, &text("mode = \"0600\"", &origin));
    until("the reload sets the mode", || {
        (access(&proxy).0 == 0o600).then_some(())
    });
    edit(
        &proxy,
        &text("mode = \"0666\"\ngroup = \"no-such-group\"", &origin),
    );
    until("the group is refused", || {
        proxy
            .log()
            .contains("this machine has no group no-such-group")
            .then_some(())
    });
    assert_eq!(access(&proxy).0, 0o600);
}

/// Replaces the whole file.
fn edit(proxy: &Proxy, text: &str) {
    let fresh = proxy.dir().join("fresh.toml");
    std::fs::write(&fresh, proxy.filled(text)).expect("write");
    std::fs::rename(&fresh, proxy.file()).expect("replace");
}

#[test]
fn check_refuses_a_group_that_does_not_exist() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("cutover.toml");
    let text = "[listen.a]\nbind = \"unix:/run/a.sock\"\ngroup = \"no-such-group\"\n[service.s]\nversions.v1 = [\"a:1\"]\n";
    std::fs::write(&file, text).expect("write");
    let path = file.to_str().expect("a path");
    let checked = command(&["check", path], dir.path());
    assert_eq!(checked.code, 1);
    let said = &checked.stderr;
    assert!(said.contains("no group no-such-group"), "{said}");
    assert!(said.contains("cutover.toml:3"), "{said}");
}

/// Sends requests without reading the answers, until one isn't served because the socket is full, or `most` are. Returns the client
/// and how many were served.
fn unread(proxy: &Proxy, most: usize) -> (Client, usize) {
    let socket = UnixStream::connect(proxy.dir().join("front.sock")).expect("connect");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let mut client = Client::over(socket);
    let served = || proxy.metrics().sum("http_requests_total", &[]) as usize;
    let before = served();
    for n in 0..most {
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        let sent = Instant::now();
        while served() - before == n {
            if sent.elapsed() > Duration::from_secs(1) {
                return (client, n);
            }
        }
    }
    (client, most)
}

/// A worker with much to do passes small answers to the kernel after it is done with them.
#[test]
fn an_idle_client_that_reads_late_gets_what_its_socket_had_no_room_for() {
    const AT_ONCE: usize = 6;
    let held = "GET /held HTTP/1.1\r\nhost: test\r\n\r\n";
    let body = Arc::new("x".repeat(12_000));
    let (go, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::<AtomicUsize>::default(),
    );
    let (content, may, done) = (body.clone(), go.clone(), answered.clone());
    let origin = Origin::each(move |request, conn| {
        let is_held = request.target() == "/held";
        while is_held && !may.load(Ordering::SeqCst) {
            pause(Duration::from_millis(1));
        }
        conn.reply(200, &content)?;
        done.fetch_add(usize::from(is_held), Ordering::SeqCst);
        Ok(())
    });
    let limits = "workers = 1\nlimits.keepalive_timeout = \"300ms\"\n";
    let proxy = Builder::new(&text("", &origin).replace("workers = 2\n", limits)).start();
    let (full, most) = unread(&proxy, usize::MAX);
    drop(full);
    let (mut client, served) = unread(&proxy, most);
    assert_eq!(served, most);
    // There is no room for all of the next answer, which the worker finds together with others.
    let before = origin.hits();
    client.send(held);
    let mut others: Vec<Client> = (1..AT_ONCE).map(|_| proxy.client()).collect();
    others.iter_mut().for_each(|other| other.send(held));
    // At least: a request of the first client may arrive late on a slow machine.
    until("all have arrived", || {
        (origin.hits() >= before + AT_ONCE).then_some(())
    });
    proxy.signal(Signal::STOP);
    go.store(true, Ordering::SeqCst);
    until("all are answered", || {
        (answered.load(Ordering::SeqCst) == AT_ONCE).then_some(())
    });
    proxy.signal(Signal::CONT);
    for other in &mut others {
        assert_eq!(other.answer("GET").text().len(), body.len());
    }
    // The proxy closes the idle connection meanwhile.
    pause(Duration::from_millis(800));
    for _ in 0..=most {
        assert_eq!(client.answer("GET").text().len(), body.len());
    }
    assert_eq!(client.end_within(PATIENCE), End::Closed);
}
