//! Takeovers and reloads under requests and WebSockets at once: requests move on, streams go on where they began.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Request;
use tokio_tungstenite::tungstenite::Message;

use super::handover::{Stop, fresh, kept};
use super::upgrade::{Socket, echoing, open};
use crate::support::h2_client::{H2, whole};
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, serve};
use crate::support::{block_on, pause, until};

/// WebSockets through each of the first two processes.
const SOCKETS: usize = 25;
/// How often all of them say something.
const BEAT: Duration = Duration::from_millis(50);
/// `drain.streams`
const STREAMS: Duration = Duration::from_secs(9);

/// WebSockets that talk all the time.
struct Choir {
    sockets: Vec<Socket>,
    /// What they said.
    said: usize,
}

impl Choir {
    fn through(proxy: &Proxy) -> Self {
        Self {
            sockets: (0..SOCKETS).map(|_| open(proxy)).collect(),
            said: 0,
        }
    }

    /// Each says something and hears it: how many were answered otherwise or not at all. These are gone then.
    fn sing(&mut self) -> usize {
        self.said += 1;
        let text = format!("message {}", self.said);
        let before = self.sockets.len();
        self.sockets
            .retain_mut(|socket| socket.send(Message::text(text.clone())).is_ok());
        self.sockets.retain_mut(|socket| {
            socket
                .read()
                .is_ok_and(|m| m == Message::text(text.clone()))
        });
        before - self.sockets.len()
    }

    /// Sings until told to stop, or until nobody is left; when each was lost.
    fn sing_until(mut self, stop: &AtomicBool, lost: &Mutex<Vec<Instant>>) {
        while !stop.load(Ordering::Relaxed) && !self.sockets.is_empty() {
            let gone = self.sing();
            let mut lost = lost.lock().expect("lost");
            lost.extend(std::iter::repeat_n(Instant::now(), gone));
            drop(lost);
            pause(BEAT);
        }
    }
}

/// Four requests at a time on one HTTP/2 connection, until it says that it ends; then another. What failed.
fn multiplexed(port: u16, stop: &AtomicBool, done: &AtomicUsize) -> Vec<String> {
    let mut failures = Vec::new();
    block_on(async {
        while !stop.load(Ordering::Relaxed) {
            let client = H2::connect(port).await;
            let mut goes_on = true;
            while goes_on && !stop.load(Ordering::Relaxed) {
                let four = || one_stream(&client);
                let four = tokio::join!(four(), four(), four(), four());
                for answer in [four.0, four.1, four.2, four.3] {
                    match answer {
                        Ok(true) => drop(done.fetch_add(1, Ordering::Relaxed)),
                        Ok(false) => goes_on = false,
                        Err(error) => failures.push(error),
                    }
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    failures
}

/// `false`: the connection takes no more, and nobody has seen this one.
async fn one_stream(client: &H2) -> Result<bool, String> {
    let request = Request::get("http://test/").body(()).expect("a request");
    let Ok((answer, _)) = client.open(request, true).await else {
        return Ok(false);
    };
    let answered = async { whole(answer.await?).await };
    match answered.await {
        Ok(answer) if answer.body == b"blue" => Ok(true),
        Ok(other) => Err(format!("{other:?}")),
        Err(e) if e.is_go_away() && e.reason() == Some(h2::Reason::NO_ERROR) => Ok(false),
        Err(e) if e.reason() == Some(h2::Reason::REFUSED_STREAM) => Ok(false),
        Err(e) => Err(e.to_string()),
    }
}

/// The file: `/chat` to an origin of WebSockets, everything else to another; `n` makes each edit another.
fn file(plain: &Origin, chat: &Origin, n: usize) -> String {
    format!(
        "[shutdown]\ndeadline = \"3s\"\n[defaults.drain]\nstreams = \"{}s\"\n\
         [service.app]\nstable = \"v1\"\ntimeouts.first_byte = \"{}s\"\nversions = {{ v1 = [\"{}\"] }}\n\
         [service.chat]\npaths = [\"/chat\"]\nversions = {{ v1 = [\"{}\"] }}\n",
        STREAMS.as_secs(),
        n + 5,
        plain.at(),
        chat.at()
    )
}

#[test]
fn requests_move_on_and_websockets_stay_where_they_began_for_as_long_as_streams_may() {
    let (plain, chat) = (Origin::named("blue"), echoing());
    let mut first = serve(&file(&plain, &chat, 0));
    let port = first.port;
    let done = AtomicUsize::new(0);
    let (stop, stop_second) = (AtomicBool::new(false), AtomicBool::new(false));
    let (lost_first, lost_second) = (Mutex::default(), Mutex::default());
    std::thread::scope(|scope| {
        let _guards = (Stop(&stop), Stop(&stop_second));
        let (stop, done) = (&stop, &done);
        let singing = |choir: Choir, stop, lost| scope.spawn(move || choir.sing_until(stop, lost));
        let first_choir = singing(Choir::through(&first), stop, &lost_first);
        let thinks = [1, 3, 20, 150, 400].map(Duration::from_millis);
        let clients: Vec<_> = thinks
            .into_iter()
            .map(|think| scope.spawn(move || kept(port, think, stop, done)))
            .chain([
                scope.spawn(move || fresh(port, stop, done)),
                scope.spawn(move || multiplexed(port, stop, done)),
            ])
            .collect();
        let flows = || {
            let served = done.load(Ordering::Relaxed);
            until("traffic flows", || {
                (done.load(Ordering::Relaxed) > served + 400).then_some(())
            });
        };
        flows();
        first.edit(&file(&plain, &chat, 1));
        let mut second = first.successor().expect("it takes over");
        let began = Instant::now();
        let second_choir = singing(Choir::through(&second), &stop_second, &lost_second);
        flows();
        second.edit(&file(&plain, &chat, 2));
        let mut third = second.successor().expect("it takes over");
        flows();
        let mut fourth = third.successor().expect("it takes over");
        fourth.edit(&file(&plain, &chat, 3));
        flows();
        assert_eq!(third.ended().code(), Some(0), "nothing streamed there");
        assert!(second.runs() && first.runs());
        assert!(lost_first.lock().expect("lost").is_empty(), "too early");
        stop_second.store(true, Ordering::Relaxed);
        assert_eq!(second.ended().code(), Some(0), "its streams have ended");
        assert!(second.log().contains("ended after the handover"));
        second_choir.join().expect("the second choir");
        assert!(lost_second.lock().expect("lost").is_empty());
        assert_eq!(first.ended().code(), Some(0), "their time is over");
        first_choir.join().expect("the first choir");
        assert!(first.log().contains("connections were cut"));
        let lost: Vec<Duration> = {
            let lost = lost_first.lock().expect("lost");
            lost.iter().map(|at| at.duration_since(began)).collect()
        };
        assert_eq!(lost.len(), SOCKETS);
        let margin = Duration::from_millis(500);
        assert!(lost.iter().all(|t| *t + margin > STREAMS), "{lost:?}");
        stop.store(true, Ordering::Relaxed);
        let failures: Vec<String> = clients
            .into_iter()
            .flat_map(|c| c.join().expect("a client"))
            .collect();
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!(fourth.status()["generation"], 7, "generations go on");
        assert!(fourth.runs());
    });
}
