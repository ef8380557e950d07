//! `include`: services in files of their own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, command};
use crate::support::until;

const MAIN: &str = "listen = \"127.0.0.1:$PORT\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n\
    include = [\"conf.d/*.toml\"]\n[admin]\nlisten = \"127.0.0.1:$ADMIN\"\ntoken_file = \"$DIR/token\"\n";

/// A service at this host with the versions blue and green, blue being stable.
fn team(name: &str, blue: &Origin, green: &Origin) -> String {
    format!(
        "# owned by {name}\n[service.{name}]\nhosts = [\"{name}.test\"]\nstable = \"blue\"\n\
         split = {{ green = \"0%\" }} # ours\n[service.{name}.versions]\n\
         blue = [\"{}\"]\ngreen = [\"{}\"]\n",
        blue.at(),
        green.at()
    )
}

/// With the token that changes over TCP need.
fn builder() -> Builder {
    let builder = Builder::new(MAIN);
    let token = builder.dir().join("token");
    fs::write(&token, "of-the-test-only").expect("a token");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("chmod");
    builder
}

/// A proxy whose directory `conf.d` has these files.
fn start(files: &[(&str, String)]) -> Proxy {
    let builder = builder();
    fs::create_dir(builder.dir().join("conf.d")).expect("a directory");
    for (name, text) in files {
        fs::write(builder.dir().join("conf.d").join(name), text).expect("a file");
    }
    builder.start()
}

fn team_file(proxy: &Proxy, name: &str) -> PathBuf {
    proxy.dir().join("conf.d").join(name)
}

fn text_of(proxy: &Proxy, name: &str) -> String {
    fs::read_to_string(team_file(proxy, name)).expect("a file")
}

/// What `GET /` is answered for a host.
fn served(proxy: &Proxy, host: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nhost: {host}.test\r\n\r\n");
    let answer = proxy.client().ask(&request);
    match answer.status() {
        200 => answer.text(),
        status => status.to_string(),
    }
}

fn until_served(proxy: &Proxy, host: &str, by: &str) {
    until(&format!("{host} is served by {by}"), || {
        (served(proxy, host) == by).then_some(())
    });
}

#[test]
fn files_that_appear_change_and_go_are_adopted() {
    let [shop, api, green] = ["shop", "api", "green"].map(Origin::named);
    let proxy = start(&[("shop.toml", team("shop", &shop, &green))]);
    assert_eq!(served(&proxy, "shop"), "shop");
    assert_eq!(served(&proxy, "api"), "404");
    // Other names are none of its business.
    fs::write(team_file(&proxy, "api.toml.new"), "no TOML").expect("a file");
    fs::rename(
        team_file(&proxy, "api.toml.new"),
        team_file(&proxy, "api.txt"),
    )
    .expect("renamed");
    fs::write(team_file(&proxy, "api.toml"), team("api", &api, &green)).expect("a file");
    until_served(&proxy, "api", "api");
    let text = text_of(&proxy, "api.toml").replace("\"blue\"", "\"green\"");
    let text = text.replace("{ green", "{ blue");
    fs::write(team_file(&proxy, "api.toml"), text).expect("a file");
    until_served(&proxy, "api", "green");
    assert_eq!(served(&proxy, "shop"), "shop");
    fs::remove_file(team_file(&proxy, "api.toml")).expect("removed");
    until_served(&proxy, "api", "404");
    assert_eq!(proxy.status()["config"]["error"], serde_json::Value::Null);
    assert_eq!(served(&proxy, "shop"), "shop");
}

#[test]
fn a_config_map_of_several_files_is_followed() {
    let [one, two] = ["one", "two"].map(Origin::named);
    let builder = builder();
    let directory = builder.dir().join("conf.d");
    // As Kubernetes mounts it: each file links to ..data, which links to a directory that is replaced as a whole.
    let revision = |name: &str, files: &[(&str, &Origin)]| {
        fs::create_dir_all(directory.join(name)).expect("a directory");
        for (service, origin) in files {
            let file = directory.join(name).join(format!("{service}.toml"));
            fs::write(file, team(service, origin, origin)).expect("a file");
        }
    };
    revision("..1", &[("shop", &one)]);
    symlink("..1", directory.join("..data")).expect("a link");
    symlink("..data/shop.toml", directory.join("shop.toml")).expect("a link");
    let proxy = builder.start();
    assert_eq!(served(&proxy, "shop"), "one");
    revision("..2", &[("shop", &two), ("api", &one)]);
    let directory = proxy.dir().join("conf.d");
    symlink("..2", directory.join("..next")).expect("a link");
    fs::rename(directory.join("..next"), directory.join("..data")).expect("renamed");
    until_served(&proxy, "shop", "two");
    symlink("..data/api.toml", directory.join("api.toml")).expect("a link");
    until_served(&proxy, "api", "one");
}

#[test]
fn diagnostics_name_the_file_and_what_runs_stays() {
    let [shop, green] = ["shop", "green"].map(Origin::named);
    let proxy = start(&[("shop.toml", team("shop", &shop, &green))]);
    let check = || {
        let file = proxy.file();
        command(&["check", file.to_str().expect("UTF-8")], proxy.dir())
    };
    let said = check();
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.stdout
            .contains("1 service, 2 versions, 2 endpoints, 2 files"),
        "{said:?}"
    );
    let at = |name: &str| team_file(&proxy, name).display().to_string();
    for (text, parts) in [
        // Each service has one file.
        (
            team("shop", &shop, &green),
            vec![
                "error: service `shop` is defined twice".to_owned(),
                format!("--> {}:2:10", at("shop.toml")),
                format!("::: {}:2:10", at("again.toml")),
            ],
        ),
        // Routes are compared over all files.
        (
            team("shop", &shop, &green).replace("service.shop", "service.other"),
            vec![at("again.toml"), at("shop.toml"), "shop.test".to_owned()],
        ),
        (
            "\n\n[service.more]\nhost = \"more.test\"\n".to_owned(),
            vec![
                format!("--> {}:4:1", at("again.toml")),
                "did you mean `hosts`?".to_owned(),
            ],
        ),
        (
            "[service.more\nversions = { v1 = [\"a:1\"] }\n".to_owned(),
            vec![format!("--> {}:1:", at("again.toml"))],
        ),
        (
            "workers = 1\n".to_owned(),
            vec![
                "error: `workers` can't be in an included file".to_owned(),
                format!("--> {}:1:1", at("again.toml")),
            ],
        ),
        (
            "include = [\"more.toml\"]\n".to_owned(),
            vec!["error: `include` can't be in an included file".to_owned()],
        ),
    ] {
        fs::write(team_file(&proxy, "again.toml"), &text).expect("a file");
        let said = check();
        assert_eq!(said.code, 1, "{text}{said:?}");
        for part in &parts {
            assert!(said.stderr.contains(part), "no {part} in {}", said.stderr);
        }
        until("the proxy refuses it", || {
            let error = proxy.status()["config"]["error"].as_str()?.to_owned();
            parts.iter().all(|part| error.contains(part)).then_some(())
        });
        assert_eq!(served(&proxy, "shop"), "shop");
    }
    fs::remove_file(team_file(&proxy, "again.toml")).expect("removed");
    until("it is repaired", || {
        proxy.status()["config"]["error"].is_null().then_some(())
    });
}

#[test]
fn status_and_check_list_the_files_with_their_services() {
    let [shop, green] = ["shop", "green"].map(Origin::named);
    let proxy = start(&[
        ("empty.toml", "# none yet\n".to_owned()),
        ("shop.toml", team("shop", &shop, &green)),
    ]);
    let files = |proxy: &Proxy| proxy.status()["config"]["files"].clone();
    let path = |name: &str| team_file(&proxy, name).display().to_string();
    let main = proxy.file().display().to_string();
    let expected = serde_json::json!([
        { "path": main, "services": [] },
        { "path": path("empty.toml"), "services": [] },
        { "path": path("shop.toml"), "services": ["shop"] },
    ]);
    assert_eq!(files(&proxy), expected);
    let shown = proxy.local(&["status"]).stdout;
    let rows = [("empty.toml", "none"), ("shop.toml", "shop")];
    for (name, services) in rows {
        let row =
            |line: &str| line.starts_with(&path(name)) && line.ends_with(&format!("  {services}"));
        assert!(shown.lines().any(row), "{shown}");
    }
    let text = team("shop", &shop, &green) + &team("api", &shop, &green);
    fs::write(team_file(&proxy, "shop.toml"), text).expect("a file");
    until("the new service is listed", || {
        (files(&proxy)[2]["services"] == serde_json::json!(["shop", "api"])).then_some(())
    });
    let shown = proxy.local(&["status", "api"]).stdout;
    assert!(
        shown.contains("shop, api") && !shown.contains("empty.toml"),
        "{shown}"
    );
    let checked = command(&["check", &main], proxy.dir()).stdout;
    let line = format!("  {}: shop, api", path("shop.toml"));
    assert!(checked.lines().any(|l| l == line), "{checked}");
    let checked = command(&["check", &main, "--json"], proxy.dir()).stdout;
    let checked: serde_json::Value = serde_json::from_str(&checked).expect("JSON");
    let listed = &checked[0]["files"][2];
    assert_eq!(listed["file"], path("shop.toml"));
    assert_eq!(listed["services"], serde_json::json!(["shop", "api"]));
}

#[test]
fn commands_edit_the_file_in_which_the_service_stands() {
    let [shop, api, green] = ["shop", "api", "green"].map(Origin::named);
    let proxy = start(&[
        ("api.toml", team("api", &api, &green)),
        ("shop.toml", team("shop", &shop, &green)),
    ]);
    let (main, other) = (proxy.text(), text_of(&proxy, "api.toml"));
    let first = text_of(&proxy, "shop.toml");
    let said = proxy.local(&["shift", "shop", "green=100%"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(served(&proxy, "shop"), "green");
    let shifted = text_of(&proxy, "shop.toml");
    assert_eq!(
        shifted,
        first.replace("\"0%\" } # ours", "\"100%\" } # ours")
    );
    let said = proxy.local(&["undo"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(served(&proxy, "shop"), "shop");
    assert_eq!(text_of(&proxy, "shop.toml"), first);

    let said = proxy.local(&["deploy", "shop", "green", "--label", "1.1", "--wait"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(served(&proxy, "shop"), "green");
    let said = proxy.local(&["history", "shop"]);
    assert!(said.stdout.contains("(deploy)"), "{said:?}");
    let said = proxy.local(&["shift", "shp", "green=1%"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("did you mean `shop`?"), "{said:?}");
    assert_eq!((proxy.text(), text_of(&proxy, "api.toml")), (main, other));
}

#[test]
fn the_admin_api_edits_and_undoes_over_all_files() {
    let [shop, api, green] = ["shop", "api", "green"].map(Origin::named);
    let files = [("shop.toml", team("shop", &shop, &green))];
    let proxy = start(&files);
    let first = text_of(&proxy, "shop.toml");
    // From a directory without a configuration: the proxy edits its own files.
    let admin = format!("127.0.0.1:{}", proxy.admin);
    let token = proxy.dir().join("token");
    let elsewhere = proxy.dir().join("conf.d");
    let remote = |arguments: &[&str]| {
        let token = token.to_str().expect("UTF-8");
        let all = [arguments, &["--admin", &admin, "--token-file", token]].concat();
        command(&all, &elsewhere)
    };
    let said = remote(&["shift", "shop", "green=100%"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(served(&proxy, "shop"), "green");
    let shifted = text_of(&proxy, "shop.toml");
    assert_ne!(shifted, first);

    // An undo of a file that has come removes it, and one of that brings it back.
    let before = proxy.generation();
    fs::write(team_file(&proxy, "api.toml"), team("api", &api, &green)).expect("a file");
    until_served(&proxy, "api", "api");
    until("it is recorded", || {
        (proxy.generation() > before).then_some(())
    });
    let text = text_of(&proxy, "api.toml");
    let said = remote(&["undo"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(!team_file(&proxy, "api.toml").exists());
    assert_eq!(served(&proxy, "api"), "404");
    assert_eq!(text_of(&proxy, "shop.toml"), shifted);
    let said = remote(&["undo"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(text_of(&proxy, "api.toml"), text);
    assert_eq!(served(&proxy, "api"), "api");
}

#[test]
fn a_plan_takes_the_whole() {
    let [shop, green] = ["shop", "green"].map(Origin::named);
    let proxy = start(&[("shop.toml", team("shop", &shop, &green))]);
    let next = proxy.dir().join("next");
    fs::create_dir_all(next.join("conf.d")).expect("directories");
    let file = next.join("cutover.toml");
    fs::write(&file, proxy.text()).expect("a file");
    fs::write(next.join("conf.d/shop.toml"), text_of(&proxy, "shop.toml")).expect("a file");
    let plan = || proxy.local(&["plan", file.to_str().expect("UTF-8")]);
    let said = plan();
    assert_eq!(said.code, 0, "{said:?}");
    let text = text_of(&proxy, "shop.toml").replace("\"0%\"", "\"25%\"");
    fs::write(next.join("conf.d/shop.toml"), text).expect("a file");
    let said = plan();
    assert!(said.stdout.contains("25%"), "{said:?}");
    assert_eq!(served(&proxy, "shop"), "shop");
}

#[test]
fn a_new_process_has_the_same_configuration() {
    let [shop, green] = ["shop", "green"].map(Origin::named);
    let proxy = start(&[("shop.toml", team("shop", &shop, &green))]);
    let hash = proxy.status()["config"]["hash"].clone();
    assert!(hash.is_string());
    let next = proxy.successor().expect("it takes over");
    assert_eq!(next.status()["config"]["hash"], hash);
    assert_eq!(served(&next, "shop"), "shop");
    let said = next.local(&["shift", "shop", "green=100%"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(served(&next, "shop"), "green");
}
