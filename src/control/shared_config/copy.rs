//! The copy of the fleet's tables in the state directory. All functions here block.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use crate::config::shared::{self, SharedTables};
use crate::config::{self, replace};
use crate::control::preflight::preflight;

/// The state of a copy before it was replaced: its text; `None` if there was no copy.
pub(in crate::control) type Former = Option<String>;

/// The tables in the copy that belongs to the file at `main`.
pub(in crate::control) fn read(main: &Path) -> Former {
    let found = tables_of(main)?;
    fs::read_to_string(found.copy).ok()
}

/// Replaces the copy by these tables, if they make a valid configuration together with the file. Returns its previous state.
///
/// `is_start`: everything that a start needs must exist as well. A running proxy checks that when it adopts the tables.
///
/// # Errors
/// The reason why they aren't valid, or why the copy can't be written.
pub(in crate::control) fn replace_by(
    main: &Path,
    tables: &str,
    is_start: bool,
) -> Result<Former, String> {
    let found = tables_of(main).ok_or("the file shares no tables any more")?;
    let files = config::load::text(main).map_err(|failure| failure.rendered(false))?;
    let text = shared::with_tables(&files, &found.part, tables);
    let loaded = config::load::of_text(text, &main.display().to_string());
    let loaded = loaded.map_err(|failure| failure.rendered(false))?;
    if is_start {
        let errors = preflight(&loaded, main).errors;
        if !errors.is_empty() {
            let errors: Vec<_> = errors.iter().map(|error| error.rendered(false)).collect();
            return Err(errors.join("\n"));
        }
    }
    let former = fs::read_to_string(&found.copy).ok();
    write(&found.copy, tables).map_err(|error| {
        let copy = found.copy.display();
        format!("the copy of the fleet's tables can't be written, {copy}: {error}")
    })?;
    Ok(former)
}

/// Puts a copy back.
pub(in crate::control) fn put_back(main: &Path, former: &Former) -> io::Result<()> {
    let Some(found) = tables_of(main) else {
        return Ok(());
    };
    match former {
        Some(tables) => write(&found.copy, tables),
        None => fs::remove_file(found.copy),
    }
}

pub(super) fn tables_of(main: &Path) -> Option<SharedTables> {
    shared::of_text(&fs::read_to_string(main).ok()?)
}

pub(super) fn write(copy: &Path, tables: &str) -> io::Result<()> {
    if let Some(directory) = copy.parent() {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory)?;
    }
    replace::private(copy, tables)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::control::shared_config::tests::main_file;

    const SHOP: &str = "[service.shop]\nversions = { v1 = ['127.0.0.1:1'] }\n";

    #[test]
    fn tables_are_kept_if_they_are_valid_with_the_file_and_can_be_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let main = main_file(dir.path());
        let state = dir.path().join("state");
        assert_eq!(read(&main), None);
        assert_eq!(replace_by(&main, SHOP, false), Ok(None));
        let copy = state.join("fleet/front.toml");
        let mode = fs::metadata(&copy).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(config::load(&main).unwrap().spec.services[0].name, "shop");
        let error = replace_by(&main, "[service.shop]\nversion = 1\n", false).unwrap_err();
        assert!(error.contains("etcd:/cutover/front/config:2:1"), "{error}");
        assert_eq!(read(&main).as_deref(), Some(SHOP));
        let other = SHOP.replace("shop", "cart");
        let former = replace_by(&main, &other, false).unwrap();
        assert_eq!(read(&main), Some(other));
        put_back(&main, &former).unwrap();
        assert_eq!(read(&main).as_deref(), Some(SHOP));
        put_back(&main, &None).unwrap();
        assert_eq!(read(&main), None);
    }
}
