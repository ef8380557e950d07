//! `[service.NAME.flags]`: the flags that the application behind a service reads from `x-flags`.

use super::{answers, check_name, rules};
use crate::config::flag::{FLAGS, FlagSpec};
use crate::config::problems::{Problems, TextSpan};
use crate::config::raw::{RawTable, RawValue};
use crate::config::spec::Share;
use crate::config::units::quote;
use crate::index::FlagIx;

/// The share of a flag that follows a rollout.
const ROLLOUT: &str = "rollout";

/// The flags of a service that were read.
#[derive(Default)]
pub(super) struct ReadFlags {
    /// The flags, sorted by name, which is their order in `x-flags`. A flag that follows a rollout has 0 %.
    pub flags: Vec<FlagSpec>,
    /// The flag that follows a rollout, and the span of its share.
    pub rolling: Option<(FlagIx, TextSpan)>,
}

/// Reads the flags of a service.
pub(super) fn flags(service: &mut RawTable<'_>, out: &mut Problems) -> ReadFlags {
    let Some(value) = service.take("flags") else {
        return ReadFlags::default();
    };
    let Some(table) = value.table("a table: one table for each flag", out) else {
        return ReadFlags::default();
    };
    let mut flags: Vec<(FlagSpec, Option<TextSpan>)> = Vec::new();
    for (at, (name, value)) in table.named().enumerate() {
        check_name(name, &value, "flag", out);
        if at == FLAGS {
            let message = format!("`{}` has too many flags", table.path);
            out.error(value.key.clone(), message)
                .label(format!("expected at most {FLAGS}"))
                .help("remove those that are at 0% or 100% for good");
        }
        flags.extend(flag(name, &value, out));
    }
    if flags.is_empty() && table.named().next().is_none() {
        value.empty(out);
    }
    if !service.has("cohort") {
        without_cohort(service, &value, out);
    }
    if answers::has_answer(service) && !service.has("versions") {
        out.error(value.key, format!("`{}` has no effect", value.path))
            .label("the service forwards no request to an application")
            .help("leave it out, or add `versions`");
    }
    flags.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    let rolling = only_one(&flags, out);
    ReadFlags {
        flags: flags.into_iter().map(|(flag, _)| flag).collect(),
        rolling,
    }
}

/// The flag that follows a rollout. Reports further ones.
fn only_one(
    flags: &[(FlagSpec, Option<TextSpan>)],
    out: &mut Problems,
) -> Option<(FlagIx, TextSpan)> {
    let of = |(at, (_, span)): (FlagIx, &(FlagSpec, Option<TextSpan>))| Some((at, span.clone()?));
    let mut following: Vec<_> = FlagIx::enumerate(flags).filter_map(of).collect();
    following.sort_by_key(|(_, span)| span.start);
    let mut following = following.into_iter();
    let first = following.next()?;
    for (at, span) in following {
        let name = |at: FlagIx| &flags[at.0].0.name;
        let message = format!("{} and {} both follow a rollout", name(first.0), name(at));
        out.error(span, message)
            .label("a second one")
            .also(first.1.clone(), "the first one")
            .help("a service has one rollout at a time; give the other flag a share");
    }
    Some(first)
}

fn without_cohort(service: &RawTable<'_>, flags: &RawValue<'_>, out: &mut Problems) {
    let message = format!("`{}` has flags and no cohort", service.path);
    out.error(flags.key.clone(), message)
        .label("a flag is on for a share of the users: who are they?")
        .help(format!(
            "say how to recognise them, such as\n[{}.cohort]\nby = [\"cookie:uid\", \"ip\"]",
            service.path
        ))
        .missing(&service.path, "cohort");
}

/// Reads a flag, and the span of its share if it follows a rollout.
fn flag(
    name: &str,
    value: &RawValue<'_>,
    out: &mut Problems,
) -> Option<(FlagSpec, Option<TextSpan>)> {
    let Some(mut table) = value.as_table() else {
        let problem = value.mistyped("a table such as { share = \"10%\" }", out);
        if let Some(text) = value.as_text() {
            let share = quote(text.value);
            problem.help(format!(
                "write `{{ share = \"{}\" }}`",
                share.trim_matches('`')
            ));
        }
        return None;
    };
    let share = match table.has("when") {
        true => table.take("share"),
        false => table.need(
            "share",
            out,
            "write the share of users for whom it is on: `share = \"10%\"`",
        ),
    };
    let follows = |value: &RawValue<'_>| {
        let text = value.as_text().filter(|text| text.value == ROLLOUT)?;
        Some(text.span)
    };
    let rolling = share.as_ref().and_then(follows);
    let share = match &rolling {
        Some(_) => None,
        None => share.and_then(|value| value.share(out)),
    };
    let when = match table.take("when") {
        Some(when) => rules::alternatives(
            &when,
            "to switch the flag on for all users, write `share = \"100%\"`",
            out,
        ),
        None => Vec::new(),
    };
    table.finish(out);
    let flag = FlagSpec {
        name: name.to_owned(),
        share: share.unwrap_or(Share(0)),
        when,
    };
    Some((flag, rolling))
}
