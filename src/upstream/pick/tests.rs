//! Which members are picked, and how often, under each policy.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::*;
use crate::config::spec::{self, EndpointAddress, Scheme};
use crate::telemetry::Telemetry;
use crate::upstream::endpoint::flag;
use crate::upstream::pool::Member;
use crate::upstream::{Endpoint, Registry};

fn pool(balance: Balance, weights: &[u32]) -> Pool {
    let metrics = Telemetry::new(1).version("s", "v");
    let registry = Registry::new();
    let member = |(i, weight): (usize, &u32)| {
        let address = EndpointAddress::Ip(([127, 0, 0, 1], 1000 + i as u16).into());
        let spec = spec::EndpointSpec {
            scheme: Scheme::Http,
            address,
            weight: *weight,
        };
        let endpoint: Arc<Endpoint> = registry.endpoint("s", "v", &spec, &metrics);
        Member {
            endpoint,
            weight: *weight,
            tier: 0,
        }
    };
    Pool::of(
        weights.iter().enumerate().map(member).collect(),
        balance,
        500,
        registry.epoch(),
    )
}

fn counts(pool: &Pool, n: usize) -> Vec<usize> {
    let (mut rng, mut view) = (fastrand::Rng::with_seed(7), PoolView::default());
    let mut counts = vec![0; pool.members.len()];
    for _ in 0..n {
        counts[pool
            .pick(&mut rng, &mut view, &[], None)
            .expect("not empty")
            .0] += 1;
    }
    counts
}

#[test]
fn round_robin_is_exact_by_weight() {
    assert_eq!(
        counts(&pool(Balance::RoundRobin, &[1, 1, 1]), 300),
        [100, 100, 100]
    );
    assert_eq!(
        counts(&pool(Balance::RoundRobin, &[1, 2, 5]), 800),
        [100, 200, 500]
    );
}

#[test]
fn round_robin_spreads_a_heavy_endpoint_over_the_round() {
    let pool = pool(Balance::RoundRobin, &[1, 3]);
    let (mut rng, mut view) = (fastrand::Rng::with_seed(7), PoolView::default());
    let picks: Vec<_> = (0..8)
        .map(|_| pool.pick(&mut rng, &mut view, &[], None).expect("picked"))
        .collect();
    let gaps = picks
        .iter()
        .enumerate()
        .filter(|(_, p)| p.0 == 0)
        .map(|(i, _)| i)
        .collect::<Vec<_>>();
    assert_eq!(gaps.len(), 2);
    assert_eq!(gaps[1] - gaps[0], 4);
}

#[test]
fn least_request_goes_by_weight_when_all_are_idle_and_away_from_the_busy() {
    let pool = pool(Balance::LeastRequest, &[1, 1, 1, 1]);
    for count in counts(&pool, 4000) {
        assert!((800..1200).contains(&count), "{count}");
    }
    pool.members[2]
        .endpoint
        .load
        .active
        .store(50, Ordering::Relaxed);
    assert_eq!(counts(&pool, 1000)[2], 0, "any other choice is less busy");
}

#[test]
fn what_is_to_be_avoided_is_not_picked() {
    let pool = pool(Balance::LeastRequest, &[1, 1, 1]);
    let (mut rng, mut view) = (fastrand::Rng::with_seed(7), PoolView::default());
    for _ in 0..100 {
        assert_eq!(
            pool.pick(&mut rng, &mut view, &[EndpointIx(0), EndpointIx(2)], None),
            Some(EndpointIx(1))
        );
    }
    assert_eq!(
        pool.pick(&mut rng, &mut view, &[0, 1, 2].map(EndpointIx), None),
        None
    );
}

#[test]
fn a_stride_visits_every_place() {
    for total in 1..500 {
        let step = round_robin::stride(total);
        let mut seen = vec![false; total as usize];
        (0..total).for_each(|n| seen[(n * step % total) as usize] = true);
        assert!(seen.iter().all(|s| *s), "{total}");
    }
}

#[test]
fn an_endpoint_that_is_out_is_not_picked_until_too_few_are_left() {
    let pool = pool(Balance::LeastRequest, &[1, 1, 1, 1]);
    let (mut rng, mut view) = (fastrand::Rng::with_seed(7), PoolView::default());
    let mut seen = |pool: &Pool| {
        let mut seen = [false; 4];
        (0..200)
            .for_each(|_| seen[pool.pick(&mut rng, &mut view, &[], None).expect("one").0] = true);
        (seen, view.usable())
    };
    pool.members[0].endpoint.state.raise(flag::EJECTED);
    pool.members[1].endpoint.state.raise(flag::DOWN);
    assert_eq!(seen(&pool), ([false, false, true, true], 2));
    pool.members[2].endpoint.state.raise(flag::DOWN);
    assert_eq!(
        seen(&pool),
        ([true; 4], 1),
        "one of four is less than half: panic"
    );
    pool.members[2].endpoint.state.raise(flag::DRAINING);
    assert_eq!(
        seen(&pool),
        ([true, true, false, true], 1),
        "what is drained stays out"
    );
    pool.members[1].endpoint.state.lower(flag::DOWN);
    assert_eq!(seen(&pool), ([false, true, false, true], 2));
}

#[test]
fn drained_endpoints_do_not_count_for_panic() {
    let pool = pool(Balance::RoundRobin, &[1, 1, 1, 1]);
    let state = |i: usize| &pool.members[i].endpoint.state;
    state(0).raise(flag::DRAINING);
    state(1).raise(flag::DRAINING);
    state(2).raise(flag::DOWN);
    assert_eq!(counts(&pool, 4), [0, 0, 0, 4], "one of two is half");
    state(3).raise(flag::EJECTED);
    assert_eq!(counts(&pool, 4), [0, 0, 2, 2], "none of two is panic");
    state(2).lower(flag::DOWN);
    state(0).lower(flag::DRAINING);
    state(0).raise(flag::DOWN);
    assert_eq!(counts(&pool, 3), [1, 0, 1, 1], "one of three is panic");
}

#[test]
fn new_ones_wait_for_their_first_pass_unless_there_is_nobody_else() {
    let pool = pool(Balance::RoundRobin, &[1, 1, 1]);
    let state = |i: usize| &pool.members[i].endpoint.state;
    for i in 0..3 {
        state(i).raise(flag::UNPROVEN);
    }
    assert_eq!(counts(&pool, 3), [1, 1, 1], "nothing is known yet");
    state(1).lower(flag::UNPROVEN);
    assert_eq!(counts(&pool, 3), [0, 3, 0], "that is no panic");
    state(1).raise(flag::DOWN);
    assert_eq!(counts(&pool, 3), [0, 3, 0], "nor worth a try on others");
    state(1).raise(flag::DRAINING);
    assert_eq!(counts(&pool, 4), [2, 0, 2]);
}

#[test]
fn a_suspicion_takes_nobody_s_last_endpoint() {
    let mut pool = pool(Balance::RoundRobin, &[1, 1, 1]);
    pool.panic = 0;
    let state = |i: usize| &pool.members[i].endpoint.state;
    for i in 0..2 {
        state(i).raise(flag::SUSPECT);
    }
    assert_eq!(counts(&pool, 3), [0, 0, 3]);
    state(2).raise(flag::DOWN);
    assert_eq!(counts(&pool, 4), [2, 2, 0]);
}

#[test]
fn slow_start_gives_a_part_of_the_weight() {
    let pool = pool(Balance::RoundRobin, &[1, 1]);
    pool.members[1].endpoint.state.set_ramp(250);
    assert_eq!(counts(&pool, 1250), [1000, 250]);
}

#[test]
fn who_began_before_a_reload_picks_from_its_own_pool() {
    let after = pool(Balance::LeastRequest, &[1; 6]);
    let first = after.members.iter().take(2).map(|m| Member {
        endpoint: m.endpoint.clone(),
        weight: m.weight,
        tier: m.tier,
    });
    let epoch = after.epoch.clone();
    let before = Pool::of(first.collect(), after.balance, after.panic, epoch);
    let (mut rng, mut view) = (fastrand::Rng::with_seed(1), PoolView::default());
    for _ in 0..100 {
        assert!(
            after.pick(&mut rng, &mut view, &[0, 1].map(EndpointIx), None) >= Some(EndpointIx(2))
        );
        assert!(before.pick(&mut rng, &mut view, &[], None) < Some(EndpointIx(2)));
    }
}

#[test]
fn a_hash_stays_and_moves_only_with_its_endpoint() {
    let pool = pool(Balance::Hash, &[1, 1, 1, 1]);
    let (mut rng, mut view) = (fastrand::Rng::with_seed(7), PoolView::default());
    let keys: Vec<u64> = (0..2000u64)
        .map(|n| xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes()))
        .collect();
    let mut places = |pool: &Pool| -> Vec<usize> {
        keys.iter()
            .map(|k| {
                pool.pick(&mut rng, &mut view, &[], Some(*k))
                    .expect("one")
                    .0
            })
            .collect()
    };
    let before = places(&pool);
    pool.members[3].endpoint.state.raise(flag::DOWN);
    let after = places(&pool);
    let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    assert_eq!(moved, before.iter().filter(|p| **p == 3).count());
    assert!((300..700).contains(&moved), "{moved}");
}

/// The member that each of these keys falls to.
fn hashed(pool: &Pool, keys: u64) -> Vec<usize> {
    let (mut rng, mut view) = (fastrand::Rng::with_seed(7), PoolView::default());
    (0..keys)
        .map(|n| xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes()))
        .map(|key| {
            pool.pick(&mut rng, &mut view, &[], Some(key))
                .expect("one")
                .0
        })
        .collect()
}

fn on(places: &[usize], member: usize) -> usize {
    places.iter().filter(|p| **p == member).count()
}

#[test]
fn a_hash_heeds_large_weights() {
    let light = on(&hashed(&pool(Balance::Hash, &[1, 200]), 40_000), 0);
    assert!((120..290).contains(&light), "{light} of 40000, not 199");
    let half = on(&hashed(&pool(Balance::Hash, &[100, 200]), 30_000), 0);
    assert!(
        (9_300..10_700).contains(&half),
        "{half} of 30000, not 10000"
    );
}

#[test]
fn a_ring_of_heavy_endpoints_is_bounded_and_outlasts_a_failure() {
    let pool = pool(Balance::Hash, &[1000; 40]);
    let before = hashed(&pool, 8_000);
    let mut view = PoolView::default();
    view.refresh(&pool);
    assert!(
        view.ring.points.len() <= 1 << 17,
        "{} points",
        view.ring.points.len()
    );
    for member in 0..40 {
        let count = on(&before, member);
        assert!((120..290).contains(&count), "{count} of 8000, not 200");
    }
    pool.members[0].endpoint.state.raise(flag::DOWN);
    let after = hashed(&pool, 8_000);
    let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
    assert_eq!(
        moved,
        on(&before, 0),
        "only the keys of the one that is down"
    );
}

#[test]
fn a_hash_heeds_slow_start_and_moves_each_key_once() {
    let pool = pool(Balance::Hash, &[1, 1, 1, 1]);
    let state = &pool.members[3].endpoint.state;
    let whole = hashed(&pool, 8_000);
    state.raise(flag::DOWN);
    let without = hashed(&pool, 8_000);
    state.lower(flag::DOWN);
    let mut before = without.clone();
    for ramp in [1, 100, 250, 500, 1000] {
        state.set_ramp(ramp);
        let now = hashed(&pool, 8_000);
        let expected = on(&whole, 3) * ramp as usize / 1000;
        assert!(
            on(&now, 3).abs_diff(expected) < 120,
            "{} of {expected}",
            on(&now, 3)
        );
        for ((was, is), without) in before.iter().zip(&now).zip(&without) {
            assert!(
                was == is || *is == 3,
                "a key moves to the new endpoint only"
            );
            assert!(*is == 3 || is == without);
        }
        before = now;
    }
    assert_eq!(before, whole);
}

#[test]
fn a_hash_of_a_pool_that_is_all_new_is_as_without_slow_start() {
    let pool = pool(Balance::Hash, &[1, 2, 3]);
    let whole = hashed(&pool, 2_000);
    for member in &pool.members {
        member.endpoint.state.set_ramp(10);
    }
    assert_eq!(hashed(&pool, 2_000), whole);
}

#[test]
fn a_ring_is_laid_anew_only_when_its_own_endpoints_come_or_go() {
    let pool = pool(Balance::Hash, &[1, 1, 1]);
    let (mut rng, mut view) = (fastrand::Rng::with_seed(7), PoolView::default());
    let mut pick = |view: &mut PoolView| pool.pick(&mut rng, view, &[], Some(0));
    pick(&mut view);
    let whole = view.ring.points.len();
    view.ring.points.truncate(7);
    // As if an endpoint of another pool had changed.
    pool.epoch.fetch_add(1, Ordering::Relaxed);
    pick(&mut view);
    assert_eq!(view.ring.points.len(), 7);
    pool.members[0].endpoint.state.raise(flag::DOWN);
    pick(&mut view);
    assert_eq!(view.ring.points.len(), whole / 3 * 2);
    pool.members[0].endpoint.state.lower(flag::DOWN);
    pick(&mut view);
    assert_eq!(view.ring.points.len(), whole);
}

#[test]
fn a_ring_is_that_of_the_pool_that_is_asked() {
    let before = pool(Balance::Hash, &[1, 1, 1]);
    let reversed = before.members.iter().rev().map(|m| Member {
        endpoint: m.endpoint.clone(),
        weight: m.weight,
        tier: m.tier,
    });
    let after = Pool::of(
        reversed.collect(),
        before.balance,
        before.panic,
        before.epoch.clone(),
    );
    let (mut rng, mut view) = (fastrand::Rng::with_seed(7), PoolView::default());
    for key in (0..64).map(|n| n << 58) {
        let [a, b] = [&before, &after].map(|pool| {
            let at = pool.pick(&mut rng, &mut view, &[], Some(key));
            &pool.members[at.expect("one")].endpoint.name
        });
        assert_eq!(a, b);
    }
}

#[test]
fn peak_ewma_goes_away_from_the_slow() {
    let pool = pool(Balance::PeakEwma, &[1, 1]);
    pool.members[0]
        .endpoint
        .load
        .note_latency(std::time::Duration::from_millis(100), 1);
    pool.members[1]
        .endpoint
        .load
        .note_latency(std::time::Duration::from_millis(1), 1);
    assert_eq!(counts(&pool, 100), [0, 100]);
}
