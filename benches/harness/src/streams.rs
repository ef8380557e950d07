//! Memory of HTTP/2: of idle connections over TLS, and of streams whose clients have no window for the response.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use rustls::StreamOwned;

use crate::cases::Stage;
use crate::h2_origin::PREFACE;
use crate::peers::Running;
use crate::pressure::{STREAMS, windowless};
use crate::report::Table;
use crate::tls::{Client, Sessions};
use crate::{Result, cpu};

/// SETTINGS without any.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
/// Connections that come first: what they cost the process once is not weighed.
const FIRST: usize = 16;
/// Connections whose streams all stall.
const STALLED: usize = 32;

/// What is weighed.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Connections over TLS without a stream.
    Idle,
    /// Streams in clear text, each with a response of 1 KiB that has arrived from the origin.
    Stalled,
}

/// Weighs each contender before and after, and counts its connections to the origin: those that come meanwhile weigh as well.
pub fn weigh(stage: &Stage, kind: Kind) -> Result<Table> {
    let mut table = Table {
        head: [
            "proxy",
            "KiB each",
            "before, KiB",
            "with them, KiB",
            "number",
            "new connections to the origin",
        ]
        .map(str::to_owned)
        .to_vec(),
        notes: vec![
            "resident memory of the process (kernel buffers aside), 3 s after the last one came"
                .to_owned(),
        ],
        ..Table::default()
    };
    for contender in stage.contenders {
        let weighed = stage.start(contender, 1).and_then(|proxy| match kind {
            Kind::Idle => idle(stage, &proxy),
            Kind::Stalled => stalled(&proxy),
        });
        match weighed {
            Ok(weighed) => table.rows.push(weighed.row(&contender.name)),
            Err(error) => table
                .notes
                .push(format!("{} is left out: {error}", contender.name)),
        }
    }
    Ok(table)
}

/// Memory and open connections before and after.
struct Weighed {
    before: u64,
    after: u64,
    /// How many were opened of what is weighed.
    count: usize,
    /// Connections to the origin that were opened as well.
    upstream: usize,
}

impl Weighed {
    fn row(&self, name: &str) -> Vec<String> {
        let each = (self.after as f64 - self.before as f64) / self.count as f64;
        vec![
            name.to_owned(),
            format!("{each:.2}"),
            self.before.to_string(),
            self.after.to_string(),
            self.count.to_string(),
            self.upstream.to_string(),
        ]
    }
}

/// Open descriptors of a proxy.
fn descriptors(proxy: &Running) -> usize {
    let of = |pid: &u32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    proxy.pids.iter().map(of).sum()
}

fn idle(stage: &Stage, proxy: &Running) -> Result<Weighed> {
    let client = Client::new(Sessions::Full)?.over_http2();
    let open = || -> Result<_> {
        let socket = TcpStream::connect(proxy.tls)?;
        let mut stream = StreamOwned::new(client.connect()?, socket);
        stream.write_all(&[PREFACE, SETTINGS].concat())?;
        Ok(stream)
    };
    between(proxy, stage.bench.idle, 1, open)
}

fn stalled(proxy: &Running) -> Result<Weighed> {
    let open = || -> Result<_> {
        let mut socket = TcpStream::connect(proxy.h2c)?;
        socket.write_all(&windowless())?;
        // Connections to the origin are used again by the next streams.
        thread::sleep(Duration::from_millis(100));
        Ok(socket)
    };
    between(proxy, STALLED, STREAMS as usize, open)
}

/// Opens connections that count for `each`.
fn between<C>(
    proxy: &Running,
    connections: usize,
    each: usize,
    open: impl Fn() -> Result<C>,
) -> Result<Weighed> {
    let mut held = Vec::new();
    for _ in 0..FIRST {
        held.push(open()?);
    }
    thread::sleep(Duration::from_secs(1));
    let (before, _) = cpu::memory(&proxy.pids);
    let open_before = descriptors(proxy);
    for _ in 0..connections {
        held.push(open()?);
    }
    thread::sleep(Duration::from_secs(3));
    let (after, _) = cpu::memory(&proxy.pids);
    Ok(Weighed {
        before,
        after,
        count: connections * each,
        upstream: descriptors(proxy).saturating_sub(open_before + connections),
    })
}
