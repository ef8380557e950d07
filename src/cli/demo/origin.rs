//! A version of the shop: one answer, after a given time, that says who gave it.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::cli::fault::CommandError;

/// Starts one on a free port of 127.0.0.1. It lives as long as the runtime.
pub(super) async fn start(
    name: &'static str,
    latency: Duration,
) -> Result<SocketAddr, CommandError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.map_err(|e| CommandError::new(format!("{name} can't listen: {e}")))?;
    let address = listener.local_addr();
    let address = address.map_err(|e| CommandError::new(format!("{name} has no address: {e}")))?;
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
    // A connection that breaks is the proxy's to notice.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
