use super::*;

const PLAIN: &str = r#"# front
listen = ":8080"

[service.shop]
# THE line is below
stable = "v1"            # what works
split  = { v2 = "5%" }   # what is new
hosts  = ["shop.example.com"]

[service.shop.versions]
v1 = ["10.0.0.1:80"]
v2 = ["10.0.0.2:80"]
v3 = ["10.0.0.3:80"]
"1.0.0" = ["10.0.0.4:80"]
"#;

fn shifted(text: &str, version: &str, typed: &str) -> String {
    let edited = shift(text, "shop", &[(version, typed.parse().unwrap())]).unwrap();
    let spec =
        crate::config::parse(&edited, "t.toml").unwrap_or_else(|e| panic!("{}\n{edited}", e[0]));
    let service = &spec.services[0];
    let index = service.version(version);
    let share = service.split.iter().find(|(i, _)| Some(*i) == index);
    assert_eq!(share.unwrap().1.to_string(), typed, "{edited}");
    edited
}

/// A file with these lines in its service.
fn file(service: &str) -> String {
    format!(
        "listen = \":80\"\n[service.shop]\n{service}\n[service.shop.versions]\nv1 = [\"a:1\"]\nv2 = [\"a:2\"]\nv3 = [\"a:3\"]\n"
    )
}

#[test]
fn only_the_share_changes() {
    let expected = PLAIN.replace("\"5%\"", "\"12.5%\"");
    assert_eq!(shifted(PLAIN, "v2", "12.5%"), expected);
}

#[test]
fn nothing_is_taken_out_at_zero() {
    assert_eq!(
        shifted(PLAIN, "v2", "0%"),
        PLAIN.replace("\"5%\"", "\"0%\"")
    );
}

#[test]
fn a_canary_is_added_to_an_inline_table() {
    let expected = PLAIN.replace("{ v2 = \"5%\" }", "{ v2 = \"5%\", v3 = \"1%\" }");
    assert_eq!(shifted(PLAIN, "v3", "1%"), expected);
    let expected = PLAIN.replace("{ v2 = \"5%\" }", "{ v2 = \"5%\", \"1.0.0\" = \"1%\" }");
    assert_eq!(shifted(PLAIN, "1.0.0", "1%"), expected);
}

#[test]
fn a_canary_is_added_to_an_empty_split() {
    let text = file("stable = \"v1\"\nsplit = {} # none");
    assert_eq!(
        shifted(&text, "v2", "5%"),
        text.replace("{}", "{ v2 = \"5%\" }")
    );
}

#[test]
fn a_split_is_added_after_stable() {
    let text = file("  stable = \"v1\" # works\n  labels = {}");
    let expected = text.replace("# works\n", "# works\n  split = { v2 = \"5%\" }\n");
    assert_eq!(shifted(&text, "v2", "5%"), expected);
}

#[test]
fn a_split_with_its_own_header() {
    let text = file("stable = \"v1\"\n[service.shop.split] # shares\nv2 = \"5%\" # two");
    assert_eq!(shifted(&text, "v2", "6%"), text.replace("5%", "6%"));
    let expected = text.replace("# two\n", "# two\nv3 = \"1%\"\n");
    assert_eq!(shifted(&text, "v3", "1%"), expected);
    let empty = text.replace("v2 = \"5%\" # two\n", "");
    let expected = empty.replace("# shares\n", "# shares\nv3 = \"1%\"\n");
    assert_eq!(shifted(&empty, "v3", "1%"), expected);
}

#[test]
fn dotted_keys_stay_dotted() {
    let text = file("stable = \"v1\"\nsplit.v2 = \"5%\"");
    let expected = text.replace("\"5%\"\n", "\"5%\"\nsplit.v3 = \"1%\"\n");
    assert_eq!(shifted(&text, "v3", "1%"), expected);
    let text = "listen = \":80\"\n[service]\nshop.stable = 'v1'\nshop.versions.v1 = [\"a:1\"]\nshop.versions.v2 = [\"a:2\"]";
    let expected = text.replace("'v1'\n", "'v1'\nshop.split = { v2 = \"5%\" }\n");
    assert_eq!(shifted(text, "v2", "5%"), expected);
}

#[test]
fn a_service_in_braces() {
    let text = "listen = \":80\"\nservice.shop = { stable = \"v1\", versions = { v1 = [\"a:1\"], v2 = [\"a:2\"], v3 = [\"a:3\"] } }\n";
    let once = shifted(text, "v2", "5%");
    assert_eq!(
        once,
        text.replace("\"v1\",", "\"v1\", split = { v2 = \"5%\" },")
    );
    let dotted = text.replace("\"v1\",", "\"v1\", split.v2 = \"5%\",");
    let expected = dotted.replace("\"5%\",", "\"5%\", split.v3 = \"1%\",");
    assert_eq!(shifted(&dotted, "v3", "1%"), expected);
}

#[test]
fn line_ends_stay_as_they_are() {
    let text = file("stable = \"v1\" # works").replace('\n', "\r\n");
    let expected = text.replace("# works\r\n", "# works\r\nsplit = { v2 = \"5%\" }\r\n");
    assert_eq!(shifted(&text, "v2", "5%"), expected);
}

#[test]
fn several_at_once() {
    let shares = [("v2", Share(0)), ("v3", Share(50_000))];
    let expected = PLAIN.replace("{ v2 = \"5%\" }", "{ v2 = \"0%\", v3 = \"50%\" }");
    assert_eq!(shift(PLAIN, "shop", &shares).unwrap(), expected);
}

#[test]
fn a_canary_becomes_stable() {
    let edited = set_stable(PLAIN, "shop", "v2").unwrap();
    let expected = PLAIN
        .replace("stable = \"v1\"", "stable = \"v2\"")
        .replace("{ v2 = \"5%\" }", "{ v1 = \"0%\" }");
    assert_eq!(edited, expected);
    let edited = set_stable(PLAIN, "shop", "v3").unwrap();
    assert_eq!(edited, PLAIN.replace("stable = \"v1\"", "stable = \"v3\""));
    assert_eq!(set_stable(PLAIN, "shop", "v1").unwrap(), PLAIN);
}

#[test]
fn what_cannot_be_changed() {
    let error = |service, version| {
        shift(PLAIN, service, &[(version, Share(1))])
            .unwrap_err()
            .to_string()
    };
    assert_eq!(error("shp", "v2"), "no service `shp`: did you mean `shop`?");
    assert_eq!(
        error("shop", "green"),
        "service `shop` has no version `green`: the versions are `v1`, `v2`, `v3`, `1.0.0`"
    );
    assert!(error("shop", "v1").contains("stable version"));
    let broken = shift("listen = ", "shop", &[("v1", Share(1))]);
    assert!(matches!(broken, Err(EditError::Syntax(_))));
}

/// A configuration with this version `v2`, which may take several lines.
fn with_version(version: &str) -> String {
    format!(
        "listen = \":80\"\n[service.shop]\nstable = \"v1\"\n[service.shop.versions]\nv1 = [\"a:1\"] # old\n{version}\n"
    )
}

/// The text after the endpoints of `v2` were set, checked to be valid.
fn with_endpoints(text: &str, endpoints: &[&str]) -> String {
    let wanted: Vec<String> = endpoints.iter().map(|e| (*e).to_owned()).collect();
    let edited = set_endpoints(text, "shop", "v2", &wanted).unwrap();
    let spec =
        crate::config::parse(&edited, "t.toml").unwrap_or_else(|e| panic!("{}\n{edited}", e[0]));
    let mut found: Vec<String> = { spec.services[0].versions.iter() }
        .filter(|v| v.name == "v2")
        .flat_map(|v| v.endpoints.iter().map(ToString::to_string))
        .collect();
    let mut expected: Vec<&str> = endpoints
        .iter()
        .map(|e| e.split(' ').next().unwrap())
        .collect();
    found.sort();
    expected.sort_unstable();
    assert_eq!(found, expected, "{edited}");
    edited
}

#[test]
fn endpoints_on_one_line_are_replaced_wherever_the_version_stands() {
    for (before, after) in [
        ("v2 = [\"b:1\"] # new", "v2 = [\"c:1\", \"c:2\"] # new"),
        ("v2 = [ ]", "v2 = [\"c:1\", \"c:2\"]"),
        (
            "v2 = { endpoints = [\"b:1\", \"b:2\", \"b:3\"], label = \"x\" }",
            "v2 = { endpoints = [\"c:1\", \"c:2\"], label = \"x\" }",
        ),
        (
            "[service.shop.versions.v2]\nlabel = \"x\"\nendpoints = [\"b:1\"]",
            "[service.shop.versions.v2]\nlabel = \"x\"\nendpoints = [\"c:1\", \"c:2\"]",
        ),
        (
            "v2.endpoints = [\"b:1\"]\nv2.label = \"x\"",
            "v2.endpoints = [\"c:1\", \"c:2\"]\nv2.label = \"x\"",
        ),
    ] {
        let edited = with_endpoints(&with_version(before), &["c:1", "c:2"]);
        assert_eq!(edited, with_version(after));
        assert_eq!(
            with_endpoints(&edited, &["c:1", "c:2"]),
            edited,
            "no change"
        );
    }
}

#[test]
fn endpoints_on_lines_of_their_own_keep_their_comments() {
    let before =
        with_version("v2 = [\n  # rack one\n  \"b:1\", # first\n  \"b:2\",\n  \"b:3\" # third\n]");
    let edited = with_endpoints(&before, &["b:1", "b:3", "c:1 weight=2"]);
    assert_eq!(edited, before.replace("\"b:2\"", "\"c:1 weight=2\""));
    let edited = with_endpoints(&before, &["b:1"]);
    assert_eq!(
        edited,
        before.replace("  \"b:2\",\n  \"b:3\" # third\n", "")
    );
    let edited = with_endpoints(&before, &["b:1", "b:2", "b:3", "c:1", "c:2"]);
    let lines = "  \"b:3\", # third\n  \"c:1\",\n  \"c:2\"\n]";
    assert_eq!(edited, before.replace("  \"b:3\" # third\n]", lines));
    let comma = before.replace("\"b:3\" #", "\"b:3\", #");
    let edited = with_endpoints(&comma, &["b:1", "b:2", "b:3", "c:1"]);
    let lines = "\"b:3\", # third\n  \"c:1\",\n]";
    assert_eq!(edited, comma.replace("\"b:3\", # third\n]", lines));
    let carriage = before.replace('\n', "\r\n");
    let edited = with_endpoints(&carriage, &["b:1", "b:2", "b:3", "c:1"]);
    assert!(
        edited.contains("\"b:3\", # third\r\n  \"c:1\"\r\n]"),
        "{edited}"
    );
    assert_eq!(edited.replace("\r\n", "").matches('\n').count(), 0);
}

#[test]
fn an_unusual_layout_of_endpoints_is_written_on_one_line() {
    for list in [
        "v2 = [\n  \"b:1\"\n  , \"b:2\"\n]",
        "v2 = [\"b:1\",\n  \"b:2\"]",
        "v2 = [\n\"b:1\", \"b:2\",\n\"b:3\" ]",
    ] {
        let edited = with_endpoints(&with_version(list), &["b:1"]);
        assert_eq!(edited, with_version("v2 = [\"b:1\"]"), "{list}");
        with_endpoints(&with_version(list), &["b:1", "b:2", "b:3", "c:1", "c:2"]);
    }
}

#[test]
fn a_label_is_set_in_every_form_of_a_version() {
    for (before, after) in [
        (
            "v2 = [\"b:1\"] # new",
            "v2 = { endpoints = [\"b:1\"], label = \"2 \\\"b\\\"\" } # new",
        ),
        (
            "v2 = { label = \"1\", endpoints = [\"b:1\"] }",
            "v2 = { label = \"2 \\\"b\\\"\", endpoints = [\"b:1\"] }",
        ),
        (
            "v2 = { endpoints = [\"b:1\"] }",
            "v2 = { endpoints = [\"b:1\"], label = \"2 \\\"b\\\"\" }",
        ),
        (
            "v2 = [\n  \"b:1\", # one\n]",
            "v2 = { endpoints = [\n  \"b:1\", # one\n], label = \"2 \\\"b\\\"\" }",
        ),
        (
            "[service.shop.versions.v2]\n  endpoints = [\n \"b:1\",\n] # all",
            "[service.shop.versions.v2]\n  endpoints = [\n \"b:1\",\n] # all\n  label = \"2 \\\"b\\\"\"",
        ),
        (
            "v2.endpoints = [\"b:1\"]",
            "v2.endpoints = [\"b:1\"]\nv2.label = \"2 \\\"b\\\"\"",
        ),
    ] {
        let edited = set_label(&with_version(before), "shop", "v2", "2 \"b\"").unwrap();
        assert_eq!(edited, with_version(after));
        let spec = crate::config::parse(&edited, "t.toml").unwrap();
        let version = spec.services[0].versions.iter().find(|v| v.name == "v2");
        assert_eq!(version.unwrap().label.as_deref(), Some("2 \"b\""));
    }
}

#[test]
fn unknown_versions_and_malformed_lists_are_refused() {
    let text = with_version("v2 = \"b:1\"");
    let wanted = ["c:1".to_owned()];
    let refused = set_endpoints(&text, "shop", "v2", &wanted);
    assert!(
        matches!(refused, Err(EditError::Malformed(_))),
        "{refused:?}"
    );
    let refused = set_endpoints(&text, "shop", "v3", &wanted);
    assert!(
        matches!(refused, Err(EditError::NoVersion(..))),
        "{refused:?}"
    );
    let text = with_version("v2 = [\"b:1\", 7]");
    let refused = set_endpoints(&text, "shop", "v2", &wanted);
    assert!(
        matches!(refused, Err(EditError::Malformed(_))),
        "{refused:?}"
    );
}

#[test]
fn a_rollout_is_started_in_the_split() {
    let edited = start_rollout(PLAIN, "shop", "v2").unwrap();
    assert_eq!(edited, PLAIN.replace("\"5%\"", "\"rollout\""));
    let refused = start_rollout(PLAIN, "shop", "v1");
    assert!(
        matches!(refused, Err(EditError::IsStable(..))),
        "{refused:?}"
    );
}
