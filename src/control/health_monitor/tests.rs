//! The warden between a snapshot and origins on loopback; time is real where sockets are, and paused where none is.

use std::sync::atomic::{AtomicU16, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::config::policy::{HealthPolicy, Outlier, Policies, Probe};
use crate::upstream::Registry;
use crate::upstream::endpoint::{Endpoint, flag};
use crate::upstream::outlier::AttemptVerdict;

const PATIENCE: Duration = Duration::from_secs(20);

/// One service, one version, these endpoints.
struct Stage {
    registry: Registry,
    telemetry: Arc<Telemetry>,
    warden: HealthMonitor,
    generation: u64,
}

impl Stage {
    fn new() -> Self {
        let telemetry = Telemetry::new(2);
        // Suspicions are handed in directly.
        let (_, suspects) = mpsc::unbounded_channel();
        Self {
            registry: Registry::new(),
            warden: HealthMonitor::start(telemetry.clone(), suspects),
            telemetry,
            generation: 0,
        }
    }

    /// Publishes; the endpoints.
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
        self.warden.prepare(&next);
        self.warden.adopt(&next);
        let members = &next.services[0].versions[0].pool.members;
        members.iter().map(|m| m.endpoint.clone()).collect()
    }

    /// Lets this endpoint fail until a worker suspects it, and judges.
    fn fail(&self, endpoint: &Arc<Endpoint>) {
        let terms = Outlier::default();
        let reason =
            (0..5).find_map(|_| endpoint.note_outcome(0, AttemptVerdict::ServerError, &terms));
        let reason = reason.expect("five in a row");
        let endpoint = endpoint.clone();
        self.warden
            .yard
            .borrow_mut()
            .suspected(&Suspect { endpoint, reason }, now());
        self.warden.signals.plans.notify_one();
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
        .unwrap_or_else(|_| panic!("in vain: {what}"));
}

#[test]
fn an_endpoint_is_proven_falls_and_comes_back() {
    on_local(async || {
        let status = Arc::new(AtomicU16::new(503));
        let port = origin(status.clone()).await;
        let mut stage = Stage::new();
        let endpoint = stage.publish(&[port], &checked(2, 3), None).remove(0);
        assert_eq!(endpoint.state.flags(), flag::UNPROVEN);
        stage.warden.first_round(PATIENCE).await;
        assert_eq!(endpoint.state.flags(), flag::UNPROVEN);
        status.store(200, Ordering::Relaxed);
        stage.warden.news().await;
        assert_eq!(endpoint.state.flags(), 0);
        status.store(500, Ordering::Relaxed);
        until("it is down", || endpoint.state.flags() == flag::DOWN).await;
        status.store(204, Ordering::Relaxed);
        until("it is up", || endpoint.state.is_usable()).await;
    });
}

#[test]
fn what_stays_keeps_its_state_and_what_comes_begins_anew() {
    on_local(async || {
        let well = origin(Arc::new(AtomicU16::new(200))).await;
        let ill = origin(Arc::new(AtomicU16::new(500))).await;
        let mut stage = Stage::new();
        let unchecked = stage.publish(&[well], &Policies::default(), None).remove(0);
        assert_eq!(unchecked.state.flags(), 0);
        // It had traffic before there were checks.
        let both = stage.publish(&[well, ill], &checked(1, 1), None);
        assert_eq!([0, 1].map(|i| both[i].state.flags()), [0, flag::UNPROVEN]);
        stage.warden.first_round(PATIENCE).await;
        assert_eq!([0, 1].map(|i| both[i].state.flags()), [0, flag::UNPROVEN]);
        // Other terms, the same machine.
        stage.publish(&[well, ill], &checked(3, 1), None);
        assert_eq!([0, 1].map(|i| both[i].state.flags()), [0, flag::UNPROVEN]);
        both[0].state.raise(flag::EJECTED);
        stage.publish(&[ill], &checked(3, 1), None);
        let back = stage.publish(&[well, ill], &checked(3, 1), None);
        assert!(Arc::ptr_eq(&back[0], &both[0]), "somebody held it");
        assert_eq!(back[0].state.flags(), flag::UNPROVEN);
        stage.publish(&[well, ill], &Policies::default(), None);
        assert_eq!([0, 1].map(|i| both[i].state.flags()), [0, 0]);
    });
}

#[test]
fn an_outlier_goes_comes_back_and_starts_slowly() {
    on_local(async || {
        tokio::time::pause();
        let mut stage = Stage::new();
        let slow = Some(Duration::from_secs(10));
        let all = stage.publish(&[1, 2, 3], &Policies::default(), slow);
        assert_eq!(all[0].state.ramp(), 1000, "none is newer than another");
        stage.fail(&all[0]);
        assert_eq!(all[0].state.flags(), flag::EJECTED);
        assert!(all[0].state.ejected_until().is_some());
        // At most one of three.
        stage.fail(&all[1]);
        assert_eq!(all[1].state.flags(), 0);
        assert_eq!(
            ["detected", "enforced", "overflow"].map(|o| stage.counted(o)),
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
fn a_newcomer_without_checks_starts_slowly_too() {
    on_local(async || {
        tokio::time::pause();
        let mut stage = Stage::new();
        let slow = Some(Duration::from_secs(10));
        stage.publish(&[1], &Policies::default(), slow);
        let both = stage.publish(&[1, 2], &Policies::default(), slow);
        assert_eq!([0, 1].map(|i| both[i].state.ramp()), [1000, 100]);
    });
}

#[test]
fn the_only_endpoint_is_never_out() {
    on_local(async || {
        let mut stage = Stage::new();
        let only = stage.publish(&[1], &Policies::default(), None).remove(0);
        for _ in 0..3 {
            stage.fail(&only);
            assert_eq!(only.state.flags(), 0);
        }
        assert_eq!(
            ["detected", "enforced", "overflow"].map(|o| stage.counted(o)),
            [3, 0, 3]
        );
    });
}

#[test]
fn that_an_outlier_stays_is_told_once_an_interval() {
    on_local(async || {
        let endpoint = Stage::new()
            .publish(&[1], &Policies::default(), None)
            .remove(0);
        let ward = endpoint::MonitoredEndpoint {
            endpoint,
            pool: ("shop".into(), "v1".into()),
            slow_start: None,
            ramps: None,
            excused: std::cell::Cell::default(),
            check: None,
        };
        let began = now();
        let told: Vec<_> = [0, 1, 2, 9, 10, 11, 20, 30]
            .map(|at| ward.excuse(Duration::from_secs(10), began + Duration::from_secs(at)))
            .into_iter()
            .collect();
        let (said, left_out) = (Some, None);
        assert_eq!(
            told,
            [
                said(0),
                left_out,
                left_out,
                left_out,
                said(3),
                left_out,
                said(1),
                said(0)
            ]
        );
    });
}
