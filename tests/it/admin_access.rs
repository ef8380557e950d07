//! Who may use the admin API, and that nobody can keep others from it.

use std::fs::{self, Permissions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::support::client::Client;
use crate::support::origin::Origin;
use crate::support::proxy::{Builder, Proxy, before, command, single};
use crate::support::{free_port, until};

/// Asks for more than the sockets hold, and reads nothing.
fn never_reads(admin: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    // The kernel sizes both buffers by the segment: a few answers fill them.
    socket.set_tcp_mss(536).expect("short segments");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, admin));
    socket.connect(&address.into()).expect("connect");
    let mut socket = TcpStream::from(socket);
    let request = format!("GET /metrics HTTP/1.1\r\nhost: 127.0.0.1:{admin}\r\n\r\n");
    socket
        .set_write_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    socket
        .write_all(request.repeat(40).as_bytes())
        .expect("the sockets hold the requests");
    socket
}

/// The exit code of `cutover status` by the control socket.
fn status_by_control_socket(proxy: &Proxy) -> i32 {
    let file = proxy.file();
    let file = file.to_str().expect("UTF-8");
    command(&["status", "-c", file], proxy.dir()).code
}

#[test]
fn clients_that_never_read_keep_nobody_from_the_admin_api() {
    let origin = Origin::named("blue");
    let proxy = before(&origin.at());
    let _stalled: Vec<_> = (0..300).map(|_| never_reads(proxy.admin)).collect();
    for _ in 0..3 {
        assert_eq!(status_by_control_socket(&proxy), 0);
    }
    assert_eq!(proxy.ask_admin("/healthz").status(), 200);
    assert_eq!(proxy.ask_admin("/api/v1/status").status(), 200);
}

fn write_token(file: &Path, mode: u32) {
    fs::write(file, "a-token-of-sufficient-length-0123456789\n").expect("written");
    fs::set_permissions(file, Permissions::from_mode(mode)).expect("a mode");
}

const LOOPBACK: &str = "127.0.0.1:$ADMIN";

/// With a token file and more keys of `[admin]`.
fn with_token(listen: &str, more: &str, endpoint: &str) -> Builder {
    Builder::new(&format!(
        "listen = \"127.0.0.1:$PORT\"\nworkers = 1\nstate_dir = \"$DIR/state\"\n\
         [admin]\nlisten = [\"{listen}\"]\ntoken_file = \"$DIR/token\"\n{more}\n{}",
        single(endpoint, "")
    ))
}

#[test]
fn a_token_file_that_others_may_read_is_refused() {
    let origin = Origin::named("blue");
    let builder = with_token(LOOPBACK, "", &origin.at());
    let token = builder.dir().join("token");
    write_token(&token, 0o640);
    let proxy = builder.start();
    for mode in [0o666, 0o604, 0o602] {
        write_token(&token, mode);
        let file = proxy.dir().join(format!("{mode:o}.toml"));
        // On other ports than the proxy that runs.
        let text = format!(
            "listen = \"127.0.0.1:{}\"\nworkers = 1\nstate_dir = \"$DIR/other\"\n\
             admin = {{ listen = \"127.0.0.1:{}\", token_file = \"$DIR/token\" }}\n{}",
            free_port(),
            free_port(),
            single(&origin.at(), "")
        );
        fs::write(&file, proxy.filled(&text)).expect("written");
        let file = file.to_str().expect("UTF-8");
        for arguments in [&["check", file][..], &["run", "-c", file]] {
            let output = command(arguments, proxy.dir());
            assert_eq!(output.code, 1, "{mode:o}: {output:?}");
            assert!(output.stderr.contains("chmod o-rw"), "{output:?}");
        }
    }
    // Nor is it used by a proxy that runs already, or taken up by a reload.
    let reload = Client::new(proxy.admin).ask(&format!(
        "POST /api/v1/reload HTTP/1.1\r\nhost: 127.0.0.1:{}\r\ncontent-length: 0\r\n\
         authorization: Bearer a-token-of-sufficient-length-0123456789\r\n\r\n",
        proxy.admin
    ));
    assert_eq!(reload.status(), 403);
    let text = fs::read_to_string(proxy.file()).expect("the configuration");
    fs::write(proxy.file(), text + "# edited\n").expect("written");
    let error = until("the reload is refused", || {
        let status = proxy.status();
        status["config"]["error"].as_str().map(str::to_owned)
    });
    assert!(error.contains("chmod o-rw"), "{error}");
}

/// The status and the body of `GET path` with this Host and more fields.
fn ask_as(admin: u16, path: &str, host: &str, more: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{more}\r\n");
    let answer = Client::new(admin).ask(&request);
    (answer.status(), answer.text())
}

#[test]
fn health_and_metrics_answer_under_any_host_and_the_rest_under_listed_ones() {
    let origin = Origin::named("blue");
    let builder = with_token(
        LOOPBACK,
        "hosts = [\"cutover.internal\", \"*.ops.test\"]",
        &origin.at(),
    );
    write_token(&builder.dir().join("token"), 0o600);
    let proxy = builder.start();
    let ask = |path, host, more| ask_as(proxy.admin, path, host, more);
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(ask(path, "cutover.prod.svc:9900", "").0, 200, "{path}");
    }
    for host in ["cutover.internal:9900", "CUTOVER.internal", "a.ops.test"] {
        assert_eq!(ask("/api/v1/status", host, "").0, 200, "{host}");
    }
    let machine = machine_name();
    assert_eq!(ask("/api/v1/status", &machine, "").0, 200, "{machine}");
    for (host, more) in [
        ("evil.test", ""),
        ("cutover.internal", "origin: http://evil.test\r\n"),
    ] {
        let (status, text) = ask("/api/v1/status", host, more);
        assert_eq!(status, 403, "{host} {more}");
        assert!(text.contains("admin.hosts"), "{text}");
    }
    let shown = proxy.ask_admin("/api/v1/config").text();
    assert!(shown.contains("\"cutover.internal\""), "{shown}");
}

fn machine_name() -> String {
    let system = rustix::system::uname();
    system.nodename().to_str().expect("ASCII").to_owned()
}

#[test]
fn an_address_that_other_machines_reach_asks_for_the_token() {
    let origin = Origin::named("blue");
    // Bound to every address, which is not loopback, though the test reaches it over that.
    let builder = with_token("127.0.0.1:$ADMIN\", \"0.0.0.0:$PORT2", "", &origin.at());
    write_token(&builder.dir().join("token"), 0o600);
    let proxy = builder.start();
    let ask = |path, more| ask_as(proxy.port2, path, "localhost", more).0;
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(ask(path, ""), 200, "{path}");
    }
    let right = "authorization: Bearer a-token-of-sufficient-length-0123456789\r\n";
    for path in ["/api/v1/status", "/api/v1/config", "/api/v1/explain?url=/"] {
        assert_eq!(ask(path, ""), 401, "{path}");
        assert_eq!(ask(path, "authorization: Bearer no\r\n"), 401, "{path}");
        assert_eq!(ask(path, right), 200, "{path}");
    }
}
