//! Restarts under load: cutover by takeovers (and a reload between any two of them), nginx by `nginx -s reload`.
//!
//! Clients that keep their connections alive, clients that open one for each request, and WebSockets that talk all the
//! time; what each of them sees of it is counted.

mod clients;
mod sockets;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::cases::Stage;
use crate::peers::{self, Contender, Kind};
use crate::report::Table;
use crate::{Result, cpu};
use clients::{Clients, Tally};
use sockets::{Chat, Choir};

/// How often another process takes over.
const TIMES: u32 = 12;
/// In how long a time.
const LONG: Duration = Duration::from_secs(26);
/// Requests per second.
const RATE: u32 = 2000;
/// WebSockets.
const SOCKETS: usize = 200;
/// Time for processes to come up or to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// A proxy whose process is replaced again and again.
struct House {
    kind: Kind,
    dir: PathBuf,
    at: SocketAddr,
    origin: SocketAddr,
    chat: SocketAddr,
    core: usize,
    /// Every process that was started, the youngest last. nginx has one, its master.
    processes: Vec<Child>,
}

impl Drop for House {
    fn drop(&mut self) {
        for child in &mut self.processes {
            // Gone already, or ended the hard way.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl House {
    fn open(stage: &Stage, contender: &Contender, chat: SocketAddr) -> Result<Self> {
        let dir = stage
            .scratch
            .path()
            .join(format!("takeovers-{}", contender.name));
        fs::create_dir_all(&dir)?;
        let mut house = Self {
            kind: contender.kind.clone(),
            dir,
            at: TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?,
            origin: stage.origin.plain,
            chat,
            core: stage.bench.proxy_core,
            processes: Vec::new(),
        };
        house.write(0)?;
        house.spawn(false)?;
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(house.at).is_err() {
            if Instant::now() > end {
                let log = fs::read_to_string(house.dir.join("output")).unwrap_or_default();
                return Err(format!("{} does not serve\n{log}", contender.name).into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(house)
    }

    fn file(&self) -> PathBuf {
        self.dir.join("proxy.conf")
    }

    /// Writes the file; it is another one for each `n`.
    fn write(&self, n: u32) -> Result<()> {
        let text = match self.kind {
            Kind::Cutover(_) => self.cutover(n),
            _ => self.nginx(n),
        };
        Ok(fs::write(self.file(), text)?)
    }

    fn cutover(&self, n: u32) -> String {
        let Self {
            dir,
            at,
            origin,
            chat,
            ..
        } = self;
        let dir = dir.display();
        format!(
            "listen = \"{at}\"\nworkers = 2\nstate_dir = \"{dir}/state\"\n\
             [service.app]\nstable = \"v1\"\nlabels = {{ edit = \"{n}\" }}\nversions = {{ v1 = [\"{origin}\"] }}\n\
             [service.chat]\npaths = [\"/chat\"]\nversions = {{ v1 = [\"{chat}\"] }}\n"
        )
    }

    fn nginx(&self, n: u32) -> String {
        let Self {
            dir,
            at,
            origin,
            chat,
            ..
        } = self;
        let dir = dir.display();
        let user = if rustix::process::geteuid().is_root() {
            "user root;\n"
        } else {
            ""
        };
        format!(
            "# edit {n}\ndaemon off;\nworker_processes 2;\npid {dir}/pid;\n{user}error_log {dir}/error.log warn;
worker_rlimit_nofile 20000;
events {{ worker_connections 10000; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  keepalive_requests 1000000000; keepalive_timeout 600s;
  upstream origin {{ server {origin}; keepalive 1024; keepalive_timeout 600s; }}
  proxy_http_version 1.1; proxy_set_header Host $http_host;
  server {{
    listen {at};
    location / {{ proxy_set_header Connection \"\"; proxy_pass http://origin; }}
    location /chat {{
      proxy_set_header Connection upgrade; proxy_set_header Upgrade $http_upgrade; proxy_read_timeout 600s;
      proxy_pass http://{chat};
    }}
  }}
}}\n"
        )
    }

    fn spawn(&mut self, takeover: bool) -> Result<()> {
        let mut command = match &self.kind {
            Kind::Cutover(binary) => {
                let mut command = Command::new(binary);
                command.arg("run").args(takeover.then_some("--takeover"));
                command
            }
            _ => {
                let mut command =
                    Command::new(peers::installed("nginx").ok_or("nginx is missing")?);
                command
                    .arg("-p")
                    .arg(&self.dir)
                    .arg("-e")
                    .arg(self.dir.join("error.log"));
                command
            }
        };
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("output"))?;
        command.arg("-c").arg(self.file()).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let child = cpu::on_core(self.core, || Ok(command.spawn()?))?;
        self.processes.push(child);
        Ok(())
    }

    /// Another process serves from now on.
    fn replace(&mut self) -> Result<()> {
        if let Kind::Cutover(_) = self.kind {
            return self.spawn(true);
        }
        let master = self.processes.last().ok_or("no process")?;
        Ok(kill_process(Pid::from_child(master), Signal::HUP)?)
    }

    /// Waits for all but the youngest process; how many did not end in time with exit code 0.
    fn left_badly(&mut self) -> Result<usize> {
        let end = Instant::now() + PATIENCE;
        let youngest = self.processes.len() - 1;
        let mut badly = 0;
        for child in &mut self.processes[..youngest] {
            let status = loop {
                match child.try_wait()? {
                    Some(status) => break Some(status),
                    None if Instant::now() > end => break None,
                    None => thread::sleep(Duration::from_millis(20)),
                }
            };
            let well = status.is_some_and(|s| s.success() && s.signal().is_none());
            badly += usize::from(!well);
        }
        Ok(badly)
    }

    /// How often the log says that a process took over.
    fn taken_over(&self) -> usize {
        let log = fs::read_to_string(self.dir.join("output")).unwrap_or_default();
        log.matches("took over from the running process").count()
    }
}

/// Every proxy that can be replaced while it serves.
pub fn run(stage: &Stage) -> Result<Table> {
    let mut table = Table {
        head: [
            "proxy", "requests", "requests/s", "failed", "kept-alive cut under a request",
            "kept-alive closed unannounced", "WebSockets lost", "longest ms", "processes that ended badly",
        ]
        .map(str::to_owned)
        .to_vec(),
        notes: vec![
            format!(
                "{TIMES} restarts in {} s at {RATE} requests/s; {SOCKETS} WebSockets opened before the first and talking to the end",
                LONG.as_secs()
            ),
            "failed: any request without its whole right answer, but for those that were sent on a kept-alive connection and met its end: these are \"cut under a request\"; \
             \"closed unannounced\": the client saw the close before it sent, without a `connection: close` before"
                .to_owned(),
        ],
        ..Table::default()
    };
    let chat = Chat::open()?;
    for contender in stage.contenders {
        if matches!(
            contender.kind,
            Kind::Nginx { large: false } | Kind::Cutover(_)
        ) {
            let mut row = vec![contender.name.clone()];
            match one(stage, contender, chat.at) {
                Ok(cells) => row.extend(cells),
                Err(error) => row.push(error.to_string()),
            }
            table.rows.push(row);
        }
    }
    Ok(table)
}

fn one(stage: &Stage, contender: &Contender, chat: SocketAddr) -> Result<Vec<String>> {
    let mut house = House::open(stage, contender, chat)?;
    let choir = Choir::gather(house.at, SOCKETS)?;
    let clients = Clients::start(house.at, RATE);
    let began = Instant::now();
    for n in 1..=TIMES {
        let step = LONG / TIMES;
        sleep_until(began + step * n - step / 2);
        if let Kind::Cutover(_) = house.kind {
            house.write(n)?;
        }
        sleep_until(began + step * n - step / 4);
        house.replace()?;
    }
    sleep_until(began + LONG);
    let tally = clients.stop();
    let lost = choir.stop();
    let badly = house.left_badly()?;
    if let Kind::Cutover(_) = house.kind
        && house.taken_over() != TIMES as usize
    {
        return Err(format!("{} takeovers instead of {TIMES}", house.taken_over()).into());
    }
    let Tally {
        done,
        failed,
        cut,
        closed,
        longest,
    } = tally;
    Ok(vec![
        done.to_string(),
        format!("{:.0}", done as f64 / LONG.as_secs_f64()),
        failed.to_string(),
        cut.to_string(),
        closed.to_string(),
        format!("{lost} of {SOCKETS}"),
        longest.as_millis().to_string(),
        if let Kind::Cutover(_) = house.kind {
            badly.to_string()
        } else {
            "–".to_owned()
        },
    ])
}

fn sleep_until(at: Instant) {
    thread::sleep(at.saturating_duration_since(Instant::now()));
}
