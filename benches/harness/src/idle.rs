//! Memory: of idle connections, and at rest.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};

use crate::cases::Stage;
use crate::load;
use crate::peers::Running;
use crate::report::Table;
use crate::response::{Progress, Response};
use crate::tls::{Client, Sessions};
use crate::{Result, cpu};

/// A connection that is asked now and then.
enum Held {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Held {
    fn open(target: SocketAddr, client: Option<&Client>) -> Result<Self> {
        let socket = TcpStream::connect(target)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut held = match client {
            Some(client) => Self::Tls(Box::new(StreamOwned::new(client.connect()?, socket))),
            None => Self::Plain(socket),
        };
        held.ask()?;
        Ok(held)
    }

    /// One GET and its whole answer.
    fn ask(&mut self) -> Result<()> {
        match self {
            Self::Plain(stream) => ask(stream),
            Self::Tls(stream) => ask(stream),
        }
    }
}

fn ask(stream: &mut (impl Read + Write)) -> Result<()> {
    stream.write_all(&load::get("/1k", ""))?;
    let (mut response, mut buffer) = (Response::default(), Vec::new());
    let mut scratch = [0; 4096];
    loop {
        let n = stream.read(&mut scratch)?;
        if n == 0 {
            return Err("closed in the middle of an answer".into());
        }
        buffer.extend_from_slice(&scratch[..n]);
        match response.take(&mut buffer) {
            Progress::More(_) => {}
            Progress::Whole(_) => return Ok(()),
            Progress::Bad => return Err("a wrong answer".into()),
        }
    }
}

/// Opens many connections, each asked once, and weighs the proxy before and after.
pub fn connections(stage: &Stage, tls: bool) -> Result<Table> {
    let mut table = Table {
        head: ["proxy", "KiB a connection", "before, KiB", "with them, KiB", "dead"]
            .map(str::to_owned)
            .to_vec(),
        notes: vec!["resident memory of the process (kernel buffers aside), 3 s after the last connection's only request".to_owned()],
        ..Table::default()
    };
    for contender in stage.contenders {
        match stage
            .start(contender, 1)
            .and_then(|proxy| weigh(stage, &proxy, tls))
        {
            Ok((before, after, dead)) => table.rows.push(vec![
                contender.name.clone(),
                format!(
                    "{:.2}",
                    (after as f64 - before as f64) / stage.bench.idle as f64
                ),
                before.to_string(),
                after.to_string(),
                dead.to_string(),
            ]),
            Err(error) => table
                .notes
                .push(format!("{} is left out: {error}", contender.name)),
        }
    }
    Ok(table)
}

fn weigh(stage: &Stage, proxy: &Running, tls: bool) -> Result<(u64, u64, usize)> {
    let client = tls.then(|| Client::new(Sessions::Full)).transpose()?;
    let target = if tls { proxy.tls } else { proxy.plain };
    // What the first requests cost once is not the connections'.
    for _ in 0..64 {
        Held::open(target, client.as_ref())?;
    }
    thread::sleep(Duration::from_millis(300));
    let (before, _) = cpu::memory(&proxy.pids);
    let mut held = Vec::with_capacity(stage.bench.idle);
    for at in 0..stage.bench.idle {
        let open = Held::open(target, client.as_ref());
        held.push(open.map_err(|e| format!("connection {at}: {e}"))?);
    }
    thread::sleep(Duration::from_secs(3));
    let (after, _) = cpu::memory(&proxy.pids);
    // A connection that the proxy gave up costs nothing: one in twenty is asked again.
    let dead = held
        .iter_mut()
        .step_by(20)
        .filter_map(|h| h.ask().err())
        .count();
    Ok((before, after, dead * 20))
}

/// Weighs freshly started proxies with two workers.
pub fn rest(stage: &Stage) -> Result<Table> {
    let mut table = Table {
        head: ["proxy", "resident MiB", "shared pages divided, MiB"]
            .map(str::to_owned)
            .to_vec(),
        ..Table::default()
    };
    for contender in stage.contenders {
        match stage.start(contender, 2) {
            Ok(proxy) => {
                thread::sleep(Duration::from_secs(1));
                let (rss, pss) = cpu::memory(&proxy.pids);
                let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
                table
                    .rows
                    .push(vec![contender.name.clone(), mib(rss), mib(pss)]);
            }
            Err(error) => table
                .notes
                .push(format!("{} is left out: {error}", contender.name)),
        }
    }
    Ok(table)
}
