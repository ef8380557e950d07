use std::future::poll_fn;
use std::task::Waker;

use super::*;

const PIECE: usize = 300_000;

/// A source and a sink that never block.
struct Endless(Vec<u8>);

impl Source for Endless {
    fn poll_piece(&mut self, _: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>> {
        Poll::Ready(Ok(BodyPiece::Data(PIECE)))
    }
    fn data(&self) -> &[u8] {
        &self.0
    }
    fn consume(&mut self, _: usize) {}
    fn take_trailers(&mut self) -> HeaderMap {
        HeaderMap::new()
    }
    fn remaining(&self) -> Option<u64> {
        None
    }
}

impl Sink for Endless {
    fn poll_write(&mut self, _: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, WireError>> {
        Poll::Ready(Ok(data.len()))
    }
    fn poll_finish(
        &mut self,
        _: &mut Context<'_>,
        _: Option<&HeaderMap>,
    ) -> Poll<Result<(), WireError>> {
        Poll::Ready(Ok(()))
    }
    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        Poll::Ready(Ok(()))
    }
}

fn ends() -> (Endless, Endless) {
    (Endless(vec![0; PIECE]), Endless(Vec::new()))
}

#[test]
fn a_body_without_end_moves_in_turns() {
    let (mut source, mut sink) = ends();
    let mut flow = Flow::default();
    let cx = &mut Context::from_waker(Waker::noop());
    for turn in 1..=3 {
        assert!(flow.poll(cx, &mut source, &mut sink).is_pending());
        assert_eq!(flow.moved, turn * 4 * PIECE as u64);
    }
}

#[tokio::test]
async fn a_flow_that_yielded_is_woken() {
    let (mut source, mut sink) = ends();
    let mut flow = Flow::default();
    let mut turns = 0;
    poll_fn(|cx| {
        turns += 1;
        assert!(flow.poll(cx, &mut source, &mut sink).is_pending());
        if turns < 5 {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
}
