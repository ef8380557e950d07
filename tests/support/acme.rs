//! A small ACME authority (RFC 8555) for tests. Signatures of requests aren't verified; everything else that a client could get wrong is.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::PublicKeyData;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

use super::origin::{Conn, Origin};
use super::tls::Authority;
use super::wire::Message;

/// An authority; ends with its value.
pub struct AcmeServer {
    origin: Origin,
    state: Arc<Mutex<State>>,
}

/// How the authority treats orders.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mood {
    Issues,
    /// 429 with this `retry-after`.
    Limits(u64),
    /// The challenge fails, whatever is answered.
    FailsChallenges,
    /// Challenges are answered well, and nothing comes of it.
    Waits,
}

struct State {
    authority: Authority,
    mood: Mood,
    /// Where challenges are sent to: HTTP, TLS.
    ports: (u16, u16),
    /// How long certificates are valid, in days.
    days: u64,
    thumbprint: String,
    contact: Value,
    external: bool,
    orders: Vec<OrderState>,
    accounts: usize,
    /// Number of challenges that were answered well.
    answered: usize,
}

#[derive(Clone)]
struct OrderState {
    name: String,
    status: &'static str,
    challenge: &'static str,
    error: Option<String>,
    chain: Option<String>,
}

impl AcmeServer {
    /// An authority that issues certificates. Challenges go to these ports of this machine.
    pub fn start(http: u16, tls: u16) -> Self {
        let state = Arc::new(Mutex::new(State {
            authority: Authority::new(),
            mood: Mood::Issues,
            ports: (http, tls),
            days: 90,
            thumbprint: String::new(),
            contact: Value::Null,
            external: false,
            orders: Vec::new(),
            accounts: 0,
            answered: 0,
        }));
        let shared = state.clone();
        let origin = Origin::each(move |request, conn| answer(&shared, request, conn));
        Self { origin, state }
    }

    /// The URL of its directory.
    pub fn directory(&self) -> String {
        format!("http://{}/directory", self.origin.at())
    }

    pub fn set_mood(&self, mood: Mood) {
        self.lock().mood = mood;
    }

    /// Sends challenges over HTTP to this port from now on.
    pub fn set_http_port(&self, port: u16) {
        self.lock().ports.0 = port;
    }

    /// How many challenges were answered well up to now.
    pub fn answered(&self) -> usize {
        self.lock().answered
    }

    /// How long certificates are valid from now on.
    pub fn set_days(&self, days: u64) {
        self.lock().days = days;
    }

    /// Names of the orders up to now.
    pub fn orders(&self) -> Vec<String> {
        self.lock().orders.iter().map(|o| o.name.clone()).collect()
    }

    /// Contact of the account, whether it was bound to another one, and how many were created.
    pub fn account(&self) -> (Value, bool, usize) {
        let state = self.lock();
        (state.contact.clone(), state.external, state.accounts)
    }

    /// A client's connection to a port as `name`, which believes this authority only.
    pub fn connect(
        &self,
        port: u16,
        name: &str,
    ) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        self.lock().authority.connect(port, name, &["http/1.1"])
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("state")
    }
}

fn decoded(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("base64url");
    URL_SAFE_NO_PAD.decode(text).expect("base64url")
}

/// Answers one request of a client.
fn answer(shared: &Mutex<State>, request: &Message, conn: &mut Conn) -> io::Result<()> {
    let base = format!("http://{}", request.field("host").expect("a host"));
    let target = request.target();
    let parts: Vec<&str> = target.trim_start_matches('/').split('/').collect();
    let number = || parts[1].parse::<usize>().expect("a number");
    if let ["directory"] = parts[..] {
        let directory = json!({
            "newNonce": format!("{base}/nonce"),
            "newAccount": format!("{base}/account"),
            "newOrder": format!("{base}/order"),
            "revokeCert": format!("{base}/revoke"),
            "keyChange": format!("{base}/key"),
        });
        return reply(conn, 200, "", &directory);
    }
    if let ["nonce"] = parts[..] {
        return conn.write(b"HTTP/1.1 200 OK\r\nreplay-nonce: n0nce\r\ncontent-length: 0\r\n\r\n");
    }
    let kind = request.field("content-type");
    assert_eq!(kind.as_deref(), Some("application/jose+json"), "{target}");
    let jws: Value = serde_json::from_slice(&request.body).expect("JSON");
    let protected: Value = serde_json::from_slice(&decoded(&jws["protected"])).expect("JSON");
    assert_eq!(protected["url"], format!("{base}{target}"));
    assert_eq!(protected["nonce"], "n0nce");
    let payload = decoded(&jws["payload"]);
    let payload: Value = serde_json::from_slice(&payload).unwrap_or(Value::Null);
    match parts[..] {
        ["account"] => account(shared, &base, &protected, &payload, conn),
        ["order"] => order(shared, &base, &payload, conn),
        ["order", _] | ["finalize", _] => {
            let number = number();
            if parts[0] == "finalize" {
                finalize(&mut shared.lock().expect("state"), number, &payload);
            }
            let state = shared.lock().expect("state").orders[number].clone();
            let location = format!("location: {base}/order/{number}\r\n");
            reply(conn, 200, &location, &order_json(&base, number, &state))
        }
        ["authorization", _] => {
            let state = shared.lock().expect("state").orders[number()].clone();
            reply(conn, 200, "", &authorization(&base, number(), &state))
        }
        ["challenge", _, kind] => {
            challenge(shared, number(), kind);
            let url = format!("{base}{target}");
            let answer = json!({ "type": kind, "url": url, "token": token(number()), "status": "processing" });
            reply(conn, 200, "", &answer)
        }
        ["certificate", _] => {
            let chain = shared.lock().expect("state").orders[number()].chain.clone();
            let chain = chain.expect("it is issued");
            let head = format!(
                "HTTP/1.1 200 OK\r\nreplay-nonce: n0nce\r\ncontent-type: application/pem-certificate-chain\r\ncontent-length: {}\r\n\r\n",
                chain.len()
            );
            conn.write(format!("{head}{chain}").as_bytes())
        }
        _ => panic!("{target}"),
    }
}

fn reply(conn: &mut Conn, status: u16, fields: &str, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    let kind = match status {
        200..=299 => "application/json",
        _ => "application/problem+json",
    };
    let head = format!(
        "HTTP/1.1 {status} Scripted\r\nreplay-nonce: n0nce\r\ncontent-type: {kind}\r\n{fields}content-length: {}\r\n\r\n",
        body.len()
    );
    conn.write(format!("{head}{body}").as_bytes())
}

fn account(
    shared: &Mutex<State>,
    base: &str,
    protected: &Value,
    payload: &Value,
    conn: &mut Conn,
) -> io::Result<()> {
    let jwk = &protected["jwk"];
    // RFC 7638 section 3: the required members in the order of their names.
    let text = format!(
        r#"{{"crv":{},"kty":{},"x":{},"y":{}}}"#,
        jwk["crv"], jwk["kty"], jwk["x"], jwk["y"]
    );
    let print = digest::digest(&digest::SHA256, text.as_bytes());
    assert_eq!(payload["termsOfServiceAgreed"], true);
    let mut state = shared.lock().expect("state");
    state.thumbprint = URL_SAFE_NO_PAD.encode(print);
    state.contact = payload["contact"].clone();
    state.external = payload["externalAccountBinding"].is_object();
    state.accounts += 1;
    let location = format!("location: {base}/account/1\r\n");
    reply(conn, 201, &location, &json!({ "status": "valid" }))
}

fn order(shared: &Mutex<State>, base: &str, payload: &Value, conn: &mut Conn) -> io::Result<()> {
    let mut state = shared.lock().expect("state");
    let identifiers = payload["identifiers"].as_array().expect("a list");
    let name = identifiers[0]["value"].as_str().expect("a name").to_owned();
    let new = OrderState {
        name,
        status: "pending",
        challenge: "pending",
        error: None,
        chain: None,
    };
    state.orders.push(new.clone());
    if let Mood::Limits(seconds) = state.mood {
        let problem =
            json!({ "type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many" });
        return reply(conn, 429, &format!("retry-after: {seconds}\r\n"), &problem);
    }
    let number = state.orders.len() - 1;
    let location = format!("location: {base}/order/{number}\r\n");
    reply(conn, 201, &location, &order_json(base, number, &new))
}

fn order_json(base: &str, number: usize, order: &OrderState) -> Value {
    let mut json = json!({
        "status": order.status,
        "identifiers": [{ "type": "dns", "value": order.name }],
        "authorizations": [format!("{base}/authorization/{number}")],
        "finalize": format!("{base}/finalize/{number}"),
    });
    if order.chain.is_some() {
        json["certificate"] = json!(format!("{base}/certificate/{number}"));
    }
    json
}

fn token(number: usize) -> String {
    format!("t0ken-_{number}")
}

fn authorization(base: &str, number: usize, order: &OrderState) -> Value {
    let one = |kind: &str| {
        let mut challenge = json!({
            "type": kind,
            "url": format!("{base}/challenge/{number}/{kind}"),
            "token": token(number),
            "status": order.challenge,
        });
        if let Some(error) = &order.error {
            challenge["error"] =
                json!({ "type": "urn:ietf:params:acme:error:unauthorized", "detail": error });
        }
        challenge
    };
    json!({
        "status": order.challenge,
        "identifier": { "type": "dns", "value": order.name },
        "challenges": [one("http-01"), one("tls-alpn-01"), one("dns-01")],
    })
}

/// Validates a challenge in the background, as an authority does.
fn challenge(shared: &Mutex<State>, number: usize, kind: &str) {
    let (name, expected, ports, mood) = {
        let state = shared.lock().expect("state");
        let expected = format!("{}.{}", token(number), state.thumbprint);
        let name = state.orders[number].name.clone();
        (name, expected, state.ports, state.mood)
    };
    let result = match (mood, kind) {
        (Mood::FailsChallenges, _) => Err("the authority is in a bad mood".to_owned()),
        (_, "http-01") => over_http(ports.0, &name, &token(number), &expected),
        _ => over_tls(ports.1, &name, &expected),
    };
    let mut state = shared.lock().expect("state");
    state.answered += usize::from(result.is_ok());
    let order = &mut state.orders[number];
    if mood == Mood::Waits {
        order.challenge = "processing";
        return;
    }
    (order.status, order.challenge) = match result {
        Ok(()) => ("ready", "valid"),
        Err(_) => ("invalid", "invalid"),
    };
    order.error = result.err();
}

fn over_http(port: u16, name: &str, token: &str, expected: &str) -> Result<(), String> {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let request = format!(
            "GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        io::Result::Ok(text)
    };
    let text = ask().map_err(|e| e.to_string())?;
    match text.starts_with("HTTP/1.1 200") && text.ends_with(expected) {
        true => Ok(()),
        false => Err(format!("expected {expected}, got {text}")),
    }
}

/// Accepts any certificate: the challenge is in the certificate itself.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// RFC 8737 section 3: the certificate has the name, and the digest of the key authorization in a critical extension.
fn over_tls(port: u16, name: &str, expected: &str) -> Result<(), String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let server = ServerName::try_from(name.to_owned()).map_err(|e| e.to_string())?;
    let mut tls = ClientConnection::new(Arc::new(config), server).map_err(|e| e.to_string())?;
    let mut socket = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    let timeout = socket.set_read_timeout(Some(Duration::from_secs(10)));
    timeout.map_err(|e| e.to_string())?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).map_err(|e| e.to_string())?;
    }
    if tls.alpn_protocol() != Some(b"acme-tls/1") {
        return Err("another protocol was negotiated".to_owned());
    }
    let chain = tls.peer_certificates().expect("a certificate");
    let (_, certificate) = X509Certificate::from_der(&chain[0]).map_err(|e| e.to_string())?;
    let digest = digest::digest(&digest::SHA256, expected.as_bytes());
    let proof = certificate
        .extensions()
        .iter()
        .find(|e| e.oid.to_id_string() == "1.3.6.1.5.5.7.1.31");
    match proof {
        // An octet string of 32 bytes.
        Some(proof) if proof.critical && proof.value[2..] == *digest.as_ref() => Ok(()),
        other => Err(format!("no proof: {other:?}")),
    }
}

/// The key of a request.
struct RequestedKey(Vec<u8>);

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

fn finalize(state: &mut State, number: usize, payload: &Value) {
    let csr = decoded(&payload["csr"]);
    let (_, request) = X509CertificationRequest::from_der(&csr).expect("a request");
    let info = &request.certification_request_info;
    let key = RequestedKey(info.subject_pki.subject_public_key.data.to_vec());
    let days = state.days;
    let name = state.orders[number].name.clone();
    let pem = state.authority.issue_for(&key, &[&name], days);
    let order = &mut state.orders[number];
    order.chain = Some(pem);
    order.status = "valid";
}
