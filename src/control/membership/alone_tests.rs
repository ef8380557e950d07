//! A member whose etcd is of no use for an hour: what it tries, keeps and logs is bounded. The clock is the test's.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle, LocalOptions};
use tokio::task::spawn_local;
use tokio::time::{interval, sleep};
use tracing::Level;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::{Layer, registry};

use super::Membership;
use crate::admin::fleet::FleetView;
use crate::config;
use crate::rollout::fleet::evidence::StepCounts;
use crate::snapshot::Keys;

const HOUR: Duration = Duration::from_secs(3600);

/// Counts log lines that an operator sees.
struct Lines(Arc<AtomicUsize>);

impl<S: tracing::Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() <= Level::INFO {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The events that a peer that isn't etcd has seen.
#[derive(Default)]
struct Seen {
    connections: Cell<usize>,
    open: Cell<usize>,
    most_open: Cell<usize>,
}

/// The reaction of a peer to a connection.
type Treatment = fn(TcpStream) -> Option<TcpStream>;

async fn accept(listener: TcpListener, treat: Treatment, seen: Rc<Seen>) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        seen.connections.set(seen.connections.get() + 1);
        let Some(mut stream) = treat(stream) else {
            continue;
        };
        seen.open.set(seen.open.get() + 1);
        seen.most_open
            .set(seen.most_open.get().max(seen.open.get()));
        let seen = seen.clone();
        spawn_local(async move {
            let mut buffer = [0; 1024];
            while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
            seen.open.set(seen.open.get() - 1);
        });
    }
}

/// The result of an hour.
struct Hour {
    /// Tasks after a tenth of the time, and at the end.
    tasks: [usize; 2],
    /// News that wait for the control thread.
    news: usize,
    lines: usize,
}

async fn hour(etcd: SocketAddr, lines: &AtomicUsize) -> Hour {
    let text = format!(
        "listen = \":8080\"\n[fleet]\netcd = \"http://{etcd}\"\nname = \"front\"\nmember = \"a\"\n\
         [service.app]\nversions = {{ v1 = [\"127.0.0.1:1\"] }}\n"
    );
    let spec = config::parse(&text, "test.toml").expect("a valid file");
    let mut membership = Membership::new(Arc::<FleetView>::default());
    let store = membership.connect(spec.fleet.as_ref()).flatten();
    let mut store = store.expect("it shares rollouts");
    membership.adopt(&spec, &Keys::new());
    let mut tasks = [0; 2];
    let mut every = interval(Duration::from_secs(5));
    let metrics = Handle::current().metrics();
    for tick in 0..HOUR.as_secs() / 5 {
        every.tick().await;
        // As a rollout under way does.
        store.report("app", (1, 1), &StepCounts::default());
        store.read_evidence("app", (1, 1));
        if tick == HOUR.as_secs() / 50 {
            tasks[0] = metrics.num_alive_tasks();
        }
    }
    tasks[1] = metrics.num_alive_tasks();
    let mut news = 0;
    loop {
        tokio::select! {
            biased;
            Some(_) = store.news() => news += 1,
            () = sleep(Duration::from_millis(1)) => break,
        }
    }
    Hour {
        tasks,
        news,
        lines: lines.load(Ordering::Relaxed),
    }
}

/// Lives through an hour; `treat` is `None` if nobody listens.
fn live(treat: Option<Treatment>) -> (Hour, Rc<Seen>) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build_local(LocalOptions::default())
        .expect("a runtime");
    let lines = Arc::<AtomicUsize>::default();
    let subscriber = registry().with(Lines(lines.clone()));
    let seen = Rc::<Seen>::default();
    let lived = tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let at = listener.local_addr().expect("an address");
            match treat {
                Some(treat) => drop(spawn_local(accept(listener, treat, seen.clone()))),
                None => drop(listener),
            }
            hour(at, &lines).await
        })
    });
    (lived, seen)
}

fn is_bounded(hour: &Hour) {
    let [early, late] = hour.tasks;
    assert!(late <= early + 3, "{early} tasks, and {late} at the end");
    assert_eq!(hour.news, 0);
    // One that says why. The one that says that it is over is still to come.
    assert_eq!(hour.lines, 1);
}

#[test]
fn an_hour_of_an_etcd_that_is_gone_costs_little() {
    let (hour, _) = live(None);
    is_bounded(&hour);
}

#[test]
fn an_hour_of_an_etcd_that_never_answers_costs_little() {
    let (hour, seen) = live(Some(Some));
    is_bounded(&hour);
    // Each attempt takes 5 s, and the pause after it 5 s on average.
    let attempts = seen.connections.get();
    assert!((300..480).contains(&attempts), "{attempts}");
    // The end of the last one may not have been noticed yet.
    assert!(seen.most_open.get() <= 2, "{}", seen.most_open.get());
}

#[test]
fn an_hour_of_an_etcd_that_closes_connections_costs_little() {
    let (hour, seen) = live(Some(|stream| {
        drop(stream);
        None
    }));
    is_bounded(&hour);
    let attempts = seen.connections.get();
    assert!((600..1000).contains(&attempts), "{attempts}");
}
