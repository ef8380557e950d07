//! Changes that depend on the current state: compare-and-swap of a key. Also deletions.

use bytes::Bytes;

use super::kv::Entry;
use super::lease::LeaseId;
use super::proto::{
    Compare, DeleteRangeRequest, HeaderResponse, MOD_REVISION, PutRequest, RangeRequest,
    TxnOperation, TxnRequest, TxnResponse,
};
use super::{Etcd, EtcdError, Revision};

/// The outcome of a compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) enum CasOutcome {
    /// The key has the new value, with this revision.
    Done(Revision),
    /// The key had another revision. Contains its current entry, or `None` if it is absent.
    Conflict(Option<Entry>),
}

impl Etcd {
    /// Writes a key if its revision is `expected`, or if `expected` is `None` and the key is absent. May be repeated if the outcome
    /// of a first attempt is unknown: it then conflicts with itself.
    pub(in crate::control) async fn cas(
        &self,
        key: &str,
        expected: Option<Revision>,
        value: Vec<u8>,
        lease: Option<LeaseId>,
    ) -> Result<CasOutcome, EtcdError> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let request = TxnRequest {
            compare: vec![Compare {
                target: MOD_REVISION,
                key: key.clone(),
                // The revision of an absent key is 0.
                mod_revision: Some(expected.unwrap_or(0)),
                ..Compare::default()
            }],
            success: vec![TxnOperation {
                put: Some(PutRequest {
                    key: key.clone(),
                    value: value.into(),
                    lease: lease.map_or(0, |lease| lease.0),
                }),
                ..TxnOperation::default()
            }],
            failure: vec![TxnOperation {
                range: Some(RangeRequest {
                    key,
                    ..RangeRequest::default()
                }),
                ..TxnOperation::default()
            }],
        };
        let response: TxnResponse = self.call("KV/Txn", &request).await?;
        if response.succeeded {
            let revision = response.header.unwrap_or_default().revision;
            return Ok(CasOutcome::Done(revision));
        }
        let found = response.responses.into_iter().next().and_then(|r| r.range);
        let found = found.and_then(|range| range.kvs.into_iter().next());
        Ok(CasOutcome::Conflict(found.and_then(Entry::read)))
    }

    /// Deletes a key.
    pub(in crate::control) async fn delete(&self, key: &str) -> Result<(), EtcdError> {
        self.delete_keys(key, "").await
    }

    /// Deletes the keys from `from` to before `end`.
    pub(in crate::control) async fn delete_range(
        &self,
        from: &str,
        end: &str,
    ) -> Result<(), EtcdError> {
        self.delete_keys(from, end).await
    }

    async fn delete_keys(&self, key: &str, end: &str) -> Result<(), EtcdError> {
        let request = DeleteRangeRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            range_end: Bytes::copy_from_slice(end.as_bytes()),
        };
        let _: HeaderResponse = self.call("KV/DeleteRange", &request).await?;
        Ok(())
    }
}
