//! Flags: the states that a request had, and how often requests had each state.

use super::cells::Counter;
use super::words::FlagState;
use super::worker_id::WorkerId;
use crate::index::FlagIx;

/// A set of flags of one service, by index; at most 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlagSet(u64);

impl FlagSet {
    /// Adds a flag. Indices from 64 on, which no configuration has, are ignored.
    #[inline]
    pub fn add(&mut self, flag: FlagIx) {
        if flag.0 < 64 {
            self.0 |= 1 << flag.0;
        }
    }

    /// Whether it contains a flag.
    #[inline]
    pub fn has(self, flag: FlagIx) -> bool {
        flag.0 < 64 && self.0 >> flag.0 & 1 == 1
    }
}

/// The flags of the service that a request was forwarded to.
#[derive(Clone, Copy, Debug)]
pub struct RequestFlags<'a> {
    /// The flags that are on for the request.
    pub on: FlagSet,
    /// The names of all flags, sorted.
    pub names: &'a [Box<str>],
}

impl<'a> RequestFlags<'a> {
    /// The name and the state of each flag.
    pub fn states(self) -> impl Iterator<Item = (&'a str, FlagState)> {
        FlagIx::enumerate(self.names).map(move |(flag, name)| (&**name, self.state(flag)))
    }

    /// The state of the flag with this index.
    #[inline]
    pub fn state(self, flag: FlagIx) -> FlagState {
        match self.on.has(flag) {
            true => FlagState::On,
            false => FlagState::Off,
        }
    }

    /// The value of `x-flags`: the names of the flags that are on, separated by commas. Empty if none is.
    pub fn text(self) -> Vec<u8> {
        let mut text = Vec::new();
        for (name, _) in self.states().filter(|(_, state)| *state == FlagState::On) {
            if !text.is_empty() {
                text.push(b',');
            }
            text.extend_from_slice(name.as_bytes());
        }
        text
    }
}

/// The requests of one flag by its state: one shard per worker, and one for the control thread.
#[derive(Debug)]
pub struct FlagCounter {
    shards: Box<[FlagShard]>,
}

/// The requests that one worker saw, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct FlagShard([Counter; FlagState::COUNT]);

impl FlagCounter {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            shards: (0..shards).map(|_| FlagShard::default()).collect(),
        }
    }

    /// Counts a request of worker `worker`.
    #[inline]
    pub(crate) fn request(&self, worker: WorkerId, state: FlagState) {
        self.shards[worker.0].0[state.index()].add(1);
    }

    /// Returns the number of requests in this state, over all shards.
    pub fn total(&self, state: FlagState) -> u64 {
        let shards = self.shards.iter();
        shards.map(|shard| shard.0[state.index()].get()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_names_the_flags_that_are_on() {
        let names: Vec<Box<str>> = ["a", "b", "c"].map(Box::from).into();
        let text = |flags: &[usize]| {
            let mut on = FlagSet::default();
            flags.iter().for_each(|flag| on.add(FlagIx(*flag)));
            String::from_utf8(RequestFlags { on, names: &names }.text()).unwrap()
        };
        assert_eq!(text(&[]), "");
        assert_eq!(text(&[2]), "c");
        assert_eq!(text(&[2, 0]), "a,c");
    }

    #[test]
    fn a_set_has_room_for_64_flags() {
        let mut set = FlagSet::default();
        for flag in [0, 63, 64, usize::MAX].map(FlagIx) {
            assert!(!set.has(flag));
            set.add(flag);
        }
        assert_eq!(
            [0, 1, 63, 64].map(|flag| set.has(FlagIx(flag))),
            [true, false, true, false]
        );
    }
}
