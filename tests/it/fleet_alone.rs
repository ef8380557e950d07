//! What a proxy keeps, tries and logs while its etcd is of no use, for as long as one wants to watch: `just fleet-alone`.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::rollouts::Load;
use crate::support::etcd::Etcd;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, serve};
use crate::support::{free_port, listen, pause, until};

/// A peer that takes connections and either keeps them without a word or closes them.
struct UselessEtcd {
    port: u16,
    accepted: Arc<AtomicUsize>,
    has_ended: Arc<AtomicBool>,
}

impl UselessEtcd {
    fn start(keeps: bool) -> Self {
        let (listener, address) = listen();
        let (accepted, has_ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, end) = (accepted.clone(), has_ended.clone());
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for connection in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
                if keeps {
                    kept.push(connection);
                    // The proxy has given the others up.
                    kept.drain(..kept.len().saturating_sub(4));
                }
            }
        });
        Self {
            port: address.port(),
            accepted,
            has_ended,
        }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for UselessEtcd {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// What a proxy has used at one moment.
#[derive(Clone, Copy, Debug)]
struct Used {
    resident: u64,
    descriptors: usize,
    /// Lines about the fleet.
    lines: usize,
    cpu: Duration,
}

fn used(proxy: &Proxy) -> Used {
    Used {
        resident: proxy.resident(),
        descriptors: proxy.descriptors(),
        lines: proxy.log().matches("fleet: ").count(),
        cpu: proxy.cpu(),
    }
}

#[test]
fn a_proxy_without_etcd_keeps_and_logs_no_more_over_time() {
    let minutes = std::env::var("CUTOVER_FLEET_ALONE").ok();
    let Some(minutes) = minutes.and_then(|minutes| minutes.parse::<f64>().ok()) else {
        eprintln!("skipped: takes minutes; `just fleet-alone` runs it");
        return;
    };
    let whole = Duration::from_secs_f64(60.0 * minutes);
    let origin = Origin::named("app");
    let service = format!(
        "[service.app]\nversions = {{ v1 = [\"{}\"] }}\n",
        origin.at()
    );
    let member = |port: u16| {
        let fleet = format!(
            "[fleet]\netcd = \"http://127.0.0.1:{port}\"\nname = \"test\"\nmember = \"a\"\n"
        );
        serve(&format!("{fleet}{service}"))
    };
    let (hanging, closing) = (UselessEtcd::start(true), UselessEtcd::start(false));
    let mut proxies = vec![
        ("no fleet", serve(&service), None),
        ("etcd is gone", member(free_port()), None),
        ("etcd never answers", member(hanging.port), Some(&hanging)),
        (
            "etcd closes connections",
            member(closing.port),
            Some(&closing),
        ),
    ];
    let stopped = Etcd::start();
    if let Some(etcd) = &stopped {
        let proxy = member(etcd.ports()[0]);
        until("it is a member", || {
            (proxy.metrics().sum("cutover_fleet_members", &[]) == 1.0).then_some(())
        });
        etcd.signal(0, Signal::STOP);
        proxies.push(("etcd stands still", proxy, None));
    }
    let loads: Vec<_> = { proxies.iter() }
        .map(|(_, proxy, _)| Load::of(proxy.port, "GET / HTTP/1.1\r\nhost: test\r\n\r\n", 1))
        .collect();
    let began = Instant::now();
    let wait_until = |share: f64| {
        let until = whole.mul_f64(share);
        pause(until.saturating_sub(began.elapsed()));
        { proxies.iter() }
            .map(|(_, proxy, _)| used(proxy))
            .collect::<Vec<_>>()
    };
    // Pools and pages are warm after a fifth of the time.
    let early = wait_until(0.2);
    let late = wait_until(1.0);
    let grown = |at: usize| late[at].resident.saturating_sub(early[at].resident);
    for (at, (name, _, peer)) in proxies.iter().enumerate() {
        let (early, late) = (early[at], late[at]);
        let attempts = peer.map(|peer| peer.accepted());
        let cpu = (late.cpu - early.cpu).as_secs_f64() / whole.mul_f64(0.8).as_secs_f64();
        eprintln!(
            "{name}: {} KiB, {} KiB more than after a fifth of {minutes} min; {} descriptors, then {}; {} lines; {:.2} % of a core at 50 requests/s; connections {attempts:?}",
            late.resident / 1024,
            grown(at) / 1024,
            late.descriptors,
            early.descriptors,
            late.lines,
            cpu * 100.0
        );
    }
    for (at, (name, _, peer)) in proxies.iter().enumerate() {
        let late = late[at];
        // What one attempt needs comes and goes.
        assert!(late.descriptors <= early[at].descriptors + 3, "{name}");
        assert!(grown(at) <= grown(0) + (512 << 10), "{name}");
        // One says that it is alone, and those before it that it was connected.
        assert_eq!(late.lines, early[at].lines, "{name}");
        assert!(late.lines <= 3, "{name}");
        let most = 10 + (20.0 * minutes) as usize;
        assert!(peer.is_none_or(|peer| peer.accepted() <= most), "{name}");
    }
    for load in loads {
        let (sent, failed) = load.end();
        assert_eq!(failed, 0, "of {sent} requests");
    }
    if let Some(etcd) = &stopped {
        etcd.signal(0, Signal::CONT);
    }
}
