//! What an operator reads when a file is wrong: the whole text of each message, and that no text whatsoever breaks it.

#[path = "diagnostics/policies.rs"]
mod policies;
#[path = "diagnostics/slips.rs"]
mod slips;

use cutover::config::spec::Share;
use cutover::config::{self, Spec, edit};
use proptest::prelude::*;

/// Everything that is said of a text that is refused. Texts and answers begin after a first line end, to be readable here.
#[track_caller]
fn refused(text: &str, expected: &str) {
    let text = text.strip_prefix('\n').unwrap();
    let errors = match config::parse(text, "cutover.toml") {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(errors) => errors,
    };
    let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(said.join("\n"), expected.strip_prefix('\n').unwrap());
    for error in &errors {
        let (line, column) = error.position().unwrap();
        let place = format!("cutover.toml:{line}:{column}");
        assert!(error.to_string().contains(&place));
        assert!(error.summary().starts_with(&format!("{place}: ")));
    }
}

/// Every place is a place of the text.
fn check_places(text: &str) {
    let said = match config::parse_with_warnings(text, "f") {
        Ok((_, warnings)) => warnings,
        Err(errors) => {
            assert!(!errors.is_empty());
            errors
        }
    };
    let mut last = (0, 0);
    for diagnostic in said {
        let (line, column) = diagnostic.position().unwrap();
        let shown = text.split('\n').nth(line - 1);
        let width = shown.expect("a line of the text").chars().count();
        assert!(column <= width + 1, "{line}:{column} is beyond the line");
        assert!((line, column) >= last, "not in the order of the text");
        last = (line, column);
        assert!(!diagnostic.rendered(true).is_empty());
    }
}

const REFERENCE: &str = include_str!("../config/reference.toml");
const FRONT_DOOR: &str = include_str!("../config/front-door.toml");
const CANARY: &str = include_str!("../config/canary.toml");
const RESILIENCE: &str = include_str!("../config/resilience.toml");

/// A valid file with some of its bytes replaced, taken out, or moved.
fn damaged() -> impl Strategy<Value = String> {
    let file = prop::sample::select(vec![REFERENCE, FRONT_DOOR, CANARY, RESILIENCE]);
    let piece = prop::sample::select(vec![
        "",
        "\"",
        "'",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        "\n",
        ",",
        ".",
        "#",
        "\\",
        "\"\"\"",
        "'''",
        "0",
        "-1",
        "5%",
        "é",
        "\u{0}",
        "\r\n",
        "\t",
        "/(",
        "*",
        "nan",
        "1979-05-27",
        "true",
        "\\u0000",
        "\u{feff}",
        "unix:",
        "::",
        "[service.x]",
    ]);
    let change = (any::<prop::sample::Index>(), 0..40usize, piece);
    (file, prop::collection::vec(change, 1..6)).prop_map(|(file, changes)| {
        let mut chars: Vec<char> = file.chars().collect();
        for (at, length, piece) in changes {
            let start = at.index(chars.len() + 1);
            let end = (start + length).min(chars.len());
            chars.splice(start..end, piece.chars());
        }
        chars.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damaged_file_breaks_it(text in damaged()) {
        check_places(&text);
    }

    /// What an edit makes of a valid file is what was asked for.
    #[test]
    fn no_damaged_file_breaks_an_edit(text in damaged(), steps in 0..=30_000u32) {
        let edited = edit::shift(&text, "shop", &[("v2", Share(steps))]);
        let Ok(before) = config::parse(&text, "f") else { return Ok(()) };
        let Ok(edited) = edited else { return Ok(()) };
        let after = match config::parse(&edited, "f") {
            Ok(spec) => spec,
            Err(errors) => {
                prop_assert!(errors[0].message().contains("together"), "{}", errors[0]);
                return Ok(());
            }
        };
        let shop = |spec: &Spec| spec.services.iter().find(|s| s.name == "shop").cloned().unwrap();
        let (mut before, after) = (shop(&before), shop(&after));
        let v2 = after.versions.iter().position(|v| v.name == "v2").unwrap();
        prop_assert!(after.split.contains(&(v2, Share(steps))));
        before.split.clone_from(&after.split);
        prop_assert_eq!(before, after);
    }

    #[test]
    fn no_text_breaks_it(text in "[\\PC\n\t]{0,200}") {
        check_places(&text);
    }
}

/// A file that is cut off while it is written is either refused or, at a line's end, a smaller valid file.
#[test]
fn no_cut_breaks_it() {
    for (at, _) in CANARY.char_indices() {
        check_places(&CANARY[..at]);
    }
}

#[test]
fn colour_is_only_added() {
    let error = &config::parse("listen = 3\n", "f").unwrap_err()[0];
    let coloured = error.rendered(true);
    assert!(coloured.contains('\u{1b}'));
    assert_eq!(
        anstream::adapter::strip_str(&coloured).to_string(),
        error.to_string()
    );
    assert!(!error.to_string().contains('\u{1b}'));
}

#[test]
fn a_warning_is_no_error() {
    let text = "listen = ':80'\nadmin = ':9900'\n[service.shop]\nversions = { v1 = ['a:1'] }\n\
                [[service.shop.match]]\nwhen = { path = '/admin/' }\nto = 'v1'\n";
    let (_, warnings) = config::parse_with_warnings(text, "f").unwrap();
    let said: Vec<&str> = warnings.iter().map(config::Diagnostic::message).collect();
    assert_eq!(
        said,
        [
            "the admin API is reachable from other machines",
            "`/admin/` is read as a regular expression"
        ]
    );
    assert!(warnings[1].to_string().starts_with("warning: "));
}

#[test]
fn an_unknown_key() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
balence = "round_robin"
"#,
        r#"
error: unknown key `balence` in `service.shop`
 --> cutover.toml:5:1
  |
5 | balence = "round_robin"
  | ^^^^^^^ not a key that is known here
  = help: did you mean `balance`?
"#,
    );
}

#[test]
fn an_unknown_key_that_is_like_nothing() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[shutdown]
zzzzzzz = 1
"#,
        r#"
error: unknown key `zzzzzzz` in `shutdown`
 --> cutover.toml:6:1
  |
6 | zzzzzzz = 1
  | ^^^^^^^ not a key that is known here
  = help: the keys here are `delay`, `deadline`
"#,
    );
}

#[test]
fn keys_of_a_later_release_are_not_available_yet() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = { endpoints = ["a:2"], max_share = "30%" } }
mirror = { to = "v2" }
"#,
        r#"
error: `service.shop.versions.v2.max_share` is not available yet
 --> cutover.toml:4:56
  |
4 | versions = { v1 = ["a:1"], v2 = { endpoints = ["a:2"], max_share = "30%" } }
  |                                                        ^^^^^^^^^ planned for a later version of cutover
  = help: leave it out until then

error: `service.shop.mirror` is not available yet
 --> cutover.toml:5:1
  |
5 | mirror = { to = "v2" }
  | ^^^^^^ planned for a later version of cutover
  = help: leave it out until then
"#,
    );
}

#[test]
fn an_undefined_version() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "bleu"
versions = { blue = ["a:1"], green = ["a:2"] }
"#,
        r#"
error: `service.shop.stable` names version `bleu`, which is not defined
 --> cutover.toml:3:10
  |
3 | stable = "bleu"
  |          ^^^^^^ not a version of this service
  = help: did you mean `blue`?
"#,
    );
}

#[test]
fn shares_above_the_whole() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
split = { v2 = "60%", v3 = "40.5%" }
versions = { v1 = ["a:1"], v2 = ["a:2"], v3 = ["a:3"] }
"#,
        r#"
error: the shares in `service.shop.split` are 100.5% together
 --> cutover.toml:4:28
  |
4 | split = { v2 = "60%", v3 = "40.5%" }
  |                            ^^^^^^^ expected at most 100% for all canaries
  = help: stable gets what they leave
"#,
    );
}

#[test]
fn stable_in_its_own_split() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
split = { v1 = "5%" }
"#,
        r#"
error: `v1` is stable and in its own split
 --> cutover.toml:5:11
  |
5 | split = { v1 = "5%" }
  |           ^^ stable gets what the split leaves
 ::: cutover.toml:3:10
  |
3 | stable = "v1"
  |          ---- stable is named here
  = help: name only the other versions here
"#,
    );
}

#[test]
fn a_share_without_a_percent_sign() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
split = { v2 = 5 }
"#,
        r#"
error: `service.shop.split.v2` needs a unit
 --> cutover.toml:5:16
  |
5 | split = { v2 = 5 }
  |                ^ expected a share such as "5%", found a bare number
  = help: write "5%"
"#,
    );
}

#[test]
fn a_share_that_is_too_fine() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
split = { v2 = "0.0005%" }
"#,
        r#"
error: `0.0005%` is not a share such as "5%"
 --> cutover.toml:5:16
  |
5 | split = { v2 = "0.0005%" }
  |                ^^^^^^^^^ finer than 0.001%, the smallest step
"#,
    );
}

#[test]
fn a_rollout_before_its_time() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
split = { v2 = "rollout" }
"#,
        r#"
error: rollouts are not available yet
 --> cutover.toml:5:16
  |
5 | split = { v2 = "rollout" }
  |                ^^^^^^^^^ expected a share such as "5%"
  = help: raise the share by hand, or with `cutover shift`
"#,
    );
}

#[test]
fn a_duration_without_a_unit() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[limits]
header_timeout = 10
"#,
        r#"
error: `limits.header_timeout` needs a unit
 --> cutover.toml:6:18
  |
6 | header_timeout = 10
  |                  ^^ expected a duration such as "30s", found a bare number
  = help: write "10s" for seconds, "10ms" for milliseconds
"#,
    );
}

#[test]
fn a_duration_in_months() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
timeouts = { total = "5M" }
"#,
        r#"
error: `5M` is not a duration such as "30s"
 --> cutover.toml:5:22
  |
5 | timeouts = { total = "5M" }
  |                      ^^^^ unknown unit `M`: the units are ms, s, m, h and d
"#,
    );
}

#[test]
fn a_size_without_a_unit() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[limits]
header_bytes = 32768
"#,
        r#"
error: `limits.header_bytes` needs a unit
 --> cutover.toml:6:16
  |
6 | header_bytes = 32768
  |                ^^^^^ expected a size such as "64KiB", found a bare number
  = help: write "32768B" for bytes, "32768KiB" for kibibytes
"#,
    );
}

#[test]
fn a_size_out_of_range() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[limits]
header_bytes = "1GiB"
"#,
        r#"
error: `limits.header_bytes` is out of range
 --> cutover.toml:6:16
  |
6 | header_bytes = "1GiB"
  |                ^^^^^^ expected 1KiB to 1MiB
"#,
    );
}

#[test]
fn a_count_out_of_range() {
    refused(
        r#"
workers = 0
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
"#,
        r#"
error: `workers` is out of range
 --> cutover.toml:1:11
  |
1 | workers = 0
  |           ^ expected 1 to 1024
"#,
    );
}

#[test]
fn a_wrong_type() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
hosts = 7
"#,
        r#"
error: `service.shop.hosts` must be a host such as "shop.example.com", or a list of these
 --> cutover.toml:5:9
  |
5 | hosts = 7
  |         ^ expected a host such as "shop.example.com", or a list of these, found an integer
"#,
    );
}

#[test]
fn no_stable() {
    refused(
        r#"
listen = ":80"
[service.shop]
versions = { v1 = ["a:1"], v2 = ["a:2"] }
"#,
        r#"
error: `service.shop` has 2 versions and no `stable`
 --> cutover.toml:2:10
  |
2 | [service.shop]
  |          ^^^^ which version gets what the split leaves?
  = help: write `stable = "v1"`
"#,
    );
}

#[test]
fn no_listener() {
    refused(
        r#"
# nothing to listen at
[service.shop]
versions = { v1 = ["a:1"] }
"#,
        r#"
error: the file names no listener
 --> cutover.toml:1:1
  |
1 | # nothing to listen at
  | ^ expected `listen`
  = help: write `listen = ":8080"` at the top of the file
"#,
    );
}

#[test]
fn no_service() {
    refused(
        r#"
# nothing but comments
listen = ":80"
"#,
        r#"
error: the file names no service
 --> cutover.toml:1:1
  |
1 | # nothing but comments
  | ^ expected `[service.NAME]`
  = help: write a service, such as
          [service.shop]
          versions = { blue = ["10.0.1.10:8080"] }
"#,
    );
}

#[test]
fn no_endpoints() {
    refused(
        r#"
listen = ":80"
[service.shop]
versions = { v1 = [] }
"#,
        r#"
error: `service.shop.versions.v1` has no endpoints
 --> cutover.toml:3:19
  |
3 | versions = { v1 = [] }
  |                   ^^ expected a list of endpoints such as ["10.0.1.10:8080"]
  = help: to take a version out of service, take it out of `split` and `stable`, then out of `versions`
"#,
    );
}

#[test]
fn a_bad_endpoint() {
    refused(
        r#"
listen = ":80"
[service.shop]
versions = { v1 = ["10.0.0.1", "a:1 wieght=2", "http://a/x", "ftp://a:1"] }
"#,
        r#"
error: `10.0.0.1` is not an endpoint
 --> cutover.toml:3:21
  |
3 | versions = { v1 = ["10.0.0.1", "a:1 wieght=2", "http://a/x", "ftp://a:1"] }
  |                     ^^^^^^^^ the port is missing
  = help: such as `10.0.0.1:8080`

error: unknown option `wieght` of an endpoint
 --> cutover.toml:3:37
  |
3 | versions = { v1 = ["10.0.0.1", "a:1 wieght=2", "http://a/x", "ftp://a:1"] }
  |                                     ^^^^^^^^ expected `weight=N`
  = help: did you mean `weight`?

error: `http://a/x` is not an endpoint
 --> cutover.toml:3:49
  |
3 | versions = { v1 = ["10.0.0.1", "a:1 wieght=2", "http://a/x", "ftp://a:1"] }
  |                                                 ^^^^^^^^^^ an endpoint has no path
  = help: did you mean `http://a`?

error: `ftp://a:1` is not an endpoint
 --> cutover.toml:3:63
  |
3 | versions = { v1 = ["10.0.0.1", "a:1 wieght=2", "http://a/x", "ftp://a:1"] }
  |                                                               ^^^^^^^^^ unknown scheme `ftp`
  = help: the schemes are `http`, `https`, `h2c`
"#,
    );
}

#[test]
fn an_endpoint_twice() {
    refused(
        r#"
listen = ":80"
[service.shop]
versions = { v1 = ["a:1", "b:1", "a:1"] }
"#,
        r#"
error: `a:1` stands twice in `service.shop.versions.v1`
 --> cutover.toml:3:34
  |
3 | versions = { v1 = ["a:1", "b:1", "a:1"] }
  |                                  ^^^^^ again here
 ::: cutover.toml:3:20
  |
3 | versions = { v1 = ["a:1", "b:1", "a:1"] }
  |                    ----- first here
  = help: give it more weight with a space and `weight=2`
"#,
    );
}

#[test]
fn a_listener_without_colon() {
    refused(
        r#"
listen = "8080"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
"#,
        r#"
error: `8080` is not an address to listen at
 --> cutover.toml:1:10
  |
1 | listen = "8080"
  |          ^^^^^^ expected an address such as ":8080", "127.0.0.1:8080" or "unix:/path"
  = help: did you mean ":8080"?
"#,
    );
}

#[test]
fn two_listeners_at_one_address() {
    refused(
        r#"
[listen.a]
bind = ":80"
[listen.b]
bind = "127.0.0.1:80"
[service.shop]
versions = { v1 = ["a:1"] }
"#,
        r#"
error: two listeners at one address
 --> cutover.toml:4:8
  |
4 | bind = "127.0.0.1:80"
  |        ^^^^^^^^^^^^^^ overlaps an address that is listened at already
 ::: cutover.toml:2:8
  |
2 | bind = ":80"
  |        ----- taken here
"#,
    );
}

#[test]
fn a_redirect_on_a_listener_with_tls() {
    refused(
        r#"
[listen.a]
bind = ":443"
redirect = "https"
[[listen.a.cert]]
cert = "c.pem"
key = "k.pem"
[service.shop]
versions = { v1 = ["a:1"] }
"#,
        r#"
error: `listen.a` has certificates and a redirect to https
 --> cutover.toml:3:12
  |
3 | redirect = "https"
  |            ^^^^^^^ a listener with TLS has nothing to redirect to
 ::: cutover.toml:4:12
  |
4 | [[listen.a.cert]]
  |            ---- the certificates
  = help: put the redirect on the clear-text listener, mostly port 80
"#,
    );
}

#[test]
fn a_name_for_via_that_is_none() {
    refused(
        r#"
[listen.a]
bind = ":80"
via = "my proxy"
[listen.b]
bind = ":81"
via = true
merge_slashes = "yes"
[service.shop]
versions = { v1 = ["a:1"] }
"#,
        r#"
error: `my proxy` can't be a name in `Via`
 --> cutover.toml:3:7
  |
3 | via = "my proxy"
  |       ^^^^^^^^^^ expected letters, digits and `-`, `.` or `_`, without spaces

error: `listen.b.via` must be a name such as "cutover", or false
 --> cutover.toml:6:7
  |
6 | via = true
  |       ^^^^ expected a name such as "cutover", or false, found a boolean

error: `listen.b.merge_slashes` must be true or false, without quotes
 --> cutover.toml:7:17
  |
7 | merge_slashes = "yes"
  |                 ^^^^^ expected true or false, without quotes, found a string
"#,
    );
}

#[test]
fn two_certificates_for_one_name() {
    refused(
        r#"
[listen.a]
bind = ":443"
[[listen.a.cert]]
sni = ["*.shop.example"]
cert = "c.pem"
key = "k.pem"
[[listen.a.cert]]
sni = "*.Shop.example"
cert = "d.pem"
[service.shop]
versions = { v1 = ["a:1"] }
"#,
        r#"
error: `listen.a.cert` has no `key`
 --> cutover.toml:7:1
  |
7 | [[listen.a.cert]]
  | ^^^^^^^^^^^^^^^^^ expected `key` in here
  = help: write `key = "/path/to/key.pem"`

error: two certificates for `*.Shop.example`
 --> cutover.toml:8:7
  |
8 | sni = "*.Shop.example"
  |       ^^^^^^^^^^^^^^^^ again here
 ::: cutover.toml:4:8
  |
4 | sni = ["*.shop.example"]
  |        ---------------- first here
"#,
    );
}

#[test]
fn two_services_with_one_route() {
    refused(
        r#"
listen = ":80"
[service.shop]
hosts = ["shop.example"]
paths = ["/*"]
versions = { v1 = ["a:1"] }

[service.other]
hosts = ["a.example", "Shop.example"]
versions = { v1 = ["a:1"] }
"#,
        r#"
error: services `shop` and `other` have the same route: shop.example, every path
 --> cutover.toml:8:23
  |
8 | hosts = ["a.example", "Shop.example"]
  |                       ^^^^^^^^^^^^^^ the same route again
 ::: cutover.toml:3:10
  |
3 | hosts = ["shop.example"]
  |          -------------- first here
  = help: give one of them other `hosts` or `paths`
"#,
    );
}

#[test]
fn two_services_for_everything() {
    refused(
        r#"
listen = ":80"
[service.shop]
versions = { v1 = ["a:1"] }
[service.other]
versions = { v1 = ["a:1"] }
"#,
        r#"
error: services `shop` and `other` have the same route: every host, every path
 --> cutover.toml:4:10
  |
4 | [service.other]
  |          ^^^^^ the same route again
 ::: cutover.toml:2:10
  |
2 | [service.shop]
  |          ---- first here
  = help: give one of them other `hosts` or `paths`
"#,
    );
}

#[test]
fn a_preview_host_that_is_taken() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
hosts = "shop.example"
[service.shop.versions]
v1 = ["a:1"]
v2 = { endpoints = ["a:2"], preview = "shop.example" }
"#,
        r#"
error: the preview host shop.example of `shop.v2` is taken
 --> cutover.toml:7:39
  |
7 | v2 = { endpoints = ["a:2"], preview = "shop.example" }
  |                                       ^^^^^^^^^^^^^^ expected a host of its own
 ::: cutover.toml:4:9
  |
4 | hosts = "shop.example"
  |         -------------- service `shop` answers for it
"#,
    );
}

#[test]
fn a_bad_host() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
hosts = ["https://shop.example/", "shop.example:80", "*", "a.*.example"]
"#,
        r#"
error: `https://shop.example/` is not a host
 --> cutover.toml:5:10
  |
5 | hosts = ["https://shop.example/", "shop.example:80", "*", "a.*.example"]
  |          ^^^^^^^^^^^^^^^^^^^^^^^ a host has no scheme
  = help: did you mean `shop.example`?

error: `shop.example:80` is not a host
 --> cutover.toml:5:35
  |
5 | hosts = ["https://shop.example/", "shop.example:80", "*", "a.*.example"]
  |                                   ^^^^^^^^^^^^^^^^^ a host has no port
  = help: did you mean `shop.example`? the port is the listener's

error: `*` is not a host
 --> cutover.toml:5:54
  |
5 | hosts = ["https://shop.example/", "shop.example:80", "*", "a.*.example"]
  |                                                      ^^^ a star stands only before a dot, as in "*.example.com"
  = help: leave `hosts` out to answer for every host

error: `a.*.example` is not a host
 --> cutover.toml:5:59
  |
5 | hosts = ["https://shop.example/", "shop.example:80", "*", "a.*.example"]
  |                                                           ^^^^^^^^^^^^^ a star stands only at the beginning, as in "*.example.com"
"#,
    );
}

#[test]
fn a_bad_path() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
paths = ["v1/*", "/v1*", "/a/../b"]
"#,
        r#"
error: `v1/*` is not a path
 --> cutover.toml:5:10
  |
5 | paths = ["v1/*", "/v1*", "/a/../b"]
  |          ^^^^^^ a path begins with `/`
  = help: did you mean `/v1/*`?

error: `/v1*` is not a path
 --> cutover.toml:5:18
  |
5 | paths = ["v1/*", "/v1*", "/a/../b"]
  |                  ^^^^^^ a star stands only at the end, after a slash, as in "/v1/*"
  = help: did you mean `/v1/*`?

error: `/a/../b` is not a path
 --> cutover.toml:5:26
  |
5 | paths = ["v1/*", "/v1*", "/a/../b"]
  |                          ^^^^^^^^^ dot segments are removed from requests, so that this could never match
"#,
    );
}

#[test]
fn a_bad_regex() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[[service.shop.match]]
when = { path = "/(unclosed/" }
to = "v2"
"#,
        r#"
error: `/(unclosed/` is not a usable regular expression
 --> cutover.toml:6:17
  |
6 | when = { path = "/(unclosed/" }
  |                 ^^^^^^^^^^^^^ unclosed group
"#,
    );
}

#[test]
fn a_regex_that_is_too_large() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[[service.shop.match]]
when = { path = "/(a{1000}){1000}/" }
to = "v2"
"#,
        r#"
error: `/(a{1000}){1000}/` is not a usable regular expression
 --> cutover.toml:6:17
  |
6 | when = { path = "/(a{1000}){1000}/" }
  |                 ^^^^^^^^^^^^^^^^^^^ it would take more than 1 MiB of memory
"#,
    );
}

#[test]
fn a_bad_network() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[[service.shop.match]]
when = { ip = ["10.0.0.0/33", "10.1.0.0/8"] }
to = "v2"
"#,
        r#"
error: `10.0.0.0/33` is neither an address nor a network
 --> cutover.toml:6:16
  |
6 | when = { ip = ["10.0.0.0/33", "10.1.0.0/8"] }
  |                ^^^^^^^^^^^^^ expected a form such as "10.0.0.0/8", "2001:db8::/32" or "192.0.2.7"

error: `10.1.0.0/8` has bits set beyond its prefix
 --> cutover.toml:6:31
  |
6 | when = { ip = ["10.0.0.0/33", "10.1.0.0/8"] }
  |                               ^^^^^^^^^^^^ expected a network
  = help: did you mean "10.0.0.0/8", or the one address "10.1.0.0"?
"#,
    );
}

#[test]
fn a_bad_header_name() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[[service.shop.match]]
when = { header."x canary" = "1" }
to = "v2"
"#,
        r#"
error: `x canary` is not the name of a header
 --> cutover.toml:6:17
  |
6 | when = { header."x canary" = "1" }
  |                 ^^^^^^^^^^ expected letters, digits and `-`
"#,
    );
}

#[test]
fn a_method_in_small_letters() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[[service.shop.match]]
when = { method = "get" }
to = "v2"
"#,
        r#"
error: `get` in `service.shop.match.when.method` could never match
 --> cutover.toml:6:19
  |
6 | when = { method = "get" }
  |                   ^^^^^ methods are written in capitals
  = help: did you mean `GET`?
"#,
    );
}

#[test]
fn a_rule_that_leads_nowhere() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[[service.shop.match]]
when = {}
to = "v3"
strictly = true
"#,
        r#"
error: `service.shop.match.when` has no condition
 --> cutover.toml:6:8
  |
6 | when = {}
  |        ^^ expected at least one condition
  = help: to send every request to a version, make it `stable`

error: `service.shop.match.to` names version `v3`, which is not defined
 --> cutover.toml:7:6
  |
7 | to = "v3"
  |      ^^^^ not a version of this service
  = help: the versions are `v1`, `v2`

error: unknown key `strictly` in `service.shop.match`
 --> cutover.toml:8:1
  |
8 | strictly = true
  | ^^^^^^^^ not a key that is known here
  = help: did you mean `strict`?
"#,
    );
}

#[test]
fn a_cohort_by_something_else() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
cohort = { by = ["coookie:uid", "header:"] }
"#,
        r#"
error: `coookie:uid` is not a value of `service.shop.cohort.by`
 --> cutover.toml:5:18
  |
5 | cohort = { by = ["coookie:uid", "header:"] }
  |                  ^^^^^^^^^^^^^ expected "cookie:NAME", "header:NAME", "query:NAME" or "ip"
  = help: did you mean `cookie`?

error: `` is not the name of a header
 --> cutover.toml:5:41
  |
5 | cohort = { by = ["coookie:uid", "header:"] }
  |                                         ^ expected letters, digits and `-`
"#,
    );
}

#[test]
fn labels_that_collide() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
labels = { service = "a", "x-y" = "b" }
"#,
        r#"
error: `service` can't be the name of a label
 --> cutover.toml:5:12
  |
5 | labels = { service = "a", "x-y" = "b" }
  |            ^^^^^^^ the proxy's own metrics have a label of this name

error: `x-y` can't be the name of a label
 --> cutover.toml:5:27
  |
5 | labels = { service = "a", "x-y" = "b" }
  |                           ^^^^^ expected letters, digits and `_`, beginning with a letter
"#,
    );
}

#[test]
fn a_name_that_cannot_stand_in_a_url() {
    refused(
        r#"
listen = ":80"
[service.shop]
versions = { "v 1" = ["a:1"] }
"#,
        r#"
error: `v 1` can't be the name of a version
 --> cutover.toml:3:14
  |
3 | versions = { "v 1" = ["a:1"] }
  |              ^^^^^ expected 1 to 63 letters, digits, `-`, `_` or `.`, beginning with a letter or digit
"#,
    );
}

#[test]
fn a_value_without_quotes() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
hosts = [shop.example]
"#,
        r#"
error: string values must be quoted
 --> cutover.toml:5:10
  |
5 | hosts = [shop.example]
  |          ^^^^^^^^^^^^ expected a value in quotes
  = help: put it in double quotes: "shop.example"
"#,
    );
}

#[test]
fn a_list_that_is_never_closed() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
hosts = ["shop.example"
[service.api]
versions = { v1 = ["a:1"] }
"#,
        r#"
error: this `[` is never closed
 --> cutover.toml:5:9
  |
5 | hosts = ["shop.example"
  |         ^ expected a `]` that closes this list
"#,
    );
}

#[test]
fn a_key_twice() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
balance = "round_robin"
balance = "least_request"
"#,
        r#"
error: duplicate key
 --> cutover.toml:6:1
  |
6 | balance = "least_request"
  | ^^^^^^^ defined already
  = help: a key, and a [table] header, may stand in a file only once
"#,
    );
}

#[test]
fn a_key_without_a_value() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
hosts
balence = "x"
"#,
        r#"
error: key with no value
 --> cutover.toml:5:6
  |
5 | hosts
  |      ^ expected `=`

error: unknown key `balence` in `service.shop`
 --> cutover.toml:6:1
  |
6 | balence = "x"
  | ^^^^^^^ not a key that is known here
  = help: did you mean `balance`?
"#,
    );
}

#[test]
fn a_header_that_is_never_closed() {
    refused(
        r#"
listen = ":80"
[service.shop
stable = "v1"
hots = "a"
[service.api]
hots = "a"
"#,
        r#"
error: unclosed table
 --> cutover.toml:2:14
  |
2 | [service.shop
  |              ^ expected `]`

error: unknown key `hots` in `service.api`
 --> cutover.toml:6:1
  |
6 | hots = "a"
  | ^^^^ not a key that is known here
  = help: did you mean `hosts`?
"#,
    );
}

#[test]
fn a_list_over_lines_that_is_never_closed() {
    refused(
        r#"
listen = ":80"
[service.shop]
hosts = [
  "a.example",
  "b.example"
balence = "x"
[service.api]
path = "/"
"#,
        r#"
error: this `[` is never closed
 --> cutover.toml:3:9
  |
3 | hosts = [
  |         ^ expected a `]` that closes this list

error: unknown key `balence` in `service.shop`
 --> cutover.toml:6:1
  |
6 | balence = "x"
  | ^^^^^^^ not a key that is known here
  = help: did you mean `balance`?

error: unknown key `path` in `service.api`
 --> cutover.toml:8:1
  |
8 | path = "/"
  | ^^^^ not a key that is known here
  = help: did you mean `paths`?
"#,
    );
}

#[test]
fn a_string_that_is_never_closed() {
    refused(
        r#"
listen = ":80
[limits]
headers = "3"
"#,
        r#"
error: invalid basic string
 --> cutover.toml:1:14
  |
1 | listen = ":80
  |              ^ expected `"`

error: `limits.headers` must be a whole number, without quotes
 --> cutover.toml:3:11
  |
3 | headers = "3"
  |           ^^^ expected a whole number, without quotes, found a string
"#,
    );
}

#[test]
fn text_that_never_ends() {
    refused(
        r#"
listen = ":80"
workers = 0
state_dir = """x
[limits]
headers = "3"
"#,
        r#"
error: `workers` is out of range
 --> cutover.toml:2:11
  |
2 | workers = 0
  |           ^ expected 1 to 1024

error: this text is never closed
 --> cutover.toml:3:13
  |
3 | state_dir = """x
  |             ^^^ expected `"""` at its end
"#,
    );
}

#[test]
fn broken_lines_and_wrong_ones() {
    refused(
        r#"
listn = ":80"
workers = = 3
[service.shop]
stable  "v1"
balence = 5s
split = { v2 = 5 }
[service.shop]
hosts = 3
"#,
        r#"
error: unknown key `listn` at the top of the file
 --> cutover.toml:1:1
  |
1 | listn = ":80"
  | ^^^^^ not a key that is known here
  = help: did you mean `listen`?

error: extra `=`
 --> cutover.toml:2:11
  |
2 | workers = = 3
  |           ^

error: key with no value
 --> cutover.toml:4:9
  |
4 | stable  "v1"
  |         ^ expected `=`
  = help: expected `stable = …`

error: string values must be quoted
 --> cutover.toml:5:11
  |
5 | balence = 5s
  |           ^^ expected a value in quotes
  = help: put it in double quotes: "5s"

error: `service.shop.split.v2` needs a unit
 --> cutover.toml:6:16
  |
6 | split = { v2 = 5 }
  |                ^ expected a share such as "5%", found a bare number
  = help: write "5%"

error: duplicate key
 --> cutover.toml:7:10
  |
7 | [service.shop]
  |          ^^^^ defined already
  = help: a key, and a [table] header, may stand in a file only once
"#,
    );
}

#[test]
fn every_error_in_the_order_of_the_file() {
    refused(
        r#"
listen = "80"
workers = "many"

[service.shop]
stable = "v9"
split = { v2 = 5 }
versions = { v1 = ["a:1"], v2 = ["a"] }

[limits]
headres = 3
"#,
        r#"
error: `80` is not an address to listen at
 --> cutover.toml:1:10
  |
1 | listen = "80"
  |          ^^^^ expected an address such as ":8080", "127.0.0.1:8080" or "unix:/path"
  = help: did you mean ":80"?

error: `workers` must be "auto" or a number of threads such as 4
 --> cutover.toml:2:11
  |
2 | workers = "many"
  |           ^^^^^^ expected "auto" or a number of threads such as 4, found a string

error: `service.shop.stable` names version `v9`, which is not defined
 --> cutover.toml:5:10
  |
5 | stable = "v9"
  |          ^^^^ not a version of this service
  = help: the versions are `v1`, `v2`

error: `service.shop.split.v2` needs a unit
 --> cutover.toml:6:16
  |
6 | split = { v2 = 5 }
  |                ^ expected a share such as "5%", found a bare number
  = help: write "5%"

error: `a` is not an endpoint
 --> cutover.toml:7:35
  |
7 | versions = { v1 = ["a:1"], v2 = ["a"] }
  |                                   ^ the port is missing
  = help: such as `a:8080`

error: unknown key `headres` in `limits`
  --> cutover.toml:10:1
   |
10 | headres = 3
   | ^^^^^^^ not a key that is known here
   = help: did you mean `headers`?
"#,
    );
}

#[test]
fn tabs_and_letters_of_two_bytes() {
    refused(
        r#"
listen = ":80"
[service.shop]
versions = {	"ä" = ["a:1"] } # é
"#,
        r#"
error: `ä` can't be the name of a version
 --> cutover.toml:3:14
  |
3 | versions = {    "ä" = ["a:1"] } # é
  |                 ^^^ expected 1 to 63 letters, digits, `-`, `_` or `.`, beginning with a letter or digit
"#,
    );
}
