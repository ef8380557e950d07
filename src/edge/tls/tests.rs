//! Handshakes with generated certificates and rustls as the client.

mod renewal;
mod staples;

use super::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio_rustls::TlsConnector;

/// A certificate authority and a directory for what it issues.
pub(in crate::edge) struct TestCertificates {
    dir: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl TestCertificates {
    pub(in crate::edge) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        Self { dir, ca }
    }

    pub(in crate::edge) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes FILE.pem and FILE.key for these names.
    pub(in crate::edge) fn issue(&self, file: &str, names: &[&str]) -> spec::Cert {
        self.issue_by(file, names, |_| {})
    }

    fn issue_by(
        &self,
        file: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> spec::Cert {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
                .unwrap();
        change(&mut params);
        let issuer: &Issuer<'_, KeyPair> = &self.ca;
        let cert = params.signed_by(&key, issuer).unwrap();
        let (pem, key_path) = (
            self.path(&format!("{file}.pem")),
            self.path(&format!("{file}.key")),
        );
        std::fs::write(&pem, cert.pem()).unwrap();
        write_key(&key_path, &key.serialize_pem());
        spec::Cert {
            acme: false,
            sni: Vec::new(),
            cert: pem,
            key: key_path,
            client_ca: None,
            client_auth: ClientAuth::Required,
        }
    }

    fn client(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        builder()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    fn client_with_certificate(&self) -> ClientConfig {
        let key = KeyPair::generate().unwrap();
        let issuer: &Issuer<'_, KeyPair> = &self.ca;
        let cert = CertificateParams::new(vec!["client".to_owned()])
            .unwrap()
            .signed_by(&key, issuer)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![cert.der().clone()], key)
            .unwrap()
    }
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
}

fn write_key(path: &Path, pem: &str) {
    std::fs::write(path, pem).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub(in crate::edge) fn listener(certs: Vec<spec::Cert>) -> spec::ListenerSpec {
    spec::ListenerSpec {
        certs,
        ..spec::ListenerSpec::new("https", spec::Bind::Any(0))
    }
}

/// The errors, one line each.
fn lines(faults: &[CertificateFault]) -> Vec<String> {
    faults.iter().map(|(_, error)| error.to_string()).collect()
}

fn build(
    spec: &spec::ListenerSpec,
    former: Option<&CertificateTable>,
) -> Result<(Arc<CertificateTable>, Vec<String>), String> {
    let reading = Certificates::read(&spec.certs, None, &provider(), SystemTime::now());
    let reading = reading.map_err(|faults| lines(&faults).join("\n"))?;
    let tickets = former.map_or_else(|| TicketKeys::new(0), |former| former.tickets.clone());
    let table = CertificateTable::new(spec, &reading.certificates, &tickets);
    let table = table.map_err(|(_, error)| error.to_string())?;
    Ok((table, lines(&reading.warnings)))
}

/// Results of a handshake on both sides.
struct Met {
    leaf: CertificateDer<'static>,
    resumed: bool,
    info: TlsInfo,
}

async fn meet(
    table: &Arc<CertificateTable>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Result<Met, String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = async {
        let (mut stream, info) = table
            .clone()
            .handshake(far, None)
            .await
            .map_err(|e| e.to_string())?;
        stream
            .write_all(b"hello")
            .await
            .map_err(|e| e.to_string())?;
        stream.shutdown().await.map_err(|e| e.to_string())?;
        Ok::<_, String>(info)
    };
    let client = async {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut stream = TlsConnector::from(client.clone())
            .connect(name, near)
            .await
            .map_err(|e| e.to_string())?;
        let mut text = String::new();
        stream
            .read_to_string(&mut text)
            .await
            .map_err(|e| e.to_string())?;
        let connection = stream.get_ref().1;
        let resumed = connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        Ok::<_, String>((
            connection.peer_certificates().unwrap()[0]
                .clone()
                .into_owned(),
            resumed,
        ))
    };
    let (info, seen) = tokio::join!(server, client);
    let (info, (leaf, resumed)) = (info?, seen?);
    Ok(Met {
        leaf,
        resumed,
        info,
    })
}

fn names_of(leaf: &CertificateDer<'_>) -> String {
    use x509_parser::prelude::FromDer;
    let (_, cert) = x509_parser::prelude::X509Certificate::from_der(leaf).unwrap();
    let names = cert.subject_alternative_name().unwrap().unwrap();
    names
        .value
        .general_names
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[tokio::test]
async fn the_name_chooses_the_certificate() {
    let ca = TestCertificates::new();
    let certs = vec![
        ca.issue("first", &["first.test"]),
        ca.issue("wild", &["*.shop.test"]),
        ca.issue("exact", &["a.shop.test"]),
    ];
    let (table, warnings) = build(&listener(certs), None).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    let client = Arc::new(ca.client());
    for (name, cert) in [
        ("first.test", "first.test"),
        ("b.shop.test", "*.shop.test"),
        ("a.shop.test", "a.shop.test"),
    ] {
        let met = meet(&table, &client, name).await.unwrap();
        assert!(
            names_of(&met.leaf).contains(cert),
            "{name} got {}",
            names_of(&met.leaf)
        );
        assert_eq!(met.info.sni.as_deref(), Some(name));
    }
    // Unknown and too deep names get the first certificate, which the client then refuses.
    for name in ["other.test", "x.b.shop.test"] {
        let refused = meet(&table, &client, name).await.err().unwrap();
        assert!(refused.contains("ertificate"), "{refused}");
    }
}

#[tokio::test]
async fn without_a_name_the_first_certificate_is_shown() {
    let ca = TestCertificates::new();
    let certs = vec![
        ca.issue("ip", &["127.0.0.1", "first.test"]),
        ca.issue("b", &["b.test"]),
    ];
    let (table, _) = build(&listener(certs), None).unwrap();
    let met = meet(&table, &Arc::new(ca.client()), "127.0.0.1")
        .await
        .unwrap();
    assert_eq!(met.info.sni, None);
    assert_eq!(
        &*met.info.names,
        ["127.0.0.1".to_owned(), "first.test".to_owned()].as_slice()
    );
    assert!(!met.info.misdirected("whatever.test"));
}

#[tokio::test]
async fn a_name_that_the_certificate_does_not_cover_is_misdirected() {
    let ca = TestCertificates::new();
    let certs = vec![
        ca.issue("shop", &["shop.test", "*.shop.test"]),
        ca.issue("api", &["api.test"]),
    ];
    let (table, _) = build(&listener(certs), None).unwrap();
    let info = meet(&table, &Arc::new(ca.client()), "shop.test")
        .await
        .unwrap()
        .info;
    assert!(!info.misdirected("shop.test"));
    assert!(!info.misdirected("a.shop.test"));
    assert!(info.misdirected("a.b.shop.test"));
    assert!(info.misdirected("api.test"));
}

#[tokio::test]
async fn protocols_are_agreed_by_alpn() {
    let ca = TestCertificates::new();
    let spec = listener(vec![ca.issue("a", &["a.test"])]);
    let (table, _) = build(&spec, None).unwrap();
    let (only_h2, _) = build(
        &spec::ListenerSpec {
            h1: false,
            ..spec.clone()
        },
        None,
    )
    .unwrap();
    let offering = |protocols: &[&str]| {
        let mut client = ca.client();
        client.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        Arc::new(client)
    };
    assert!(
        meet(&table, &offering(&["http/1.1", "h2"]), "a.test")
            .await
            .unwrap()
            .info
            .alpn_h2
    );
    assert!(
        !meet(&table, &offering(&["http/1.1"]), "a.test")
            .await
            .unwrap()
            .info
            .alpn_h2
    );
    assert!(
        !meet(&table, &offering(&[]), "a.test")
            .await
            .unwrap()
            .info
            .alpn_h2
    );
    assert!(
        meet(&only_h2, &offering(&[]), "a.test")
            .await
            .unwrap()
            .info
            .alpn_h2
    );
    assert!(
        meet(&table, &offering(&["spdy/3"]), "a.test")
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_client_authority_is_demanded_where_it_is_configured_and_nowhere_bypassed() {
    let ca = TestCertificates::new();
    let mut partners = ca.issue("partners", &["partners.test"]);
    partners.client_ca = Some(ca.path("ca.pem"));
    // This certificate covers the partners' name as well. Connections that use it must not carry requests for partners.test.
    let mut shop = ca.issue("shop", &["shop.test", "partners.test"]);
    shop.sni = vec!["shop.test".into()];
    let (table, _) = build(&listener(vec![shop, partners]), None).unwrap();
    let (bare, known) = (
        Arc::new(ca.client()),
        Arc::new(ca.client_with_certificate()),
    );
    assert!(meet(&table, &bare, "partners.test").await.is_err());
    let info = meet(&table, &known, "partners.test").await.unwrap().info;
    assert!(!info.misdirected("partners.test"));
    let certificate = info.certificate.expect("the client's certificate");
    assert_eq!(certificate.subject, "CN=rcgen self signed cert");
    assert_eq!(certificate.fingerprint.len(), 64);
    // A resumed session takes the client certificate from the first one.
    let resumed = meet(&table, &known, "partners.test").await.unwrap();
    assert!(resumed.resumed);
    assert_eq!(resumed.info.certificate.as_deref(), Some(&*certificate));
    let info = meet(&table, &bare, "shop.test").await.unwrap().info;
    assert_eq!(info.certificate, None);
    assert!(!info.misdirected("shop.test"));
    assert!(info.misdirected("partners.test"));
}

#[tokio::test]
async fn sessions_are_resumed_across_a_renewal_but_never_into_another_policy() {
    let ca = TestCertificates::new();
    let spec = listener(vec![ca.issue("a", &["a.test"])]);
    let (table, _) = build(&spec, None).unwrap();
    let client = Arc::new(ca.client());
    assert!(!meet(&table, &client, "a.test").await.unwrap().resumed);
    assert!(meet(&table, &client, "a.test").await.unwrap().resumed);
    ca.issue("a", &["a.test"]);
    let (renewed, _) = build(&spec, Some(&table)).unwrap();
    assert!(meet(&renewed, &client, "a.test").await.unwrap().resumed);
    // The process that takes over has the same keys.
    let offered = table.tickets.secrets();
    let successor = TicketKeys::from_offer(offered, 9);
    let reading = Certificates::read(&spec.certs, None, &provider(), SystemTime::now()).unwrap();
    let taken_over = CertificateTable::new(&spec, &reading.certificates, &successor).unwrap();
    assert!(meet(&taken_over, &client, "a.test").await.unwrap().resumed);
    let stranger =
        CertificateTable::new(&spec, &reading.certificates, &TicketKeys::new(0)).unwrap();
    assert!(!meet(&stranger, &client, "a.test").await.unwrap().resumed);
    let mut guarded = spec.clone();
    guarded.certs[0].client_ca = Some(ca.path("ca.pem"));
    let (guarded, _) = build(&guarded, Some(&renewed)).unwrap();
    assert!(meet(&guarded, &client, "a.test").await.is_err());
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let ca = TestCertificates::new();
    let cert = ca.issue("a", &["a.test"]);
    std::fs::set_permissions(&cert.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = build(&listener(vec![cert.clone()]), None).unwrap_err();
    assert!(
        error.contains("a.key") && error.contains("0644") && error.contains("chmod"),
        "{error}"
    );
    std::fs::set_permissions(&cert.key, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(build(&listener(vec![cert]), None).is_ok());
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let ca = TestCertificates::new();
    let mut cert = ca.issue("a", &["a.test"]);
    cert.key = ca.issue("b", &["b.test"]).key;
    let error = build(&listener(vec![cert]), None).unwrap_err();
    assert!(
        error.contains("b.key does not belong to certificate") && error.contains("a.pem"),
        "{error}"
    );
}

#[test]
fn broken_and_missing_files_are_named() {
    let ca = TestCertificates::new();
    let good = ca.issue("a", &["a.test"]);
    let with = |change: &dyn Fn(&mut spec::Cert)| {
        let mut cert = good.clone();
        change(&mut cert);
        build(&listener(vec![cert]), None).unwrap_err()
    };
    let missing = with(&|c| c.cert = ca.path("nowhere.pem"));
    assert!(
        missing.contains("nowhere.pem") && missing.contains("Check the path"),
        "{missing}"
    );
    std::fs::write(ca.path("empty.pem"), "").unwrap();
    let empty = with(&|c| c.cert = ca.path("empty.pem"));
    assert!(
        empty.contains("empty.pem") && empty.contains("BEGIN CERTIFICATE"),
        "{empty}"
    );
    let whole = std::fs::read_to_string(&good.cert).unwrap();
    std::fs::write(ca.path("half.pem"), &whole[..whole.len() / 2]).unwrap();
    let half = with(&|c| c.cert = ca.path("half.pem"));
    assert!(half.contains("half.pem"), "{half}");
    let no_key = with(&|c| c.key = good.cert.clone());
    assert!(no_key.contains("a.pem"), "{no_key}");
    let no_ca = with(&|c| c.client_ca = Some(ca.path("empty.pem")));
    assert!(
        no_ca.contains("client_ca") && no_ca.contains("empty.pem"),
        "{no_ca}"
    );
}

#[test]
fn expired_certificates_and_names_that_are_not_covered_are_warned_of() {
    let ca = TestCertificates::new();
    let mut cert = ca.issue_by("old", &["old.test"], |p| {
        p.not_after = rcgen::date_time_ymd(2020, 1, 1)
    });
    cert.sni = vec!["old.test".into(), "new.test".into()];
    let (_, warnings) = build(&listener(vec![cert]), None).unwrap();
    assert!(
        warnings.iter().any(|w| w.contains("not valid now")),
        "{warnings:?}"
    );
    assert!(
        warnings
            .iter()
            .any(|w| w.contains("does not cover new.test")),
        "{warnings:?}"
    );
}
