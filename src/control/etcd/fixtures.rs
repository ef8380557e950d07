//! A stand-in for etcd: the part of its API that a fleet uses, over HTTP/2, with faults on request.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

use super::grpc::frame;
use super::proto::{
    AuthenticateRequest, AuthenticateResponse, Compare, Event, HeaderResponse, KeyValue,
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseRequest, MOD_REVISION,
    PutRequest, RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse, TxnResult,
    WatchRequest, WatchResponse,
};
use crate::config::fleet::{EtcdUrl, FleetSpec, OnLost};

/// Runs a test on a runtime such as the control thread's, within a time limit.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("a runtime");
    let limited = async { timeout(Duration::from_secs(20), test).await };
    runtime.block_on(limited).expect("ends in time");
}

/// A stand-in for one member of etcd.
pub(super) struct FakeEtcd {
    pub address: SocketAddr,
    pub store: Rc<RefCell<FakeStore>>,
    connections: Rc<RefCell<Vec<JoinHandle<()>>>>,
    _acceptor: JoinHandle<()>,
}

/// The content of the member, and its faults.
#[derive(Default)]
pub(super) struct FakeStore {
    pub cluster: u64,
    pub revision: i64,
    pub keys: BTreeMap<Bytes, KeyValue>,
    pub history: Vec<Event>,
    pub compacted: i64,
    pub has_no_leader: bool,
    /// The token that the member accepts; `None`: it asks for none.
    pub token: Option<String>,
    /// The users that have logged in.
    pub logins: Vec<(String, String)>,
    pub leases: Vec<i64>,
    /// Number of pages that have been read.
    pub ranges: usize,
    watchers: Vec<(WatchRequest, UnboundedSender<WatchResponse>)>,
}

type Answer = Result<Bytes, (u32, &'static str)>;

impl FakeStore {
    pub(super) fn put(&mut self, key: &str, value: impl Into<Bytes>) {
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.write(key, value.into(), 0);
    }

    fn write(&mut self, key: Bytes, value: Bytes, lease: i64) {
        self.revision += 1;
        let kv = KeyValue {
            key: key.clone(),
            mod_revision: self.revision,
            value,
            lease,
        };
        self.keys.insert(key, kv.clone());
        self.publish(Event {
            kind: 0,
            kv: Some(kv),
        });
    }

    pub(super) fn delete(&mut self, key: &str) {
        self.revision += 1;
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.keys.remove(&key);
        let kv = KeyValue {
            key,
            mod_revision: self.revision,
            ..KeyValue::default()
        };
        self.publish(Event {
            kind: 1,
            kv: Some(kv),
        });
    }

    fn publish(&mut self, event: Event) {
        self.history.push(event.clone());
        let response = WatchResponse {
            header: Some(self.header()),
            events: vec![event.clone()],
            ..WatchResponse::default()
        };
        self.watchers.retain(|(request, watcher)| {
            !concerns(request, &event) || watcher.send(response.clone()).is_ok()
        });
    }

    fn header(&self) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster,
            revision: self.revision,
        }
    }

    fn range(&mut self, request: &RangeRequest) -> RangeResponse {
        self.ranges += 1;
        let end = match request.range_end.is_empty() {
            true => [&request.key[..], &[0]].concat().into(),
            false => request.range_end.clone(),
        };
        let limit = match request.limit {
            0 => usize::MAX,
            limit => limit as usize,
        };
        let mut found = self.keys.range(request.key.clone()..end).map(|(_, kv)| kv);
        let kvs = found.by_ref().take(limit).cloned().collect();
        let more = found.next().is_some();
        RangeResponse {
            header: Some(self.header()),
            kvs,
            more,
        }
    }

    fn unary(&mut self, method: &str, message: Bytes) -> Answer {
        fn read<M: Message + Default>(message: Bytes) -> M {
            M::decode(message).expect("a valid message")
        }
        let bytes = match method {
            "KV/Range" => self.range(&read(message)).encode_to_vec(),
            "KV/Put" => {
                let put: PutRequest = read(message);
                if put.lease != 0 && !self.leases.contains(&put.lease) {
                    return Err((5, "etcdserver: requested lease not found"));
                }
                self.write(put.key, put.value, put.lease);
                let header = Some(self.header());
                HeaderResponse { header }.encode_to_vec()
            }
            "KV/Txn" => {
                let txn: TxnRequest = read(message);
                let holds = |compare: &Compare| {
                    let found = self.keys.get(&compare.key).map_or(0, |kv| kv.mod_revision);
                    assert_eq!((compare.result, compare.target), (0, MOD_REVISION));
                    compare.mod_revision == Some(found)
                };
                let succeeded = txn.compare.iter().all(holds);
                let operations = if succeeded { txn.success } else { txn.failure };
                let mut responses = Vec::new();
                for operation in operations {
                    let range = operation.range.map(|range| self.range(&range));
                    responses.push(TxnResult { range });
                    if let Some(put) = operation.put {
                        self.write(put.key, put.value, put.lease);
                    }
                }
                let header = Some(self.header());
                TxnResponse {
                    header,
                    succeeded,
                    responses,
                }
                .encode_to_vec()
            }
            "Lease/LeaseGrant" => {
                let _: LeaseGrantRequest = read(message);
                let id = 100 + self.leases.len() as i64;
                self.leases.push(id);
                let error = String::new();
                LeaseGrantResponse { id, error }.encode_to_vec()
            }
            "Lease/LeaseKeepAlive" => {
                let request: LeaseRequest = read(message);
                let ttl = if self.leases.contains(&request.id) {
                    10
                } else {
                    0
                };
                LeaseKeepAliveResponse { ttl }.encode_to_vec()
            }
            "Lease/LeaseRevoke" => {
                let request: LeaseRequest = read(message);
                self.end_lease(request.id);
                HeaderResponse::default().encode_to_vec()
            }
            "Auth/Authenticate" => {
                let request: AuthenticateRequest = read(message);
                if request.password != "secret" {
                    return Err((
                        3,
                        "etcdserver: authentication failed, invalid user ID or password",
                    ));
                }
                self.logins.push((request.name, request.password));
                let token = self.token.clone().unwrap_or_default();
                AuthenticateResponse { token }.encode_to_vec()
            }
            other => panic!("unexpected method {other}"),
        };
        Ok(bytes.into())
    }

    /// Ends a lease, as when it expires.
    pub(super) fn end_lease(&mut self, lease: i64) {
        self.leases.retain(|id| *id != lease);
        let attached = self.keys.values().filter(|kv| kv.lease == lease);
        let attached: Vec<_> = attached.map(|kv| kv.key.clone()).collect();
        for key in attached {
            self.delete(std::str::from_utf8(&key).expect("text"));
        }
    }

    /// The responses that a new watch begins with.
    fn begin_watch(&mut self, request: WatchRequest, watcher: &UnboundedSender<WatchResponse>) {
        let start = request.create.as_ref().expect("a creation").start_revision;
        let response = |change: &dyn Fn(&mut WatchResponse)| {
            let mut response = WatchResponse {
                header: Some(self.header()),
                ..WatchResponse::default()
            };
            change(&mut response);
            // The test may have ended.
            let _ = watcher.send(response);
        };
        response(&|r| r.created = true);
        if start <= self.compacted {
            return response(&|r| {
                r.canceled = true;
                r.compact_revision = self.compacted;
            });
        }
        let missed = { self.history.iter() }.filter(|event| {
            let revision = event.kv.as_ref().expect("a key").mod_revision;
            revision >= start && concerns(&request, event)
        });
        let missed: Vec<_> = missed.cloned().collect();
        if !missed.is_empty() {
            response(&|r| r.events = missed.clone());
        }
        self.watchers.push((request, watcher.clone()));
    }
}

fn concerns(request: &WatchRequest, event: &Event) -> bool {
    let create = request.create.as_ref().expect("a creation");
    let key = &event.kv.as_ref().expect("a key").key;
    (create.key.clone()..create.range_end.clone()).contains(key)
}

impl FakeEtcd {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let store = FakeStore {
            cluster: 7,
            revision: 10,
            ..FakeStore::default()
        };
        let store = Rc::new(RefCell::new(store));
        let connections: Rc<RefCell<Vec<JoinHandle<()>>>> = Rc::default();
        let (shared, opened) = (store.clone(), connections.clone());
        let acceptor = spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let store = shared.clone();
                opened.borrow_mut().push(spawn_local(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else {
                        return;
                    };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        spawn_local(answer(request, respond, store.clone()));
                    }
                }));
            }
        });
        Self {
            address,
            store,
            connections,
            _acceptor: acceptor,
        }
    }

    /// Closes all connections.
    pub(super) fn cut(&self) {
        self.store.borrow_mut().watchers.clear();
        for connection in self.connections.borrow_mut().drain(..) {
            connection.abort();
        }
    }

    pub(super) fn put(&self, key: &str, value: impl Into<Bytes>) {
        self.store.borrow_mut().put(key, value);
    }
}

/// Reads the first message.
async fn message(body: &mut RecvStream) -> Option<Bytes> {
    let mut buffer = BytesMut::new();
    loop {
        if let Some(mut prefix) = buffer.get(1..5)
            && let length = prefix.get_u32() as usize
            && buffer.len() >= 5 + length
        {
            return Some(buffer.split_off(5).split_to(length).freeze());
        }
        let piece = body.data().await?.ok()?;
        let _ = body.flow_control().release_capacity(piece.len());
        buffer.extend_from_slice(&piece);
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    store: Rc<RefCell<FakeStore>>,
) {
    let (head, mut body) = request.into_parts();
    let Some(message) = message(&mut body).await else {
        return;
    };
    let path = head.uri.path().strip_prefix("/etcdserverpb.");
    let method = path.expect("a method").to_owned();
    let token = head.headers.get("token").map(|t| t.to_str().expect("text"));
    let refusal = {
        let store = store.borrow();
        let wanted = store.token.as_deref();
        if store.has_no_leader {
            Some((14, "etcdserver: no leader"))
        } else if wanted.is_some()
            && wanted != token
            && (token.is_some() || method != "Auth/Authenticate")
        {
            Some(match token {
                Some(_) => (16, "etcdserver: invalid auth token"),
                None => (3, "etcdserver: user name is empty"),
            })
        } else {
            None
        }
    };
    let response = Response::builder().header("content-type", "application/grpc");
    let response = response.body(()).expect("a response");
    // The client may be gone, which fails the calls below.
    let Ok(mut stream) = respond.send_response(response, false) else {
        return;
    };
    if let Some(refusal) = refusal {
        return finish(&mut stream, Err(refusal));
    }
    if method == "Watch/Watch" {
        let request = WatchRequest::decode(message).expect("a valid message");
        let (sender, mut responses) = unbounded_channel();
        store.borrow_mut().begin_watch(request, &sender);
        drop(sender);
        while let Some(response) = responses.recv().await {
            if stream.send_data(frame(&response), false).is_err() {
                return;
            }
        }
        // The stream of a watch that was cancelled stays open.
        return std::future::pending().await;
    }
    let answer = store.borrow_mut().unary(&method, message);
    finish(&mut stream, answer);
}

/// Sends an answer and the status.
fn finish(stream: &mut SendStream<Bytes>, answer: Answer) {
    let (code, message) = match answer {
        Ok(bytes) => {
            let mut framed = vec![0];
            framed.extend((bytes.len() as u32).to_be_bytes());
            framed.extend(bytes);
            let _ = stream.send_data(framed.into(), false);
            (0, "")
        }
        Err(status) => status,
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    let _ = stream.send_trailers(trailers);
}

/// The configuration of a fleet with these members of etcd.
pub(super) fn fleet(members: &[&FakeEtcd]) -> FleetSpec {
    let url = |etcd: &&FakeEtcd| EtcdUrl {
        https: false,
        host: etcd.address.ip().to_string(),
        port: etcd.address.port(),
    };
    FleetSpec {
        etcd: members.iter().map(url).collect(),
        name: "front".to_owned(),
        member: None,
        tls: None,
        user: None,
        divide_limits: false,
        on_lost: OnLost::Stay,
        join_wait: Duration::ZERO,
        share: Vec::new(),
    }
}
