//! Drains by an operator: no new work, what is in flight is finished, and it is said when that is so.

use std::time::Duration;

use crate::support::origin::Origin;
use crate::support::proxy::{Output, Proxy, command, serve};
use crate::support::until;

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
fn what_is_not_there_is_said() {
    let origin = Origin::named("blue");
    let proxy = crate::support::proxy::before(&origin.at());
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
