use super::*;

#[test]
fn a_deadline_never_fires_early_and_at_most_two_ticks_late() {
    let watches = TaskControls::new();
    let watch = watches.watch(0);
    let cx = Context::from_waker(Waker::noop());
    let start = watches.0.epoch;
    watch.arm(Duration::from_millis(100));
    watches.tick(start + Duration::from_millis(99));
    assert!(!watch.expired(&cx));
    watches.tick(start + Duration::from_millis(150));
    assert!(watch.expired(&cx));
    watch.arm(Duration::from_millis(100));
    assert!(!watch.expired(&cx), "arming again forgets the old deadline");
}

#[test]
fn shutting_a_task_survives_rearming() {
    let watches = TaskControls::new();
    let watch = watches.watch(0);
    let cx = Context::from_waker(Waker::noop());
    watch.shut();
    watch.arm(Duration::from_secs(60));
    assert!(watch.expired(&cx), "arm undid shut");
    watch.disarm();
    assert!(watch.expired(&cx), "disarm undid shut");
    assert!(watch.is_shut() && watch.is_closing());
}

#[test]
fn deadlines_beyond_the_wheel_and_those_that_move_are_kept() {
    let watches = TaskControls::new();
    let cx = Context::from_waker(Waker::noop());
    let at = |ms| watches.0.epoch + Duration::from_millis(ms);
    let (far, near, back, off) = (
        watches.watch(0),
        watches.watch(0),
        watches.watch(0),
        watches.watch(0),
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
        watches.tick(at(ms));
        for (when, watch) in fired.iter_mut().zip([&far, &near, &back, &off]) {
            if when.is_none() && watch.expired(&cx) {
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
fn a_halt_delays_no_deadline_further_than_itself() {
    let watches = TaskControls::new();
    let cx = Context::from_waker(Waker::noop());
    let some: Vec<_> = (0..2000).map(|_| watches.watch(0)).collect();
    for (i, watch) in some.iter().enumerate() {
        watch.arm(Duration::from_millis(5 * i as u64));
    }
    watches.tick(watches.0.epoch + Duration::from_secs(3600));
    assert!(some.iter().all(|w| w.expired(&cx)));
}

#[test]
fn a_tick_looks_only_at_those_whose_turn_it_is() {
    let watches = TaskControls::new();
    let some: Vec<_> = (0..1000).map(|_| watches.watch(0)).collect();
    for _ in 0..100 {
        some.iter().for_each(|w| w.arm(Duration::from_secs(60)));
    }
    let held: usize = watches.0.wheel.slots.iter().map(|s| s.borrow().len()).sum();
    assert_eq!(held, 1000, "arming again puts nothing more into the wheel");
    watches.tick(watches.0.epoch + TICK);
    assert_eq!(
        watches.0.wheel.slots.iter().map(|s| s.borrow().len()).max(),
        Some(1000)
    );
}

#[test]
fn those_that_are_to_end_are_counted_once() {
    let watches = TaskControls::new();
    let (a, _b) = (watches.watch(0), watches.watch(0));
    assert!(!watches.any_closing());
    a.announce_close();
    a.shut();
    assert!(watches.any_closing());
    drop(a);
    assert!(!watches.any_closing());
}

#[test]
fn a_task_that_ends_gives_up_its_place() {
    let watches = TaskControls::new();
    let (a, b) = (watches.watch(0), watches.watch(1));
    assert_eq!(watches.len(), 2);
    drop(a);
    assert_eq!(watches.len(), 1);
    watches.each(|w| w.announce_close());
    assert!(b.is_closing() && !b.is_shut());
}
