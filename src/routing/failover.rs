//! Selects the version that takes over for one without a usable endpoint, and computes the shares that result.

use super::Split;
use crate::config::spec::Share;
use crate::index::VersionIx;

/// The reason why a version takes over for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverRole {
    /// The version is stable.
    Stable,
    /// Stable is down, and this canary has the largest share of the usable ones.
    LargestCanary,
    /// The version is the service's `fallback`, and no version with a share is usable.
    Fallback,
}

impl FailoverRole {
    /// The role in words, for messages.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::LargestCanary => "the canary with the largest share",
            Self::Fallback => "the fallback",
        }
    }
}

/// The version that takes over for `down`: stable, else the usable canary with the largest share (the last of equals), else
/// `fallback`. `None` if none of them is usable.
pub(crate) fn failover(
    split: &Split,
    fallback: Option<VersionIx>,
    down: VersionIx,
    mut is_usable: impl FnMut(VersionIx) -> bool,
) -> Option<(VersionIx, FailoverRole)> {
    let mut usable = |version: VersionIx| version != down && is_usable(version);
    if usable(split.stable()) {
        return Some((split.stable(), FailoverRole::Stable));
    }
    let canaries = split.versions().filter(|v| split.share(*v).0 > 0);
    let largest = canaries
        .filter(|v| usable(*v))
        .max_by_key(|v| split.share(*v));
    if let Some(version) = largest {
        return Some((version, FailoverRole::LargestCanary));
    }
    let fallback = fallback.filter(|v| usable(*v))?;
    Some((fallback, FailoverRole::Fallback))
}

/// The share of traffic that each version gets: its share in `split`, and those of the versions that fail over to it. If
/// no version is usable the shares stay as they are. Their sum is always [`Share::WHOLE`].
///
/// Sessions, rules and preview hosts are not considered.
pub fn effective_shares(
    split: &Split,
    fallback: Option<VersionIx>,
    mut is_usable: impl FnMut(VersionIx) -> bool,
) -> Vec<Share> {
    let usable: Vec<bool> = split.versions().map(&mut is_usable).collect();
    let mut shares = vec![Share(0); split.versions().len()];
    for version in split.versions() {
        let taker = match usable[version.0] {
            true => version,
            false => {
                failover(split, fallback, version, |v| usable[v.0]).map_or(version, |(to, _)| to)
            }
        };
        shares[taker.0].0 += split.share(version).0;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    /// v0 is stable, v1 has 5 %, v2 has 10 %, v3 and v4 have nothing.
    fn split() -> Split {
        Split::new(
            &["v0", "v1", "v2", "v3", "v4"],
            VersionIx(0),
            &[(VersionIx(1), Share(5_000)), (VersionIx(2), Share(10_000))],
        )
    }

    fn shares(fallback: Option<usize>, down: &[usize]) -> Vec<u32> {
        let shares = effective_shares(&split(), fallback.map(VersionIx), |v| !down.contains(&v.0));
        assert_eq!(shares.iter().map(|s| s.0).sum::<u32>(), Share::WHOLE);
        shares.iter().map(|s| s.0).collect()
    }

    #[test]
    fn stable_takes_over_for_a_canary() {
        assert_eq!(shares(None, &[]), [85_000, 5_000, 10_000, 0, 0]);
        assert_eq!(shares(None, &[1]), [90_000, 0, 10_000, 0, 0]);
        assert_eq!(shares(None, &[1, 2, 3]), [100_000, 0, 0, 0, 0]);
    }

    #[test]
    fn the_largest_usable_canary_takes_over_for_stable() {
        assert_eq!(shares(Some(3), &[0]), [0, 5_000, 95_000, 0, 0]);
        assert_eq!(shares(Some(3), &[0, 2]), [0, 100_000, 0, 0, 0]);
    }

    #[test]
    fn the_fallback_takes_over_when_everything_with_a_share_is_down() {
        assert_eq!(shares(Some(3), &[0, 1, 2]), [0, 0, 0, 100_000, 0]);
        assert_eq!(shares(None, &[0, 1, 2]), [85_000, 5_000, 10_000, 0, 0]);
        let all = [0, 1, 2, 3, 4];
        assert_eq!(shares(Some(3), &all), [85_000, 5_000, 10_000, 0, 0]);
    }
}
