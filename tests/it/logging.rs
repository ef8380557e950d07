//! The log: a reader that stalls stops nobody, remote peers can't fill it, fields are fields.

use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::io::ioctl_fionbio;
use rustix::process::Signal;

use crate::support::client::Client;
use crate::support::frames::{self, frame, get_fields, kind};
use crate::support::h2_origin::H2Origin;
use crate::support::origin::Origin;
use crate::support::proxy::{BINARY, Builder, Proxy, single};
use crate::support::tls::Authority;
use crate::support::{until, until_within};

/// Nothing that ends or answers promptly takes longer, on a busy machine.
const PROMPT: Duration = Duration::from_secs(5);

/// A pipe that holds as much as it can.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    ioctl_fionbio(writer.as_fd(), true).unwrap();
    // Whole pages, then bytes: a pipe counts both.
    for piece in [&[b'.'; 4096][..], b"."] {
        loop {
            match writer.write(piece) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("{e}"),
            }
        }
    }
    ioctl_fionbio(writer.as_fd(), false).unwrap();
    (reader, writer)
}

/// What is read from the pipe from now on.
fn read(mut reader: PipeReader) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let into = text.clone();
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = reader.read(&mut piece) {
            let more = String::from_utf8_lossy(&piece[..n]);
            into.lock().unwrap().push_str(&more);
        }
    });
    text
}

const TLS: &str = "admin = \"127.0.0.1:$ADMIN\"\nworkers = 2\nstate_dir = \"$DIR/state\"\n\
    [listen.plain]\nbind = \"127.0.0.1:$PORT\"\n\
    [listen.tls]\nbind = \"127.0.0.1:$PORT2\"\n\
    [[listen.tls.cert]]\ncert = \"$DIR/shop.pem\"\nkey = \"$DIR/shop.key\"\n";

/// A plain and a TLS listener, logging at debug.
fn at_debug(origin: &Origin) -> Builder {
    let builder = Builder::new(&format!("{TLS}{}", single(&origin.at(), "")));
    Authority::new()
        .issue(&["test"])
        .save(builder.dir(), "shop");
    builder.env("CUTOVER_LOG", "debug")
}

/// A failed TLS handshake: one line at debug.
fn fail_handshake(proxy: &Proxy) {
    let mut client = Client::new(proxy.port2);
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    client.rest();
}

fn dropped(proxy: &Proxy) -> f64 {
    let metrics = proxy.metrics();
    metrics.sum("cutover_log_dropped_total", &[("log", "log")])
}

#[test]
fn a_log_that_nobody_reads_costs_lines_and_nothing_else() {
    let origin = Origin::named("blue");
    let (reader, writer) = full_pipe();
    let mut proxy = at_debug(&origin).log_to(writer).start();
    assert_eq!(dropped(&proxy), 0.0, "the queue has room for its start");
    until("lines are dropped", || {
        (0..200).for_each(|_| fail_handshake(&proxy));
        (dropped(&proxy) > 0.0).then_some(())
    });
    let start = Instant::now();
    assert_eq!(proxy.ask_admin("/readyz").status(), 200);
    assert_eq!(proxy.get("/").text(), "blue");
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());

    // The reader comes back: what was queued is there, and then how much was not.
    let text = read(reader);
    let report = until("the drops are reported", || {
        // Found without a look at each line: meanwhile the reader waits for the lock, and it may have no turn between two of these.
        let text = text.lock().unwrap();
        let at = text.find(" log lines dropped")?;
        let end = at + text[at..].find('\n')?;
        let start = text[..at].rfind('\n').map_or(0, |before| before + 1);
        Some(text[start..end].to_owned())
    });
    let dropped = dropped(&proxy);
    assert!(
        report.contains(&format!(" WARN {dropped} log lines dropped"))
            && report.ends_with(&format!(" dropped={dropped}")),
        "{dropped}: {report}"
    );
    // The queue ends at 4,096 lines or a mebibyte, whichever comes first. The report stands between its lines: the rest has to be read.
    until("what was queued", || {
        let queued = text.lock().unwrap().matches("TLS handshake failed").count();
        (queued > 2_000).then_some(())
    });
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.ended().code(), Some(0));
    until("the last line", || {
        let text = text.lock().unwrap();
        text.contains("everything in flight was finished")
            .then_some(())
    });
}

#[test]
fn a_log_that_nobody_reads_does_not_keep_the_process_from_ending() {
    let origin = Origin::named("blue");
    let (reader, writer) = full_pipe();
    let mut proxy = Builder::rest(&single(&origin.at(), ""))
        .log_to(writer)
        .start();
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "blue");
    proxy.signal(Signal::TERM);
    let status = until_within(PROMPT, "SIGTERM is obeyed", || {
        (!proxy.runs()).then(|| proxy.ended())
    });
    assert_eq!(status.code(), Some(0));
    drop(reader);
}

#[test]
fn a_start_that_fails_ends_though_nobody_reads_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cutover.toml");
    std::fs::write(&file, "nonsense = 1\n").unwrap();
    let (reader, writer) = full_pipe();
    let mut child = Command::new(BINARY)
        .args(["run", "-c"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer)
        .spawn()
        .unwrap();
    let start = Instant::now();
    let status = until("it ends", || {
        let ended = child.try_wait().unwrap();
        if ended.is_none() && start.elapsed() > PROMPT {
            child.kill().unwrap();
        }
        ended
    });
    assert_eq!(status.code(), Some(1));
    drop(reader);
}

#[test]
fn a_peer_that_floods_a_connection_does_not_fill_the_log() {
    let origin = Origin::named("blue");
    let proxy = at_debug(&origin).start();
    let before = proxy.log().lines().count();
    let mut client = proxy.client();
    client.send(frames::preface());
    client.send(frames::request(1, &get_fields("/")));
    assert_eq!(
        frames::outcome(&mut client, 1),
        frames::Outcome::Status(200)
    );
    let acks = frame(kind::PING, 1, 0, &[7; 8]).repeat(1_000);
    // The connection may be ended for it.
    let _ = client.try_send(acks);
    let _ = client.try_send(frames::request(3, &get_fields("/")));
    frames::outcome(&mut client, 3);
    drop(client);
    assert_eq!(proxy.get("/").text(), "blue");
    // What is logged after the flood is behind it in the log.
    fail_handshake(&proxy);
    let log = until("a later line", || {
        let log = proxy.log();
        log.contains("TLS handshake failed").then_some(log)
    });
    let lines: Vec<&str> = log.lines().skip(before).collect();
    assert!(lines.len() < 10, "{} lines: {lines:#?}", lines.len());
}

#[test]
fn a_library_logs_when_it_is_asked_by_name() {
    let origin = H2Origin::named("blue");
    // The h2 crate speaks to endpoints that are checked.
    let proxy = Builder::rest(&single(&origin.h2c(), "check = \"/\""))
        .env("CUTOVER_LOG", "warn,h2=debug")
        .start();
    until("a line of h2", || {
        proxy.log().contains("target=h2::").then_some(())
    });
    assert!(!proxy.log().contains(" INFO "), "{}", proxy.log());
}

#[test]
fn json_lines_are_objects_with_flat_keys() {
    let origin = Origin::named("blue");
    let mut proxy = at_debug(&origin).env("CUTOVER_LOG_FORMAT", "json").start();
    fail_handshake(&proxy);
    let file = std::fs::read_to_string(proxy.file()).unwrap();
    std::fs::write(proxy.file(), format!("{file}\nnonsense = 1\n")).unwrap();
    until("the edit is refused", || {
        (proxy.status()["config"]["ok"] == false).then_some(())
    });
    proxy.signal(Signal::TERM);
    proxy.ended();
    let log = until("the last line", || {
        let log = proxy.log();
        log.contains("everything in flight was finished")
            .then_some(log)
    });
    let events: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    for event in &events {
        for key in ["timestamp", "level", "message"] {
            assert!(event[key].is_string(), "{key} in {event}");
        }
        let fields = event.as_object().unwrap();
        assert!(
            fields.values().all(|v| !v.is_object() && !v.is_array()),
            "{event}"
        );
    }
    let with = |message: &str| {
        let found = events
            .iter()
            .find(|e| e["message"].as_str().unwrap().contains(message));
        found.unwrap_or_else(|| panic!("no {message:?} in {log}"))
    };
    let failed = with("TLS handshake failed");
    assert_eq!(
        (&failed["level"], &failed["listener"]),
        (&"DEBUG".into(), &"tls".into())
    );
    assert!(failed["error"].is_string(), "{failed}");
    let refused = with("configuration refused");
    assert_eq!(refused["generation"], 1);
    let detail = refused["detail"].as_str().unwrap();
    assert!(
        detail.contains("nonsense") && detail.contains('\n'),
        "{refused}"
    );
}

#[test]
fn hostile_requests_leave_whole_lines_without_control_bytes() {
    let origin = Origin::named("blue");
    let proxy = at_debug(&origin).start();
    let odd = "a\x1b[31m\x07\u{9b}2J\u{202e}";
    for request in [
        format!("GET /{odd} HTTP/1.1\r\nhost: test\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {odd}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: test\r\nx-request-id: {odd}\r\nx\nFORGED: {odd}\r\n\r\n"),
        format!("{odd}\nFORGED / HTTP/1.1\r\nhost: test\r\n\r\n"),
        "GET /%0aFORGED%1b[31m HTTP/1.1\r\nhost: test\r\n\r\n".to_owned(),
    ] {
        let mut client = proxy.client();
        client.send(&request);
        client.finish();
        client.rest();
        let mut client = proxy.client();
        client.send(frames::preface());
        let path = request.split(' ').nth(1).unwrap();
        client.send(frames::request(1, &get_fields(path)));
        frames::outcome(&mut client, 1);
    }
    fail_handshake(&proxy);
    let log = until("a later line", || {
        let log = proxy.log();
        (log.contains("TLS handshake failed") && log.ends_with('\n')).then_some(log)
    });
    for line in log.lines() {
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(!line.contains('\u{202e}'), "{line:?}");
        let (at, rest) = line.split_once(' ').unwrap();
        assert!(at.starts_with("20") && at.ends_with('Z'), "{line:?}");
        let level = rest.trim_start().split(' ').next().unwrap();
        assert!(
            ["ERROR", "WARN", "INFO", "DEBUG"].contains(&level),
            "{line:?}"
        );
    }
}

#[test]
fn a_filter_that_is_none_is_explained() {
    let origin = Origin::named("blue");
    let proxy = Builder::rest(&single(&origin.at(), ""))
        .env("CUTOVER_LOG", "bogus")
        .start();
    let log = until("the line", || {
        let log = proxy.log();
        log.contains("CUTOVER_LOG").then_some(log)
    });
    for part in [
        "`bogus` is not a level",
        "error, warn, info, debug",
        "`bogus=debug`",
    ] {
        assert!(log.contains(part), "{part} in {log}");
    }
    until("info is used", || {
        proxy.log().contains(" INFO ").then_some(())
    });
}
