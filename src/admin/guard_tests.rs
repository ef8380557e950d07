use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;

use super::*;

const TCP: ListenerKind = ListenerKind::Tcp {
    local: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7))),
    exposed: false,
};
const EXPOSED: ListenerKind = ListenerKind::Tcp {
    local: None,
    exposed: true,
};

fn head_of(path: &str, fields: &[(&str, &str)]) -> request::Parts {
    let mut builder = http::Request::get(path);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn named(hosts: &[HostPattern]) -> Admin {
    Admin {
        listen: Vec::new(),
        token_file: None,
        hosts: hosts.to_vec(),
    }
}

fn code(admitted: Result<(), AdminRefusal>) -> u16 {
    admitted.map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
}

fn status(fields: &[(&str, &str)], listener: ListenerKind) -> u16 {
    code(admit(&head_of("/api/v1/status", fields), listener, None))
}

#[test]
fn only_names_of_this_proxy_are_accepted() {
    let nodename = rustix::system::uname();
    let machine = nodename.nodename().to_str().unwrap();
    let with_port = format!("{}:9900", machine.to_uppercase());
    for local in [
        "localhost",
        "LocalHost:9900",
        "127.0.0.1:9900",
        "127.1.2.3",
        "[::1]:9900",
        "10.0.0.7:9900",
        machine,
        &with_port,
    ] {
        assert_eq!(status(&[("host", local)], TCP), 200, "{local}");
    }
    for foreign in [
        "evil.example",
        "localhost.evil.example",
        "10.0.0.8:9900",
        "127.0.0.1.evil.example",
        "[::1",
        "",
    ] {
        assert_eq!(status(&[("host", foreign)], TCP), 403, "{foreign}");
        assert_eq!(
            status(&[("host", foreign)], ListenerKind::Unix),
            200,
            "{foreign}"
        );
    }
    assert_eq!(status(&[], TCP), 400);
    assert_eq!(status(&[("host", "localhost"), ("host", "x")], TCP), 400);
}

#[test]
fn configured_names_are_accepted_and_the_refusal_names_the_key() {
    let admin = named(&[
        HostPattern::Exact("cutover.internal".into()),
        HostPattern::Exact("[fd00::7]".into()),
        HostPattern::Suffix(".ops.example".into()),
    ]);
    let ask = |fields: &[(&str, &str)]| {
        let head = head_of("/api/v1/status", fields);
        admit(&head, TCP, Some(&admin))
    };
    for local in [
        "cutover.internal",
        "Cutover.Internal.:9900",
        "a.ops.example:9900",
        "[fd00::7]:9900",
    ] {
        assert_eq!(ask(&[("host", local)]), Ok(()), "{local}");
    }
    for foreign in ["cutover", "ops.example", "a.cutover.internal"] {
        let refusal = ask(&[("host", foreign)]).unwrap_err();
        assert_eq!(refusal.status, 403, "{foreign}");
        assert!(refusal.message.contains("admin.hosts"), "{refusal:?}");
    }
    let rewritten = |origin| ask(&[("host", "127.0.0.1:9900"), ("origin", origin)]);
    assert_eq!(rewritten("https://cutover.internal"), Ok(()));
    let refusal = rewritten("https://evil.example").unwrap_err();
    assert!(refusal.message.contains("admin.hosts"), "{refusal:?}");
}

#[test]
fn a_foreign_origin_is_refused_on_every_listener() {
    let with = |origin| [("host", "localhost:9900"), ("origin", origin)];
    for listener in [TCP, ListenerKind::Unix] {
        assert_eq!(status(&with("http://localhost:9900"), listener), 200);
        for foreign in [
            "http://evil.example",
            "null",
            "http://localhost:3000",
            "localhost:9900",
        ] {
            assert_eq!(status(&with(foreign), listener), 403, "{foreign}");
        }
    }
}

#[test]
fn health_and_metrics_answer_under_any_name_and_without_the_token() {
    for path in ["/healthz", "/readyz", "/metrics"] {
        for listener in [TCP, EXPOSED, ListenerKind::Unix] {
            let head = head_of(
                path,
                &[("host", "cutover.prod.svc:9900"), ("origin", "null")],
            );
            assert_eq!(
                code(admit(&head, listener, None)),
                200,
                "{path} {listener:?}"
            );
        }
        let twice = head_of(path, &[("host", "a"), ("host", "b")]);
        assert_eq!(code(admit(&twice, TCP, None)), 400);
    }
}

fn secret(text: &str, mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    (dir, file)
}

#[test]
fn changes_over_tcp_need_the_token() {
    let (_dir, file) = secret("s3cret\n", 0o600);
    let ask = |authorization: &str, listener, file: Option<&Path>| {
        let head = head_of("/", &[("authorization", authorization)]);
        authorise(&head.headers, listener, file).map_err(|r| r.status.as_u16())
    };
    assert_eq!(ask("Bearer s3cret", TCP, Some(&file)), Ok(()));
    assert_eq!(ask("bearer s3cret", TCP, Some(&file)), Ok(()));
    assert_eq!(ask("Bearer s3cre", TCP, Some(&file)), Err(401));
    assert_eq!(ask("Bearer ", TCP, Some(&file)), Err(401));
    assert_eq!(ask("s3cret", TCP, Some(&file)), Err(401));
    assert_eq!(ask("Bearer s3cret", TCP, None), Err(403));
    assert_eq!(ask("", ListenerKind::Unix, None), Ok(()));
    fs::write(&file, "\n").unwrap();
    assert_eq!(ask("Bearer ", TCP, Some(&file)), Err(403));
}

#[test]
fn reads_need_the_token_where_other_machines_reach_the_listener() {
    let (_dir, file) = secret("s3cret", 0o640);
    let mut admin = named(&[HostPattern::Exact("cutover".into())]);
    let ask = |admin: &Admin, authorization: &str| {
        let fields = [("host", "cutover:9900"), ("authorization", authorization)];
        let head = head_of("/api/v1/status", &fields);
        code(admit(&head, EXPOSED, Some(admin)))
    };
    assert_eq!(ask(&admin, "Bearer s3cret"), 403);
    admin.token_file = Some(file);
    assert_eq!(ask(&admin, "Bearer s3cret"), 200);
    assert_eq!(ask(&admin, "Bearer other"), 401);
    assert_eq!(ask(&admin, ""), 401);
}

#[test]
fn a_token_that_others_may_read_or_write_is_not_used() {
    for (mode, text, why) in [
        (0o666, "s3cret", "chmod o-rw"),
        (0o604, "s3cret", "chmod o-rw"),
        (0o602, "s3cret", "chmod o-rw"),
        (0o600, " \n", "empty"),
        (0o600, &*"x".repeat(5000), "more than 4096"),
    ] {
        let (_dir, file) = secret(text, mode);
        let error = token(&file).unwrap_err();
        assert!(error.contains(why), "{mode:o}: {error}");
    }
    let (_dir, file) = secret(" s3cret\n", 0o640);
    assert_eq!(token(&file).as_deref(), Ok("s3cret"));
}

#[test]
fn the_files_of_the_dashboard_need_no_token_but_a_host_of_this_proxy() {
    for path in ["/", "/dashboard/main.js"] {
        let asked = |host| admit(&head_of(path, &[("host", host)]), EXPOSED, None);
        assert_eq!(code(asked("localhost:9900")), 200, "{path}");
        assert_eq!(code(asked("evil.example")), 403, "{path}");
    }
    for path in ["/api/v1/status", "/dashboard/none.js", "/dashboard/"] {
        let head = head_of(path, &[("host", "localhost:9900")]);
        assert_eq!(code(admit(&head, EXPOSED, None)), 403, "{path}");
    }
}
