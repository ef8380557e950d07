//! `[service.NAME.flags]`: the flags that the application behind a service reads from `x-flags`.

use super::{answers, check_name, rules};
use crate::config::flag::{FLAGS, FlagSpec};
use crate::config::problems::Problems;
use crate::config::raw::{RawTable, RawValue};
use crate::config::spec::Share;
use crate::config::units::quote;

/// Reads the flags of a service, sorted by name, which is their order in `x-flags`.
pub(super) fn flags(service: &mut RawTable<'_>, out: &mut Problems) -> Vec<FlagSpec> {
    let Some(value) = service.take("flags") else {
        return Vec::new();
    };
    let Some(table) = value.table("a table: one table for each flag", out) else {
        return Vec::new();
    };
    let mut flags = Vec::new();
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
    flags.sort_by(|a, b| a.name.cmp(&b.name));
    flags
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

fn flag(name: &str, value: &RawValue<'_>, out: &mut Problems) -> Option<FlagSpec> {
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
    let share = share
        .and_then(|value| share_of(&value, out))
        .unwrap_or(Share(0));
    let when = match table.take("when") {
        Some(when) => rules::alternatives(
            &when,
            "to switch the flag on for all users, write `share = \"100%\"`",
            out,
        ),
        None => Vec::new(),
    };
    table.finish(out);
    Some(FlagSpec {
        name: name.to_owned(),
        share,
        when,
    })
}

fn share_of(value: &RawValue<'_>, out: &mut Problems) -> Option<Share> {
    match value.as_text() {
        Some(text) if text.value == "rollout" => {
            out.error(
                text.span,
                format!(
                    "`{}` can't follow a rollout: that is not available yet",
                    value.path
                ),
            )
            .label("planned for a later version of cutover")
            .help("write a share such as \"10%\", and raise it by `cutover flag`");
            None
        }
        _ => value.share(out),
    }
}
