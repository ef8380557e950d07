//! The cases, and the run through them.

use std::path::Path;
use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::load::get;
use crate::options::Bench;
use crate::origin::{BODIES, CHUNKS, POST_ANSWER, UNLIKE, UNLIKE_ANSWERS};
use crate::peers::{self, Contender, Kind, Running, Scratch};
use crate::report;
use crate::tls::Sessions;
use crate::{
    Result, contenders, cpu, features, fleet, idle, log_faults, mirror, pages, pressure, recreate,
    reload, rollout, rounds, scale, slow_readers, streams, syscalls, takeovers, tunnel,
};

/// One case.
pub struct Case {
    /// What `--case` takes.
    pub name: &'static str,
    /// One line for the table.
    pub title: String,
    /// What is done.
    pub what: What,
}

/// What a case does.
pub enum What {
    /// Closed loop with our own generator.
    Closed(Shape),
    /// h2load with 16 connections of 32 streams.
    H2 {
        /// Over TLS, else by prior knowledge.
        tls: bool,
        /// What is asked: `/h2c/…` goes to the origin by HTTP/2.
        path: &'static str,
        /// A gRPC call instead of a GET.
        call: bool,
    },
    /// Open loop at `--rate`.
    Latency(Shape),
    /// System calls for each request.
    Syscalls(Shape),
    /// Memory of idle connections.
    Idle {
        /// Over TLS.
        tls: bool,
    },
    /// Memory of HTTP/2.
    Streams(streams::Kind),
    /// Memory with two workers before the first load.
    Rest,
    /// Good traffic beside slow clients.
    Pressure,
    /// Good traffic while slow readers come.
    SlowReaders,
    /// WebSocket messages.
    Tunnel,
    /// Cost of a request from small to large configurations.
    Scale,
    /// What each feature adds.
    Features,
    /// A fleet whose etcd is there, gone or of no use.
    Fleet,
    /// Edits of a large configuration under load.
    Reload,
    /// An access log that can't be written.
    LogFaults,
    /// A mirrored target that answers nothing as it should.
    Mirror,
    /// An endpoint that is gone for some time.
    Recreate,
    /// Open pages of the dashboard.
    Pages,
    /// Steps of a rollout under load.
    Rollout,
    /// Restarts under load.
    Takeovers,
}

/// One request, over and over, or several by turns.
pub struct Shape {
    /// Head and body of each.
    pub requests: Vec<Vec<u8>>,
    /// Least size of the answer's body.
    pub body: u64,
    /// Over TLS.
    pub tls: Option<Sessions>,
    /// A connection for each request.
    pub fresh: bool,
}

/// What all cases need.
pub struct Stage<'a> {
    /// The options.
    pub bench: &'a Bench,
    /// Who is compared.
    pub contenders: &'a [Contender],
    /// The run's files.
    pub scratch: &'a Scratch,
    /// The origin.
    pub origin: &'a Running,
}

impl Stage<'_> {
    /// Starts a contender with this many workers on the proxy's core.
    pub fn start(&self, contender: &Contender, workers: usize) -> Result<Running> {
        peers::start(
            contender,
            self.scratch,
            self.origin.plain,
            self.bench.proxy_core,
            workers,
        )
    }
}

/// What a browser sends along with a GET.
const BROWSER: &str = "\
user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r
accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r
accept-language: en-US,en;q=0.7,de;q=0.3\r
accept-encoding: gzip, deflate, br, zstd\r
referer: https://bench.local/catalogue/garden/tools?page=3\r
dnt: 1\r
cookie: session=2f1c9a7be04d4f5c8f6a1b3d5e7f9012; theme=dark; consent=necessary.statistics; uid=7312894\r
upgrade-insecure-requests: 1\r
sec-fetch-dest: document\r
sec-fetch-mode: navigate\r
sec-fetch-site: same-origin\r
sec-fetch-user: ?1\r
priority: u=0, i\r
";

fn plain(path: &str, more: &str) -> Shape {
    let body = BODIES
        .iter()
        .find(|(known, _)| *known == path)
        .map_or(0, |(_, size)| *size as u64);
    Shape {
        requests: vec![get(path, more)],
        body,
        tls: None,
        fresh: false,
    }
}

/// A browser's GET 1 KiB, with another path, trace and answer each time.
fn unlike() -> Shape {
    let request = |n| {
        let trace = format!("traceparent: 00-{n:032x}-{n:016x}-01\r\n");
        get(&format!("{UNLIKE}{n}"), &(trace + BROWSER))
    };
    Shape {
        requests: (1..=UNLIKE_ANSWERS).map(request).collect(),
        ..plain("/1k", "")
    }
}

fn post(size: usize) -> Shape {
    let mut request = format!(
        "POST /post HTTP/1.1\r\nhost: bench.local\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\n\r\n"
    )
    .into_bytes();
    request.resize(request.len() + size, b'x');
    Shape {
        requests: vec![request],
        body: POST_ANSWER as u64,
        ..plain("/1k", "")
    }
}

fn chunked() -> Shape {
    Shape {
        body: CHUNKS as u64 * 1024,
        ..plain("/chunked", "")
    }
}

fn tls(sessions: Sessions, fresh: bool) -> Shape {
    Shape {
        tls: Some(sessions),
        fresh,
        ..plain("/1k", "")
    }
}

fn all(bench: &Bench) -> Vec<Case> {
    use What::{
        Closed, Features, Fleet, H2, Idle, Latency, LogFaults, Mirror, Pages, Pressure, Recreate,
        Reload, Rest, Rollout, Scale, SlowReaders, Streams, Syscalls, Takeovers, Tunnel,
    };
    let case = |name, title: &str, what| Case {
        name,
        title: title.to_owned(),
        what,
    };
    let rate = format!("GET 1 KiB at {} requests/s, open loop", bench.rate);
    let idle = format!("{} idle connections", bench.idle);
    vec![
        case("get1k", "GET 1 KiB", Closed(plain("/1k", ""))),
        case(
            "get1k-browser",
            "GET 1 KiB with a browser's headers",
            Closed(plain("/1k", BROWSER)),
        ),
        case(
            "get1k-unlike",
            "GET 1 KiB with a browser's headers, each request and response with another head",
            Closed(unlike()),
        ),
        case("get64k", "GET 64 KiB", Closed(plain("/64k", ""))),
        case("get1m", "GET 1 MiB", Closed(plain("/1m", ""))),
        case("post10k", "POST 10 KiB", Closed(post(10 * 1024))),
        case("chunked", "GET 8 KiB in 8 chunks", Closed(chunked())),
        case(
            "tls1k",
            "GET 1 KiB, TLS 1.3 kept alive",
            Closed(tls(Sessions::Full, false)),
        ),
        case(
            "tls-handshake",
            "full TLS 1.3 handshake and one GET 1 KiB",
            Closed(tls(Sessions::Full, true)),
        ),
        case(
            "tls-resume",
            "resumed TLS 1.3 handshake and one GET 1 KiB",
            Closed(tls(Sessions::Resume, true)),
        ),
        case(
            "h2",
            "GET 1 KiB, HTTP/2 over TLS, 16 connections of 32 streams",
            H2 {
                tls: true,
                path: "/1k",
                call: false,
            },
        ),
        case(
            "h2-clear",
            "GET 1 KiB, HTTP/2 in clear text, 16 connections of 32 streams",
            H2 {
                tls: false,
                path: "/1k",
                call: false,
            },
        ),
        case(
            "h2-h2c",
            "GET 1 KiB, HTTP/2 over TLS to an origin by HTTP/2, 16 connections of 32 streams",
            H2 {
                tls: true,
                path: "/h2c/1k",
                call: false,
            },
        ),
        case(
            "grpc",
            "unary gRPC calls of 100 bytes, HTTP/2 over TLS to an origin by HTTP/2, 16 connections of 32 streams",
            H2 {
                tls: true,
                path: "/h2c/shop.Shop/Ask",
                call: true,
            },
        ),
        case(
            "websocket",
            "WebSocket messages of 125 bytes, there and back",
            Tunnel,
        ),
        case("latency", &rate, Latency(plain("/1k", ""))),
        case(
            "syscalls",
            "system calls for a GET 1 KiB",
            Syscalls(plain("/1k", "")),
        ),
        case("idle", &idle, Idle { tls: false }),
        case("idle-tls", &format!("{idle} over TLS"), Idle { tls: true }),
        case(
            "idle-h2",
            &format!("{idle} over TLS and HTTP/2"),
            Streams(streams::Kind::Idle),
        ),
        case(
            "stalled-h2",
            "streams of HTTP/2 whose clients have no window for 1 KiB",
            Streams(streams::Kind::Stalled),
        ),
        case("rest", "resident memory at rest, 2 workers", Rest),
        case("pressure", "good traffic beside slow clients", Pressure),
        case(
            "slow-readers",
            "good traffic before, while and after 1,000 slow readers and 1,024 streams without window come",
            SlowReaders,
        ),
        case("scale", "GET 1 KiB from small to large", Scale),
        case("features", "what features add to a GET 1 KiB", Features),
        case(
            "fleet",
            "GET 1 KiB of a fleet whose etcd is there or gone",
            Fleet,
        ),
        case(
            "reload",
            "edits of a file with 1,000 services and 10,000 endpoints, at 2,000 requests/s",
            Reload,
        ),
        case(
            "rollout",
            "steps of a rollout on one of 1,000 services, at 2,000 requests/s to the others",
            Rollout,
        ),
        case(
            "pages",
            "50 open pages of the dashboard, at 2,000 requests/s",
            Pages,
        ),
        case(
            "log-faults",
            "users beside an access log on a full disk, to a stalled reader or rotated, at 2,000 requests/s",
            LogFaults,
        ),
        case(
            "mirror",
            "users beside a mirrored target that hangs, resets, answers garbage or breaks off, at 2,000 requests/s",
            Mirror,
        ),
        case(
            "recreate",
            "the only endpoint is gone for 10 s, at 500 requests/s",
            Recreate,
        ),
        case("takeovers", "restarts under load", Takeovers),
    ]
}

/// The `bench` command.
pub fn run(bench: &Bench) -> Result<()> {
    let cases = all(bench);
    if bench.list {
        for case in &cases {
            println!("{:14} {}", case.name, case.title);
        }
        return Ok(());
    }
    let chosen = choose(cases, &bench.cases)?;
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let contenders = contenders::chosen(bench, &top)?;
    let mut proxies = contenders.clone();
    proxies.retain(|contender| contender.kind != Kind::Copy);
    let limit = raise_file_limit()?;
    if limit < bench.idle as u64 + 1000 {
        println!("only {limit} files may be open: choose --idle well below that");
    }
    let circumstances = circumstances(bench, &top);
    println!("{}\n", circumstances.join("\n"));
    let scratch = Scratch::new()?;
    cpu::pin(bench.load_core)?;
    let origin = peers::start_origin(bench.load_core, 1)?;
    let stage = Stage {
        bench,
        contenders: &proxies,
        scratch: &scratch,
        origin: &origin,
    };
    let mut tables = Vec::new();
    for case in &chosen {
        let began = Instant::now();
        let mut table = match &case.what {
            What::H2 { .. } if peers::installed("h2load").is_none() => {
                println!(
                    "{}: left out, h2load is missing (Debian: apt install nghttp2-client)\n",
                    case.name
                );
                continue;
            }
            What::Closed(shape) => rounds::closed(&stage, shape)?,
            What::H2 { tls, path, call } => rounds::h2(&stage, *tls, path, *call)?,
            What::Latency(shape) => rounds::latency(&stage, shape)?,
            What::Syscalls(shape) => syscalls::count(&stage, shape)?,
            What::Idle { tls } => idle::connections(&stage, *tls)?,
            What::Streams(kind) => streams::weigh(&stage, *kind)?,
            What::Rest => idle::rest(&stage)?,
            What::Pressure => pressure::run(&stage)?,
            What::SlowReaders => slow_readers::run(&stage)?,
            What::Tunnel => tunnel::run(&stage)?,
            What::Scale => scale::run(&Stage {
                contenders: &contenders,
                ..stage
            })?,
            What::Features => features::run(&stage)?,
            What::Fleet => fleet::run(&stage)?,
            What::Reload => reload::run(&stage)?,
            What::Rollout => rollout::run(&stage)?,
            What::Pages => pages::run(&stage)?,
            What::LogFaults => log_faults::run(&stage)?,
            What::Mirror => mirror::run(&stage)?,
            What::Recreate => recreate::run(&stage)?,
            What::Takeovers => takeovers::run(&stage)?,
        };
        case.name.clone_into(&mut table.case);
        table.title.clone_from(&case.title);
        println!("{}", table.markdown());
        eprintln!("{} took {} s", case.name, began.elapsed().as_secs());
        tables.push(table);
    }
    println!("{}", report::summary(&tables));
    if bench.write && tables.len() < all(bench).len() {
        println!("RESULTS.md stays as it is: only a run of all cases is written");
    } else if bench.write {
        report::write(&top, &circumstances, &tables)?;
    }
    Ok(())
}

fn circumstances(bench: &Bench, top: &Path) -> Vec<String> {
    let mut lines = report::circumstances(top);
    let rounds = match bench.together {
        true => "rounds of all proxies at the same time,",
        false => "interleaved rounds in random order,",
    };
    lines.push(format!(
        "{} {rounds} {:?} each, {} connections; proxy (1 worker) on core {}, origin and load on core {}",
        bench.rounds, bench.length, bench.connections, bench.proxy_core, bench.load_core
    ));
    lines
}

fn choose(cases: Vec<Case>, names: &[String]) -> Result<Vec<Case>> {
    if let Some(unknown) = names
        .iter()
        .find(|name| *name != "all" && !cases.iter().any(|case| case.name == name.as_str()))
    {
        return Err(format!("no case `{unknown}`; --list names them").into());
    }
    let all = names.is_empty() || names.iter().any(|name| name == "all");
    let wanted = |case: &Case| all || names.iter().any(|name| name == case.name);
    Ok(cases.into_iter().filter(wanted).collect())
}

fn raise_file_limit() -> Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}
