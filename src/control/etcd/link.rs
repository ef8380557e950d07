//! Keeps one connection to one member of etcd.
//!
//! Members are tried in a random order. A connection counts as usable once a linearizable read has been answered on it, which a
//! member that is cut off from the majority can't do. It is given up when a PING isn't answered, when the member has no leader, or
//! when it ends.

use std::future::pending;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{Ping, PingPong};
use http::HeaderValue;
use prost::Message;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::connect;
use super::error::{EtcdError, is_turned_off, wants_new_token};
use super::grpc::Channel;
use super::proto::{
    AuthenticateRequest, AuthenticateResponse, RangeRequest, RangeResponse, ResponseHeader,
};
use crate::config::fleet::{EtcdUrl, EtcdUser, FleetSpec};
use crate::config::spec::UpstreamTls;

/// Time limit of a call. An election of etcd's takes a second or two; a call that is caught by one may hang for seven.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// Time between two PINGs. etcd closes connections that ping more often than every five seconds.
const PING_EVERY: Duration = Duration::from_millis(5500);
/// Longest time until a PING is answered.
const PING_LIMIT: Duration = Duration::from_secs(5);
/// Shortest and longest pause after all members have failed.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Whether etcd can be used.
#[derive(Clone, Debug)]
pub(in crate::control) enum Connection {
    /// A linearizable read was answered on the connection.
    Connected {
        /// The member of etcd.
        endpoint: String,
        /// The ID of the member's cluster.
        cluster: u64,
    },
    /// There is no usable connection.
    Alone {
        since: Instant,
        /// The reason why the last attempt failed. `None` during the first one.
        error: Option<EtcdError>,
    },
}

/// The connection, and the state that is needed to keep it.
///
/// The task [`Self::keep`] alone connects and sets `state` and `channel`. Callers take the channel, and tell the task through
/// `useless`, `doubted` and `refused` what they have learnt about it; they never close it.
pub(super) struct Link {
    endpoints: Vec<EtcdUrl>,
    tls: Option<UpstreamTls>,
    user: Option<EtcdUser>,
    /// A key that the user may read.
    probe: Bytes,
    state: watch::Sender<Connection>,
    channel: watch::Sender<Option<Channel>>,
    /// Why the member turned out to be of no use, each time that one did.
    useless: watch::Sender<EtcdError>,
    /// Notified when the connection may be dead: asks for a PING.
    doubted: Notify,
    /// The last token that etcd has refused.
    refused: watch::Sender<Option<HeaderValue>>,
}

impl Link {
    pub(super) fn new(spec: &FleetSpec) -> Self {
        let alone = Connection::Alone {
            since: Instant::now(),
            error: None,
        };
        Self {
            endpoints: spec.etcd.clone(),
            tls: spec.tls.clone(),
            user: spec.user.clone(),
            probe: Bytes::from(spec.prefix()),
            state: watch::Sender::new(alone),
            channel: watch::Sender::new(None),
            useless: watch::Sender::new(EtcdError::NoLeader),
            doubted: Notify::new(),
            refused: watch::Sender::new(None),
        }
    }

    pub(super) fn state(&self) -> watch::Receiver<Connection> {
        self.state.subscribe()
    }

    /// Connects, and connects again. Never returns.
    pub(super) async fn keep(self: Rc<Self>) {
        let mut round = 0;
        let mut endpoints = self.endpoints.clone();
        loop {
            fastrand::shuffle(&mut endpoints);
            for endpoint in &endpoints {
                let error = self.use_endpoint(endpoint).await;
                let was_connected = self.set_alone(error);
                if was_connected {
                    round = 0;
                    // All members of the fleet lose their connections at once.
                    sleep(PAUSE.0.mul_f64(fastrand::f64())).await;
                }
            }
            sleep(pause(round, fastrand::f64())).await;
            round += 1;
        }
    }

    /// Records that there is no connection. Returns whether there was one.
    fn set_alone(&self, error: EtcdError) -> bool {
        self.channel.send_replace(None);
        let before = self.state.borrow().clone();
        let (since, was_connected) = match before {
            Connection::Connected { .. } => (Instant::now(), true),
            Connection::Alone { since, .. } => (since, false),
        };
        let error = Some(error);
        self.state.send_replace(Connection::Alone { since, error });
        was_connected
    }

    /// Uses a member until it fails. Returns the error.
    async fn use_endpoint(&self, endpoint: &EtcdUrl) -> EtcdError {
        let opened = connect::open(endpoint, self.tls.as_ref()).await;
        let (sender, mut connection) = match opened {
            Ok(opened) => opened,
            Err(why) => return EtcdError::Unreachable(why),
        };
        // `Some`: this is the only call on the connection.
        let ping = connection.ping_pong();
        let channel = Channel::new(sender, &endpoint.to_string());
        tokio::select! {
            ended = connection => {
                let why = ended.err().map_or("it closed the connection".to_owned(), |e| e.to_string());
                EtcdError::Unreachable(format!("{endpoint}: {why}"))
            }
            error = self.converse(endpoint, channel, ping) => error,
        }
    }

    /// Offers the connection to callers until it is of no use.
    async fn converse(
        &self,
        endpoint: &EtcdUrl,
        channel: Channel,
        ping: Option<PingPong>,
    ) -> EtcdError {
        let header = match timeout(CALL_LIMIT, self.probe(&channel)).await {
            Ok(Ok(header)) => header,
            Ok(Err(error)) => return error,
            Err(_) => {
                let why = format!("{endpoint}: no answer within {CALL_LIMIT:?}");
                return EtcdError::Unknown(why);
            }
        };
        // What was said of a former connection says nothing about this one.
        let mut useless = self.useless.subscribe();
        self.channel.send_replace(Some(channel.clone()));
        self.state.send_replace(Connection::Connected {
            endpoint: endpoint.to_string(),
            cluster: header.cluster_id,
        });
        tokio::select! {
            // `self` holds the sender.
            Ok(()) = useless.changed() => useless.borrow().clone(),
            error = self.renewals(&channel) => error,
            () = self.pings(ping) => {
                let why = format!("{endpoint}: no answer to a PING within {PING_LIMIT:?}");
                EtcdError::Unreachable(why)
            }
        }
    }

    /// Logs in, and reads something from the majority.
    async fn probe(&self, channel: &Channel) -> Result<ResponseHeader, EtcdError> {
        self.authenticate(channel).await?;
        let request = RangeRequest {
            key: self.probe.clone(),
            keys_only: true,
            limit: 1,
            ..RangeRequest::default()
        };
        let response: RangeResponse = channel.unary("KV/Range", &request).await?;
        Ok(response.header.unwrap_or_default())
    }

    /// Asks for a token, if there is a user.
    async fn authenticate(&self, channel: &Channel) -> Result<(), EtcdError> {
        let Some(user) = &self.user else {
            return Ok(());
        };
        let password = connect::read_password(&user.password_file);
        let request = AuthenticateRequest {
            name: user.name.clone(),
            password: password.map_err(EtcdError::Auth)?,
        };
        let login = channel.without_token();
        let response = login.unary("Auth/Authenticate", &request).await;
        let response: AuthenticateResponse = match response {
            // Without authentication everybody may do everything. Once it is turned on, calls without a token are refused.
            Err(error) if is_turned_off(&error) => return Ok(()),
            response => response?,
        };
        let mut token = HeaderValue::try_from(response.token)
            .map_err(|_| EtcdError::Auth("its token can't be sent in a header".to_owned()))?;
        token.set_sensitive(true);
        channel.set_token(token);
        Ok(())
    }

    /// Replaces tokens that etcd has refused. Returns the reason when that fails.
    async fn renewals(&self, channel: &Channel) -> EtcdError {
        let mut refused = self.refused.subscribe();
        loop {
            if refused.changed().await.is_err() {
                // `self` holds the sender.
                return pending().await;
            }
            if *refused.borrow_and_update() != channel.token() {
                continue;
            }
            match timeout(CALL_LIMIT, self.authenticate(channel)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(_) => return EtcdError::Unknown("no new token in time".to_owned()),
            }
        }
    }

    /// Sends PINGs. Returns when one isn't answered in time.
    async fn pings(&self, ping: Option<PingPong>) {
        let Some(mut ping) = ping else {
            return pending().await;
        };
        loop {
            tokio::select! {
                () = sleep(PING_EVERY) => {}
                () = self.doubted.notified() => {}
            }
            match timeout(PING_LIMIT, ping.ping(Ping::opaque())).await {
                Ok(Ok(_)) => {}
                // The connection has ended. The task that polls it notices.
                Ok(Err(_)) => return pending().await,
                Err(_) => return,
            }
        }
    }

    /// Waits for a usable connection. Cancellation safe.
    pub(super) async fn channel(&self) -> Channel {
        let mut channels = self.channel.subscribe();
        let found = channels.wait_for(Option::is_some).await;
        match found.ok().and_then(|channel| channel.clone()) {
            Some(channel) => channel,
            // `self` holds the sender.
            None => pending().await,
        }
    }

    /// Makes a unary call. A token that has expired is replaced once.
    pub(super) async fn call<R: Message + Default>(
        &self,
        method: &str,
        message: &impl Message,
    ) -> Result<R, EtcdError> {
        let mut is_sent = false;
        let called = async {
            let channel = self.channel().await;
            is_sent = true;
            let token = channel.token();
            match channel.unary(method, message).await {
                Err(error) if self.user.is_some() && wants_new_token(&error) => {
                    // The task that keeps the connection asks for another token, once for all callers.
                    self.refused.send_replace(token.clone());
                    self.renewed(&channel, &token)
                        .await
                        .unary(method, message)
                        .await
                }
                result => result,
            }
            .map_err(EtcdError::from)
        };
        let result = timeout(CALL_LIMIT, called).await;
        let result = result.unwrap_or_else(|_| Err(self.too_late(is_sent)));
        if let Err(error) = &result {
            self.note(error);
        }
        result
    }

    /// Waits for another token, or for another connection if this one ends over it.
    async fn renewed(&self, channel: &Channel, refused: &Option<HeaderValue>) -> Channel {
        let mut channels = self.channel.subscribe();
        tokio::select! {
            () = channel.other_token(refused) => channel.clone(),
            _ = channels.changed() => self.channel().await,
        }
    }

    /// The error of a call that took too long.
    fn too_late(&self, is_sent: bool) -> EtcdError {
        if is_sent {
            return EtcdError::Unknown(format!("within {CALL_LIMIT:?}"));
        }
        match &*self.state.borrow() {
            Connection::Alone {
                error: Some(error), ..
            } => error.clone(),
            _ => EtcdError::Unreachable(format!("no connection within {CALL_LIMIT:?}")),
        }
    }

    /// Draws conclusions about the connection from an error of a call.
    pub(super) fn note(&self, error: &EtcdError) {
        match error {
            EtcdError::NoLeader => drop(self.useless.send_replace(error.clone())),
            // Authentication was turned on. Another connection would be refused as well, until there is a user; with one, a token
            // that is refused is replaced instead.
            EtcdError::Auth(_) if self.user.is_none() => {
                drop(self.useless.send_replace(error.clone()));
            }
            EtcdError::Unknown(_) => self.doubted.notify_waiters(),
            _ => {}
        }
    }
}

/// The pause after this many rounds over all members, with full jitter. `random` is in [0, 1).
pub(super) fn pause(round: u32, random: f64) -> Duration {
    let most = PAUSE
        .0
        .saturating_mul(2_u32.saturating_pow(round))
        .min(PAUSE.1);
    PAUSE.0.max(most.mul_f64(random))
}
