//! `cutover deploy` and `cutover plan`.

use std::process::Command;

use serde_json::Value;

use crate::support::origin::Origin;
use crate::support::proxy::{BINARY, command_in, serve};

/// A service with a stable gate: blue serves, green is idle.
fn blue_green(blue: &str, green: &str) -> String {
    format!(
        "[service.shop] # ours\nstable = \"blue\"\ncheck = \"/ready\"\nhealth.interval = \"50ms\"\n\
         cohort.by = [\"cookie:uid\"]\n\
         [service.shop.versions]\nblue = [\"{blue}\"]\ngreen = [\"{green}\"] # next\n"
    )
}

#[test]
fn a_deployment_without_a_plan_cuts_over_once_the_gate_opens() {
    let (blue, green) = (Origin::named("blue"), Origin::named("green"));
    let proxy = serve(&blue_green(&blue.at(), "127.0.0.1:9"));
    let target = format!("green={}", green.at());
    let said = proxy.local(&["deploy", "shop", &target, "--label", "1.1", "--wait"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("green is stable"), "{said:?}");
    // Done means done: no waiting here.
    assert_eq!(proxy.get("/").text(), "green");
    let file = proxy.text();
    let version = format!(
        "green = {{ endpoints = [\"{}\"], label = \"1.1\" }} # next",
        green.at()
    );
    assert!(file.contains(&version) && file.contains("# ours"), "{file}");
    assert!(file.contains("stable = \"green\""), "{file}");
    let said = proxy.local(&["history", "shop"]);
    assert!(said.stdout.contains("(deploy)"), "{said:?}");
    let back = proxy.local(&["deploy", "shop", "blue", "--wait", "--json"]);
    assert_eq!(back.code, 0, "{back:?}");
    let report: Value = serde_json::from_str(&back.stdout).expect("JSON");
    assert_eq!(
        (&report["outcome"], &report["version"]),
        (&"done".into(), &"blue".into())
    );
    assert_eq!(proxy.get("/").text(), "blue");
}

#[test]
fn a_deployment_that_never_passes_its_check_times_out_and_users_stay() {
    let blue = Origin::named("blue");
    let proxy = serve(&blue_green(&blue.at(), "127.0.0.1:9"));
    let timeout = [
        "deploy",
        "shop",
        "green=127.0.0.1:10",
        "--wait",
        "--timeout",
        "700ms",
    ];
    let said = proxy.local(&timeout);
    assert_eq!(said.code, 1, "{said:?}");
    for part in [
        "not done after 700ms",
        "passes its health check",
        "continues",
    ] {
        assert!(said.stderr.contains(part), "no {part:?} in {said:?}");
    }
    assert_eq!(proxy.get("/").text(), "blue");
    let said = proxy.local(&["undo"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(proxy.text().contains("stable = \"blue\""));
}

#[test]
fn a_deployment_that_makes_no_sense_changes_nothing() {
    let blue = Origin::named("blue");
    let proxy = serve(&blue_green(&blue.at(), "127.0.0.1:9"));
    let before = proxy.text();
    for (arguments, part) in [
        (
            &["deploy", "shop", "blue=127.0.0.1:7"][..],
            "idle version `green`",
        ),
        (&["deploy", "shop", "grün=127.0.0.1:7"], "no version"),
        (&["deploy", "shp", "green=127.0.0.1:7"], "did you mean"),
        (&["deploy", "shop", "green=nowhere"], "the port is missing"),
        (&["deploy", "shop", "green="], "VERSION=ENDPOINT"),
        (&["deploy", "shop", "green", "--timeout", "1s"], "--wait"),
    ] {
        let said = proxy.local(arguments);
        assert_eq!(said.code, 1, "{arguments:?}: {said:?}");
        assert!(said.stderr.contains(part), "no {part:?} in {said:?}");
    }
    assert_eq!((proxy.text(), proxy.generation()), (before, 1));
}

#[test]
fn without_a_proxy_a_deployment_does_not_touch_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("cutover.toml");
    let before = format!(
        "listen = \":80\"\nstate_dir = \"{}\"\n{}",
        dir.path().display(),
        blue_green("127.0.0.1:1", "127.0.0.1:2")
    );
    std::fs::write(&file, &before).expect("a file");
    let arguments = [
        "deploy",
        "shop",
        "green=127.0.0.1:3",
        "-c",
        file.to_str().expect("UTF-8"),
    ];
    let said = command_in(&arguments, dir.path(), Command::new(BINARY));
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.stderr.contains("not changed"), "{said:?}");
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), before);
}

#[test]
fn a_plan_says_who_moves_what_waits_and_changes_nothing() {
    let blue = Origin::named("blue");
    let proxy = serve(&blue_green(&blue.at(), "127.0.0.1:9"));
    let before = proxy.text();
    let other = proxy.dir().join("next.toml");
    let plan = |text: &str, more: &[&str]| {
        std::fs::write(&other, text).expect("a file");
        let file = other.to_str().expect("a path in UTF-8");
        proxy.local(&[&["plan", file], more].concat())
    };
    let said = plan(&before, &[]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.stdout.contains("generation 1 runs this text"),
        "{said:?}"
    );
    let said = plan(&format!("# hello\n{before}"), &[]);
    assert_eq!(
        (said.code, said.stdout.contains("comments or layout")),
        (0, true),
        "{said:?}"
    );

    let canary = before.replace("check =", "split = { green = \"10%\" }\ncheck =");
    let said = plan(&canary, &[]);
    assert_eq!(said.code, 2, "{said:?}");
    for part in [
        "shop: green 0% -> 10%",
        "10% of users move from blue to green",
        "green gets 10% of the traffic once one of its endpoints passes its check",
    ] {
        assert!(said.stdout.contains(part), "no {part:?} in {said:?}");
    }
    let larger = canary.replace("10%", "90%").replace(
        &format!("blue = [\"{}\"]", blue.at()),
        &format!("blue = [\"{}\", \"127.0.0.1:11\"]", blue.at()),
    );
    let said = plan(&larger.replace("workers = 2", "workers = 1"), &["--json"]);
    assert_eq!(said.code, 2, "{said:?}");
    let report: Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(report["restart"][0], "workers");
    let service = &report["services"][0];
    assert_eq!(service["moves"][0]["users"], "90%");
    let warning = service["warnings"][0].as_str().expect("a warning");
    assert!(warning.starts_with("green gets 90%"), "{warning}");

    let said = plan("listen = \n", &[]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("next.toml:1:"), "{said:?}");
    assert_eq!((proxy.text(), proxy.generation()), (before, 1));
    assert_eq!(
        proxy.status()["services"][0]["split"]["desired"]["green"],
        "0%"
    );
}

/// A service whose canary follows a plan. Nobody sends requests, which passes.
fn with_plan(steps: &str) -> String {
    format!(
        "[service.shop]\nstable = \"v1\"\n[service.shop.versions]\nv1 = [\"127.0.0.1:1\"]\n\
         v2 = [\"127.0.0.1:2\"]\nv3 = [\"127.0.0.1:3\"]\n\
         [service.shop.rollout]\nsteps = [{steps}]\nguard.on_silence = \"pass\"\n"
    )
}

#[test]
fn a_deployment_with_a_plan_follows_it_to_the_end() {
    let proxy = serve(&with_plan("\"50% for 1s\", \"100% for 1s\""));
    let said = proxy.local(&[
        "deploy",
        "shop",
        "v2=127.0.0.1:4",
        "--label",
        "2",
        "--wait",
        "--json",
    ]);
    assert_eq!(said.code, 0, "{said:?}");
    let report: Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(report["outcome"], "done");
    assert_eq!(report["rollout"]["state"], "done");
    assert_eq!(report["rollout"]["label"], "2");
    for part in ["step 1 of 2 at 50%", "step 2 of 2 at 100%"] {
        assert!(said.stderr.contains(part), "no {part:?} in {said:?}");
    }
    assert!(
        proxy.text().contains("split = { v2 = \"rollout\" }"),
        "{}",
        proxy.text()
    );
    let other = proxy.local(&["deploy", "shop", "v3=127.0.0.1:5"]);
    assert_eq!(other.code, 1, "{other:?}");
    assert!(
        other.stderr.contains("promote or abort it first"),
        "{other:?}"
    );
}

#[test]
fn a_deployment_that_needs_approval_exits_with_five_and_an_aborted_one_with_four() {
    let proxy = serve(&with_plan("\"50% until approved\", \"100% for 1s\""));
    let said = proxy.local(&["deploy", "shop", "v2=127.0.0.1:4", "--wait"]);
    assert_eq!(said.code, 5, "{said:?}");
    assert!(
        said.stdout.contains("awaits approval, step 1 of 2 at 50%"),
        "{said:?}"
    );
    let aborted = proxy.local(&["abort", "shop"]);
    assert_eq!(aborted.code, 0, "{aborted:?}");
    let again = proxy.local(&["deploy", "shop", "v2=127.0.0.1:4", "--wait", "--json"]);
    assert_eq!(again.code, 4, "latched: {again:?}");
    let report: Value = serde_json::from_str(&again.stdout).expect("JSON");
    assert_eq!(report["outcome"], "rolled-back");
    assert!(again.stderr.contains("was aborted"), "{again:?}");
    let label = ["deploy", "shop", "v2", "--label", "3", "--wait"];
    assert_eq!(
        proxy.local(&label).code,
        5,
        "a new label starts a new rollout"
    );
}
