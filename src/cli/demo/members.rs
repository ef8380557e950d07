//! The proxies of a demo with a fleet: their names, and the time between their changes in a rollout.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::demo_proxy::DemoProxy;
use super::scene::SERVICE;

/// Interval between two checks of a member.
const LOOK: Duration = Duration::from_millis(10);

/// The name of a member: `a` for the first.
pub(super) fn name(member: usize) -> String {
    // The command line allows fewer members than there are letters.
    let letter = u8::try_from(member).unwrap_or(0) + b'a';
    char::from(letter).to_string()
}

/// A list of words: `a`, `a and b`, `a, b and c`.
pub(super) fn listed(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// The state of a member's rollout, and the time since which it is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    at: Instant,
    state: String,
    share: String,
}

/// Watches the rollout on all members.
#[derive(Debug)]
pub(super) struct MembersWatch {
    seen: Rc<RefCell<Vec<Vec<Seen>>>>,
    _tasks: JoinSet<()>,
}

impl MembersWatch {
    /// Begins to watch. It ends when the value is dropped.
    pub(super) fn start<'a>(proxies: impl Iterator<Item = &'a DemoProxy>) -> Self {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for (member, proxy) in proxies.enumerate() {
            seen.borrow_mut().push(Vec::new());
            let (admin, seen) = (proxy.admin.clone(), seen.clone());
            tasks.spawn_local(async move {
                loop {
                    if let Ok(status) = admin.status().await {
                        let mut services = status.services.into_iter();
                        let service = services.find(|service| service.name == SERVICE);
                        let rollout = service.and_then(|service| service.rollout);
                        let rollout = rollout.unwrap_or_default();
                        note(
                            &mut seen.borrow_mut()[member],
                            &rollout.state,
                            &rollout.share,
                        );
                    }
                    sleep(LOOK).await;
                }
            });
        }
        Self {
            seen,
            _tasks: tasks,
        }
    }

    /// The time from the first member that was in a state with a share to the last one. `None` if one never was.
    pub(super) fn spread(&self, state: &str, share: &str) -> Option<Duration> {
        spread(&self.seen.borrow(), state, share)
    }
}

fn note(seen: &mut Vec<Seen>, state: &str, share: &str) {
    let is_known = seen
        .last()
        .is_some_and(|last| last.state == state && last.share == share);
    if !is_known {
        seen.push(Seen {
            at: Instant::now(),
            state: state.to_owned(),
            share: share.to_owned(),
        });
    }
}

fn spread(seen: &[Vec<Seen>], state: &str, share: &str) -> Option<Duration> {
    let first = |member: &Vec<Seen>| {
        let mut matching = member
            .iter()
            .filter(|seen| seen.state == state && seen.share == share);
        matching.next().map(|seen| seen.at)
    };
    let all: Option<Vec<Instant>> = seen.iter().map(first).collect();
    let all = all?;
    Some(*all.iter().max()? - *all.iter().min()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_that_of_the_first_and_the_last_member() {
        let start = Instant::now();
        let seen = |ms: u64, state: &str, share: &str| Seen {
            at: start + Duration::from_millis(ms),
            state: state.to_owned(),
            share: share.to_owned(),
        };
        let members = [
            vec![seen(0, "step", "5%"), seen(100, "rolled-back", "0%")],
            vec![seen(30, "step", "5%"), seen(107, "rolled-back", "0%")],
            vec![seen(20, "step", "5%")],
        ];
        assert_eq!(
            spread(&members, "step", "5%"),
            Some(Duration::from_millis(30))
        );
        assert_eq!(spread(&members, "rolled-back", "0%"), None);
        assert_eq!(
            spread(&members[..2], "rolled-back", "0%"),
            Some(Duration::from_millis(7))
        );
    }

    #[test]
    fn members_are_named_by_letters() {
        let names: Vec<String> = (0..3).map(name).collect();
        assert_eq!(listed(&names), "a, b and c");
        assert_eq!(listed(&names[..1]), "a");
    }
}
