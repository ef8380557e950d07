//! A scripted name server over UDP and TCP. It encodes messages by itself, so that it doesn't share mistakes with the proxy.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;

const NOERROR: u8 = 0;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

/// What the server does with a query.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Answers with these records.
    Records(Vec<Record>),
    /// Answers that the name doesn't exist.
    NoSuchName,
    /// Answers that it failed.
    ServFail,
    /// Answers nothing.
    Silence,
    /// Answers over UDP that the records don't fit, and sends them over TCP.
    Truncated(Vec<Record>),
    /// Sends false records under another id and for another name, then the true ones.
    Forged(Vec<Record>),
}

/// A record of an answer.
#[derive(Clone, Debug)]
pub struct Record {
    pub owner: String,
    pub kind: u16,
    pub ttl: u32,
    pub data: Vec<u8>,
}

/// An A or AAAA record.
pub fn address(owner: &str, ttl: u32, ip: &str) -> Record {
    let (kind, data) = match ip.parse().expect("an address") {
        IpAddr::V4(ip) => (A, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AAAA, ip.octets().to_vec()),
    };
    record(owner, kind, ttl, data)
}

/// A CNAME record.
pub fn alias(owner: &str, ttl: u32, target: &str) -> Record {
    record(owner, CNAME, ttl, encoded(target))
}

/// An SRV record: priority, weight, port, target.
pub fn service(owner: &str, ttl: u32, numbers: [u16; 3], target: &str) -> Record {
    let mut data: Vec<u8> = numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
    data.extend(encoded(target));
    record(owner, SRV, ttl, data)
}

fn record(owner: &str, kind: u16, ttl: u32, data: Vec<u8>) -> Record {
    Record {
        owner: owner.to_owned(),
        kind,
        ttl,
        data,
    }
}

/// A name as labels with their lengths.
fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

#[derive(Default)]
struct Zone {
    answers: HashMap<(String, u16), Answer>,
    queries: Vec<(String, u16)>,
}

/// The server. Names without an answer of any kind don't exist; others have no records of the kinds that aren't set.
#[derive(Clone)]
pub struct DnsServer {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

impl DnsServer {
    /// Starts on a free port, the same for UDP and TCP.
    pub fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
            let address = udp.local_addr().expect("address");
            // The port may be taken for TCP.
            if let Ok(tcp) = TcpListener::bind(address) {
                break (udp, tcp);
            }
        };
        let server = Self {
            address: udp.local_addr().expect("address"),
            zone: Arc::default(),
        };
        let (over_udp, over_tcp) = (server.clone(), server.clone());
        // Threads end with the test process.
        thread::spawn(move || over_udp.serve_udp(&udp));
        thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                // A client that leaves is no failure of the test.
                let _ = over_tcp.serve_tcp(stream);
            }
        });
        server
    }

    /// Sets the answer to queries for this name and kind.
    pub fn set(&self, name: &str, kind: u16, answer: Answer) {
        let mut zone = self.zone.lock().expect("zone");
        zone.answers.insert((name.to_owned(), kind), answer);
    }

    /// Sets the A records of a name.
    pub fn set_addresses(&self, name: &str, ttl: u32, ips: &[&str]) {
        let records = ips.iter().map(|ip| address(name, ttl, ip)).collect();
        self.set(name, A, Answer::Records(records));
    }

    /// How many queries for this name and kind have arrived.
    pub fn queries(&self, name: &str, kind: u16) -> usize {
        let zone = self.zone.lock().expect("zone");
        let asked = zone.queries.iter();
        asked.filter(|(n, k)| n == name && *k == kind).count()
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            for message in self.answers(&buffer[..length], false) {
                // As above.
                let _ = socket.send_to(&message, peer);
            }
        }
    }

    fn serve_tcp(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut query = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut query)?;
        for message in self.answers(&query, true) {
            stream.write_all(&(message.len() as u16).to_be_bytes())?;
            stream.write_all(&message)?;
        }
        Ok(())
    }

    /// The messages that answer a query.
    fn answers(&self, query: &[u8], is_tcp: bool) -> Vec<Vec<u8>> {
        let (name, kind, end) = question(query);
        let asked = &query[12..end];
        let id = u16::from_be_bytes([query[0], query[1]]);
        let mut zone = self.zone.lock().expect("zone");
        if !is_tcp {
            zone.queries.push((name.clone(), kind));
        }
        let exists = zone.answers.keys().any(|(known, _)| *known == name);
        let answer = zone.answers.get(&(name.clone(), kind)).cloned();
        let nothing = match exists {
            true => Answer::Records(Vec::new()),
            false => Answer::NoSuchName,
        };
        let message = |code: u8, truncated: bool, records: &[Record]| {
            message(id, asked, (code, truncated), records)
        };
        match answer.unwrap_or(nothing) {
            Answer::Records(records) => vec![message(NOERROR, false, &records)],
            Answer::NoSuchName => vec![message(NXDOMAIN, false, &[])],
            Answer::ServFail => vec![message(SERVFAIL, false, &[])],
            Answer::Silence => Vec::new(),
            Answer::Truncated(records) if is_tcp => vec![message(NOERROR, false, &records)],
            Answer::Truncated(_) => vec![message(NOERROR, true, &[])],
            Answer::Forged(records) => {
                let lie = [address(&name, 300, "127.9.9.9")];
                let mut elsewhere = encoded("elsewhere.test");
                elsewhere.extend(&asked[asked.len() - 4..]);
                vec![
                    self::message(id.wrapping_add(1), asked, (NOERROR, false), &lie),
                    self::message(id, &elsewhere, (NOERROR, false), &lie),
                    b"no message".to_vec(),
                    message(NOERROR, false, &records),
                ]
            }
        }
    }
}

/// The name, the kind and the end of a query's question.
fn question(query: &[u8]) -> (String, u16, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        at = end;
    }
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    (labels.join("."), kind, at + 5)
}

fn message(id: u16, question: &[u8], (code, truncated): (u8, bool), records: &[Record]) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    // QR and RD; RA.
    bytes.extend([0x81 | u8::from(truncated) << 1, 0x80 | code]);
    for count in [1, records.len() as u16, 0, 0] {
        bytes.extend(count.to_be_bytes());
    }
    bytes.extend(question);
    for record in records {
        bytes.extend(encoded(&record.owner));
        bytes.extend(record.kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(record.ttl.to_be_bytes());
        bytes.extend((record.data.len() as u16).to_be_bytes());
        bytes.extend(&record.data);
    }
    bytes
}
