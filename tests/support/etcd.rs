//! A real etcd of one member, if it is installed.

use std::net::TcpStream;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::{Ended, free_port, until};

/// A running etcd. Dropping it kills it and removes its data.
pub struct Etcd {
    process: Option<Ended>,
    port: u16,
    peers: u16,
    data: TempDir,
}

impl Etcd {
    /// Starts etcd; `None`, and a message, where it isn't installed.
    pub fn start() -> Option<Self> {
        if Command::new("etcd").arg("--version").output().is_err() {
            eprintln!("skipped: etcd isn't installed");
            return None;
        }
        let mut etcd = Self {
            process: None,
            port: free_port(),
            peers: free_port(),
            data: tempfile::tempdir().expect("a directory"),
        };
        etcd.run();
        Some(etcd)
    }

    /// Starts it, again with the same data.
    pub fn run(&mut self) {
        let url = self.url();
        let peers = format!("http://127.0.0.1:{}", self.peers);
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(self.data.path())
            .args(["--name", "one", "--unsafe-no-fsync", "--logger", "zap"])
            .args(["--listen-client-urls", &url])
            .args(["--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peers])
            .args(["--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("one={peers}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.process = Some(Ended(command.spawn().expect("start etcd")));
        until("etcd listens", || {
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }

    /// Kills it. Its data stays.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}
