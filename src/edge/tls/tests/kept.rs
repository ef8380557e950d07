//! What is said of bad certificates, and which ones take the place of those in use.

use std::time::Duration;

use super::*;

#[test]
fn everything_wrong_with_all_certificates_is_said_at_once() {
    let desk = TestCertificates::new();
    let (one, mut two) = (desk.issue("a", &["a.test"]), desk.issue("b", &["b.test"]));
    std::fs::write(&one.cert, "").unwrap();
    std::fs::set_permissions(&two.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    two.client_ca = Some(desk.path("none.pem"));
    let mut three = desk.issue("c", &["c.test"]);
    three.key = two.key.clone();
    let errors = Certificates::read(&[one, two, three], None, &provider(), SystemTime::now());
    let errors = errors.unwrap_err();
    let told: Vec<(usize, CertificateKey)> = errors.iter().map(|(at, e)| (*at, e.part)).collect();
    assert_eq!(
        told,
        [
            (0, CertificateKey::Cert),
            (1, CertificateKey::ClientCa),
            (2, CertificateKey::Key)
        ]
    );
}

#[test]
fn swapped_and_encrypted_files_are_recognised() {
    let desk = TestCertificates::new();
    let good = desk.issue("a", &["a.test"]);
    let told = |cert: spec::Cert| build(&listener(vec![cert]), None).unwrap_err();
    let mut swapped = good.clone();
    std::mem::swap(&mut swapped.cert, &mut swapped.key);
    let said = told(swapped);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("`cert` and `key` are swapped"), "{said}");
    let mut twice = good.clone();
    twice.key = good.cert.clone();
    let said = told(twice);
    assert!(
        said.contains("holds a certificate, and no private key"),
        "{said}"
    );
    write_key(
        &good.key,
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIBpjBABgkqhkiG9w0BBQ0w\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let said = told(good.clone());
    assert!(
        said.contains("is encrypted") && said.contains("openssl pkey"),
        "{said}"
    );
    write_key(
        &good.key,
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMIIB\n-----END RSA PRIVATE KEY-----\n",
    );
    let said = told(good);
    assert!(said.contains("is encrypted"), "{said}");
}

/// Reads again what `former` came from; the names that are covered then, and what was refused.
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
fn a_worse_certificate_takes_no_place_and_a_shorter_one_does() {
    let desk = TestCertificates::new();
    let now = SystemTime::now();
    let specs = [desk.issue("a", &["a1.test"]), desk.issue("b", &["b1.test"])];
    let mut kept = Certificates::read(&specs, None, &provider(), now)
        .unwrap()
        .certificates;
    desk.issue_by("a", &["a2.test"], |p| {
        p.not_after = rcgen::date_time_ymd(2020, 1, 1)
    });
    desk.issue("b", &["b2.test"]);
    let (covers, refused) = again(&mut kept, now);
    // The other certificate of the listener is renewed all the same.
    assert_eq!(covers, ["a1.test", "b2.test"]);
    assert_eq!(refused.len(), 1);
    assert!(
        refused[0].contains("has expired at 2020-01-01T00:00:00Z"),
        "{refused:?}"
    );
    assert!(kept.slots()[0].refused.is_some() && kept.slots()[1].refused.is_none());
    // Said once.
    assert_eq!(again(&mut kept, now).1, Vec::<String>::new());
    std::fs::remove_file(desk.path("a.key")).unwrap();
    let (covers, refused) = again(&mut kept, now);
    assert_eq!(
        (covers[0].as_str(), refused.len()),
        ("a1.test", 1),
        "{refused:?}"
    );
    assert_eq!(again(&mut kept, now).1, Vec::<String>::new());
    // Valid for an hour only, and for other names: neither is worse.
    let soon = since(now + Duration::from_secs(3600));
    desk.issue_by("a", &["a3.test"], |p| {
        p.not_after = rcgen::date_time_ymd(1970, 1, 1) + soon;
    });
    assert_eq!(
        again(&mut kept, now),
        (vec!["a3.test".to_owned(), "b2.test".to_owned()], Vec::new())
    );
    assert!(kept.slots().iter().all(|slot| slot.refused.is_none()));
}

/// Since the epoch.
fn since(time: SystemTime) -> Duration {
    time.duration_since(std::time::UNIX_EPOCH).unwrap()
}

#[test]
fn a_certificate_of_the_future_is_taken_when_its_time_comes() {
    let desk = TestCertificates::new();
    let now = SystemTime::now();
    let specs = [desk.issue("a", &["a1.test"])];
    let mut kept = Certificates::read(&specs, None, &provider(), now)
        .unwrap()
        .certificates;
    let later = now + Duration::from_secs(60);
    desk.issue_by("a", &["a2.test"], |p| {
        p.not_before = rcgen::date_time_ymd(1970, 1, 1) + since(later);
    });
    let (covers, refused) = again(&mut kept, now);
    assert_eq!(covers, ["a1.test"]);
    assert!(refused[0].contains("is not valid before"), "{refused:?}");
    assert!(!kept.may_have_ripened(now));
    let later = later + Duration::from_secs(1);
    assert!(kept.may_have_ripened(later));
    assert_eq!(again(&mut kept, later).0, ["a2.test"]);
    assert!(!kept.may_have_ripened(later));
}

#[test]
fn a_certificate_without_a_name_of_sni_replaces_none_that_has_it() {
    let desk = TestCertificates::new();
    let now = SystemTime::now();
    let mut spec = desk.issue("a", &["a.test", "b.test"]);
    spec.sni = vec!["a.test".into(), "b.test".into()];
    let read = Certificates::read(std::slice::from_ref(&spec), None, &provider(), now);
    let mut kept = read.unwrap().certificates;
    desk.issue("a", &["a.test"]);
    let (_, refused) = again(&mut kept, now);
    assert!(refused[0].contains("does not cover b.test"), "{refused:?}");
    // With other names in the configuration it is another matter.
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
