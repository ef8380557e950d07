//! Drains by an operator: no new work, what is in flight is finished, and it is said when that is so.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::support::origin::Origin;
use crate::support::proxy::{BINARY, Builder, Output, Proxy, before, command, serve, single};
use crate::support::{PATIENCE, until};

fn slow(name: &'static str) -> Origin {
    Origin::script(move |conn| {
        while let Some(request) = conn.request()? {
            if request.target() == "/slow" {
                conn.wait(Duration::from_millis(800))?;
            }
            conn.reply(200, name)?;
        }
        Ok(())
    })
}

/// By the control socket, which needs no token.
fn drain(proxy: &Proxy, arguments: &[&str]) -> Output {
    let file = proxy.file();
    let file = file.to_str().expect("UTF-8");
    command(
        &[&["drain"], arguments, &["-c", file]].concat(),
        proxy.dir(),
    )
}

#[test]
fn a_drained_endpoint_gets_nothing_more_and_is_safe_to_stop_when_it_is_said() {
    let (a, b) = (slow("a"), slow("b"));
    let proxy = serve(&format!(
        "[service.app]\nstable = \"v1\"\n[service.app.versions]\nv1 = [\"{}\", \"{}\"]\n",
        a.at(),
        b.at()
    ));
    let mut waiting = proxy.client();
    waiting.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n");
    let on_a = until("it is somewhere", || {
        (a.hits() + b.hits() == 1).then(|| a.hits() == 1)
    });
    let (busy, name, other) = if on_a { (&a, "a", "b") } else { (&b, "b", "a") };
    let late = drain(
        &proxy,
        &["app", "v1", &busy.at(), "--wait", "--timeout", "1ms"],
    );
    assert_eq!(late.code, 1, "{late:?}");
    assert!(late.stderr.contains("still in flight: v1"), "{late:?}");
    for _ in 0..10 {
        assert_eq!(proxy.get("/").text(), other);
    }
    let done = drain(&proxy, &["app", "v1", &busy.at(), "--wait"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.contains("safe to stop"), "{done:?}");
    assert_eq!(
        waiting.answer("GET").text(),
        name,
        "what was in flight ended"
    );
    assert_eq!(busy.hits(), 1);
    let status = proxy.status();
    let endpoints = &status["services"][0]["versions"][0]["endpoints"];
    let draining = |n: usize| endpoints[n]["draining"] == true;
    assert_eq!((draining(0), draining(1)), (on_a, !on_a), "{endpoints}");
    assert_eq!(drain(&proxy, &["app", "--undo"]).code, 0);
    until("it is used again", || {
        proxy.get("/");
        (busy.hits() > 1).then_some(())
    });
}

#[test]
fn requests_and_streams_are_told_apart() {
    let origin = Origin::script(|conn| {
        while let Some(request) = conn.request()? {
            match request.target().as_str() {
                "/stream" => {
                    conn.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")?;
                    return conn.peer_closes(PATIENCE).map(drop);
                }
                "/never" => return conn.peer_closes(PATIENCE).map(drop),
                _ => conn.reply(200, "blue")?,
            }
        }
        Ok(())
    });
    let proxy = before(&origin.at());
    let ask = |path: &str| {
        let mut client = proxy.client();
        client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"));
        client
    };
    let _requests = [ask("/never"), ask("/never")];
    let mut stream = ask("/stream");
    assert_eq!(stream.head().expect("a head").status(), 200);
    until("all are there", || (origin.hits() == 3).then_some(()));
    let figures = |proxy: &Proxy| {
        let status = proxy.status();
        let endpoint = &status["services"][0]["versions"][0]["endpoints"][0];
        (endpoint["active"].as_u64(), endpoint["streams"].as_u64())
    };
    assert_eq!(figures(&proxy), (Some(3), Some(1)));
    let told = drain(&proxy, &["app", "--force", "--wait", "--timeout", "1ms"]);
    let which = format!("v1 {} 2 requests, 1 stream", origin.at());
    assert!(told.stderr.contains(&which), "{told:?}");
    assert!(proxy.command(&["status"]).stdout.contains("3 (1 stream)"));
    drop(stream);
    until("the stream has ended", || {
        (figures(&proxy) == (Some(2), Some(0))).then_some(())
    });
    let told = drain(&proxy, &["app", "--force", "--wait", "--timeout", "1ms"]);
    assert!(told.stderr.trim_end().contains(&which[..which.len() - 10]));
    assert!(!told.stderr.contains("stream"), "{told:?}");
}

#[test]
fn over_tcp_the_token_is_needed_and_may_be_given_in_three_ways() {
    let origin = Origin::named("blue");
    let builder = Builder::new(&format!(
        "listen = \"127.0.0.1:$PORT\"\nstate_dir = \"$DIR/state\"\n\
         admin = {{ listen = [\"127.0.0.1:$ADMIN\"], token_file = \"$DIR/token\" }}\n{}",
        single(&origin.at(), "")
    ));
    let token = builder.dir().join("token");
    std::fs::write(&token, "a-token-of-sufficient-length-0123456789\n").expect("written");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    let proxy = builder.start();
    let told = |arguments: &[&str], variable: Option<&str>| {
        let admin = format!("127.0.0.1:{}", proxy.admin);
        let mut command = std::process::Command::new(BINARY);
        command.args(["drain", "app", "--force"]).args(arguments);
        if !arguments.contains(&"-c") {
            command.args(["--admin", &admin]);
        }
        command.env("NO_COLOR", "1").current_dir("/");
        if let Some(variable) = variable {
            command.env("CUTOVER_TOKEN", variable);
        }
        let output = command.output().expect("run the binary");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), stderr)
    };
    let good = token.to_str().expect("UTF-8");
    let bad = proxy.dir().join("bad");
    std::fs::write(&bad, "another\n").expect("written");
    let bad = bad.to_str().expect("UTF-8");
    let file = proxy.file();
    let file = file.to_str().expect("UTF-8");
    let right = "a-token-of-sufficient-length-0123456789";
    for (arguments, variable) in [
        (&[][..], None),
        (&[], Some("another")),
        (&["--token-file", bad], Some(right)),
    ] {
        let (code, stderr) = told(arguments, variable);
        assert_eq!(code, Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains("--token-file FILE"), "{stderr}");
    }
    let (code, stderr) = told(&["--token-file", "/no/such/file"], None);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("/no/such/file"), "{stderr}");
    // Where the control socket is out of reach, the file says where the token is.
    for entry in std::fs::read_dir(proxy.dir().join("state")).expect("the state directory") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "sock") {
            std::fs::remove_file(path).expect("removed");
        }
    }
    for (arguments, variable) in [
        (&["--token-file", good][..], None),
        (&[], Some(right)),
        (&["-c", file], None),
    ] {
        let (code, stderr) = told(arguments, variable);
        assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
    }
}

#[test]
fn what_is_not_there_is_said() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    for (arguments, why) in [
        (&["nope"][..], "no service `nope`"),
        (&["app", "v9"], "no version `v9`"),
        (&["app", "v1", "x:1"], "no endpoint `x:1`"),
    ] {
        let output = drain(&proxy, arguments);
        assert_eq!(output.code, 1, "{output:?}");
        assert!(output.stderr.contains(why), "{output:?}");
    }
    assert_eq!(proxy.get("/").text(), "blue");
}

#[test]
fn the_last_version_that_answers_is_drained_by_force_only() {
    let (blue, green) = (Origin::named("blue"), Origin::named("green"));
    let file = |stable: &str| {
        format!(
            "[service.app]\nstable = \"{stable}\"\n[service.app.versions]\nblue = [\"{}\"]\ngreen = [\"{}\"]\n",
            blue.at(),
            green.at()
        )
    };
    let proxy = serve(&file("blue"));
    for arguments in [&["app"][..], &["app", "blue"], &["app", "blue", &blue.at()]] {
        let refused = drain(&proxy, arguments);
        assert_eq!(refused.code, 1, "{arguments:?}: {refused:?}");
        assert!(refused.stderr.contains("--force"), "{refused:?}");
        assert!(refused.stderr.contains("nothing"), "{refused:?}");
        assert_eq!(proxy.get("/").text(), "blue", "{arguments:?}");
    }
    assert_eq!(drain(&proxy, &["app", "green"]).code, 0, "it is idle");
    assert_eq!(drain(&proxy, &["app", "--undo"]).code, 0);
    proxy.edit(&file("green"));
    assert_eq!(
        drain(&proxy, &["app", "blue", "--wait"]).code,
        0,
        "its traffic is elsewhere"
    );
    assert_eq!(proxy.get("/").text(), "green");
    let forced = drain(&proxy, &["app", "--force"]);
    assert_eq!(forced.code, 0, "{forced:?}");
    assert_eq!(proxy.get("/").status(), 503);
    assert_eq!(drain(&proxy, &["app", "--undo"]).code, 0);
    assert_eq!(proxy.get("/").text(), "green");
}

/// Answers its checks with a status that the test changes, and everything else with its name.
fn checked(name: &'static str, status: &Arc<AtomicU16>) -> Origin {
    let status = status.clone();
    Origin::script(move |conn| {
        while let Some(request) = conn.request()? {
            match request.target().as_str() {
                "/ready" => conn.reply(status.load(Ordering::Relaxed), "")?,
                _ => conn.reply(200, name)?,
            }
        }
        Ok(())
    })
}

#[test]
fn a_drain_of_half_the_endpoints_is_no_panic() {
    let status = || Arc::new(AtomicU16::new(200));
    let (well, failing) = (status(), status());
    let origins = [
        checked("a", &well),
        checked("b", &well),
        checked("c", &failing),
        checked("d", &well),
    ];
    let endpoints = origins
        .each_ref()
        .map(|o| format!("\"{}\"", o.at()))
        .join(", ");
    let proxy = serve(&format!(
        "[service.app]\nstable = \"v1\"\nhealth = {{ path = \"/ready\", interval = \"20ms\", rise = 1, fall = 1 }}\n\
         [service.app.versions]\nv1 = [{endpoints}]\n"
    ));
    for origin in &origins[..2] {
        assert_eq!(drain(&proxy, &["app", "v1", &origin.at()]).code, 0);
    }
    failing.store(500, Ordering::Relaxed);
    until("its check fails", || {
        let health = &proxy.status()["services"][0]["versions"][0]["endpoints"][2]["health"];
        (health == "down").then_some(())
    });
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "d");
    }
}

#[test]
fn the_split_that_is_shown_is_what_traffic_gets() {
    let (blue, green) = (Origin::named("blue"), Origin::named("green"));
    let proxy = serve(&format!(
        "[service.app]\nstable = \"blue\"\nsplit = {{ green = \"25%\" }}\n\
         [service.app.versions]\nblue = [\"{}\"]\ngreen = [\"{}\"]\n",
        blue.at(),
        green.at()
    ));
    let shown = |of: &str| {
        let split = proxy.status()["services"][0]["split"][of].clone();
        let metrics = proxy.metrics();
        let name = match of {
            "effective" => "cutover_split_ratio",
            _ => "cutover_split_desired_ratio",
        };
        ["blue", "green"].map(|version| {
            let ratio = metrics.sum(name, &[("service", "app"), ("version", version)]);
            let percent = split[version].as_str().expect("a share").to_owned();
            assert_eq!(percent, format!("{}%", ratio * 100.0), "{of} {version}");
            percent
        })
    };
    assert_eq!(shown("effective"), ["75%", "25%"]);
    assert_eq!(drain(&proxy, &["app", "green"]).code, 0);
    assert_eq!(shown("effective"), ["100%", "0%"]);
    assert_eq!(shown("desired"), ["75%", "25%"]);
    let table = proxy.command(&["status"]).stdout;
    assert!(table.contains("0% (file: 25%)"), "{table}");
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "blue");
    }
}
