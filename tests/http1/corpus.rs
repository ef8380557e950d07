//! Replays `fuzz/corpus`. Names say what is expected: `ok-…` is accepted, `bad-STATUS-…` refused with this status; others only must not break anything.

use std::path::PathBuf;

use cutover::http1::{Framing, Method, Reject, RequestHead, ResponseHead};

use crate::checks::{self, LIMITS, decode};
use crate::http2;

/// The files of one target, by name.
pub fn files(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                std::fs::read(entry.path()).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

/// What a whole request on the wire meets with, head and body.
fn request(wire: &[u8]) -> Result<(), Reject> {
    let mut head = RequestHead::new();
    let len = head.parse(wire, &LIMITS)?.expect("a whole head");
    body(&wire[len..], head.framing)
}

fn response(wire: &[u8]) -> Result<(), Reject> {
    let mut head = ResponseHead::new();
    let len = head
        .parse(wire, Method::Get, &LIMITS)?
        .expect("a whole head");
    body(&wire[len..], head.framing)
}

fn body(wire: &[u8], framing: Framing) -> Result<(), Reject> {
    let decoded = decode(wire, framing, false, &[]);
    match decoded.refused {
        Some(reject) => Err(reject),
        None => {
            assert!(
                decoded.done || framing == Framing::UntilClose,
                "the body is not whole"
            );
            Ok(())
        }
    }
}

fn check_names(target: &str, read: fn(&[u8]) -> Result<(), Reject>) -> usize {
    let files = files(target);
    for (name, wire) in &files {
        let got = read(wire);
        match name.split_once('-').expect("ok-… or bad-STATUS-…") {
            ("ok", _) => assert_eq!(got, Ok(()), "{target}/{name}"),
            ("bad", rest) => {
                let status = rest.split('-').next().map(|s| s.parse::<u16>().unwrap());
                assert_eq!(
                    got.err().map(|reject| reject.status),
                    status,
                    "{target}/{name}"
                );
            }
            _ => panic!("{name}: ok-… or bad-STATUS-… was expected"),
        }
    }
    files.len()
}

#[test]
fn requests_are_accepted_or_refused_as_their_names_say() {
    assert!(check_names("request_head", request) > 150);
}

#[test]
fn responses_are_accepted_or_refused_as_their_names_say() {
    assert!(check_names("response_head", response) > 40);
}

type Check = fn(&[u8]);
const TARGETS: [(&str, Check); 7] = [
    ("request_head", checks::request_head),
    ("response_head", checks::response_head),
    ("body", checks::body),
    ("path", checks::path),
    ("http2_header_blocks", http2::header_blocks),
    ("http2_encoded_fields", http2::encoded_fields),
    ("http2_frames", http2::frames),
];

#[test]
fn every_check_holds_on_every_file() {
    for (target, check) in TARGETS {
        for (_, data) in files(target) {
            check(&data);
        }
    }
    // A head with its body is a body for the body's check, and so on: nothing may depend on being fed the right thing.
    for (_, check) in TARGETS {
        for (other, _) in TARGETS {
            files(other).iter().for_each(|(_, data)| check(data));
        }
    }
}

#[test]
fn every_check_holds_on_mutants() {
    let mut random = fastrand::Rng::with_seed(0x6375_746f_7665_7221);
    for (target, check) in TARGETS {
        let files = files(target);
        for _ in 0..6_000 {
            let mut data = files[random.usize(..files.len())].1.clone();
            for _ in 0..random.usize(1..4) {
                mutate(&mut data, &files, &mut random);
            }
            check(&data);
        }
    }
}

/// One change such as a fuzzer makes: a byte, a cut, a doubling, a piece of another file, a word that matters.
pub fn mutate(data: &mut Vec<u8>, files: &[(String, Vec<u8>)], random: &mut fastrand::Rng) {
    const WORDS: [&[u8]; 20] = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"0",
        b"chunked",
        b"Content-Length: 1\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"HTTP/1.1",
        b"%2e",
        b"..",
        b"/",
        b"\\",
        b"%2f",
    ];
    let at = random.usize(..=data.len());
    match random.u8(..6) {
        0 if at < data.len() => data[at] = random.u8(..),
        1 if at < data.len() => data[at] ^= 1 << random.u8(..8),
        2 => data.truncate(at),
        3 if at < data.len() => {
            data.remove(at);
        }
        4 => {
            let other = &files[random.usize(..files.len())].1;
            let from = random.usize(..=other.len());
            let to = other.len().min(from + random.usize(..40));
            data.splice(at..at, other[from..to].iter().copied());
        }
        _ => {
            let word = WORDS[random.usize(..WORDS.len())];
            data.splice(at..at, word.iter().copied());
        }
    }
}
