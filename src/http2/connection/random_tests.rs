//! Random frames and random use of streams: nothing panics, the counts of a connection stay right, and what it sends is valid.

use proptest::prelude::*;

use super::Role;
use super::random::{Step, fuzz, run};

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stream = prop_oneof![Just(0_u32), (0..12_u32).prop_map(|n| 2 * n + 1), 0..30_u32];
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        (0..12_u8).prop_map(|n| vec![0, 0, 0, n]),
        (0..3_000_usize).prop_map(|n| vec![1; n]),
        Just(vec![0, 0, 0, 0, 0, 0, 0, 0]),
        (0..8_u8, any::<u16>()).prop_map(|(id, n)| [&[0, id, 0, 0][..], &n.to_be_bytes()].concat()),
    ];
    let flags = prop_oneof![Just(0_u8), Just(1), Just(4), Just(5), any::<u8>()];
    let answer = (0..8_usize, any::<u16>(), any::<bool>());
    let step = prop_oneof![
        6 => (0..11_u8, flags, stream, payload).prop_map(|(k, f, s, p)| Step::Frame(k, f, s, p)),
        6 => ((0..12_u32).prop_map(|n| 2 * n + 1), any::<bool>()).prop_map(|(s, e)| Step::Head(s, e)),
        4 => (0..8_usize, 0..40_000_usize).prop_map(|(s, n)| Step::Send(s, n)),
        2 => (0..8_usize).prop_map(Step::Finish),
        4 => answer.prop_map(|(s, n, e)| Step::Answer(s, n, e)),
        4 => (0..8_usize).prop_map(Step::Read),
        1 => (0..8_usize).prop_map(Step::Reset),
        2 => (0..8_usize).prop_map(Step::Drop),
        4 => (0..100_000_usize).prop_map(Step::Write),
        2 => any::<bool>().prop_map(Step::Stall),
        4 => any::<bool>().prop_map(Step::Open),
        1 => (1..100_000_u32).prop_map(Step::Window),
        1 => Just(Step::ShutDown),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_connection_stays_consistent_whatever_comes(
        steps in steps(),
        is_server in any::<bool>(),
        piece in prop_oneof![Just(1_usize), 2..100_usize, Just(100_000)],
    ) {
        let role = if is_server { Role::Server } else { Role::Client };
        run(role, steps, piece);
    }
}

#[test]
fn a_connection_stays_consistent_with_the_corpus_of_the_fuzzer() {
    let corpus = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../fuzz/corpus/http2_connection"
    );
    let mut count = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        fuzz(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 20, "{count}");
}
