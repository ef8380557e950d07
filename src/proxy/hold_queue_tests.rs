use super::*;

fn awaited(version: &str) -> Awaited {
    Awaited {
        service: 0,
        version: version.into(),
        pinned: false,
    }
}

fn released(held: &[Held<'_>]) -> Vec<u64> {
    let ready = held.iter().filter(|held| {
        let cx = &mut Context::from_waker(Waker::noop());
        held.poll_release(cx).is_ready()
    });
    ready.map(|held| held.number).collect()
}

fn tick(queues: &HoldQueues, now_ms: u64, outlook: Outlook) -> Option<ProbeReport> {
    let mut report = None;
    queues.tick(now_ms, |_| (outlook, 7), |_, probe| report = Some(probe));
    report
}

#[test]
fn requests_are_released_in_order_and_as_there_is_room() {
    let queues = HoldQueues::default();
    let mut held: Vec<_> = (1..=20)
        .map(|n| queues.enter(awaited("v1"), (n, 7), false, 0))
        .collect();
    assert!(tick(&queues, 0, Outlook::Down).is_none());
    assert!(released(&held).is_empty());
    tick(&queues, 25, Outlook::Up(100));
    assert_eq!(released(&held), [1, 2, 3, 4], "the pilots");
    // One that was released earlier and has to wait again comes first.
    held.remove(0);
    held.insert(0, queues.enter(awaited("v1"), (1, 7), false, 30));
    tick(&queues, 50, Outlook::Up(3));
    assert_eq!(released(&held), [1, 2, 3, 4, 5, 6]);
    tick(&queues, 75, Outlook::Up(0));
    tick(&queues, 100, Outlook::Up(1000));
    assert_eq!(released(&held).len(), 20);
}

#[test]
fn after_a_refused_connection_a_probe_has_to_pass() {
    let queues = HoldQueues::default();
    let held = [queues.enter(awaited("v1"), (1, 7), true, 0)];
    assert!(tick(&queues, 25, Outlook::Up(9)).is_none(), "not at once");
    let probe = tick(&queues, 100, Outlook::Up(9)).expect("a probe");
    assert!(
        tick(&queues, 200, Outlook::Up(9)).is_none(),
        "one at a time"
    );
    probe.send(false);
    assert!(tick(&queues, 225, Outlook::Up(9)).is_none());
    let probe = tick(&queues, 325, Outlook::Up(9)).expect("the next");
    assert!(released(&held).is_empty());
    probe.send(true);
    tick(&queues, 350, Outlook::Up(9));
    assert_eq!(released(&held), [1]);
}

#[test]
fn an_endpoint_that_accepts_probes_and_refuses_requests_is_probed_less_often() {
    let mut pace = HoldPace::default();
    let (mut now_ms, mut pauses) = (0, Vec::new());
    for _ in 0..6 {
        pace.refuse(now_ms);
        let since = now_ms;
        while pace.step(Outlook::Up(9), 9, now_ms) != HoldStep::Probe {
            now_ms += 25;
        }
        pauses.push(now_ms - since);
        pace.probed(true, now_ms);
        assert_eq!(
            pace.step(Outlook::Up(9), 9, now_ms),
            HoldStep::Release(PILOTS)
        );
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
}

#[test]
fn requests_that_leave_are_forgotten() {
    let queues = HoldQueues::default();
    let held = queues.enter(awaited("v1"), (1, 7), false, 0);
    assert!(queues.is_awaited(0, "v1", false) && !queues.is_awaited(0, "v1", true));
    drop(held);
    tick(&queues, 25, Outlook::Down);
    assert!(queues.is_empty());
}

#[test]
fn requests_are_decided_anew_once_the_service_changes() {
    let queues = HoldQueues::default();
    let held = [
        queues.enter(awaited("v1"), (1, 6), false, 0),
        queues.enter(awaited("v1"), (2, 7), false, 0),
    ];
    tick(&queues, 25, Outlook::Down);
    assert_eq!(released(&held), [1]);
}

#[test]
fn what_belongs_elsewhere_is_released_at_once() {
    let queues = HoldQueues::default();
    let held: Vec<_> = (1..=9)
        .map(|n| queues.enter(awaited("v1"), (n, 7), true, 0))
        .collect();
    tick(&queues, 25, Outlook::Elsewhere);
    assert_eq!(released(&held).len(), 9);
}
