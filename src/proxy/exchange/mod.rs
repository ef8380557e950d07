//! One exchange on an open connection.
//!
//! It has two phases, so that the caller can still retry after the first. [`ask()`] sends the request
//! until the head of the final response has arrived; the client has seen nothing of it yet.
//! [`answer()`] relays the response. Both directions may be active in either phase: the body may
//! still be on its way up while the response comes down. Each phase is one `poll_fn` that polls
//! both directions, the client's state and the deadline.
//!
//! If the upstream has completed its response but the client reads slowly, [`answer()`] returns early
//! and [`deliver()`] sends the rest from memory, while the upstream connection serves other requests.

mod answer;
mod ask;
mod client;
mod deliver;
mod grpc;

pub(super) use answer::{AnswerParts, Answered, answer};
pub(super) use ask::{FinalHead, ask};
pub(super) use deliver::{Arrived, Remainder, deliver};
pub(super) use grpc::is_grpc;
