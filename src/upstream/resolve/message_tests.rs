//! Messages in their bytes.

use proptest::prelude::*;

use super::*;

const ID: u16 = 0x1234;

fn question(name: &str, kind: RecordKind) -> Question {
    Question::new(name, kind).expect("a name")
}

fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// An answer to the question for `name`, with these flags and records: owner, type, TTL, data.
fn message(name: &str, kind: u8, flags: [u8; 2], records: &[(&str, u8, u32, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = ID.to_be_bytes().to_vec();
    bytes.extend(flags);
    bytes.extend([0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    bytes.extend(labels(name));
    bytes.extend([0, kind, 0, 1]);
    for (owner, kind, ttl, data) in records {
        bytes.extend(labels(owner));
        bytes.extend([0, *kind, 0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
    }
    bytes
}

const GOOD: [u8; 2] = [0x81, 0x80];

#[test]
fn a_query_asks_for_recursion() {
    let bytes = question("app.test", RecordKind::A).encode(ID);
    let mut expected = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    expected.extend(labels("app.test"));
    expected.extend([0, 1, 0, 1]);
    assert_eq!(bytes, expected);
    assert_eq!(Question::new(&"a.".repeat(200), RecordKind::A), None);
}

#[test]
fn the_ttl_is_the_smallest_of_the_chain() {
    let records = [
        ("b.test", 1, 300, vec![10, 0, 0, 1]),
        ("app.test", 5, 60, labels("a.test")),
        ("a.test", 5, 5, labels("B.test")),
        ("other.test", 1, 1, vec![10, 9, 9, 9]),
        ("b.test", 1, 200, vec![10, 0, 0, 2]),
    ];
    let bytes = message("App.test", 1, GOOD, &records);
    let reply = question("app.test", RecordKind::A).read(ID, &bytes);
    let ips = [[10, 0, 0, 1], [10, 0, 0, 2]];
    assert_eq!(
        reply,
        Reply::Records {
            records: ips.map(|ip| RecordData::Address(ip.into())).to_vec(),
            ttl: Duration::from_secs(5),
        }
    );
}

#[test]
fn a_chain_that_is_a_loop_has_no_record() {
    let records = [
        ("app.test", 5, 60, labels("a.test")),
        ("a.test", 5, 60, labels("app.test")),
        ("a.test", 1, 60, vec![10, 0, 0, 1]),
    ];
    let bytes = message("app.test", 1, GOOD, &records);
    let reply = question("app.test", RecordKind::A).read(ID, &bytes);
    assert_eq!(reply, Reply::NoRecord);
}

#[test]
fn services_have_priority_weight_port_and_target() {
    let mut data = vec![0, 10, 0, 60, 0x1f, 0x90];
    data.extend(labels("A.app.test"));
    let mut none = vec![0; 6];
    none.push(0);
    let records = [
        ("_http._tcp.app.test", 33, 7, data),
        ("_http._tcp.app.test", 33, 7, none),
    ];
    let bytes = message("_http._tcp.app.test", 33, GOOD, &records);
    let reply = question("_http._tcp.app.test", RecordKind::Srv).read(ID, &bytes);
    let Reply::Records { records, .. } = reply else {
        panic!("{reply:?}");
    };
    let service = |[priority, weight, port]: [u16; 3], target: &str| RecordData::Service {
        priority,
        weight,
        port,
        target: target.to_owned(),
    };
    assert_eq!(
        records,
        [service([10, 60, 8080], "a.app.test"), service([0; 3], "")]
    );
}

#[test]
fn codes_and_truncation() {
    let read = |flags| {
        let bytes = message("app.test", 1, flags, &[]);
        question("app.test", RecordKind::A).read(ID, &bytes)
    };
    assert_eq!(read(GOOD), Reply::NoRecord);
    assert_eq!(read([0x81, 0x83]), Reply::NoSuchName);
    assert_eq!(read([0x81, 0x82]), Reply::Failed("SERVFAIL".to_owned()));
    assert_eq!(read([0x83, 0x80]), Reply::Truncated);
}

#[test]
fn only_an_answer_to_the_question_counts() {
    let asked = question("app.test", RecordKind::A);
    let read = |bytes: &[u8]| asked.read(ID, bytes);
    let good = message("app.test", 1, GOOD, &[]);
    assert_eq!(read(&good), Reply::NoRecord);
    assert_eq!(asked.read(ID + 1, &good), Reply::Unrelated);
    assert_eq!(read(&message("app.test", 28, GOOD, &[])), Reply::Unrelated);
    assert_eq!(read(&message("b.test", 1, GOOD, &[])), Reply::Unrelated);
    assert_eq!(
        read(&message("app.test", 1, [1, 0], &[])),
        Reply::Unrelated,
        "a query"
    );
    assert_eq!(read(b""), Reply::Unrelated);
    let cut = message(
        "app.test",
        1,
        GOOD,
        &[("app.test", 1, 1, vec![10, 0, 0, 1])],
    );
    for end in 0..cut.len() {
        assert!(matches!(read(&cut[..end]), Reply::Unrelated), "{end}");
    }
    let short = message("app.test", 1, GOOD, &[("app.test", 1, 1, vec![10, 0])]);
    assert_eq!(read(&short), Reply::Unrelated);
}

proptest! {
    #[test]
    fn no_message_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..3) {
        let kind = [RecordKind::A, RecordKind::Aaaa, RecordKind::Srv][kind as usize];
        let mut whole = message("app.test", kind.rtype().to_int() as u8, GOOD, &[]);
        // As many answer records as the bytes may hold.
        whole[7] = 9;
        whole.extend(bytes);
        question("app.test", kind).read(ID, &whole);
    }
}
