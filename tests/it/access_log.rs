//! The access log: a line for every request, whatever happens to the file, the disk or the reader.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::client::Client;
use crate::support::h2_client::H2;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, can_mount, command, serve, single};
use crate::support::tls::Authority;
use crate::support::{block_on, free_port, pause, until};

/// An access log in the directory of the proxy, with more keys.
fn logged(more: &str) -> String {
    format!("[access_log]\nto = \"$DIR/access.log\"\n{more}\n")
}

fn before(origin: &Origin, more: &str) -> Proxy {
    serve(&format!("{}{}", logged(more), single(&origin.at(), "")))
}

fn path(proxy: &Proxy) -> PathBuf {
    proxy.dir().join("access.log")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The lines of a file, once there are so many.
#[track_caller]
fn lines(path: &Path, count: usize) -> Vec<String> {
    let text = until(&format!("{count} lines"), || {
        let text = read(path);
        (text.lines().count() >= count && text.ends_with('\n')).then_some(text)
    });
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), count, "{text}");
    lines
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// Requests that the proxy has counted.
fn counted(proxy: &Proxy) -> usize {
    let metrics = proxy.metrics();
    metrics.sum("cutover_downstream_requests_total", &[]) as usize
}

/// A request is counted, and logged, just after its client has got the response.
#[track_caller]
fn until_counted(proxy: &Proxy, requests: usize) {
    until("all requests are counted", || {
        (counted(proxy) >= requests).then_some(())
    });
    assert_eq!(counted(proxy), requests);
}

fn dropped(proxy: &Proxy) -> f64 {
    let metrics = proxy.metrics();
    metrics.sum("cutover_log_dropped_total", &[("log", "access")])
}

#[test]
fn a_request_is_logged_with_what_the_record_knows() {
    let origin = Origin::named("blue");
    let proxy = before(
        &origin,
        "fields = [\"header:User-Agent\", \"cookie:uid\", \"query\", \"query:b\"]",
    );
    let mut client = proxy.client();
    let request = "POST /a/../cart?a=1&b=%20 HTTP/1.1\r\nhost: Test:80\r\nuser-agent: u\"a\r\ncookie: x=1; uid=7\r\n\
                   x-request-id: 12345\r\ncontent-length: 3\r\n\r\nabc";
    assert_eq!(client.ask(request).text(), "blue");
    let mut line = json(&lines(&path(&proxy), 1)[0]);
    let time = line["time"].as_str().unwrap().to_owned();
    let at = humantime::parse_rfc3339(&time).unwrap();
    assert!(at.elapsed().unwrap() < Duration::from_secs(60), "{time}");
    let object = line.as_object_mut().unwrap();
    object.remove("time");
    // There only if it takes a microsecond.
    object.remove("queued_ms");
    for key in ["total_ms", "first_byte_ms", "connect_ms"] {
        let millis = object.remove(key).unwrap().as_f64().unwrap();
        assert!((0.0..15_000.0).contains(&millis), "{key} {millis}");
    }
    let expected = serde_json::json!({
        "id": "12345", "listener": "default", "client": "127.0.0.1", "protocol": "HTTP/1.1", "method": "POST",
        "host": "test", "path": "/cart", "status": 200, "service": "app", "version": "v1",
        "endpoint": origin.at(), "chosen": "split", "bytes_received": 3, "bytes_sent": 4,
        "header:user-agent": "u\"a", "cookie:uid": "7", "query": "a=1&b=%20", "query:b": "%20",
    });
    assert_eq!(line, expected);
}

/// Everything that can become of a request, in one proxy: as many lines as the proxy has counted requests.
#[test]
fn every_request_has_a_line() {
    let origin = Origin::named("blue");
    let rest = format!(
        "workers = 2\nadmin = \"127.0.0.1:$ADMIN\"\nstate_dir = \"$DIR/state\"\n{}sample = \"100%\"\n\
         [limits]\nbody_bytes = \"1KiB\"\nheader_timeout = \"200ms\"\n\
         [listen.plain]\nbind = \"127.0.0.1:$PORT\"\n\
         [listen.tls]\nbind = \"127.0.0.1:$PORT2\"\n[[listen.tls.cert]]\ncert = \"$DIR/shop.pem\"\nkey = \"$DIR/shop.key\"\n\
         [service.app]\nhosts = [\"test\", \"other\"]\nversions = {{ v1 = [\"{}\"] }}\n\
         [service.down]\nhosts = [\"down\"]\nversions = {{ v1 = [\"127.0.0.1:{}\"] }}\n",
        logged(""),
        origin.at(),
        free_port(),
    );
    let builder = Builder::new(&rest);
    let authority = Authority::new();
    authority.issue(&["test"]).save(builder.dir(), "shop");
    let proxy = builder.start();
    let ask = |request: &str| {
        let mut client = proxy.client();
        client.send(request);
        client.rest();
    };
    let get = |host: &str, path: &str| {
        ask(&format!(
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        ));
    };
    get("test", "/ok");
    get("nowhere", "/no-route");
    get("down", "/refused");
    get("test", "/a/%2e%2e%2fhidden");
    get("test", "/nul%00");
    ask("NONSENSE\r\n\r\n");
    ask("GET /half HTTP/1.1\r\nhost: te");
    ask("POST /large HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 5000\r\n\r\n");
    ask("GET / HTTP/1.0\r\nhost: test\r\n\r\n");
    block_on(async {
        let client = H2::connect(proxy.port).await;
        client.get("http://test/h2").await.unwrap();
        client.get("http://nowhere/h2").await.unwrap();
    });
    let tls = authority.connect(proxy.port2, "test", &[]).unwrap();
    let mut client = Client::over(tls);
    client.send("GET /misdirected HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n");
    client.rest();

    until_counted(&proxy, 12);
    let lines: Vec<Value> = lines(&path(&proxy), 12).iter().map(|l| json(l)).collect();
    let by_path = |path: &str| lines.iter().find(|l| l["path"] == path).unwrap();
    for (path, status, reason) in [
        ("/no-route", 404, "no-route"),
        ("/refused", 502, "connect-refused"),
        ("/a/%2e%2e%2fhidden", 400, "hidden-dot-segment"),
        ("/nul%00", 400, "nul-in-path"),
        ("/large", 413, "body-too-large"),
        ("/misdirected", 421, "misdirected"),
    ] {
        let line = by_path(path);
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["reason"], reason, "{line}");
        assert_eq!(line["local"], true, "{line}");
    }
    let refused = by_path("/refused");
    assert_eq!(refused["origin"], "upstream");
    assert!(
        refused["cause"].as_str().unwrap().contains("refused"),
        "{refused}"
    );
    assert_eq!(refused["tries"][0]["reason"], "connect-refused");
    assert_eq!(by_path("/h2")["protocol"], "HTTP/2.0");
    let statuses = |status: u64| lines.iter().filter(|l| l["status"] == status).count();
    assert_eq!(statuses(200), 3);
    assert_eq!(statuses(408), 1, "half a head");
}

/// Bytes that break a log which copies them, as often as it takes to be sure.
fn hostile(number: usize) -> String {
    let nasty = [
        "\"",
        "\\",
        "\u{85}é",
        "\t",
        "'",
        "%0a%0d",
        "\\\"",
        "{}",
        "=\" x=\"y",
    ];
    let piece = nasty[number % nasty.len()];
    let path: String = piece.chars().filter(|c| c.is_ascii_graphic()).collect();
    let path = path.replace(['"', '\\', '\'', '{', '}'], "%22");
    format!(
        "GET /{number}/{path} HTTP/1.1\r\nhost: test\r\nuser-agent: {piece}\r\nreferer: x{piece}\" \"\r\n\
         x-request-id: {number}\r\ncookie: uid={piece}\r\n\r\n"
    )
}

/// Heads that are refused, each on a connection of its own.
const MALFORMED: [&[u8]; 5] = [
    b"GET /\x01 HTTP/1.1\r\nhost: test\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: te\"st\r\n\r\n",
    b"\xff\xfe{\"status\":200}\n\n",
    b"GET / HTTP/1.1\r\nhost: test\r\nx: \x00\r\n\r\n",
    b"GET /%00\"\n{} HTTP/1.1\r\nhost: test\r\n\r\n",
];

/// Sends `count` hostile requests; returns how many of them have been answered.
fn attack(proxy: &Proxy, count: usize) {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                let mut client = proxy.client();
                for number in (thread..count).step_by(4) {
                    if number % 10 == 9 {
                        let mut broken = proxy.client();
                        broken.send(MALFORMED[number / 10 % MALFORMED.len()]);
                        broken.rest();
                        continue;
                    }
                    client.send(hostile(number));
                    client.answer("GET");
                }
            });
        }
    });
}

#[test]
fn ten_thousand_hostile_requests_leave_ten_thousand_well_formed_lines() {
    let origin = Origin::named("blue");
    let fields = "fields = [\"header:user-agent\", \"header:referer\", \"cookie:uid\", \"query\"]";
    let proxy = before(&origin, fields);
    attack(&proxy, 10_000);
    until_counted(&proxy, 10_000);
    let lines = lines(&path(&proxy), 10_000);
    assert!(lines.iter().all(|line| line.is_ascii()));
    let all: Vec<Value> = lines.iter().map(|line| json(line)).collect();
    assert_eq!(all.iter().filter(|l| l["status"] == 200).count(), 9_000);
    assert_eq!(all.iter().filter(|l| l["status"] == 400).count(), 1_000);
    let line = all.iter().find(|l| l["id"] == "2").unwrap();
    // Byte by byte: U+0085 and é are two bytes each in UTF-8.
    assert_eq!(line["cookie:uid"], "\u{c2}\u{85}\u{c3}\u{a9}");
}

#[test]
fn the_other_formats_keep_hostile_bytes_in_their_place() {
    let origin = Origin::named("blue");
    let quoted = r#""(?:[^"\\]|\\["\\]|\\x[0-9a-f]{2})*""#;
    let pair = format!(r#"[a-z_:-]+=(?:{quoted}|[^ "=\\]+)"#);
    for (format, pattern) in [
        ("logfmt", format!("^{pair}(?: {pair})*$")),
        (
            "combined",
            format!(
                r"^127\.0\.0\.1 - - \[[^\]]+\] {quoted} \d{{3}} \d+ {quoted} {quoted} {quoted}$"
            ),
        ),
    ] {
        let fields = "fields = [\"header:user-agent\", \"header:referer\", \"cookie:uid\"]";
        let proxy = before(&origin, &format!("format = \"{format}\"\n{fields}"));
        attack(&proxy, 2_000);
        let well_formed = regex::Regex::new(&pattern).unwrap();
        for line in lines(&path(&proxy), 2_000) {
            assert!(well_formed.is_match(&line), "{format}: {line}");
            assert!(line.is_ascii());
        }
    }
}

#[test]
fn ordinary_requests_are_sampled_and_all_others_logged() {
    let blue = Origin::named("blue");
    let green = Origin::each(|request, conn| {
        let status = if request.target() == "/bad" { 500 } else { 200 };
        conn.reply(status, "green")
    });
    let slow = "slow = \"200ms\"\nsample = \"0%\"";
    let proxy = serve(&format!(
        "{}[service.app]\nstable = \"blue\"\n[service.app.versions]\nblue = [\"{}\"]\ngreen = [\"{}\"]\n\
         [[service.app.match]]\nwhen = {{ path = [\"/canary\", \"/bad\"] }}\nto = \"green\"\n",
        logged(slow),
        blue.at(),
        green.at()
    ));
    let mut client = proxy.client();
    for _ in 0..50 {
        assert_eq!(client.get("/").text(), "blue");
    }
    client.get("/canary");
    client.get("/bad");
    let mut broken = proxy.client();
    broken.send("GET / HTTP/9\r\n\r\n");
    broken.rest();
    let lines: Vec<Value> = lines(&path(&proxy), 3).iter().map(|l| json(l)).collect();
    let statuses: Vec<_> = lines
        .iter()
        .map(|l| l["status"].as_u64().unwrap())
        .collect();
    let mut sorted = statuses.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [200, 400, 500]);
    assert!(lines.iter().filter(|l| l["canary"] == true).count() == 2);
}

#[test]
fn a_slow_request_is_always_logged() {
    let origin = Origin::each(|request, conn| {
        if request.target() == "/slow" {
            conn.wait(Duration::from_millis(60))?;
        }
        conn.reply(200, "blue")
    });
    let proxy = before(&origin, "sample = \"0%\"\nslow = \"50ms\"");
    let mut client = proxy.client();
    client.get("/slow");
    let line = json(&lines(&path(&proxy), 1)[0]);
    assert_eq!(line["path"], "/slow");
    assert!(line["total_ms"].as_f64().unwrap() >= 50.0);
}

/// Requests on two connections until `stop`; how many.
fn load(proxy: &Proxy, stop: &AtomicBool) -> usize {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = proxy.client();
                    let mut done = 0;
                    while !stop.load(Ordering::Relaxed) {
                        assert_eq!(client.get("/").status(), 200);
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    })
}

/// Ends a load when it is dropped, also if the test fails.
struct StopLoad<'a>(&'a AtomicBool);

impl Drop for StopLoad<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `change` under load; the number of requests that were served.
fn under_load(proxy: &Proxy, change: impl FnOnce()) -> usize {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| load(proxy, &stop));
        let ends = StopLoad(&stop);
        change();
        drop(ends);
        load.join().unwrap()
    })
}

#[test]
fn a_change_of_path_and_format_loses_no_line() {
    let origin = Origin::named("blue");
    let proxy = before(&origin, "");
    let next = proxy.dir().join("next.log");
    let served = under_load(&proxy, || {
        lines_exist(&path(&proxy));
        proxy.edit(&format!(
            "[access_log]\nto = \"$DIR/next.log\"\nformat = \"logfmt\"\n{}",
            single(&origin.at(), "")
        ));
        lines_exist(&next);
    });
    let both = until("all lines", || {
        let both = [&path(&proxy), &next].map(|p| read(p));
        let count: usize = both.iter().map(|text| text.lines().count()).sum();
        (count >= served).then_some(both)
    });
    let [former, latter] = both;
    assert_eq!(former.lines().count() + latter.lines().count(), served);
    former.lines().for_each(|line| drop(json(line)));
    assert!(latter.lines().all(|line| line.starts_with("time=")));
    // Turned off, the file is closed and left alone.
    proxy.edit(&single(&origin.at(), ""));
    assert_eq!(proxy.get("/").text(), "blue");
    let open = || {
        let fds = fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap();
        let links = fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        links
            .filter(|link| link.extension().is_some_and(|e| e == "log"))
            .count()
    };
    until("the file is closed", || (open() == 0).then_some(()));
    assert_eq!(read(&next), latter);
}

#[track_caller]
fn lines_exist(path: &Path) {
    until("lines are written", || {
        (!read(path).is_empty()).then_some(())
    });
}

#[test]
fn a_log_that_cant_be_opened_is_refused_and_traffic_goes_on() {
    let origin = Origin::named("blue");
    let proxy = before(&origin, "");
    let rest = format!(
        "[access_log]\nto = \"$DIR/missing/access.log\"\n{}",
        single(&origin.at(), "")
    );
    fs::write(proxy.file(), proxy.whole(&rest)).unwrap();
    let file = proxy.file();
    let file = file.to_str().unwrap();
    let reload = command(&["reload", "-c", file], proxy.dir());
    assert_eq!(reload.code, 1, "{}", reload.stderr);
    for part in ["can't be opened", "missing", "create the directory"] {
        assert!(reload.stderr.contains(part), "{part}: {}", reload.stderr);
    }
    assert_eq!(proxy.get("/").text(), "blue");
    lines(&path(&proxy), 1);
    for arguments in [["check", file].as_slice(), &["run", "-c", file]] {
        let refused = command(arguments, proxy.dir());
        assert_eq!(refused.code, 1);
        assert!(
            refused.stderr.contains("can't be opened"),
            "{}",
            refused.stderr
        );
    }
    let directory = format!(
        "[access_log]\nto = \"$DIR/state\"\n{}",
        single(&origin.at(), "")
    );
    fs::write(proxy.file(), proxy.whole(&directory)).unwrap();
    let refused = command(&["check", file], proxy.dir());
    assert!(
        refused.stderr.contains("name a file in it"),
        "{}",
        refused.stderr
    );
}

#[test]
fn rotation_loses_no_line() {
    let origin = Origin::named("blue");
    let proxy = before(&origin, "");
    let [first, second] = ["access.log.1", "access.log.2"].map(|n| proxy.dir().join(n));
    let served = under_load(&proxy, || {
        lines_exist(&path(&proxy));
        // Asked by a signal, as logrotate does.
        fs::rename(path(&proxy), &first).unwrap();
        proxy.signal(Signal::USR1);
        lines_exist(&path(&proxy));
        // By itself.
        fs::rename(path(&proxy), &second).unwrap();
        lines_exist(&path(&proxy));
    });
    let files = [first, second, path(&proxy)];
    let count = || files.iter().map(|f| read(f).lines().count()).sum::<usize>();
    until("all lines", || (count() >= served).then_some(()));
    assert_eq!(count(), served);
    for file in &files {
        read(file).lines().for_each(|line| drop(json(line)));
    }
}

#[test]
fn the_last_lines_are_written_before_the_process_ends() {
    const LAST: usize = 8;
    let stopped = Arc::new(AtomicBool::new(false));
    let seen = stopped.clone();
    let origin = Origin::each(move |request, conn| {
        while request.target() == "/last" && !seen.load(Ordering::Relaxed) {
            pause(Duration::from_millis(1));
        }
        conn.reply(200, "blue")
    });
    let mut proxy = before(&origin, "");
    let mut client = proxy.client();
    for _ in 0..100 {
        assert_eq!(client.get("/").text(), "blue");
    }
    // These end after the listeners have closed, and their workers with them.
    let mut last: Vec<_> = (0..LAST).map(|_| proxy.client()).collect();
    for client in &mut last {
        client.send("GET /last HTTP/1.1\r\nhost: test\r\n\r\n");
    }
    until("they are in flight", || {
        (origin.hits() == 100 + LAST).then_some(())
    });
    proxy.signal(Signal::TERM);
    until("it stops", || {
        proxy.log().contains("stopping").then_some(())
    });
    stopped.store(true, Ordering::Relaxed);
    for mut client in last {
        assert_eq!(client.answer("GET").text(), "blue");
    }
    assert_eq!(proxy.ended().code(), Some(0));
    assert_eq!(read(&path(&proxy)).lines().count(), 100 + LAST);
}

#[test]
fn a_takeover_loses_no_line() {
    let origin = Origin::named("blue");
    let mut proxy = before(&origin, "");
    let mut successor = None;
    let stop = AtomicBool::new(false);
    let served: usize = std::thread::scope(|scope| {
        let fresh = |_| {
            let (port, stop) = (proxy.port, &stop);
            scope.spawn(move || {
                let mut done = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut client = Client::new(port);
                    client.send("GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
                    assert_eq!(client.answer("GET").status(), 200);
                    done += 1;
                }
                done
            })
        };
        let threads: Vec<_> = (0..2).map(fresh).collect();
        let ends = StopLoad(&stop);
        lines_exist(&path(&proxy));
        successor = Some(proxy.successor().expect("it takes over"));
        let before = read(&path(&proxy)).len();
        until("the successor logs", || {
            (read(&path(&proxy)).len() > before + 2000).then_some(())
        });
        drop(ends);
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(proxy.ended().code(), Some(0));
    for line in lines(&path(&proxy), served) {
        assert_eq!(json(&line)["status"], 200);
    }
    drop(successor);
}

#[test]
fn a_stalled_reader_of_stdout_stalls_nothing_else() {
    let origin = Origin::named("blue");
    let (reader, mut writer) = std::io::pipe().unwrap();
    // A line takes about 300 bytes; the pipe has room for 64 KiB.
    writer.write_all(&[b'.'; 1000]).unwrap();
    let rest = format!(
        "[access_log]\nto = \"stdout\"\n{}",
        single(&origin.at(), "")
    );
    let mut proxy = Builder::rest(&rest).log_to(writer).start();
    let mut client = proxy.client();
    for _ in 0..2000 {
        assert_eq!(client.get("/").text(), "blue");
    }
    // A file takes over from the pipe that nobody reads.
    proxy.edit(&format!("{}{}", logged(""), single(&origin.at(), "")));
    assert_eq!(client.get("/").text(), "blue");
    lines(&path(&proxy), 1);
    assert!(dropped(&proxy) > 1000.0);
    proxy.edit(&rest);
    client.get("/");
    let start = Instant::now();
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.ended().code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    drop(reader);
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    if !can_mount() {
        eprintln!("skipped: this machine mounts nothing for a test");
        return;
    }
    let origin = Origin::named("blue");
    let rest = format!(
        "[access_log]\nto = \"$DIR/disk/access.log\"\n{}",
        single(&origin.at(), "")
    );
    let builder = Builder::rest(&rest).small_disk("disk");
    let proxy = builder.start();
    // The file system is visible to the proxy's process only.
    let inside = format!(
        "/proc/{}/root{}",
        proxy.pid(),
        proxy.dir().join("disk").display()
    );
    let log = Path::new(&inside).join("access.log");
    let mut client = proxy.client();
    until("the disk is full", || {
        for _ in 0..200 {
            assert_eq!(client.get("/full").text(), "blue");
        }
        (dropped(&proxy) > 100.0).then_some(())
    });
    fs::remove_file(Path::new(&inside).join("filler")).unwrap();
    until("lines are written again", || {
        assert_eq!(client.get("/again").text(), "blue");
        read(&log).contains("/again").then_some(())
    });
    until("every line is written or counted", || {
        let text = read(&log);
        assert!(
            text.lines()
                .rev()
                .skip(1)
                .all(|line| json(line)["status"] == 200)
        );
        (text.lines().count() + dropped(&proxy) as usize == counted(&proxy)).then_some(())
    });
    assert!(
        proxy.log().contains("access log can't be written"),
        "{}",
        proxy.log()
    );
}
