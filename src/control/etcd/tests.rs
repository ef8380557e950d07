//! The client against a stand-in for etcd.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;

use super::fixtures::{FakeEtcd, fleet, run};
use super::link::pause;
use super::*;
use crate::config::fleet::EtcdUser;

/// Waits for news that aren't the loss of the connection.
async fn settled(watch: &mut Watch) -> WatchNews {
    loop {
        match watch.next().await {
            WatchNews::Lost(_) => {}
            news => return news,
        }
    }
}

async fn listed(watch: &mut Watch) -> (Listing, bool) {
    match settled(watch).await {
        WatchNews::Listed {
            listing,
            is_restored,
        } => (listing, is_restored),
        other => panic!("expected a listing, got {other:?}"),
    }
}

/// Keys of the events of the next change, deletions with `-`.
async fn changed(watch: &mut Watch) -> Vec<String> {
    let WatchNews::Changed { events, .. } = settled(watch).await else {
        panic!("expected changes");
    };
    let key = |event| match event {
        WatchEvent::Put(entry) => entry.key,
        WatchEvent::Deleted { key, .. } => format!("-{key}"),
    };
    events.into_iter().map(key).collect()
}

#[test]
fn a_watch_lists_and_then_follows_changes() {
    run(async {
        let fake = FakeEtcd::start().await;
        fake.put("/cutover/front/a", "1");
        fake.put("/cutover/other/b", "1");
        let etcd = Etcd::new(&fleet(&[&fake]));
        let mut watch = etcd.watch("/cutover/front/");
        let (listing, is_restored) = listed(&mut watch).await;
        let keys: Vec<_> = listing.entries.iter().map(|e| e.key.as_str()).collect();
        assert_eq!(keys, ["/cutover/front/a"]);
        assert!(!is_restored);
        assert_eq!(listing.cluster, 7);
        fake.put("/cutover/other/b", "2");
        fake.put("/cutover/front/c", "1");
        assert_eq!(changed(&mut watch).await, ["/cutover/front/c"]);
        fake.store.borrow_mut().delete("/cutover/front/c");
        assert_eq!(changed(&mut watch).await, ["-/cutover/front/c"]);
    });
}

#[test]
fn a_watch_whose_connection_was_lost_misses_nothing() {
    run(async {
        let fake = FakeEtcd::start().await;
        fake.put("/cutover/front/a", "1");
        let etcd = Etcd::new(&fleet(&[&fake]));
        let mut watch = etcd.watch("/cutover/front/");
        listed(&mut watch).await;
        // Nothing has changed: no listing is needed.
        fake.cut();
        assert!(matches!(watch.next().await, WatchNews::Lost(_)));
        assert!(matches!(watch.next().await, WatchNews::Resumed { .. }));
        // Another key has been written meanwhile, and the last one that was seen is still there.
        fake.cut();
        fake.put("/cutover/front/b", "1");
        assert!(matches!(watch.next().await, WatchNews::Lost(_)));
        assert!(matches!(watch.next().await, WatchNews::Resumed { .. }));
        assert_eq!(changed(&mut watch).await, ["/cutover/front/b"]);
    });
}

#[test]
fn compacted_changes_are_replaced_by_a_listing() {
    run(async {
        let fake = FakeEtcd::start().await;
        fake.put("/cutover/front/a", "1");
        let etcd = Etcd::new(&fleet(&[&fake]));
        let mut watch = etcd.watch("/cutover/front/");
        listed(&mut watch).await;
        fake.cut();
        fake.put("/cutover/front/b", "1");
        fake.store.borrow_mut().compacted = 100;
        fake.store.borrow_mut().revision = 200;
        // The last known entry is unchanged, so the client asks for the changes after it, and is refused.
        let first = settled(&mut watch).await;
        let (listing, is_restored) = match first {
            WatchNews::Resumed { .. } => listed(&mut watch).await,
            WatchNews::Listed {
                listing,
                is_restored,
            } => (listing, is_restored),
            other => panic!("{other:?}"),
        };
        assert_eq!(listing.entries.len(), 2);
        assert!(!is_restored);
    });
}

#[test]
fn a_restored_backup_is_noticed_even_if_its_revision_is_higher_by_now() {
    for later in [-5, 500] {
        run(async move {
            let fake = FakeEtcd::start().await;
            fake.put("/cutover/front/a", "1");
            fake.put("/cutover/front/b", "1");
            let etcd = Etcd::new(&fleet(&[&fake]));
            let mut watch = etcd.watch("/cutover/front/");
            listed(&mut watch).await;
            fake.cut();
            {
                // `b` was written after the backup.
                let mut store = fake.store.borrow_mut();
                store.keys.remove(&Bytes::from_static(b"/cutover/front/b"));
                store.history.clear();
                store.revision += later;
            }
            let (listing, is_restored) = listed(&mut watch).await;
            assert_eq!(listing.entries.len(), 1);
            assert_eq!(is_restored, later < 0);
        });
    }
}

#[test]
fn a_key_with_a_lower_revision_is_of_another_history() {
    run(async {
        let fake = FakeEtcd::start().await;
        fake.store.borrow_mut().revision = 100;
        fake.put("/cutover/front/a", "1");
        let etcd = Etcd::new(&fleet(&[&fake]));
        let mut watch = etcd.watch("/cutover/front/");
        listed(&mut watch).await;
        fake.cut();
        // A backup of before, the same key written again, and many others.
        fake.store.borrow_mut().revision = 50;
        fake.put("/cutover/front/a", "2");
        fake.store.borrow_mut().revision = 500;
        let (listing, is_restored) = listed(&mut watch).await;
        assert_eq!((listing.revision, is_restored), (500, true));
        // It is news once.
        fake.cut();
        fake.put("/cutover/front/a", "3");
        assert!(!listed(&mut watch).await.1);
    });
}

#[test]
fn another_cluster_is_another_history() {
    run(async {
        let fake = FakeEtcd::start().await;
        let etcd = Etcd::new(&fleet(&[&fake]));
        let mut watch = etcd.watch("/cutover/front/");
        listed(&mut watch).await;
        fake.cut();
        fake.store.borrow_mut().cluster = 8;
        assert!(listed(&mut watch).await.1);
    });
}

#[test]
fn a_long_listing_is_read_by_pages_as_of_one_revision() {
    run(async {
        let fake = FakeEtcd::start().await;
        for n in 0..150 {
            fake.put(&format!("/cutover/front/{n:03}"), "1");
        }
        let etcd = Etcd::new(&fleet(&[&fake]));
        let listing = etcd.list("/cutover/front/").await.expect("a listing");
        assert_eq!(listing.entries.len(), 150);
        assert_eq!(listing.entries[149].key, "/cutover/front/149");
        assert!(!listing.is_truncated);
        // One to see whether the connection is usable, then three pages.
        assert_eq!(fake.store.borrow().ranges, 4);
    });
}

#[test]
fn large_values_of_others_don_t_hide_the_rest() {
    run(async {
        let fake = FakeEtcd::start().await;
        for n in 0..10 {
            fake.put(&format!("/cutover/front/{n}"), vec![0; 1 << 20]);
        }
        fake.put("/cutover/front/good", "1");
        let etcd = Etcd::new(&fleet(&[&fake]));
        let listing = etcd.list("/cutover/front/").await.expect("a listing");
        assert_eq!(listing.entries.len(), 11);
        assert!(listing.entries[..10].iter().all(|e| e.value.is_empty()));
        assert_eq!(listing.entries[10].value, "1");
    });
}

#[test]
fn a_key_under_a_lease_vanishes_with_it() {
    run(async {
        let fake = FakeEtcd::start().await;
        let etcd = Etcd::new(&fleet(&[&fake]));
        let lease = etcd.grant(Duration::from_secs(10)).await.expect("a lease");
        etcd.put("/cutover/front/a", b"1".to_vec(), Some(lease))
            .await
            .expect("written");
        let entry = etcd.get("/cutover/front/a").await.expect("read");
        assert_eq!(entry.expect("an entry").lease, Some(lease));
        let left = etcd.keep_alive(lease).await.expect("renewed");
        assert_eq!(left, Duration::from_secs(10));
        etcd.revoke(lease).await.expect("revoked");
        assert_eq!(etcd.get("/cutover/front/a").await, Ok(None));
        assert_eq!(etcd.keep_alive(lease).await, Err(EtcdError::LeaseGone));
        let written = etcd.put("/cutover/front/a", Vec::new(), Some(lease)).await;
        assert_eq!(written, Err(EtcdError::LeaseGone));
    });
}

#[test]
fn a_key_is_written_only_over_the_revision_that_was_known() {
    run(async {
        let fake = FakeEtcd::start().await;
        let etcd = Etcd::new(&fleet(&[&fake]));
        let write = async |expected, value: &str| {
            let written = etcd.cas("a", expected, value.into(), None).await;
            written.expect("an answer")
        };
        let CasOutcome::Done(first) = write(None, "first").await else {
            panic!("there was none");
        };
        let CasOutcome::Done(second) = write(Some(first), "second").await else {
            panic!("nobody else has written");
        };
        for stale in [None, Some(first), Some(second + 1)] {
            let CasOutcome::Conflict(Some(found)) = write(stale, "stale").await else {
                panic!("{stale:?} is not its revision");
            };
            assert_eq!(
                (found.mod_revision, &*found.value),
                (second, &b"second"[..])
            );
        }
        fake.store.borrow_mut().delete("a");
        assert_eq!(
            write(Some(second), "stale").await,
            CasOutcome::Conflict(None)
        );
    });
}

#[test]
fn a_member_without_a_leader_is_left_for_another_one() {
    run(async {
        let (one, two) = (FakeEtcd::start().await, FakeEtcd::start().await);
        let both = [&one, &two];
        let etcd = Etcd::new(&fleet(&both));
        let mut connection = etcd.connection();
        let endpoint = |state: &Connection| match state {
            Connection::Connected { endpoint, .. } => Some(endpoint.clone()),
            Connection::Alone { .. } => None,
        };
        let first = connection.wait_for(|state| endpoint(state).is_some());
        let first = endpoint(&first.await.expect("connected")).expect("an endpoint");
        let used = both
            .iter()
            .position(|fake| first.ends_with(&format!(":{}", fake.address.port())));
        both[used.expect("one of them")]
            .store
            .borrow_mut()
            .has_no_leader = true;
        assert_eq!(etcd.get("a").await, Err(EtcdError::NoLeader));
        let second = connection.wait_for(|state| endpoint(state).is_some_and(|e| e != first));
        second.await.expect("connected to the other one");
        assert_eq!(etcd.get("a").await, Ok(None));
    });
}

#[test]
fn an_expired_token_is_replaced() {
    run(async {
        let fake = FakeEtcd::start().await;
        fake.store.borrow_mut().token = Some("first".to_owned());
        let mut password = tempfile::NamedTempFile::new().expect("a file");
        password.write_all(b"secret\n").expect("written");
        let spec = FleetSpec {
            user: Some(EtcdUser {
                name: "cutover".to_owned(),
                password_file: password.path().to_owned(),
            }),
            ..fleet(&[&fake])
        };
        let etcd = Etcd::new(&spec);
        assert_eq!(etcd.get("a").await, Ok(None));
        fake.store.borrow_mut().token = Some("second".to_owned());
        let calls = (etcd.get("a"), etcd.get("b"), etcd.get("c"));
        let (a, b, c) = tokio::join!(calls.0, calls.1, calls.2);
        assert_eq!((a, b, c), (Ok(None), Ok(None), Ok(None)));
        // One caller has asked for it on behalf of all.
        let logins = fake.store.borrow().logins.clone();
        let login = ("cutover".to_owned(), "secret".to_owned());
        assert_eq!(logins, [login.clone(), login]);
    });
}

#[test]
fn a_wrong_password_is_reported_as_that() {
    run(async {
        let fake = FakeEtcd::start().await;
        fake.store.borrow_mut().token = Some("first".to_owned());
        let mut password = tempfile::NamedTempFile::new().expect("a file");
        password.write_all(b"wrong").expect("written");
        let spec = FleetSpec {
            user: Some(EtcdUser {
                name: "cutover".to_owned(),
                password_file: password.path().to_owned(),
            }),
            ..fleet(&[&fake])
        };
        let etcd = Etcd::new(&spec);
        let mut connection = etcd.connection();
        let refused = connection.wait_for(|state| {
            matches!(
                state,
                Connection::Alone {
                    error: Some(EtcdError::Auth(_)),
                    ..
                }
            )
        });
        refused.await.expect("the reason");
    });
}

#[test]
fn a_client_without_a_user_is_alone_while_etcd_asks_for_one() {
    run(async {
        let fake = FakeEtcd::start().await;
        let etcd = Etcd::new(&fleet(&[&fake]));
        assert_eq!(etcd.get("a").await, Ok(None));
        fake.store.borrow_mut().token = Some("first".to_owned());
        let asks = EtcdError::Auth("it asks for a user".to_owned());
        assert_eq!(etcd.get("a").await, Err(asks.clone()));
        let mut connection = etcd.connection();
        let is_refused = |state: &Connection| matches!(state, Connection::Alone { error, .. } if *error == Some(asks.clone()));
        connection.wait_for(is_refused).await.expect("the reason");
        fake.store.borrow_mut().token = None;
        assert_eq!(etcd.get("a").await, Ok(None));
    });
}

#[test]
fn pauses_are_jittered_between_a_fifth_of_a_second_and_ten_seconds() {
    assert_eq!(pause(0, 0.0), Duration::from_millis(200));
    assert_eq!(pause(3, 0.5), Duration::from_millis(800));
    assert_eq!(pause(40, 0.0), Duration::from_millis(200));
    assert!(pause(40, 0.999) < Duration::from_secs(10));
    assert!(pause(u32::MAX, 0.99) > Duration::from_secs(9));
}
