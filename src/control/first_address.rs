//! Connections to hosts with several addresses.

use std::net::SocketAddr;

use tokio::time::{Instant, timeout};

/// Calls `open` with one address after the other until it succeeds, each for its part of the time until `deadline`. `late` is the
/// failure of an address that took longer.
///
/// # Errors
/// That of the last address.
pub(super) async fn first_opened<T, E>(
    addresses: &[SocketAddr],
    deadline: Instant,
    late: impl Fn() -> E,
    open: impl AsyncFn(SocketAddr) -> Result<T, E>,
) -> Result<T, E> {
    let mut failure = late();
    for (tried, address) in addresses.iter().enumerate() {
        let untried = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let part = deadline.saturating_duration_since(Instant::now()) / untried;
        failure = match timeout(part, open(*address)).await {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error)) => error,
            Err(_) => late(),
        };
    }
    Err(failure)
}
