//! Slips that people make who know other proxies and other formats: each is told once, with the remedy.

use cutover::config;

const TWO: &str = "versions = { v1 = [\"a:1\"], v2 = [\"a:2\"] }\n";

/// The only thing that is said of a text.
#[track_caller]
fn only(text: &str) -> String {
    let errors = config::parse(text, "cutover.toml").expect_err("accepted");
    let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 1, "of\n{text}\n{}", said.join("\n"));
    said.concat()
}

/// A text of which one thing is said, at this place, with these parts.
#[track_caller]
fn slip(text: &str, place: &str, parts: &[&str]) {
    let said = only(text);
    let at = format!("cutover.toml:{place}\n");
    assert!(said.contains(&at), "no {at:?} in\n{said}");
    for part in parts {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
}

/// A service with these lines in it.
fn service(lines: &str) -> String {
    format!("listen = \":80\"\n[service.shop]\nstable = \"v1\"\n{TWO}{lines}\n")
}

/// A file that begins with this line.
fn top(line: &str) -> String {
    format!("{line}\n[service.shop]\nstable = \"v1\"\n{TWO}")
}

fn help(said: &str) -> &str {
    said.split_once("= help: ")
        .map_or("", |(_, help)| help.trim_end())
}

#[test]
fn shares_in_other_notations() {
    for (typed, expected) in [
        ("0.05", "write \"5%\", which is 0.05 of the whole"),
        ("0.005", "write \"0.5%\", which is 0.005 of the whole"),
        ("2.5", "write \"2.5%\""),
        (
            "1.0",
            "write \"100%\" for all of it, or \"1%\" for a hundredth",
        ),
        ("-5", "write \"0%\" for none of it"),
        ("500", "write \"100%\" at most"),
        ("\"5\"", "did you mean \"5%\"?"),
        ("\"0.05\"", "did you mean \"5%\"?"),
        ("\"5,5%\"", "did you mean \"5.5%\"?"),
        ("\"5 %\"", "did you mean \"5%\"?"),
        ("\".5%\"", "did you mean \"0.5%\"?"),
    ] {
        let said = only(&service(&format!("split = {{ v2 = {typed} }}")));
        assert_eq!(help(&said), expected, "{typed}");
        assert!(said.contains("cutover.toml:5:16\n"), "{said}");
    }
    let negative = service("split = { v2 = \"-5%\" }");
    slip(
        &negative,
        "5:16",
        &["`-5%`", "\"0%\" takes all traffic away"],
    );
}

#[test]
fn quantities_without_quotes() {
    for (line, expected) in [
        ("split = { v2 = 5% }", "\"5%\""),
        ("split.v2 = 0.5%", "\"0.5%\""),
        ("timeouts.total = 30s", "\"30s\""),
        ("check = /ready", "\"/ready\""),
        ("shield = on", "write `true`"),
        ("shield = False", "write `false`"),
    ] {
        let said = only(&service(line));
        assert!(help(&said).ends_with(expected), "{said}");
    }
}

#[test]
fn durations_and_sizes_in_other_notations() {
    for (line, expected) in [
        ("timeouts.total = \"30\"", "\"30s\" for seconds"),
        ("timeouts.total = 30", "write \"30s\" for seconds"),
        ("timeouts.total = \"30sec\"", "did you mean \"30s\"?"),
        ("timeouts.total = \"1,5s\"", "did you mean \"1.5s\"?"),
        (
            "timeouts = 30",
            "expected a table such as { total = \"30s\" }",
        ),
        ("retry.body_bytes = \"64k\"", "did you mean \"64KiB\"?"),
    ] {
        let said = only(&service(line));
        assert!(said.contains(expected), "no {expected:?} in\n{said}");
    }
}

#[test]
fn ports_as_numbers() {
    slip(&top("listen = 8080"), "1:10", &["did you mean \":8080\"?"]);
    slip(
        &top("listen = \"8080\""),
        "1:10",
        &["did you mean \":8080\"?"],
    );
    slip(
        &top("listen.a.bind = 443"),
        "1:17",
        &["did you mean \":443\"?"],
    );
    slip(
        &top("listen = [\":80\", \":443\"]"),
        "1:10",
        &["`[listen.http]` with `bind = \":8080\"`"],
    );
    slip(
        &top("listen = \"http://0.0.0.0:80\""),
        "1:10",
        &["did you mean \"0.0.0.0:80\"?"],
    );
    slip(
        &format!("admin = 9900\n{}", top("listen = \":80\"")),
        "1:9",
        &["did you mean \":9900\"?"],
    );
}

#[test]
fn tables_with_the_wrong_number_of_brackets() {
    slip(
        &service("[service.shop.match]\nwhen = { path = \"/a\" }\nto = \"v2\""),
        "5:1",
        &["must be a list of tables", "`[[service.shop.match]]`"],
    );
    slip(
        &top("[listen.a]\nbind = \":443\"\n[listen.a.cert]\ncert = \"c\"\nkey = \"k\""),
        "3:1",
        &["`[[listen.a.cert]]`"],
    );
    slip(
        &service("[[service.shop.timeouts]]\ntotal = \"3s\""),
        "5:1",
        &["`[service.shop.timeouts]`"],
    );
}

#[test]
fn a_list_of_conditions_is_not_available_yet() {
    slip(
        &service("[[service.shop.match]]\nwhen = [{ path = \"/a\" }]\nto = \"v2\""),
        "6:8",
        &["not available yet", "[[…match]]"],
    );
}

#[test]
fn keys_below_the_header_of_another_table() {
    let end = "listen = \":80\"\n[service.shop]\nstable = \"v1\"\n[service.shop.versions]\nv1 = [\"a:1\"]\n";
    for line in ["workers = 2", "admin = \":9900\"", "state_dir = \"/s\""] {
        let (key, _) = line.split_once(' ').unwrap();
        let help = format!("`{key}` belongs at the top of the file, above the first `[table]`");
        slip(&format!("{end}{line}\n"), "6:1", &[&help]);
        slip(
            &service(&format!("[service.shop.sticky]\n{line}")),
            "6:1",
            &[&help],
        );
        slip(
            &service(&format!("[service.shop.split]\n{line}")),
            "6:1",
            &[&help],
        );
        slip(&service(line), "5:1", &[&help]);
    }
    let headless = "listen = \":80\"\n[service.shop]\n[service.shop.versions]\nv1 = [\"a:1\"]\nv2 = [\"a:2\"]\n";
    for line in [
        "stable = \"v1\"",
        "check = \"/up\"\n[service.shop.split]",
        "split = { v2 = \"5%\" }",
        "hosts = [\"shop.example\"]",
    ] {
        let (key, _) = line.split_once(' ').unwrap();
        let help =
            format!("`{key}` belongs in `[service.shop]`, above the headers of its other tables");
        let text = match key {
            "stable" => format!("{headless}{line}\n"),
            _ => format!("{end}v2 = [\"a:2\"]\n{line}\n"),
        };
        let said = only(&text);
        assert!(said.contains(&help), "{said}");
    }
}

#[test]
fn a_version_may_have_the_name_of_a_key() {
    let text = "listen = \":80\"\n[service.shop]\nstable = \"stable\"\n[service.shop.versions]\n\
                stable = [\"a:1\"]\ncheck = { endpoints = [\"a:2\"] }\nhosts = [\"a:3\"]\n";
    assert!(config::parse(text, "t").is_ok());
}

#[test]
fn one_slip_is_one_error() {
    for text in [
        top("lisen = \":80\""),
        "listen = \":80\"\n[sevice.shop]\nversions = { v1 = [\"a:1\"] }\n".to_owned(),
        service("").replace("stable =", "stabel ="),
        service("").replace("versions =", "verions ="),
        service("").replace("versions =", "backends ="),
        service("[[service.shop.match]]\nwhn = { path = \"/a\" }\nto = \"v2\""),
        service("[service.shop.health]\npth = \"/up\""),
        service("versions.v3 = { endpoint = [\"a:3\"] }").replace(TWO, "versions.v1 = [\"a:1\"]\n"),
        top("[listen.a]\nbind = \":443\"\n[[listen.a.cert]]\ncrt = \"c\"\nkey = \"k\""),
        // Without its hosts the second service would answer for everything as well.
        format!(
            "{}[service.api]\nhots = [\"api.example\"]\nversions = {{ v1 = [\"a:3\"] }}\n",
            service("")
        ),
        service("redirect = { to = \"https://shop.example\" }").replace(TWO, ""),
    ] {
        only(&text);
    }
}

#[test]
fn words_for_balancing_of_other_proxies() {
    for (typed, ours) in [
        ("leastconn", "least_request"),
        ("least_conn", "least_request"),
        ("LEAST_REQUEST", "least_request"),
        ("random two least_conn", "least_request"),
        ("roundrobin", "round_robin"),
        ("static-rr", "round_robin"),
        ("ip_hash", "hash"),
        ("source", "hash"),
        ("maglev", "hash"),
        ("ring_hash", "hash"),
        ("least_time", "peak_ewma"),
    ] {
        let said = only(&service(&format!("balance = \"{typed}\"")));
        let meant = format!("did you mean `{ours}`?");
        assert!(help(&said).starts_with(&meant), "{typed}: {said}");
    }
}

#[test]
fn keys_of_other_proxies() {
    slip(
        &top("listen = \":80\"\nworker_processes = 4"),
        "2:1",
        &["here that is `workers`: workers = 4"],
    );
    slip(
        &service("health_check = \"/up\""),
        "5:1",
        &["here that is `check`"],
    );
    slip(
        &service("timeout = 30"),
        "5:1",
        &["here that is `timeouts`", "total = \"60s\""],
    );
    slip(
        &service("").replace("\"a:2\"", "\"a:2 backup\""),
        "4:39",
        &["a version of its own", "`fallback`"],
    );
}

#[test]
fn weights() {
    for (option, parts) in [
        (
            "weight=0",
            ["expected a whole number from 1 to 1000", "cutover drain"],
        ),
        ("weight = 2", ["`weight` has no number", "without spaces"]),
        ("weight=-1", ["`-1` is not a weight", "1 to 1000"]),
    ] {
        slip(
            &service("").replace("\"a:2\"", &format!("\"a:2 {option}\"")),
            "4:39",
            &parts,
        );
    }
}

#[test]
fn planned_keys_say_so() {
    let said = only(&service("mirror = { to = \"v2\" }"));
    assert!(
        said.starts_with("error: `service.shop.mirror` is not available yet\n"),
        "{said}"
    );
    slip(
        &top("listen = \":80\"\naccess_log.to = \"stderr\""),
        "2:1",
        &["`access_log` is not available yet"],
    );
    // Also where it stands below another table's header.
    slip(
        &service("access_log = { to = \"stderr\" }"),
        "5:1",
        &["`access_log` is not available yet"],
    );
    slip(
        &service("split = { v2 = \"rollout\" }"),
        "5:16",
        &["rollouts are not available yet"],
    );
    for endpoint in ["dns:a.internal:80", "srv:_http._tcp.a.internal"] {
        slip(
            &service("").replace("\"a:2\"", &format!("\"{endpoint}\"")),
            "4:35",
            &["is not available yet"],
        );
    }
}

#[test]
fn files_of_another_kind() {
    for (text, place, parts) in [
        (
            "<<<<<<< HEAD\nlisten = \":80\"\n=======\nlisten = \":81\"\n>>>>>>> b\n",
            "1:1",
            ["merge conflict", "keep one of the two sides"],
        ),
        (
            "---\nlisten: \":80\"\n",
            "1:1",
            ["this is YAML", "listen = \":8080\""],
        ),
        (
            "{\n  \"listen\": \":80\"\n}\n",
            "1:1",
            ["this is JSON", "listen = \":8080\""],
        ),
        (
            "# old\nhttp {\n  server {\n    listen 80;\n  }\n}\n",
            "2:1",
            ["a configuration of nginx", "`server_name` becomes `hosts`"],
        ),
        (
            "global\n  maxconn 10\ndefaults\n  mode http\n",
            "1:1",
            ["a configuration of HAProxy", "[service.NAME]"],
        ),
        (
            "# nothing yet\n",
            "1:1",
            ["only comments", "listen = \":8080\""],
        ),
    ] {
        slip(text, place, &parts);
    }
}

#[test]
fn habits_of_other_formats() {
    for (line, place, part) in [
        ("listen: \":80\"", "1:7", "TOML has `=` where YAML has `:`"),
        ("listen = \":80\";", "1:15", "no `;` at its end"),
        ("listen = \":80\",", "1:15", "no `,` at its end"),
        (
            "// front\nlisten = \":80\"",
            "1:1",
            "a comment begins with `#`",
        ),
        ("listen = “:80”", "1:10", "typographic quotes"),
        (
            "listen = \":80\"\nstate_dir = \"C:\\x\"",
            "2:18",
            "single quotes",
        ),
        ("listen = ", "1:10", "expected a value after `=`"),
    ] {
        slip(&top(line), place, &[part]);
    }
}

#[test]
fn line_ends_tabs_and_byte_order_marks_are_no_mistakes() {
    let text = service("\tshield = true\t# tab").replace('\n', "\r\n");
    assert!(config::parse(&text, "t").is_ok());
    assert!(config::parse(&format!("\u{feff}{text}"), "t").is_ok());
    let wrong = format!("\u{feff}{}", service("shild = true")).replace('\n', "\r\n");
    slip(&wrong, "5:1", &["did you mean `shield`?"]);
    slip(
        "\u{feff}listn = 1\r\n[service.shop]\r\nversions = { v1 = [\"a:1\"] }\r\n",
        "1:1",
        &["did you mean `listen`?"],
    );
}

#[test]
fn a_key_twice_names_the_key() {
    slip(
        &service("shield = true\nshield = false"),
        "6:1",
        &["duplicate key", "only once"],
    );
}
