use std::task::Waker;

use super::*;

const PIECE: usize = 10_000;

/// A source of a number of pieces, and a sink that counts bytes.
#[derive(Default)]
struct Body {
    piece: Vec<u8>,
    pieces: usize,
    taken: usize,
}

impl Body {
    fn of(pieces: usize) -> Self {
        Self {
            piece: vec![7; PIECE],
            pieces,
            taken: 0,
        }
    }
}

impl Source for Body {
    fn poll_piece(&mut self, _: &mut Context<'_>) -> Poll<Result<BodyPiece, WireError>> {
        Poll::Ready(Ok(match self.pieces {
            0 => BodyPiece::End,
            _ => BodyPiece::Data(PIECE),
        }))
    }
    fn data(&self) -> &[u8] {
        &self.piece
    }
    fn consume(&mut self, n: usize) {
        assert_eq!(n, PIECE);
        self.pieces -= 1;
    }
    fn take_trailers(&mut self) -> HeaderMap {
        HeaderMap::new()
    }
    fn remaining(&self) -> Option<u64> {
        None
    }
}

impl Sink for Body {
    fn poll_write(&mut self, _: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, WireError>> {
        self.taken += data.len();
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

fn upload(budget: &ByteBudget, keep: usize) -> Upload {
    let mut upload = Upload::new(None, keep);
    upload.take_from(budget.clone());
    upload
}

fn buffer(upload: &mut Upload, source: &mut Body) {
    let cx = &mut Context::from_waker(Waker::noop());
    let held = upload.poll_buffer(cx, source, 65_536);
    assert!(matches!(held, Poll::Ready(Ok(()))));
}

/// Sends the whole body; returns how many bytes arrive.
fn sent(upload: &mut Upload, source: &mut Body) -> usize {
    let cx = &mut Context::from_waker(Waker::noop());
    let mut sink = Body::default();
    let done = upload.poll(cx, source, &mut sink);
    assert!(matches!(done, Poll::Ready(Ok(()))));
    sink.taken
}

#[test]
fn bodies_beyond_the_budget_stream_and_arrive_whole() {
    let budget = ByteBudget::new(100_000);
    let mut uploads: Vec<_> = (0..5).map(|_| (upload(&budget, 0), Body::of(6))).collect();
    for (upload, source) in &mut uploads {
        buffer(upload, source);
        assert!(budget.used() <= 100_000);
    }
    let held: Vec<_> = uploads
        .iter()
        .map(|(upload, _)| upload.received())
        .collect();
    assert_eq!(held[0], 60_000);
    assert!(held.iter().sum::<u64>() <= 100_000, "{held:?}");
    assert_eq!(held[4], 0, "no room for any of it");
    for (upload, source) in &mut uploads {
        assert_eq!(sent(upload, source), 60_000);
    }
    drop(uploads);
    assert_eq!(budget.used(), 0);
}

#[test]
fn kept_bytes_are_charged_to_the_budget() {
    let budget = ByteBudget::new(50_000);
    let (mut first, mut second) = (upload(&budget, 40_000), upload(&budget, 40_000));
    assert_eq!(sent(&mut first, &mut Body::of(3)), 30_000);
    assert!(first.can_rewind() && budget.used() >= 30_000);
    assert_eq!(sent(&mut second, &mut Body::of(3)), 30_000);
    assert!(!second.can_rewind(), "no room to keep it");
    assert!(budget.used() <= 40_000, "what it had is given back");
}

#[test]
fn capacity_stays_within_the_buffer_limit() {
    let budget = ByteBudget::new(1 << 20);
    let mut one = upload(&budget, 0);
    buffer(&mut one, &mut Body::of(6));
    assert!(
        (60_000..=65_536).contains(&budget.used()),
        "{}",
        budget.used()
    );
}
