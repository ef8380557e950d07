//! A real etcd of one member or of several, if it is installed.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{Ended, free_port, until};

/// A running etcd. Dropping it kills it and removes its data.
pub struct Etcd {
    members: Vec<Member>,
    options: Vec<String>,
    data: TempDir,
    /// Name and password for `etcdctl`.
    user: Option<&'static str>,
}

struct Member {
    process: Option<Ended>,
    port: u16,
    peers: u16,
}

impl Etcd {
    /// Starts etcd with one member; `None`, and a message, where it isn't installed.
    pub fn start() -> Option<Self> {
        Self::cluster(1, &[])
    }

    /// Starts an etcd cluster of this size; every member gets `options` on its command line.
    pub fn cluster(members: usize, options: &[&str]) -> Option<Self> {
        if Command::new("etcd").arg("--version").output().is_err() {
            eprintln!("skipped: etcd isn't installed");
            return None;
        }
        let member = |_| Member {
            process: None,
            port: free_port(),
            peers: free_port(),
        };
        let mut etcd = Self {
            members: (0..members).map(member).collect(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            data: tempfile::tempdir().expect("a directory"),
            user: None,
        };
        etcd.run();
        Some(etcd)
    }

    /// Starts the members that don't run, again with the same data, and waits until they listen.
    pub fn run(&mut self) {
        (0..self.members.len()).for_each(|at| self.launch(at));
        for port in self.ports() {
            until("etcd listens", || {
                TcpStream::connect(("127.0.0.1", port)).ok()
            });
        }
    }

    /// Starts a member, unless it runs.
    pub fn launch(&mut self, at: usize) {
        if self.members[at].process.is_some() {
            return;
        }
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (client, peers) = (url(self.members[at].port), url(self.members[at].peers));
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(self.data_of(at))
            .args(["--name", &format!("m{at}")])
            .args(["--unsafe-no-fsync", "--logger", "zap"])
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peers])
            .args(["--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &self.initial()])
            .args(&self.options)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.members[at].process = Some(Ended(command.spawn().expect("start etcd")));
    }

    fn initial(&self) -> String {
        let members = self.members.iter().enumerate();
        let urls = members.map(|(at, m)| format!("m{at}=http://127.0.0.1:{}", m.peers));
        urls.collect::<Vec<_>>().join(",")
    }

    fn data_of(&self, at: usize) -> PathBuf {
        self.data.path().join(format!("m{at}"))
    }

    /// Kills all members. Their data stays.
    pub fn kill(&mut self) {
        self.members.iter_mut().for_each(|m| m.process = None);
    }

    /// Whether one of its members was started, and not killed since.
    pub fn runs(&self) -> bool {
        self.members.iter().any(|member| member.process.is_some())
    }

    /// `etcdctl` logs in as this user, with this password, from now on.
    pub fn log_in_as(&mut self, user: &'static str) {
        self.user = Some(user);
    }

    /// Kills one member. Its data stays.
    pub fn kill_member(&mut self, at: usize) {
        self.members[at].process = None;
    }

    /// Sends a signal to a member, if it runs.
    pub fn signal(&self, at: usize, signal: Signal) {
        if let Some(process) = &self.members[at].process {
            kill_process(Pid::from_child(&process.0), signal).expect("a signal");
        }
    }

    /// The member that leads the others, if there is one now.
    pub fn leader(&self) -> Option<usize> {
        let status = self.ctl_output(&["endpoint", "status", "-w", "json"]);
        let status: Value = serde_json::from_str(&status).ok()?;
        let leads =
            |of: &&Value| -> bool { of["Status"]["leader"] == of["Status"]["header"]["member_id"] };
        let leader = status.as_array()?.iter().find(leads)?;
        let url = leader["Endpoint"].as_str()?;
        let is_of = |port: &u16| url.ends_with(&format!(":{port}"));
        self.ports().iter().position(is_of)
    }

    /// Where its members listen for clients.
    pub fn ports(&self) -> Vec<u16> {
        self.members.iter().map(|member| member.port).collect()
    }

    /// Where clients find its first member.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.members[0].port)
    }

    /// Runs `etcdctl`.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = self.ctl_command();
        let output = command.args(arguments).output().expect("etcdctl runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The output of `etcdctl`, even if it fails.
    pub fn ctl_output(&self, arguments: &[&str]) -> String {
        let mut command = self.ctl_command();
        let output = command.args(arguments).output().expect("etcdctl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn ctl_command(&self) -> Command {
        let urls = { self.ports().into_iter() }.map(|port| format!("http://127.0.0.1:{port}"));
        self.ctl_of(&urls.collect::<Vec<_>>().join(","))
    }

    fn ctl_of(&self, endpoints: &str) -> Command {
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .args(["--command-timeout", "3s"])
            .args(["--endpoints", endpoints])
            .args(self.user.iter().flat_map(|user| ["--user", user]));
        command
    }

    /// A key's value, as text.
    pub fn value(&self, key: &str) -> String {
        self.ctl_output(&["get", key, "--print-value-only"])
    }

    /// The values that a key has had after this revision, with their revisions, the oldest first; as far as etcd answers and has
    /// them.
    pub fn history(&self, key: &str, after: i64) -> Vec<(i64, String)> {
        let mut found = Vec::new();
        let mut get = vec!["get".to_owned(), key.to_owned(), "-w=json".to_owned()];
        loop {
            let arguments: Vec<_> = get.iter().map(String::as_str).collect();
            let answer = self.ctl_output(&arguments);
            let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
            let entry = &answer["kvs"][0];
            let Some(revision) = entry["mod_revision"].as_i64().filter(|r| *r > after) else {
                break;
            };
            let value = entry["value"].as_str().unwrap_or_default();
            let value = STANDARD.decode(value).expect("base64");
            found.push((revision, String::from_utf8(value).expect("text")));
            get.truncate(3);
            get.push(format!("--rev={}", revision - 1));
        }
        found.reverse();
        found
    }

    /// The present revision, if etcd answers.
    fn revision(&self) -> Option<i64> {
        let answer = self.ctl_output(&["get", "revision", "-w", "json"]);
        let answer: Value = serde_json::from_str(&answer).ok()?;
        answer["header"]["revision"].as_i64()
    }

    /// Makes etcd forget all former values. Returns whether it did.
    pub fn compact(&self) -> bool {
        let revision = self.revision().map(|revision| revision.to_string());
        revision.is_some_and(|r| {
            self.ctl_output(&["compact", "--physical", &r])
                .contains("compacted")
        })
    }

    /// Writes values of this size until the quota is used up, or etcd doesn't answer.
    pub fn fill(&self, size: usize) {
        let file = self.data.path().join("filler");
        std::fs::write(&file, "x".repeat(size)).expect("written");
        // More than a quota of any test.
        for _ in 0..50 {
            let value = std::fs::File::open(&file).expect("the file");
            let mut command = self.ctl_command();
            let put = command.args(["put", "/other"]).stdin(value).output();
            if !put.expect("etcdctl runs").status.success() {
                return;
            }
        }
    }

    /// Makes room again after [`Self::fill`]. Returns whether all of its members have some.
    pub fn empty(&self) -> bool {
        self.compact();
        let urls = self
            .members
            .iter()
            .map(|m| format!("http://127.0.0.1:{}", m.port));
        // One after the other: one that doesn't answer must not keep the rest from it.
        let is_done = |url: String| {
            let mut command = self.ctl_of(&url);
            let output = command.arg("defrag").output().expect("etcdctl runs");
            output.status.success()
        };
        let are_done: Vec<bool> = urls.map(is_done).collect();
        self.ctl_output(&["alarm", "disarm"]);
        are_done.iter().all(|is_done| *is_done)
            && self.ctl_output(&["put", "/other", "x"]) == "OK\n"
    }

    /// Writes a backup. Returns its file.
    #[track_caller]
    pub fn back_up(&self) -> PathBuf {
        self.try_back_up(0).expect("a backup")
    }

    /// Writes a backup of what this member has. Returns its file.
    pub fn try_back_up(&self, at: usize) -> Option<PathBuf> {
        let file = self.data.path().join("backup");
        let url = format!("http://127.0.0.1:{}", self.members[at].port);
        let mut command = self.ctl_of(&url);
        let output = command.args(["snapshot", "save"]).arg(&file).output();
        let is_saved = output.expect("etcdctl runs").status.success();
        is_saved.then_some(file)
    }

    /// Replaces the data of all members by those of a backup, and starts them again.
    pub fn restore(&mut self, backup: &Path) {
        self.kill();
        self.replace_data(backup);
        self.run();
    }

    /// Replaces the data of all members, which must not run.
    #[track_caller]
    pub fn replace_data(&self, backup: &Path) {
        for (at, member) in self.members.iter().enumerate() {
            let data = self.data_of(at);
            std::fs::remove_dir_all(&data).expect("removed");
            let peers = format!("http://127.0.0.1:{}", member.peers);
            let mut command = self.ctl_of(&self.url());
            command.args(["snapshot", "restore"]).arg(backup);
            command
                .args(["--name", &format!("m{at}"), "--data-dir"])
                .arg(&data);
            command.args(["--initial-cluster", &self.initial()]);
            command.args(["--initial-advertise-peer-urls", &peers]);
            let output = command.output().expect("etcdctl runs");
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "no restoration: {error}");
        }
    }
}
