//! OCSP responses beside certificates.

use std::sync::Mutex;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::UnixTime;

use super::*;
use crate::certificates::{self, CertificateKey, ocsp_path, ocsp_response};

/// Believes everybody, and notes the OCSP response of the last handshake.
#[derive(Debug, Default)]
struct Noting(Mutex<Vec<u8>>);

impl ServerCertVerifier for Noting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp_response: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.0.lock().unwrap() = ocsp_response.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// The OCSP response that a client gets.
async fn stapled(table: &Arc<CertificateTable>) -> Vec<u8> {
    let noting = Arc::new(Noting::default());
    let mut client = builder()
        .dangerous()
        .with_custom_certificate_verifier(noting.clone())
        .with_no_client_auth();
    client.resumption = rustls::client::Resumption::disabled();
    meet(table, &Arc::new(client), "a.test").await.unwrap();
    let response = noting.0.lock().unwrap();
    response.clone()
}

fn serial(cert: &spec::Cert) -> Vec<u8> {
    let pem = std::fs::read(&cert.cert).unwrap();
    let (_, leaf) = certificates::chain(&cert.cert, &pem).unwrap();
    leaf.serial
}

const GOOD: u8 = 0x80;

#[tokio::test]
async fn a_response_beside_the_certificate_is_stapled_while_it_is_good() {
    let ca = TestCertificates::new();
    let cert = ca.issue("a", &["a.test"]);
    let path = ocsp_path(&cert.cert);
    let good = ocsp_response(&serial(&cert), GOOD, Some("20991231000000Z"));
    let other = ocsp_response(&[1, 2, 3], GOOD, Some("20991231000000Z"));
    let now = SystemTime::now();
    let specs = [cert];
    let read = |former: Option<&Certificates>| {
        Certificates::read(&specs, former, &provider(), now).expect("usable")
    };
    let table = |reading: &Certificates| {
        CertificateTable::new(&listener(specs.to_vec()), reading, &TicketKeys::new(0)).unwrap()
    };
    let without = read(None);
    assert!(without.warnings.is_empty());
    assert!(stapled(&table(&without.certificates)).await.is_empty());
    std::fs::write(&path, &other).unwrap();
    let foreign = read(Some(&without.certificates));
    let warning = lines(&foreign.warnings).join("");
    assert!(warning.contains("about another certificate"), "{warning}");
    assert!(stapled(&table(&foreign.certificates)).await.is_empty());
    std::fs::write(&path, &good).unwrap();
    let with = read(Some(&foreign.certificates));
    assert!(
        with.changed && with.warnings.is_empty(),
        "{:?}",
        with.warnings
    );
    assert_eq!(stapled(&table(&with.certificates)).await, good);
    // A worse one doesn't replace it, but none does.
    std::fs::write(&path, &other).unwrap();
    let kept = read(Some(&with.certificates));
    assert!(!kept.changed);
    assert_eq!(kept.refused[0].1.part, CertificateKey::Cert);
    assert_eq!(stapled(&table(&kept.certificates)).await, good);
    std::fs::remove_file(&path).unwrap();
    let removed = read(Some(&kept.certificates));
    assert!(stapled(&table(&removed.certificates)).await.is_empty());
}
