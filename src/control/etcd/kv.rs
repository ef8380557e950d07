//! Reads and writes keys. Every read is linearizable: it shows the state that the majority has agreed on.

use bytes::Bytes;

use super::lease::LeaseId;
use super::proto::{HeaderResponse, KeyValue, PutRequest, RangeRequest, RangeResponse};
use super::{Etcd, EtcdError, Revision};

/// Largest value that is passed on, in bytes.
pub(in crate::control) const MAX_VALUE: usize = 64 * 1024;
/// Longest key that is passed on, in bytes.
const MAX_KEY: usize = 1024;
/// Most entries of a listing.
const MAX_ENTRIES: usize = 4096;
/// Entries of one response: as many as fit in a message if each has the largest value.
const PAGE: i64 = 64;

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct Entry {
    pub key: String,
    /// The value. Empty if it is larger than 64 KiB, which is logged.
    pub value: Bytes,
    /// The revision of its last change.
    pub mod_revision: Revision,
    /// The lease with which the key ends.
    pub lease: Option<LeaseId>,
}

impl Entry {
    /// Checks an entry that etcd sent. Returns `None`, and logs the reason, if it can't be used.
    pub(super) fn read(kv: KeyValue) -> Option<Self> {
        let shown = || String::from_utf8_lossy(&kv.key[..kv.key.len().min(MAX_KEY)]);
        let text = std::str::from_utf8(&kv.key);
        let text = text.ok().filter(|text| text.len() <= MAX_KEY);
        let Some(text) = text else {
            tracing::warn!(key = ?shown(), "fleet: ignoring a key that isn't text, or too long");
            return None;
        };
        let mut value = kv.value.clone();
        if value.len() > MAX_VALUE {
            tracing::warn!(
                key = ?shown(),
                bytes = value.len(),
                "fleet: ignoring a value that is larger than {MAX_VALUE} bytes"
            );
            value = Bytes::new();
        }
        Some(Self {
            key: text.to_owned(),
            value,
            mod_revision: kv.mod_revision,
            lease: (kv.lease != 0).then_some(LeaseId(kv.lease)),
        })
    }
}

/// All keys under a prefix, as of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::control) struct Listing {
    pub revision: Revision,
    /// The ID of etcd's cluster.
    pub cluster: u64,
    pub entries: Vec<Entry>,
    /// Whether there are more than 4096 keys; the rest is missing.
    pub is_truncated: bool,
}

impl Etcd {
    /// Reads a key.
    pub(in crate::control) async fn get(&self, key: &str) -> Result<Option<Entry>, EtcdError> {
        let response: RangeResponse = self.call("KV/Range", &one(key)).await?;
        Ok(response.kvs.into_iter().next().and_then(Entry::read))
    }

    /// Reads all keys that begin with `prefix`.
    pub(in crate::control) async fn list(&self, prefix: &str) -> Result<Listing, EtcdError> {
        let mut listing = Listing::default();
        let mut request = RangeRequest {
            key: Bytes::copy_from_slice(prefix.as_bytes()),
            range_end: range_end(prefix),
            limit: PAGE,
            ..RangeRequest::default()
        };
        let mut received = 0;
        loop {
            let response: RangeResponse = match self.call("KV/Range", &request).await {
                Ok(response) => response,
                // Values that no member of this fleet writes. One at a time, they can be read and ignored.
                Err(EtcdError::TooLarge) if request.limit > 1 => {
                    request.limit = 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let header = response.header.unwrap_or_default();
            if request.revision == 0 {
                // Further pages are read as of the same revision.
                request.revision = header.revision;
                listing.revision = header.revision;
                listing.cluster = header.cluster_id;
            }
            request.limit = (request.limit * 2).min(PAGE);
            received += response.kvs.len();
            let last = response.kvs.last().map(|kv| kv.key.clone());
            listing
                .entries
                .extend(response.kvs.into_iter().filter_map(Entry::read));
            let Some(last) = last.filter(|_| response.more) else {
                return Ok(listing);
            };
            if received >= MAX_ENTRIES {
                listing.is_truncated = true;
                return Ok(listing);
            }
            // The next page begins with the first key after this one.
            request.key = [&last[..], &[0]].concat().into();
        }
    }

    /// Writes a key whatever its value is.
    pub(in crate::control) async fn put(
        &self,
        key: &str,
        value: Vec<u8>,
        lease: Option<LeaseId>,
    ) -> Result<Revision, EtcdError> {
        let response: HeaderResponse = self.call("KV/Put", &put(key, value, lease)).await?;
        Ok(response.header.unwrap_or_default().revision)
    }
}

pub(super) fn one(key: &str) -> RangeRequest {
    RangeRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..RangeRequest::default()
    }
}

pub(super) fn put(key: &str, value: Vec<u8>, lease: Option<LeaseId>) -> PutRequest {
    PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: value.into(),
        lease: lease.map_or(0, |lease| lease.0),
    }
}

/// The end of the range of keys that begin with `prefix`: the first key after them.
pub(super) fn range_end(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    // The end of the range of all keys.
    Bytes::from_static(&[0])
}
