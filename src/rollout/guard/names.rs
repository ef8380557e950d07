//! The names of the two sides of a comparison in messages.
//!
//! The statistics only know a canary and stable. They are versions, or the users with a flag and those without.

/// The names of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SideNames {
    /// The canary, as a subject: `the canary`.
    pub canary: &'static str,
    /// The canary, as a possessive: `the canary's`.
    pub canarys: &'static str,
    /// Stable, as a subject: `stable`.
    pub stable: &'static str,
    /// Stable, as a possessive: `stable's`.
    pub stables: &'static str,
    /// The phrase for failures of stable as well: `stable fails too`.
    pub stable_fails: &'static str,
}

impl SideNames {
    /// Two versions.
    pub const VERSIONS: Self = Self {
        canary: "the canary",
        canarys: "the canary's",
        stable: "stable",
        stables: "stable's",
        stable_fails: "stable fails too",
    };

    /// The users with a flag and those without.
    pub const FLAG: Self = Self {
        canary: "users with the flag",
        canarys: "the flag's",
        stable: "the others",
        stables: "the others'",
        stable_fails: "the service fails without the flag too",
    };
}
