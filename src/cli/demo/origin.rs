//! The origin server of a version: answers every request after a fixed latency, with the name of the version in the body
//! and in the field `x-version`.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::cli::error::CommandError;

/// Starts an origin on a free port of 127.0.0.1 and returns its address. It runs until the runtime is dropped.
///
/// # Errors
/// No port can be bound.
pub(super) async fn start(
    name: &'static str,
    latency: Duration,
) -> Result<SocketAddr, CommandError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener
        .map_err(|e| CommandError::new(format!("can't start the origin of {name}: {e}")))?;
    let address = listener.local_addr();
    let address =
        address.map_err(|e| CommandError::new(format!("can't start the origin of {name}: {e}")))?;
    tokio::task::spawn_local(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    tokio::task::spawn_local(serve(stream, name, latency));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok(address)
}

async fn serve(stream: tokio::net::TcpStream, name: &'static str, latency: Duration) {
    let service = service_fn(move |_request| async move {
        tokio::time::sleep(latency).await;
        let body = Full::new(Bytes::from(format!("hello from {name}\n")));
        let mut answer = Response::new(body);
        let headers = answer.headers_mut();
        headers.insert("x-version", HeaderValue::from_static(name));
        Ok::<_, Infallible>(answer)
    });
    // Connection errors show up at the proxy, which is what the demo watches.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
