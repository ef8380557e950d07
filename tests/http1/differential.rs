//! hyper and the h2 crate read the same messages: where both accept, they agree on method, target, fields, body and trailers.

use crate::corpus::{files, mutate};
use crate::http2::agree_with_h2;
use crate::oracle::{
    agree_on_request, agree_on_response, hypers_request, hypers_response, our_request, our_response,
};

#[test]
fn both_read_the_corpus_alike() {
    let mut both = 0;
    for (name, wire) in files("request_head") {
        agree_on_request(&wire);
        both += usize::from(
            name.starts_with("ok")
                && our_request(&wire).is_some()
                && hypers_request(&wire).is_some(),
        );
    }
    // The comparison is worth something only while it takes place.
    assert!(both >= 25, "only {both} requests were accepted by both");
    both = 0;
    for (name, wire) in files("response_head") {
        agree_on_response(&wire);
        both += usize::from(
            name.starts_with("ok")
                && our_response(&wire).is_some()
                && hypers_response(&wire).is_some(),
        );
    }
    assert!(both >= 12, "only {both} responses were accepted by both");
    for (_, data) in files("differential") {
        match data.split_first() {
            Some((side, wire)) if side & 1 == 0 => agree_on_request(wire),
            Some((_, wire)) => agree_on_response(wire),
            None => {}
        }
    }
}

#[test]
fn both_read_mutants_alike() {
    let mut random = fastrand::Rng::with_seed(7);
    for (target, agree) in [
        ("request_head", agree_on_request as fn(&[u8])),
        ("response_head", agree_on_response),
    ] {
        let files = files(target);
        for _ in 0..3_000 {
            let mut data = files[random.usize(..files.len())].1.clone();
            for _ in 0..random.usize(1..3) {
                mutate(&mut data, &files, &mut random);
            }
            agree(&data);
        }
    }
}

#[test]
fn the_h2_crate_reads_header_blocks_alike() {
    let files = files("http2_differential");
    let both: usize = files.iter().map(|(_, data)| agree_with_h2(data)).sum();
    assert!(both >= 12, "only {both} requests were accepted by both");
    let mut random = fastrand::Rng::with_seed(9);
    for _ in 0..2_000 {
        let mut data = files[random.usize(..files.len())].1.clone();
        mutate(&mut data, &files, &mut random);
        agree_with_h2(&data);
    }
}
