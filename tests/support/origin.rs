//! HTTP/1 origins that do what a script says, a thread a connection, with the raw bytes in hand.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::wire::{Inbox, Message};
use super::{Duplex, listen, pause, reset_on_close, tls};

/// An origin on a port of its own; ends with its value.
pub struct Origin {
    address: SocketAddr,
    log: Arc<Log>,
}

/// What an origin saw.
#[derive(Default)]
struct Log {
    connections: AtomicUsize,
    open: AtomicUsize,
    stopped: AtomicBool,
    requests: Mutex<Vec<Message>>,
    hits: AtomicUsize,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Log {
    /// Drops the handle of the connection from `peer`, and those that are dead.
    fn forget(&self, peer: Option<SocketAddr>) {
        let mut sockets = self.sockets.lock().expect("log");
        sockets.retain(|s| s.peer_addr().is_ok_and(|p| Some(p) != peer));
    }
}

/// One connection in the hands of a script.
pub struct Conn {
    /// The bytes.
    pub io: Box<dyn Duplex>,
    inbox: Inbox,
    socket: Option<TcpStream>,
    log: Arc<Log>,
    /// Which connection this is, from 0.
    pub number: usize,
}

type Script = dyn Fn(&mut Conn) -> io::Result<()> + Send + Sync;

impl Origin {
    /// Every connection is handed to `script`, and closed when it returns.
    pub fn script(script: impl Fn(&mut Conn) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let (listener, address) = listen();
        Self::serve(listener, address, None, Arc::new(script))
    }

    /// As [`Self::script`], on this port.
    pub fn script_at(
        port: u16,
        script: impl Fn(&mut Conn) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("bind the port");
        let address = listener.local_addr().expect("the address that was bound");
        Self::serve(listener, address, None, Arc::new(script))
    }

    /// Answers 200 with its name as body, at this loopback address.
    pub fn named_at(address: SocketAddr, name: &str) -> Self {
        let name = name.to_owned();
        Self::each_at(address, move |_, conn| conn.reply(200, &name))
    }

    /// As [`Self::each`], at this loopback address.
    pub fn each_at(
        address: SocketAddr,
        answer: impl Fn(&Message, &mut Conn) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("bind the address");
        Self::serve(listener, address, None, Arc::new(every_request(answer)))
    }

    /// Every request, read whole, is handed to `answer`; the connection is kept while it returns `Ok`.
    pub fn each(
        answer: impl Fn(&Message, &mut Conn) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::script(every_request(answer))
    }

    /// Every request is answered with these bytes.
    pub fn raw(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::each(move |_, conn| conn.write(&answer))
    }

    /// Answers 200 with its name as body.
    pub fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self::each(move |_, conn| conn.reply(200, &name))
    }

    /// Answers 200 with the request's head and body as they came.
    pub fn echo() -> Self {
        Self::each(|request, conn| {
            let seen = [&request.head[..], &request.body, &request.trailers].concat();
            conn.reply(200, &String::from_utf8_lossy(&seen))
        })
    }

    /// Each request on a TLS connection that offers `alpn`, answered 200 with `name`.
    pub fn tls(name: &str, identity: &tls::Identity, alpn: &[&str]) -> Self {
        Self::tls_at((Ipv4Addr::LOCALHOST, 0).into(), name, identity, alpn)
    }

    /// As [`Self::tls`], at this loopback address.
    pub fn tls_at(
        address: SocketAddr,
        name: &str,
        identity: &tls::Identity,
        alpn: &[&str],
    ) -> Self {
        let name = name.to_owned();
        let config = identity.server(alpn);
        let listener = TcpListener::bind(address).expect("bind the address");
        let address = listener.local_addr().expect("the address that was bound");
        let script = every_request(move |_: &Message, conn: &mut Conn| conn.reply(200, &name));
        Self::serve(listener, address, Some(config), Arc::new(script))
    }

    /// Answers 200 with its name on a Unix socket. Lives as long as the process.
    pub fn unix(path: &Path, name: &str) {
        let name = name.to_owned();
        Self::unix_each(path, move |_| name.clone());
    }

    /// As [`Self::unix`], with a body made of the request.
    pub fn unix_each(path: &Path, body: impl Fn(&Message) -> String + Send + Sync + 'static) {
        let body = Arc::new(body);
        let listener = UnixListener::bind(path).expect("bind a Unix socket");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let body = body.clone();
                thread::spawn(move || {
                    let mut conn = Conn::new(Box::new(stream), None, Arc::default());
                    let answer = move |r: &Message, c: &mut Conn| c.reply(200, &body(r));
                    every_request(answer)(&mut conn)
                });
            }
        });
    }

    fn serve(
        listener: TcpListener,
        address: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        script: Arc<Script>,
    ) -> Self {
        let log = Arc::new(Log::default());
        let origin = Self {
            address,
            log: log.clone(),
        };
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if log.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (log, script, tls) = (log.clone(), script.clone(), tls.clone());
                thread::spawn(move || one_connection(socket, tls, &log, &*script));
            }
        });
        origin
    }

    /// `127.0.0.1:port`, as the configuration names it.
    pub fn at(&self) -> String {
        self.address.to_string()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.log.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.log.open.load(Ordering::SeqCst)
    }

    /// How many requests' heads were read.
    pub fn hits(&self) -> usize {
        self.log.hits.load(Ordering::SeqCst)
    }

    /// The requests that were read whole by [`Conn::request`].
    pub fn requests(&self) -> Vec<Message> {
        self.log.requests.lock().expect("log").clone()
    }

    /// The last of them.
    #[track_caller]
    pub fn last(&self) -> Message {
        self.requests().pop().expect("a request reached the origin")
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.log.stopped.store(true, Ordering::SeqCst);
        for socket in self.log.sockets.lock().expect("log").drain(..) {
            let _gone_already = socket.shutdown(Shutdown::Both);
        }
        let _wakes_accept = TcpStream::connect(self.address);
    }
}

fn every_request(
    answer: impl Fn(&Message, &mut Conn) -> io::Result<()> + Send + Sync,
) -> impl Fn(&mut Conn) -> io::Result<()> + Send + Sync {
    move |conn| {
        while let Some(request) = conn.request()? {
            answer(&request, conn)?;
        }
        Ok(())
    }
}

fn one_connection(
    socket: TcpStream,
    tls: Option<Arc<rustls::ServerConfig>>,
    log: &Arc<Log>,
    script: &Script,
) {
    log.open.fetch_add(1, Ordering::SeqCst);
    let number = log.connections.fetch_add(1, Ordering::SeqCst);
    socket.set_nodelay(true).expect("TCP_NODELAY");
    let peer = socket.peer_addr().ok();
    let kept = socket.try_clone().expect("a second handle");
    let also_kept = socket.try_clone().expect("a third handle");
    log.sockets.lock().expect("log").push(also_kept);
    let io: Box<dyn Duplex> = match tls {
        None => Box::new(socket),
        Some(config) => {
            let session = rustls::ServerConnection::new(config).expect("a TLS session");
            Box::new(rustls::StreamOwned::new(session, socket))
        }
    };
    let mut conn = Conn::new(io, Some(kept), log.clone());
    conn.number = number;
    let _how_it_ended = script(&mut conn);
    if let Some(socket) = &conn.socket {
        // The log holds a handle too: without this the close would wait for the origin's end.
        let _gone_already = socket.shutdown(Shutdown::Both);
    }
    log.forget(peer);
    log.open.fetch_sub(1, Ordering::SeqCst);
}

impl Conn {
    fn new(io: Box<dyn Duplex>, socket: Option<TcpStream>, log: Arc<Log>) -> Self {
        Self {
            io,
            inbox: Inbox::default(),
            socket,
            log,
            number: 0,
        }
    }

    /// The next request's head; `None` when the peer closed.
    pub fn head(&mut self) -> io::Result<Option<Message>> {
        let head = self.inbox.head(&mut self.io)?;
        if head.is_some() {
            self.log.hits.fetch_add(1, Ordering::SeqCst);
        }
        Ok(head)
    }

    /// The next request, whole, and noted; `None` when the peer closed.
    pub fn request(&mut self) -> io::Result<Option<Message>> {
        let Some(mut message) = self.head()? else {
            return Ok(None);
        };
        self.inbox.request_body(&mut self.io, &mut message)?;
        self.log.requests.lock().expect("log").push(message.clone());
        Ok(Some(message))
    }

    /// The body of a request whose head was read, and noted.
    pub fn body(&mut self, message: &mut Message) -> io::Result<()> {
        self.inbox.request_body(&mut self.io, message)?;
        self.log.requests.lock().expect("log").push(message.clone());
        Ok(())
    }

    /// Lets the kernel keep no more than about this many bytes that the peer hasn't taken.
    pub fn send_buffer(&self, bytes: usize) {
        let socket = self.socket.as_ref().expect("a TCP connection");
        let socket = socket2::SockRef::from(socket);
        socket.set_send_buffer_size(bytes).expect("SO_SNDBUF");
    }

    /// Exactly these bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes)?;
        self.io.flush()
    }

    /// A response with this status and body, framed by length.
    pub fn reply(&mut self, status: u16, body: &str) -> io::Result<()> {
        let len = body.len();
        self.write(
            format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {len}\r\n\r\n{body}").as_bytes(),
        )
    }

    /// Time passes.
    pub fn wait(&mut self, time: Duration) -> io::Result<()> {
        pause(time);
        Ok(())
    }

    /// Reads and drops until the peer closes or resets: true when it did within `time`.
    pub fn peer_closes(&mut self, time: Duration) -> io::Result<bool> {
        if let Some(socket) = &self.socket {
            socket.set_read_timeout(Some(time))?;
        }
        let mut piece = [0; 4096];
        loop {
            match self.io.read(&mut piece) {
                Ok(0) => return Ok(true),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(_) => return Ok(true),
            }
        }
    }

    /// Up to and with `mark`.
    pub fn through(&mut self, mark: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.inbox.through(&mut self.io, mark)
    }

    /// Exactly `n` bytes.
    pub fn exact(&mut self, n: usize) -> io::Result<Vec<u8>> {
        self.inbox.exact(&mut self.io, n)
    }

    /// Bytes as they come, at most a piece; empty at the end.
    pub fn piece(&mut self) -> io::Result<Vec<u8>> {
        let rest = self.inbox.take_rest();
        if !rest.is_empty() || !self.inbox.fill(&mut self.io)? {
            return Ok(rest);
        }
        Ok(self.inbox.take_rest())
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) -> io::Result<()> {
        let socket = self.socket.as_ref().expect("a TCP connection");
        socket.shutdown(Shutdown::Write)
    }

    /// Ends the connection by a reset.
    pub fn reset(&mut self) -> io::Result<()> {
        let socket = self.socket.take().expect("a TCP connection");
        reset_on_close(&socket)?;
        // Every handle must go for the close to happen: the log's, the script's, this one.
        self.log.forget(socket.peer_addr().ok());
        self.io = Box::new(io::empty());
        Ok(())
    }
}

/// As a transport of TLS that begins in the middle of a connection.
impl Read for Conn {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.inbox.read(&mut self.io, into)
    }
}

impl Write for Conn {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.io.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.io.flush()
    }
}
