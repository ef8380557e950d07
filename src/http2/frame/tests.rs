use super::*;

const STREAM: FrameError = FrameError::Stream(3, ErrorCode::PROTOCOL_ERROR);

/// Parses the frames in `bytes`.
fn frames(mut bytes: &[u8]) -> Vec<(FrameHeader, Result<Frame<'_>, FrameError>)> {
    let mut frames = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk() {
        let header = FrameHeader::parse(header);
        let (payload, rest) = rest.split_at(header.len);
        let checked = header.check(DEFAULT_MAX_FRAME);
        frames.push((header, checked.and_then(|()| parse(&header, payload))));
        bytes = rest;
    }
    assert!(bytes.is_empty());
    frames
}

fn read(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<(), FrameError> {
    let header = FrameHeader {
        len: payload.len(),
        kind,
        flags,
        stream,
    };
    header.check(DEFAULT_MAX_FRAME)?;
    parse(&header, payload).map(drop)
}

#[test]
fn what_is_written_is_read() {
    let mut out = Vec::new();
    put_settings(&mut out, &[(setting::MAX_FRAME_SIZE, 1 << 20), (0x99, 7)]);
    put_settings(&mut out, &[]);
    put_settings_ack(&mut out);
    put_ping(&mut out, *b"12345678", false);
    put_ping(&mut out, *b"12345678", true);
    put_go_away(&mut out, 5, ErrorCode::NO_ERROR, b"bye");
    put_window_update(&mut out, 0, MAX_WINDOW);
    put_window_update(&mut out, 7, 1);
    put_reset(&mut out, 9, ErrorCode::CANCEL);
    put_data_header(&mut out, 11, 4, true);
    out.extend_from_slice(b"data");
    let found: Vec<_> = frames(&out)
        .into_iter()
        .map(|(h, f)| (h.stream, f.expect("valid")))
        .collect();
    let Frame::Settings(first) = found[0].1 else {
        panic!("{found:?}")
    };
    assert_eq!(
        first.iter().collect::<Vec<_>>(),
        [(setting::MAX_FRAME_SIZE, 1 << 20), (0x99, 7)]
    );
    let data = *b"12345678";
    assert_eq!(
        found[1..],
        [
            (0, Frame::Settings(Settings(&[]))),
            (0, Frame::SettingsAck),
            (0, Frame::Ping { ack: false, data }),
            (0, Frame::Ping { ack: true, data }),
            (
                0,
                Frame::GoAway {
                    last_stream: 5,
                    code: ErrorCode::NO_ERROR,
                    debug: b"bye"
                }
            ),
            (
                0,
                Frame::WindowUpdate {
                    increment: MAX_WINDOW
                }
            ),
            (7, Frame::WindowUpdate { increment: 1 }),
            (
                9,
                Frame::Reset {
                    code: ErrorCode::CANCEL
                }
            ),
            (
                11,
                Frame::Data {
                    data: b"data",
                    end_stream: true
                }
            ),
        ]
    );
}

#[test]
fn a_block_is_split_by_the_frame_size_of_the_peer() {
    for (len, parts) in [(0, 1), (1, 1), (10, 1), (11, 2), (20, 2), (21, 3), (95, 10)] {
        let block: Vec<u8> = (0..len).collect();
        let mut out = b"before".to_vec();
        let at = start_headers(&mut out);
        out.extend_from_slice(&block);
        finish_headers(&mut out, at, 5, true, 10);
        let found = frames(out.strip_prefix(b"before").expect("unchanged"));
        assert_eq!(found.len(), parts);
        let mut gathered = Vec::new();
        for (i, (header, frame)) in found.into_iter().enumerate() {
            assert_eq!(header.stream, 5);
            let (fragment, is_last) = match frame.expect("valid") {
                Frame::Headers {
                    fragment,
                    end_stream: true,
                    end_headers,
                    depends_on_itself: false,
                } if i == 0 => (fragment, end_headers),
                Frame::Continuation {
                    fragment,
                    end_headers,
                } if i > 0 => (fragment, end_headers),
                other => panic!("{other:?}"),
            };
            gathered.extend_from_slice(fragment);
            assert_eq!(is_last, i + 1 == parts);
        }
        assert_eq!(gathered, block);
    }
}

#[test]
fn padding_and_priority_are_removed() {
    use flag::{PADDED, PRIORITY};
    let padded = [2, b'a', b'b', 0, 0];
    let header = |kind, flags, payload: &[u8]| FrameHeader {
        len: payload.len(),
        kind,
        flags,
        stream: 3,
    };
    let data = |data| {
        Ok(Frame::Data {
            data,
            end_stream: false,
        })
    };
    assert_eq!(
        parse(&header(kind::DATA, PADDED, &padded), &padded),
        data(b"ab")
    );
    assert_eq!(parse(&header(kind::DATA, PADDED, &[0]), &[0]), data(b""));
    for (depends_on, depends_on_itself) in [(0, false), (2, false), (3, true)] {
        let payload = [1, 0x80, 0, 0, depends_on, 16, b'x', 0];
        assert_eq!(
            parse(
                &header(kind::HEADERS, PADDED | PRIORITY, &payload),
                &payload
            ),
            Ok(Frame::Headers {
                fragment: b"x",
                end_stream: false,
                end_headers: false,
                depends_on_itself
            })
        );
    }
}

#[test]
fn errors_have_the_code_and_the_level_of_the_rfc() {
    let window = FrameError::Connection(ErrorCode::FLOW_CONTROL_ERROR);
    let setting = |id: u8, value: u32| {
        let [a, b, c, d] = value.to_be_bytes();
        read(kind::SETTINGS, 0, 0, &[0, id, a, b, c, d])
    };
    for (what, got, expected) in [
        ("DATA on 0", read(kind::DATA, 0, 0, b""), PROTOCOL),
        ("HEADERS on 0", read(kind::HEADERS, 0, 0, b""), PROTOCOL),
        (
            "CONTINUATION on 0",
            read(kind::CONTINUATION, 0, 0, b""),
            PROTOCOL,
        ),
        (
            "PRIORITY on 0",
            read(kind::PRIORITY, 0, 0, &[0; 5]),
            PROTOCOL,
        ),
        (
            "RST_STREAM on 0",
            read(kind::RST_STREAM, 0, 0, &[0; 4]),
            PROTOCOL,
        ),
        ("SETTINGS on 3", read(kind::SETTINGS, 0, 3, b""), PROTOCOL),
        ("PING on 3", read(kind::PING, 0, 3, &[0; 8]), PROTOCOL),
        ("GOAWAY on 3", read(kind::GOAWAY, 0, 3, &[0; 8]), PROTOCOL),
        ("push", read(kind::PUSH_PROMISE, 4, 3, &[0; 8]), PROTOCOL),
        ("too long", read(kind::DATA, 0, 3, &[0; 16385]), SIZE),
        ("unknown, too long", read(77, 0, 3, &[0; 16385]), SIZE),
        ("no pad length", read(kind::DATA, 8, 3, b""), SIZE),
        ("padding", read(kind::DATA, 8, 3, &[1]), PROTOCOL),
        (
            "padding",
            read(kind::HEADERS, 8, 3, &[4, 0, 0, 0]),
            PROTOCOL,
        ),
        ("no priority", read(kind::HEADERS, 0x20, 3, &[0; 4]), SIZE),
        (
            "padding in priority",
            read(kind::HEADERS, 0x28, 3, &[1, 0, 0, 0, 0, 0]),
            SIZE,
        ),
        (
            "short PRIORITY",
            read(kind::PRIORITY, 0, 3, &[0; 4]),
            FrameError::Stream(3, ErrorCode::FRAME_SIZE_ERROR),
        ),
        (
            "depends on itself",
            read(kind::PRIORITY, 0, 3, &[0, 0, 0, 3, 0]),
            STREAM,
        ),
        (
            "short RST_STREAM",
            read(kind::RST_STREAM, 0, 3, &[0; 3]),
            SIZE,
        ),
        (
            "long RST_STREAM",
            read(kind::RST_STREAM, 0, 3, &[0; 5]),
            SIZE,
        ),
        ("short PING", read(kind::PING, 0, 0, &[0; 7]), SIZE),
        ("long PING", read(kind::PING, 1, 0, &[0; 9]), SIZE),
        ("short GOAWAY", read(kind::GOAWAY, 0, 0, &[0; 7]), SIZE),
        (
            "short WINDOW_UPDATE",
            read(kind::WINDOW_UPDATE, 0, 3, &[0; 3]),
            SIZE,
        ),
        (
            "window 0",
            read(kind::WINDOW_UPDATE, 0, 3, &[0x80, 0, 0, 0]),
            STREAM,
        ),
        (
            "window 0",
            read(kind::WINDOW_UPDATE, 0, 0, &[0; 4]),
            PROTOCOL,
        ),
        ("odd SETTINGS", read(kind::SETTINGS, 0, 0, &[0; 7]), SIZE),
        (
            "ack with settings",
            read(kind::SETTINGS, 1, 0, &[0; 6]),
            SIZE,
        ),
        ("push 2", setting(2, 2).and(Ok(())), PROTOCOL),
        ("connect protocol 2", setting(8, 2), PROTOCOL),
        ("initial window", setting(4, 1 << 31), window),
        ("small frames", setting(5, 16383), PROTOCOL),
        ("large frames", setting(5, 1 << 24), PROTOCOL),
    ] {
        assert_eq!(got, Err(expected), "{what}");
    }
}

#[test]
fn what_must_be_accepted() {
    let setting = |id: u8, value: u32| {
        let [a, b, c, d] = value.to_be_bytes();
        read(kind::SETTINGS, 0, 0, &[0, id, a, b, c, d])
    };
    for (what, got) in [
        ("unknown kinds", read(0x10, 0xff, 0, b"u=1")),
        ("unknown kinds", read(0xff, 0, 3, b"")),
        ("undefined flags", read(kind::PING, 0xfe, 0, &[0; 8])),
        ("unknown settings", setting(0x66, u32::MAX)),
        ("no push", setting(2, 0)),
        ("a table of any size", setting(1, u32::MAX)),
        ("the largest window", setting(4, MAX_WINDOW)),
        ("the largest frames", setting(5, LARGEST_MAX_FRAME)),
        ("the longest frame", read(kind::DATA, 0, 3, &[0; 16384])),
        ("empty DATA", read(kind::DATA, 0, 3, b"")),
        ("all padding", read(kind::DATA, 8, 3, &[2, 0, 0])),
    ] {
        assert_eq!(got, Ok(()), "{what}");
    }
    let header = FrameHeader::parse(&[0, 0, 4, 8, 0, 0x80, 0, 0, 3]);
    assert_eq!(header.stream, 3, "the reserved bit is ignored");
}
