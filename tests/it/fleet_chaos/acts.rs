//! What happens to a fleet in a schedule, and when.

use std::collections::BinaryHeap;

use fastrand::Rng;

use super::MEMBERS;

/// How long failures begin.
const WINDOW_MS: u64 = 12_000;

/// What happens to a fleet. Each failure ends after some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    KillProxy(Target),
    StopProxy(Target),
    CutOff(Target),
    KillEtcd(Target),
    StopEtcd(Target),
    KillAllEtcd,
    /// Its quota is used up.
    FillEtcd,
    CompactEtcd,
    BackUpEtcd,
    /// The last backup replaces the data of all members.
    RestoreEtcd,
    /// By the member with this number, or one that is cut off.
    Abort(usize, bool),
    /// By the member with this number, or one that is cut off.
    Pause(usize, bool),
    /// The canary fails from now on.
    Spoil,
    Restart(usize),
    Continue(usize),
    Reconnect(usize),
    RestartEtcd(usize),
    ContinueEtcd(usize),
    RestartAllEtcd,
    EmptyEtcd,
}

/// The driver or etcd's leader, or one by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Leading,
    Number(usize),
}

/// What happens next, the earliest first.
pub type Schedule = BinaryHeap<std::cmp::Reverse<(u64, Act)>>;

pub fn schedule(rng: &mut Rng) -> Schedule {
    let mut schedule = Schedule::new();
    let mut cut = None;
    let mut add = |at, act| schedule.push(std::cmp::Reverse((at, act)));
    for _ in 0..rng.usize(3..7) {
        let number = rng.usize(0..MEMBERS);
        let target = match rng.bool() {
            true => Target::Leading,
            false => Target::Number(number),
        };
        let act = match rng.u8(0..11) {
            0 | 1 => Act::KillProxy(target),
            2 => Act::StopProxy(target),
            3 | 4 => Act::CutOff(target),
            5 => Act::KillEtcd(target),
            6 => Act::StopEtcd(target),
            7 => Act::FillEtcd,
            8 | 9 => Act::CompactEtcd,
            _ => Act::KillAllEtcd,
        };
        let at = rng.u64(0..WINDOW_MS);
        if matches!(act, Act::CutOff(_)) {
            cut = Some(at);
        }
        add(at, act);
    }
    if rng.u8(0..4) == 0 {
        // In the last step, where the clock isn't stopped by a share that can't be granted.
        add(rng.u64(9000..WINDOW_MS), Act::CutOff(Target::Leading));
    }
    // Often by a member that has just been cut off: others decide meanwhile, and it tells of it afterwards.
    let when = |rng: &mut Rng| match cut {
        Some(cut) if rng.u8(0..4) > 0 => cut + rng.u64(200..6000),
        _ => rng.u64(0..WINDOW_MS),
    };
    if rng.u8(0..3) == 0 {
        let at = rng.u64(0..WINDOW_MS);
        add(at, Act::BackUpEtcd);
        add(at + rng.u64(1000..8000), Act::RestoreEtcd);
    }
    if rng.bool() {
        let pause = Act::Pause(rng.usize(0..MEMBERS), rng.u8(0..4) > 0);
        add(when(rng), pause);
    }
    match rng.u8(0..4) {
        0 | 1 => {
            let abort = Act::Abort(rng.usize(0..MEMBERS), rng.u8(0..4) > 0);
            add(when(rng), abort);
        }
        2 => add(rng.u64(0..WINDOW_MS), Act::Spoil),
        _ => {}
    }
    schedule
}
