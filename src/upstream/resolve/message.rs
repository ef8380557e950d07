//! DNS messages: queries for one name, and the records in their answers. Only this module uses the crate that encodes them.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::message::Message;
use domain::base::{MessageBuilder, Name, ParsedName, ToName};
use domain::rdata::{A, Aaaa, Cname, Srv};

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
    fn rtype(self) -> Rtype {
        match self {
            Self::A => Rtype::A,
            Self::Aaaa => Rtype::AAAA,
            Self::Srv => Rtype::SRV,
        }
    }
}

/// A question to a name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    name: Name<Vec<u8>>,
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

/// The content of a response from a name server.
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
    /// A question for the records of `name`, which is absolute, with or without a dot at its end. `None` if it is too long.
    pub(super) fn new(name: &str, kind: RecordKind) -> Option<Self> {
        let name = Name::<Vec<u8>>::from_str(name).ok()?;
        Some(Self { name, kind })
    }

    /// Encodes the query with this id. It asks for recursion.
    pub(super) fn encode(&self, id: u16) -> Vec<u8> {
        let mut message = MessageBuilder::new_vec();
        message.header_mut().set_id(id);
        message.header_mut().set_rd(true);
        let mut questions = message.question();
        // A vector has room for any name, whose length is at most 255.
        let pushed = questions.push((&self.name, self.kind.rtype()));
        debug_assert!(pushed.is_ok());
        questions.finish()
    }

    /// Reads an answer to the query that had this id.
    pub(super) fn read(&self, id: u16, bytes: &[u8]) -> Reply {
        self.parse(id, bytes).unwrap_or(Reply::Unrelated)
    }

    /// Reads an answer; `None` if it is malformed or answers another question.
    fn parse(&self, id: u16, bytes: &[u8]) -> Option<Reply> {
        let message = Message::from_octets(bytes).ok()?;
        let header = message.header();
        let asked = message.sole_question().ok()?;
        let is_ours = header.id() == id
            && header.qr()
            && asked.qname().name_eq(&self.name)
            && asked.qtype() == self.kind.rtype()
            && asked.qclass() == Class::IN;
        if !is_ours {
            return None;
        }
        if header.tc() {
            return Some(Reply::Truncated);
        }
        match header.rcode() {
            Rcode::NOERROR => {}
            Rcode::NXDOMAIN => return Some(Reply::NoSuchName),
            code => return Some(Reply::Failed(code.to_string())),
        }
        let Some((owner, mut ttl)) = canonical(&message, &self.name)? else {
            return Some(Reply::NoRecord);
        };
        let mut records = Vec::new();
        for record in message.answer().ok()? {
            let record = record.ok()?;
            // The chain of aliases is in the answer as well, and a server may add what wasn't asked for.
            if record.class() != Class::IN
                || record.rtype() != self.kind.rtype()
                || !record.owner().name_eq(&owner)
            {
                continue;
            }
            ttl = ttl.min(record.ttl().into_duration());
            records.push(match self.kind {
                RecordKind::A => {
                    let a = record.into_record::<A>().ok()??;
                    RecordData::Address(a.data().addr().into())
                }
                RecordKind::Aaaa => {
                    let aaaa = record.into_record::<Aaaa>().ok()??;
                    RecordData::Address(aaaa.data().addr().into())
                }
                RecordKind::Srv => {
                    let srv = record.into_record::<Srv<ParsedName<&[u8]>>>().ok()??;
                    service(srv.data())
                }
            });
        }
        Some(match records.is_empty() {
            true => Reply::NoRecord,
            false => Reply::Records { records, ttl },
        })
    }
}

fn service(srv: &Srv<ParsedName<&[u8]>>) -> RecordData {
    RecordData::Service {
        priority: srv.priority(),
        weight: srv.weight(),
        port: srv.port(),
        target: srv.target().to_string().to_ascii_lowercase(),
    }
}

/// The longest TTL: 2³¹ − 1 seconds (RFC 2181 section 8).
const LONGEST_TTL: Duration = Duration::from_secs((1 << 31) - 1);

/// Follows the CNAME records of an answer from `name`. Returns the last name and the smallest TTL on the way; `Some(None)` if
/// the chain doesn't end, and `None` if the message is malformed.
fn canonical(
    message: &Message<&[u8]>,
    name: &Name<Vec<u8>>,
) -> Option<Option<(Name<Vec<u8>>, Duration)>> {
    let mut aliases = Vec::new();
    for record in message
        .answer()
        .ok()?
        .limit_to_in::<Cname<ParsedName<&[u8]>>>()
    {
        let record = record.ok()?;
        let owner: Name<Vec<u8>> = record.owner().to_name();
        let target: Name<Vec<u8>> = record.data().cname().to_name();
        aliases.push((owner, target, record.ttl().into_duration()));
    }
    let (mut last, mut ttl) = (name.clone(), LONGEST_TTL);
    for _ in 0..=LONGEST_CHAIN {
        let alias = aliases.iter().find(|(owner, ..)| owner.name_eq(&last));
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
