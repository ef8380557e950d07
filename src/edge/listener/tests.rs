//! Reloads of listeners, and accept loops with real sockets.

use super::*;
use crate::edge::admission::Admission;
use crate::edge::connection::Accepted;
use crate::edge::inherit::Inherited;
use crate::edge::tls::TicketKeys;
use crate::edge::tls::tests::{TestCertificates, listener as clear_text};
use crate::net::TaskControls;
use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

fn clear(name: &str, port: u16) -> spec::ListenerSpec {
    spec::ListenerSpec {
        name: name.into(),
        bind: spec::Bind::Tcp((Ipv4Addr::LOCALHOST, port).into()),
        ..clear_text(Vec::new())
    }
}

fn spec(listeners: Vec<spec::ListenerSpec>) -> Spec {
    Spec {
        headers: Default::default(),
        workers: None,
        admin: None,
        state_dir: None,
        shutdown: spec::Shutdown {
            delay: Duration::ZERO,
            deadline: Duration::ZERO,
        },
        limits: limits(None),
        access_log: None,
        trace: None,
        acme: None,
        dns: Default::default(),
        fleet: None,
        listeners,
        services: Vec::new(),
    }
}

fn limits(connections: Option<usize>) -> spec::ProxyLimits {
    spec::ProxyLimits {
        header_bytes: 0,
        headers: 0,
        target_bytes: 0,
        body_bytes: None,
        header_timeout: Duration::ZERO,
        body_timeout: Duration::ZERO,
        keepalive_timeout: Duration::ZERO,
        handshake_timeout: Duration::from_millis(200),
        connections,
        streams: 0,
        underscores: false,
    }
}

/// Two workers with these listeners.
fn listeners_with(listeners: Vec<spec::ListenerSpec>) -> (Listeners, Vec<Vec<ListenerUpdate>>) {
    let mut all = Listeners::new(2, TicketKeys::new(0));
    let plan = all
        .plan(
            &spec(listeners),
            &Telemetry::new(2),
            &mut Inherited::default(),
        )
        .unwrap();
    let updates = all.adopt(plan);
    (all, updates)
}

fn address(listeners: &Listeners, name: &str) -> SocketAddr {
    let addresses = listeners.addresses();
    let found = addresses.iter().find(|(n, _)| n == name);
    match &found.expect("listener").1 {
        BoundAddress::Tcp(address) => *address,
        BoundAddress::Unix(path) => panic!("{}", path.display()),
    }
}

#[test]
fn every_worker_gets_its_socket_once() {
    let (mut listeners, updates) = listeners_with(vec![clear("a", 0)]);
    assert_eq!(updates.len(), 2);
    assert!(updates.iter().all(|o| !o[0].sockets.is_empty()));
    let plan = listeners
        .plan(
            &spec(vec![clear("a", 0)]),
            &Telemetry::new(2),
            &mut Inherited::default(),
        )
        .unwrap();
    let again = listeners.adopt(plan);
    assert!(again.iter().all(|o| o[0].sockets.is_empty()));
    assert!(
        Arc::ptr_eq(&updates[0][0].runtime, &again[0][0].runtime),
        "untouched"
    );
}

#[test]
fn connections_from_loopback_get_the_simplest_congestion_control() {
    let (_all, updates) = listeners_with(vec![clear("a", 0)]);
    for socket in &updates[0][0].sockets {
        let Socket::Tcp(listener) = socket else {
            panic!("{socket:?}");
        };
        let algorithm = rustix::net::sockopt::tcp_congestion(listener).unwrap();
        assert_eq!(algorithm, "reno");
    }
}

#[test]
fn other_settings_keep_the_socket() {
    let (mut listeners, updates) = listeners_with(vec![clear("a", 0)]);
    let changed = spec::ListenerSpec {
        h2: false,
        ..clear("a", 0)
    };
    let plan = listeners
        .plan(
            &spec(vec![changed]),
            &Telemetry::new(2),
            &mut Inherited::default(),
        )
        .unwrap();
    let again = listeners.adopt(plan);
    assert!(again[0][0].sockets.is_empty());
    assert_eq!(again[0][0].runtime.id(), updates[0][0].runtime.id());
    assert!(!again[0][0].runtime.spec.h2);
}

#[test]
fn another_name_keeps_the_socket_of_a_fixed_port() {
    let (listeners, _) = listeners_with(vec![clear("a", 0)]);
    let port = address(&listeners, "a").port();
    drop(listeners);
    let (mut listeners, _orders) = listeners_with(vec![clear("a", port)]);
    let plan = listeners
        .plan(
            &spec(vec![clear("b", port)]),
            &Telemetry::new(2),
            &mut Inherited::default(),
        )
        .unwrap();
    assert!(listeners.adopt(plan)[0][0].sockets.is_empty());
    assert_eq!(address(&listeners, "b").port(), port);
}

#[test]
fn one_address_in_use_fails_the_whole_plan_and_names_the_listener() {
    let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = foreign.local_addr().unwrap().port();
    let (listeners, _orders) = listeners_with(vec![clear("a", 0)]);
    let before = listeners.addresses();
    let wanted = vec![clear("a", 0), clear("new", 0), clear("bad", taken)];
    let errors = listeners
        .plan(&spec(wanted), &Telemetry::new(2), &mut Inherited::default())
        .unwrap_err();
    let error = lines(&errors);
    assert!(
        error.contains("listener bad") && error.contains(&taken.to_string()),
        "{error}"
    );
    assert!(!error.contains("listener new"), "{error}");
    assert_eq!(listeners.addresses(), before);
}

fn lines(errors: &[PlanError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn with_cert(cert: spec::Cert) -> spec::ListenerSpec {
    spec::ListenerSpec {
        certs: vec![cert],
        ..clear("https", 0)
    }
}

#[test]
fn a_renewal_is_used_and_a_broken_one_is_reported_once() {
    let certificates = TestCertificates::new();
    let cert = certificates.issue("a", &["a.test"]);
    let (mut listeners, updates) = listeners_with(vec![with_cert(cert.clone())]);
    let nothing = listeners.renew();
    assert!(nothing.renewed.is_empty() && nothing.errors.is_empty());
    std::fs::write(&cert.cert, "half a certificate").unwrap();
    let bad = listeners.renew();
    assert!(bad.renewed.is_empty());
    assert!(
        bad.errors[0].contains("listener https") && bad.errors[0].contains("a.pem"),
        "{:?}",
        bad.errors
    );
    assert!(listeners.renew().errors.is_empty(), "reported once");
    assert!(Arc::ptr_eq(
        &listeners.updates()[0].runtime,
        &updates[0][0].runtime
    ));
    certificates.issue("a", &["a.test", "b.test"]);
    assert_eq!(listeners.renew().renewed, ["https"]);
    let now = &listeners.updates()[0].runtime;
    assert_eq!(now.id(), updates[0][0].runtime.id());
    assert!(!Arc::ptr_eq(now, &updates[0][0].runtime));
}

#[test]
fn an_edit_elsewhere_does_not_fail_for_a_renewal_under_way() {
    let certificates = TestCertificates::new();
    let cert = certificates.issue("a", &["a.test"]);
    let (listeners, _orders) = listeners_with(vec![with_cert(cert.clone())]);
    std::fs::write(&cert.cert, "half a certificate").unwrap();
    let both = vec![with_cert(cert.clone()), clear("more", 0)];
    assert!(
        listeners
            .plan(&spec(both), &Telemetry::new(2), &mut Inherited::default())
            .is_ok()
    );
    let other_key = spec::Cert {
        sni: vec!["a.test".into()],
        ..cert
    };
    let errors = listeners
        .plan(
            &spec(vec![with_cert(other_key)]),
            &Telemetry::new(2),
            &mut Inherited::default(),
        )
        .unwrap_err();
    let error = lines(&errors);
    assert!(error.contains("a.pem"), "{error}");
}

/// Runs a test on a runtime like that of a worker.
fn locally<F: Future<Output = ()>>(test: F) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(10), test)
            .await
            .expect("in time")
    });
}

/// Takes the one socket of the one listener.
fn one(updates: &mut [Vec<ListenerUpdate>]) -> (Arc<ListenerRuntime>, Socket) {
    let update = &mut updates[0][0];
    (update.runtime.clone(), update.sockets.pop().unwrap())
}

fn single() -> (SocketAddr, Arc<ListenerRuntime>, Socket) {
    let mut all = Listeners::new(1, TicketKeys::new(0));
    let plan = all
        .plan(
            &spec(vec![clear("a", 0)]),
            &Telemetry::new(1),
            &mut Inherited::default(),
        )
        .unwrap();
    let (runtime, socket) = one(&mut all.adopt(plan));
    (address(&all, "a"), runtime, socket)
}

/// Polls until the condition holds. The test's timeout ends a hang.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn clients_in_the_backlog_of_a_closed_listener_are_served() {
    locally(async {
        let (address, runtime, socket) = single();
        let clients: Vec<TcpStream> = (0..20)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let served: Rc<RefCell<Vec<Accepted>>> = Rc::default();
        let acceptor = accept::Acceptor::new(WorkerId(0), runtime);
        acceptor.close();
        let seen = served.clone();
        let admission = Admission::new(&limits(None), None);
        accept::run(
            acceptor,
            socket,
            admission,
            TaskControls::new(),
            move || {
                let seen = seen.clone();
                async move |accepted| seen.borrow_mut().push(accepted)
            },
        )
        .await;
        until(|| served.borrow().len() == clients.len()).await;
        assert!(TcpStream::connect(address).is_err(), "the socket is closed");
    });
}

#[test]
fn at_the_ceiling_connections_wait_until_others_close() {
    locally(async {
        let (address, runtime, socket) = single();
        let inside = Rc::new(std::cell::Cell::new(0));
        let admission = Admission::new(&limits(Some(2)), None);
        let (seen, leave) = (inside.clone(), Rc::new(tokio::sync::Notify::new()));
        let leaving = leave.clone();
        let acceptor = accept::Acceptor::new(WorkerId(0), runtime);
        tokio::task::spawn_local(accept::run(
            acceptor,
            socket,
            admission.clone(),
            TaskControls::new(),
            move || {
                let (seen, leaving) = (seen.clone(), leaving.clone());
                async move |accepted| {
                    seen.set(seen.get() + 1);
                    leaving.notified().await;
                    drop(accepted);
                }
            },
        ));
        let _clients: Vec<TcpStream> = (0..3)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        until(|| inside.get() == 2).await;
        let third = tokio::time::timeout(Duration::from_millis(100), until(|| inside.get() > 2));
        assert!(third.await.is_err(), "a third connection was served");
        leave.notify_one();
        until(|| inside.get() == 3).await;
        assert_eq!(admission.open(), 2);
    });
}

#[test]
fn a_panic_in_one_connection_affects_no_other() {
    locally(async {
        let (address, runtime, socket) = single();
        let admission = Admission::new(&limits(None), None);
        let served = Rc::new(std::cell::Cell::new(0));
        let count = served.clone();
        let acceptor = accept::Acceptor::new(WorkerId(0), runtime);
        tokio::task::spawn_local(accept::run(
            acceptor,
            socket,
            admission.clone(),
            TaskControls::new(),
            move || {
                let count = count.clone();
                async move |accepted| {
                    let _held = accepted;
                    count.set(count.get() + 1);
                    assert!(count.get() != 1, "on purpose");
                }
            },
        ));
        let _first = TcpStream::connect(address).unwrap();
        until(|| served.get() == 1 && admission.open() == 0).await;
        let _second = TcpStream::connect(address).unwrap();
        until(|| served.get() == 2 && admission.open() == 0).await;
    });
}

#[test]
fn a_handshake_that_never_begins_times_out() {
    locally(async {
        let certificates = TestCertificates::new();
        let mut all = Listeners::new(1, TicketKeys::new(0));
        let wanted = spec(vec![with_cert(certificates.issue("a", &["a.test"]))]);
        let plan = all
            .plan(&wanted, &Telemetry::new(1), &mut Inherited::default())
            .unwrap();
        let (runtime, socket) = one(&mut all.adopt(plan));
        let admission = Admission::new(&limits(None), None);
        let acceptor = accept::Acceptor::new(WorkerId(0), runtime);
        let served = Rc::new(std::cell::Cell::new(false));
        let serves = served.clone();
        let controls = TaskControls::new();
        tokio::task::spawn_local(accept::run(
            acceptor,
            socket,
            admission.clone(),
            controls.clone(),
            move || {
                let serves = serves.clone();
                async move |_| serves.set(true)
            },
        ));
        let _silent = TcpStream::connect(address(&all, "https")).unwrap();
        until(|| admission.open() == 1).await;
        until(|| {
            controls.tick(Instant::now());
            admission.open() == 0
        })
        .await;
        assert!(!served.get(), "no handshake was completed");
    });
}
