//! A rollout that the members of a fleet share.
//!
//! One document per service holds everything that safety depends on ([`document`]). Every change of it is a compare-and-swap, and a
//! member that takes over as driver raises its term, so that a change by the driver before fails by itself. [`replica`] is one
//! member's knowledge of the document, and the share that it allows. Members count requests per step ([`evidence`]); the driver
//! adds their counts up and judges the sums. All of it is pure: time is an argument.

pub mod document;
pub mod evidence;
pub mod replica;
