use proptest::prelude::*;

use super::super::fake::{Fake, service};
use super::*;
use crate::config::flag::FLAGS;
use crate::config::spec::{CohortKey, CohortSpec, Condition, Conditions, Pattern, Subject};

const W: u32 = Share::WHOLE;

fn flag(name: &str, share: u32) -> FlagSpec {
    FlagSpec {
        name: name.to_owned(),
        share: Share(share),
        when: Vec::new(),
    }
}

/// Flags of a service whose users are known by `x-user`.
fn routing(flags: &[FlagSpec]) -> ServiceRouting {
    let mut spec = service("shop", &["v1", "v2"]);
    spec.cohort = Some(CohortSpec {
        by: vec![CohortKey::Header("x-user".to_owned())],
        salt: "shop".to_owned(),
    });
    spec.flags = flags.to_vec();
    ServiceRouting::new(&spec)
}

fn user(n: u32) -> Fake {
    Fake::get("/").with("x-user", format!("user-{n}"))
}

fn has(flags: &[FlagSpec], request: &Fake) -> bool {
    routing(flags).flags_on(request, None).has(FlagIx(0))
}

/// Requests with `x-staff: yes`.
fn staff() -> Vec<Conditions> {
    let yes = Condition {
        subject: Subject::Header("x-staff".to_owned()),
        patterns: vec![Pattern::Exact("yes".to_owned())],
    };
    vec![vec![yes].into()]
}

proptest! {
    #[test]
    fn a_rise_takes_the_flag_from_nobody_and_a_fall_gives_it_to_nobody(
        low in 0..=W,
        high in 0..=W,
        users in proptest::collection::vec(any::<u64>(), 1..50),
    ) {
        let (low, high) = (low.min(high), low.max(high));
        let of = |share| Flag::new(&flag("new-checkout", share));
        let (low, high) = (of(low), of(high));
        for user in users {
            let on = |flag: &Flag| flag.decide(&Fake::get("/"), || Some(CohortPoint(user))).on;
            prop_assert!(!on(&low) || on(&high), "user {}", user);
        }
    }

    #[test]
    fn points_are_compared_with_the_share_exactly(share in 1..W) {
        // The first point that isn't below the share.
        let end = ((u128::from(share) << 64).div_ceil(u128::from(W))) as u64;
        prop_assert!(is_below(CohortPoint(end - 1), Share(share)));
        prop_assert!(!is_below(CohortPoint(end), Share(share)));
    }
}

#[test]
fn a_flag_is_on_for_its_share_of_the_users() {
    for share in [1_000, 10_000, 50_000, 90_000] {
        let routing = routing(&[flag("new-checkout", share)]);
        let on = (0..20_000).filter(|n| routing.flags_on(&user(*n), None).has(FlagIx(0)));
        let due = f64::from(share) / f64::from(W);
        let got = on.count() as f64 / 20_000.0;
        // Five standard deviations.
        let allowed = 5.0 * (due * (1.0 - due) / 20_000.0).sqrt();
        assert!((got - due).abs() < allowed, "{got} for {due}");
    }
}

#[test]
fn flags_are_independent_of_each_other_and_of_the_cohort() {
    let routing = routing(&[flag("new-checkout", 50_000), flag("search", 50_000)]);
    let mut counts = [0u32; 8];
    for n in 0..40_000 {
        let request = user(n);
        let place = routing.user(&request).expect("a user");
        let on = routing.flags_on(&request, None);
        assert_eq!(on, routing.flags_on(&request, Some(place)));
        let low = usize::from(place.ratio() < 0.5);
        counts[usize::from(on.has(FlagIx(0))) * 4 + usize::from(on.has(FlagIx(1))) * 2 + low] += 1;
    }
    // Five standard deviations of 40,000 draws with a chance of one in eight.
    assert!(
        counts.iter().all(|n| (4_670..=5_330).contains(n)),
        "{counts:?}"
    );
}

/// These must never change: users would gain and lose flags.
#[test]
fn points_are_pinned() {
    let flag = Flag::new(&flag("new-checkout", 1));
    let points = [0, 1, u64::MAX].map(|place| flag.point(CohortPoint(place)).0);
    assert_eq!(
        points,
        [
            0x5e6d_1342_ed31_9b16,
            0xf92a_7ed4_4c98_4e61,
            0xea3d_2d4d_5f01_ea1e
        ]
    );
}

#[test]
fn conditions_switch_a_flag_on_whatever_its_share() {
    let targeted = FlagSpec {
        when: staff(),
        ..flag("new-checkout", 0)
    };
    let yes = user(1).with("x-staff", "yes");
    let no = user(1).with("x-staff", "no");
    assert!(has(std::slice::from_ref(&targeted), &yes));
    assert!(!has(&[targeted], &no));
}

#[test]
fn a_request_without_a_user_has_only_flags_that_everybody_has() {
    let anyone = Fake::get("/");
    assert!(!has(&[flag("f", 0)], &anyone));
    assert!(!has(&[flag("f", W - 1)], &anyone));
    assert!(has(&[flag("f", W)], &anyone));
    let decided = Flag::new(&flag("f", 1)).decide(&anyone, || None);
    assert_eq!(decided.reason, FlagReason::Unknown);
}

#[test]
fn the_user_is_looked_up_only_if_that_matters() {
    for share in [0, W] {
        let flag = Flag::new(&flag("f", share));
        flag.decide(&user(1), || panic!("everybody is alike"));
    }
}

#[test]
fn a_service_has_room_for_all_its_flags() {
    let all: Vec<FlagSpec> = (0..FLAGS).map(|n| flag(&format!("f{n:02}"), W)).collect();
    let on = routing(&all).flags_on(&user(1), None);
    assert!(FlagIx::all(FLAGS).all(|flag| on.has(flag)));
}

#[test]
fn only_users_who_have_or_lack_a_flag_by_its_share_are_drawn() {
    let mut half = flag("new-checkout", W / 2);
    half.when = staff();
    let drawn = |share: u32, request: &Fake| {
        let mut spec = half.clone();
        spec.share = Share(share);
        let routing = routing(&[spec]);
        routing.flags[0].drawn(request, || routing.user(request))
    };
    let mut on = 0;
    for n in 0..100 {
        let state = drawn(W / 2, &user(n)).expect("one of the two");
        let has = has(&[half.clone()], &user(n));
        assert_eq!(state == FlagState::On, has, "user {n}");
        on += u32::from(has);
        assert_eq!(drawn(W, &user(n)), Some(FlagState::On));
        assert_eq!(drawn(0, &user(n)), Some(FlagState::Off));
    }
    assert!((30..=70).contains(&on), "{on}");
    assert_eq!(drawn(W / 2, &user(1).with("x-staff", "yes")), None);
    // At 100 % it is on for this request too, which could not have lacked it before.
    assert_eq!(drawn(W, &Fake::get("/")), None);
}
