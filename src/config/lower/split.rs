//! `stable` and `split`: the shares of the versions.

use crate::config::keys;
use crate::config::problems::{Problems, TextSpan};
use crate::config::raw::{RawString, RawTable, RawValue};
use crate::config::spec::{Share, VersionSpec};
use crate::config::suggest::suggest;
use crate::config::units::quote;
use crate::index::VersionIx;

/// The share of a version that follows a rollout.
const ROLLOUT: &str = "rollout";

/// Returns the index of the version with this name, or reports that there is none.
pub(super) fn version(
    text: &RawString<'_>,
    path: &str,
    versions: &[VersionSpec],
    out: &mut Problems,
) -> Option<VersionIx> {
    let index = named(text.value, versions);
    if index.is_none() {
        undefined(text.value, text.span.clone(), path, versions, out);
    }
    index
}

fn named(name: &str, versions: &[VersionSpec]) -> Option<VersionIx> {
    versions.iter().position(|v| v.name == name).map(VersionIx)
}

fn undefined(name: &str, at: TextSpan, path: &str, versions: &[VersionSpec], out: &mut Problems) {
    if versions.is_empty() {
        return; // That there are no versions is reported already.
    }
    let names: Vec<&str> = versions.iter().map(|v| v.name.as_str()).collect();
    out.error(
        at,
        format!(
            "`{path}` names version {}, which is not defined",
            quote(name)
        ),
    )
    .label("not a version of this service")
    .help(suggest(name, &names, "the versions are"))
    .absence();
}

/// Reads `stable`. Returns the version's index and the span of its name; with a single version the key may be absent.
pub(super) fn stable(
    service: &mut RawTable<'_>,
    versions: &[VersionSpec],
    out: &mut Problems,
) -> Option<(VersionIx, Option<TextSpan>)> {
    let Some(value) = service.take("stable") else {
        return match versions {
            [] => None,
            [_] => Some((VersionIx(0), None)),
            [first, ..] => {
                let message = format!(
                    "`{}` has {} versions and no `stable`",
                    service.path,
                    versions.len()
                );
                out.error(service.at.clone(), message)
                    .label("which version gets what the split leaves?")
                    .help(format!("write `stable = \"{}\"`", first.name))
                    .missing(&service.path, "stable");
                None
            }
        };
    };
    let text = value.text("the name of a version", out)?;
    let index = version(&text, &value.path, versions, out)?;
    Some((index, Some(text.span)))
}

/// A split that was read.
#[derive(Default)]
pub(super) struct ReadSplit {
    /// The canaries and their shares. A canary that follows a rollout has 0 %.
    pub split: Vec<(VersionIx, Share)>,
    /// The version that follows a rollout, and the span of its share.
    pub rolling: Option<(VersionIx, TextSpan)>,
}

/// Reads `split`: the canaries and their shares.
pub(super) fn split(
    value: &RawValue<'_>,
    versions: &[VersionSpec],
    stable: Option<&(VersionIx, Option<TextSpan>)>,
    out: &mut Problems,
) -> ReadSplit {
    let Some(table) = value.table("a table such as { v2 = \"5%\" }", out) else {
        return ReadSplit::default();
    };
    let mut shares = Vec::new();
    let mut rolling: Option<(VersionIx, TextSpan)> = None;
    let mut sum = 0;
    let mut last = value.key.clone();
    for (name, value) in table.named() {
        let index = named(name, versions);
        if index.is_none() && report_stray_key(name, &value, &table, out) {
            continue;
        }
        let follows = value.as_text().is_some_and(|text| text.value == ROLLOUT);
        let share = match follows {
            true => Some(Share(0)),
            false => value.share(out),
        };
        if follows && let Some(index) = index {
            if let Some((first, at)) = &rolling {
                let message = format!(
                    "{} and {} both follow a rollout",
                    versions[*first].name, name
                );
                out.error(value.span.clone(), message)
                    .label("a second one")
                    .also(at.clone(), "the first one")
                    .help("a service has one rollout at a time; give the other version a share");
            } else {
                rolling = Some((index, value.span.clone()));
            }
        }
        match (index, stable) {
            (None, _) => undefined(name, value.key, &table.path, versions, out),
            (Some(index), Some((stable, span))) if index == *stable => {
                let problem = out.error(
                    value.key,
                    format!("{} is stable and in its own split", quote(name)),
                );
                problem
                    .label("stable gets what the split leaves")
                    .help("name only the other versions here");
                if let Some(span) = span {
                    problem.also(span.clone(), "stable is named here");
                }
            }
            (Some(index), _) => {
                if let Some(share) = share {
                    sum += u64::from(share.0);
                    last = value.span;
                    shares.push((index, share));
                }
            }
        }
    }
    // The sum is of integers, so that 33.333 % + 66.667 % is exactly 100 %.
    if sum > u64::from(Share::WHOLE) {
        let (whole, rest) = (sum / 1000, sum % 1000);
        let sum = format!("{whole}.{rest:03}");
        let sum = sum.trim_end_matches('0').trim_end_matches('.');
        out.error(
            last,
            format!("the shares in `{}` add up to {sum}%", table.path),
        )
        .label("expected at most 100% for all canaries")
        .help("stable gets the rest");
        shares.clear();
    }
    ReadSplit {
        split: shares,
        rolling,
    }
}

/// Reports a key of the service that was read as the name of a version, because it is written below the header of `versions` or
/// `split`. Returns whether it is one.
pub(super) fn report_stray_key(
    name: &str,
    value: &RawValue<'_>,
    table: &RawTable<'_>,
    out: &mut Problems,
) -> bool {
    let Some(help) = keys::misplaced(&table.path, name) else {
        return false;
    };
    out.error(
        value.key.clone(),
        format!("{} is not a version of the service", quote(name)),
    )
    .label(format!("read as a key of `[{}]`", table.path))
    .help(help);
    if let Some((service, _)) = table.path.rsplit_once('.') {
        let key = keys::SERVICE.iter().find(|key| **key == name);
        key.into_iter()
            .for_each(|key| out.forget_missing(service, key));
    }
    true
}
