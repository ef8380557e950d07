//! The commands, as a person or a script uses them.

use crate::support::origin::Origin;
use crate::support::proxy::{Output, Proxy, command, serve};
use crate::support::until;

const COMMENTED: &str = "
[service.app] # ours
stable = \"v1\"
split = { v2 = \"5%\" } # the line
[service.app.versions]
v1 = [\"$A\"]
v2 = [\"$B\"]
";

fn two() -> (Proxy, [Origin; 2]) {
    let origins = [Origin::named("v1"), Origin::named("v2")];
    let text = COMMENTED
        .replace("$A", &origins[0].at())
        .replace("$B", &origins[1].at());
    (serve(&text), origins)
}

fn checked(text: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cutover.toml");
    std::fs::write(&file, text).unwrap();
    command(&["check", file.to_str().unwrap()], dir.path())
}

#[test]
fn check_accepts_a_good_file() {
    let said = checked(
        "listen = \":8080\"\n[service.app]\nstable = \"a\"\nversions.a = [\"127.0.0.1:1\"]\n",
    );
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
}

#[test]
fn check_reports_every_mistake_at_its_place_with_a_suggestion() {
    let said = checked(
        "listen = \":8080\"\nworkrs = 2\n[service.app]\nstable = \"blu\"\nsplit = { green = \"120%\" }\n\
         timeouts.connect = 3\n[service.app.versions]\nblue = [\"127.0.0.1:1\"]\ngreen = [\"127.0.0.1:2\"]\n",
    );
    assert_eq!(said.code, 1);
    let all = format!("{}{}", said.stdout, said.stderr);
    for expected in [
        "cutover.toml:2:1",
        "workers",
        "cutover.toml:4:10",
        "blue",
        "cutover.toml:5:",
        "cutover.toml:6:",
        "^",
    ] {
        assert!(all.contains(expected), "no {expected:?} in:\n{all}");
    }
}

#[test]
fn check_in_json_says_all_that_the_text_says() {
    let dir = tempfile::tempdir().unwrap();
    let text = "listen = \":80\"\nlisten_two = 1\n[service.app]\nstable = \"a\"\nsplit = { a = \"5%\" }\nversions.a = [\"h:1\"]\n";
    std::fs::write(dir.path().join("cutover.toml"), text).unwrap();
    let said = command(&["check", "--json", "cutover.toml"], dir.path());
    assert_eq!(said.code, 1, "{said:?}");
    let report: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    let errors = &report[0]["errors"];
    assert_eq!(errors.as_array().map(Vec::len), Some(2), "{report:#}");
    assert_eq!(errors[0]["line"], 2);
    let expected = serde_json::json!({
        "file": "cutover.toml",
        "line": 5,
        "column": 11,
        "message": "`a` is stable and in its own split",
        "cause": "stable gets what the split leaves",
        "also": { "file": "cutover.toml", "line": 4, "column": 10, "cause": "stable is named here" },
        "help": "name only the other versions here",
    });
    assert_eq!(errors[1], expected);
}

#[test]
fn run_refuses_a_broken_file_and_says_where() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cutover.toml"), "listen = \n").unwrap();
    let said = command(&["run", "-c", "cutover.toml"], dir.path());
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("cutover.toml:1:"), "{said:?}");
    let said = command(&["run", "-c", "nowhere.toml"], dir.path());
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("nowhere.toml"), "{said:?}");
}

#[test]
fn run_says_so_when_the_address_is_taken() {
    let (holder, address) = crate::support::listen();
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "listen = \"{address}\"\nstate_dir = \"{}\"\n[service.app]\nstable = \"a\"\nversions.a = [\"127.0.0.1:1\"]\n",
        dir.path().display()
    );
    std::fs::write(dir.path().join("cutover.toml"), text).unwrap();
    let said = command(&["run", "-c", "cutover.toml"], dir.path());
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains(&address.to_string()), "{said:?}");
    drop(holder);
}

#[test]
fn status_shows_services_and_shares() {
    let (proxy, _origins) = two();
    let said = proxy.command(&["status"]);
    assert_eq!(said.code, 0, "{said:?}");
    for word in ["app", "v1", "95%", "v2", "5%"] {
        assert!(said.stdout.contains(word), "no {word} in\n{}", said.stdout);
    }
    let said = proxy.command(&["status", "app", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert!(json.to_string().contains("\"v2\""));
    assert_eq!(proxy.command(&["status", "nobody"]).code, 1);
}

#[test]
fn shift_changes_the_line_keeps_comments_and_waits_until_it_is_live() {
    let (proxy, _origins) = two();
    let before = std::fs::read_to_string(proxy.file()).unwrap();
    let said = proxy.command(&["shift", "app", "v2=100%"]);
    assert_eq!(said.code, 0, "{said:?}");
    // Live on return: no waiting here.
    for _ in 0..20 {
        assert_eq!(proxy.get("/").text(), "v2");
    }
    let after = std::fs::read_to_string(proxy.file()).unwrap();
    let expected = before.replace("\"5%\"", "\"100%\"");
    assert_eq!(after, expected);
    let said = proxy.command(&["shift", "app", "v2=0%"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(proxy.get("/").text(), "v1");
}

#[test]
fn shift_to_a_version_alone_makes_it_stable() {
    let (proxy, _origins) = two();
    let said = proxy.command(&["shift", "app", "v2"]);
    assert_eq!(said.code, 0, "{said:?}");
    for _ in 0..20 {
        assert_eq!(proxy.get("/").text(), "v2");
    }
    let after = std::fs::read_to_string(proxy.file()).unwrap();
    assert!(
        after.contains("stable = \"v2\"\nsplit = { v1 = \"0%\" } # the line"),
        "{after}"
    );
}

#[test]
fn shift_without_a_proxy_changes_the_file_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cutover.toml");
    let text = format!(
        "state_dir = \"{}\"\nlisten = \":8080\"\n{}",
        dir.path().display(),
        COMMENTED
            .replace("$A", "127.0.0.1:1")
            .replace("$B", "127.0.0.1:2")
    );
    std::fs::write(&file, text).unwrap();
    let said = command(&["shift", "app", "v2=7%"], dir.path());
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.stderr.contains("no proxy answers"), "{said:?}");
    assert!(std::fs::read_to_string(&file).unwrap().contains("\"7%\""));
}

#[test]
fn explain_reads_the_file_when_nobody_answers() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "state_dir = \"{}\"\nlisten = \":8080\"\n{}",
        dir.path().display(),
        COMMENTED
            .replace("$A", "127.0.0.1:1")
            .replace("$B", "127.0.0.1:2")
    );
    std::fs::write(dir.path().join("cutover.toml"), text).unwrap();
    let said = command(&["explain", "http://shop:8080/", "--json"], dir.path());
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("explained from"), "{said:?}");
    let json: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(json["candidates"][1]["share"], "5%");
}

#[test]
fn shift_refuses_what_would_not_be_valid() {
    let (proxy, _origins) = two();
    let before = std::fs::read_to_string(proxy.file()).unwrap();
    for arguments in [
        ["shift", "app", "v2=101%"],
        ["shift", "app", "v3=5%"],
        ["shift", "nobody", "v2=5%"],
        ["shift", "app", "v2=5"],
        ["shift", "app", "v2="],
    ] {
        let said = proxy.command(&arguments);
        assert_ne!(said.code, 0, "{arguments:?}");
        assert_ne!(said.stderr, "", "{arguments:?}");
    }
    assert_eq!(std::fs::read_to_string(proxy.file()).unwrap(), before);
}

#[test]
fn commands_say_when_nobody_answers() {
    let dir = tempfile::tempdir().unwrap();
    let admin = format!("127.0.0.1:{}", crate::support::free_port());
    let said = command(&["status", "--admin", &admin], dir.path());
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains(&admin), "{said:?}");
    assert_eq!(said.stdout, "");
}

#[test]
fn completions_are_printed_for_shells() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let said = command(&["completions", shell], dir.path());
        assert_eq!(said.code, 0);
        assert!(said.stdout.contains("cutover"), "{shell}");
    }
    assert_eq!(command(&["completions", "cobol"], dir.path()).code, 1);
}

#[test]
fn explain_names_what_decided() {
    let (proxy, origins) = two();
    let url = format!("http://test:{}/x", proxy.port);
    let said = proxy.command(&["explain", &url]);
    assert_eq!(said.code, 0, "{said:?}");
    for word in ["default", "app", &origins[0].at()] {
        assert!(said.stdout.contains(word), "no {word} in\n{}", said.stdout);
    }
    until("explaining moved no traffic", || {
        (proxy.metrics().sum("http_requests_total", &[]) == 0.0).then_some(())
    });
}

#[test]
fn a_configuration_that_others_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cutover.toml");
    let text =
        "listen = \":8080\"\n[service.app]\nstable = \"a\"\nversions.a = [\"127.0.0.1:1\"]\n";
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    let said = command(&["check", "cutover.toml"], dir.path());
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("write"), "{said:?}");
}
