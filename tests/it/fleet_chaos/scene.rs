//! A fleet, its etcd and its network, to which a schedule happens.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use fastrand::Rng;
use rustix::process::Signal;
use tempfile::TempDir;

use super::MEMBERS;
use super::acts::{Act, Target};
use super::history::History;
use super::watched::Watched;
use crate::fleet_outages::{log_in, token_option};
use crate::rollouts::{Version, rollout, service, share, state};
use crate::support::etcd::Etcd;
use crate::support::proxy::{Proxy, serve};
use crate::support::relay::Relay;
use crate::support::{PATIENCE, until_within};

/// How soon etcd is full.
const QUOTA: &str = "8000000";
/// One of the values that fill it. etcd accepts 1.5 MiB.
const FILLER: usize = 1_400_000;

/// A fleet under a schedule.
pub struct Scene {
    etcd: Etcd,
    /// Holds keys and a password, if etcd asks for users.
    _dir: TempDir,
    has_users: bool,
    relays: Vec<Relay>,
    pub fleet: Vec<Proxy>,
    versions: (Version, Version),
    /// Members that stand still or were killed, so that nothing else happens to them.
    is_down: [bool; MEMBERS],
    is_cut: [bool; MEMBERS],
    is_etcd_down: [bool; MEMBERS],
    backup: Option<PathBuf>,
    was_filled: bool,
    is_spoilt: bool,
    is_aborted: bool,
    /// What etcd has had.
    pub history: History,
}

impl Scene {
    /// In some schedules etcd asks for users, and their tokens expire all the time.
    pub fn start(rng: &mut Rng) -> Option<Self> {
        let (dir, has_users) = (tempfile::tempdir().expect("a directory"), rng.bool());
        let mut options = vec!["--quota-backend-bytes", QUOTA, "--bcrypt-cost", "4"];
        let token = has_users.then(|| token_option(dir.path()));
        options.extend(token.iter().flat_map(|token| ["--auth-token", token]));
        let mut etcd = Etcd::cluster(MEMBERS, &options)?;
        let login = match has_users {
            true => log_in(&mut etcd, dir.path()),
            false => String::new(),
        };
        let versions = (Version::new("v1", 0), Version::new("v2", 0));
        let relays: Vec<_> = (0..MEMBERS).map(|_| Relay::to(&etcd.ports())).collect();
        let plan = "steps = [\"10% for 3s\", \"20% for 3s\", \"40% for 600s\"]\nguard.on_silence = \"pass\"\nguard.p99 = []\n";
        let member = |(at, relay): (usize, &Relay)| {
            let urls: Vec<_> = { relay.ports().iter() }
                .map(|port| format!("\"http://127.0.0.1:{port}\""))
                .collect();
            serve(&format!(
                "[fleet]\netcd = [{}]\nname = \"test\"\nmember = \"m{at}\"\njoin_wait = \"2s\"\n{login}\n{}",
                urls.join(", "),
                service(&versions.0, &versions.1, "1.1.0", plan)
            ))
        };
        Some(Self {
            fleet: relays.iter().enumerate().map(member).collect(),
            etcd,
            _dir: dir,
            has_users,
            relays,
            versions,
            is_down: [false; MEMBERS],
            is_cut: [false; MEMBERS],
            is_etcd_down: [false; MEMBERS],
            backup: None,
            was_filled: false,
            is_spoilt: false,
            is_aborted: false,
            history: History::default(),
        })
    }

    /// The member that a target means, unless it is down.
    fn proxy(&self, target: Target, watched: &Watched) -> Option<usize> {
        let at = match target {
            Target::Number(at) => at,
            Target::Leading => { watched.members.iter() }
                .position(|member| member.drives.load(Ordering::SeqCst))
                .unwrap_or(0),
        };
        Some(at).filter(|at| !self.is_down[*at])
    }

    /// The next member that runs from this one on, if possible one that is cut off.
    fn running(&self, from: usize, prefers_alone: bool) -> Option<usize> {
        let members = (0..MEMBERS).map(|n| (from + n) % MEMBERS);
        let mut running = members.filter(|at| !self.is_down[*at]);
        let fits = |at: &usize| !prefers_alone || self.is_cut[*at];
        { running.clone().find(fits) }.or_else(|| running.next())
    }

    /// Resumes the rollout if it is paused.
    pub fn resume(&self) {
        if state(&self.fleet[0]) == "paused" {
            self.fleet[0].local(&["resume", "app"]);
        }
    }

    /// The member of etcd that a target means, unless it is down.
    fn member_of_etcd(&self, target: Target) -> Option<usize> {
        let at = match target {
            Target::Number(at) => at,
            Target::Leading => self.etcd.leader().unwrap_or(0),
        };
        Some(at).filter(|at| !self.is_etcd_down[*at])
    }

    /// Does what happens now. Returns how it ends, and after how many milliseconds.
    pub fn act(&mut self, act: Act, rng: &mut Rng, watched: &Watched) -> Option<(u64, Act)> {
        // What opens a way to etcd.
        if matches!(
            act,
            Act::Reconnect(_) | Act::RestartEtcd(_) | Act::RestartAllEtcd | Act::RestoreEtcd
        ) {
            for (at, member) in watched.members.iter().enumerate() {
                // Not for a member that stays cut off.
                if !self.is_cut[at] || act == Act::Reconnect(at) {
                    *member.silent.lock().expect("a time") = None;
                }
            }
        }
        let end = self.carry_out(act, rng, watched);
        for (at, member) in watched.members.iter().enumerate() {
            let is_silent = self.is_cut[at] || !self.etcd.runs();
            // A process that was stopped may still have to read what came before.
            let is_new = matches!(act, Act::Continue(of) | Act::Restart(of) if of == at);
            let mut silent = member.silent.lock().expect("a time");
            *silent = match (is_silent, *silent) {
                (false, _) => None,
                (true, Some(since)) if !is_new => Some(since),
                (true, _) => Some(Instant::now()),
            };
        }
        end
    }

    fn carry_out(&mut self, act: Act, rng: &mut Rng, watched: &Watched) -> Option<(u64, Act)> {
        match act {
            Act::KillProxy(target) => {
                let at = self.proxy(target, watched)?;
                self.is_down[at] = true;
                watched.members[at].life.fetch_add(1, Ordering::SeqCst);
                self.fleet[at].signal(Signal::KILL);
                self.fleet[at].ended();
                Some((rng.u64(500..5000), Act::Restart(at)))
            }
            Act::StopProxy(target) => {
                let at = self.proxy(target, watched)?;
                self.is_down[at] = true;
                self.fleet[at].signal(Signal::STOP);
                Some((rng.u64(500..18_000), Act::Continue(at)))
            }
            Act::CutOff(target) => {
                let at = self.proxy(target, watched)?;
                self.relays[at].cut(true);
                self.is_cut[at] = true;
                // Beyond the end of a lease, another member drives.
                Some((rng.u64(1000..25_000), Act::Reconnect(at)))
            }
            Act::KillEtcd(target) => {
                let at = self.member_of_etcd(target)?;
                self.is_etcd_down[at] = true;
                self.etcd.kill_member(at);
                Some((rng.u64(500..6000), Act::RestartEtcd(at)))
            }
            Act::StopEtcd(target) => {
                let at = self.member_of_etcd(target)?;
                self.is_etcd_down[at] = true;
                self.etcd.signal(at, Signal::STOP);
                Some((rng.u64(500..8000), Act::ContinueEtcd(at)))
            }
            Act::KillAllEtcd => {
                self.is_etcd_down = [true; MEMBERS];
                self.etcd.kill();
                Some((rng.u64(500..13_000), Act::RestartAllEtcd))
            }
            Act::FillEtcd => {
                self.was_filled = true;
                self.etcd.fill(FILLER);
                Some((rng.u64(1000..8000), Act::EmptyEtcd))
            }
            Act::CompactEtcd => {
                self.look();
                self.etcd.compact();
                None
            }
            Act::BackUpEtcd => {
                let running = self.is_etcd_down.iter().position(|is_down| !is_down)?;
                self.backup = self.etcd.try_back_up(running);
                None
            }
            Act::RestoreEtcd => {
                let backup = self.backup.take()?;
                self.look();
                self.history.restored();
                watched.restorations.fetch_add(1, Ordering::SeqCst);
                self.is_etcd_down = [true; MEMBERS];
                self.etcd.kill();
                self.etcd.replace_data(&backup);
                Some((rng.u64(200..3000), Act::RestartAllEtcd))
            }
            Act::Abort(at, prefers_alone) => {
                let at = self.running(at, prefers_alone)?;
                // It may be refused, because a member that has just started doesn't know the rollout yet.
                if self.fleet[at].local(&["abort", "app"]).code == 0 {
                    self.is_aborted = true;
                    *watched.members[at].aborted.lock().expect("a time") = Some(Instant::now());
                }
                None
            }
            Act::Pause(at, prefers_alone) => {
                let at = self.running(at, prefers_alone)?;
                // Also refused if it has ended.
                self.fleet[at].local(&["pause", "app"]);
                None
            }
            Act::Spoil => {
                self.is_spoilt = true;
                self.versions.1.failing.store(1000, Ordering::SeqCst);
                None
            }
            Act::Restart(at) => {
                self.fleet[at].restart();
                self.is_down[at] = false;
                let member = &self.fleet[at];
                until_within(2 * PATIENCE, "a start", || member.is_ready().then_some(()));
                watched.members[at].life.fetch_add(1, Ordering::SeqCst);
                None
            }
            Act::Continue(at) => {
                self.is_down[at] = false;
                self.fleet[at].signal(Signal::CONT);
                None
            }
            Act::Reconnect(at) => {
                self.relays[at].cut(false);
                self.is_cut[at] = false;
                None
            }
            Act::RestartEtcd(at) => {
                self.etcd.launch(at);
                self.is_etcd_down[at] = false;
                None
            }
            Act::ContinueEtcd(at) => {
                self.etcd.signal(at, Signal::CONT);
                self.is_etcd_down[at] = false;
                None
            }
            Act::RestartAllEtcd => {
                (0..MEMBERS).for_each(|at| self.etcd.launch(at));
                self.is_etcd_down = [false; MEMBERS];
                // A backup may be one of the full etcd.
                self.was_filled.then_some((700, Act::EmptyEtcd))
            }
            // Each member of etcd has to be there for it.
            Act::EmptyEtcd => {
                self.look();
                let is_down = self.is_etcd_down.contains(&true);
                (is_down || !self.etcd.empty()).then_some((700, Act::EmptyEtcd))
            }
        }
    }

    /// Looks at what etcd has had since.
    pub fn look(&mut self) {
        self.history.look(&self.etcd);
    }

    /// Whether all members agree on what has to come out.
    pub fn is_well(&self) -> bool {
        let states: Vec<_> = self.fleet.iter().map(|p| (state(p), share(p))).collect();
        let is_same = states.iter().all(|one| *one == states[0]);
        let drivers = { self.fleet.iter() }
            .filter(|proxy| rollout(proxy)["fleet"]["is_driver"] == true)
            .count();
        let (state, share) = (states[0].0.as_str(), states[0].1.as_str());
        let is_right = match (self.is_aborted, self.is_spoilt) {
            (true, _) => (state, share) == ("aborted", "0%"),
            (false, true) => (state, share) == ("rolled-back", "0%"),
            (false, false) => (state, share) == ("step", "40%"),
        };
        let is_latched = |proxy| rollout(proxy)["latched"] == (self.is_aborted || self.is_spoilt);
        is_same && is_right && drivers == 1 && self.fleet.iter().all(is_latched)
    }

    pub fn shown(&self) -> String {
        let one = |proxy: &Proxy| format!("{} {} {}\n", state(proxy), share(proxy), rollout(proxy));
        self.fleet.iter().map(one).collect()
    }

    /// In which way it differs from other scenes.
    pub fn kind(&self) -> &'static str {
        match self.has_users {
            true => ", tokens expire",
            false => "",
        }
    }
}
