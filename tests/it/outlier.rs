//! Outlier ejection through the real binary, with two workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::support::client::Client;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, serve};
use crate::support::until;

/// An origin that answers with this status.
fn answering(status: &Arc<AtomicU16>) -> Origin {
    let status = status.clone();
    Origin::each(move |_, conn| conn.reply(status.load(Ordering::SeqCst), "theirs"))
}

fn three(origins: [&Origin; 3], eject: &str) -> String {
    let all = origins.map(|o| format!("\"{}\"", o.at())).join(", ");
    format!(
        "[service.app]\nstable = \"v1\"\nbalance = \"round_robin\"\n\
         [service.app.outlier]\neject = \"{eject}\"\n\
         [service.app.versions]\nv1 = [{all}]\n"
    )
}

fn ejections(proxy: &Proxy, outcome: &str) -> f64 {
    let labels = [
        ("service", "app"),
        ("reason", "consecutive_5xx"),
        ("outcome", outcome),
    ];
    proxy.metrics().sum("cutover_ejections_total", &labels)
}

/// Statuses of so many requests, over connections that spread over the workers.
fn statuses(clients: &mut [Client], n: usize) -> Vec<u16> {
    let count = clients.len();
    (0..n)
        .map(|i| clients[i % count].get("/").status())
        .collect()
}

#[test]
fn one_of_three_that_fails_is_out_after_five_errors_and_comes_back() {
    let (well, ill) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(500)));
    let (a, b, c) = (answering(&well), answering(&ill), answering(&well));
    let proxy = serve(&three([&a, &b, &c], "3s"));
    let mut clients: Vec<Client> = (0..8).map(|_| proxy.client()).collect();
    let errors = statuses(&mut clients, 90).into_iter().filter(|s| *s != 200);
    assert_eq!(errors.collect::<Vec<_>>(), [500; 5]);
    assert_eq!(b.hits(), 5);
    let shown = || proxy.status()["services"][0]["versions"][0]["endpoints"][1]["ejected"].clone();
    let left = shown().as_u64().expect("it is out");
    assert!((1..=3).contains(&left), "{left}");
    assert_eq!(
        ["detected", "enforced", "overflow"].map(|o| ejections(&proxy, o)),
        [1.0, 1.0, 0.0]
    );
    ill.store(200, Ordering::SeqCst);
    until("it is back", || shown().is_null().then_some(()));
    until("it has traffic", || {
        assert_eq!(statuses(&mut clients, 9), [200; 9]);
        (b.hits() > 5).then_some(())
    });
}

#[test]
fn when_all_fail_their_answers_go_on() {
    let ill = Arc::new(AtomicU16::new(500));
    let all = [(); 3].map(|()| answering(&ill));
    let [a, b, c] = &all;
    let proxy = serve(&three([a, b, c], "60s"));
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    assert_eq!(statuses(&mut clients, 100), [500; 100]);
    until("all were judged", || {
        (ejections(&proxy, "overflow") >= 2.0).then_some(())
    });
    assert_eq!(ejections(&proxy, "enforced"), 1.0);
    // Said once of each, and not again for every few requests.
    until("each is excused again and again", || {
        statuses(&mut clients, 10);
        (ejections(&proxy, "overflow") >= 10.0).then_some(())
    });
    let said = proxy.log().matches("not ejected").count();
    assert!((1..=4).contains(&said), "{said} times");
    ill.store(200, Ordering::SeqCst);
    assert_eq!(statuses(&mut clients, 20), [200; 20]);
}

#[test]
fn an_endpoint_that_nobody_listens_at_is_out_after_three_failures() {
    let well = Arc::new(AtomicU16::new(200));
    let (a, c) = (answering(&well), answering(&well));
    let gone = Origin::named("gone");
    let file = three([&a, &gone, &c], "60s");
    let at = gone.at();
    let proxy = serve(&file.replace(
        "[service.app.outlier]",
        "retry.tries = 1\n[service.app.outlier]",
    ));
    drop(gone);
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    until("the port is closed", || {
        std::net::TcpStream::connect(&at).is_err().then_some(())
    });
    let failed = statuses(&mut clients, 40).into_iter().filter(|s| *s != 200);
    assert_eq!(failed.collect::<Vec<_>>(), [502; 3]);
    let labels = [
        ("reason", "consecutive_gateway"),
        ("outcome", "enforced"),
        ("endpoint", at.as_str()),
    ];
    until("it is counted", || {
        (proxy.metrics().sum("cutover_ejections_total", &labels) == 1.0).then_some(())
    });
    assert_eq!(
        proxy
            .metrics()
            .sum("cutover_endpoint_up", &[("endpoint", at.as_str())]),
        0.0
    );
}

#[test]
fn an_edit_leaves_ejections_alone() {
    let (well, ill) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(500)));
    let (a, b, c) = (answering(&well), answering(&ill), answering(&well));
    let file = three([&a, &b, &c], "60s");
    let proxy = serve(&file);
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    statuses(&mut clients, 40);
    until("it is out", || {
        (ejections(&proxy, "enforced") == 1.0).then_some(())
    });
    // Five in a row, and what was sent until the verdict.
    let hits = b.hits();
    assert!(hits >= 5);
    proxy.edit(&file.replace(
        "[service.app.outlier]",
        "timeouts.total = \"50s\"\n[service.app.outlier]",
    ));
    assert_eq!(statuses(&mut clients, 40), [200; 40]);
    assert_eq!(b.hits(), hits);
    let ejected = &proxy.status()["services"][0]["versions"][0]["endpoints"][1]["ejected"];
    let left = Duration::from_secs(ejected.as_u64().expect("it is out"));
    assert!(left <= Duration::from_secs(60));
}
