//! The monitor with real snapshots and with origins on loopback. Time is paused in tests that use no sockets.

use std::sync::atomic::{AtomicU16, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::config::policy::{HealthPolicy, Outlier, Policies, Probe};
use crate::telemetry::WorkerId;
use crate::upstream::Registry;
use crate::upstream::endpoint::{Endpoint, flag};
use crate::upstream::outlier::AttemptVerdict;

const PATIENCE: Duration = Duration::from_secs(20);

/// A monitor of one service with one version.
struct Harness {
    registry: Registry,
    telemetry: Arc<Telemetry>,
    monitor: HealthMonitor,
    generation: u64,
}

impl Harness {
    fn new() -> Self {
        let telemetry = Telemetry::new(2);
        // Tests report suspects directly.
        let (_, suspects) = mpsc::unbounded_channel();
        Self {
            registry: Registry::new(),
            monitor: HealthMonitor::start(telemetry.clone(), suspects),
            telemetry,
            generation: 0,
        }
    }

    /// Publishes a generation with these endpoints, and returns them.
    fn publish(
        &mut self,
        ports: &[u16],
        policies: &Policies,
        slow_start: Option<Duration>,
    ) -> Vec<Arc<Endpoint>> {
        let endpoints: Vec<_> = ports.iter().map(|p| format!("\"127.0.0.1:{p}\"")).collect();
        let text = format!(
            "listen = \":1\"\n[service.shop]\nstable = \"v1\"\n[service.shop.versions]\nv1 = [{}]\n",
            endpoints.join(",")
        );
        let mut spec = crate::config::parse(&text, "test.toml").expect("a valid file");
        spec.services[0].policies = policies.clone();
        spec.services[0].versions[0].slow_start = slow_start;
        self.generation += 1;
        let next = Snapshot::build(
            self.generation,
            Arc::new(spec),
            &self.registry,
            &self.telemetry,
        );
        self.monitor.prepare(&next);
        self.monitor.adopt(&next);
        let members = &next.services[0].versions[0].pool.members;
        members.iter().map(|m| m.endpoint.clone()).collect()
    }

    /// Fails the endpoint until a worker would report it, then reports it.
    fn fail(&self, endpoint: &Arc<Endpoint>) {
        let policy = Outlier::default();
        let reason = (0..5)
            .find_map(|_| endpoint.note_outcome(WorkerId(0), AttemptVerdict::ServerError, &policy));
        let reason = reason.expect("five in a row");
        let endpoint = endpoint.clone();
        self.monitor
            .state
            .borrow_mut()
            .on_suspect(&Suspect { endpoint, reason }, now());
        self.monitor.signals.reschedule.notify_one();
    }

    fn counted(&self, outcome: &str) -> u64 {
        let all = self.telemetry.ejections();
        all.iter()
            .filter(|(e, _)| e.outcome.as_str() == outcome)
            .map(|(_, n)| n)
            .sum()
    }
}

fn checked(rise: u32, fall: u32) -> Policies {
    Policies {
        health: Some(HealthPolicy {
            interval: Duration::from_millis(5),
            timeout: Duration::from_secs(5),
            rise,
            fall,
            ..HealthPolicy::new(Probe::Http("/ready".into()))
        }),
        ..Policies::default()
    }
}

fn on_local(run: impl AsyncFnOnce()) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(Default::default());
    runtime.expect("a runtime").block_on(run());
}

/// An origin that answers with this status.
async fn origin(status: Arc<AtomicU16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _reads_the_request = stream.read(&mut [0; 1024]).await;
            let answer = format!(
                "HTTP/1.1 {} x\r\ncontent-length: 0\r\n\r\n",
                status.load(Ordering::Relaxed)
            );
            let _client_may_be_gone = stream.write_all(answer.as_bytes()).await;
        }
    });
    port
}

async fn until(what: &str, met: impl Fn() -> bool) {
    let wait = async {
        while !met() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[test]
fn an_endpoint_is_proven_goes_down_and_comes_up_again() {
    on_local(async || {
        let status = Arc::new(AtomicU16::new(503));
        let port = origin(status.clone()).await;
        let mut harness = Harness::new();
        let endpoint = harness.publish(&[port], &checked(2, 3), None).remove(0);
        assert_eq!(endpoint.state.flags(), flag::UNPROVEN);
        harness.monitor.first_round(PATIENCE).await;
        assert_eq!(endpoint.state.flags(), flag::UNPROVEN);
        status.store(200, Ordering::Relaxed);
        harness.monitor.news().await;
        assert_eq!(endpoint.state.flags(), 0);
        status.store(500, Ordering::Relaxed);
        until("it is down", || endpoint.state.flags() == flag::DOWN).await;
        status.store(204, Ordering::Relaxed);
        until("it is up", || endpoint.state.is_usable()).await;
    });
}

#[test]
fn kept_endpoints_keep_their_state_and_added_ones_start_unproven() {
    on_local(async || {
        let healthy = origin(Arc::new(AtomicU16::new(200))).await;
        let failing = origin(Arc::new(AtomicU16::new(500))).await;
        let mut harness = Harness::new();
        let unchecked = harness
            .publish(&[healthy], &Policies::default(), None)
            .remove(0);
        assert_eq!(unchecked.state.flags(), 0);
        // The endpoint had traffic before checks were configured.
        let both = harness.publish(&[healthy, failing], &checked(1, 1), None);
        assert_eq!([0, 1].map(|i| both[i].state.flags()), [0, flag::UNPROVEN]);
        harness.monitor.first_round(PATIENCE).await;
        assert_eq!([0, 1].map(|i| both[i].state.flags()), [0, flag::UNPROVEN]);
        // A changed policy keeps the history.
        harness.publish(&[healthy, failing], &checked(3, 1), None);
        assert_eq!([0, 1].map(|i| both[i].state.flags()), [0, flag::UNPROVEN]);
        both[0].state.raise(flag::EJECTED);
        harness.publish(&[failing], &checked(3, 1), None);
        let back = harness.publish(&[healthy, failing], &checked(3, 1), None);
        assert!(Arc::ptr_eq(&back[0], &both[0]), "the registry still has it");
        assert_eq!(back[0].state.flags(), flag::UNPROVEN);
        harness.publish(&[healthy, failing], &Policies::default(), None);
        assert_eq!([0, 1].map(|i| both[i].state.flags()), [0, 0]);
    });
}

#[test]
fn an_outlier_is_ejected_readmitted_and_starts_slowly() {
    on_local(async || {
        tokio::time::pause();
        let mut harness = Harness::new();
        let slow = Some(Duration::from_secs(10));
        let all = harness.publish(&[1, 2, 3], &Policies::default(), slow);
        assert_eq!(all[0].state.ramp(), 1000, "none is newer than another");
        harness.fail(&all[0]);
        assert_eq!(all[0].state.flags(), flag::EJECTED);
        assert!(all[0].state.ejected_until().is_some());
        // At most one of three.
        harness.fail(&all[1]);
        assert_eq!(all[1].state.flags(), 0);
        assert_eq!(
            ["detected", "enforced", "overflow"].map(|o| harness.counted(o)),
            [2, 1, 1]
        );
        tokio::time::sleep(Duration::from_millis(29_990)).await;
        assert_eq!(all[0].state.flags(), flag::EJECTED);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(
            (all[0].state.flags(), all[0].state.ejected_until()),
            (0, None)
        );
        assert!(
            (100..120).contains(&all[0].state.ramp()),
            "{}",
            all[0].state.ramp()
        );
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(
            (530..570).contains(&all[0].state.ramp()),
            "{}",
            all[0].state.ramp()
        );
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(all[0].state.ramp(), 1000);
    });
}

#[test]
fn an_added_endpoint_without_checks_starts_slowly_too() {
    on_local(async || {
        tokio::time::pause();
        let mut harness = Harness::new();
        let slow = Some(Duration::from_secs(10));
        harness.publish(&[1], &Policies::default(), slow);
        let both = harness.publish(&[1, 2], &Policies::default(), slow);
        assert_eq!([0, 1].map(|i| both[i].state.ramp()), [1000, 100]);
    });
}

#[test]
fn the_only_endpoint_is_never_ejected() {
    on_local(async || {
        let mut harness = Harness::new();
        let only = harness.publish(&[1], &Policies::default(), None).remove(0);
        for _ in 0..3 {
            harness.fail(&only);
            assert_eq!(only.state.flags(), 0);
        }
        assert_eq!(
            ["detected", "enforced", "overflow"].map(|o| harness.counted(o)),
            [3, 0, 3]
        );
    });
}

#[test]
fn an_outlier_that_is_not_ejected_is_logged_once_per_interval() {
    on_local(async || {
        let endpoint = Harness::new()
            .publish(&[1], &Policies::default(), None)
            .remove(0);
        let pool = ("shop".into(), "v1".into());
        let monitored = endpoint::MonitoredEndpoint::new(endpoint, pool);
        let began = now();
        let logged: Vec<_> = [0, 1, 2, 9, 10, 11, 20, 30]
            .map(|at| {
                monitored.count_overflow(Duration::from_secs(10), began + Duration::from_secs(at))
            })
            .into_iter()
            .collect();
        let (line, suppressed) = (Some, None);
        assert_eq!(
            logged,
            [
                line(0),
                suppressed,
                suppressed,
                suppressed,
                line(3),
                suppressed,
                line(1),
                line(0)
            ]
        );
    });
}
