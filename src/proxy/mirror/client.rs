//! Sends copies on connections of their own, over HTTP/1.1 or HTTP/2.
//!
//! These connections count neither under the version's limits nor in its metrics. They use a general-purpose client, because
//! their speed doesn't matter. The time limit of a copy bounds the effect of a slow target.

use std::cell::RefCell;
use std::error::Error;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;

use super::answer::ComparedAnswer;
use crate::config::mirror::MirrorSpec;
use crate::config::spec;
use crate::upstream::{Endpoint, TransportId, connect};

/// Time for which a connection is kept for the next copy.
const MAX_IDLE: Duration = Duration::from_secs(10);
/// Most connections that are kept.
const MAX_KEPT: usize = 256;
/// Number of bytes beyond the cap that are read of a response. A larger response is given up, and its connection closed.
const DRAINED_BYTES: usize = 1 << 20;

/// The head and body of a copy.
#[derive(Debug)]
pub(super) struct CopiedRequest {
    pub method: Method,
    pub target: PathAndQuery,
    /// The authority of the original; `None` if it has none (HTTP/1.0).
    pub authority: Option<Authority>,
    /// End-to-end fields, without `host` and those of the framing.
    pub fields: HeaderMap,
    pub body: Bytes,
}

/// Connections to the targets of mirrors.
#[derive(Debug, Default)]
pub(super) struct MirrorClient(RefCell<Vec<KeptConnection>>);

/// A connection that waits for the next copy. The weak reference keeps the endpoint's address from being reused.
#[derive(Debug)]
struct KeptConnection {
    endpoint: Weak<Endpoint>,
    connection: CopyConnection,
    since: Instant,
}

/// An open connection, and the number of the transport that it was opened by.
#[derive(Debug)]
struct CopyConnection {
    sender: CopySender,
    transport: TransportId,
}

#[derive(Debug)]
enum CopySender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

type CopyError = Box<dyn Error + Send + Sync>;

impl MirrorClient {
    /// Sends a copy and reads the parts of its response that are compared.
    ///
    /// # Errors
    /// There is no complete response.
    pub(super) async fn send(
        self: &Rc<Self>,
        endpoint: &Arc<Endpoint>,
        request: &CopiedRequest,
        spec: &MirrorSpec,
    ) -> Result<ComparedAnswer, CopyError> {
        // A kept connection may have been closed meanwhile. Only a request that may be repeated can be sent again then.
        if request.method.is_idempotent()
            && let Some(kept) = self.take(endpoint)
            && let Ok(answer) = self.exchange(endpoint, kept, request, spec).await
        {
            return Ok(answer);
        }
        let fresh = open(endpoint, spec.timeout).await?;
        self.exchange(endpoint, fresh, request, spec).await
    }

    async fn exchange(
        self: &Rc<Self>,
        endpoint: &Arc<Endpoint>,
        mut connection: CopyConnection,
        request: &CopiedRequest,
        spec: &MirrorSpec,
    ) -> Result<ComparedAnswer, CopyError> {
        let response = match &mut connection.sender {
            CopySender::Http1(sender) => sender.send_request(over_http1(endpoint, request)).await?,
            CopySender::Http2(sender) => {
                sender.send_request(over_http2(endpoint, request)?).await?
            }
        };
        let (answer, is_whole) = read(response, spec).await?;
        if is_whole {
            self.keep(Arc::downgrade(endpoint), connection);
        }
        Ok(answer)
    }

    /// Takes a connection to this endpoint that is still open. A connection over HTTP/2 stays for other copies.
    fn take(&self, endpoint: &Arc<Endpoint>) -> Option<CopyConnection> {
        let mut all = self.0.borrow_mut();
        let transport = endpoint.version.transport.id();
        let fits = |kept: &KeptConnection| {
            kept.endpoint.as_ptr() == Arc::as_ptr(endpoint)
                && kept.connection.transport == transport
                && !kept.connection.sender.is_closed()
        };
        let at = all.iter().rposition(fits)?;
        match &all[at].connection.sender {
            CopySender::Http2(sender) => Some(CopyConnection {
                sender: CopySender::Http2(sender.clone()),
                transport,
            }),
            CopySender::Http1(_) => Some(all.swap_remove(at).connection),
        }
    }

    /// Keeps a connection once it is ready for another request.
    fn keep(self: &Rc<Self>, endpoint: Weak<Endpoint>, mut connection: CopyConnection) {
        let this = Rc::clone(self);
        spawn_local(async move {
            let is_ready = match &mut connection.sender {
                CopySender::Http1(sender) => sender.ready().await.is_ok(),
                CopySender::Http2(sender) => sender.ready().await.is_ok(),
            };
            let mut all = this.0.borrow_mut();
            if let CopySender::Http2(_) = connection.sender
                && let Some(known) = all.iter_mut().find(|kept| {
                    kept.endpoint.ptr_eq(&endpoint)
                        && kept.connection.transport == connection.transport
                        && matches!(kept.connection.sender, CopySender::Http2(_))
                })
            {
                known.since = Instant::now();
            } else if is_ready && all.len() < MAX_KEPT {
                all.push(KeptConnection {
                    endpoint,
                    connection,
                    since: Instant::now(),
                });
            }
        });
    }

    /// Closes connections that have waited for long, and those to endpoints that are gone.
    pub(super) fn sweep(&self, now: Instant) {
        self.0.borrow_mut().retain(|kept| {
            let is_fresh = now.saturating_duration_since(kept.since) < MAX_IDLE;
            is_fresh && !kept.connection.sender.is_closed() && kept.endpoint.strong_count() > 0
        });
    }
}

impl CopySender {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }
}

/// Runs the streams of an HTTP/2 connection on the thread of the connection.
#[derive(Clone, Copy, Debug)]
struct ThisThread;

impl<F: Future<Output = ()> + 'static> Executor<F> for ThisThread {
    fn execute(&self, stream: F) {
        spawn_local(stream);
    }
}

async fn open(endpoint: &Endpoint, limit: Duration) -> Result<CopyConnection, CopyError> {
    let opened = connect::open(endpoint, limit).await?;
    let stream = TokioIo::new(opened.stream);
    // A connection ends when it fails, when the peer closes it, or when its sender is dropped. Its exchange learns why.
    let sender = match opened.h2 {
        true => {
            let (sender, connection) = http2::handshake(ThisThread, stream).await?;
            spawn_local(async { drop(connection.await) });
            CopySender::Http2(sender)
        }
        false => {
            let (sender, connection) = http1::handshake(stream).await?;
            spawn_local(async { drop(connection.await) });
            CopySender::Http1(sender)
        }
    };
    Ok(CopyConnection {
        sender,
        transport: opened.transport,
    })
}

/// Reads a response. Also returns whether its end was reached, so that the connection can be used again.
async fn read(
    response: Response<Incoming>,
    spec: &MirrorSpec,
) -> Result<(ComparedAnswer, bool), CopyError> {
    let (head, mut body) = response.into_parts();
    let mut answer = ComparedAnswer::of_head(spec, head.status.as_u16(), |name| {
        let values = head.headers.get_all(name).iter();
        let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()));
        let values: Vec<_> = values.filter(|value| !value.is_empty()).collect();
        (!values.is_empty() || head.headers.contains_key(name)).then(|| values.join(", "))
    });
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            received += data.len();
            answer.push(data, spec.body_bytes);
            if received > spec.body_bytes + DRAINED_BYTES {
                return Ok((answer, false));
            }
        }
    }
    Ok((answer, true))
}

fn over_http1(endpoint: &Endpoint, copied: &CopiedRequest) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(copied.body.clone()));
    *request.method_mut() = copied.method.clone();
    *request.uri_mut() = Uri::from(copied.target.clone());
    *request.headers_mut() = copied.fields.clone();
    let authority = copied.authority.as_ref().map(Authority::as_str);
    let host = HeaderValue::from_str(authority.unwrap_or(&endpoint.authority));
    if let Ok(host) = host {
        request.headers_mut().insert(header::HOST, host);
    }
    request
}

fn over_http2(
    endpoint: &Endpoint,
    copied: &CopiedRequest,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let scheme = match endpoint.spec.scheme {
        spec::Scheme::Https => Scheme::HTTPS,
        spec::Scheme::Http | spec::Scheme::H2c => Scheme::HTTP,
    };
    let authority = copied.authority.as_ref().map(Authority::as_str);
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(authority.unwrap_or(&endpoint.authority))
        .path_and_query(copied.target.clone())
        .build()?;
    let mut request = Request::new(Full::new(copied.body.clone()));
    *request.method_mut() = copied.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = copied.fields.clone();
    Ok(request)
}
