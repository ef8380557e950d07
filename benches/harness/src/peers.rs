//! The proxies under test: equal duties, one worker, started by hand with files of their own.
//!
//! Equal duties: keep-alive on both sides without a ceiling on requests, a pool of upstream
//! connections that never overflows, `x-forwarded-for`, `host` passed on, no access log.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::load::{self, Load};
use crate::{Result, cpu};

/// Which program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// nginx, its proxy buffers as they come or of 64 KiB.
    Nginx {
        /// 64 KiB buffers.
        large: bool,
    },
    /// HAProxy.
    Haproxy,
    /// A built cutover.
    Cutover(PathBuf),
    /// The byte copy, which is no proxy: only `scale` starts it.
    Copy,
}

/// A program with its name in tables.
#[derive(Clone, Debug)]
pub struct Contender {
    /// Name in tables, unique.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// With the limits per version that cutover has by default, not without a ceiling. The others have none by default.
    pub default_limits: bool,
}

/// A directory for the run's files, removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A file in it with this content.
    pub fn file(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::write(&path, content)?;
        Ok(path)
    }

    /// A directory in it.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.0.join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Makes one, with a certificate in it.
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("cutover-bench-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        let scratch = Self(path);
        let (key, cert) = (scratch.0.join("key.pem"), scratch.0.join("cert.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
            .args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"])
            .args(["-subj", "/CN=localhost", "-addext"])
            .arg("subjectAltName=DNS:localhost,DNS:bench.local,IP:127.0.0.1")
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&cert)
            .output()
            .map_err(|e| format!("openssl makes the certificate, but: {e}"))?;
        if !made.status.success() {
            return Err(format!("openssl: {}", String::from_utf8_lossy(&made.stderr)).into());
        }
        let both = [fs::read(&cert)?, fs::read(&key)?].concat();
        let both_path = scratch.0.join("both.pem");
        fs::write(&both_path, both)?;
        for secret in [&key, &both_path] {
            fs::set_permissions(secret, fs::Permissions::from_mode(0o600))?;
        }
        Ok(scratch)
    }
}

impl Scratch {
    /// Where.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left in a temporary directory does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running proxy or origin; ended when dropped.
pub struct Running {
    child: Child,
    /// The process and its descendants.
    pub pids: Vec<u32>,
    /// Clear text HTTP/1.
    pub plain: SocketAddr,
    /// TLS with HTTP/1 and HTTP/2 by ALPN.
    pub tls: SocketAddr,
    /// Clear text HTTP/2 by prior knowledge.
    pub h2c: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(3));
    }
}

impl Running {
    /// Asks it to end and gives it this long.
    pub fn end(mut self, patience: Duration) {
        self.stop(patience);
    }

    fn stop(&mut self, patience: Duration) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let end = Instant::now() + patience;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// An address that nobody listens at.
pub fn free_address() -> Result<SocketAddr> {
    let [address] = free_addresses()?;
    Ok(address)
}

/// As [`free_address`], several that differ.
pub fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    // All are bound before the first is free again: the kernel may offer that one once more.
    let bound: Vec<_> = (0..N)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<std::io::Result<_>>()?;
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for (address, listener) in addresses.iter_mut().zip(&bound) {
        *address = listener.local_addr()?;
    }
    Ok(addresses)
}

/// Starts the origin (this program again) on `core`, at so many addresses with one port.
pub fn start_origin(core: usize, addresses: usize) -> Result<Running> {
    start_origin_at(free_address()?, core, addresses)
}

/// As [`start_origin`], at this address.
pub fn start_origin_at(at: SocketAddr, core: usize, addresses: usize) -> Result<Running> {
    let child = Command::new(std::env::current_exe()?)
        .args(["origin", "--port", &at.port().to_string()])
        .args(["--core", &core.to_string()])
        .args(["--addresses", &addresses.to_string()])
        .stdout(Stdio::null())
        .spawn()?;
    let mut running = Running {
        child,
        pids: Vec::new(),
        plain: at,
        tls: at,
        h2c: at,
    };
    running.wait_until_ready("origin", Path::new("/dev/null"))?;
    Ok(running)
}

/// Starts a proxy before `origin` on `core`.
pub fn start(
    contender: &Contender,
    scratch: &Scratch,
    origin: SocketAddr,
    core: usize,
    workers: usize,
) -> Result<Running> {
    let dir = scratch.dir(&contender.name)?;
    let [plain, tls, other] = free_addresses()?;
    let h2c = match contender.kind {
        // Both protocols on one clear text port.
        Kind::Cutover(_) => plain,
        _ => other,
    };
    let ports = Ports {
        plain,
        tls,
        h2c,
        origin,
        workers,
        default_limits: contender.default_limits,
    };
    let command = command(&contender.kind, &ports, &dir, &scratch.0)?;
    launch(&contender.name, command, &dir, core, [plain, tls, h2c])
}

/// Starts a proxy by this command on `core` and waits until it serves at the first of its addresses (see [`Running`]).
pub fn launch(
    name: &str,
    mut command: Command,
    dir: &Path,
    core: usize,
    [plain, tls, h2c]: [SocketAddr; 3],
) -> Result<Running> {
    let log = dir.join("output");
    let output = fs::File::create(&log)?;
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let child = cpu::on_core(core, || {
        let program = command.get_program().to_owned();
        command
            .spawn()
            .map_err(|e| format!("can't start {}: {e}", program.display()).into())
    })?;
    let mut running = Running {
        child,
        pids: Vec::new(),
        plain,
        tls,
        h2c,
    };
    running.wait_until_ready(name, &log)?;
    Ok(running)
}

impl Running {
    /// Waits for the first right answer, then takes down the family of processes.
    fn wait_until_ready(&mut self, name: &str, log: &Path) -> Result<()> {
        let probe = Load {
            target: self.plain,
            connections: 1,
            request: load::get("/1k", ""),
            body: 1024,
            tls: None,
            fresh: false,
            rate: None,
            warm_up: Duration::ZERO,
            length: Duration::from_millis(5),
        };
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let Err(error) = load::run(&probe, |_| {}) else {
                break;
            };
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                let output = fs::read_to_string(log).unwrap_or_default();
                let why = ended.map_or_else(|| error.to_string(), |status| status.to_string());
                return Err(format!("{name} doesn't serve: {why}\n{output}").into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.pids = cpu::family(Pid::from_child(&self.child));
        Ok(())
    }
}

/// Writes the configuration and says how the program is started with it.
fn command(kind: &Kind, ports: &Ports, dir: &Path, certs: &Path) -> Result<Command> {
    let missing = |name: &str| format!("{name} is missing");
    let file = dir.join("cutover-bench.conf");
    let (program, text, arguments): (PathBuf, String, Vec<PathBuf>) = match kind {
        Kind::Nginx { large } => (
            installed("nginx").ok_or_else(|| missing("nginx"))?,
            nginx(ports, dir, certs, *large)?,
            nginx_arguments(dir, &file).into(),
        ),
        Kind::Haproxy => (
            installed("haproxy").ok_or_else(|| missing("haproxy"))?,
            haproxy(ports, certs)?,
            vec!["-db".into(), "-f".into(), file.clone()],
        ),
        Kind::Cutover(binary) => (
            binary.clone(),
            cutover(ports, dir, certs),
            vec!["run".into(), "-c".into(), file.clone()],
        ),
        Kind::Copy => return Err("the byte copy takes part in no case but `scale`".into()),
    };
    fs::write(&file, text)?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

/// Arguments that start nginx with a configuration, its files in `dir`.
pub fn nginx_arguments(dir: &Path, configuration: &Path) -> [PathBuf; 6] {
    [
        "-p".into(),
        dir.into(),
        "-e".into(),
        dir.join("error.log"),
        "-c".into(),
        configuration.into(),
    ]
}

/// Where a program is: on the path, or where Debian keeps servers and not every user's path leads.
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

struct Ports {
    plain: SocketAddr,
    tls: SocketAddr,
    h2c: SocketAddr,
    origin: SocketAddr,
    workers: usize,
    default_limits: bool,
}

fn nginx(ports: &Ports, dir: &Path, certs: &Path, large: bool) -> Result<String> {
    let (dir, certs) = (dir.display(), certs.display());
    let Ports {
        plain,
        tls,
        h2c,
        origin,
        workers,
        default_limits: _,
    } = ports;
    let mut conf = format!("daemon off;\nworker_processes {workers};\npid {dir}/pid;\n");
    if rustix::process::geteuid().is_root() {
        conf.push_str("user root;\n");
    }
    write!(
        conf,
        "error_log {dir}/error.log warn;
worker_rlimit_nofile 20000;
events {{ worker_connections 19000; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  keepalive_requests 1000000000; keepalive_timeout 600s; client_max_body_size 0;
  ssl_certificate {certs}/cert.pem; ssl_certificate_key {certs}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;
  upstream origin {{
    server {origin}; keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 600s;
  }}
  upstream h2c {{
    server {origin}; keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 600s;
  }}
  proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
"
    )?;
    if large {
        conf.push_str("  proxy_buffer_size 64k; proxy_buffers 16 64k; proxy_busy_buffers_size 128k; client_body_buffer_size 64k;\n");
    }
    let upgrade = "proxy_set_header Connection upgrade; proxy_set_header Upgrade $http_upgrade; proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
    for listen in [
        plain.to_string(),
        format!("{tls} ssl http2"),
        format!("{h2c} http2"),
    ] {
        writeln!(
            conf,
            "  server {{ listen {listen}; location / {{ proxy_pass http://origin; }} location /h2c {{ grpc_pass grpc://h2c; grpc_set_header Host $http_host; grpc_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} location /ws {{ {upgrade} proxy_pass http://origin; }} }}"
        )?;
    }
    conf.push_str("}\n");
    Ok(conf)
}

fn haproxy(ports: &Ports, certs: &Path) -> Result<String> {
    let Ports {
        plain,
        tls,
        h2c,
        origin,
        workers,
        default_limits: _,
    } = ports;
    let mut conf = String::new();
    write!(
        conf,
        "global
  nbthread {workers}
  maxconn 16000
  no strict-limits
defaults
  mode http
  option http-keep-alive
  http-reuse always
  option forwardfor
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
frontend clients
  bind {plain}
  bind {tls} ssl crt {}/both.pem alpn h2,http/1.1
  bind {h2c} proto h2
  use_backend h2c if {{ path_beg /h2c/ }}
  default_backend origin
backend h2c
  server origin {origin} proto h2 pool-purge-delay 600s
backend origin
  server origin {origin} pool-purge-delay 600s
",
        certs.display()
    )?;
    Ok(conf)
}

fn cutover(ports: &Ports, dir: &Path, certs: &Path) -> String {
    let (dir, certs) = (dir.display(), certs.display());
    let Ports {
        plain,
        tls,
        h2c: _,
        origin,
        workers,
        default_limits,
    } = ports;
    let limits = |service: &str| match default_limits {
        true => String::new(),
        false => {
            format!("[service.{service}.limits]\nconnections = 0\npending = 0\nrequests = 0\n")
        }
    };
    let (app_limits, h2c_limits) = (limits("app"), limits("h2c"));
    format!(
        "workers = {workers}
state_dir = \"{dir}\"

[listen.http]
bind = \"{plain}\"

[listen.https]
bind = \"{tls}\"
protocols = [\"h1\", \"h2\"]
[[listen.https.cert]]
cert = \"{certs}/cert.pem\"
key = \"{certs}/key.pem\"

[service.app]
stable = \"v1\"

{app_limits}
[service.app.versions]
v1 = [\"{origin}\"]

[service.h2c]
paths = [\"/h2c/*\"]
stable = \"v1\"

{h2c_limits}
[service.h2c.versions]
v1 = [\"h2c://{origin}\"]
"
    )
}
