//! The proxy of the demo: a temporary directory with the configuration file, and a child process that runs it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::port::Reserved;
use crate::admin::status::ProxyStatus;
use crate::cli::error::CommandError;
use crate::cli::proxy::{Proxy, ProxyError};
use crate::cli::proxy_address::AdminAddress;
use crate::config::paths;

/// Time limit for the proxy to start, and for it to stop.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Interval between two checks of the child while waiting for it.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Number of names that are tried for the directory. Other demos may have taken some: a killed one with the same process ID, or one
/// in another PID namespace.
const NAMES: usize = 16;

/// The proxy's child process with its directory. Dropping it kills the process and removes the directory.
#[derive(Debug)]
pub(super) struct DemoProxy {
    directory: PathBuf,
    /// The configuration file, which the user edits.
    pub file: PathBuf,
    /// The address of the proxy's listener.
    pub address: SocketAddr,
    _reserved: Reserved,
    /// The proxy's admin API.
    pub admin: Proxy,
    child: Child,
}

impl DemoProxy {
    /// Writes the configuration file and starts the proxy. `configuration` makes the text from the directory and the address of
    /// the listener.
    ///
    /// # Errors
    /// The port is in use, a file can't be written, or the program can't be started.
    pub(super) fn start(
        configuration: impl FnOnce(&Path, SocketAddr) -> String,
        port: Option<u16>,
    ) -> Result<Self, CommandError> {
        let reserved = Reserved::new(port)?;
        let directory = new_directory()?;
        let started = Self::start_in(&directory, configuration, reserved);
        if started.is_err() {
            let _ = fs::remove_dir_all(&directory);
        }
        started
    }

    fn start_in(
        directory: &Path,
        configuration: impl FnOnce(&Path, SocketAddr) -> String,
        reserved: Reserved,
    ) -> Result<Self, CommandError> {
        let address = reserved.address;
        let cannot =
            |what: &str, error: std::io::Error| CommandError::new(format!("{what}: {error}"));
        let at = directory.display();
        let directory = directory
            .canonicalize()
            .map_err(|e| cannot(&format!("can't find {at}"), e))?;
        let file = directory.join("cutover.toml");
        let text = configuration(&directory, address);
        // The mode is set in spite of the umask, because the proxy refuses a file that others can write.
        let opened = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&file);
        opened
            .and_then(|mut opened| opened.write_all(text.as_bytes()))
            .map_err(|e| cannot("can't write the configuration file", e))?;
        let log = File::create(directory.join("proxy.log"));
        let log = log.map_err(|e| cannot("can't create the proxy's log", e))?;
        let socket = paths::control_socket(&directory, &file)
            .map_err(|e| cannot("can't name the control socket", e))?;
        let program =
            std::env::current_exe().map_err(|e| cannot("can't find this program's path", e))?;
        let child = Command::new(program)
            .args(["run", "--with-parent", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C goes to the foreground process group. The proxy must not get it: the demo stops its traffic first.
            .process_group(0)
            .spawn()
            .map_err(|e| cannot("can't start the proxy", e))?;
        Ok(Self {
            admin: Proxy::at(AdminAddress::Unix(socket)),
            directory,
            file,
            address,
            _reserved: reserved,
            child,
        })
    }

    /// Waits until the proxy is ready for traffic.
    ///
    /// # Errors
    /// The proxy exited or is not ready in time; the error quotes its log.
    pub(super) async fn ready(&mut self) -> Result<ProxyStatus, CommandError> {
        let begun = Instant::now();
        loop {
            match self.admin.status().await {
                Ok(status) if status.phase == "ready" => return Ok(status),
                Ok(_) | Err(ProxyError::Unreachable(_)) => {}
                Err(ProxyError::Failed(fault)) => return Err(fault),
            }
            self.check_alive()?;
            if begun.elapsed() > TIMEOUT {
                return Err(self.with_log(CommandError::new(format!(
                    "the proxy is not ready after {TIMEOUT:?}"
                ))));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Checks that the proxy is still running.
    ///
    /// # Errors
    /// The proxy has exited.
    fn check_alive(&mut self) -> Result<(), CommandError> {
        match self.exit_status()? {
            None => Ok(()),
            Some(status) => {
                Err(self.with_log(CommandError::new(format!("the proxy exited: {status}"))))
            }
        }
    }

    fn exit_status(&mut self) -> Result<Option<ExitStatus>, CommandError> {
        let waited = self.child.try_wait();
        waited.map_err(|e| CommandError::new(format!("can't wait for the proxy: {e}")))
    }

    /// Adds the last lines of the proxy's log to an error.
    fn with_log(&self, fault: CommandError) -> CommandError {
        last_lines(&self.directory.join("proxy.log"), fault)
    }

    /// Stops the proxy with SIGTERM, as an operator would, and removes the directory.
    ///
    /// # Errors
    /// The proxy does not exit in time, or not with success.
    pub(super) async fn shutdown(mut self) -> Result<(), CommandError> {
        self.signal(Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < TIMEOUT {
            match self.exit_status()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    let fault = CommandError::new(format!("the proxy failed: {status}"));
                    return Err(self.with_log(fault));
                }
                None => sleep(POLL_INTERVAL).await,
            }
        }
        Err(self.with_log(CommandError::new(format!(
            "the proxy did not stop within {TIMEOUT:?}"
        ))))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }

    /// The current text of the file, by lines; empty while it can't be read.
    pub(super) fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The number and the current text of the first line with this key.
    pub(super) fn line_of(&self, key: &str) -> Option<(usize, String)> {
        let lines = (1..).zip(self.lines());
        let mut found = lines.filter(|(_, line)| line.trim_start().starts_with(key));
        found
            .next()
            .map(|(number, line)| (number, line.trim().to_owned()))
    }
}

impl Drop for DemoProxy {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Adds the last lines of a log to an error.
pub(super) fn last_lines(log: &Path, fault: CommandError) -> CommandError {
    let log = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    let last = lines[lines.len().saturating_sub(20)..].iter();
    last.fold(fault, |fault, line| fault.with(*line))
}

/// Creates the directory of a demo, which only this user can enter.
pub(super) fn new_directory() -> Result<PathBuf, CommandError> {
    let pid = std::process::id();
    let mut number = 0;
    loop {
        let name = match number {
            0 => format!("cutover-demo-{pid}"),
            _ => format!("cutover-demo-{pid}-{number}"),
        };
        let directory = std::env::temp_dir().join(name);
        // An existing directory isn't used: another user may have created it to plant files in it.
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => return Ok(directory),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && number < NAMES => number += 1,
            Err(error) => {
                let at = directory.display();
                return Err(CommandError::new(format!("can't create {at}: {error}")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_exists_is_not_used() {
        let first = new_directory().unwrap();
        let second = new_directory().unwrap();
        assert_ne!(first, second);
        for directory in [first, second] {
            fs::remove_dir(directory).unwrap();
        }
    }
}
