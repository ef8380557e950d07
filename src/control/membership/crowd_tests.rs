//! Many members of a fleet in one process, on a real etcd: how soon all of them hear of a step, and what etcd needs for them.
//!
//! `just fleet-crowd` runs it in release. All members share this thread, so that the time includes what the last one waits for
//! the others: members on machines of their own hear of a step as soon as etcd has sent it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::Membership;
use crate::admin::fleet::FleetView;
use crate::config;
use crate::control::etcd::Cluster;
use crate::control::fleet::{FleetNews, FleetStore, Found, Written};
use crate::rollout::fleet::document::FleetDocument;
use crate::rollout::fleet::evidence::{BothSides, StepCounts, cadence};
use crate::rollout::guard::EventTally;
use crate::rollout::state::RolloutState;
use crate::snapshot::Keys;

const STEPS: usize = 300;
/// How long etcd is observed.
const OBSERVED: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(60);

/// When the first, the middle and the last member heard of a revision.
#[derive(Clone, Copy, Default)]
struct Reach {
    members: usize,
    first: Option<Instant>,
    half: Option<Instant>,
    last: Option<Instant>,
}

/// Which revisions members have heard of.
#[derive(Default)]
struct Heard {
    members: usize,
    reaches: RefCell<BTreeMap<i64, Reach>>,
    changed: Notify,
}

impl Heard {
    fn note(&self, revision: i64) {
        let mut reaches = self.reaches.borrow_mut();
        let reach = reaches.entry(revision).or_default();
        reach.members += 1;
        let now = Instant::now();
        reach.first.get_or_insert(now);
        if reach.members == self.members.div_ceil(2) {
            reach.half = Some(now);
        }
        if reach.members == self.members {
            reach.last = Some(now);
            self.changed.notify_one();
        }
    }

    /// How long after `sent` the first, the middle and the last member heard of it.
    async fn by_all(&self, revision: i64, sent: Instant) -> [Duration; 3] {
        let heard = async {
            loop {
                let found = self.reaches.borrow().get(&revision).copied();
                let found = found.and_then(|at| Some([at.first?, at.half?, at.last?]));
                match found {
                    Some(times) => return times.map(|at| at - sent),
                    None => self.changed.notified().await,
                }
            }
        };
        timeout(PATIENCE, heard).await.expect("all hear of it")
    }
}

/// Follows the rollout and reports counts, as a proxy does.
async fn follow(membership: Membership, mut store: FleetStore, heard: Rc<Heard>) {
    let newest = Cell::new(0);
    let note = |revision: i64| {
        if revision > newest.get() {
            newest.set(revision);
            heard.note(revision);
        }
    };
    let mut counts = StepCounts::default();
    let second = StepCounts {
        errors: BothSides::new(EventTally::new(100, 1), EventTally::new(900, 2)),
        ..StepCounts::default()
    };
    let every = cadence(heard.members);
    let mut due = Instant::now() + every.mul_f64(fastrand::f64());
    loop {
        tokio::select! {
            news = store.news() => match news {
                Some(FleetNews::Document(_, Found::Document(revision, _))) => note(revision),
                Some(FleetNews::Read { documents, .. }) => {
                    for found in documents.into_values() {
                        if let Found::Document(revision, _) = found {
                            note(revision);
                        }
                    }
                }
                Some(_) => {}
                None => return,
            },
            () = sleep(due.saturating_duration_since(Instant::now())) => {
                counts.add(&second);
                store.report("app", (1, 1), &counts);
                due += every;
            }
        }
        // Keeps the membership until here: its tasks end with it.
        let _ = &membership;
    }
}

/// Processor time of a process.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let (_, rest) = stat.rsplit_once(") ").expect("a name");
    let ticks = rest.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.map(|t| t.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

/// Writes a state as the driver does. Returns its revision.
async fn write(driver: &mut FleetStore, revision: i64, held_ms: u64) -> i64 {
    let state = RolloutState {
        held_ms,
        ..RolloutState::in_first_step("8f0e4c1d2b3a4950".to_owned())
    };
    let document = FleetDocument::new(("driver", 1), "driver", &[], Vec::new(), state);
    driver.write("app", revision, document);
    loop {
        match driver.news().await.expect("it lives") {
            FleetNews::Written(_, _, Written::Done(revision, _)) => return revision,
            FleetNews::Written(_, _, other) => panic!("{other:?}"),
            _ => {}
        }
    }
}

async fn crowd(members: usize) {
    let cluster = Cluster::start(1, &[]);
    let url = cluster.fleet().etcd[0].to_string();
    let text = format!(
        "listen = \":8080\"\n[fleet]\netcd = \"{url}\"\nname = \"front\"\n[service.app]\nversions = {{ v1 = [\"127.0.0.1:1\"] }}\n"
    );
    let spec = config::parse(&text, "test.toml").expect("a valid file");
    let fleet = spec.fleet.clone().expect("a fleet");
    let heard = Rc::new(Heard {
        members,
        ..Heard::default()
    });
    let mut views = Vec::new();
    let joined = |name: String| {
        let view = Arc::<FleetView>::default();
        let mut spec = spec.clone();
        spec.fleet.as_mut().expect("a fleet").member = Some(name);
        let mut membership = Membership::new(view.clone());
        let store = membership.connect(spec.fleet.as_ref());
        membership.adopt(&spec, &Keys::new());
        let store = store.flatten().expect("it shares rollouts");
        (membership, store, view)
    };
    for at in 0..members {
        let (membership, store, view) = joined(format!("m{at}"));
        views.push(view);
        spawn_local(follow(membership, store, heard.clone()));
        sleep(Duration::from_millis(2)).await;
    }
    let began = Instant::now();
    let mut driver = joined("driver".to_owned());
    views.push(driver.2.clone());
    // The driver is one of them, so that nobody comes while steps are measured.
    while views.iter().any(|view| view.members() <= members) {
        // Each hears of each other one: a million events for a thousand members, all of them on this thread.
        assert!(began.elapsed() < 10 * PATIENCE, "all are members");
        sleep(Duration::from_millis(200)).await;
    }
    let took = began.elapsed();
    println!("{members} members and a driver know of each other, {took:.1?} after the last came");
    let (driver, mut revision) = (&mut driver.1, 0);
    let mut times: [Vec<Duration>; 4] = Default::default();
    assert_eq!(driver.fleet, fleet.name);
    for step in 0..STEPS {
        let sent = Instant::now();
        revision = write(driver, revision, step as u64).await;
        times[0].push(sent.elapsed());
        let reached = heard.by_all(revision, sent).await;
        for (times, reached) in times[1..].iter_mut().zip(reached) {
            times.push(reached);
        }
        sleep(Duration::from_millis(30)).await;
    }
    let [acknowledged, first, half, last] = times.map(|mut times| {
        times.sort_unstable();
        [0.5, 0.99].map(|q| times[((times.len() - 1) as f64 * q) as usize])
    });
    println!(
        "a step reaches the last of {members} members after p50 {:.1?}, p99 {:.1?}",
        last[0], last[1]
    );
    println!(
        "p50 and p99: etcd's answer {acknowledged:.1?}, the first member {first:.1?}, half of them {half:.1?}"
    );
    let pids = [cluster.pid(0), std::process::id()];
    let before = pids.map(cpu);
    sleep(OBSERVED).await;
    let [etcd, all] = [0, 1].map(|at| {
        let used = cpu(pids[at]) - before[at];
        used.as_secs_f64() / OBSERVED.as_secs_f64()
    });
    println!(
        "etcd uses {:.0} % of a core for {members} members that report every {:?}, they use {:.2} % each",
        etcd * 100.0,
        cadence(members),
        all * 100.0 / members as f64
    );
    assert!(etcd < 0.6, "{etcd}");
    assert!(
        members > 300 || last[1] < Duration::from_millis(30),
        "{last:?}"
    );
}

#[test]
fn all_members_of_a_large_fleet_hear_of_a_step() {
    let members = std::env::var("CUTOVER_FLEET_CROWD").ok();
    let Some(members) = members.and_then(|n| n.parse().ok()) else {
        eprintln!("skipped: `just fleet-crowd` runs it");
        return;
    };
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("a runtime");
    runtime.block_on(crowd(members));
}
