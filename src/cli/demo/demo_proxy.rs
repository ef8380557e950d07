//! The proxy of the demo: a temporary directory with the configuration file, and a child process that runs it.

use std::fs::{self, File};
use std::io::Write as _;
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

/// The name of the demo's service.
pub(super) const SERVICE: &str = "shop";

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
    /// Writes the configuration file and starts the proxy.
    ///
    /// # Errors
    /// The port is in use, a file can't be written, or the program can't be started.
    pub(super) fn start(
        origins: &[(&str, SocketAddr)],
        port: Option<u16>,
    ) -> Result<Self, CommandError> {
        let reserved = Reserved::new(port)?;
        let directory = std::env::temp_dir().join(format!("cutover-demo-{}", std::process::id()));
        let started = Self::start_in(&directory, origins, reserved);
        if started.is_err() {
            let _ = fs::remove_dir_all(&directory);
        }
        started
    }

    fn start_in(
        directory: &Path,
        origins: &[(&str, SocketAddr)],
        reserved: Reserved,
    ) -> Result<Self, CommandError> {
        let address = reserved.address;
        let cannot =
            |what: &str, error: std::io::Error| CommandError::new(format!("{what}: {error}"));
        let at = directory.display();
        // An existing directory is an error: another user may have created it to plant files in it.
        let created = fs::DirBuilder::new().mode(0o700).create(directory);
        created.map_err(|e| cannot(&format!("can't create {at}"), e))?;
        let directory = directory
            .canonicalize()
            .map_err(|e| cannot(&format!("can't find {at}"), e))?;
        let file = directory.join("cutover.toml");
        let text = configuration(&directory, origins, address);
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
        let log = fs::read_to_string(self.directory.join("proxy.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(20)..].iter();
        last.fold(fault, |fault, line| fault.with(*line))
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

    /// The number and the current text of the line in the file that holds the split.
    pub(super) fn split_line(&self) -> Option<(usize, String)> {
        let text = fs::read_to_string(&self.file).ok()?;
        let found = text.lines().enumerate();
        let mut found = found.filter(|(_, line)| line.trim_start().starts_with("split"));
        found
            .next()
            .map(|(at, line)| (at + 1, line.trim().to_owned()))
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

fn configuration(directory: &Path, origins: &[(&str, SocketAddr)], address: SocketAddr) -> String {
    let state = toml::Value::from(directory.display().to_string());
    let mut text = format!(
        r#"# The configuration of `cutover demo`. Edit the marked line, save, and watch the traffic.

listen    = "{address}"
state_dir = {state}

[service.{SERVICE}]
stable = "blue"
split = {{ green = "0%" }}   # <- edit: "5%", "50%", "100%", back to "0%"

[service.{SERVICE}.versions]
"#
    );
    for (name, origin) in origins {
        text += &format!("{name:<5} = [\"{origin}\"]\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_valid_and_names_both_origins() {
        let origins = [
            ("blue", "127.0.0.1:1".parse().unwrap()),
            ("green", "127.0.0.1:2".parse().unwrap()),
        ];
        let address = "127.0.0.1:8080".parse().unwrap();
        let text = configuration(Path::new("/tmp/with \"quotes\""), &origins, address);
        let spec = crate::config::parse(&text, "demo").expect(&text);
        assert_eq!(spec.state_dir.unwrap(), Path::new("/tmp/with \"quotes\""));
        let names = spec.services[0].versions.iter().map(|v| v.name.as_str());
        assert_eq!(names.collect::<Vec<_>>(), ["blue", "green"]);
    }
}
