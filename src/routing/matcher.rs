//! The rules of one service.

use super::Request;
use crate::config::spec;

/// Compiled rules.
#[derive(Debug, Default)]
pub struct Matcher {}

impl Matcher {
    /// Compiles the rules.
    pub fn new(rules: &[spec::Rule]) -> Self {
        let _ = rules;
        Self {}
    }

    /// The first rule whose conditions all hold: its index and its version.
    pub fn find(&self, request: &impl Request) -> Option<(usize, usize)> {
        let _ = request;
        None
    }
}
