//! The conformance suites h2spec for servers and h2specd for clients of HTTP/2, which `tests/peers/h2spec.sh` finds or installs: it
//! names them in `CUTOVER_H2SPEC` and `CUTOVER_H2SPECD`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::origin::Origin;
use crate::support::proxy::{Builder, serve, single};
use crate::support::tls::Authority;

const LISTENERS: &str = "admin = \"127.0.0.1:$ADMIN\"\nworkers = 1\nstate_dir = \"$DIR/state\"\n\
    [listen.plain]\nbind = \"127.0.0.1:$PORT2\"\n\
    [listen.tls]\nbind = \"127.0.0.1:$PORT\"\n[[listen.tls.cert]]\ncert = \"$DIR/test.pem\"\nkey = \"$DIR/test.key\"\n";

/// The only case that clear text fails: there the same port serves HTTP/1, so what doesn't begin with the preface is answered as
/// such before the connection is closed, while the suite expects frames.
const ANSWERED_AS_HTTP1: &str = "× 2: Sends invalid connection preface";

/// The only cases that fail towards endpoints. They ask that a server which goes on with a stream that it has ended loses its
/// connection; other requests share it, and RFC 9113 §5.1 permits to reset the stream.
const RESET_ONLY: [&str; 2] = [
    "× 8: closed: Sends a DATA frame",
    "× 9: closed: Sends a HEADERS frame",
];

/// The first port of h2specd, which listens on one for each case, and the number of cases.
const FIRST_PORT: u16 = 30_000;
const CASES: u16 = 57;

fn suite(variable: &str) -> Option<OsString> {
    let suite = std::env::var_os(variable);
    if suite.is_none() {
        eprintln!("skipped: tests/peers/h2spec.sh installs the suite and runs it");
    }
    suite
}

/// The cases that have failed, and all of the output.
fn failures(suite: &mut Command) -> (Vec<String>, String) {
    let output = suite.output().expect("the suite runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, failures) = text.split_once("\nFailures:").unwrap_or_default();
    let failed = failures.lines().filter(|line| line.contains('×'));
    let failed = failed.map(|line| line.trim().to_owned()).collect();
    (failed, text)
}

#[test]
fn all_of_h2spec_passes() {
    let Some(h2spec) = suite("CUTOVER_H2SPEC") else {
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
        failures(suite.args(["--port", &port.to_string()]).args(more))
    };
    let (failed, text) = run(proxy.port, &["--tls", "--insecure"]);
    assert_eq!(failed, [""; 0], "{text}");
    assert!(text.contains("147 passed, 0 skipped, 0 failed"), "{text}");
    let (failed, text) = run(proxy.port2, &[]);
    assert_eq!(failed, [ANSWERED_AS_HTTP1], "{text}");
    assert!(text.contains("146 passed, 0 skipped, 1 failed"), "{text}");
}

#[test]
fn of_h2specd_all_but_two_cases_pass() {
    let Some(h2specd) = suite("CUTOVER_H2SPECD") else {
        return;
    };
    let mut services = String::new();
    for port in FIRST_PORT..FIRST_PORT + CASES {
        let endpoint = format!("[service.p{port}.versions]\nv1 = [\"h2c://127.0.0.1:{port}\"]");
        let service = format!("[service.p{port}]\nhosts = [\"p{port}.test\"]\nstable = \"v1\"");
        writeln!(services, "{service}\n{endpoint}").expect("a string");
    }
    let proxy = serve(&services);
    // The suite tells the client a URL, whose port names the service.
    let client = proxy.dir().join("client");
    let ask = "curl --silent --max-time 2 --output /dev/null";
    let script = format!(
        "#!/bin/sh\nport=${{1##*:}}\n{ask} --header \"host: p${{port%/}}.test\" http://127.0.0.1:{}/\n",
        proxy.port
    );
    fs::write(&client, script).expect("write");
    fs::set_permissions(&client, fs::Permissions::from_mode(0o700)).expect("a mode");
    let mut suite = Command::new(h2specd);
    suite.args(["--strict", "--timeout", "2", "--from-port"]);
    suite.arg(FIRST_PORT.to_string()).arg("--exec").arg(client);
    let (failed, text) = failures(&mut suite);
    assert_eq!(failed, RESET_ONLY, "{text}");
    assert!(text.contains("55 passed, 0 skipped, 2 failed"), "{text}");
}
