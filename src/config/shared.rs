//! Tables that the members of a fleet share: `fleet.share`.
//!
//! Their text is stored in etcd. Each member keeps a copy of it in its state directory and reads the copy like an included file: it
//! is one more part of the configuration's text, whose path is that of the key in etcd. So a start without etcd uses the last
//! tables, and diagnostics, history, plans and undo treat them like those of the file.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::bundle::{self, SCHEME};
use super::fleet::FleetSpec;
use super::lower;
use super::paths;

/// The part and the copy of the shared tables of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedTables {
    /// The path of their part in the text: `etcd:/cutover/front/config`.
    pub part: String,
    /// The member's copy of the tables. The file need not exist.
    pub copy: PathBuf,
}

/// The names of the tables that the fleet shares according to a main file.
pub(super) fn names<'t>(root: &'t DeTable<'_>) -> Vec<&'t str> {
    let share = match member(root, "fleet") {
        Some(DeValue::Table(fleet)) => member(fleet, "share"),
        _ => None,
    };
    match share {
        Some(DeValue::Array(items)) => items
            .iter()
            .filter_map(|item| text(item.get_ref()))
            .collect(),
        Some(value) => text(value).into_iter().collect(),
        None => Vec::new(),
    }
}

fn text<'t>(value: &'t DeValue<'_>) -> Option<&'t str> {
    match value {
        DeValue::String(text) => Some(text),
        _ => None,
    }
}

fn member<'t, 's>(root: &'t DeTable<'s>, key: &str) -> Option<&'t DeValue<'s>> {
    root.get(key).map(Spanned::get_ref)
}

/// Finds the shared tables of a main file, if it has any. A file whose `[fleet]` isn't valid has none: reading it reports that.
pub fn of_text(main: &str) -> Option<SharedTables> {
    // Most files share nothing, and need no second look. A key may be written with escapes.
    if !main.contains("share") && !main.contains('\\') {
        return None;
    }
    let (root, _) = DeTable::parse_recoverable(main);
    let root = root.get_ref();
    if names(root).is_empty() {
        return None;
    }
    let fleet = lower::fleet_alone(main, root)?;
    let configured = match member(root, "state_dir") {
        Some(DeValue::String(path)) => Some(Path::new(&**path)),
        _ => None,
    };
    let name = format!("fleet/{}.toml", fleet.name);
    let copies = paths::state_dirs(configured).into_iter();
    let mut copies = copies.map(|directory| directory.join(&name));
    let first = copies.next()?;
    let copy = match first.exists() {
        true => first,
        // For commands of other users: the copy of the packaged service.
        false => copies.find(|copy| copy.exists()).unwrap_or(first),
    };
    Some(SharedTables {
        part: part_of(&fleet),
        copy,
    })
}

/// The `[fleet]` of a main file that shares tables, whatever else the file has.
pub fn fleet_of(main: &Path) -> Option<FleetSpec> {
    let text = std::fs::read_to_string(main).ok()?;
    let (root, _) = DeTable::parse_recoverable(&text);
    let fleet = lower::fleet_alone(&text, root.get_ref())?;
    (!fleet.share.is_empty()).then_some(fleet)
}

/// The path of the part of the text that a fleet shares.
pub fn part_of(fleet: &FleetSpec) -> String {
    format!("{SCHEME}{}", fleet.config_key())
}

/// The text of the shared tables in the text of a configuration.
pub fn tables(text: &str) -> Option<&str> {
    let parts = bundle::parts(text);
    let shared = parts.iter().find(|part| part.is_shared())?;
    Some(shared.text)
}

/// The text of a configuration with other shared tables.
pub fn with_tables(text: &str, part: &str, tables: &str) -> String {
    let parts = bundle::parts(text);
    match parts.iter().find(|part| part.is_shared()) {
        Some(shared) => bundle::with_part(text, shared, tables),
        None => {
            let mut text = text.to_owned();
            bundle::append(&mut text, part, tables);
            text
        }
    }
}

/// Whether a text can consist of tables: it has none of the characters that TOML forbids, one of which separates files.
pub fn is_tables(text: &str) -> bool {
    let fits = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    text.chars().all(fits)
}

/// Whether the fleet shares a service: the file shares the services, and has none of this name itself.
pub fn has_service(main: &Path, service: &str) -> bool {
    let Ok(text) = std::fs::read_to_string(main) else {
        return false;
    };
    let (root, _) = DeTable::parse_recoverable(&text);
    if !names(root.get_ref()).contains(&"service") {
        return false;
    }
    let own = match member(root.get_ref(), "service") {
        Some(DeValue::Table(services)) => services.get(service).is_some(),
        _ => false,
    };
    !own
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_bundle;

    const MAIN: &str = "listen = ':80'\nstate_dir = '/tmp/state'\n[fleet]\netcd = 'http://127.0.0.1'\nname = 'front'\nshare = ['service', 'defaults']\n";
    const SHOP: &str = "[service.shop]\nversions = { v1 = ['h:1'] }\n";

    fn shared(main: &str, tables: &str) -> String {
        with_tables(main, "etcd:/cutover/front/config", tables)
    }

    fn errors(text: &str) -> Vec<String> {
        let errors = parse_bundle(text, "/etc/main.toml").unwrap_err();
        errors.iter().map(|e| e.summary()).collect()
    }

    #[test]
    fn a_file_that_shares_tables_has_a_copy_of_them_in_its_state_directory() {
        let found = of_text(MAIN).unwrap();
        assert_eq!(found.part, "etcd:/cutover/front/config");
        assert_eq!(found.copy, Path::new("/tmp/state/fleet/front.toml"));
        let alone = MAIN.replace("share = ['service', 'defaults']", "");
        assert_eq!(of_text(&alone), None);
        // The name becomes part of a path.
        assert_eq!(of_text(&MAIN.replace("'front'", "'../x'")), None);
    }

    #[test]
    fn shared_tables_mean_what_they_mean_in_the_file() {
        let tables = format!("[defaults.timeouts]\nconnect = '7s'\n{SHOP}");
        let one = parse_bundle(&format!("{MAIN}{tables}"), "main.toml").unwrap();
        let spec = parse_bundle(&shared(MAIN, &tables), "main.toml").unwrap();
        assert_eq!(spec, one);
        let text = shared(MAIN, SHOP);
        assert_eq!(super::tables(&text), Some(SHOP));
        assert_eq!(super::tables(&shared(&text, "x = 1\n")), Some("x = 1\n"));
        assert_eq!(super::tables(MAIN), None);
    }

    #[test]
    fn a_service_in_both_is_an_error_that_names_both() {
        let found = errors(&shared(&format!("{MAIN}{SHOP}"), SHOP));
        assert_eq!(
            found,
            [
                "etcd:/cutover/front/config:1:10: service `shop` is in the file and in the fleet's tables"
            ]
        );
        let defaults = "[defaults.timeouts]\nconnect = '7s'\n";
        let found = errors(&shared(&format!("{MAIN}{SHOP}{defaults}"), defaults));
        assert_eq!(
            found,
            ["etcd:/cutover/front/config:1:2: `defaults` is in the file and in the fleet's tables"]
        );
    }

    #[test]
    fn only_tables_that_the_file_names_are_taken() {
        let found = errors(&shared(MAIN, &format!("workers = 2\n{SHOP}")));
        assert_eq!(
            found,
            ["etcd:/cutover/front/config:1:1: `workers` can't be in the fleet's tables"]
        );
        let main = MAIN.replace(", 'defaults'", "");
        let found = errors(&shared(&main, &format!("[defaults]\n{SHOP}")));
        assert_eq!(
            found,
            ["etcd:/cutover/front/config:1:2: `defaults` can't be in the fleet's tables"]
        );
    }

    #[test]
    fn without_tables_yet_the_error_says_how_to_get_them() {
        let errors = parse_bundle(MAIN, "main.toml").unwrap_err();
        assert!(
            errors[0].rendered(false).contains("cutover fleet init"),
            "{}",
            errors[0].rendered(false)
        );
    }
}
