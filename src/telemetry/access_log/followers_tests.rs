use super::*;

fn filter(service: Option<&str>, failed: bool, canary: bool) -> FollowFilter {
    FollowFilter {
        service: service.map(str::to_owned),
        failed,
        canary,
    }
}

fn facts(service: &str, failed: bool, canary: bool) -> LineFacts<'_> {
    LineFacts {
        service,
        failed,
        canary,
    }
}

/// Returns the chunks in the channel.
fn taken(subscription: &mut Subscription) -> String {
    let mut text = String::new();
    while let Ok(chunk) = subscription.chunks.try_recv() {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    text
}

#[test]
fn a_filter_wants_what_all_of_its_conditions_allow() {
    let line = facts("shop", true, false);
    for (filter, wants) in [
        (filter(None, false, false), true),
        (filter(Some("shop"), true, false), true),
        (filter(Some("api"), false, false), false),
        (filter(Some("shop"), false, true), false),
        (filter(None, true, true), false),
    ] {
        assert_eq!(filter.wants(line), wants, "{filter:?}");
    }
    assert!(!filter(None, true, false).wants(facts("", false, true)));
}

#[test]
fn each_follower_gets_its_lines_and_a_line_is_formatted_once() {
    let followers = Arc::<Followers>::default();
    let mut worker = FollowerBuffers::default();
    let mut all = followers.subscribe(filter(None, false, false)).unwrap();
    let mut failed = followers.subscribe(filter(None, true, false)).unwrap();
    worker.add(facts("shop", true, false), |_| {
        panic!("nobody is known yet")
    });
    worker.refresh(&followers);
    let mut formatted = 0;
    for (text, is_failure) in [("1\n", false), ("2\n", true)] {
        worker.add(facts("shop", is_failure, false), |out| {
            formatted += 1;
            out.extend_from_slice(text.as_bytes());
        });
    }
    worker.refresh(&followers);
    assert_eq!(formatted, 2);
    assert_eq!(taken(&mut all), "1\n2\n");
    assert_eq!(taken(&mut failed), "2\n");
    drop((all, failed));
    worker.refresh(&followers);
    assert!(worker.is_empty());
}

#[test]
fn a_slow_follower_learns_how_much_it_lost() {
    let followers = Arc::<Followers>::default();
    let mut worker = FollowerBuffers::default();
    let mut slow = followers.subscribe(FollowFilter::default()).unwrap();
    worker.refresh(&followers);
    let count = 100_000;
    for _ in 0..count {
        worker.add(facts("", false, false), |out| {
            out.extend_from_slice(&[b'x'; 99]);
            out.push(b'\n');
        });
    }
    drop(worker);
    let got = taken(&mut slow).lines().count() as u64;
    let lost = slow.take_lost();
    assert!(lost > 0 && got > 0);
    assert_eq!(got + lost, count);
    assert_eq!(slow.take_lost(), 0);
}

#[test]
fn followers_are_limited() {
    let followers = Arc::<Followers>::default();
    let subscribe = || followers.subscribe(FollowFilter::default());
    let mut all: Vec<_> = (0..FOLLOWERS).map(|_| subscribe().unwrap()).collect();
    assert!(subscribe().is_none());
    all.pop();
    assert!(subscribe().is_some());
}

#[tokio::test]
async fn closing_lets_followers_read_the_rest() {
    let followers = Arc::<Followers>::default();
    let mut worker = FollowerBuffers::default();
    let mut one = followers.subscribe(FollowFilter::default()).unwrap();
    worker.refresh(&followers);
    worker.add(facts("", false, false), |out| {
        out.extend_from_slice(b"last\n")
    });
    drop(worker);
    let reader = tokio::spawn(async move {
        let last = one.next().await;
        (last, one.next().await)
    });
    let patience = Duration::from_secs(20);
    followers.close(patience).await;
    let (last, end) = tokio::time::timeout(patience, reader)
        .await
        .expect("the subscription ends")
        .unwrap();
    assert_eq!(last.as_deref(), Some(&b"last\n"[..]));
    assert_eq!(end, None);
}
