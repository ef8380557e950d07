//! The head of a request for the time that nobody reads it: its lines, without the table of its fields.

use super::{BlockLimits, HeadBlock, HeadKind, LineTraits, Pseudo};

const KIND: HeadKind = HeadKind::Request {
    extended_connect: true,
};

/// The lines of a head that isn't malformed.
#[derive(Debug)]
pub(crate) struct PackedHead(Box<[u8]>);

impl PackedHead {
    pub(crate) fn new(head: &HeadBlock) -> Self {
        let mut lines = Vec::with_capacity(head.bytes.len());
        for pseudo in Pseudo::ALL {
            if let Some(value) = head.pseudo(pseudo) {
                for part in [pseudo.name(), b": ", value, b"\r\n"] {
                    lines.extend_from_slice(part);
                }
            }
        }
        for field in &head.fields {
            lines.extend_from_slice(field.line.of(&head.bytes));
        }
        Self(lines.into())
    }

    /// The head as it was, except that no field counts as sensitive.
    pub(crate) fn unpack(&self) -> HeadBlock {
        let limits = BlockLimits {
            bytes: usize::MAX,
            fields: usize::MAX,
        };
        let mut head = HeadBlock::default();
        for line in self.0.split_inclusive(|byte| *byte == b'\n') {
            // The name of a pseudo-header field begins with a colon.
            let colon = line.iter().skip(1).position(|byte| *byte == b':');
            let name_len = colon.map_or(0, |at| at + 1);
            let (name, rest) = line.split_at(name_len);
            let value = rest.get(2..rest.len() - 2).unwrap_or_default();
            let start = head.bytes.len();
            head.bytes.extend_from_slice(line);
            let traits = LineTraits::of_name(name).with_value(value);
            head.accept(start, name_len, traits, false, (KIND, &limits));
        }
        head.finish(KIND);
        head
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{REQUEST, decoded, request};
    use super::*;

    fn fields(head: &HeadBlock) -> Vec<(&[u8], &[u8])> {
        head.iter().collect()
    }

    #[test]
    fn a_head_is_the_same_after_it_was_packed() {
        let heads = [
            request(&[], &[]),
            request(&[(":authority", "-")], &[("host", "b.example")]),
            request(
                &[(":method", "POST"), (":path", "/:a:b")],
                &[
                    ("cookie", "a=1"),
                    ("x-empty", ""),
                    ("te", "trailers"),
                    ("cookie", "b=2"),
                    ("x_y", "a: b"),
                    ("content-length", "12"),
                ],
            ),
            request(
                &[(":method", "CONNECT"), (":protocol", "websocket")],
                &[("sec-websocket-key", "x")],
            ),
        ];
        for sent in heads {
            let head = decoded(&sent, KIND);
            assert_eq!(head.malformed, None, "{sent:?}");
            let again = PackedHead::new(&head).unpack();
            for pseudo in Pseudo::ALL {
                assert_eq!(again.pseudo(pseudo), head.pseudo(pseudo), "{sent:?}");
            }
            assert_eq!(fields(&again), fields(&head));
            let known = |head: &HeadBlock| {
                (
                    (
                        format!("{:?}", head.present),
                        head.content_length,
                        head.hosts,
                    ),
                    (head.te_trailers, head.has_underscore, head.malformed),
                )
            };
            assert_eq!(known(&again), known(&head), "{sent:?}");
        }
    }

    #[test]
    fn a_field_that_was_set_is_kept_and_what_it_has_replaced_is_not() {
        let mut head = decoded(&request(&[], &[("x-a", "old"), ("x-b", "b")]), REQUEST);
        head.set(b"x-a", b"new");
        let again = PackedHead::new(&head).unpack();
        assert_eq!(fields(&again), [(&b"x-b"[..], &b"b"[..]), (b"x-a", b"new")]);
    }
}
