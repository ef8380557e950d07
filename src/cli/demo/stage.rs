//! Where the demo plays: a directory with the configuration file, and the proxy as a child.

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
use crate::cli::fault::CommandError;
use crate::cli::proxy::{Proxy, Silence};
use crate::cli::proxy_address::AdminAddress;
use crate::config::paths;

/// Longest time for the proxy to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(5);

/// The service of the demo.
pub(super) const SERVICE: &str = "shop";

/// The directory, the file and the proxy. Dropped, it ends the proxy and removes the directory.
#[derive(Debug)]
pub(super) struct DemoProxy {
    directory: PathBuf,
    /// The file to edit.
    pub file: PathBuf,
    /// Where the proxy listens for traffic.
    pub address: SocketAddr,
    _reserved: Reserved,
    /// Its admin API.
    pub proxy: Proxy,
    child: Child,
}

impl DemoProxy {
    /// Writes the file and starts the proxy.
    ///
    /// # Errors
    /// The port is taken, the directory can't be made, the program can't be started.
    pub(super) fn set(
        origins: &[(&str, SocketAddr)],
        port: Option<u16>,
    ) -> Result<Self, CommandError> {
        let reserved = Reserved::new(port)?;
        let directory = std::env::temp_dir().join(format!("cutover-demo-{}", std::process::id()));
        let made = Self::set_in(&directory, origins, reserved);
        if made.is_err() {
            let _ = fs::remove_dir_all(&directory);
        }
        made
    }

    fn set_in(
        directory: &Path,
        origins: &[(&str, SocketAddr)],
        reserved: Reserved,
    ) -> Result<Self, CommandError> {
        let address = reserved.address;
        let cannot =
            |what: &str, error: std::io::Error| CommandError::new(format!("{what}: {error}"));
        let at = directory.display();
        // Not reused if it is there: whoever made it is not this process.
        let made = fs::DirBuilder::new().mode(0o700).create(directory);
        made.map_err(|e| cannot(&format!("can't make {at}"), e))?;
        let directory = directory
            .canonicalize()
            .map_err(|e| cannot(&format!("can't find {at}"), e))?;
        let file = directory.join("cutover.toml");
        let text = configuration(&directory, origins, address);
        // Whatever the umask: a file that others may write would be refused.
        let opened = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&file);
        opened
            .and_then(|mut opened| opened.write_all(text.as_bytes()))
            .map_err(|e| cannot("can't write the file", e))?;
        let log = File::create(directory.join("proxy.log"));
        let log = log.map_err(|e| cannot("can't write the log", e))?;
        let socket = paths::control_socket(&directory, &file)
            .map_err(|e| cannot("can't name the control socket", e))?;
        let program = std::env::current_exe().map_err(|e| cannot("who am I", e))?;
        let child = Command::new(program)
            .args(["run", "--with-parent", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C is for the demo, which then ends the proxy after its traffic.
            .process_group(0)
            .spawn()
            .map_err(|e| cannot("the proxy can't be started", e))?;
        Ok(Self {
            proxy: Proxy::at(AdminAddress::Unix(socket)),
            directory,
            file,
            address,
            _reserved: reserved,
            child,
        })
    }

    /// Returns once the proxy welcomes traffic.
    ///
    /// # Errors
    /// It ended, or took too long; with what it said.
    pub(super) async fn ready(&mut self) -> Result<ProxyStatus, CommandError> {
        let begun = Instant::now();
        loop {
            match self.proxy.status().await {
                Ok(status) if status.phase == "ready" => return Ok(status),
                Ok(_) | Err(Silence::Nobody(_)) => {}
                Err(Silence::Trouble(fault)) => return Err(fault),
            }
            self.alive()?;
            if begun.elapsed() > PATIENCE {
                return Err(self.quoted(CommandError::new("the proxy does not become ready")));
            }
            sleep(GLANCE).await;
        }
    }

    /// # Errors
    /// The proxy has ended.
    pub(super) fn alive(&mut self) -> Result<(), CommandError> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => {
                Err(self.quoted(CommandError::new(format!("the proxy has ended: {status}"))))
            }
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, CommandError> {
        let waited = self.child.try_wait();
        waited.map_err(|e| CommandError::new(format!("the proxy is lost: {e}")))
    }

    /// With the last lines that the proxy logged.
    fn quoted(&self, fault: CommandError) -> CommandError {
        let log = fs::read_to_string(self.directory.join("proxy.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(20)..].iter();
        last.fold(fault, |fault, line| fault.with(*line))
    }

    /// Ends the proxy as an operator would, and removes the directory.
    ///
    /// # Errors
    /// It did not end by itself, or not well.
    pub(super) async fn strike(mut self) -> Result<(), CommandError> {
        self.signal(Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            match self.ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    let fault = CommandError::new(format!("the proxy did not end well: {status}"));
                    return Err(self.quoted(fault));
                }
                None => sleep(GLANCE).await,
            }
        }
        Err(self.quoted(CommandError::new("the proxy does not stop")))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }

    /// The line of the file that moves traffic: its number, and how it is now.
    pub(super) fn line(&self) -> Option<(usize, String)> {
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
        r#"# The demo's configuration. Edit the marked line, save, and watch.

listen    = "{address}"
state_dir = {state}

[service.{SERVICE}]
stable = "blue"
split  = {{ green = "0%" }}   # <- this line: green gets "5%", "50%", "100%"; back to "0%"

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
