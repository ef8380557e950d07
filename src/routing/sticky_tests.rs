use proptest::prelude::*;

use super::super::fake::Fake;
use super::*;

const NOW: u64 = 1_800_000_000;

fn key() -> SealingKey {
    SealingKey::new(&[7; 32]).unwrap()
}

fn policy() -> policy::Sticky {
    policy::Sticky {
        cookie: "cutover".into(),
        to_endpoint: true,
        idle: Duration::from_secs(1800),
        max_life: Duration::from_secs(8 * 3600),
        key_file: None,
    }
}

fn session() -> Session {
    Session {
        version: version_id(&key(), "shop", "blue"),
        endpoint: Some(endpoint_id(&key(), "shop", "10.0.0.1:8080")),
        began_s: NOW - 3600,
        seen_s: NOW - 60,
    }
}

fn open_now(value: &[u8]) -> Option<Session> {
    open(&key(), "shop", value, NOW, &policy())
}

#[test]
fn what_is_sealed_opens_and_is_plain_text_for_a_cookie() {
    for endpoint in [session().endpoint, None] {
        let session = Session {
            endpoint,
            ..session()
        };
        let value = seal(&key(), "shop", &session);
        assert_eq!(value.len(), SEALED_LEN);
        assert!(
            value
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        );
        assert_eq!(open_now(value.as_bytes()), Some(session));
    }
}

/// May never change within format 1: every session of every user would end.
#[test]
fn the_format_is_pinned() {
    let value = seal(&key(), "shop", &session());
    assert_eq!(
        value,
        "AYIRnnmE5Wtgwr3hy5fQ2LgAAGtJw_AAAGtJ0cRa7YpB6GMGe_gC0QVWkNK4"
    );
}

#[test]
fn only_the_key_and_the_service_it_was_sealed_for_open_it() {
    let value = seal(&key(), "shop", &session());
    let other = SealingKey::new(&[8; 32]).unwrap();
    assert_eq!(open(&other, "shop", value.as_bytes(), NOW, &policy()), None);
    assert_eq!(open(&key(), "shoq", value.as_bytes(), NOW, &policy()), None);
    assert_eq!(open(&key(), "", value.as_bytes(), NOW, &policy()), None);
}

#[test]
fn a_short_key_is_none_and_no_key_is_ever_shown() {
    assert!(SealingKey::new(&[1; 31]).is_none());
    assert_eq!(format!("{:?}", key()), "SealingKey(secret)");
}

#[test]
fn ids_differ_by_kind_service_name_and_key() {
    let other = SealingKey::new(&[8; 32]).unwrap();
    let ids = [
        version_id(&key(), "shop", "blue"),
        version_id(&key(), "shop", "green"),
        version_id(&key(), "shopb", "lue"),
        version_id(&other, "shop", "blue"),
        endpoint_id(&key(), "shop", "blue"),
    ];
    let distinct: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len());
}

#[test]
fn times_decide_to_the_second() {
    let at = |began_s: u64, seen_s: u64, now_s: u64| {
        let session = Session {
            began_s,
            seen_s,
            ..session()
        };
        let value = seal(&key(), "shop", &session);
        open(&key(), "shop", value.as_bytes(), now_s, &policy()).is_some()
    };
    assert!(at(NOW, NOW, NOW + 1799) && !at(NOW, NOW, NOW + 1800));
    let life = 8 * 3600;
    let seen = NOW + life - 10;
    assert!(at(NOW, seen, NOW + life - 1) && !at(NOW, seen, NOW + life));
    // Another proxy's clock may be a minute ahead.
    assert!(at(NOW + 60, NOW + 60, NOW) && !at(NOW + 61, NOW + 61, NOW));
    assert!(!at(NOW, NOW - 1, NOW));
    assert!(!at(0, NOW, NOW) && !at(NOW, u64::MAX, NOW) && !at(u64::MAX, u64::MAX, 0));
}

#[test]
fn two_hundred_tampered_cookies_are_no_sessions() {
    let value = seal(&key(), "shop", &session()).into_bytes();
    let mut rng = fastrand::Rng::with_seed(3);
    for n in 0..200 {
        let mut tampered = value.clone();
        match n % 4 {
            0 => tampered[rng.usize(..SEALED_LEN)] = rng.u8(..),
            1 => tampered.truncate(rng.usize(..SEALED_LEN)),
            2 => tampered.insert(rng.usize(..SEALED_LEN), b'A'),
            _ => tampered.swap(rng.usize(..SEALED_LEN), rng.usize(..SEALED_LEN)),
        }
        if tampered != value {
            assert_eq!(open_now(&tampered), None, "{tampered:?}");
        }
    }
}

#[test]
fn every_single_bit_counts() {
    let value = seal(&key(), "shop", &session()).into_bytes();
    for at in 0..SEALED_LEN {
        for digit in ALPHABET.iter().filter(|d| **d != value[at]) {
            let mut tampered = value.clone();
            tampered[at] = *digit;
            assert_eq!(open_now(&tampered), None, "{at}");
        }
    }
}

#[test]
fn of_several_cookies_the_first_good_one_counts_but_not_after_many_bad_ones() {
    let value = seal(&key(), "shop", &session());
    let find = |cookies: &str| {
        let request = Fake::get("/").with("cookie", cookies);
        find(&key(), "shop", &request, NOW, &policy())
    };
    assert_eq!(find(&format!("a=b; cutover={value}")), Some(session()));
    assert_eq!(
        find(&format!("cutover=x; cutover={value}")),
        Some(session())
    );
    assert_eq!(
        find(&format!("{}cutover={value}", "cutover=x; ".repeat(4))),
        None
    );
    assert_eq!(find(&format!("Cutover={value}")), None);
    assert_eq!(find(""), None);
}

#[test]
fn a_cookie_is_sealed_again_after_a_tenth_of_idle() {
    let session = Session::begin(1, None, NOW);
    assert!(!needs_refresh(&session, NOW + 179, &policy()));
    assert!(needs_refresh(&session, NOW + 180, &policy()));
    let short = policy::Sticky {
        idle: Duration::from_secs(2),
        ..policy()
    };
    assert!(!needs_refresh(&session, NOW, &short) && needs_refresh(&session, NOW + 1, &short));
}

#[test]
fn a_cookie_lasts_for_idle_but_not_past_the_end_of_its_life() {
    let session = Session::begin(1, None, NOW);
    let lasts = |after: u64| lasts(&session, NOW + after, &policy()).as_secs();
    assert_eq!((lasts(0), lasts(27_000), lasts(27_001)), (1800, 1800, 1799));
    assert_eq!((lasts(28_800), lasts(40_000)), (0, 0));
}

#[test]
fn a_seen_session_keeps_its_beginning() {
    let session = Session::begin(1, Some(2), NOW).seen(Some(3), NOW + 9);
    let expected = Session {
        version: 1,
        endpoint: Some(3),
        began_s: NOW,
        seen_s: NOW + 9,
    };
    assert_eq!(session, expected);
    // A clock that was set back.
    assert_eq!(session.seen(None, NOW - 5).seen_s, NOW);
}

#[test]
fn the_field_says_all_that_protects_the_cookie() {
    let hour = Duration::from_secs(3600);
    assert_eq!(
        set_cookie("cutover", "v", hour, true),
        "cutover=v; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure"
    );
    assert_eq!(
        set_cookie("s", "v", hour, false),
        "s=v; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"
    );
}

const HOUR: Option<Duration> = Some(Duration::from_secs(3600));

/// Blue (stable, index 0) and green (index 1) with this share; where a session of `version` goes.
fn follows(session: &Session, green: u32, pasts: &[Past], finish: Option<Duration>) -> Follow {
    let split = Split::new(
        &["blue", "green"],
        VersionIx(0),
        &[(VersionIx(1), Share(green))],
    );
    follow(session, &split, pasts, finish, NOW)
}

fn pasts(green: u32) -> [Past; 2] {
    [
        Past::new(10, Share(Share::WHOLE - green), NOW),
        Past::new(11, Share(green), NOW),
    ]
}

#[test]
fn a_session_stays_while_its_version_has_any_share() {
    for green in [1, 50_000, Share::WHOLE - 1] {
        for (version, id) in [(VersionIx(0), 10), (VersionIx(1), 11)] {
            let session = Session::begin(id, None, NOW - 5);
            let stays = follows(&session, green, &pasts(green), None);
            assert_eq!(stays, Follow::Stay { version }, "{green}");
        }
    }
}

#[test]
fn without_a_share_it_moves_or_finishes() {
    let session = Session::begin(10, None, NOW - 5000);
    let left = |left_s: u64| {
        let mut pasts = pasts(Share::WHOLE);
        pasts[0].left_s = Some(left_s);
        pasts
    };
    let to_green = |session: &Session, left_s: u64, finish| {
        follows(session, Share::WHOLE, &left(left_s), finish)
    };
    let stay = Follow::Stay {
        version: VersionIx(0),
    };
    assert_eq!(to_green(&session, NOW, None), Follow::Move);
    assert_eq!(to_green(&session, NOW, HOUR), stay);
    assert_eq!(to_green(&session, NOW - 3599, HOUR), stay);
    assert_eq!(to_green(&session, NOW - 3600, HOUR), Follow::Move);
    // Begun after the split had moved away: somebody was sent there by a rule.
    let late = Session::begin(10, None, NOW - 10);
    assert_eq!(to_green(&late, NOW - 11, HOUR), Follow::Move);
}

#[test]
fn an_abort_moves_the_sessions_it_found_and_no_later_ones() {
    let mut pasts = pasts(50_000);
    pasts[1] = pasts[1].void(NOW - 100);
    let began = |began_s| Session::begin(11, None, began_s);
    let go = |began_s, pasts: &[Past]| follows(&began(began_s), 50_000, pasts, HOUR);
    assert_eq!(go(NOW - 100, &pasts), Follow::Move);
    assert_eq!(
        go(NOW - 99, &pasts),
        Follow::Stay {
            version: VersionIx(1)
        }
    );
    pasts[1] = pasts[1].next(Share(0), NOW - 100);
    assert_eq!(follows(&began(NOW - 200), 0, &pasts, HOUR), Follow::Move);
}

#[test]
fn a_version_that_is_gone_keeps_nobody() {
    let session = Session::begin(12, None, NOW);
    assert_eq!(
        follows(&session, 50_000, &pasts(50_000), HOUR),
        Follow::Move
    );
}

#[test]
fn a_past_remembers_when_the_share_was_lost() {
    let some = Share(5);
    let past = Past::new(1, some, 100);
    assert_eq!(past.left_s, None);
    let past = past.next(Share(0), 200);
    assert_eq!(past.left_s, Some(200));
    let past = past.next(Share(0), 300).void(310);
    assert_eq!((past.left_s, past.voided_s), (Some(200), Some(310)));
    let past = past.next(some, 400);
    assert_eq!((past.left_s, past.voided_s), (None, Some(310)));
    assert_eq!(past.next(Share(0), 500).left_s, Some(500));
    assert_eq!(Past::new(1, Share(0), 100).left_s, Some(100));
}

proptest! {
    #[test]
    fn any_session_survives_its_seal(version: u64, endpoint in prop::option::of(1u64..), age in 0u64..1800, life in 0u64..20_000) {
        let seen_s = NOW - age;
        let session = Session { version, endpoint, began_s: seen_s - life, seen_s };
        let value = seal(&key(), "shop", &session);
        prop_assert_eq!(open_now(value.as_bytes()), Some(session));
    }

    #[test]
    fn no_bytes_panic_or_open(value: Vec<u8>) {
        prop_assert_eq!(open_now(&value), None);
    }

    #[test]
    fn no_sixty_digits_open(value in "[A-Za-z0-9_-]{60}", now_s: u64) {
        prop_assert_eq!(open(&key(), "shop", value.as_bytes(), now_s, &policy()), None);
    }

    #[test]
    fn no_mutation_opens(flips in prop::collection::vec((0..WHOLE, 1u8..), 1..6)) {
        let sealed = seal(&key(), "shop", &session());
        let mut bytes = decode(sealed.as_bytes()).unwrap();
        for (at, flip) in flips {
            bytes[at] ^= flip;
        }
        let value = encode(&bytes);
        if value != sealed {
            prop_assert_eq!(open_now(value.as_bytes()), None);
        }
    }
}

#[test]
fn another_format_is_no_session_even_with_a_good_seal() {
    let mut sealed = decode(seal(&key(), "shop", &session()).as_bytes()).unwrap();
    sealed[0] = FORMAT + 1;
    let tag = key().tag([b"session", b"shop", &sealed[..BODY]]);
    sealed[BODY..].copy_from_slice(&tag.as_ref()[..WHOLE - BODY]);
    assert_eq!(open_now(encode(&sealed).as_bytes()), None);
    sealed[0] = FORMAT;
    let tag = key().tag([b"session", b"shop", &sealed[..BODY]]);
    sealed[BODY..].copy_from_slice(&tag.as_ref()[..WHOLE - BODY]);
    assert_eq!(open_now(encode(&sealed).as_bytes()), Some(session()));
}

#[test]
fn the_holder_of_a_session_is_told_from_others_whatever_its_version() {
    let session = Session::begin(1, Some(7), 1_700_000_000);
    let others = [
        Session::begin(1, Some(8), 1_700_000_000),
        Session::begin(1, None, 1_700_000_000),
        Session::begin(1, Some(7), 1_700_000_001),
        session.seen(Some(7), 1_700_000_001),
    ];
    for (at, other) in others.iter().enumerate() {
        assert_ne!(session.holder(), other.holder());
        let later = others[at + 1..].iter();
        assert!(later.map(Session::holder).all(|h| h != other.holder()));
    }
    let elsewhere = Session {
        version: 2,
        ..session
    };
    assert_eq!(session.holder(), elsewhere.holder());
}
