//! A cluster of etcd as its own processes.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Connection, Etcd};
use crate::config::fleet::{EtcdUrl, FleetSpec, OnLost};

/// A port outside the kernel's range for outgoing connections, so that it is still free after a restart.
pub(super) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let start = 10_000 + (std::process::id() % 400) as u16 * 50;
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A cluster of etcd.
pub(in crate::control) struct Cluster {
    pub(super) members: Vec<Member>,
    pub(super) directory: TempDir,
    pub(super) options: Vec<String>,
    pub(super) scheme: &'static str,
}

pub(super) struct Member {
    name: String,
    pub port: u16,
    pub peers: u16,
    process: Option<Child>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for at in 0..self.members.len() {
            self.kill(at);
        }
    }
}

impl Cluster {
    pub(in crate::control) fn start(size: usize, options: &[&str]) -> Self {
        let mut cluster = Self {
            members: Vec::new(),
            directory: tempfile::tempdir().expect("a directory"),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            scheme: "http",
        };
        cluster.members = (0..size)
            .map(|n| Member {
                name: format!("m{n}"),
                port: free_port(),
                peers: free_port(),
                process: None,
            })
            .collect();
        (0..size).for_each(|at| cluster.run(at));
        cluster
    }

    pub(super) fn initial(&self) -> String {
        let url = |m: &Member| format!("{}=http://127.0.0.1:{}", m.name, m.peers);
        self.members.iter().map(url).collect::<Vec<_>>().join(",")
    }

    pub(super) fn data(&self, at: usize) -> String {
        let directory = self.directory.path().join(&self.members[at].name);
        directory.display().to_string()
    }

    pub(super) fn run(&mut self, at: usize) {
        let (initial, data) = (self.initial(), self.data(at));
        let scheme = self.scheme;
        let member = &mut self.members[at];
        let client = format!("{scheme}://127.0.0.1:{}", member.port);
        let peer = format!("http://127.0.0.1:{}", member.peers);
        let process = Command::new("etcd")
            .args(["--name", &member.name, "--data-dir", &data])
            .args(["--logger", "zap", "--initial-cluster", &initial])
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(&self.options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        member.process = Some(process.expect("start etcd"));
    }

    pub(super) fn kill(&mut self, at: usize) {
        if let Some(mut process) = self.members[at].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub(super) fn signal(&self, at: usize, signal: Signal) {
        let process = self.members[at].process.as_ref().expect("it runs");
        kill_process(Pid::from_child(process), signal).expect("signal");
    }

    pub(in crate::control) fn pid(&self, at: usize) -> u32 {
        self.members[at].process.as_ref().expect("it runs").id()
    }

    pub(super) fn ctl(&self, arguments: &[&str]) -> String {
        let endpoint = format!("{}://127.0.0.1:{}", self.scheme, self.members[0].port);
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &endpoint])
            .args(arguments)
            .output()
            .expect("run etcdctl");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(in crate::control) fn fleet(&self) -> FleetSpec {
        let url = |member: &Member| EtcdUrl {
            https: self.scheme == "https",
            host: "127.0.0.1".to_owned(),
            port: member.port,
        };
        FleetSpec {
            etcd: self.members.iter().map(url).collect(),
            name: "front".to_owned(),
            member: None,
            tls: None,
            user: None,
            divide_limits: false,
            on_lost: OnLost::Stay,
            join_wait: Duration::ZERO,
            share: Vec::new(),
        }
    }

    /// The member that a client is connected to.
    pub(super) fn used_by(&self, etcd: &Etcd) -> Option<usize> {
        let Connection::Connected { endpoint, .. } = etcd.connection().borrow().clone() else {
            return None;
        };
        let has = |m: &Member| endpoint.ends_with(&format!(":{}", m.port));
        self.members.iter().position(has)
    }
}
