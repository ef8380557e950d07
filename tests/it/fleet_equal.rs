//! Rollouts of equal versions on a fleet of five real members: how many are taken back.
//!
//! Each service has a canary whose answers fail and take as long as those of stable, by chance alone. A new label begins the next
//! rollout, until enough have ended: all but at most one in a hundred must reach their end, and are promoted. Beside them, one
//! service has a canary that is really worse, and is taken back each time: the guards see enough to judge.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::client::Client;
use crate::support::etcd::Etcd;
use crate::support::origin::Origin;
use crate::support::pause;
use crate::support::proxy::{Builder, Proxy};

const MEMBERS: usize = 5;
/// Services with equal versions, which roll at the same time.
const SERVICES: usize = 20;
/// Connections to each member, and how many requests a second each sends to all services in turn.
const CLIENTS: usize = 3;
const RATE: u32 = 45;
/// Share of the answers that fail, of both versions, in turn by service. A guard holds a rollout whose stable version fails more than
/// its absolute limit allows, so that services with more failures have a higher one.
const FAILING: [(f64, &str); 2] = [
    (0.002, ""),
    (0.03, "guard.errors = [\"6%\", \"+0.5%\", \"x1.5\"]\n"),
];
/// Of a canary that is worse.
const WORSE: f64 = 0.5;
/// Longest time until all rollouts of a round have ended.
const ROUND: Duration = Duration::from_secs(150);
/// The plan: the guard is the default one but for the requests that a step needs, which at these rates would take minutes.
const PLAN: &str =
    "steps = [\"10% for 10s\", \"50% for 20s\", \"100% for 5s\"]\nguard.min_requests = 15\n";

/// The name of a service: the last one has a canary that is worse.
fn name(service: usize) -> String {
    match service {
        SERVICES => "worse".to_owned(),
        service => format!("equal-{service}"),
    }
}

/// Answers after about a millisecond and fails by chance.
fn origin(failing: f64) -> Origin {
    // Without the list of requests that other origins keep.
    Origin::script(move |conn| {
        let mut random = fastrand::Rng::new();
        while conn.head()?.is_some() {
            // Most answers are fast, some take several times as long.
            let slow = -random.f64().max(1e-3).ln();
            pause(Duration::from_micros(500) + Duration::from_micros(500).mul_f64(slow));
            let status = if random.f64() < failing { 500 } else { 200 };
            conn.reply(status, "ok")?;
        }
        Ok(())
    })
}

/// The origins of the services.
struct Origins {
    /// Stable and an equal canary, of each share of failures.
    equal: [[Origin; 2]; FAILING.len()],
    worse: Origin,
}

impl Origins {
    fn start() -> Self {
        Self {
            equal: FAILING.map(|(failing, _)| [origin(failing), origin(failing)]),
            worse: origin(WORSE),
        }
    }

    /// The tables of a member. Each service's canary is version `label`.
    fn tables(&self, etcd: &Etcd, member: usize, label: &str) -> String {
        let url = etcd.url();
        let mut text =
            format!("[fleet]\netcd = \"{url}\"\nname = \"test\"\nmember = \"m{member}\"\n");
        for service in 0..=SERVICES {
            let (name, kind) = (name(service), service % FAILING.len());
            let [stable, equal] = &self.equal[kind];
            let canary = if service == SERVICES {
                &self.worse
            } else {
                equal
            };
            let (stable, canary, guard) = (stable.at(), canary.at(), FAILING[kind].1);
            write!(
                text,
                "[service.{name}]\nhosts = \"{name}.test\"\nstable = \"v1\"\nsplit = {{ v2 = \"rollout\" }}\n\
                 outlier.consecutive_5xx = 1000\n\
                 [service.{name}.versions]\nv1 = [\"{stable}\"]\n\
                 [service.{name}.versions.v2]\nlabel = \"{label}\"\nendpoints = [\"{canary}\"]\n\
                 [service.{name}.rollout]\n{PLAN}{guard}"
            )
            .expect("a string");
        }
        text
    }

    /// Requests that equal canaries have got.
    fn canary_hits(&self) -> usize {
        self.equal.iter().map(|[_, canary]| canary.hits()).sum()
    }
}

/// What clients have sent and got.
#[derive(Default)]
struct Traffic {
    has_ended: AtomicBool,
    sent: AtomicUsize,
    failed: AtomicUsize,
    /// Anything but the origins' answers.
    other: AtomicUsize,
}

impl Traffic {
    /// Sends requests to the services in turn, beginning with this one, until the end.
    fn send(&self, port: u16, first: usize) {
        let began = Instant::now();
        let mut client = Client::new(port);
        for number in 0.. {
            let due = began
                + number / RATE * Duration::from_secs(1)
                + (number % RATE) * Duration::from_secs(1) / RATE;
            pause(due.saturating_duration_since(Instant::now()));
            if self.has_ended.load(Ordering::SeqCst) {
                return;
            }
            let service = name((first + number as usize) % (SERVICES + 1));
            let status = ask(&mut client, &service);
            self.sent.fetch_add(1, Ordering::SeqCst);
            match status {
                Ok(200) => {}
                Ok(500) => {
                    self.failed.fetch_add(1, Ordering::SeqCst);
                }
                other => {
                    eprintln!("{service}: {other:?}");
                    self.other.fetch_add(1, Ordering::SeqCst);
                    client = Client::new(port);
                }
            }
        }
    }
}

fn ask(client: &mut Client, service: &str) -> io::Result<u16> {
    client.try_send(format!("GET / HTTP/1.1\r\nhost: {service}.test\r\n\r\n"))?;
    Ok(client.try_answer("GET")?.status())
}

/// The services as a member shows them, by name.
fn services(proxy: &Proxy) -> BTreeMap<String, Value> {
    let status = proxy.status();
    let list = status["services"].as_array().expect("a list");
    let named = |service: &Value| {
        let name = service["name"].as_str().expect("a name").to_owned();
        (name, service.clone())
    };
    list.iter().map(named).collect()
}

/// A service's rollout as each member shows it.
fn on_all(fleet: &[Proxy], name: &str) -> String {
    let shown = |proxy| services(proxy)[name]["rollout"].to_string();
    fleet.iter().map(shown).collect::<Vec<_>>().join("\n")
}

/// Whether the rollout of this label has ended on a member.
fn has_ended(service: &Value, label: &str) -> bool {
    let rollout = &service["rollout"];
    let has_ended = matches!(rollout["state"].as_str(), Some("done" | "rolled-back"));
    has_ended && rollout["label"] == label
}

/// Waits for all members at most until `deadline`.
fn all_members(
    fleet: &[Proxy],
    deadline: Instant,
    what: &str,
    holds: impl Fn(&str, &Value) -> bool,
) {
    for (at, proxy) in fleet.iter().enumerate() {
        loop {
            let shown = services(proxy);
            let missing = shown.iter().find(|(name, service)| !holds(name, service));
            let Some((name, service)) = missing else {
                break;
            };
            assert!(
                Instant::now() < deadline,
                "{what}, not {name} of m{at}: {service:#}\n{}",
                on_all(fleet, name)
            );
            pause(Duration::from_millis(500));
        }
    }
}

/// Rolls all services to this label. Returns those whose canary was taken back, with the reason.
fn round(fleet: &[Proxy], texts: &[String], label: &str) -> Vec<(String, String)> {
    let deadline = Instant::now() + ROUND;
    std::thread::scope(|scope| {
        for (proxy, text) in fleet.iter().zip(texts) {
            scope.spawn(|| proxy.edit(text));
        }
    });
    all_members(fleet, deadline, "all have ended", |_, service| {
        has_ended(service, label)
    });
    // What a member shows as ended has ended for all, in the same way.
    let ends: Vec<BTreeMap<String, String>> = { fleet.iter() }
        .map(|proxy| {
            let state = |service: &Value| service["rollout"]["state"].as_str().map(str::to_owned);
            let shown = services(proxy).into_iter();
            shown
                .filter_map(|(name, service)| Some((name, state(&service)?)))
                .collect()
        })
        .collect();
    for end in &ends {
        assert_eq!(*end, ends[0], "members disagree");
    }
    let taken_back: Vec<_> = services(&fleet[0])
        .into_iter()
        .filter(|(name, _)| ends[0][name] == "rolled-back")
        .map(|(name, service)| (name, service["rollout"]["reason"].to_string()))
        .collect();
    let is_promoted = |name: &str| !taken_back.iter().any(|(taken, _)| taken == name);
    std::thread::scope(|scope| {
        // By each member some of them.
        for (at, proxy) in fleet.iter().enumerate() {
            let names = (0..=SERVICES)
                .filter(move |service| service % MEMBERS == at)
                .map(name);
            let names: Vec<_> = names.filter(|name| is_promoted(name)).collect();
            scope.spawn(move || {
                for name in names {
                    let promoted = proxy.local(&["promote", &name]);
                    assert_eq!(promoted.code, 0, "{name}: {}", promoted.stderr);
                }
            });
        }
    });
    all_members(fleet, deadline, "all are promoted", |name, service| {
        service["stable"] == if is_promoted(name) { "v2" } else { "v1" }
    });
    taken_back
}

#[test]
fn equal_versions_on_five_members_are_rarely_taken_back() {
    let rollouts = std::env::var("CUTOVER_FLEET_AA").ok();
    let Some(rollouts) = rollouts.and_then(|n| n.parse::<usize>().ok()) else {
        eprintln!("skipped: takes minutes; `just fleet-aa` runs it");
        return;
    };
    let Some(etcd) = Etcd::start() else { return };
    let origins = Origins::start();
    let texts = |label: &str| -> Vec<String> {
        (0..MEMBERS)
            .map(|member| origins.tables(&etcd, member, label))
            .collect()
    };
    let fleet: Vec<_> = { texts("0").into_iter() }
        .map(|text| Builder::rest(&text).start())
        .collect();
    let (traffic, began) = (Traffic::default(), Instant::now());
    let (mut ended, mut taken_back, mut worse) = (0, Vec::new(), 0);
    let rounds = rollouts.div_ceil(SERVICES);
    std::thread::scope(|scope| {
        let port = |client: usize| fleet[client % MEMBERS].port;
        for client in 0..CLIENTS * MEMBERS {
            let (traffic, port) = (&traffic, port(client));
            scope.spawn(move || traffic.send(port, client));
        }
        // Ends the clients also if this thread fails.
        let _end = End(&traffic.has_ended);
        for at in 1..=rounds {
            let started = Instant::now();
            let label = at.to_string();
            for (name, reason) in round(&fleet, &texts(&label), &label) {
                match name == self::name(SERVICES) {
                    true => worse += 1,
                    false => taken_back.push((label.clone(), name, reason)),
                }
            }
            ended += SERVICES;
            eprintln!(
                "round {at} of {rounds}: {:.1?}, {} of {ended} rollouts of equal versions taken back, {worse} of {at} of a worse one",
                started.elapsed(),
                taken_back.len()
            );
        }
    });
    let number = |count: &AtomicUsize| count.load(Ordering::SeqCst);
    let canary = origins.canary_hits();
    eprintln!(
        "{} of {ended} rollouts of equal versions were taken back, {worse} of {rounds} of a worse one; {} requests, {} of them \
         answered with 500, {canary} by the equal canaries, {} failed otherwise; {:.0?}\n{taken_back:#?}",
        taken_back.len(),
        number(&traffic.sent),
        number(&traffic.failed),
        number(&traffic.other),
        began.elapsed(),
    );
    assert!(taken_back.len() <= ended.div_ceil(100), "{taken_back:#?}");
    assert_eq!(worse, rounds, "the guards see too little to judge");
    assert_eq!(number(&traffic.other), 0, "requests failed");
}

/// Sets a flag at the end of its scope.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
