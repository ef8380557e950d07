//! Messages beside those of prost.

use proptest::prelude::*;
use prost::Message as _;

use super::*;

message! {
    struct Inner {
        text: String = 1,
        negative: i32 = 2,
    }
}

message! {
    struct Outer {
        flag: bool = 1,
        small: i32 = 2,
        whole: i64 = 3,
        natural: u64 = 4,
        optional: Option<i64> = 5,
        long: Fixed64 = 6,
        short: Fixed32 = 7,
        fraction: Option<f64> = 8,
        shared: Bytes = 9,
        owned: Vec<u8> = 10,
        text: String = 11,
        inner: Option<Inner> = 12,
        inners: Vec<Inner> = 200,
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct TheirInner {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(int32, tag = "2")]
    negative: i32,
}

/// The same messages by prost.
#[derive(Clone, PartialEq, prost::Message)]
struct TheirOuter {
    #[prost(bool, tag = "1")]
    flag: bool,
    #[prost(int32, tag = "2")]
    small: i32,
    #[prost(int64, tag = "3")]
    whole: i64,
    #[prost(uint64, tag = "4")]
    natural: u64,
    #[prost(int64, optional, tag = "5")]
    optional: Option<i64>,
    #[prost(fixed64, tag = "6")]
    long: u64,
    #[prost(fixed32, tag = "7")]
    short: u32,
    #[prost(double, optional, tag = "8")]
    fraction: Option<f64>,
    #[prost(bytes = "bytes", tag = "9")]
    shared: Bytes,
    #[prost(bytes = "vec", tag = "10")]
    owned: Vec<u8>,
    #[prost(string, tag = "11")]
    text: String,
    #[prost(message, optional, tag = "12")]
    inner: Option<TheirInner>,
    #[prost(message, repeated, tag = "200")]
    inners: Vec<TheirInner>,
}

fn inner() -> impl Strategy<Value = Inner> {
    { (".{0,3}", any::<i32>()) }.prop_map(|(text, negative)| Inner { text, negative })
}

/// A number, often the default.
fn number() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), Just(-1), 0i64..300, any::<i64>()]
}

fn outer() -> impl Strategy<Value = Outer> {
    let numbers = [(); 5].map(|()| number());
    let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
    let inners = proptest::collection::vec(inner(), 0..3);
    let options = (
        proptest::option::of(number()),
        proptest::option::of(-1.5f64..1.5),
        proptest::option::of(inner()),
    );
    (
        any::<bool>(),
        numbers,
        options,
        bytes(),
        bytes(),
        ".{0,9}",
        inners,
    )
        .prop_map(
            |(flag, numbers, (optional, fraction, inner), shared, owned, text, inners)| {
                let [small, whole, natural, long, short] = numbers;
                Outer {
                    flag,
                    small: small as i32,
                    whole,
                    natural: natural as u64,
                    optional,
                    long: Fixed64(long as u64),
                    short: Fixed32(short as u32),
                    fraction,
                    shared: shared.into(),
                    owned,
                    text,
                    inner,
                    inners,
                }
            },
        )
}

proptest! {
    #[test]
    fn a_message_is_encoded_and_read_as_by_prost(message in outer()) {
        let bytes = message.encode();
        let theirs = TheirOuter::decode(bytes.as_slice()).expect("a message");
        prop_assert_eq!(theirs.encode_to_vec(), bytes.clone());
        prop_assert_eq!(theirs.text, message.text.clone());
        prop_assert_eq!(theirs.optional, message.optional);
        prop_assert_eq!(theirs.inners.len(), message.inners.len());
        prop_assert_eq!(Outer::decode(&bytes), Ok(message));
    }

    #[test]
    fn what_prost_refuses_is_malformed(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(read) = Outer::decode(&bytes) {
            let theirs = TheirOuter::decode(bytes.as_slice()).expect("a message");
            prop_assert_eq!(theirs.whole, read.whole);
        }
    }
}

#[test]
fn unknown_fields_are_skipped() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Later {
        #[prost(string, tag = "1")]
        text: String,
        #[prost(int32, tag = "2")]
        negative: i32,
        #[prost(fixed64, tag = "3")]
        long: u64,
        #[prost(fixed32, tag = "4")]
        short: u32,
        #[prost(bytes = "vec", tag = "5")]
        bytes: Vec<u8>,
        #[prost(uint64, tag = "6")]
        number: u64,
    }
    let later = Later {
        text: "a".to_owned(),
        negative: -2,
        long: 1,
        short: 1,
        bytes: vec![1; 200],
        number: u64::MAX,
    };
    let read = Inner::decode(&later.encode_to_vec()).expect("a message");
    assert_eq!((read.text.as_str(), read.negative), ("a", -2));
}

#[test]
fn a_message_that_is_cut_short_or_of_another_type_is_malformed() {
    let inner = Inner {
        text: "text".to_owned(),
        negative: 300,
    };
    let bytes = inner.encode();
    assert_eq!(bytes, b"\x0a\x04text\x10\xac\x02");
    for length in (1..bytes.len()).filter(|length| *length != 6) {
        assert_eq!(Inner::decode(&bytes[..length]), Err(Malformed), "{length}");
    }
    for wrong in [
        // The text as a number, a number as text, text that isn't UTF-8, field 0, a group, numbers of 65 bits and
        // of eleven bytes, a field whose number has 30 bits.
        &b"\x08\x01"[..],
        b"\x12\x00",
        b"\x0a\x01\xff",
        b"\x00\x01",
        b"\x0b\x0c",
        b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
        b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x80\x80\x80\x80\x10\x00",
    ] {
        assert_eq!(Inner::decode(wrong), Err(Malformed), "{wrong:?}");
    }
}
