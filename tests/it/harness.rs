//! The harness against itself: a test that can't fail proves nothing.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};

use crate::support::client::{Client, End};
use crate::support::frames::{self, Outcome};
use crate::support::h2_client::H2;
use crate::support::h2_origin::H2Origin;
use crate::support::metrics::Metrics;
use crate::support::origin::Origin;
use crate::support::{block_on, free_port, noise, tls, until, until_within};

fn port(at: &str) -> u16 {
    at.rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn an_origin_records_and_echoes_byte_for_byte() {
    let origin = Origin::echo();
    let mut client = Client::new(port(&origin.at()));
    let request =
        "POST /a%2Fb?x=1 HTTP/1.1\r\nhost: test\r\nX-Odd:  v \r\ncontent-length: 3\r\n\r\nabc";
    let answer = client.ask(request);
    assert_eq!(answer.text(), request);
    assert_eq!(origin.last().target(), "/a%2Fb?x=1");
    assert_eq!(origin.last().field("x-odd").as_deref(), Some("v"));
    assert_eq!((origin.connections(), origin.hits()), (1, 1));
}

#[test]
fn chunks_and_trailers_are_read() {
    let origin = Origin::raw(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n",
    );
    let answer = Client::new(port(&origin.at())).get("/");
    assert_eq!(answer.text(), "abcde");
    assert_eq!(answer.trailer("x-sum").as_deref(), Some("5"));
}

#[test]
fn a_cut_body_is_an_error_and_a_reset_is_noticed() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")?;
        match conn.number {
            0 => Ok(()),
            _ => conn.reset(),
        }
    });
    for _ in 0..2 {
        let mut client = Client::new(port(&origin.at()));
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
        assert!(client.try_answer("GET").is_err());
    }
    until("both are closed", || (origin.open() == 0).then_some(()));
}

#[test]
fn an_origin_sees_its_client_go() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        assert!(conn.peer_closes(Duration::from_secs(10))?);
        Ok(())
    });
    let mut client = Client::new(port(&origin.at()));
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    until("the request is there", || {
        (origin.hits() == 1).then_some(())
    });
    assert_eq!(origin.open(), 1);
    client.reset();
    until("it is gone", || (origin.open() == 0).then_some(()));
}

#[test]
fn the_end_of_a_connection_is_told_from_silence() {
    let origin = Origin::script(|conn| {
        conn.request()?;
        conn.write(b"HTTP/1.1 204 No Content\r\n\r\n")?;
        conn.request()?;
        Ok(())
    });
    let mut client = Client::new(port(&origin.at()));
    assert_eq!(client.get("/").status(), 204);
    assert_eq!(client.end_within(Duration::from_millis(20)), End::Open);
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n");
    assert_eq!(client.end_within(Duration::from_secs(10)), End::Closed);
}

#[test]
fn http2_speaks_with_itself_in_clear_and_over_tls() {
    let authority = tls::Authority::new();
    let identity = authority.issue(&["test"]);
    let trailers = || HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from(7))]);
    let clear = H2Origin::script(move |x| x.echo(trailers()));
    let secret = H2Origin::script_tls(identity.server(&["h2"]), move |x| x.echo(trailers()));
    block_on(async {
        for over_tls in [false, true] {
            let client = match over_tls {
                false => H2::connect(port(&clear.at())).await,
                true => {
                    H2::connect_tls(port(&secret.at()), "test", authority.client(&["h2"])).await
                }
            };
            let body = Bytes::from(noise(1, 200_000));
            let request = Request::post("http://test/echo").body(()).unwrap();
            let answer = client.ask(request, body.clone()).await.unwrap();
            assert_eq!((answer.status, answer.body == body), (200, true));
            assert_eq!(answer.trailers["x-sum"], "7");
        }
    });
    assert_eq!(clear.heads()[0].uri().path(), "/echo");
}

#[test]
fn http2_by_frames_is_understood() {
    let origin = H2Origin::named("blue");
    let mut client = Client::new(port(&origin.at()));
    client.send(frames::preface());
    client.send(frames::request(1, &frames::get_fields("/x")));
    assert_eq!(frames::outcome(&mut client, 1), Outcome::Status(200));
    let mut bad = frames::get_fields("/x").to_vec();
    bad.push(("Upper", "case"));
    client.send(frames::request(3, &bad));
    let refused = frames::outcome(&mut client, 3);
    assert!(matches!(refused, Outcome::Reset(1) | Outcome::Goaway(1)));
}

#[test]
fn tls_shows_the_certificate_of_the_authority() {
    let authority = tls::Authority::new();
    let origin = Origin::tls("blue", &authority.issue(&["test"]), &["http/1.1"]);
    let stream = authority.connect(port(&origin.at()), "test", &["h2", "http/1.1"]);
    assert_eq!(Client::over(stream.unwrap()).get("/").text(), "blue");
    let stranger = tls::Authority::new().connect(port(&origin.at()), "test", &[]);
    assert!(stranger.is_err());
}

#[test]
fn an_exposition_is_parsed_and_summed() {
    let text = "# HELP a b\na{x=\"1\",y=\"a,b\"} 2\na{x=\"1\",y=\"c\"} 3.5\nb 7\n";
    let metrics = Metrics::parse(text);
    assert_eq!(metrics.sum("a", &[("x", "1")]), 5.5);
    assert_eq!(metrics.sum("a", &[("y", "a,b")]), 2.0);
    assert_eq!(metrics.sum("b", &[]), 7.0);
    assert_eq!(metrics.label_names("a"), ["x", "y"]);
    assert!(!metrics.has("c", &[]));
}

#[test]
fn ports_are_never_handed_out_twice() {
    assert_ne!(free_port(), free_port());
}

#[test]
#[should_panic(expected = "in vain: the moon")]
fn waiting_has_an_end() {
    until_within(Duration::from_millis(5), "the moon", || None::<()>);
}
