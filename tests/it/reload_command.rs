//! `cutover reload`, and where commands look for the proxy.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::origin::Origin;
use crate::support::proxy::{BINARY, Builder, Output, Proxy, command, command_in, serve, single};

fn reload(proxy: &Proxy) -> Output {
    let file = proxy.file();
    command(
        &["reload", "-c", file.to_str().expect("UTF-8")],
        proxy.dir(),
    )
}

fn write(proxy: &Proxy, rest: &str) {
    std::fs::write(proxy.file(), proxy.whole(rest)).expect("write the configuration");
}

#[test]
fn it_returns_when_every_worker_has_the_file_as_it_is_now() {
    let (blue, green) = (Origin::named("blue"), Origin::named("green"));
    let proxy = serve(&single(&blue.at(), ""));
    assert_eq!(proxy.get("/").text(), "blue");
    for _ in 0..5 {
        for (origin, name) in [(&green, "green"), (&blue, "blue")] {
            write(&proxy, &single(&origin.at(), ""));
            let said = reload(&proxy);
            assert_eq!(said.code, 0, "{said:?}");
            for _ in 0..4 {
                assert_eq!(proxy.get("/").text(), name);
            }
        }
    }
    let generation = proxy.generation();
    let said = reload(&proxy);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    assert_eq!(
        said.stdout,
        format!("unchanged: generation {generation} runs on every worker\n")
    );
}

#[test]
fn a_rejected_file_is_an_error_with_its_mistakes_every_time() {
    let origin = Origin::named("blue");
    let proxy = serve(&single(&origin.at(), ""));
    write(&proxy, "workrs = 2\n[service.app]\nstabel = \"v1\"\n");
    for _ in 0..2 {
        let said = reload(&proxy);
        assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said:?}");
        for expected in ["workrs", "stabel", "cutover.toml:", "did you mean"] {
            assert!(
                said.stderr.contains(expected),
                "no {expected:?} in {}",
                said.stderr
            );
        }
    }
    assert_eq!(proxy.get("/").text(), "blue");
    write(&proxy, &single(&origin.at(), ""));
    assert_eq!(reload(&proxy).code, 0);
    assert_eq!(proxy.status()["config"]["ok"], true);
}

#[test]
fn the_service_manager_is_told_of_it_before_the_command_returns() {
    let dir = tempfile::tempdir().expect("a directory");
    let manager = UnixDatagram::bind(dir.path().join("notify")).expect("bind");
    manager
        .set_read_timeout(Some(Duration::from_secs(15)))
        .expect("a timeout");
    let origin = Origin::named("blue");
    let proxy = Builder::rest(&single(&origin.at(), ""))
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .start();
    assert_eq!(reload(&proxy).code, 0);
    // systemd is not left in the state `reloading`.
    manager.set_nonblocking(true).expect("nonblocking");
    let mut told = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n) = manager.recv(&mut chunk) {
        let message = String::from_utf8_lossy(&chunk[..n]).into_owned();
        let first = message.lines().next().unwrap_or_default().to_owned();
        if first == "RELOADING=1" {
            assert!(message.contains("MONOTONIC_USEC="), "{message}");
        }
        told.push(first);
    }
    let last = told
        .iter()
        .rposition(|l| l == "RELOADING=1")
        .expect("it is told of the reload");
    assert!(told[last..].iter().any(|l| l == "READY=1"), "{told:?}");
}

/// A command with this home, and nothing else that says where a state directory is.
fn at_home(arguments: &[&str], home: &Path) -> Output {
    let mut environment = Command::new(BINARY);
    environment.env_clear().env("HOME", home);
    command_in(arguments, home, environment)
}

#[test]
fn without_a_proxy_both_places_are_named() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("cutover.toml");
    std::fs::write(&file, "listen = \":1\"\n").expect("write");
    let said = at_home(&["reload", "-c", "cutover.toml"], home.path());
    assert_eq!(said.code, 3, "{said:?}");
    let own = home.path().join(".local/state/cutover/control-");
    for place in [
        own.to_str().expect("UTF-8"),
        "/var/lib/cutover/control-",
        "--admin",
    ] {
        assert!(said.stderr.contains(place), "no {place} in {}", said.stderr);
    }
    let said = at_home(&["status", "-c", "cutover.toml"], home.path());
    assert_eq!(said.code, 1);
    assert!(
        said.stderr.contains("/var/lib/cutover/control-"),
        "{said:?}"
    );
    // Where the file says so it is nowhere else.
    std::fs::write(
        &file,
        format!("state_dir = \"{}\"\n", home.path().display()),
    )
    .expect("write");
    let said = at_home(&["status", "-c", "cutover.toml"], home.path());
    assert!(!said.stderr.contains("/var/lib/cutover"), "{said:?}");
}

#[test]
fn the_unit_works_without_what_only_newer_service_managers_know() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/cutover.service");
    let unit = std::fs::read_to_string(unit).expect("the unit");
    let value = |key: &str| {
        let lines = unit.lines().filter_map(|line| line.strip_prefix(key));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(value("Type="), ["notify"]);
    let reload = value("ExecReload=");
    let [program, rest @ ..] = &reload[0].split(' ').collect::<Vec<_>>()[..] else {
        panic!("{reload:?}")
    };
    // The commands that the unit runs are ones that this program has, about the same file.
    assert!(value("ExecStart=")[0].starts_with(program), "{reload:?}");
    assert_eq!(rest, ["reload", "-c", "/etc/cutover/cutover.toml"]);
    assert_eq!(value("StateDirectory="), ["cutover"]);
}
