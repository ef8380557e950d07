//! The files of nginx and HAProxy in the documentation are files that these programs accept.

use std::path::Path;
use std::process::Command;

use crate::support::tls::Authority;

/// The blocks of a page below `docs/` that are marked with this word.
fn blocks(page: &str, kind: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(page);
    let text = std::fs::read_to_string(file).expect("the page");
    let opening = format!("\n```{kind}\n");
    let parts = text.split(&opening).skip(1);
    parts
        .filter_map(|part| Some(part.split("\n```").next()?.to_owned() + "\n"))
        .collect()
}

/// Whether a program is there to be asked.
fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("-v").output().is_ok();
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Runs a check of a file to its end.
#[track_caller]
fn accepts(check: &mut Command, text: &str) {
    let output = check.output().expect("run the program");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{text}");
}

/// A directory with a certificate as `shop` and `example`, also with its key in the file, as HAProxy wants it.
fn certificates() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let identity = Authority::new().issue(&["shop.example.com"]);
    for name in ["shop", "example"] {
        let (cert, key) = identity.save(directory.path(), name);
        let both = [cert, key].map(|file| std::fs::read_to_string(file).expect("PEM"));
        let file = directory.path().join(format!("{name}-both.pem"));
        std::fs::write(file, both.concat()).expect("write PEM");
    }
    directory
}

#[test]
fn nginx_accepts_its_files() {
    let texts: Vec<String> = ["migration.md", "migration/nginx.md"]
        .into_iter()
        .flat_map(|page| blocks(page, "nginx"))
        .collect();
    assert_eq!(texts.len(), 5);
    if !installed("nginx") {
        return;
    }
    let directory = certificates();
    let at = directory.path().display();
    for text in texts {
        let text = text.replace("/etc/cutover/tls", &at.to_string());
        let file = directory.path().join("nginx.conf");
        // Instead of the compiled-in ones, which may be another user's.
        let own = format!("pid {at}/pid; error_log {at}/error.log;");
        std::fs::write(&file, &text).expect("write the file");
        accepts(
            Command::new("nginx")
                .args(["-t", "-g", &own, "-c"])
                .arg(&file),
            &text,
        );
    }
}

#[test]
fn haproxy_accepts_its_files() {
    let texts: Vec<String> = ["migration.md", "migration/haproxy.md"]
        .into_iter()
        .flat_map(|page| blocks(page, "haproxy"))
        .collect();
    assert_eq!(texts.len(), 4);
    if !installed("haproxy") {
        return;
    }
    let directory = certificates();
    let both = directory.path().join("shop-both.pem");
    for text in texts {
        let text = text.replace("/etc/haproxy/shop.pem", &both.display().to_string());
        let file = directory.path().join("haproxy.cfg");
        std::fs::write(&file, &text).expect("write the file");
        accepts(
            Command::new("haproxy").arg("-c").arg("-f").arg(&file),
            &text,
        );
    }
}
