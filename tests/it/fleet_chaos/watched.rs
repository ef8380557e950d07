//! What must hold at any time, by requests to the members and by their status.

use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::{HOLD, MEMBERS, SHARES};
use crate::support::client::Client;
use crate::support::proxy::status_of;
use crate::support::{PATIENCE, pause};

/// How long after it was cut off a member may still raise its share, by what it had read before.
const READ_BEFORE: Duration = Duration::from_millis(2500);
/// How long after it was cut off a member's clock of the step may still run: it counts as in touch for 10 s.
const CLOCK_RUNS: Duration = Duration::from_millis(12_500);
/// For how long what a backup has arrives at a member, after the first sign of it.
const RESTORED: Duration = Duration::from_secs(5);
/// Shortest time between two steps as it is seen: the first of them may be seen late.
const SEEN_HOLD: Duration = Duration::from_secs(1);

/// What the threads that watch all members know.
#[derive(Default)]
pub struct Watched {
    pub members: [Member; MEMBERS],
    /// Number of backups that were restored, of which members hear at some time.
    pub restorations: AtomicUsize,
    /// When each share was first seen on any member.
    first: Mutex<[Option<Instant>; SHARES.len()]>,
    /// When a member was looked at for the first time. The step that it was in then has begun before.
    began: OnceLock<Instant>,
}

/// A member as the threads that watch it know it.
#[derive(Default)]
pub struct Member {
    /// Odd while the process is not expected to answer, because it was killed.
    pub life: AtomicUsize,
    /// Whether it said that it drives.
    pub drives: AtomicBool,
    /// When it has answered that the rollout is aborted.
    pub aborted: Mutex<Option<Instant>>,
    /// Since when nothing of etcd's reaches it.
    pub silent: Mutex<Option<Instant>>,
    pub requests: AtomicUsize,
    /// What must not have been.
    pub violations: Mutex<Vec<String>>,
}

/// What was seen of a process.
#[derive(Default)]
struct Seen {
    life: usize,
    share: Option<u32>,
    term: u64,
    /// Since when it was cut off, the step, and how long that has been held, once the clock must stand.
    clock: Option<(Instant, u64, f64)>,
    restorations: usize,
    /// When the member has heard of the last of them.
    restored: Option<Instant>,
}

impl Member {
    /// Sends requests until the end. One that fails counts unless the process was killed meanwhile.
    pub fn send(&self, port: u16, has_ended: &AtomicBool) {
        let mut client = None;
        while !has_ended.load(Ordering::SeqCst) {
            pause(Duration::from_millis(40));
            let life = self.life.load(Ordering::SeqCst);
            if life % 2 == 1 {
                client = None;
                continue;
            }
            let answer = ask(&mut client, port);
            self.requests.fetch_add(1, Ordering::SeqCst);
            if answer.as_ref().is_ok_and(|status| *status == 200) {
                continue;
            }
            client = None;
            // The process was stopped for longer than the client waits.
            let is_slow = answer.as_ref().is_err_and(|e| {
                matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                )
            });
            if self.life.load(Ordering::SeqCst) == life && !is_slow {
                self.violation(format!("a request failed: {answer:?}"));
            }
        }
    }

    fn silent(&self) -> Option<Instant> {
        *self.silent.lock().expect("a time")
    }

    fn violation(&self, what: String) {
        let mut violations = self.violations.lock().expect("a list");
        if violations.len() < 10 {
            violations.push(what);
        }
    }
}

impl Watched {
    /// Looks at a member until the end. `began` is before the first step.
    pub fn watch(&self, at: usize, admin: u16, began: Instant, has_ended: &AtomicBool) {
        let member = &self.members[at];
        let mut seen = Seen::default();
        while !has_ended.load(Ordering::SeqCst) {
            pause(Duration::from_millis(150));
            let life = member.life.load(Ordering::SeqCst);
            if life % 2 == 1 {
                member.drives.store(false, Ordering::SeqCst);
                continue;
            }
            if life != seen.life {
                // Another process knows what its disk has, and nothing of terms.
                seen = Seen {
                    life,
                    restorations: seen.restorations,
                    restored: seen.restored,
                    ..Seen::default()
                };
            }
            let (asked, silent) = (Instant::now(), member.silent());
            let Some(status) = status_of(admin) else {
                continue;
            };
            let service = &status["services"][0];
            let fleet = &service["rollout"]["fleet"];
            member
                .drives
                .store(fleet["is_driver"] == true, Ordering::SeqCst);
            let Some(share) = service["split"]["effective"]["v2"].as_str() else {
                continue;
            };
            let percent: f64 = share.trim_end_matches('%').parse().expect("a share");
            let share = (percent * 1000.0).round() as u32;
            if member.life.load(Ordering::SeqCst) != life {
                continue;
            }
            self.check_plan(member, share, began);
            let aborted = *member.aborted.lock().expect("a time");
            if share > 0 && aborted.is_some_and(|aborted| aborted < asked) {
                member.violation(format!("a share of {percent} % after the abort"));
            }
            let is_cut_off = silent.is_some_and(|since| since + READ_BEFORE < asked);
            if is_cut_off && silent == member.silent() && seen.share.is_some_and(|s| s < share) {
                member.violation(format!("a share rose to {percent} % without etcd"));
            }
            let clock = silent
                .filter(|since| *since + CLOCK_RUNS < asked)
                .map(|since| {
                    let rollout = &service["rollout"];
                    let held_s = rollout["held_s"].as_f64().unwrap_or(0.0);
                    (since, rollout["step"].as_u64().unwrap_or(0), held_s)
                });
            if let (Some(now), Some(before)) = (clock, seen.clock)
                && silent == member.silent()
                && now.0 == before.0
                && (now.1, now.2) > (before.1, before.2)
            {
                member.violation(format!(
                    "the clock went on without etcd: {before:?}, {now:?}"
                ));
            }
            let term = fleet["term"].as_u64().unwrap_or(0);
            let went_back = share > 0 && seen.share.is_some_and(|before| before > share);
            if term < seen.term || went_back {
                // Only in a backup, of which each member hears once.
                let restorations = self.restorations.load(Ordering::SeqCst);
                if restorations > seen.restorations {
                    (seen.restorations, seen.restored) = (restorations, Some(asked));
                } else if seen.restored.is_none_or(|at| at + RESTORED < asked) {
                    member.violation(format!(
                        "back from term {} and share {:?} to {term} and {share}",
                        seen.term, seen.share
                    ));
                }
            }
            (seen.share, seen.term, seen.clock) = (Some(share), term, clock);
        }
    }

    /// Each step holds its time, as all members together show it.
    fn check_plan(&self, member: &Member, share: u32, began: Instant) {
        let since = began.elapsed();
        let steps = (since.as_secs_f64() / HOLD.as_secs_f64()) as usize;
        let most = SHARES[steps.min(SHARES.len() - 1)];
        let level = SHARES.iter().position(|of_step| *of_step == share);
        if share > most || (share != 0 && level.is_none()) {
            member.violation(format!("a share of {share} after {since:?}"));
        }
        let looks_since = *self.began.get_or_init(Instant::now);
        let Some(level) = level else { return };
        let mut first = self.first.lock().expect("times");
        let now = *first[level].get_or_insert_with(Instant::now);
        let before = level.checked_sub(1).map(|before| first[before]);
        let is_begun_before = before.flatten().unwrap_or(now) < looks_since + SEEN_HOLD;
        if let Some(before) = before
            && !is_begun_before
            && before.is_none_or(|before| now.saturating_duration_since(before) < SEEN_HOLD)
        {
            let held = before.map(|before| now.saturating_duration_since(before));
            member.violation(format!("a share of {share} after a step of {held:?}"));
        }
    }

    /// All violations.
    pub fn violations(&self) -> Vec<String> {
        let of = |(at, member): (usize, &Member)| {
            let found = member.violations.lock().expect("a list").clone();
            { found.into_iter() }.map(move |what| format!("m{at}: {what}"))
        };
        self.members.iter().enumerate().flat_map(of).collect()
    }
}

/// Makes a request, on the connection before if there is one. Returns the status.
fn ask(client: &mut Option<Client>, port: u16) -> io::Result<u16> {
    if client.is_none() {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        *client = Some(Client::over(socket));
    }
    let client = client.as_mut().expect("it was just made");
    client.try_send("GET / HTTP/1.1\r\nhost: test\r\n\r\n")?;
    Ok(client.try_answer("GET")?.status())
}
