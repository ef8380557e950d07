//! Reading the TLS settings of versions, and which files replace those in use.

use std::path::PathBuf;
use std::time::SystemTime;

use rcgen::{CertificateParams, KeyPair};

use super::*;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes NAME.pem and NAME.key; an expired certificate has expired in 2020.
    fn issue(&self, name: &str, is_expired: bool) {
        use std::os::unix::fs::PermissionsExt;
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if is_expired {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let cert = params.self_signed(&key).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), cert.pem()).unwrap();
        let key_file = self.path(&format!("{name}.key"));
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn spec(&self, name: &str) -> UpstreamTls {
        UpstreamTls {
            ca: Some(self.path("ca.pem")),
            cert: Some(self.path(&format!("{name}.pem"))),
            key: Some(self.path(&format!("{name}.key"))),
            server_name: None,
        }
    }
}

fn read(spec: &UpstreamTls, former: Option<&IdentitySlot>) -> (IdentitySlot, News) {
    TlsIdentity::read(spec, former, SystemTime::now()).expect("usable or kept")
}

#[test]
fn all_errors_are_reported_at_once_each_with_its_key() {
    let files = Files::new();
    std::fs::write(files.path("ca.pem"), "").unwrap();
    files.issue("a", false);
    let mut spec = files.spec("a");
    std::mem::swap(&mut spec.cert, &mut spec.key);
    let errors = TlsIdentity::read(&spec, None, SystemTime::now()).unwrap_err();
    let parts: Vec<_> = errors.iter().map(|error| error.part).collect();
    assert_eq!(parts, [CertificateKey::Ca, CertificateKey::Cert]);
    assert!(errors[0].message.contains("is empty"), "{}", errors[0]);
    assert!(errors[1].message.contains("are swapped"), "{}", errors[1]);
    std::fs::remove_file(files.path("ca.pem")).unwrap();
    let errors = TlsIdentity::read(&files.spec("none"), None, SystemTime::now()).unwrap_err();
    assert_eq!(errors.len(), 3);
}

#[test]
fn a_changed_file_is_used_unless_it_is_worse() {
    let files = Files::new();
    files.issue("ca", false);
    files.issue("a", false);
    let spec = files.spec("a");
    let (first, news) = read(&spec, None);
    assert!(matches!(news, News::New));
    let (same, news) = read(&spec, Some(&first));
    assert!(matches!(news, News::None));
    assert!(Arc::ptr_eq(&same.current.client, &first.current.client));
    files.issue("a", true);
    let (kept, news) = read(&spec, Some(&first));
    assert!(matches!(news, News::Refused));
    assert!(Arc::ptr_eq(&kept.current, &first.current));
    let why = kept.refused.as_ref().expect("refused").text();
    assert!(why.contains("has expired at 2020-01-01T00:00:00Z"), "{why}");
    let (_, news) = read(&spec, Some(&kept));
    assert!(matches!(news, News::None), "reported once");
    files.issue("ca", false);
    files.issue("a", false);
    let (renewed, news) = read(&spec, Some(&kept));
    assert!(matches!(news, News::New) && renewed.refused.is_none());
    assert!(!Arc::ptr_eq(&renewed.current.client, &first.current.client));
}

#[test]
fn an_expired_certificate_is_better_than_none_and_warned_of() {
    let files = Files::new();
    files.issue("ca", false);
    files.issue("a", true);
    let (slot, _) = read(&files.spec("a"), None);
    let now = certificates::seconds(SystemTime::now());
    let warning = slot.current.warning(now).expect("a warning");
    assert!(
        warning.message.contains("endpoints will refuse it"),
        "{warning}"
    );
}
