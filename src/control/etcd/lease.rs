//! Leases: keys attached to one vanish when its owner stops renewing it.

use std::time::Duration;

use super::error::printable;
use super::proto::{
    HeaderResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseRequest,
};
use super::{Etcd, EtcdError};

/// The ID of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) struct LeaseId(pub i64);

impl Etcd {
    /// Creates a lease that expires if it isn't renewed within `ttl`, which is in whole seconds.
    pub(in crate::control) async fn grant(&self, ttl: Duration) -> Result<LeaseId, EtcdError> {
        let request = LeaseGrantRequest {
            ttl: ttl.as_secs().max(1).cast_signed(),
        };
        let response: LeaseGrantResponse = self.call("Lease/LeaseGrant", &request).await?;
        match response.error.is_empty() {
            true => Ok(LeaseId(response.id)),
            false => Err(EtcdError::Refused {
                code: 0,
                message: printable(&response.error),
            }),
        }
    }

    /// Renews a lease. Returns the time until it expires.
    ///
    /// # Errors
    /// [`EtcdError::LeaseGone`] if the lease has expired.
    pub(in crate::control) async fn keep_alive(
        &self,
        lease: LeaseId,
    ) -> Result<Duration, EtcdError> {
        // One request on a stream of its own: that is a unary call.
        let request = LeaseRequest { id: lease.0 };
        let response: LeaseKeepAliveResponse = self.call("Lease/LeaseKeepAlive", &request).await?;
        match u64::try_from(response.ttl) {
            Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
            _ => Err(EtcdError::LeaseGone),
        }
    }

    /// Ends a lease, and deletes its keys.
    pub(in crate::control) async fn revoke(&self, lease: LeaseId) -> Result<(), EtcdError> {
        let request = LeaseRequest { id: lease.0 };
        let _: HeaderResponse = self.call("Lease/LeaseRevoke", &request).await?;
        Ok(())
    }
}
