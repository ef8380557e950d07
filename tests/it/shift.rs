//! `cutover shift` by several operators at once, and beside other writers of the file.

use std::net::Ipv4Addr;
use std::process::Child;

use crate::support::proxy::{Output, Proxy, serve};
use crate::support::until;

/// Services `s0`, `s1`, … with a stable version `v0` and canaries `v1`, `v2`, …; nothing needs to answer.
fn services(count: usize, canaries: usize) -> String {
    let version = |v: usize| format!("v{v} = [\"127.0.0.1:{}\"]\n", v + 1);
    let service = |s: usize| {
        let versions: String = (0..=canaries).map(version).collect();
        format!(
            "[service.s{s}] # of team {s}\nhosts = [\"s{s}.test\"]\nstable = \"v0\"\n\
             [service.s{s}.versions]\n{versions}"
        )
    };
    (0..count).map(service).collect()
}

/// Starts `cutover shift` on the control socket, as an operator on the proxy's machine does.
fn start(proxy: &Proxy, service: &str, wish: &str) -> Child {
    proxy.start_local(&["shift", service, wish])
}

fn end(child: Child) -> Output {
    let output = child.wait_with_output().expect("the command's end");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The share that the running configuration gives a version.
fn desired(proxy: &Proxy, service: &str, version: &str) -> String {
    let status = proxy.status();
    let services = status["services"].as_array().expect("services");
    let found = services.iter().find(|s| s["name"] == service);
    let share = &found.expect("the service")["split"]["desired"][version];
    share.as_str().unwrap_or("none").to_owned()
}

#[test]
fn thirty_shifts_at_once_all_succeed_and_all_edits_stay() {
    let proxy = serve(&services(6, 5));
    let wishes: Vec<(String, String, String)> = (0..30)
        .map(|n| {
            let share = format!("{}%", n % 17 + 1);
            (format!("s{}", n % 6), format!("v{}", n / 6 + 1), share)
        })
        .collect();
    let start = |(service, version, share): &(String, String, String)| {
        start(&proxy, service, &format!("{version}={share}"))
    };
    let started: Vec<Child> = wishes.iter().map(start).collect();
    for (wish, child) in wishes.iter().zip(started) {
        let said = end(child);
        assert_eq!(said.code, 0, "{wish:?}: {said:?}");
        assert!(said.stdout.contains("live"), "{wish:?}: {said:?}");
    }
    let written = proxy.text();
    for (service, version, share) in &wishes {
        assert_eq!(&desired(&proxy, service, version), share, "{written}");
    }
    assert_eq!(written.matches("# of team").count(), 6, "{written}");
    let left = std::fs::read_dir(proxy.dir()).expect("the directory");
    assert_eq!(left.count(), 2, "the file and the state directory alone");
}

#[test]
fn two_shifts_at_once_both_stay_in_every_round() {
    let proxy = serve(&services(1, 2));
    for round in 1..=20 {
        let (one, two) = (format!("{round}%"), format!("{}%", 50 - round));
        let started = [("v1", &one), ("v2", &two)]
            .map(|(version, share)| start(&proxy, "s0", &format!("{version}={share}")));
        for child in started {
            let said = end(child);
            assert_eq!(said.code, 0, "round {round}: {said:?}");
        }
        // No waiting: both said that theirs is live.
        assert_eq!(desired(&proxy, "s0", "v1"), one, "round {round}");
        assert_eq!(desired(&proxy, "s0", "v2"), two, "round {round}");
    }
}

#[test]
fn two_shifts_of_one_version_take_effect_one_after_the_other() {
    let proxy = serve(&services(1, 1));
    for round in 1..=10 {
        let shares = [format!("{round}%"), format!("{}%", 50 - round)];
        let started = shares
            .each_ref()
            .map(|share| start(&proxy, "s0", &format!("v1={share}")));
        for child in started {
            let said = end(child);
            assert_eq!(said.code, 0, "round {round}: {said:?}");
        }
        let now = desired(&proxy, "s0", "v1");
        assert!(shares.contains(&now), "round {round}: {now}");
    }
}

#[test]
fn a_shift_does_not_wait_for_a_text_that_another_writer_has_changed_since() {
    let proxy = serve(&services(1, 1));
    let shift = start(&proxy, "s0", "v1=7%");
    // An editor that knows nothing of the lock saves right after the edit, before the proxy has read it.
    let with_edit = until("the edit is in the file", || {
        Some(proxy.text()).filter(|text| text.contains("\"7%\""))
    });
    std::fs::write(proxy.file(), with_edit + "\n# seen\n").expect("write the configuration");
    let said = end(shift);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(desired(&proxy, "s0", "v1"), "7%");
    until("the file as it is now runs", || {
        proxy.status()["config"]["ok"].as_bool().filter(|ok| *ok)
    });
}

#[test]
fn a_shift_that_the_proxy_refuses_says_why() {
    let proxy = serve(&services(1, 1));
    let holder = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, proxy.port2));
    let _holder = holder.expect("the port of the second listener");
    let head = proxy.text().replace(
        &format!("listen = \"127.0.0.1:{}\"\n", proxy.port),
        &format!(
            "listen.a.bind = \"127.0.0.1:{}\"\nlisten.b.bind = \"127.0.0.1:{}\"\n",
            proxy.port, proxy.port2
        ),
    );
    std::fs::write(proxy.file(), head).expect("write the configuration");
    let said = end(start(&proxy, "s0", "v1=7%"));
    assert_eq!(said.code, 1, "{said:?}");
    for part in [
        "refuses",
        "cutover.toml",
        &proxy.port2.to_string(),
        "in use",
    ] {
        assert!(said.stderr.contains(part), "no {part:?} in {said:?}");
    }
}

#[test]
fn status_says_which_texts_were_adopted_last() {
    let proxy = serve(&services(1, 1));
    let before = proxy.status();
    let first = before["config"]["hash"].clone();
    for share in ["1%", "2%"] {
        let said = end(start(&proxy, "s0", &format!("v1={share}")));
        assert_eq!(said.code, 0, "{said:?}");
    }
    let status = proxy.status();
    let recent = status["config"]["recent"].as_array().expect("a list");
    assert_eq!(recent.len(), 3, "{status:#}");
    assert_eq!(recent[0]["hash"], first);
    assert_eq!(recent[0]["generation"], before["generation"]);
    assert_eq!(recent[2]["hash"], status["config"]["hash"]);
    assert_eq!(recent[2]["generation"], status["generation"]);
}
