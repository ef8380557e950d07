//! A hundred certificates are renewed while clients connect: no handshake fails, and each name gets its new certificate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, single};
use crate::support::tls::{Authority, Identity};
use crate::support::{pause, until};

const CERTIFICATES: usize = 100;
/// Threads that connect.
const CLIENTS: usize = 2;

fn name(number: usize) -> String {
    format!("shop{number}.test")
}

/// A proxy with a certificate for each name.
fn start(certificates: &[Identity], endpoint: &str) -> Proxy {
    let mut text = "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n\
        [listen.tls]\nbind = \"127.0.0.1:$PORT\"\n"
        .to_owned();
    for number in 0..certificates.len() {
        text.push_str(&format!(
            "[[listen.tls.cert]]\ncert = \"$DIR/{number}.pem\"\nkey = \"$DIR/{number}.key\"\n"
        ));
    }
    text.push_str(&single(endpoint, ""));
    let builder = Builder::new(&text);
    for (number, identity) in certificates.iter().enumerate() {
        identity.save(builder.dir(), &number.to_string());
    }
    builder.start()
}

/// What the clients do, and what they have seen.
struct Clients {
    port: u16,
    authority: Authority,
    old: Vec<Identity>,
    new: Vec<Identity>,
    /// Handshakes a second of each thread; `None` for as many as possible.
    rate: Option<f64>,
    handshakes: AtomicUsize,
    end: AtomicBool,
}

impl Clients {
    /// Connects to one name after the other. Every handshake succeeds with the old or the new certificate of the name, and a
    /// request is answered.
    fn connect(&self, first: usize) {
        let (began, mut count) = (Instant::now(), 0);
        while !self.end.load(Ordering::SeqCst) {
            if let Some(rate) = self.rate {
                let due = Duration::from_secs_f64(f64::from(count) / rate);
                pause(due.saturating_sub(began.elapsed()));
            }
            let number = (first + count as usize) % CERTIFICATES;
            let stream = self
                .authority
                .connect(self.port, &name(number), &[])
                .expect("a handshake");
            let leaf = stream.conn.peer_certificates().expect("a certificate")[0].clone();
            let expected = [self.old[number].leaf(), self.new[number].leaf()];
            assert!(expected.contains(&leaf), "the certificate of {number}");
            let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", name(number));
            assert_eq!(Client::over(stream).ask(&request).status(), 200);
            count += 1;
            self.handshakes.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn shows_new(&self, number: usize) -> bool {
        let stream = self.authority.connect(self.port, &name(number), &[]);
        let stream = stream.expect("a handshake");
        let shown = stream.conn.peer_certificates().expect("a certificate");
        shown[0] == self.new[number].leaf()
    }
}

/// `CUTOVER_RENEWALS_RATE` handshakes a second (`just renewals`), or as many as possible.
#[test]
fn no_handshake_fails_while_a_hundred_certificates_are_renewed() {
    let rate = std::env::var("CUTOVER_RENEWALS_RATE").ok();
    let rate = rate.map(|rate| rate.parse::<f64>().expect("handshakes a second"));
    let (authority, origin) = (Authority::new(), Origin::named("blue"));
    let issue = || (0..CERTIFICATES).map(|n| authority.issue(&[&name(n)]));
    let (old, new) = (issue().collect::<Vec<_>>(), issue().collect::<Vec<_>>());
    let proxy = start(&old, &origin.at());
    let clients = Arc::new(Clients {
        port: proxy.port,
        authority,
        old,
        new,
        rate: rate.map(|rate| rate / CLIENTS as f64),
        handshakes: AtomicUsize::new(0),
        end: AtomicBool::new(false),
    });
    let threads: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let clients = clients.clone();
            thread::spawn(move || clients.connect(n * CERTIFICATES / CLIENTS))
        })
        .collect();
    let began = Instant::now();
    let count = || clients.handshakes.load(Ordering::SeqCst);
    for (number, identity) in clients.new.iter().enumerate() {
        // Renewals are spread over the handshakes, not over a time.
        let before = count();
        until("handshakes go on", || (count() > before).then_some(()));
        identity.save(proxy.dir(), &number.to_string());
    }
    for number in 0..CERTIFICATES {
        until("the new certificate", || {
            clients.shows_new(number).then_some(())
        });
    }
    clients.end.store(true, Ordering::SeqCst);
    for thread in threads {
        thread.join().expect("every handshake succeeds");
    }
    println!(
        "{} handshakes in {:.1} s, {CERTIFICATES} certificates renewed, 0 failed",
        count(),
        began.elapsed().as_secs_f64()
    );
}
