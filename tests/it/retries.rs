//! Retries through the real binary: on another endpoint, only where it harms nobody, within a budget.

use std::io;
use std::time::{Duration, Instant};

use crate::support::origin::{Conn, Origin};
use crate::support::proxy::{Proxy, serve};
use crate::support::wire::Message;
use crate::support::{PATIENCE, free_port, noise, until};

/// No ejection: whoever fails goes on to be asked.
const NO_EJECTION: &str = "[service.app.outlier]\nconsecutive_5xx = 0\nconsecutive_gateway = 0\n";

/// In turn, without ejection, and with these settings of retries.
fn file(endpoints: &[String], more: &str) -> String {
    let all: Vec<_> = endpoints.iter().map(|e| format!("\"{e}\"")).collect();
    format!(
        "[service.app]\nstable = \"v1\"\nbalance = \"round_robin\"\n{more}\n{NO_EJECTION}\
         [service.app.versions]\nv1 = [{}]\n",
        all.join(", ")
    )
}

const ALL: &str = "retry.budget = \"100%\"";

/// What an endpoint may do instead of answering.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ill {
    Resets,
    Closes,
    Says503,
}

impl Ill {
    const ALL: [Self; 3] = [Self::Resets, Self::Closes, Self::Says503];

    fn origin(self) -> Origin {
        Origin::each(move |_, conn| self.answer(conn))
    }

    fn answer(self, conn: &mut Conn) -> io::Result<()> {
        match self {
            Self::Resets => {
                conn.reset()?;
                Err(io::Error::other("reset"))
            }
            Self::Closes => Err(io::Error::other("closed")),
            Self::Says503 => conn.reply(503, "theirs"),
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Says503 => "503",
            _ => "reset",
        }
    }
}

fn retries(proxy: &Proxy, reason: &str) -> f64 {
    let labels = [("service", "app"), ("version", "v1"), ("reason", reason)];
    proxy.metrics().sum("cutover_retries_total", &labels)
}

#[test]
fn a_get_that_fails_is_answered_by_another_endpoint() {
    for ill in Ill::ALL {
        let (bad, good) = (ill.origin(), Origin::named("good"));
        let proxy = serve(&file(&[bad.at(), good.at()], ALL));
        let mut client = proxy.client();
        for _ in 0..40 {
            let answer = client.get("/");
            assert_eq!(
                (answer.status(), answer.text().as_str()),
                (200, "good"),
                "{ill:?}"
            );
        }
        assert_eq!(good.hits(), 40);
        // In turn, and a retry takes a turn as well.
        assert!(bad.hits() >= 13, "{ill:?}: {}", bad.hits());
        assert_eq!(retries(&proxy, ill.reason()), bad.hits() as f64, "{ill:?}");
        let charged = |status| {
            let labels = [("version", "v1"), ("status", status)];
            proxy.metrics().sum("http_requests_total", &labels)
        };
        let status = if ill == Ill::Says503 { "503" } else { "502" };
        until("each attempt is counted", || {
            (charged(status) == bad.hits() as f64 && charged("200") == 40.0).then_some(())
        });
    }
}

#[test]
fn what_was_never_sent_may_go_elsewhere_whatever_its_method() {
    let good = Origin::echo();
    let nobody = format!("127.0.0.1:{}", free_port());
    let proxy = serve(&file(&[nobody, good.at()], ALL));
    let mut client = proxy.client();
    for n in 1..=20 {
        let post = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nbody";
        let answer = client.ask(post);
        assert_eq!(answer.status(), 200);
        assert!(answer.text().ends_with("\r\n\r\nbody"), "{}", answer.text());
        assert_eq!(good.hits(), n);
    }
    assert!(retries(&proxy, "connect") >= 6.0);
}

#[test]
fn a_post_that_may_have_been_done_is_not_done_again() {
    for ill in Ill::ALL {
        let (bad, good) = (ill.origin(), Origin::named("good"));
        let proxy = serve(&file(&[bad.at(), good.at()], ALL));
        let mut client = proxy.client();
        let statuses: Vec<u16> = (0..20)
            .map(|_| {
                let post = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\nbody";
                client.ask(post).status()
            })
            .collect();
        let status = if ill == Ill::Says503 { 503 } else { 502 };
        let failed = statuses.iter().filter(|s| **s == status).count();
        assert_eq!((failed, bad.hits(), good.hits()), (10, 10, 10), "{ill:?}");
    }
}

#[test]
fn a_body_goes_out_again_byte_for_byte() {
    let body = noise(3, 60_000);
    let pieces: Vec<u8> = body
        .chunks(7_001)
        .flat_map(|c| [format!("{:x}\r\n", c.len()).as_bytes(), c, b"\r\n"].concat())
        .chain(b"0\r\n\r\n".to_owned())
        .collect();
    let length = format!("content-length: {}\r\n\r\n", body.len());
    for ill in Ill::ALL {
        let (bad, good) = (ill.origin(), Origin::named("good"));
        let proxy = serve(&file(&[bad.at(), good.at()], ALL));
        let mut client = proxy.client();
        for (framing, sent) in [
            (length.as_str(), &body),
            ("transfer-encoding: chunked\r\n\r\n", &pieces),
        ]
        .repeat(4)
        {
            client.send(format!("PUT /it HTTP/1.1\r\nhost: test\r\n{framing}"));
            client.send(sent);
            assert_eq!(client.answer("PUT").text(), "good", "{ill:?}");
            let seen = good.last();
            assert!(seen.body == body, "{ill:?}: {} bytes", seen.body.len());
        }
        assert_eq!(good.hits(), 8);
        assert!(bad.hits() >= 2, "{ill:?}: {}", bad.hits());
        assert!(bad.requests().iter().all(|r| r.body == body));
    }
}

#[test]
fn a_body_that_was_not_kept_goes_out_once() {
    let (bad, good) = (Ill::Says503.origin(), Origin::named("good"));
    let more = format!("{ALL}\nretry.body_bytes = \"1KiB\"");
    let proxy = serve(&file(&[bad.at(), good.at()], &more));
    let mut client = proxy.client();
    let put = format!(
        "PUT / HTTP/1.1\r\nhost: test\r\ncontent-length: 2000\r\n\r\n{}",
        "b".repeat(2000)
    );
    let mut statuses: Vec<u16> = (0..4).map(|_| client.ask(&put).status()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503, 503]);
    assert_eq!((bad.hits(), good.hits()), (2, 2));
}

#[test]
fn a_pool_that_is_down_gets_a_quarter_more_at_most() {
    let all = [(); 2].map(|()| Ill::Says503.origin());
    let endpoints: Vec<String> = all.iter().map(Origin::at).collect();
    let proxy = serve(&file(&endpoints, "retry.tries = 10"));
    let mut clients: Vec<_> = (0..10).map(|_| proxy.client()).collect();
    for n in 0..1000 {
        let answer = clients[n % 10].get("/");
        assert_eq!((answer.status(), answer.text().as_str()), (503, "theirs"));
    }
    let attempts: usize = all.iter().map(Origin::hits).sum();
    assert!((1150..=1250).contains(&attempts), "{attempts} attempts");
    assert_eq!(retries(&proxy, "503"), attempts as f64 - 1000.0);
}

#[test]
fn one_try_may_have_a_limit_of_its_own() {
    let silent = Origin::each(|_, conn| conn.peer_closes(PATIENCE).map(drop));
    let good = Origin::named("good");
    let more = format!("{ALL}\nretry.per_try = \"200ms\"\ntimeouts.first_byte = \"60s\"");
    let proxy = serve(&file(&[silent.at(), good.at()], &more));
    let mut client = proxy.client();
    let start = Instant::now();
    for _ in 0..6 {
        assert_eq!(client.get("/").text(), "good");
    }
    let tried = silent.hits();
    assert!(tried >= 2, "{tried}");
    assert_eq!(retries(&proxy, "timeout"), tried as f64);
    let least = Duration::from_millis(200) * tried as u32;
    assert!(start.elapsed() >= least, "{:?}", start.elapsed());
}

#[test]
fn nothing_is_tried_again_after_the_first_byte() {
    let cut = Origin::each(|_, conn| {
        conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")?;
        Err(io::Error::other("closed"))
    });
    let good = Origin::named("good");
    let proxy = serve(&file(&[cut.at(), good.at()], ALL));
    let answers: Vec<io::Result<Message>> = (0..20)
        .map(|_| {
            let mut client = proxy.client();
            client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
            client.try_answer("GET")
        })
        .collect();
    let whole = answers.iter().flatten().filter(|a| a.text() == "good");
    assert_eq!(whole.count(), good.hits());
    assert_eq!(cut.hits() + good.hits(), 20);
    assert!(cut.hits() >= 8, "{}", cut.hits());
    assert_eq!(proxy.metrics().sum("cutover_retries_total", &[]), 0.0);
}
