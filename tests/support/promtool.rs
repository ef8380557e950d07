//! Prometheus' own checks, where they are installed.

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs promtool with this standard input and returns what it prints; `None` where it isn't installed.
///
/// # Panics
/// When promtool reports a failure.
#[track_caller]
pub fn promtool(arguments: &[&str], input: &str) -> Option<String> {
    let promtool = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        eprintln!("skipped: promtool is not on PATH");
        return None;
    };
    let mut stdin = promtool.stdin.take().expect("a pipe");
    stdin
        .write_all(input.as_bytes())
        .expect("promtool reads all");
    drop(stdin);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{said}\n{input}");
    Some(said)
}
