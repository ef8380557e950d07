//! DNS messages: queries for one name, and what their answers say. The format is that of
//! RFC 1035 §4.

use std::net::IpAddr;
use std::time::Duration;

use super::wire::{Name, Reader, Record};

/// Flags of the header: an answer, cut short, recursion desired; and the response code.
const ANSWER: u16 = 0x8000;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const CODE: u16 = 0x000f;

/// The class of the Internet.
const IN: u16 = 1;
/// The type of CNAME records.
const CNAME: u16 = 5;

/// Most CNAME records that are followed for one name. A longer chain is a loop or a mistake.
const LONGEST_CHAIN: usize = 16;

/// The records that a query asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordKind {
    A,
    Aaaa,
    Srv,
}

impl RecordKind {
    /// The number of the type.
    fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
            Self::Srv => 33,
        }
    }

    /// Reads the data of a record of this type. `None` if it is malformed.
    fn data(self, mut data: Reader<'_>) -> Option<RecordData> {
        let read = match self {
            Self::A => RecordData::Address(data.array::<4>()?.into()),
            Self::Aaaa => RecordData::Address(data.array::<16>()?.into()),
            Self::Srv => RecordData::Service {
                priority: data.u16()?,
                weight: data.u16()?,
                port: data.u16()?,
                target: data.name()?.text(),
            },
        };
        data.is_at_end().then_some(read)
    }
}

/// A question to a name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    name: Name,
    kind: RecordKind,
}

/// The content of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RecordData {
    Address(IpAddr),
    Service {
        priority: u16,
        weight: u16,
        port: u16,
        /// In lower case, without the trailing dot. Empty if the target is the root: the service is not available (RFC 2782).
        target: String,
    },
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// At least one record, and the smallest TTL along the chain of CNAME records and of the records themselves.
    Records {
        records: Vec<RecordData>,
        ttl: Duration,
    },
    /// The name exists and has no such record.
    NoRecord,
    /// The name doesn't exist.
    NoSuchName,
    /// The server failed or refused to answer. Holds the response code.
    Failed(String),
    /// The answer doesn't fit into a datagram and must be asked for over TCP.
    Truncated,
    /// The message is not an answer to this question: a late answer to another one, or forged.
    Unrelated,
}

impl Question {
    /// A question for the records of `name`, which is absolute, with or without a dot at its end. `None` if it is no valid name.
    pub(super) fn new(name: &str, kind: RecordKind) -> Option<Self> {
        let name = Name::parse(name)?;
        Some(Self { name, kind })
    }

    /// Encodes the query with this id. It asks for recursion.
    pub(super) fn encode(&self, id: u16) -> Vec<u8> {
        let mut message = Vec::new();
        // One question, and no records.
        for number in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
            message.extend(number.to_be_bytes());
        }
        message.extend(self.name.as_bytes());
        message.extend(self.kind.number().to_be_bytes());
        message.extend(IN.to_be_bytes());
        message
    }

    /// Reads an answer to the query that had this id.
    pub(super) fn read(&self, id: u16, bytes: &[u8]) -> Reply {
        self.parse(id, bytes).unwrap_or(Reply::Unrelated)
    }

    /// `None` if it is no answer to this question, or malformed.
    fn parse(&self, id: u16, bytes: &[u8]) -> Option<Reply> {
        let mut message = Reader::new(bytes);
        let (answers, flags) = (message.u16()? == id, message.u16()?);
        let (questions, count) = (message.u16()?, message.u16()?);
        let _authorities_and_additional: [u8; 4] = message.array()?;
        let is_ours = answers
            && flags & ANSWER != 0
            && questions == 1
            && message.name()? == self.name
            && message.u16()? == self.kind.number()
            && message.u16()? == IN;
        if !is_ours {
            return None;
        }
        if flags & TRUNCATED != 0 {
            return Some(Reply::Truncated);
        }
        match flags & CODE {
            0 => {}
            3 => return Some(Reply::NoSuchName),
            code => return Some(Reply::Failed(code_name(code))),
        }
        let records: Vec<Record<'_>> = (0..count)
            .map(|_| message.record())
            .collect::<Option<_>>()?;
        let Some((owner, mut ttl)) = canonical(&records, &self.name)? else {
            return Some(Reply::NoRecord);
        };
        let mut found = Vec::new();
        for record in &records {
            if record.class == IN && record.kind == self.kind.number() && record.owner == owner {
                ttl = ttl.min(Duration::from_secs(record.ttl.into()));
                found.push(self.kind.data(record.data)?);
            }
        }
        Some(match found.is_empty() {
            true => Reply::NoRecord,
            false => Reply::Records {
                records: found,
                ttl,
            },
        })
    }
}

/// The name of a response code (RFC 1035 §4.1.1), or its number.
fn code_name(code: u16) -> String {
    match code {
        1 => "FORMERR".to_owned(),
        2 => "SERVFAIL".to_owned(),
        4 => "NOTIMP".to_owned(),
        5 => "REFUSED".to_owned(),
        code => code.to_string(),
    }
}

/// The longest TTL: 2³¹ − 1 seconds (RFC 2181 section 8).
const LONGEST_TTL: Duration = Duration::from_secs((1 << 31) - 1);

/// Follows the CNAME records of an answer from `name`. Returns the last name and the smallest TTL on the way; `Some(None)` if
/// the chain doesn't end, and `None` if a record is malformed.
fn canonical(records: &[Record<'_>], name: &Name) -> Option<Option<(Name, Duration)>> {
    let mut aliases = Vec::new();
    for record in records {
        if record.class == IN && record.kind == CNAME {
            let mut data = record.data;
            let target = data.name().filter(|_| data.is_at_end())?;
            aliases.push((
                &record.owner,
                target,
                Duration::from_secs(record.ttl.into()),
            ));
        }
    }
    let (mut last, mut ttl) = (name.clone(), LONGEST_TTL);
    for _ in 0..=LONGEST_CHAIN {
        let alias = aliases.iter().find(|(owner, ..)| **owner == last);
        let Some((_, target, of_alias)) = alias else {
            return Some(Some((last, ttl)));
        };
        ttl = ttl.min(*of_alias);
        last = target.clone();
    }
    Some(None)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
