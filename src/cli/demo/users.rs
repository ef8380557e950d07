//! The simulated users: each keeps the proxy's session cookie and remembers which version answered. In a story each has a name
//! in a cookie of its own.

use std::collections::HashMap;

/// The number of users, and the length of their visits.
#[derive(Clone, Copy, Debug)]
pub(super) struct UserPlan {
    /// Users at a time.
    pub count: usize,
    /// Least number of requests of a visit, after which the user leaves and a new one comes. `None`: users stay.
    pub visit: Option<u32>,
    /// Whether each user has a cookie with a name.
    pub has_name: bool,
}

/// One user.
#[derive(Clone, Debug)]
struct DemoUser {
    id: u64,
    /// The session cookie, `name=value`.
    session: Option<String>,
    /// The version that answered last.
    version: Option<String>,
    /// Requests left in the visit.
    left: Option<u32>,
    saw_failure: bool,
    is_busy: bool,
}

/// All users. They send requests in turn.
#[derive(Clone, Debug)]
pub(super) struct Users {
    plan: UserPlan,
    users: Vec<DemoUser>,
    next: usize,
    /// Users that have come so far.
    came: u64,
    /// Users that got a failure as an answer.
    disappointed: u64,
    /// How often the version changed between two answers to a user.
    moves: HashMap<(String, String), u64>,
    /// Visits that have ended, by the version that answered last.
    visits: HashMap<String, u64>,
}

/// A request that a user is about to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UserTurn {
    slot: usize,
    /// The value of the field `cookie`, if there is one.
    pub cookie: Option<String>,
}

impl Users {
    pub(super) fn new(plan: UserPlan) -> Self {
        let mut users = Self {
            plan,
            users: Vec::new(),
            next: 0,
            came: 0,
            disappointed: 0,
            moves: HashMap::new(),
            visits: HashMap::new(),
        };
        for _ in 0..plan.count {
            let user = users.newcomer();
            users.users.push(user);
        }
        users
    }

    fn newcomer(&mut self) -> DemoUser {
        self.came += 1;
        let id = self.came;
        DemoUser {
            id,
            session: None,
            version: None,
            // Visits have different lengths, so that not all of them end at the same moment.
            left: self
                .plan
                .visit
                .map(|least| least + (id % u64::from(least + 1)) as u32),
            saw_failure: false,
            is_busy: false,
        }
    }

    /// The next user that isn't waiting for an answer; `None` if all are.
    pub(super) fn turn(&mut self) -> Option<UserTurn> {
        let count = self.users.len();
        let slots = (0..count).map(|n| (self.next + n) % count);
        let slot = { slots }.find(|slot| !self.users[*slot].is_busy)?;
        self.next = slot + 1;
        let user = &mut self.users[slot];
        user.is_busy = true;
        let name = self.plan.has_name.then(|| format!("uid=u{}", user.id));
        let cookies: Vec<String> = name.into_iter().chain(user.session.clone()).collect();
        let cookie = (!cookies.is_empty()).then(|| cookies.join("; "));
        Some(UserTurn { slot, cookie })
    }

    /// Takes the answer of a version, and the session cookie that it set.
    pub(super) fn answered(&mut self, turn: &UserTurn, version: &str, session: Option<String>) {
        let user = &mut self.users[turn.slot];
        if session.is_some() {
            user.session = session;
        }
        let before = user.version.replace(version.to_owned());
        if let Some(before) = before.filter(|before| before != version) {
            *self.moves.entry((before, version.to_owned())).or_default() += 1;
        }
        self.end_turn(turn);
    }

    /// Takes a failure as the answer.
    pub(super) fn failed(&mut self, turn: &UserTurn) {
        let user = &mut self.users[turn.slot];
        if !std::mem::replace(&mut user.saw_failure, true) {
            self.disappointed += 1;
        }
        self.end_turn(turn);
    }

    fn end_turn(&mut self, turn: &UserTurn) {
        let user = &mut self.users[turn.slot];
        user.is_busy = false;
        user.left = user.left.map(|left| left.saturating_sub(1));
        if user.left != Some(0) {
            return;
        }
        if let Some(version) = user.version.take() {
            *self.visits.entry(version).or_default() += 1;
        }
        self.users[turn.slot] = self.newcomer();
    }

    /// Users that have come so far.
    pub(super) fn came(&self) -> u64 {
        self.came
    }

    /// Users that got a failure as an answer.
    pub(super) fn disappointed(&self) -> u64 {
        self.disappointed
    }

    /// How often a user's answers changed from a version to another one.
    pub(super) fn moves(&self, from: &str, to: &str) -> u64 {
        let moves = self.moves.get(&(from.to_owned(), to.to_owned()));
        moves.copied().unwrap_or(0)
    }

    /// Present users whose last answer came from a version.
    pub(super) fn on(&self, version: &str) -> u64 {
        let on = |user: &&DemoUser| user.version.as_deref() == Some(version);
        self.users.iter().filter(on).count() as u64
    }

    /// Visits that have ended on a version.
    pub(super) fn visits(&self, version: &str) -> u64 {
        self.visits.get(version).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_take_turns_and_keep_their_session() {
        let mut users = Users::new(UserPlan {
            count: 2,
            visit: None,
            has_name: true,
        });
        let first = users.turn().unwrap();
        assert_eq!(first.cookie.as_deref(), Some("uid=u1"));
        let second = users.turn().unwrap();
        assert_eq!(users.turn(), None, "both are waiting for an answer");
        users.answered(&first, "v1", Some("cutover=abc".into()));
        let again = users.turn().unwrap();
        assert_eq!(again.cookie.as_deref(), Some("uid=u1; cutover=abc"));
        users.answered(&again, "v2", None);
        users.failed(&second);
        let second = users.turn().unwrap();
        users.failed(&second);
        assert_eq!((users.came(), users.disappointed()), (2, 1));
        assert_eq!((users.moves("v1", "v2"), users.moves("v2", "v1")), (1, 0));
        assert_eq!((users.on("v2"), users.on("v1")), (1, 0));
    }

    #[test]
    fn a_visit_ends_and_a_new_user_comes_without_a_session() {
        let mut users = Users::new(UserPlan {
            count: 1,
            visit: Some(2),
            has_name: true,
        });
        // The first user sends 2 + 1 % 3 requests.
        for _ in 0..3 {
            let turn = users.turn().unwrap();
            assert!(turn.cookie.as_ref().unwrap().starts_with("uid=u1"));
            users.answered(&turn, "blue", Some("cutover=abc".into()));
        }
        assert_eq!(users.turn().unwrap().cookie.as_deref(), Some("uid=u2"));
        assert_eq!((users.visits("blue"), users.on("blue")), (1, 0));
    }
}
