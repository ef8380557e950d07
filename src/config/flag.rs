//! `[service.NAME.flags.NAME]`: features of an application that are switched on for a share of its users.

use super::condition::Conditions;
use super::share::Share;

/// Largest number of flags of a service. The states of all flags for a request then fit in one word.
pub const FLAGS: usize = 64;

/// A flag of a service. The application reads the names of the flags that are on from the field `x-flags`.
#[derive(Clone, Debug, PartialEq)]
pub struct FlagSpec {
    /// Name from its key.
    pub name: String,
    /// Share of the users for whom the flag is on; 0 % if it follows a rollout. Default 0 %, which needs `when`.
    pub share: Share,
    /// Requests for which the flag is on whatever the share: those that match any of these alternatives. Default empty.
    pub when: Vec<Conditions>,
}
