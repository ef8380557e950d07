//! gRPC over an HTTP/2 connection: unary calls and streams of messages, with bounded sizes
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::rc::Rc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use prost::Message;
use tokio::sync::watch;

/// Largest message that is read, in bytes. A page of [`super::kv`] fits in.
pub(super) const MAX_MESSAGE: usize = 5 << 20;
/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

const AGENT: &str = concat!("cutover/", env!("CARGO_PKG_VERSION"));

/// The reason why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    /// Nothing of the request was sent.
    NotSent(String),
    /// The connection or the stream failed before the answer was complete, or the answer isn't gRPC.
    Broken(String),
    /// A message is larger than [`MAX_MESSAGE`].
    TooLarge,
    /// The server answered with a status other than 0.
    Status { code: u32, message: String },
}

/// A connection that calls are sent over. Cheap to clone.
#[derive(Clone)]
pub(super) struct Channel {
    sender: SendRequest<Bytes>,
    /// Scheme and authority, before the path.
    origin: Rc<str>,
    /// The token that etcd issued for the user. Shared by the clones, because it is replaced when it has expired.
    token: Rc<watch::Sender<Option<HeaderValue>>>,
}

impl Channel {
    /// Wraps a connection. `origin` is such as `http://127.0.0.1:2379`.
    pub(super) fn new(sender: SendRequest<Bytes>, origin: &str) -> Self {
        Self {
            sender,
            origin: origin.into(),
            token: Rc::new(watch::Sender::new(None)),
        }
    }

    /// The same connection for calls without a token. etcd refuses even a login that has an expired token.
    pub(super) fn without_token(&self) -> Self {
        Self {
            token: Rc::new(watch::Sender::new(None)),
            ..self.clone()
        }
    }

    /// The token in use.
    pub(super) fn token(&self) -> Option<HeaderValue> {
        self.token.borrow().clone()
    }

    /// Replaces the token.
    pub(super) fn set_token(&self, token: HeaderValue) {
        self.token.send_replace(Some(token));
    }

    /// Waits until the token isn't this one any more. Cancellation safe.
    pub(super) async fn other_token(&self, former: &Option<HeaderValue>) {
        // `self` holds the sender, so that this can't fail.
        let _ = self
            .token
            .subscribe()
            .wait_for(|token| token != former)
            .await;
    }

    /// Sends one message and reads the only one of the response.
    ///
    /// # Errors
    /// See [`CallError`]. The caller sets the time limit.
    pub(super) async fn unary<R: Message + Default>(
        &self,
        method: &str,
        message: &impl Message,
    ) -> Result<R, CallError> {
        let (_sent, mut messages) = self.stream(method, message, true).await?;
        let first = messages.next().await?;
        let none = || CallError::Broken("the answer is empty".to_owned());
        let first = first.ok_or_else(none)?;
        // The status may still be a failure.
        match messages.next::<R>().await? {
            None => Ok(first),
            Some(_) => Err(CallError::Broken("more than one answer".to_owned())),
        }
    }

    /// Sends a first message, and returns the messages that come back. With `is_last`, no further message can be sent; else
    /// the request ends when the returned `SendStream` is dropped.
    pub(super) async fn stream(
        &self,
        method: &str,
        message: &impl Message,
        is_last: bool,
    ) -> Result<(SendStream<Bytes>, Messages), CallError> {
        let not_sent = |e: h2::Error| CallError::NotSent(e.to_string());
        let request = self.head(method).map_err(CallError::NotSent)?;
        let mut sender = self.sender.clone().ready().await.map_err(not_sent)?;
        let (response, mut body) = sender.send_request(request, false).map_err(not_sent)?;
        // Bytes beyond the peer's window are buffered: our messages are small.
        body.send_data(frame(message), is_last).map_err(broken)?;
        let response = response.await.map_err(broken)?;
        Ok((body, Messages::new(response)?))
    }

    fn head(&self, method: &str) -> Result<Request<()>, String> {
        let request = Request::post(format!("{}/etcdserverpb.{method}", self.origin))
            .header(header::TE, "trailers")
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::USER_AGENT, AGENT)
            // A member without a leader refuses at once, and ends a watch, instead of staying silent.
            .header("hasleader", "true");
        let mut request = request.body(()).map_err(|e| e.to_string())?;
        if let Some(token) = self.token() {
            request.headers_mut().insert("token", token);
        }
        Ok(request)
    }
}

fn broken(error: h2::Error) -> CallError {
    CallError::Broken(error.to_string())
}

/// A message with its prefix.
pub(super) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(PREFIX + length);
    framed.put_u8(0);
    // None of our messages is near 4 GiB.
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // Fails only if the buffer is too small, and it grows.
    let _ = message.encode(&mut framed);
    framed.freeze()
}

/// The messages of a response.
pub(super) struct Messages {
    body: RecvStream,
    buffer: BytesMut,
}

impl Messages {
    fn new(response: Response<RecvStream>) -> Result<Self, CallError> {
        let (head, body) = response.into_parts();
        // A response without messages has its status in the head.
        if head.headers.contains_key("grpc-status") {
            check_status(&head.headers)?;
        }
        let kind = head.headers.get(header::CONTENT_TYPE);
        let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if head.status != 200 || !is_grpc {
            let why = format!("the answer isn't gRPC (status {})", head.status.as_u16());
            return Err(CallError::Broken(why));
        }
        Ok(Self {
            body,
            buffer: BytesMut::new(),
        })
    }

    /// Waits for the next message. `None` if the response has ended with success. Not cancellation safe.
    pub(super) async fn next<R: Message + Default>(&mut self) -> Result<Option<R>, CallError> {
        loop {
            if let Some(message) = self.take()? {
                let decoded = R::decode(message);
                return decoded
                    .map(Some)
                    .map_err(|e| CallError::Broken(e.to_string()));
            }
            let Some(piece) = self.body.data().await else {
                break;
            };
            let piece = piece.map_err(broken)?;
            // An error here means that the stream has ended, which the next read reports.
            let _ = self.body.flow_control().release_capacity(piece.len());
            self.buffer.extend_from_slice(&piece);
        }
        if !self.buffer.is_empty() {
            return Err(CallError::Broken("the answer ends early".to_owned()));
        }
        let trailers = self.body.trailers().await.map_err(broken)?;
        let missing = || CallError::Broken("the answer has no status".to_owned());
        check_status(&trailers.ok_or_else(missing)?)?;
        Ok(None)
    }

    /// Takes a whole message out of the buffer.
    fn take(&mut self) -> Result<Option<Bytes>, CallError> {
        let Some(mut prefix) = self.buffer.get(..PREFIX) else {
            return Ok(None);
        };
        if prefix.get_u8() != 0 {
            // No compression was offered.
            return Err(CallError::Broken("the answer is compressed".to_owned()));
        }
        let length = prefix.get_u32() as usize;
        if length > MAX_MESSAGE {
            return Err(CallError::TooLarge);
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

/// Reads `grpc-status` and `grpc-message`.
fn check_status(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status").and_then(|code| code.parse().ok());
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(CallError::Status {
            code,
            // The text is percent-encoded where it isn't plain. etcd's messages are plain; any other is shown in its encoded form.
            message: text("grpc-message").unwrap_or_default().to_owned(),
        }),
        None => Err(CallError::Broken("the answer has no status".to_owned())),
    }
}
