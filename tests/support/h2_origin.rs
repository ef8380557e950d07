//! HTTP/2 origins, on a thread and runtime of their own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::h2_client::{piece, send};
use super::listen;

/// An origin on a port of its own; ends with its value.
pub struct H2Origin {
    address: SocketAddr,
    log: Arc<Log>,
    _stop: oneshot::Sender<()>,
}

#[derive(Default)]
struct Log {
    connections: AtomicUsize,
    active: AtomicUsize,
    most: AtomicUsize,
    resets: AtomicUsize,
    /// Requests that a connection serves before it says GOAWAY; 0 = any number.
    most_requests: AtomicUsize,
    /// Streams that it announces to take at once on a connection; 0 = any number.
    most_streams: AtomicUsize,
    /// It announces extended CONNECT.
    connects: AtomicBool,
    heads: Mutex<Vec<Request<()>>>,
}

/// Counts a stream while it is in the hands of a script.
pub struct Active(Arc<Log>);

impl Active {
    fn new(log: &Arc<Log>) -> Self {
        let now = log.active.fetch_add(1, Ordering::SeqCst) + 1;
        log.most.fetch_max(now, Ordering::SeqCst);
        Self(log.clone())
    }

    /// The peer took the request back.
    pub fn was_reset(&self) {
        self.0.resets.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A request in the hands of a script.
pub struct Exchange {
    /// The request and its body.
    pub request: Request<RecvStream>,
    /// Where the answer goes.
    pub respond: SendResponse<Bytes>,
    /// Its place in the log.
    pub active: Active,
}

impl H2Origin {
    /// Every request is handed to `script`, each as a task of its own, in clear text.
    pub fn script<F>(script: impl Fn(Exchange) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), h2::Error>> + Send + 'static,
    {
        Self::serve(None, Arc::new(script))
    }

    /// As [`Self::script`], over TLS.
    pub fn script_tls<F>(
        config: Arc<rustls::ServerConfig>,
        script: impl Fn(Exchange) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), h2::Error>> + Send + 'static,
    {
        Self::serve(Some(TlsAcceptor::from(config)), Arc::new(script))
    }

    /// From now on connections announce that extended CONNECT is accepted.
    pub fn accept_connect(&self) {
        self.log.connects.store(true, Ordering::SeqCst);
    }

    /// Answers 200 with its name.
    pub fn named(name: &'static str) -> Self {
        Self::script(move |x| x.reply(name))
    }

    /// From now on each connection says GOAWAY at its request number `most`, and serves it still.
    pub fn goaway_after(&self, most: usize) {
        self.log.most_requests.store(most, Ordering::SeqCst);
    }

    /// As [`Self::script`]; a connection takes so many streams at once.
    pub fn narrow<F>(streams: usize, script: impl Fn(Exchange) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), h2::Error>> + Send + 'static,
    {
        let origin = Self::script(script);
        origin.log.most_streams.store(streams, Ordering::SeqCst);
        origin
    }

    fn serve<F>(
        tls: Option<TlsAcceptor>,
        script: Arc<impl Fn(Exchange) -> F + Send + Sync + 'static>,
    ) -> Self
    where
        F: Future<Output = Result<(), h2::Error>> + Send + 'static,
    {
        let (listener, address) = listen();
        listener.set_nonblocking(true).expect("non-blocking");
        let log = Arc::new(Log::default());
        let (stop, stopped) = oneshot::channel();
        let inner = log.clone();
        std::thread::spawn(move || {
            runtime().block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let accept = async {
                    while let Ok((socket, _)) = listener.accept().await {
                        socket.set_nodelay(true).expect("TCP_NODELAY");
                        inner.connections.fetch_add(1, Ordering::SeqCst);
                        let (log, script) = (inner.clone(), script.clone());
                        match tls.clone() {
                            None => drop(tokio::spawn(one_connection(socket, log, script))),
                            Some(tls) => drop(tokio::spawn(async move {
                                if let Ok(stream) = tls.accept(socket).await {
                                    one_connection(stream, log, script).await;
                                }
                            })),
                        }
                    }
                };
                tokio::select! { () = accept => {}, _ = stopped => {} }
            });
        });
        Self {
            address,
            log,
            _stop: stop,
        }
    }

    /// `127.0.0.1:port`
    pub fn at(&self) -> String {
        self.address.to_string()
    }

    /// `h2c://127.0.0.1:port`
    pub fn h2c(&self) -> String {
        format!("h2c://{}", self.address)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.log.connections.load(Ordering::SeqCst)
    }

    /// Streams that are with the script now.
    pub fn active(&self) -> usize {
        self.log.active.load(Ordering::SeqCst)
    }

    /// Most streams that were with the script at once.
    pub fn most_active(&self) -> usize {
        self.log.most.load(Ordering::SeqCst)
    }

    /// Streams that the peer took back, as scripts noted them.
    pub fn resets(&self) -> usize {
        self.log.resets.load(Ordering::SeqCst)
    }

    /// The heads of all requests.
    pub fn heads(&self) -> Vec<Request<()>> {
        self.log.heads.lock().expect("log").clone()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

async fn one_connection<F>(
    io: impl AsyncRead + AsyncWrite + Unpin,
    log: Arc<Log>,
    script: Arc<impl Fn(Exchange) -> F>,
) where
    F: Future<Output = Result<(), h2::Error>> + Send + 'static,
{
    let mut builder = h2::server::Builder::new();
    match log.most_streams.load(Ordering::SeqCst) {
        0 => {}
        most => {
            builder.max_concurrent_streams(most as u32);
        }
    }
    if log.connects.load(Ordering::SeqCst) {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake(io).await else {
        return;
    };
    let mut served = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        served += 1;
        if served == log.most_requests.load(Ordering::SeqCst) {
            connection.graceful_shutdown();
        }
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.headers_mut() = request.headers().clone();
        log.heads.lock().expect("log").push(head);
        let active = Active::new(&log);
        tokio::spawn(script(Exchange {
            request,
            respond,
            active,
        }));
    }
}

impl Exchange {
    /// The path of the request.
    pub fn path(&self) -> String {
        self.request.uri().path().to_owned()
    }

    /// 200 with this body.
    pub async fn reply(mut self, body: &'static str) -> Result<(), h2::Error> {
        let mut stream = self.respond.send_response(Response::new(()), false)?;
        send(&mut stream, Bytes::from_static(body.as_bytes()), true).await
    }

    /// 200 with what `make` makes of the whole request body.
    pub async fn answer_with(mut self, make: impl FnOnce(&[u8]) -> Bytes) -> Result<(), h2::Error> {
        let mut whole = Vec::new();
        while let Some(bytes) = piece(self.request.body_mut()).await {
            whole.extend_from_slice(&bytes?);
        }
        let mut stream = self.respond.send_response(Response::new(()), false)?;
        send(&mut stream, make(&whole), true).await
    }

    /// 200 with the request's body as it comes, and these trailers (none if empty).
    pub async fn echo(mut self, trailers: HeaderMap) -> Result<(), h2::Error> {
        let mut response = Response::new(());
        if let Some(kind) = self.request.headers().get("content-type") {
            response.headers_mut().insert("content-type", kind.clone());
        }
        let mut stream = self.respond.send_response(response, false)?;
        let mut body = self.request.into_body();
        while let Some(bytes) = piece(&mut body).await {
            send(&mut stream, bytes?, false).await?;
        }
        // Trailers of the request come back as well, so that a test can see them arrive.
        let mut back = body.trailers().await?.unwrap_or_default();
        back.extend(trailers);
        if back.is_empty() {
            stream.send_data(Bytes::new(), true)
        } else {
            stream.send_trailers(back)
        }
    }

    /// Never answers; notes when the peer takes the request back.
    pub async fn never(mut self) -> Result<(), h2::Error> {
        std::future::poll_fn(|cx| self.respond.poll_reset(cx))
            .await
            .map(|_| self.active.was_reset())
    }
}
