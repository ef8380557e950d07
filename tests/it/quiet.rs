//! Who waits, waits: nothing that stands still costs a processor or much memory.

use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::frames::{self, get_fields};
use crate::support::origin::{Conn, Origin};
use crate::support::proxy::{Builder, Proxy, before, single};
use crate::support::tls::Authority;
use crate::support::wire::Message;
use crate::support::{PATIENCE, until};

/// Stands still in the way that the path names.
fn stand_still(request: &Message, conn: &mut Conn) -> std::io::Result<()> {
    match request.target().as_str() {
        "/download" => {
            conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")?;
            for _ in 0..10_000 {
                conn.write(&[b'x'; 100_000])?;
            }
        }
        "/events" => {
            conn.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")?;
        }
        "/tunnel" => conn.write(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: lines\r\n\r\nhello",
        )?,
        "/" => return conn.reply(200, "blue"),
        _ => {}
    }
    conn.peer_closes(PATIENCE).map(drop)
}

/// An origin that reads heads and no bodies, whatever is sent.
fn never_reads() -> Origin {
    Origin::script(|conn| {
        conn.head()?;
        crate::support::pause(PATIENCE);
        Ok(())
    })
}

/// What the process uses of a processor while it is watched, as a share of one.
fn busy(proxy: &Proxy) -> f64 {
    let (cpu, start) = (proxy.cpu(), Instant::now());
    until("a while", || {
        (start.elapsed() > Duration::from_millis(800)).then_some(())
    });
    (proxy.cpu() - cpu).as_secs_f64() / start.elapsed().as_secs_f64()
}

const TLS: &str = "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n\
    [listen.plain]\nbind = \"127.0.0.1:$PORT\"\n\
    [listen.tls]\nbind = \"127.0.0.1:$PORT2\"\n\
    [[listen.tls.cert]]\ncert = \"$DIR/shop.pem\"\nkey = \"$DIR/shop.key\"\n";

#[test]
fn who_stands_still_costs_no_processor() {
    let (origin, deaf) = (Origin::each(stand_still), never_reads());
    let (a, b) = (origin.at(), deaf.at());
    let builder = Builder::new(&format!(
        "{TLS}{}[service.deaf]\nhosts = [\"deaf.test\"]\nstable = \"v\"\nversions.v = [\"{b}\"]\n",
        single(&a, "")
    ));
    let authority = Authority::new();
    authority.issue(&["test"]).save(builder.dir(), "shop");
    let proxy = builder.start();
    let mut waiting = Vec::new();
    let mut send = |mut client: Client, bytes: &[u8]| {
        client.send(bytes);
        waiting.push(client);
    };
    let request = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: test\r\n\r\n");
    for secure in [false, true] {
        let open = || match secure {
            false => proxy.client(),
            true => Client::over(authority.connect(proxy.port2, "test", &[]).unwrap()),
        };
        let mut idle = open();
        assert_eq!(idle.get("/").text(), "blue");
        send(idle, b"");
        send(open(), b"GET / HTTP/1.1\r\nho");
        for target in ["/never", "/download", "/events"] {
            send(open(), request(target).as_bytes());
        }
        let mut tunnel = open();
        tunnel.send(
            "GET /tunnel HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: lines\r\n\r\n",
        );
        tunnel.through(b"hello");
        send(tunnel, b"");
        send(
            open(),
            b"POST /never HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\nhalf",
        );
        send(
            open(),
            b"POST /never HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf",
        );
        let pipelined = request("/never").repeat(3);
        send(open(), pipelined.as_bytes());
    }
    let mut half = proxy.client();
    half.send(
        "GET /tunnel HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: lines\r\n\r\n",
    );
    half.through(b"hello");
    half.finish();
    for target in ["/never", "/download", "/events"] {
        let start = [frames::preface(), frames::request(1, &get_fields(target))].concat();
        send(proxy.client(), &start);
    }
    let mut upload = proxy.client();
    upload.patience_to_write(Duration::from_millis(200));
    let head = "POST /x HTTP/1.1\r\nhost: deaf.test\r\ncontent-length: 1000000000\r\n\r\n";
    upload.send(head);
    while upload.try_send([b'x'; 100_000]).is_ok() {}
    until("all are there", || (origin.hits() >= 18).then_some(()));
    let share = busy(&proxy);
    assert!(
        share < 0.1,
        "{:.0} % of a processor for nothing",
        share * 100.0
    );
    assert_eq!(proxy.get("/").text(), "blue");
}

#[test]
fn idle_connections_hold_little_memory() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let open = |count: usize| -> Vec<Client> {
        let mut clients: Vec<_> = (0..count).map(|_| proxy.client()).collect();
        for client in &mut clients {
            assert_eq!(client.get("/").status(), 200);
        }
        clients
    };
    let few = open(20);
    let start = proxy.resident();
    let many = open(1000);
    let each = (proxy.resident() - start) / many.len() as u64;
    assert!(each < 24 * 1024, "{each} bytes for an idle connection");
    drop((few, many));
}
