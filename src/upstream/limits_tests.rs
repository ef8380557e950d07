use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn soon() -> Instant {
    tokio::time::Instant::now().into_std() + Duration::from_secs(1)
}

fn slots() -> Arc<ConnectionSlots> {
    Arc::new(ConnectionSlots::default())
}

#[test]
fn a_ceiling_lets_so_many_in_and_zero_everybody() {
    let gauge = ActiveCount::default();
    let inside: Vec<_> = (0..3).map_while(|_| gauge.try_enter(3)).collect();
    assert_eq!((inside.len(), gauge.now()), (3, 3));
    assert!(gauge.try_enter(3).is_none());
    let more: Vec<_> = (0..10).map_while(|_| gauge.try_enter(0)).collect();
    assert_eq!((more.len(), gauge.now()), (10, 13));
    // A ceiling that was lowered refuses until enough have left.
    drop(more);
    assert!(gauge.try_enter(2).is_none());
    drop(inside);
    assert_eq!(gauge.now(), 0);
    assert!(gauge.try_enter(2).is_some());
}

#[test]
fn loads_of_neighbours_share_no_cache_line() {
    assert_eq!(align_of::<ActiveCount>(), 128);
    assert!(size_of::<VersionLoad>() >= 3 * 128);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_served_in_the_order_of_arrival_and_not_overtaken() {
    let slots = slots();
    let first = slots.acquire(1, 0, soon()).await.unwrap();
    let mut waiters: Vec<_> = (0..3)
        .map(|_| Box::pin(slots.acquire(1, 0, soon())))
        .collect();
    let mut cx = Context::from_waker(Waker::noop());
    for waiter in &mut waiters {
        assert!(waiter.as_mut().poll(&mut cx).is_pending());
    }
    assert_eq!((slots.open(), slots.waiting()), (1, 3));
    drop(first);
    // It is free for the first of them already, so that a newcomer gets nothing.
    assert!(slots.try_acquire(1).is_none());
    assert!(waiters[2].as_mut().poll(&mut cx).is_pending());
    assert!(waiters[1].as_mut().poll(&mut cx).is_pending());
    let Poll::Ready(Ok(slot)) = waiters[0].as_mut().poll(&mut cx) else {
        panic!("the first in the queue was not served");
    };
    assert_eq!((slots.open(), slots.waiting()), (1, 2));
    drop(slot);
    assert!(waiters[1].as_mut().poll(&mut cx).is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once_and_a_late_slot_after_the_deadline() {
    let slots = slots();
    let _held = slots.acquire(1, 1, soon()).await.unwrap();
    let began = tokio::time::Instant::now();
    let mut waits = Box::pin(slots.acquire(1, 1, soon()));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(waits.as_mut().poll(&mut cx).is_pending());
    assert_eq!(
        slots.acquire(1, 1, soon()).await.unwrap_err(),
        Limit::Pending
    );
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(waits.await.unwrap_err(), Limit::Connections);
    let waited = began.elapsed();
    assert!((1000..1010).contains(&waited.as_millis()), "{waited:?}");
    assert_eq!((slots.open(), slots.waiting()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn waits_for_streams_and_for_connections_share_one_ceiling() {
    let slots = slots();
    let held = slots.acquire(1, 2, soon()).await.unwrap();
    let stream = slots.pend(2).unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let mut waits = Box::pin(slots.acquire(1, 2, soon()));
    assert!(waits.as_mut().poll(&mut cx).is_pending());
    assert!(slots.pend(2).is_none());
    // A connection for requests that wait for streams is waited for without being counted once more.
    let mut opening = Box::pin(slots.acquire_for_streams(1, soon()));
    assert!(opening.as_mut().poll(&mut cx).is_pending());
    assert_eq!((slots.waiting(), slots.pending.now()), (2, 2));
    drop(held);
    assert_eq!((slots.waiting(), slots.pending.now()), (1, 1));
    drop((stream, waits, opening));
    let all = (slots.open(), slots.waiting(), slots.pending.now());
    assert_eq!(all, (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_slot_for_one_that_gave_up_goes_to_the_next() {
    let slots = slots();
    let held = slots.acquire(1, 0, soon()).await.unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let mut before = Box::pin(slots.acquire(1, 0, soon()));
    let mut served = Box::pin(slots.acquire(1, 0, soon()));
    let mut after = Box::pin(slots.acquire(1, 0, soon()));
    for waiter in [&mut before, &mut served, &mut after] {
        assert!(waiter.as_mut().poll(&mut cx).is_pending());
    }
    // One gives up before a slot is sent to it, one with the slot on its way.
    drop(before);
    drop(held);
    drop(served);
    let Poll::Ready(slot) = after.as_mut().poll(&mut cx) else {
        panic!("the slot is lost");
    };
    drop(slot);
    assert_eq!((slots.open(), slots.waiting()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_raised_ceiling_serves_those_that_wait_as_soon_as_somebody_knows_it() {
    let slots = slots();
    let _held = slots.acquire(1, 0, soon()).await.unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let mut old = Box::pin(slots.acquire(1, 0, soon()));
    assert!(old.as_mut().poll(&mut cx).is_pending());
    let mut new = Box::pin(slots.acquire(3, 0, soon()));
    assert!(new.as_mut().poll(&mut cx).is_ready());
    assert!(old.as_mut().poll(&mut cx).is_ready());
}

#[tokio::test(start_paused = true)]
async fn those_that_gave_up_do_not_pile_up() {
    let slots = slots();
    let _held = slots.acquire(1, 0, soon()).await.unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..1000 {
        let mut waits = Box::pin(slots.acquire(1, 0, soon()));
        assert!(waits.as_mut().poll(&mut cx).is_pending());
    }
    assert_eq!(slots.waiting(), 0);
    let left = slots.queue().waiters.len();
    assert!(left < 40, "{left}");
}

/// Threads that take and return slots in their own runtimes: nobody is forgotten, never too many are open.
#[test]
fn workers_share_slots_without_losing_one() {
    let slots = slots();
    let too_many = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_time().build().unwrap();
                runtime.block_on(async {
                    for _ in 0..2000 {
                        let deadline = Instant::now() + Duration::from_secs(20);
                        let slot = slots.acquire(2, 0, deadline).await.expect("forgotten");
                        if slots.open() > 2 {
                            too_many.store(true, Ordering::Relaxed);
                        }
                        tokio::task::yield_now().await;
                        drop(slot);
                    }
                });
            });
        }
    });
    assert!(!too_many.into_inner());
    assert_eq!((slots.open(), slots.waiting()), (0, 0));
}

proptest! {
    /// Any order of asking, leaving, giving up and polling: never more than the ceiling is open, never more than
    /// `pending` wait, nobody waits while a slot is free, and nothing is left behind.
    #[test]
    fn slots_are_neither_lost_nor_given_twice(
        ceiling in 1u32..4,
        pending in 1u32..5,
        steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let slots = slots();
        let mut cx = Context::from_waker(Waker::noop());
        let (mut held, mut waiters) = (Vec::new(), Vec::new());
        for (step, which) in steps {
            match step {
                0 => {
                    let mut asks = Box::pin({
                        let slots = slots.clone();
                        async move { slots.acquire(ceiling, pending, soon()).await }
                    });
                    match asks.as_mut().poll(&mut cx) {
                        Poll::Ready(Ok(slot)) => held.push(slot),
                        Poll::Ready(Err(limit)) => {
                            prop_assert_eq!(limit, Limit::Pending);
                            prop_assert_eq!(slots.waiting(), pending);
                        }
                        Poll::Pending => waiters.push(asks),
                    }
                }
                1 if !held.is_empty() => drop(held.swap_remove(which.index(held.len()))),
                2 if !waiters.is_empty() => drop(waiters.remove(which.index(waiters.len()))),
                3 if !waiters.is_empty() => {
                    let at = which.index(waiters.len());
                    if let Poll::Ready(slot) = waiters[at].as_mut().poll(&mut cx) {
                        held.push(slot.expect("no time has passed"));
                        drop(waiters.remove(at));
                    }
                }
                _ => {}
            }
            prop_assert!(slots.open() <= ceiling);
            // Some have a slot already and don't know it.
            let served = slots.open() as usize - held.len();
            prop_assert_eq!(slots.waiting() as usize, waiters.len() - served);
            prop_assert!(slots.waiting() == 0 || slots.open() == ceiling);
        }
        drop(held);
        drop(waiters);
        prop_assert_eq!((slots.open(), slots.waiting()), (0, 0));
    }
}

#[test]
fn a_load_is_of_a_version_by_name_and_lives_as_long_as_somebody_holds_it() {
    let registry = crate::upstream::Registry::new();
    let before = registry.load("shop", "blue");
    let request = before.requests.try_enter(1).unwrap();
    let after = registry.load("shop", "blue");
    assert!(after.requests.try_enter(1).is_none(), "a reload forgot it");
    assert_eq!(registry.load("shop", "green").requests.now(), 0);
    assert_eq!(registry.load("api", "blue").requests.now(), 0);
    drop(request);
    assert!(after.requests.try_enter(1).is_some());
}
