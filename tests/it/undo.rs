//! `cutover undo`, and edits of the file through the admin API.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::proxy::{BINARY, Builder, Output, Proxy, can_mount, command_in, serve};
use crate::support::until;

/// A service `app` with three versions; nothing needs to answer.
const APP: &str = "
[service.app] # ours
stable = \"v1\"
split = { v2 = \"5%\" } # THE line
[service.app.versions]
v1 = [\"127.0.0.1:1\"]
v2 = [\"127.0.0.1:2\"] # new
v3 = [\"127.0.0.1:3\"]
";

/// A proxy whose admin API accepts changes over TCP.
pub fn with_token(rest: &str) -> Proxy {
    token_file(rest).start()
}

fn token_file(rest: &str) -> Builder {
    let builder = Builder::new(&format!(
        "listen = \"127.0.0.1:$PORT\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n\
         [admin]\nlisten = \"127.0.0.1:$ADMIN\"\ntoken_file = \"$DIR/token\"\n{rest}"
    ));
    let token = builder.dir().join("token");
    std::fs::write(&token, "s3cret").expect("write the token");
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&token, mode).expect("its mode");
    builder
}

/// Runs a command through the admin API alone, from a directory without a configuration.
fn run_remotely(proxy: &Proxy, arguments: &[&str]) -> Output {
    let elsewhere = tempfile::tempdir().expect("a directory");
    let (admin, token) = (
        format!("127.0.0.1:{}", proxy.admin),
        proxy.dir().join("token"),
    );
    let place = [
        "--admin",
        &admin,
        "--token-file",
        token.to_str().expect("UTF-8"),
    ];
    command_in(
        &[arguments, &place].concat(),
        elsewhere.path(),
        Command::new(BINARY),
    )
}

fn post(proxy: &Proxy, path: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let mut client = Client::new(proxy.admin);
    client.send(format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nauthorization: Bearer s3cret\r\n\
         x-cutover-by: pipeline 7\r\ncontent-length: {}\r\n\r\n{body}",
        proxy.admin,
        body.len()
    ));
    let answer = client.answer("POST");
    let body = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    (answer.status(), body)
}

fn desired(proxy: &Proxy, version: &str) -> String {
    let share = &proxy.status()["services"][0]["split"]["desired"][version];
    share.as_str().unwrap_or("none").to_owned()
}

fn newest(proxy: &Proxy) -> Value {
    let answer = proxy.ask_admin("/api/v1/history");
    let report: Value = serde_json::from_slice(&answer.body).expect("JSON");
    report["entries"][0].clone()
}

#[test]
fn undo_puts_the_last_text_back_to_the_byte_and_can_be_undone() {
    let proxy = serve(APP);
    let before = proxy.text();
    assert_eq!(proxy.local(&["shift", "app", "v2=25%"]).code, 0);
    let shifted = proxy.text();
    let said = proxy.local(&["undo"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("app: v2 25% -> 5%"), "{said:?}");
    assert_eq!(proxy.text(), before);
    assert_eq!(desired(&proxy, "v2"), "5%");
    let entry = newest(&proxy);
    assert_eq!(entry["by"], "cli");
    assert!(
        entry["who"]
            .as_str()
            .is_some_and(|who| who.ends_with("(undo)")),
        "{entry:#}"
    );
    let said = proxy.local(&["undo"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(proxy.text(), shifted, "the undo is undone");
}

#[test]
fn undo_to_a_generation_shows_the_plan_and_asks() {
    let proxy = serve(APP);
    let before = proxy.text();
    let first = proxy.generation();
    for share in ["6%", "7%", "8%"] {
        assert_eq!(
            proxy.local(&["shift", "app", &format!("v2={share}")]).code,
            0
        );
    }
    let said = proxy.local(&["undo", &first.to_string()]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stdout.contains("app: v2 8% -> 5%"),
        "the plan: {said:?}"
    );
    assert!(said.stderr.contains("--yes"), "{said:?}");
    assert_eq!(desired(&proxy, "v2"), "8%", "nothing was done");
    let said = proxy.local(&["undo", "--yes", &first.to_string()]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(proxy.text(), before);
    let said = proxy.local(&["undo", "--yes", &first.to_string()]);
    assert_eq!(
        (said.code, said.stdout.contains("nothing to undo")),
        (0, true),
        "{said:?}"
    );
    let said = proxy.local(&["undo", "--yes", "99"]);
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("no generation 99"), "{said:?}");
}

#[test]
fn undo_is_refused_when_there_is_nothing_or_the_file_has_changed() {
    let proxy = serve(APP);
    let said = proxy.local(&["undo"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("nothing to undo"), "{said:?}");
    assert_eq!(proxy.local(&["shift", "app", "v2=25%"]).code, 0);
    // Refused by the proxy, so that the file and the running configuration differ.
    let broken = proxy.text() + "nonsense\n";
    std::fs::write(proxy.file(), &broken).expect("write the configuration");
    until("it is refused", || {
        proxy.status()["config"]["error"]
            .as_str()
            .map(str::to_owned)
    });
    let said = proxy.local(&["undo"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("has changed since"), "{said:?}");
    assert_eq!(proxy.text(), broken);
}

#[test]
fn undos_and_shifts_at_once_never_lose_an_edit_silently() {
    let proxy = serve(APP);
    for round in 0..5 {
        let shares = [format!("v2={}%", 10 + round), format!("v3={}%", 20 + round)];
        assert_eq!(proxy.local(&["shift", "app", "v2=1%"]).code, 0);
        let children = [
            proxy.start_local(&["shift", "app", &shares[0]]),
            proxy.start_local(&["undo"]),
            proxy.start_local(&["shift", "app", &shares[1]]),
        ];
        let ended = children.map(|child| child.wait_with_output().expect("its end"));
        assert!(ended[0].status.success(), "{:?}", ended[0]);
        assert!(ended[2].status.success(), "{:?}", ended[2]);
        let undone = String::from_utf8_lossy(&ended[1].stderr);
        let excused = ["has changed since", "later edit", "in the meantime"];
        assert!(
            ended[1].status.success() || excused.iter().any(|part| undone.contains(part)),
            "{undone}"
        );
        let file = proxy.text();
        assert!(
            file.contains("# THE line") && file.contains("# new"),
            "{file}"
        );
        assert_eq!(proxy.status()["config"]["ok"], true);
    }
}

#[test]
fn the_api_edits_the_split_keeps_comments_and_names_the_author() {
    let proxy = with_token(APP);
    let before = proxy.text();
    let (status, report) = post(
        &proxy,
        "/api/v1/services/app/split",
        &json!({"v2": "25%", "v3": "1%"}),
    );
    assert_eq!(status, 200, "{report:#}");
    assert_eq!(report["changed"], true);
    assert_eq!(report["generation"], proxy.generation());
    let expected = before.replace("{ v2 = \"5%\" }", "{ v2 = \"25%\", v3 = \"1%\" }");
    assert_eq!(proxy.text(), expected);
    let entry = newest(&proxy);
    assert_eq!(
        (&entry["by"], &entry["who"]),
        (&json!("api"), &json!("pipeline 7"))
    );
    let (status, report) = post(&proxy, "/api/v1/services/app/split", &json!({"v2": "25%"}));
    assert_eq!((status, &report["changed"]), (200, &json!(false)));
    let (status, _) = post(
        &proxy,
        "/api/v1/services/app/split",
        &json!({"v3": "stable"}),
    );
    assert_eq!(status, 200);
    assert_eq!(proxy.status()["services"][0]["stable"], "v3");
}

#[test]
fn a_dry_run_plans_and_changes_nothing() {
    let proxy = with_token(APP);
    let (before, generation) = (proxy.text(), proxy.generation());
    let split = json!({"v2": "25%"});
    let path = "/api/v1/services/app/split";
    let (status, plan) = post(&proxy, &format!("{path}?dry_run=true"), &split);
    assert_eq!(status, 200, "{plan:#}");
    let says = |changes: &Value, text: &str| {
        let mut lines = changes.as_array().expect("changes").iter();
        lines.any(|line| line["text"] == text)
    };
    let changes = &plan["services"][0]["changes"];
    assert!(says(changes, "app: v2 5% -> 25%"), "{plan:#}");
    assert_eq!(plan["generation"], generation);
    let (status, plan) = post(
        &proxy,
        "/api/v1/services/app/versions/v2?dry_run=true",
        &json!({"label": "1.1"}),
    );
    assert_eq!((status, &plan["identical"]), (200, &json!(false)));
    let same = json!({"v2": "5%"});
    let (_, plan) = post(&proxy, &format!("{path}?dry_run"), &same);
    assert_eq!(plan["identical"], true);
    for (query, body, expected) in [
        ("dry_run=maybe", &split, 400),
        ("dry_rum=true", &split, 400),
        ("dry_run=true", &json!({"v9": "5%"}), 404),
        ("dry_run=true", &json!({"v2": "lots"}), 400),
    ] {
        let (status, answer) = post(&proxy, &format!("{path}?{query}"), body);
        assert_eq!(status, expected, "{query}: {answer:#}");
    }
    assert_eq!(proxy.text(), before);
    assert_eq!(proxy.generation(), generation);
    let (status, report) = post(&proxy, &format!("{path}?dry_run=false"), &split);
    assert_eq!((status, &report["changed"]), (200, &json!(true)));
    let (status, plan) = post(&proxy, "/api/v1/undo?dry_run=true", &json!({}));
    assert_eq!(status, 200, "{plan:#}");
    assert!(says(&plan["changes"], "app: v2 25% -> 5%"), "{plan:#}");
    assert_ne!(proxy.text(), before);
}

#[test]
fn the_api_edits_versions_and_undoes() {
    let proxy = with_token(APP);
    let before = proxy.text();
    let body = json!({"endpoints": ["127.0.0.1:4", "127.0.0.1:5 weight=2"], "label": "1.1"});
    let (status, report) = post(&proxy, "/api/v1/services/app/versions/v2", &body);
    assert_eq!(status, 200, "{report:#}");
    let new =
        "v2 = { endpoints = [\"127.0.0.1:4\", \"127.0.0.1:5 weight=2\"], label = \"1.1\" } # new";
    assert_eq!(
        proxy.text(),
        before.replace("v2 = [\"127.0.0.1:2\"] # new", new)
    );
    let version = &proxy.status()["services"][0]["versions"][1];
    assert_eq!(version["label"], "1.1");
    assert_eq!(version["endpoints"][1]["weight"], 2);
    let (status, report) = post(&proxy, "/api/v1/undo", &json!({}));
    assert_eq!(status, 200, "{report:#}");
    assert_eq!(report["to"], 1);
    assert_eq!(proxy.text(), before);
    let (status, _) = post(
        &proxy,
        "/api/v1/undo",
        &json!({"running": "0000000000000000"}),
    );
    assert_eq!(status, 409, "another text runs than the client thinks");
}

#[test]
fn edits_that_make_no_sense_are_refused_with_the_reason() {
    let proxy = with_token(APP);
    let before = proxy.text();
    for (path, body, status, part) in [
        ("services/app/split", json!({"v2": "125%"}), 400, "v2"),
        ("services/app/split", json!({"v2": 5}), 400, "v2"),
        ("services/app/split", json!({}), 400, "no version"),
        ("services/app/split", json!({"v9": "5%"}), 404, "no version"),
        (
            "services/apq/split",
            json!({"v2": "5%"}),
            404,
            "did you mean",
        ),
        ("services/app/split", json!({"v1": "5%"}), 409, "stable"),
        (
            "services/app/split",
            json!({"v2": "60%", "v3": "60%"}),
            422,
            "cutover.toml:",
        ),
        (
            "services/app/versions/v2",
            json!({}),
            400,
            "nothing to change",
        ),
        (
            "services/app/versions/v2",
            json!({"endpoints": ["nowhere"]}),
            422,
            "nowhere",
        ),
        (
            "services/app/versions/v2",
            json!({"labl": "x"}),
            400,
            "labl",
        ),
        (
            "services/app/deploy",
            json!({"version": "v1"}),
            409,
            "idle version",
        ),
        ("undo", json!({"generation": 77}), 404, "no generation 77"),
        ("undo", json!({"gen": 77}), 400, "gen"),
    ] {
        let (code, answer) = post(&proxy, &format!("/api/v1/{path}"), &body);
        assert_eq!(code, status, "{path} {body}: {answer:#}");
        let message = answer["error"].as_str().expect("an error");
        assert!(message.contains(part), "no {part:?} in {message}");
    }
    assert_eq!(proxy.text(), before);
    assert_eq!(proxy.generation(), 1);
    assert_eq!(proxy.ask_admin("/api/v1/undo").status(), 405);
}

#[test]
fn a_text_that_only_the_proxy_refuses_is_taken_back() {
    let proxy = with_token(APP);
    let before = proxy.text();
    let missing = "[service.app.sticky]\ncookie = \"c\"\nkey_file = \"/nowhere/key\"\n";
    // The file on disk is ahead of the proxy: valid, but its key file doesn't exist.
    std::fs::write(proxy.file(), format!("{before}{missing}")).expect("write the configuration");
    until("it is refused", || {
        proxy.status()["config"]["error"]
            .as_str()
            .map(str::to_owned)
    });
    let (status, answer) = post(&proxy, "/api/v1/services/app/split", &json!({"v2": "9%"}));
    assert_eq!(status, 422, "{answer:#}");
    let message = answer["error"].as_str().expect("an error");
    assert!(
        message.contains("previous text again") && message.contains("/nowhere/key"),
        "{message}"
    );
    assert_eq!(proxy.text(), format!("{before}{missing}"));
    assert_eq!(desired(&proxy, "v2"), "5%");
}

#[test]
fn shift_and_undo_with_an_admin_address_alone_go_through_the_api() {
    let proxy = with_token(APP);
    let before = proxy.text();
    let said = run_remotely(&proxy, &["shift", "app", "v2=25%", "v3=1%"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("live on every worker"), "{said:?}");
    assert_eq!(desired(&proxy, "v2"), "25%");
    assert_eq!(newest(&proxy)["by"], "api");
    let said = run_remotely(&proxy, &["undo"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(proxy.text(), before);
    let said = run_remotely(&proxy, &["shift", "app", "v9=25%"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("no version"), "{said:?}");
    let elsewhere = ["shift", "app", "v2=1%", "--admin", "127.0.0.1:1"];
    let said = command_in(
        &elsewhere,
        proxy.dir().join("state").as_path(),
        Command::new(BINARY),
    );
    assert_eq!(said.code, 3, "{said:?}");
}

#[test]
fn a_file_that_cannot_be_written_is_a_conflict_that_names_the_way() {
    if !can_mount() {
        eprintln!("not tested: this machine allows no mounts");
        return;
    }
    let proxy = token_file(APP).read_only().start();
    let before = proxy.text();
    for (path, body) in [
        ("services/app/split", json!({"v2": "9%"})),
        ("services/app/versions/v2", json!({"label": "9"})),
        ("services/app/deploy", json!({"version": "v2"})),
    ] {
        let (status, answer) = post(&proxy, &format!("/api/v1/{path}"), &body);
        assert_eq!(status, 409, "{path}: {answer:#}");
        let message = answer["error"].as_str().expect("an error");
        for part in [
            "Read-only file system",
            "cutover.toml",
            "kubectl edit configmap",
        ] {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
    }
    assert_eq!((proxy.text(), proxy.generation()), (before, 1));
    let said = run_remotely(&proxy, &["shift", "app", "v2=9%"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("kubectl edit configmap"), "{said:?}");
}
