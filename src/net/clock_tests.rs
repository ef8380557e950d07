use super::*;

#[test]
fn a_deadline_never_fires_early_and_at_most_two_ticks_late() {
    let controls = TaskControls::new();
    let control = controls.register(ListenerId(0));
    let cx = Context::from_waker(Waker::noop());
    let start = controls.0.epoch;
    control.arm(Duration::from_millis(100));
    controls.tick(start + Duration::from_millis(99));
    assert!(!control.expired(&cx));
    controls.tick(start + Duration::from_millis(150));
    assert!(control.expired(&cx));
    control.arm(Duration::from_millis(100));
    assert!(
        !control.expired(&cx),
        "arming again forgets the old deadline"
    );
}

#[test]
fn shutting_a_task_survives_rearming() {
    let controls = TaskControls::new();
    let control = controls.register(ListenerId(0));
    let cx = Context::from_waker(Waker::noop());
    control.shut();
    control.arm(Duration::from_secs(60));
    assert!(control.expired(&cx), "arm undid shut");
    control.disarm();
    assert!(control.expired(&cx), "disarm undid shut");
    assert!(control.is_shut() && control.is_closing());
}

#[test]
fn deadlines_beyond_the_wheel_and_those_that_move_are_kept() {
    let controls = TaskControls::new();
    let cx = Context::from_waker(Waker::noop());
    let at = |ms| controls.0.epoch + Duration::from_millis(ms);
    let (far, near, back, off) = (
        controls.register(ListenerId(0)),
        controls.register(ListenerId(0)),
        controls.register(ListenerId(0)),
        controls.register(ListenerId(0)),
    );
    far.arm(Duration::from_secs(60));
    near.arm(Duration::from_secs(60));
    near.arm(Duration::from_millis(300));
    back.arm(Duration::from_millis(300));
    back.arm(Duration::from_secs(20));
    off.arm(Duration::from_millis(300));
    off.disarm();
    let mut fired = [None; 4];
    for ms in (0..=70_000).step_by(17) {
        controls.tick(at(ms));
        for (when, control) in fired.iter_mut().zip([&far, &near, &back, &off]) {
            if when.is_none() && control.expired(&cx) {
                *when = Some(ms);
            }
        }
    }
    for (when, wanted) in fired.into_iter().zip([60_000, 300, 20_000]) {
        let when = when.expect("fires");
        assert!(
            (wanted..=wanted + 50).contains(&when),
            "{when}, not {wanted}"
        );
    }
    assert_eq!(fired[3], None);
}

#[test]
fn missed_ticks_delay_no_deadline_further_than_themselves() {
    let controls = TaskControls::new();
    let cx = Context::from_waker(Waker::noop());
    let some: Vec<_> = (0..2000)
        .map(|_| controls.register(ListenerId(0)))
        .collect();
    for (i, control) in some.iter().enumerate() {
        control.arm(Duration::from_millis(5 * i as u64));
    }
    controls.tick(controls.0.epoch + Duration::from_secs(3600));
    assert!(some.iter().all(|w| w.expired(&cx)));
}

#[test]
fn a_tick_visits_only_controls_that_are_due() {
    let controls = TaskControls::new();
    let some: Vec<_> = (0..1000)
        .map(|_| controls.register(ListenerId(0)))
        .collect();
    for _ in 0..100 {
        some.iter().for_each(|w| w.arm(Duration::from_secs(60)));
    }
    let held: usize = controls
        .0
        .wheel
        .slots
        .iter()
        .map(|s| s.borrow().len())
        .sum();
    assert_eq!(held, 1000, "arming again puts nothing more into the wheel");
    controls.tick(controls.0.epoch + TICK);
    assert_eq!(
        controls
            .0
            .wheel
            .slots
            .iter()
            .map(|s| s.borrow().len())
            .max(),
        Some(1000)
    );
}

#[test]
fn closing_tasks_are_counted_once() {
    let controls = TaskControls::new();
    let (a, _b) = (
        controls.register(ListenerId(0)),
        controls.register(ListenerId(0)),
    );
    assert!(!controls.any_closing());
    a.announce_close();
    a.shut();
    assert!(controls.any_closing());
    drop(a);
    assert!(!controls.any_closing());
}

#[test]
fn a_task_that_ends_is_unregistered() {
    let controls = TaskControls::new();
    let (a, b) = (
        controls.register(ListenerId(0)),
        controls.register(ListenerId(1)),
    );
    assert_eq!(controls.len(), 2);
    drop(a);
    assert_eq!(controls.len(), 1);
    controls.each(|w| w.announce_close());
    assert!(b.is_closing() && !b.is_shut());
}
