//! The id of a listener.

/// Identifies a listener for as long as its sockets are open, over reloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub usize);
