use super::*;

fn holding(buffers: &Buffers, size: usize, text: &[u8]) -> Buffer {
    let mut buffer = Buffer::default();
    buffers.equip(&mut buffer, size);
    buffer.room()[..text.len()].copy_from_slice(text);
    buffer.filled(text.len());
    buffer
}

#[test]
fn content_is_kept_when_the_size_changes() {
    let buffers = Buffers::new();
    let mut buffer = holding(&buffers, 1, b"abcdef");
    buffer.consume(2);
    for (size, capacity) in [(SMALL + 1, LARGE), (LARGE + 1, HUGE), (HUGE + 1, HUGE + 1)] {
        buffers.equip(&mut buffer, size);
        assert_eq!(
            (buffer.bytes(), buffer.capacity()),
            (&b"cdef"[..], capacity)
        );
    }
    buffers.shrink(&mut buffer, LARGE);
    assert_eq!((buffer.bytes(), buffer.capacity()), (&b"cdef"[..], LARGE));
    let full = vec![b'x'; LARGE + 1];
    let mut full = holding(&buffers, HUGE, &full);
    buffers.shrink(&mut full, LARGE);
    assert_eq!(
        full.capacity(),
        HUGE,
        "content that doesn't fit is not moved"
    );
}

#[test]
fn the_number_of_huge_buffers_is_limited() {
    let buffers = Buffers::new();
    let mut in_use: Vec<_> = (0..HUGE_IN_USE)
        .map(|_| holding(&buffers, HUGE, b""))
        .collect();
    assert_eq!(buffers.most(), LARGE);
    buffers.release(&mut in_use[0]);
    assert_eq!(buffers.most(), HUGE);
}

#[test]
fn buffers_of_thousands_of_connections_are_reused() {
    let buffers = Buffers::new();
    let free = || buffers.spare_small();
    for _ in 0..2 {
        let equipped = |_| holding(&buffers, SMALL, b"");
        let mut in_use: Vec<_> = (0..8_000).map(equipped).collect();
        assert_eq!(free(), 0);
        in_use.iter_mut().for_each(|b| buffers.release(b));
        assert_eq!(free(), 8_000);
        buffers.sweep();
    }
    buffers.sweep();
    assert_eq!(free(), 0, "none was needed");
}

#[test]
fn a_piece_keeps_its_memory_and_returns_it() {
    let buffers = Buffers::new();
    let free = || buffers.spare_small();
    let mut buffer = holding(&buffers, SMALL, b"abcdef");
    buffer.consume(1);
    let at = buffer.bytes().as_ptr();
    let mut piece = buffers.split_off(&mut buffer, 3);
    assert_eq!((&piece[..], piece.as_ptr()), (&b"bcd"[..], at));
    assert_eq!(buffer.bytes(), b"ef");
    piece.consume(2);
    assert_eq!(&piece[..], b"d");
    drop(piece);
    assert_eq!(free(), 1);
    drop(buffers.split_off(&mut buffer, 2));
    assert_eq!((buffer.capacity(), free()), (0, 2));
}

#[test]
fn bytes_are_put_around_a_piece_where_there_is_room() {
    let buffers = Buffers::new();
    let mut buffer = holding(&buffers, SMALL, b"abcdef");
    buffer.consume(2);
    let mut piece = buffers.split_off(&mut buffer, 3);
    assert!(piece.prepend(b"12") && piece.append(b"34"));
    assert_eq!(&piece[..], b"12cde34");
    let room = [b'x'; HEADROOM];
    assert!(piece.prepend(&room), "in front of what was consumed");
    assert!(!piece.prepend(b"x"));
    assert_eq!(
        (piece.len(), &piece[HEADROOM..]),
        (HEADROOM + 7, &b"12cde34"[..])
    );
    let mut full = holding(&buffers, SMALL, &[b'x'; SMALL]);
    let mut full = buffers.split_off(&mut full, SMALL - 1);
    assert!(!full.append(b"yz"));
    assert!(full.append(b"y") && !full.append(b"z"));
    assert_eq!((full.len(), &full[SMALL - 2..]), (SMALL, &b"xy"[..]));
}

#[test]
fn content_has_headroom_whatever_was_done_with_it() {
    let buffers = Buffers::new();
    let mut buffer = holding(&buffers, SMALL, &[b'x'; SMALL]);
    let front = |buffer: &Buffer| (buffer.start, buffer.len(), buffer.capacity());
    assert_eq!(front(&buffer), (HEADROOM, SMALL, SMALL));
    assert!(buffer.room().is_empty());
    buffer.consume(SMALL - 2);
    assert_eq!(buffer.room().len(), SMALL - 2);
    assert_eq!(front(&buffer), (HEADROOM, 2, SMALL));
    buffer.consume(2);
    assert_eq!(front(&buffer), (HEADROOM, 0, SMALL));
    buffer.filled(5);
    buffer.consume(1);
    buffers.equip(&mut buffer, LARGE);
    assert_eq!(front(&buffer), (HEADROOM, 4, LARGE));
    buffers.split_off(&mut buffer, 1);
    assert_eq!(front(&buffer), (HEADROOM, 3, SMALL));
    buffer.clear();
    buffers.release(&mut buffer);
    assert_eq!(front(&buffer), (0, 0, 0));
}

#[test]
fn unused_memory_is_freed() {
    let buffers = Buffers::new();
    let mut in_use = [(); 3].map(|()| holding(&buffers, SMALL, b""));
    in_use.iter_mut().for_each(|b| buffers.release(b));
    let free = || buffers.spare_small();
    buffers.sweep();
    assert_eq!(free(), 3, "all three were needed since the beginning");
    let mut one = holding(&buffers, SMALL, b"");
    buffers.release(&mut one);
    buffers.sweep();
    assert_eq!(free(), 1);
}
