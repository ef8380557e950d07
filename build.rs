//! Names the commit in the version of a release build: `0.1.0 (3f2a9c1d04b7)`.
//!
//! A debug build has no commit in its version: otherwise the whole crate would be rebuilt after each commit.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CUTOVER_COMMIT");
    let package = env("CARGO_PKG_VERSION");
    let version = match commit() {
        Some(commit) => format!("{package} ({commit})"),
        None => package,
    };
    println!("cargo::rustc-env=CUTOVER_VERSION={version}");
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// What `CUTOVER_COMMIT` says, or the commit of the checkout; none for a build of an unpacked archive.
fn commit() -> Option<String> {
    let given = env("CUTOVER_COMMIT");
    if !given.is_empty() {
        return Some(given);
    }
    if env("PROFILE") == "debug" {
        return None;
    }
    // This file's directory: an archive that was unpacked inside another project's checkout isn't part of it.
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    // Written with every commit, checkout and rebase.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed={log}");
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
