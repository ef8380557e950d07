use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::yield_now;

use super::*;
use crate::net::fixtures::tcp_pair;
use crate::net::{Buffers, ListenerId, TaskControls};
use crate::proxy::h1::H1;

/// A tunnel, its two connections, and the peers at their other ends.
struct Scene {
    tunnel: Tunnel,
    down: H1,
    up: H1,
    client: TcpStream,
    origin: TcpStream,
}

impl Scene {
    async fn new() -> Self {
        let ((down, client), (up, origin)) = (tcp_pair().await, tcp_pair().await);
        let up_socket = up.descriptor();
        let small = socket2::SockRef::from(&up_socket);
        small.set_send_buffer_size(8 * 1024).unwrap();
        let buffers = Buffers::new();
        let [down, up] = [down, up].map(|stream| {
            let mut h1 = H1::new(stream, buffers.clone());
            h1.open_tunnel();
            h1
        });
        Self {
            tunnel: Tunnel::new(),
            down,
            up,
            client,
            origin,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.tunnel.poll(cx, &mut self.down, &mut self.up)
    }

    /// Exchanges messages in both directions, each sent while the tunnel is pending.
    async fn talk(&mut self) {
        let (client, origin) = (&mut self.client, &mut self.origin);
        let (tunnel, down, up) = (&mut self.tunnel, &mut self.down, &mut self.up);
        let talk = async {
            let mut got = [0; 5];
            for _ in 0..3 {
                client.write_all(b"there").await.unwrap();
                origin.read_exact(&mut got).await.unwrap();
                assert_eq!(&got, b"there");
                origin.write_all(b"back!").await.unwrap();
                client.read_exact(&mut got).await.unwrap();
                assert_eq!(&got, b"back!");
            }
        };
        tokio::select! {
            biased;
            () = poll_fn(|cx| tunnel.poll(cx, down, up)) => panic!("the tunnel has ended"),
            done = tokio::time::timeout(Duration::from_secs(3), talk) => {
                done.expect("the task is woken for each message");
            }
        }
    }
}

#[tokio::test]
async fn a_tunnel_that_is_idle_holds_no_memory() {
    let mut scene = Scene::new().await;
    // The head of the answer.
    scene.down.out().extend_from_slice(b"101 ");
    let nobody = &mut Context::from_waker(Waker::noop());
    assert!(scene.poll(nobody).is_pending());
    let mut got = [0; 4];
    scene.client.read_exact(&mut got).await.unwrap();
    assert_eq!((&got, scene.down.held(), scene.up.held()), (b"101 ", 0, 0));
}

#[tokio::test]
async fn messages_leave_no_memory_behind() {
    let mut scene = Scene::new().await;
    scene.talk().await;
    assert_eq!((scene.down.held(), scene.up.held()), (0, 0));
}

#[tokio::test]
async fn the_latest_waker_is_woken() {
    let mut scene = Scene::new().await;
    for _ in 0..3 {
        let another = &mut Context::from_waker(Waker::noop());
        assert!(scene.poll(another).is_pending());
        scene.talk().await;
    }
}

#[tokio::test]
async fn a_tunnel_without_coop_budget_is_woken_later() {
    let mut scene = Scene::new().await;
    let mut polled = 0;
    poll_fn(|cx| {
        polled += 1;
        if polled == 1 {
            while pin!(coop::consume_budget()).poll(cx).is_ready() {}
        }
        assert!(scene.poll(cx).is_pending());
        match polled {
            1 => Poll::Pending,
            _ => Poll::Ready(()),
        }
    })
    .await;
    scene.talk().await;
}

#[tokio::test]
async fn a_message_larger_than_the_send_buffer_arrives_whole() {
    const PIECE: usize = 5_000;
    let mut scene = Scene::new().await;
    let sent: Vec<u8> = (0..PIECE * 400).map(|i| (i / 7) as u8).collect();
    let (client, origin) = (&mut scene.client, &mut scene.origin);
    let (tunnel, down, up) = (&mut scene.tunnel, &mut scene.down, &mut scene.up);
    let sending = async {
        for piece in sent.chunks(PIECE) {
            client.write_all(piece).await.unwrap();
            yield_now().await;
        }
        client.shutdown().await.unwrap();
    };
    let reading = async {
        let (mut got, mut part) = (Vec::new(), [0; 3_000]);
        while let n @ 1.. = origin.read(&mut part).await.unwrap() {
            got.extend_from_slice(&part[..n]);
            for _ in 0..4 {
                yield_now().await;
            }
        }
        // The other direction is still open.
        origin.write_all(b"last").await.unwrap();
        origin.shutdown().await.unwrap();
        got
    };
    let (_, got, ()) = tokio::join!(sending, reading, poll_fn(|cx| tunnel.poll(cx, down, up)));
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    let mut last = Vec::new();
    drop(scene.down);
    scene.client.read_to_end(&mut last).await.unwrap();
    assert_eq!(last, b"last");
}

/// Whether the tunnel is still open after everything in flight has arrived.
async fn is_open(scene: &mut Scene, watch: &TaskControl) -> bool {
    let Scene {
        tunnel, down, up, ..
    } = scene;
    let over = poll_fn(|cx| tunnel.poll_in_time(cx, down, up, watch));
    tokio::time::timeout(Duration::from_millis(50), over)
        .await
        .is_err()
}

#[tokio::test]
async fn silence_ends_a_tunnel_only_when_one_side_has_ended() {
    for client_ends in [true, false] {
        let mut scene = Scene::new().await;
        let controls = TaskControls::new();
        let watch = controls.register(ListenerId(0));
        let start = Instant::now();
        let at = |s| controls.tick(start + Duration::from_secs(s));
        scene.client.write_all(b"hello").await.unwrap();
        assert!(is_open(&mut scene, &watch).await);
        at(100_000);
        assert!(is_open(&mut scene, &watch).await, "both sides are there");
        let ended = match client_ends {
            true => &mut scene.client,
            false => &mut scene.origin,
        };
        ended.shutdown().await.unwrap();
        assert!(is_open(&mut scene, &watch).await);
        at(100_029);
        assert!(is_open(&mut scene, &watch).await);
        // Small and large messages take different paths.
        for (n, size) in [3, 100_000, 3].into_iter().enumerate() {
            let goes_on = match client_ends {
                true => &mut scene.origin,
                false => &mut scene.client,
            };
            let _sent = goes_on.try_write(&vec![7; size]).unwrap();
            assert!(is_open(&mut scene, &watch).await);
            at(100_058 + 29 * n as u64);
            assert!(is_open(&mut scene, &watch).await, "{size} bytes came");
        }
        at(100_058 + 29 * 2 + 31);
        assert!(!is_open(&mut scene, &watch).await);
    }
}
