//! Which programs take part in a run.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::options::Bench;
use crate::peers::{self, Contender, Kind};

/// What `--only` takes.
const NAMES: [&str; 5] = ["nginx", "nginx64", "haproxy", "cutover", "copy"];

/// Those that are asked for and installed. Without `--cutover` one is built.
pub(crate) fn chosen(bench: &Bench, top: &Path) -> Result<Vec<Contender>> {
    for name in &bench.only {
        if !NAMES.contains(&name.as_str()) {
            return Err(format!("no proxy `{name}`: {}", NAMES.join(", ")).into());
        }
    }
    let asked = |name: &str| bench.only.is_empty() || bench.only.iter().any(|only| only == name);
    let mut contenders = Vec::new();
    let mut add = |name: &str, kind| {
        contenders.push(Contender {
            name: name.to_owned(),
            kind,
            default_limits: false,
        });
    };
    for (name, program, kind) in [
        ("nginx", "nginx", Kind::Nginx { large: false }),
        ("nginx64", "nginx", Kind::Nginx { large: true }),
        ("haproxy", "haproxy", Kind::Haproxy),
    ] {
        if !asked(name) {
            continue;
        }
        if peers::installed(program).is_some() {
            add(name, kind);
        } else {
            println!("{name}: left out, {program} is missing (Debian: apt install {program})");
        }
    }
    if !bench.binaries.is_empty() {
        for (name, binary) in &bench.binaries {
            add(
                name,
                Kind::Cutover(
                    binary
                        .canonicalize()
                        .map_err(|e| format!("{}: {e}", binary.display()))?,
                ),
            );
        }
    } else if asked("cutover") {
        add("cutover", Kind::Cutover(build(bench, top)?));
    }
    if asked("copy") {
        add("copy", Kind::Copy);
    }
    if contenders.is_empty() {
        return Err(
            "there is nothing to measure: none of the proxies that were asked for is installed"
                .into(),
        );
    }
    Ok(contenders)
}

fn build(bench: &Bench, top: &Path) -> Result<PathBuf> {
    println!("building cutover (cargo build --profile {})", bench.profile);
    let status = Command::new("cargo")
        .args(["build", "--bin", "cutover", "--profile", &bench.profile])
        .current_dir(top)
        .status()
        .map_err(|e| format!("can't run cargo: {e}"))?;
    if !status.success() {
        return Err("cutover doesn't build; --cutover takes a built one".into());
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| top.join("target"), PathBuf::from);
    Ok(target.join(&bench.profile).join("cutover"))
}
