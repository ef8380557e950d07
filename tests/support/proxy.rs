//! The real binary, with a configuration file of its own.

use std::io::{PipeWriter, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::client::{self, Client};
use super::metrics::Metrics;
use super::wire::Message;
use super::{PATIENCE, free_port, pause, until, until_within};

/// The path of the program.
pub const BINARY: &str = match option_env!("CUTOVER_BINARY") {
    Some(other) => other,
    None => env!("CARGO_BIN_EXE_cutover"),
};

/// One line of each; services follow.
const HEAD: &str = r#"
listen = "127.0.0.1:$PORT"
admin = "127.0.0.1:$ADMIN"
workers = 2
state_dir = "$DIR/state"
"#;

/// What a command said.
#[derive(Debug)]
pub struct Output {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command of the program to its end.
pub fn command(arguments: &[&str], dir: &Path) -> Output {
    command_in(arguments, dir, Command::new(BINARY))
}

/// As [`command`], in the environment that is given.
pub fn command_in(arguments: &[&str], dir: &Path, mut environment: Command) -> Output {
    let output = environment
        .args(arguments)
        .current_dir(dir)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .expect("run the binary");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A running proxy; killed when dropped. Its log is shown when the test fails.
pub struct Proxy {
    child: Child,
    /// The program that a successor or a restart runs.
    pub binary: PathBuf,
    dir: Arc<TempDir>,
    log: Arc<Mutex<Vec<u8>>>,
    /// `$PORT`
    pub port: u16,
    /// `$PORT2`
    pub port2: u16,
    /// `$ADMIN`
    pub admin: u16,
}

/// A proxy that isn't started yet.
pub struct Builder {
    dir: Arc<TempDir>,
    binary: PathBuf,
    text: String,
    env: Vec<(String, String)>,
    descriptors: Option<u32>,
    read_only: bool,
    small_disk: Option<String>,
    log_to: Option<PipeWriter>,
}

/// A proxy with one listener, admin, two workers, and this rest of the file. In it `$PORT`, `$PORT2`, `$ADMIN` and `$DIR` are replaced.
#[track_caller]
pub fn serve(rest: &str) -> Proxy {
    Builder::new(&format!("{HEAD}{rest}")).start()
}

/// As [`serve`], for one service `app` with one version `v1` at this endpoint.
#[track_caller]
pub fn before(endpoint: &str) -> Proxy {
    serve(&single(endpoint, ""))
}

/// One service `app`, one version `v1` at this endpoint, and more keys of the service.
pub fn single(endpoint: &str, more: &str) -> String {
    format!(
        "[service.app]\nstable = \"v1\"\n{more}\n[service.app.versions]\nv1 = [\"{endpoint}\"]\n"
    )
}

impl Builder {
    /// With a whole file.
    pub fn new(text: &str) -> Self {
        Self {
            dir: Arc::new(tempfile::tempdir().expect("a directory")),
            binary: PathBuf::from(BINARY),
            text: text.to_owned(),
            env: Vec::new(),
            descriptors: None,
            read_only: false,
            small_disk: None,
            log_to: None,
        }
    }

    /// With this whole file instead of the one before.
    pub fn text(mut self, text: &str) -> Self {
        text.clone_into(&mut self.text);
        self
    }

    /// The head of [`serve`], and this rest.
    pub fn rest(rest: &str) -> Self {
        Self::new(&format!("{HEAD}{rest}"))
    }

    /// The directory that `$DIR` stands for.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Another program than the one of this build.
    pub fn binary(mut self, binary: impl Into<PathBuf>) -> Self {
        self.binary = binary.into();
        self
    }

    /// With an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<Path>) -> Self {
        let value = value.as_ref().display().to_string();
        self.env.push((name.to_owned(), value));
        self
    }

    /// With so many open files at most.
    pub fn descriptors(mut self, most: u32) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// With a file that the proxy sees on a read-only file system, as a mounted ConfigMap is.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// With a file system of 64 KiB at this name in its directory, of which a file `filler` takes half.
    pub fn small_disk(mut self, name: &str) -> Self {
        self.small_disk = Some(name.to_owned());
        self
    }

    /// With its log and whatever else it says going into this pipe, which the harness doesn't read.
    pub fn log_to(mut self, pipe: PipeWriter) -> Self {
        self.log_to = Some(pipe);
        self
    }

    /// What the process says goes here.
    fn output(&self) -> [Stdio; 2] {
        let copy = |pipe: &PipeWriter| Stdio::from(pipe.try_clone().expect("a descriptor"));
        match &self.log_to {
            Some(pipe) => [copy(pipe), copy(pipe)],
            None => [Stdio::null(), Stdio::piped()],
        }
    }

    /// The program, by way of a shell in mounts of its own that runs this script first.
    fn after_mounts(script: &str, name: &str, path: PathBuf) -> Command {
        let mut namespace = Command::new("unshare");
        let script = format!("{script} && exec \"$0\" \"$@\"");
        namespace.args([namespaces(), "sh", "-c", &script, BINARY]);
        namespace.env(name, path);
        namespace
    }

    /// The program, by way of a shell where that has to set a limit.
    fn program(&self) -> Command {
        if let Some(name) = &self.small_disk {
            let disk = self.dir.path().join(name);
            let mount = "mkdir -p \"$DISK\" && mount -t tmpfs -o size=64k none \"$DISK\"";
            let fill = "head -c 32768 /dev/zero > \"$DISK/filler\"";
            return Self::after_mounts(&format!("{mount} && {fill}"), "DISK", disk);
        }
        if self.read_only {
            let file = self.dir.path().join("cutover.toml");
            let mount = "mount --bind \"$FILE\" \"$FILE\" && mount -o remount,ro,bind \"$FILE\"";
            return Self::after_mounts(mount, "FILE", file);
        }
        let Some(most) = self.descriptors else {
            return Command::new(&self.binary);
        };
        let mut shell = Command::new("sh");
        let script = format!("ulimit -n {most}; exec \"$0\" \"$@\"");
        shell.args(["-c", &script, BINARY]);
        shell
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> Proxy {
        let mut this = self;
        for _ in 0..4 {
            match this.attempt() {
                Ok(proxy) => return proxy,
                Err(back) => this = back,
            }
        }
        panic!("no free port in four attempts");
    }

    /// Gives the builder back when a port was taken by somebody else in between.
    #[track_caller]
    fn attempt(self) -> Result<Proxy, Self> {
        let (port, port2, admin) = (free_port(), free_port(), free_port());
        let file = self.dir.path().join("cutover.toml");
        let mut child = self.program();
        let [stdout, stderr] = self.output();
        child
            .args(["run", "-c"])
            .arg(&file)
            .current_dir(self.dir.path())
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr);
        std::fs::write(
            &file,
            filled(&self.text, self.dir.path(), [port, port2, admin]),
        )
        .expect("write the configuration");
        let mut child = child.spawn().expect("start the binary");
        let log = collect(&mut child);
        let mut proxy = Proxy {
            child,
            binary: self.binary,
            dir: self.dir,
            log,
            port,
            port2,
            admin,
        };
        let start = Instant::now();
        loop {
            if let Some(status) = proxy.child.try_wait().expect("the child's state") {
                until("the rest of its log", || {
                    (Arc::strong_count(&proxy.log) == 1).then_some(())
                });
                let log = proxy.log();
                assert!(
                    log.contains("ddress already in use"),
                    "it ended: {status}\n{log}"
                );
                return Err(Self {
                    binary: proxy.binary.clone(),
                    dir: proxy.dir.clone(),
                    text: self.text,
                    env: self.env,
                    descriptors: self.descriptors,
                    read_only: self.read_only,
                    small_disk: self.small_disk,
                    log_to: self.log_to,
                });
            }
            if ready(admin) {
                // Not another proxy of another run that took the port in between.
                assert_eq!(proxy.status()["pid"], proxy.child.id());
                return Ok(proxy);
            }
            assert!(start.elapsed() < PATIENCE, "not ready after {PATIENCE:?}");
            pause(Duration::from_millis(5));
        }
    }
}

/// The option of `unshare` for mounts of its own: root needs no namespace of users.
fn namespaces() -> &'static str {
    match rustix::process::getuid().is_root() {
        true => "-m",
        false => "-rm",
    }
}

/// Whether this machine lets a test mount something.
pub fn can_mount() -> bool {
    let tried = Command::new("unshare")
        .args([namespaces(), "mount", "--bind", "/tmp", "/tmp"])
        .output();
    tried.is_ok_and(|output| output.status.success())
}

/// Reads the child's log from a thread, so that it never blocks.
fn collect(child: &mut Child) -> Arc<Mutex<Vec<u8>>> {
    let log = Arc::new(Mutex::new(Vec::new()));
    let Some(mut stderr) = child.stderr.take() else {
        return log;
    };
    let into = log.clone();
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = stderr.read(&mut piece) {
            into.lock().expect("log").extend_from_slice(&piece[..n]);
        }
    });
    log
}

fn filled(text: &str, dir: &Path, [port, port2, admin]: [u16; 3]) -> String {
    text.replace("$PORT2", &port2.to_string())
        .replace("$PORT", &port.to_string())
        .replace("$ADMIN", &admin.to_string())
        .replace("$DIR", &dir.display().to_string())
}

fn ready(admin: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", admin)).is_ok()
        && admin_request(admin, "/readyz").is_some_and(|m| m.status() == 200)
}

/// `/api/v1/status` of the proxy with this admin port; `None` when nothing answers.
pub fn status_of(admin: u16) -> Option<serde_json::Value> {
    let answer = admin_request(admin, "/api/v1/status")?;
    serde_json::from_slice(&answer.body).ok()
}

/// `None` when nothing answers.
fn admin_request(admin: u16, path: &str) -> Option<Message> {
    let socket = std::net::TcpStream::connect(("127.0.0.1", admin)).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut client = Client::over(socket);
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{admin}\r\nconnection: close\r\n\r\n");
    client.try_send(request).ok()?;
    client.try_answer("GET").ok()
}

impl Proxy {
    /// The configuration file.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("cutover.toml")
    }

    /// The text of the configuration file.
    #[track_caller]
    pub fn text(&self) -> String {
        std::fs::read_to_string(self.file()).expect("the configuration")
    }

    /// Runs a command on the control socket.
    pub fn local(&self, arguments: &[&str]) -> Output {
        let file = self.file();
        let place = ["-c", file.to_str().expect("a path in UTF-8")];
        command(&[arguments, &place].concat(), self.dir())
    }

    /// Starts a command on the control socket, with its output in pipes.
    #[track_caller]
    pub fn start_local(&self, arguments: &[&str]) -> Child {
        Command::new(BINARY)
            .args(arguments)
            .arg("-c")
            .arg(self.file())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the binary")
    }

    /// The directory that `$DIR` stands for.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `text` with `$PORT` and the like replaced.
    pub fn filled(&self, text: &str) -> String {
        filled(text, self.dir.path(), [self.port, self.port2, self.admin])
    }

    /// A file as [`serve`] writes it.
    pub fn whole(&self, rest: &str) -> String {
        self.filled(&format!("{HEAD}{rest}"))
    }

    /// Writes the file in place and waits until every worker works by it.
    #[track_caller]
    pub fn edit(&self, rest: &str) {
        let before = self.generation();
        std::fs::write(self.file(), self.whole(rest)).expect("write the configuration");
        until("the edit is adopted", || {
            (self.generation() > before).then_some(())
        });
    }

    /// A new connection.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::new(self.port)
    }

    /// `GET path` on a connection of its own.
    #[track_caller]
    pub fn get(&self, path: &str) -> Message {
        client::get(self.port, path)
    }

    /// `GET path` of the admin API.
    #[track_caller]
    pub fn ask_admin(&self, path: &str) -> Message {
        admin_request(self.admin, path).expect("admin answers")
    }

    /// `/api/v1/status`
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        let answer = self.ask_admin("/api/v1/status");
        serde_json::from_slice(&answer.body).expect("status is JSON")
    }

    /// The generation that every worker has adopted.
    #[track_caller]
    pub fn generation(&self) -> u64 {
        let status = self.status();
        let generation = status["adopted"].as_u64();
        generation.unwrap_or_else(|| panic!("no adopted generation in {status:#}"))
    }

    /// `/metrics`
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.ask_admin("/metrics").text())
    }

    /// Runs a command about this proxy.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let (admin, file) = (format!("127.0.0.1:{}", self.admin), self.file());
        let place = [
            "--admin",
            &admin,
            "-c",
            file.to_str().expect("a path in UTF-8"),
        ];
        command(&[arguments, &place[..]].concat(), self.dir.path())
    }

    /// A process that takes the place of this one, by the file as it is now; its log if it does not come to serve.
    pub fn successor(&self) -> Result<Self, String> {
        let mut next = self.start_successor();
        until("it serves, or ends", || {
            if !next.runs() {
                until("the rest of its log", || {
                    (Arc::strong_count(&next.log) == 1).then_some(())
                });
                return Some(Err(next.log()));
            }
            next.is_ready().then_some(Ok(()))
        })
        .map(|()| next)
    }

    /// A process that is to take the place of this one, by the file as it is now; returns at once.
    pub fn start_successor(&self) -> Self {
        let mut child = self.launch(&["run", "--takeover"]);
        Self {
            log: collect(&mut child),
            child,
            binary: self.binary.clone(),
            dir: self.dir.clone(),
            ..*self
        }
    }

    /// Starts it again, with the same files and ports, after it has ended; returns at once.
    pub fn restart(&mut self) {
        self.child = self.launch(&["run"]);
        self.log = collect(&mut self.child);
    }

    fn launch(&self, options: &[&str]) -> Child {
        let mut child = Command::new(&self.binary);
        child.args(options).arg("-c").arg(self.file());
        child
            .current_dir(self.dir.path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        child.spawn().expect("start the binary")
    }

    /// Whether this process, and no other, answers on the admin API that it is ready. A predecessor that ends may cut the question.
    pub fn is_ready(&self) -> bool {
        let is_own = |status: serde_json::Value| status["pid"] == self.child.id();
        ready(self.admin) && status_of(self.admin).is_some_and(is_own)
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().expect("log")).into_owned()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        self.process_status("VmRSS:") * 1024
    }

    /// How many descriptors the kernel's table for it has room for at the moment.
    pub fn descriptor_table(&self) -> u64 {
        self.process_status("FDSize:")
    }

    /// A number that the kernel reports of its process.
    fn process_status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .expect("the process's status");
        let line = status.lines().find(|l| l.starts_with(name));
        let number = line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok());
        number.expect(name)
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        open.expect("the process's descriptors").count()
    }

    /// Processor time that it has used, in steps of a hundredth of a second.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))
            .expect("the process's state");
        // The name in parentheses may hold spaces: count behind it.
        let (_, rest) = stat.rsplit_once(") ").expect("a name");
        let ticks = rest.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.map(|t| t.parse::<u64>().expect("ticks")).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("a signal");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        // On a machine that is busy the kernel takes seconds to take a process apart.
        until_within(4 * PATIENCE, "the process ends", || {
            self.child.try_wait().expect("the child's state")
        })
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("the child's state").is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the proxy's log ---\n{}", self.log());
        }
    }
}
