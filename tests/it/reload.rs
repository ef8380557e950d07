//! The file is the desired state: every way to save it, every way to spoil it, under load.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::client::{Client, End};
use crate::support::frames::{self, Outcome};
use crate::support::h2_client::H2;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, serve, single};
use crate::support::{pause, until};

fn file(stable: &str, blue: &Origin, green: &Origin) -> String {
    format!(
        "[service.app]\nstable = \"{stable}\"\n[service.app.versions]\nblue = [\"{}\"]\ngreen = [\"{}\"]\n",
        blue.at(),
        green.at()
    )
}

#[track_caller]
fn until_body(proxy: &Proxy, body: &str) {
    until(body, || (proxy.get("/").text() == body).then_some(()));
}

#[test]
fn a_rename_over_the_file_is_taken_up() {
    let (blue, green) = (Origin::named("blue"), Origin::named("green"));
    let proxy = serve(&file("blue", &blue, &green));
    for stable in ["green", "blue", "green"] {
        let beside = proxy.dir().join("cutover.toml.tmp");
        std::fs::write(&beside, proxy.whole(&file(stable, &blue, &green))).unwrap();
        std::fs::rename(&beside, proxy.file()).unwrap();
        until_body(&proxy, stable);
    }
}

/// Points `..data` at a directory with this file, as the kubelet does it.
fn swap(dir: &Path, generation: &str, text: &str) {
    let data = dir.join(generation);
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("cutover.toml"), text).unwrap();
    std::os::unix::fs::symlink(generation, dir.join("..data_tmp")).unwrap();
    std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

#[test]
fn a_symlink_swap_is_taken_up() {
    let (blue, green) = (Origin::named("blue"), Origin::named("green"));
    let proxy = serve(&file("blue", &blue, &green));
    swap(
        proxy.dir(),
        "..1",
        &proxy.whole(&file("green", &blue, &green)),
    );
    let link = proxy.dir().join("link");
    std::os::unix::fs::symlink("..data/cutover.toml", &link).unwrap();
    std::fs::rename(&link, proxy.file()).unwrap();
    until_body(&proxy, "green");
    for (n, stable) in ["blue", "green", "blue"].into_iter().enumerate() {
        let text = proxy.whole(&file(stable, &blue, &green));
        swap(proxy.dir(), &format!("..{}", n + 2), &text);
        until_body(&proxy, stable);
    }
}

#[test]
fn a_hangup_reads_the_file_again_and_ends_nothing() {
    let (blue, green) = (Origin::named("blue"), Origin::named("green"));
    let mut proxy = serve(&file("blue", &blue, &green));
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "blue");
    proxy.signal(Signal::HUP);
    std::fs::write(proxy.file(), proxy.whole(&file("green", &blue, &green))).unwrap();
    proxy.signal(Signal::HUP);
    until("green", || {
        (client.get("/").text() == "green").then_some(())
    });
    assert!(proxy.runs());
}

#[test]
fn bad_files_change_nothing_and_are_loud_until_the_file_is_whole() {
    let (blue, green) = (Origin::named("blue"), Origin::named("green"));
    let proxy = serve(&file("blue", &blue, &green));
    let good = |stable: &str| proxy.whole(&file(stable, &blue, &green));
    let bad = |from: &str, to: &str| good("green").replace(from, to);
    let half = good("green");
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("syntax", bad("stable = \"green\"", "stable = = \"green\"").into(), ":7:"),
        ("unknown key", bad("stable =", "stabel =").into(), ":7:1"),
        ("undefined version", bad("stable = \"green\"", "stable = \"red\"").into(), ":7:10"),
        (
            "too much",
            bad("stable = \"green\"", "stable = \"green\"\nsplit = { blue = \"101%\" }").into(),
            ":8:",
        ),
        (
            "no unit",
            bad("stable = \"green\"", "stable = \"green\"\ntimeouts.connect = 3").into(),
            ":8:",
        ),
        ("half a file", half[..half.len() - 8].into(), ":10:"),
        ("empty", Vec::new(), "cutover.toml"),
        ("not text", b"listen = \"\xff\xfe\"\n".to_vec(), "cutover.toml"),
        (
            "a conflict",
            format!(
                "{}[service.more]\nstable = \"v\"\n[service.more.versions]\nv = [\"127.0.0.1:1\"]\n",
                good("green")
            )
            .into(),
            ":11:",
        ),
    ];
    let mut client = proxy.client();
    for (n, (what, text, place)) in cases.into_iter().enumerate() {
        std::fs::write(proxy.file(), text).unwrap();
        let refused = until(what, || {
            let config = proxy.status()["config"].clone();
            (config["ok"] == false).then_some(config)
        });
        let error = refused["error"].as_str().unwrap_or_default();
        assert!(
            error.contains("cutover.toml") && error.contains(place),
            "{what}: {error}"
        );
        let successful = proxy
            .metrics()
            .sum("cutover_config_last_reload_successful", &[]);
        assert_eq!(successful, 0.0, "{what}");
        let current = ["blue", "green"][n % 2];
        assert_eq!(client.get("/").text(), current, "{what}");
        let next = ["blue", "green"][(n + 1) % 2];
        std::fs::write(proxy.file(), good(next)).unwrap();
        until(next, || (client.get("/").text() == next).then_some(()));
        let ok = || (proxy.status()["config"]["ok"] == true).then_some(());
        until("the file is whole again", ok);
        assert_eq!(
            proxy
                .metrics()
                .sum("cutover_config_last_reload_successful", &[]),
            1.0
        );
    }
    let log = proxy.log();
    for place in ["cutover.toml:7:1", "cutover.toml:7:10", "stable"] {
        assert!(log.contains(place), "no {place} in the log");
    }
}

#[test]
fn a_file_that_vanishes_changes_nothing_until_it_is_back() {
    let (blue, green) = (Origin::named("blue"), Origin::named("green"));
    let proxy = serve(&file("blue", &blue, &green));
    std::fs::remove_file(proxy.file()).unwrap();
    until("vanished", || {
        (proxy.status()["config"]["ok"] == false).then_some(())
    });
    assert_eq!(proxy.get("/").text(), "blue");
    std::fs::write(proxy.file(), proxy.whole(&file("green", &blue, &green))).unwrap();
    until_body(&proxy, "green");
    assert_eq!(proxy.status()["config"]["ok"], true);
}

#[test]
fn a_request_in_flight_ends_where_it_began() {
    let slow = Origin::each(|_, conn| {
        conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsl")?;
        conn.wait(Duration::from_millis(400))?;
        conn.write(b"ow")
    });
    let fast = Origin::named("fast");
    let proxy = serve(&single(&slow.at(), ""));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    until("it is there", || (slow.hits() == 1).then_some(()));
    proxy.edit(&single(&fast.at(), ""));
    assert_eq!(proxy.get("/").text(), "fast");
    assert_eq!(client.answer("GET").text(), "slow");
    assert_eq!(client.get("/").text(), "fast");
    until("its connection is gone", || {
        (slow.open() == 0).then_some(())
    });
}

#[test]
fn listeners_come_and_go_without_a_restart() {
    let origin = Origin::named("blue");
    let listeners = |both: bool| {
        let second = "[listen.second]\nbind = \"127.0.0.1:$PORT2\"\n";
        format!(
            "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n[listen.first]\nbind = \"127.0.0.1:$PORT\"\n{}{}",
            if both { second } else { "" },
            single(&origin.at(), "")
        )
    };
    let proxy = Builder::new(&listeners(false)).start();
    let adopt = |both| {
        let before = proxy.generation();
        std::fs::write(proxy.file(), proxy.filled(&listeners(both))).unwrap();
        until("adopted", || (proxy.generation() > before).then_some(()));
    };
    let second = || std::net::TcpStream::connect(("127.0.0.1", proxy.port2));
    let mut kept = proxy.client();
    assert_eq!(kept.get("/").text(), "blue");
    assert!(second().is_err());
    adopt(true);
    until("it listens", || second().ok());
    assert_eq!(crate::support::client::get(proxy.port2, "/").text(), "blue");
    adopt(false);
    until("it is closed", || second().err());
    assert_eq!(kept.get("/").text(), "blue");
}

#[test]
fn what_did_not_change_is_not_touched() {
    let (origin, other) = (Origin::named("blue"), Origin::named("other"));
    let rest = |more: &str| {
        let (a, b) = (origin.at(), other.at());
        format!(
            "{}[service.two]\nhosts = [\"two.test\"]\nstable = \"a\"\n{more}\n[service.two.versions]\na = [\"{b}\"]\n",
            single(&a, "")
        )
    };
    let proxy = serve(&rest(""));
    let mut client = proxy.client();
    for n in 1..=10 {
        proxy.edit(&rest(&format!("timeouts.connect = \"{n}s\"")));
        assert_eq!(client.get("/").text(), "blue");
    }
    assert_eq!(origin.connections(), 1);
    assert_eq!(client.end_within(Duration::from_millis(50)), End::Open);
    let counted = proxy
        .metrics()
        .sum("http_requests_total", &[("service", "app")]);
    assert_eq!(counted, 10.0);
}

#[test]
fn a_save_without_a_change_makes_no_generation() {
    let origin = Origin::named("blue");
    let proxy = serve(&single(&origin.at(), ""));
    let before = proxy.generation();
    std::fs::write(proxy.file(), proxy.whole(&single(&origin.at(), ""))).unwrap();
    // The next save is adopted after the one before it was looked at.
    pause(Duration::from_millis(200));
    proxy.edit(&single(&origin.at(), "timeouts.connect = \"2s\""));
    assert_eq!(proxy.generation(), before + 1);
}

const ADMIN: &str = "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n";

#[track_caller]
fn save(proxy: &Proxy, text: &str) {
    let before = proxy.generation();
    std::fs::write(proxy.file(), proxy.filled(text)).unwrap();
    until("adopted", || (proxy.generation() > before).then_some(()));
}

#[test]
fn a_listener_whose_address_is_taken_is_refused_and_all_else_goes_on() {
    let (blue, green) = (Origin::named("blue"), Origin::named("green"));
    let (holder, taken) = crate::support::listen();
    let first = "[listen.first]\nbind = \"127.0.0.1:$PORT\"\n";
    let proxy = Builder::new(&format!("{ADMIN}{first}{}", single(&blue.at(), ""))).start();
    let next = format!(
        "{ADMIN}{first}[listen.second]\nbind = \"{taken}\"\n{}",
        single(&green.at(), "")
    );
    std::fs::write(proxy.file(), proxy.filled(&next)).unwrap();
    let error = until("refused", || {
        let config = proxy.status()["config"].clone();
        (config["ok"] == false).then(|| config["error"].to_string())
    });
    assert!(error.contains(&taken.to_string()), "{error}");
    assert_eq!(proxy.get("/").text(), "blue");
    drop(holder);
    proxy.signal(Signal::HUP);
    until_body(&proxy, "green");
    let second = crate::support::client::get(taken.port(), "/");
    assert_eq!(second.text(), "green");
}

#[test]
fn a_listener_may_turn_to_tls_and_back() {
    let origin = Origin::named("blue");
    let clear = format!(
        "{ADMIN}[listen.one]\nbind = \"127.0.0.1:$PORT\"\n{}",
        single(&origin.at(), "")
    );
    let secure = clear.replace(
        "[service.app]",
        "[[listen.one.cert]]\ncert = \"$DIR/shop.pem\"\nkey = \"$DIR/shop.key\"\n[service.app]",
    );
    let proxy = Builder::new(&clear).start();
    let authority = crate::support::tls::Authority::new();
    authority.issue(&["test"]).save(proxy.dir(), "shop");
    let mut kept = proxy.client();
    assert_eq!(kept.get("/").text(), "blue");
    save(&proxy, &secure);
    let stream = authority.connect(proxy.port, "test", &[]).unwrap();
    assert_eq!(Client::over(stream).get("/").text(), "blue");
    assert_eq!(kept.get("/").text(), "blue");
    save(&proxy, &clear);
    assert_eq!(proxy.get("/").text(), "blue");
}

#[test]
fn protocols_are_offered_as_they_are_configured() {
    let origin = Origin::named("blue");
    let with = |protocols: &str| {
        format!(
            "{ADMIN}[listen.one]\nbind = \"127.0.0.1:$PORT\"\nprotocols = [{protocols}]\n{}",
            single(&origin.at(), "")
        )
    };
    let proxy = Builder::new(&with("\"h1\"")).start();
    let over_h2 = || {
        let mut client = proxy.client();
        client.send(frames::preface());
        let _may_be_cut = client.try_send(frames::request(1, &frames::get_fields("/")));
        frames::outcome(&mut client, 1)
    };
    assert_eq!(proxy.get("/").text(), "blue");
    assert_ne!(over_h2(), Outcome::Status(200));
    save(&proxy, &with("\"h2\""));
    assert_eq!(over_h2(), Outcome::Status(200));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    assert!(!client.rest().starts_with(b"HTTP/1.1 200"));
    save(&proxy, &with("\"h1\", \"h2\""));
    assert_eq!(proxy.get("/").text(), "blue");
    assert_eq!(over_h2(), Outcome::Status(200));
}

#[test]
fn a_connection_of_http2_lives_through_reloads() {
    let (blue, green) = (Origin::named("blue"), Origin::named("green"));
    let proxy = serve(&file("blue", &blue, &green));
    crate::support::block_on(async {
        let client = H2::connect(proxy.port).await;
        for stable in ["green", "blue", "green"] {
            proxy.edit(&file(stable, &blue, &green));
            let answer = client.get("http://test/").await.unwrap();
            assert_eq!(answer.body, stable.as_bytes());
        }
    });
}
