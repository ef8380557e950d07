use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::http1::Framing;
use crate::net::Buffers;
use crate::net::fixtures::tcp_pair;
use crate::proxy::h1::{Encoding, H1};

/// Relays a body with the announced length `told`, of which `sent` bytes arrive, to a reader that
/// pauses now and then. Returns what the reader got, how the flow ended and how many pipes were used.
fn moved(told: Option<u64>, sent: usize, reset: bool) -> (Vec<u8>, Result<(), PumpError>, usize) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(async {
        let ((near, mut origin), (far, mut client)) = (tcp_pair().await, tcp_pair().await);
        let buffers = Buffers::new();
        let arrived = &tokio::sync::Notify::new();
        let body: Vec<u8> = (0..sent).map(|i| (i / 7) as u8).collect();
        let sending = async move {
            origin.write_all(&body).await.unwrap();
            if reset {
                // A reset discards what hasn't been read.
                arrived.notified().await;
                let linger = Some(std::time::Duration::ZERO);
                socket2::SockRef::from(&origin).set_linger(linger).unwrap();
            }
        };
        let reading = async move {
            let (mut got, mut part) = (Vec::new(), vec![0; 300_000]);
            while let Ok(n) = client.read(&mut part).await
                && n > 0
            {
                got.extend_from_slice(&part[..n]);
                if got.len() == sent + 4 {
                    arrived.notify_one();
                }
                tokio::task::yield_now().await;
            }
            got
        };
        let moving = async {
            let mut source = H1::new(near, buffers.clone());
            source.begin_source(told.map_or(Framing::UntilClose, Framing::Length));
            let mut sink = H1::new(far, buffers.clone());
            sink.out().extend_from_slice(b"head");
            sink.begin_sink(Encoding::Plain, told);
            let mut flow = Flow::default();
            poll_fn(|cx| flow.poll(cx, &mut source, &mut sink)).await
        };
        let (_, got, result) = tokio::join!(sending, reading, moving);
        (got, result, buffers.spare_pipes())
    })
}

fn is_intact(got: &[u8], len: usize) -> bool {
    got.len() == len + 4
        && got.starts_with(b"head")
        && (0..len).all(|i| got[i + 4] == (i / 7) as u8)
}

#[test]
fn a_large_body_goes_by_way_of_a_pipe_and_arrives_as_it_was() {
    for (len, told) in [(9_000_001, true), (9_000_001, false), (100_000, true)] {
        let (got, result, pipes) = moved(told.then_some(len as u64), len, false);
        assert!(result.is_ok() && is_intact(&got, len), "{len} {told}");
        assert_eq!(pipes, usize::from(len > 1_000_000), "{len} {told}");
    }
}

#[test]
fn a_body_that_ends_too_early_is_cut() {
    let (got, result, pipes) = moved(Some(9_000_000), 5_000_000, false);
    assert!(matches!(result, Err(PumpError::Source(WireError::Cut))));
    assert!(is_intact(&got, 5_000_000) && pipes == 1);
}

#[test]
fn a_reset_is_not_the_end_of_a_body() {
    let (_, result, pipes) = moved(None, 5_000_000, true);
    assert!(
        matches!(result, Err(PumpError::Source(WireError::Io(_)))),
        "{result:?}"
    );
    assert_eq!(pipes, 1);
}
