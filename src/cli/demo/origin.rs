//! The origin server of a version: answers every request after a fixed latency, with the name of the version in the body
//! and in the field `x-version`. It answers health checks at `/ready`, and may fail a part of the other requests.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::cli::error::CommandError;

/// The path of health checks.
const CHECK: &str = "/ready";

/// The behaviour of an origin.
#[derive(Clone, Copy, Debug)]
pub(super) struct OriginPlan {
    /// The version that the origin serves.
    pub version: &'static str,
    /// Time until the origin answers.
    pub latency: Duration,
    /// Share of requests that the origin answers with a 500, in percent.
    pub failing: u32,
    /// Whether the health check passes from the start.
    pub is_ready: bool,
}

impl OriginPlan {
    /// An origin without failures.
    pub(super) fn new(version: &'static str, latency: Duration) -> Self {
        Self {
            version,
            latency,
            failing: 0,
            is_ready: true,
        }
    }
}

/// A running origin.
#[derive(Debug)]
pub(super) struct DemoOrigin {
    /// The address on which the origin listens.
    pub address: SocketAddr,
    /// The version that the origin serves.
    pub version: &'static str,
    /// Whether the health check passes.
    pub is_ready: Cell<bool>,
    /// Number of requests, without health checks.
    pub requests: Cell<u64>,
    /// Number of requests among them that failed.
    pub failed: Cell<u64>,
    /// Time of the first request.
    pub first: Cell<Option<Instant>>,
    /// Time at which the health check passed first.
    pub passed: Cell<Option<Instant>>,
}

/// Starts an origin on a free port of 127.0.0.1. It runs until the runtime is dropped.
///
/// # Errors
/// No port can be bound.
pub(super) async fn start(plan: OriginPlan) -> Result<Rc<DemoOrigin>, CommandError> {
    let cannot = |error: std::io::Error| {
        CommandError::new(format!(
            "can't start the origin of {}: {error}",
            plan.version
        ))
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(cannot)?;
    let origin = Rc::new(DemoOrigin {
        address: listener.local_addr().map_err(cannot)?,
        version: plan.version,
        is_ready: Cell::new(plan.is_ready),
        requests: Cell::new(0),
        failed: Cell::new(0),
        first: Cell::new(None),
        passed: Cell::new(None),
    });
    let served = origin.clone();
    tokio::task::spawn_local(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    tokio::task::spawn_local(serve(stream, plan, served.clone()));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok(origin)
}

async fn serve(stream: tokio::net::TcpStream, plan: OriginPlan, origin: Rc<DemoOrigin>) {
    let service = service_fn(move |request: Request<_>| {
        let (status, latency) = match request.uri().path() {
            CHECK => (origin.check(), Duration::ZERO),
            _ => (origin.request(plan.failing), plan.latency),
        };
        let name = plan.version;
        async move {
            tokio::time::sleep(latency).await;
            let body = Full::new(Bytes::from(format!("hello from {name}\n")));
            let mut answer = Response::new(body);
            *answer.status_mut() = status;
            let headers = answer.headers_mut();
            headers.insert("x-version", HeaderValue::from_static(name));
            Ok::<_, Infallible>(answer)
        }
    });
    // Connection errors show up at the proxy, which the demo watches.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl DemoOrigin {
    fn check(&self) -> StatusCode {
        if !self.is_ready.get() {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        if self.passed.get().is_none() {
            self.passed.set(Some(Instant::now()));
        }
        StatusCode::OK
    }

    /// Counts a request and returns its status.
    fn request(&self, failing: u32) -> StatusCode {
        if self.first.get().is_none() {
            self.first.set(Some(Instant::now()));
        }
        let number = self.requests.get();
        self.requests.set(number + 1);
        if !fails(number, failing) {
            return StatusCode::OK;
        }
        self.failed.set(self.failed.get() + 1);
        StatusCode::INTERNAL_SERVER_ERROR
    }
}

/// Whether the request with this number is one of the `percent` that fail. They are spread evenly without a period, so that
/// they fall on all users although those send requests in turn.
fn fails(number: u64, percent: u32) -> bool {
    // The fractional part of the golden ratio, in millionths: its multiples are spread most evenly (Weyl's sequence).
    const STEP: u64 = 618_034;
    (number * STEP) % 1_000_000 < u64::from(percent) * 10_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_as_many_as_stated_and_never_in_a_row() {
        let failing = |percent| (0..1000).filter(|n| fails(*n, percent)).count();
        assert_eq!((failing(0), failing(20), failing(100)), (0, 200, 1000));
        assert!(!(0..1000).any(|n| fails(n, 20) && fails(n + 1, 20)));
        // Every fifth request would always be one of the same users.
        assert!((0..5).all(|first| (0..100).any(|n| fails(first + n * 5, 20))));
    }
}
