//! Errors of certificates, and which certificates replace those in use.

use std::time::Duration;

use super::*;

#[test]
fn errors_of_all_certificates_are_reported_at_once() {
    let ca = TestCertificates::new();
    let (one, mut two) = (ca.issue("a", &["a.test"]), ca.issue("b", &["b.test"]));
    std::fs::write(&one.cert, "").unwrap();
    std::fs::set_permissions(&two.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    two.client_ca = Some(ca.path("none.pem"));
    let mut three = ca.issue("c", &["c.test"]);
    three.key = two.key.clone();
    let errors = Certificates::read(&[one, two, three], None, &provider(), SystemTime::now());
    let errors = errors.unwrap_err();
    let errors_of: Vec<(usize, CertificateKey)> =
        errors.iter().map(|(at, e)| (*at, e.part)).collect();
    assert_eq!(
        errors_of,
        [
            (0, CertificateKey::Cert),
            (1, CertificateKey::Key),
            (1, CertificateKey::ClientCa),
            (2, CertificateKey::Key)
        ]
    );
}

#[test]
fn swapped_and_encrypted_files_are_recognised() {
    let ca = TestCertificates::new();
    let good = ca.issue("a", &["a.test"]);
    let errors_of = |cert: spec::Cert| build(&listener(vec![cert]), None).unwrap_err();
    let mut swapped = good.clone();
    std::mem::swap(&mut swapped.cert, &mut swapped.key);
    let error = errors_of(swapped);
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("`cert` and `key` are swapped"), "{error}");
    let mut twice = good.clone();
    twice.key = good.cert.clone();
    let error = errors_of(twice);
    assert!(
        error.contains("holds a certificate, and no private key"),
        "{error}"
    );
    write_key(
        &good.key,
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIBpjBABgkqhkiG9w0BBQ0w\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let error = errors_of(good.clone());
    assert!(
        error.contains("is encrypted") && error.contains("openssl pkey"),
        "{error}"
    );
    write_key(
        &good.key,
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMIIB\n-----END RSA PRIVATE KEY-----\n",
    );
    let error = errors_of(good);
    assert!(error.contains("is encrypted"), "{error}");
}

/// Reads the files of `former` again. Returns the names that are covered then, and the errors of refused files.
fn again(former: &mut Certificates, now: SystemTime) -> (Vec<String>, Vec<String>) {
    let specs: Vec<_> = former
        .slots()
        .iter()
        .map(|s| s.current.spec.clone())
        .collect();
    let reading = Certificates::read(&specs, Some(former), &provider(), now).unwrap();
    *former = reading.certificates;
    let covers = former.slots().iter().map(|s| s.current.covers.concat());
    (covers.collect(), lines(&reading.refused))
}

#[test]
fn a_worse_certificate_is_refused_and_one_that_expires_earlier_is_not() {
    let ca = TestCertificates::new();
    let now = SystemTime::now();
    let specs = [ca.issue("a", &["a1.test"]), ca.issue("b", &["b1.test"])];
    let mut kept = Certificates::read(&specs, None, &provider(), now)
        .unwrap()
        .certificates;
    ca.issue_by("a", &["a2.test"], |p| {
        p.not_after = rcgen::date_time_ymd(2020, 1, 1)
    });
    ca.issue("b", &["b2.test"]);
    let (covers, refused) = again(&mut kept, now);
    // The other certificate of the listener is renewed nevertheless.
    assert_eq!(covers, ["a1.test", "b2.test"]);
    assert_eq!(refused.len(), 1);
    assert!(
        refused[0].contains("has expired at 2020-01-01T00:00:00Z"),
        "{refused:?}"
    );
    assert!(kept.slots()[0].refused.is_some() && kept.slots()[1].refused.is_none());
    // Reported once.
    assert_eq!(again(&mut kept, now).1, Vec::<String>::new());
    std::fs::remove_file(ca.path("a.key")).unwrap();
    let (covers, refused) = again(&mut kept, now);
    assert_eq!(
        (covers[0].as_str(), refused.len()),
        ("a1.test", 1),
        "{refused:?}"
    );
    assert_eq!(again(&mut kept, now).1, Vec::<String>::new());
    // Valid for an hour only, and for other names: neither is worse.
    let soon = since(now + Duration::from_secs(3600));
    ca.issue_by("a", &["a3.test"], |p| {
        p.not_after = rcgen::date_time_ymd(1970, 1, 1) + soon;
    });
    assert_eq!(
        again(&mut kept, now),
        (vec!["a3.test".to_owned(), "b2.test".to_owned()], Vec::new())
    );
    assert!(kept.slots().iter().all(|slot| slot.refused.is_none()));
}

/// Time since the epoch.
fn since(time: SystemTime) -> Duration {
    time.duration_since(std::time::UNIX_EPOCH).unwrap()
}

#[test]
fn a_certificate_is_used_once_it_becomes_valid() {
    let ca = TestCertificates::new();
    let now = SystemTime::now();
    let specs = [ca.issue("a", &["a1.test"])];
    let mut kept = Certificates::read(&specs, None, &provider(), now)
        .unwrap()
        .certificates;
    let later = now + Duration::from_secs(60);
    ca.issue_by("a", &["a2.test"], |p| {
        p.not_before = rcgen::date_time_ymd(1970, 1, 1) + since(later);
    });
    let (covers, refused) = again(&mut kept, now);
    assert_eq!(covers, ["a1.test"]);
    assert!(refused[0].contains("is not valid before"), "{refused:?}");
    assert!(!kept.may_have_become_valid(now));
    let later = later + Duration::from_secs(1);
    assert!(kept.may_have_become_valid(later));
    assert_eq!(again(&mut kept, later).0, ["a2.test"]);
    assert!(!kept.may_have_become_valid(later));
}

#[test]
fn a_certificate_that_lacks_a_name_of_sni_is_refused() {
    let ca = TestCertificates::new();
    let now = SystemTime::now();
    let mut spec = ca.issue("a", &["a.test", "b.test"]);
    spec.sni = vec!["a.test".into(), "b.test".into()];
    let read = Certificates::read(std::slice::from_ref(&spec), None, &provider(), now);
    let mut kept = read.unwrap().certificates;
    ca.issue("a", &["a.test"]);
    let (_, refused) = again(&mut kept, now);
    assert!(refused[0].contains("does not cover b.test"), "{refused:?}");
    // With other names in the configuration it is accepted.
    spec.sni = vec!["a.test".into()];
    let read = Certificates::read(std::slice::from_ref(&spec), Some(&kept), &provider(), now);
    assert_eq!(
        read.unwrap().certificates.slots()[0]
            .current
            .covers
            .concat(),
        "a.test"
    );
}
