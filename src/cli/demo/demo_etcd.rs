//! The etcd of a demo with a fleet: the one that is installed, with its data in a temporary directory.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::time::{Instant, sleep};

use super::demo_proxy::{last_lines, new_directory};
use super::port::Reserved;
use crate::cli::error::CommandError;

/// The program, as it is looked up in `PATH`.
const PROGRAM: &str = "etcd";

/// Time limit for etcd to start.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Interval between two checks while etcd starts.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running etcd of one member. Dropping it kills the process and removes its data.
#[derive(Debug)]
pub(super) struct DemoEtcd {
    directory: PathBuf,
    clients: Reserved,
    _peers: Reserved,
    child: Child,
}

impl DemoEtcd {
    /// Starts etcd on free ports of 127.0.0.1.
    ///
    /// # Errors
    /// etcd isn't installed, or can't be started.
    pub(super) fn start() -> Result<Self, CommandError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|dir| dir.join(PROGRAM).is_file()) {
            return Err(missing());
        }
        let (clients, peers) = (Reserved::new(Some(0))?, Reserved::new(Some(0))?);
        let directory = new_directory()?;
        match Self::spawn(&directory, &clients, &peers) {
            Ok(child) => Ok(Self {
                directory,
                clients,
                _peers: peers,
                child,
            }),
            Err(error) => {
                let _ = fs::remove_dir_all(&directory);
                Err(CommandError::new(format!("can't start etcd: {error}")))
            }
        }
    }

    fn spawn(directory: &Path, clients: &Reserved, peers: &Reserved) -> std::io::Result<Child> {
        let log = File::create(directory.join("etcd.log"))?;
        let [client, peer] = [clients, peers].map(|port| format!("http://{}", port.address));
        // This program becomes etcd, after it has asked the kernel to end it with its parent.
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["demo", "--become-etcd", "--name", "demo", "--data-dir"])
            .arg(directory.join("data"))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("demo={peer}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C goes to the foreground process group. The proxies are stopped first.
            .process_group(0);
        let is_option = |name: &OsString| {
            let name = name.as_encoded_bytes();
            name.starts_with(b"ETCD_") && name != b"ETCD_UNSUPPORTED_ARCH"
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_option(name)) {
            command.env_remove(name);
        }
        command.spawn()
    }

    /// Waits until etcd accepts connections.
    ///
    /// # Errors
    /// etcd has exited, or doesn't listen in time; the error quotes its log.
    pub(super) async fn ready(&mut self) -> Result<(), CommandError> {
        let begun = Instant::now();
        let log = self.directory.join("etcd.log");
        while TcpStream::connect(self.clients.address).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                let error = CommandError::new(format!("etcd exited: {status}"));
                return Err(last_lines(&log, error));
            }
            if begun.elapsed() > TIMEOUT {
                let error = CommandError::new(format!("etcd doesn't listen after {TIMEOUT:?}"));
                return Err(last_lines(&log, error));
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// The URL at which the proxies connect to etcd.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.clients.address)
    }
}

impl Drop for DemoEtcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Replaces this process by etcd, which the kernel ends when the parent ends.
pub(super) fn become_etcd(arguments: &[OsString]) -> CommandError {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return CommandError::new(format!("can't watch the parent process: {error}"));
    }
    let error = Command::new(PROGRAM).args(arguments).exec();
    CommandError::new(format!("can't run etcd: {error}"))
}

/// The error of a demo without etcd, with advice.
fn missing() -> CommandError {
    CommandError::new("--fleet needs etcd, which is not in PATH")
        .with("on Debian and Ubuntu: apt-get install etcd-server")
        .with("elsewhere: https://github.com/etcd-io/etcd/releases")
}
