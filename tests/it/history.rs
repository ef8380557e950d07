//! `cutover history`: what changed, when and by whom, also after a restart.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::origin::Origin;
use crate::support::proxy::{BINARY, Builder, Output, Proxy, command_in, serve};
use crate::support::until;

/// Services `app` and `api` with versions `v1` and `v2`; nothing needs to answer.
const TWO: &str = "
[service.app]
hosts = [\"app.test\"]
stable = \"v1\"
split = { v2 = \"5%\" }
versions = { v1 = [\"127.0.0.1:1\"], v2 = [\"127.0.0.1:2\"] }
[service.api]
hosts = [\"api.test\"]
stable = \"v1\"
versions = { v1 = [\"127.0.0.1:3\"] }
";

/// Runs a command as alice, over the control socket.
fn as_alice(proxy: &Proxy, arguments: &[&str]) -> Output {
    let file = proxy.file();
    let place = ["-c", file.to_str().expect("a path in UTF-8")];
    let mut environment = Command::new(BINARY);
    environment.env("USER", "alice").env_remove("SUDO_USER");
    command_in(&[arguments, &place].concat(), proxy.dir(), environment)
}

fn entries(proxy: &Proxy) -> Vec<Value> {
    let said = as_alice(proxy, &["history", "--json"]);
    assert_eq!(said.code, 0, "{said:?}");
    let report: Value = serde_json::from_str(&said.stdout).expect("JSON");
    report["entries"].as_array().expect("a list").clone()
}

fn words(entry: &Value) -> Vec<&str> {
    let changes = entry["changes"].as_array().expect("a list");
    changes.iter().filter_map(|c| c["text"].as_str()).collect()
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

#[test]
fn each_change_has_its_author_its_time_and_its_words() {
    let proxy = serve(TWO);
    let said = as_alice(&proxy, &["shift", "app", "v2=25%"]);
    assert_eq!(said.code, 0, "{said:?}");
    proxy.edit(&TWO.replace("127.0.0.1:3", "127.0.0.1:4"));
    let all = entries(&proxy);
    assert_eq!(all.len(), 3, "{all:#?}");
    assert_eq!(all[0]["by"], "file");
    assert_eq!(all[0]["generation"], proxy.generation());
    let edited = [
        "app: v1 75% -> 95%",
        "app: v2 25% -> 5%",
        "api: v1 +127.0.0.1:4, -127.0.0.1:3",
    ];
    assert_eq!(words(&all[0]), edited);
    assert_eq!(all[1]["by"], "cli");
    let who = all[1]["who"].as_str().expect("an author");
    assert!(
        who.starts_with("alice@") && who.ends_with("(shift)"),
        "{who}"
    );
    assert_eq!(words(&all[1]), ["app: v1 95% -> 75%", "app: v2 5% -> 25%"]);
    assert_eq!(all[2]["by"], "start");
    let times: Vec<&str> = all.iter().filter_map(|e| e["at"].as_str()).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");

    let said = as_alice(&proxy, &["history"]);
    for part in [
        "GENERATION",
        "WHO",
        "alice@",
        "(shift)",
        "app: v2 5% -> 25%",
        "proxy started",
    ] {
        assert!(
            said.stdout.contains(part),
            "no {part:?} in\n{}",
            said.stdout
        );
    }
    let said = as_alice(&proxy, &["history", "api"]);
    assert!(!said.stdout.contains("alice"), "{said:?}");
    assert!(said.stdout.contains("api: v1 +"), "{said:?}");
    let said = as_alice(&proxy, &["history", "ap"]);
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("did you mean"), "{said:?}");
    let answer = proxy.ask_admin("/api/v1/history?service=api");
    let report: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(report["entries"].as_array().map(Vec::len), Some(1));
    assert_eq!(report["stored"], true);
    assert_eq!(proxy.ask_admin("/api/v1/history?servce=api").status(), 400);
}

#[test]
fn history_survives_a_kill_and_a_takeover() {
    let proxy = serve(TWO);
    for share in ["6%", "7%"] {
        let said = as_alice(&proxy, &["shift", "app", &format!("v2={share}")]);
        assert_eq!(said.code, 0, "{said:?}");
    }
    let before = entries(&proxy);
    assert_eq!(before.len(), 3);
    let mut next = proxy.successor().expect("a successor");
    let after = entries(&next);
    assert_eq!(after[1..], before, "the successor has it all");
    assert_eq!(after[0]["by"], "start");
    let last = next.generation();
    let log = until("the last entry is written", || {
        let stored = files(&next.dir().join("state/history"));
        let log = stored.iter().find(|path| path.ends_with("log.jsonl"))?;
        let text = std::fs::read_to_string(log).ok()?;
        text.contains(&format!("\"generation\":{last},"))
            .then_some(text)
    });
    assert!(log.starts_with("{\"format\":1}\n"), "{log}");
    next.signal(Signal::KILL);
    next.ended();
    let third = proxy
        .successor()
        .expect("a process that finds nothing to take over");
    assert_eq!(third.generation(), last, "the same text keeps its number");
    assert_eq!(entries(&third), after);
    let said = as_alice(&third, &["shift", "app", "v2=8%"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(entries(&third)[0]["generation"], last + 1);
}

#[test]
fn the_gate_is_an_author_too() {
    let origin = Origin::named("v2");
    let check = "check = \"/ready\"\nhealth.interval = \"50ms\"\n";
    let text = |shares: &str, v2: &str| {
        format!(
            "[service.app]\nstable = \"v1\"\nsplit = {{ v2 = \"{shares}\" }}\n{check}\
             versions = {{ v1 = [\"{}\"], v2 = [\"{v2}\"] }}\n",
            origin.at()
        )
    };
    let proxy = serve(&text("0%", &origin.at().replace("127.0.0.1", "localhost")));
    proxy.edit(&text("5%", "127.0.0.1:9"));
    proxy.edit(&text("5%", &origin.at().replace("127.0.0.1", "localhost")));
    until("the gate opens", || {
        let all = entries(&proxy);
        all.iter().any(|e| e["by"] == "gate").then_some(())
    });
    let all = entries(&proxy);
    let gate = all.iter().find(|e| e["by"] == "gate").expect("an entry");
    let opened = [
        "app: v1 in effect 100% -> 95%",
        "app: v2 in effect 0% -> 5%",
    ];
    assert_eq!(words(gate), opened);
}

#[test]
fn files_are_private_and_changes_show_no_secret() {
    let builder = Builder::new(&format!(
        "listen = \"127.0.0.1:$PORT\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n\
         [admin]\nlisten = \"127.0.0.1:$ADMIN\"\ntoken_file = \"$DIR/token\"\n{TWO}"
    ));
    let token = builder.dir().join("token");
    std::fs::write(&token, "s3cret-token").expect("write the token");
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&token, mode).expect("its mode");
    let proxy = builder.start();
    let text = std::fs::read_to_string(proxy.file()).expect("the configuration");
    let other = text.replace("/token\"", "/token2\"");
    std::fs::copy(&token, proxy.dir().join("token2")).expect("another token");
    std::fs::write(proxy.file(), other).expect("write the configuration");
    until("it is adopted", || (proxy.generation() == 2).then_some(()));
    let all = until("both are stored", || {
        let all = entries(&proxy);
        (all.len() == 2).then_some(all)
    });
    assert_eq!(words(&all[0]), ["admin changed"]);
    until("both texts are stored", || {
        let stored = files(&proxy.dir().join("state/history"));
        (stored.len() == 3).then_some(())
    });
    for path in files(&proxy.dir().join("state/history")) {
        let mode = std::fs::metadata(&path)
            .expect("a file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        let mode = |path: &Path| std::fs::metadata(path).expect("it").permissions().mode();
        assert_eq!(mode(path.parent().expect("a directory")) & 0o777, 0o700);
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(!text.contains("s3cret"), "{}", path.display());
    }
    assert!(!proxy.ask_admin("/api/v1/history").text().contains("token"));
}

#[test]
fn an_announcement_needs_permission_and_a_plain_name() {
    let proxy = serve(TWO);
    let post = |body: &str| {
        let mut client = crate::support::client::Client::new(proxy.admin);
        client.send(format!(
            "POST /api/v1/announce HTTP/1.1\r\nhost: 127.0.0.1:{}\r\ncontent-length: {}\r\n\r\n{body}",
            proxy.admin,
            body.len()
        ));
        client.answer("POST").status()
    };
    assert_eq!(post("{}"), 403, "over TCP without a token");
}

#[test]
fn a_state_directory_that_cannot_be_used_is_said_once_and_harms_nothing() {
    let proxy = {
        let builder = Builder::rest(TWO);
        let state = builder.dir().join("state");
        std::fs::create_dir(&state).expect("a directory");
        // A file where the directory should be: that fails for root too.
        std::fs::write(state.join("history"), "").expect("a file");
        builder.start()
    };
    for share in ["6%", "7%", "8%"] {
        let said = as_alice(&proxy, &["shift", "app", &format!("v2={share}")]);
        assert_eq!(said.code, 0, "{said:?}");
    }
    let said = as_alice(&proxy, &["history"]);
    assert_eq!(said.stdout.matches("(shift)").count(), 3, "{said:?}");
    assert!(said.stderr.contains("can't store its history"), "{said:?}");
    assert_eq!(proxy.log().matches("cannot store the history").count(), 1);
}

#[test]
fn without_a_proxy_there_is_no_history() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("cutover.toml");
    std::fs::write(&file, format!("state_dir = \"{}\"\n", dir.path().display())).expect("a file");
    let arguments = ["history", "-c", file.to_str().expect("UTF-8")];
    let said = command_in(&arguments, dir.path(), Command::new(BINARY));
    assert_eq!(said.code, 3, "{said:?}");
}
