//! The conformance suite h2spec, which `tests/peers/h2spec.sh` finds or installs: it names it in `CUTOVER_H2SPEC`.

use std::process::Command;

use crate::support::origin::Origin;
use crate::support::proxy::{Builder, single};
use crate::support::tls::Authority;

const LISTENERS: &str = "admin = \"127.0.0.1:$ADMIN\"\nworkers = 1\nstate_dir = \"$DIR/state\"\n\
    [listen.plain]\nbind = \"127.0.0.1:$PORT2\"\n\
    [listen.tls]\nbind = \"127.0.0.1:$PORT\"\n[[listen.tls.cert]]\ncert = \"$DIR/test.pem\"\nkey = \"$DIR/test.key\"\n";

/// The only case that clear text fails: there the same port serves HTTP/1, so what doesn't begin with the preface is answered as
/// such before the connection is closed, while the suite expects frames.
const ANSWERED_AS_HTTP1: &str = "× 2: Sends invalid connection preface";

#[test]
fn all_of_h2spec_passes() {
    let Some(h2spec) = std::env::var_os("CUTOVER_H2SPEC") else {
        eprintln!("skipped: tests/peers/h2spec.sh installs h2spec and runs it");
        return;
    };
    // Some cases need a response of several frames.
    let origin = Origin::each(|_, conn| conn.reply(200, &"x".repeat(1024)));
    let builder = Builder::new(&format!("{LISTENERS}{}", single(&origin.at(), "")));
    Authority::new()
        .issue(&["localhost"])
        .save(builder.dir(), "test");
    let proxy = builder.start();
    let run = |port: u16, more: &[&str]| {
        let mut suite = Command::new(&h2spec);
        suite.args(["--strict", "--timeout", "5", "--host", "127.0.0.1"]);
        suite.args(["--port", &port.to_string()]).args(more);
        let output = suite.output().expect("h2spec runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (_, failures) = text.split_once("\nFailures:").unwrap_or_default();
        let failed = failures.lines().filter(|line| line.contains('×'));
        let failed: Vec<_> = failed.map(|line| line.trim().to_owned()).collect();
        (failed, text)
    };
    let (failed, text) = run(proxy.port, &["--tls", "--insecure"]);
    assert_eq!(failed, [""; 0], "{text}");
    assert!(text.contains("147 passed, 0 skipped, 0 failed"), "{text}");
    let (failed, text) = run(proxy.port2, &[]);
    assert_eq!(failed, [ANSWERED_AS_HTTP1], "{text}");
    assert!(text.contains("146 passed, 0 skipped, 1 failed"), "{text}");
}
