//! What the HTTP/1 codec costs: heads as clients and origins send them, bodies, paths.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use cutover::http1::{
    BodyDecoder, Framing, HeadLimits, Method, RequestHead, ResponseHead, Step, path,
};

const LIMITS: HeadLimits = HeadLimits {
    bytes: 32 * 1024,
    fields: 100,
    target: 8 * 1024,
    underscores: false,
};

const PLAIN: &[u8] =
    b"GET /api/v1/products?page=2 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: oha/1.4.5\r\n\
    Accept: */*\r\nAccept-Encoding: gzip, br\r\n\r\n";

const BROWSER: &[u8] = b"GET /assets/app.3f2a.js HTTP/1.1\r\nHost: shop.example.com\r\nConnection: keep-alive\r\n\
    sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"\r\nsec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Linux\"\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n\
    Referer: https://shop.example.com/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n\
    Cookie: uid=4f7c2a9e-1f1b-4d38-9b0e-6a7b8c9d0e1f; session=abcdefghijklmnopqrstuvwxyz0123456789; theme=dark\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sat, 21 Nov 2026 03:00:00 GMT\r\nContent-Type: text/plain\r\n\
    Content-Length: 1024\r\nConnection: keep-alive\r\n\r\n";

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
            Ok(Step::Data(n)) => {
                at += n;
                content += n;
            }
            Ok(Step::Skip(n) | Step::Trailers(n)) => at += n,
            Ok(Step::Done | Step::More) | Err(_) => return content,
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
