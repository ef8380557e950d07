//! `cutover fleet init`: puts the tables of a file into etcd, for all members of its fleet.

use std::path::Path;

use super::CommandResult;
use super::author::author;
use super::error::CommandError;
use super::proxy_address::shown;
use crate::config::fleet::{FleetSpec, SharedTable};
use crate::config::{bundle, load, parse_bundle, sections, shared};
use crate::control::shared_config::{InitError, init as write};

/// Writes the tables of the file at `file` that its fleet shares.
///
/// # Errors
/// The file shares no tables, has none or isn't valid; the fleet has tables already; or etcd doesn't answer.
pub(super) async fn init(file: &Path, force: bool) -> CommandResult {
    let name = shown(file);
    let fleet = shared::fleet_of(file).ok_or_else(|| {
        CommandError::new(format!("{name} shares no tables"))
            .with("write `share = [\"service\", \"defaults\"]` into its `[fleet]`")
    })?;
    let found = tables(file, &fleet)?;
    let by = author("fleet init");
    let written = write(file, &fleet, found.taken, by, force).await;
    let written = written.map_err(|error| match error {
        InitError::Exists(by) => {
            let by = if by.is_empty() {
                "somebody".to_owned()
            } else {
                by
            };
            let exists = format!(
                "the fleet {} has tables already, written by {by}",
                fleet.name
            );
            CommandError::new(exists).with("--force replaces them")
        }
        InitError::TooLarge(large) => CommandError::new(large),
        InitError::Etcd(why) => CommandError::new(format!("etcd: {why}")),
    })?;
    anstream::println!(
        "{} written, revision {}: members take the tables up once their files no longer have them",
        written.key,
        written.revision
    );
    anstream::println!("remove from the file of each member:");
    for (line, header) in found.headers {
        anstream::println!("  {name}:{line}  {header}");
    }
    for included in found.included {
        anstream::println!("  {included}, and its pattern in `include`");
    }
    Ok(0)
}

/// The shared tables that were found in a file.
struct FoundTables {
    taken: String,
    headers: Vec<(usize, String)>,
    /// Included files.
    included: Vec<String>,
}

/// The tables of a file that its fleet shares. Together with the rest of the file they are valid.
fn tables(file: &Path, fleet: &FleetSpec) -> Result<FoundTables, CommandError> {
    let name = shown(file);
    let text = load::text(file).map_err(|failure| CommandError::new(failure.rendered(false)))?;
    let parts = bundle::parts(&text);
    let names: Vec<&str> = fleet.share.iter().map(|table| table.as_str()).collect();
    let main = sections::take(parts[0].text, &names).map_err(|table| {
        CommandError::new(format!(
            "{name}: `{table}` is not written as a table with a header"
        ))
        .with("write `[service.NAME]` and `[defaults]`, so that it can be taken as it is")
    })?;
    let mut found = FoundTables {
        taken: main.taken,
        headers: main.headers,
        included: Vec::new(),
    };
    let shares_services = fleet.share.contains(&SharedTable::Service);
    let mut rest = main.rest;
    for part in parts[1..].iter().filter(|part| !part.is_shared()) {
        let path = part.path.unwrap_or_default();
        if shares_services {
            found.taken.push_str(part.text);
            found.included.push(path.to_owned());
        } else {
            bundle::append(&mut rest, path, part.text);
        }
    }
    if found.taken.trim().is_empty() {
        let none = format!("{name} has no `[{}]`", names.join("]` and no `["));
        return Err(CommandError::new(none)
            .with("write the fleet's tables into it, and remove them afterwards"));
    }
    let whole = shared::with_tables(&rest, &shared::part_of(fleet), &found.taken);
    parse_bundle(&whole, &name).map_err(|errors| {
        let errors: Vec<_> = errors.iter().map(|error| error.rendered(false)).collect();
        CommandError::new(format!(
            "the tables are not valid without the rest of the file\n{}",
            errors.join("\n")
        ))
    })?;
    Ok(found)
}
