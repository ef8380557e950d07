//! Text to a valid [`Spec`], or every diagnostic at once.

pub mod paths;
pub mod spec;

pub use spec::Spec;
