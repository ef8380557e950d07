//! Values that several parts of a configuration have in common: shares of traffic and patterns for paths.

/// A share of a service's traffic, as an integer number of steps of 0.001 % (`5%` is 5,000).
///
/// Ranges from 0 to [`Share::WHOLE`]. An integer keeps sums exact, which the split relies on. The field is public, so the
/// type itself doesn't enforce the range; [`FromStr`](std::str::FromStr) does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(pub u32);

impl Share {
    /// 100 %, in steps of 0.001 %.
    pub const WHOLE: u32 = 100_000;

    /// Returns the share as a ratio in `[0, 1]`.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / f64::from(Self::WHOLE)
    }
}

/// A pattern for the path of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// `/login`: this path only.
    Exact(String),
    /// `/v1/*`, stored as `/v1`: the path itself and everything below it, by whole segments (`/v1x` doesn't match).
    /// `/*` is stored as the empty string and matches every path.
    Prefix(String),
}
