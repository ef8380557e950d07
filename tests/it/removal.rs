//! A listener that is taken out of the file: what came in by it has its time, and what came in by others all the time.

use std::io;
use std::time::{Duration, Instant};

use crate::support::client::{Client, End};
use crate::support::origin::{Conn, Origin};
use crate::support::proxy::{Builder, Proxy};
use crate::support::{PATIENCE, pause, until};

/// `/quick`, `/slow` and `/never` are answered after so long; an upgrade becomes a tunnel in which each byte comes back.
fn origin() -> Origin {
    Origin::script(|conn: &mut Conn| {
        while let Some(request) = conn.request()? {
            match request.target().as_str() {
                "/tunnel" => return tunnel(conn),
                "/quick" => conn.wait(Duration::from_millis(400))?,
                "/slow" => conn.wait(Duration::from_millis(3500))?,
                "/never" => return conn.peer_closes(PATIENCE).map(drop),
                _ => {}
            }
            conn.reply(200, "blue")?;
        }
        Ok(())
    })
}

fn tunnel(conn: &mut Conn) -> io::Result<()> {
    conn.write(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
    )?;
    loop {
        let piece = conn.piece()?;
        if piece.is_empty() {
            return Ok(());
        }
        conn.write(&piece)?;
    }
}

fn asking(port: u16, path: &str) -> Client {
    let mut client = Client::new(port);
    client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
    client
}

fn tunnelling(port: u16) -> Client {
    let mut client = Client::new(port);
    let wish = "connection: upgrade\r\nupgrade: echo";
    client.send(format!(
        "GET /tunnel HTTP/1.1\r\nhost: test\r\n{wish}\r\n\r\n"
    ));
    assert_eq!(client.head().expect("a head").status(), 101);
    client
}

fn is_intact(tunnel: &mut Client) -> bool {
    tunnel.try_send("ping").is_ok() && tunnel.try_exact(4).is_ok_and(|back| back == b"ping")
}

/// A proxy that has taken its second listener out.
fn without_its_second(proxy: &Proxy, text: &str) {
    std::fs::write(proxy.file(), proxy.filled(text)).expect("write the configuration");
    until("nobody listens there", || {
        std::net::TcpStream::connect(("127.0.0.1", proxy.port2)).err()
    });
}

#[test]
fn what_came_in_by_a_listener_that_goes_has_the_time_of_its_drain() {
    let origin = origin();
    let text = |second: &str| {
        format!(
            "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n\
             [listen.one]\nbind = \"127.0.0.1:$PORT\"\n{second}\
             [service.app]\ndrain = {{ requests = \"1s\", streams = \"2500ms\" }}\nversions = {{ v1 = [\"{}\"] }}\n\
             [service.other]\nhosts = [\"other.test\"]\ndrain = {{ requests = \"1m\", streams = \"1m\" }}\n\
             versions = {{ v1 = [\"127.0.0.1:9\"] }}\n",
            origin.at()
        )
    };
    let proxy = Builder::new(&text("[listen.two]\nbind = \"127.0.0.1:$PORT2\"\n")).start();
    let (one, two) = (proxy.port, proxy.port2);
    let mut idle = Client::new(two);
    assert!(!idle.get("/").says_close());
    let (mut staying, mut going) = (tunnelling(one), tunnelling(two));
    let mut slow = asking(one, "/slow");
    let (mut quick, mut never) = (asking(two, "/quick"), asking(two, "/never"));
    until("all are there", || (origin.hits() == 6).then_some(()));
    let began = Instant::now();
    without_its_second(&proxy, &text(""));
    let answer = quick.answer("GET");
    assert_eq!(
        (answer.text().as_str(), answer.says_close()),
        ("blue", true)
    );
    let cut = never.try_answer("GET");
    assert!(!cut.is_ok_and(|answer| answer.status() == 200));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(990), "{took:?}");
    assert!(took < Duration::from_millis(2000), "{took:?}");
    assert_eq!(idle.end_within(PATIENCE), End::Closed);
    while is_intact(&mut going) {
        assert!(began.elapsed() < PATIENCE, "the tunnel is never cut");
        pause(Duration::from_millis(10));
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(2400), "{took:?}");
    assert!(took < Duration::from_millis(3500), "{took:?}");
    assert!(is_intact(&mut staying), "who came in by another goes on");
    assert_eq!(slow.answer("GET").text(), "blue");
    assert!(is_intact(&mut staying));
}
