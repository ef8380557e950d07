//! What the HTTP/1 codec costs: heads as clients and origins send them, bodies, paths.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use cutover::http1::{BodyDecoder, DecodeStep, Framing, Method, RequestHead, ResponseHead, path};

#[path = "instructions/heads.rs"]
mod samples;
use samples::{BROWSER, LIMITS, PLAIN, RESPONSE};

fn heads(c: &mut Criterion) {
    let mut group = c.benchmark_group("head");
    for (name, wire) in [("request_4_fields", PLAIN), ("request_14_fields", BROWSER)] {
        let mut head = RequestHead::new();
        group.throughput(Throughput::Bytes(wire.len() as u64));
        group.bench_function(name, |b| b.iter(|| head.parse(black_box(wire), &LIMITS)));
    }
    let mut head = ResponseHead::new();
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    group.bench_function("response_5_fields", |b| {
        b.iter(|| head.parse(black_box(RESPONSE), Method::Get, &LIMITS));
    });
    group.finish();
}

/// Steps through a whole body that lies in memory.
fn drain(wire: &[u8], verbatim: bool) -> usize {
    let mut decoder = BodyDecoder::new(Framing::Chunked, verbatim);
    let (mut at, mut content) = (0, 0);
    loop {
        match decoder.step(&wire[at..]) {
            Ok(DecodeStep::Data(n)) => {
                at += n;
                content += n;
            }
            Ok(DecodeStep::Skip(n) | DecodeStep::Trailers(n)) => at += n,
            Ok(DecodeStep::Done | DecodeStep::More) | Err(_) => return content,
        }
    }
}

fn bodies(c: &mut Criterion) {
    let mut group = c.benchmark_group("chunked");
    for size in [64, 8192] {
        let chunk = [
            format!("{size:x}\r\n").as_bytes(),
            &vec![b'x'; size],
            b"\r\n",
        ]
        .concat();
        let wire = [chunk.repeat(64 * 1024 / size), b"0\r\n\r\n".to_vec()].concat();
        group.throughput(Throughput::Bytes(wire.len() as u64));
        for (name, verbatim) in [("decoded", false), ("verbatim", true)] {
            group.bench_function(format!("64_kib_by_{size}_{name}"), |b| {
                b.iter(|| drain(black_box(&wire), verbatim));
            });
        }
    }
    group.finish();
}

fn paths(c: &mut Criterion) {
    let mut group = c.benchmark_group("path");
    for (name, path) in [
        ("plain", &b"/api/v1/products/by-category"[..]),
        ("with_a_dot", b"/assets/app.3f2a.js"),
        ("escaped", b"/caf%c3%a9/a%20b"),
        ("dot_segments", b"/a/./b/../c"),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| path::normal(black_box(path)).map(|p| p.len()))
        });
    }
    group.finish();
}

criterion_group!(benches, heads, bodies, paths);
criterion_main!(benches);
