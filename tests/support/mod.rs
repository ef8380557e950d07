//! The harness of the integration tests: scripted origins, exact clients, and the real binary between them.
//!
//! Everything is on loopback and on ports that the harness chose; nothing waits for luck: [`until`] polls a condition and
//! fails loudly at its deadline.
//!
//! * [`origin`]: HTTP/1 origins that do what a script says with the raw connection. [`h2_origin`]: the same over HTTP/2.
//! * [`proxy`]: the binary with a configuration file of its own. [`metrics`]: its exposition, parsed.
//! * [`client`]: HTTP/1 by exact bytes. [`frames`]: HTTP/2 by exact frames. [`h2_client`]: HTTP/2 as a well-behaved client speaks it.
//! * [`tls`]: certificates made on the spot, and both ends of TLS. [`wire`]: HTTP/1 messages as the tests see them.
//! * [`dns`]: a scripted name server. [`otlp`]: a receiver of spans. [`acme`]: an authority that issues certificates. [`etcd`]: a real etcd.
//! * [`relay`]: a network that can be cut.
//! * [`promtool`]: Prometheus' own checks. [`description`]: whether answers are as an OpenAPI description says.
//!
//! `configuration`, `diagnostic` and `diff` serve the tests of the parser, which include them alone.

pub mod acme;
pub mod client;
pub mod description;
pub mod dns;
pub mod etcd;
pub mod frames;
pub mod h2_client;
pub mod h2_origin;
pub mod metrics;
pub mod origin;
pub mod otlp;
pub mod promtool;
pub mod proxy;
pub mod relay;
pub mod tls;
pub mod wire;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest time that anything healthy may take, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// A process that is killed when dropped, if it still runs.
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself, and been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A byte stream of any kind, both ways.
pub trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

/// Asks `condition` again and again until it has an answer; panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, condition)
}

/// As [`until`], with a deadline of one's own.
#[track_caller]
pub fn until_within<T>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = condition() {
            return answer;
        }
        let waited = start.elapsed();
        assert!(waited < deadline, "waited {deadline:?} in vain: {what}");
        pause(interval(waited));
    }
}

/// How long to wait before a condition is looked at again: a hundredth of what was waited, so that long waits take little CPU time
/// from other tests. Conditions are often requests to the admin API of a debug build, which take it a millisecond or two.
fn interval(waited: Duration) -> Duration {
    (waited / 100).clamp(Duration::from_millis(2), Duration::from_millis(20))
}

/// As [`until`], while tasks of this thread go on.
pub async fn until_async(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        let waited = start.elapsed();
        assert!(waited < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        tokio::time::sleep(interval(waited)).await;
    }
}

/// Lets time pass where the passing of time is the script: an origin that delays, a poll's interval.
#[expect(
    clippy::disallowed_methods,
    reason = "a scripted delay and the interval of a poll are what sleeping is for"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// A port that nobody uses, below the range that the kernel gives to outgoing connections; never handed out twice by this process.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    let start = std::process::id().wrapping_mul(7919);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = (FIRST + start.wrapping_add(step) % COUNT) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port below 32000");
}

/// Connections that wait to be accepted. The standard library's 128 are fewer than a crowd of clients may bring at once, and the
/// kernel then drops what comes.
const BACKLOG: i32 = 1024;

/// A listening socket on loopback, on a port that the kernel chose.
pub fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a port on loopback");
    rustix::net::listen(&listener, BACKLOG).expect("a longer queue");
    let address = listener.local_addr().expect("the address that was bound");
    (listener, address)
}

/// Makes the close of this socket a reset.
pub fn reset_on_close(socket: &std::net::TcpStream) -> io::Result<()> {
    socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO))
}

/// Bytes that look random, the same for the same seed: what a body must be to notice a shift or a hole.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

/// A runtime of one's own for the asynchronous clients.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(async {
            tokio::time::timeout(Duration::from_secs(60), future)
                .await
                .expect("the test ends within a minute")
        })
}
