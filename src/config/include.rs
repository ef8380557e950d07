//! `include`: finds the files that a main file includes, and reads them.
//!
//! A pattern is a path relative to the directory of the main file, with `*` and `?` in the name of the file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::bundle;
use super::glob;
use super::paths;

/// The name of the key.
pub(super) const KEY: &str = "include";

/// Largest number of files that a configuration includes.
const MOST_FILES: usize = 1000;

/// Why the files of a pattern can't be included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IncludeError {
    /// The position of the pattern in the list.
    pub(super) index: usize,
    /// The problem.
    pub(super) message: String,
    /// Advice on how to solve it; may be empty.
    pub(super) help: String,
}

/// The reason why a text can't be a pattern; `None` if it can.
pub(super) fn fault(pattern: &str) -> Option<&'static str> {
    let (directory, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    if name.is_empty() || matches!(name, "." | "..") {
        return Some("expected the path of a file");
    }
    if pattern.starts_with(bundle::SCHEME) {
        return Some("expected the path of a file; `fleet.share` takes tables from etcd");
    }
    if pattern.contains(char::is_control) {
        return Some("expected a path without control characters");
    }
    if directory.contains(['*', '?']) {
        return Some("expected `*` and `?` in the name of the file only");
    }
    None
}

/// The patterns in the text of a main file. Malformed ones are left out: reading the text reports them.
fn patterns(text: &str) -> Vec<(usize, String)> {
    // Most files include nothing, and need no second look. A key may be written with escapes.
    if !text.contains(KEY) && !text.contains('\\') {
        return Vec::new();
    }
    let (root, _) = DeTable::parse_recoverable(text);
    let Some(value) = root.get_ref().get(KEY) else {
        return Vec::new();
    };
    let string = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        _ => None,
    };
    let all: Vec<Option<String>> = match value.get_ref() {
        DeValue::Array(items) => items.iter().map(|item| string(item.get_ref())).collect(),
        other => vec![string(other)],
    };
    let all = all.into_iter().enumerate();
    let named = all.filter_map(|(index, pattern)| Some((index, pattern?)));
    named
        .filter(|(_, pattern)| fault(pattern).is_none())
        .collect()
}

/// The files that a main file with this text includes, as paths relative to its directory. Each is listed once, in the order of
/// the patterns and then of the names.
///
/// # Errors
/// The directory of a pattern can't be read, or others may add files to it.
pub(super) fn files(main: &Path, text: &str) -> Result<Vec<String>, Vec<IncludeError>> {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    let own = fs::canonicalize(main).ok();
    for (index, pattern) in patterns(text) {
        match expand(paths::directory(main), &pattern) {
            Ok(files) => found.extend(files),
            Err((message, help)) => errors.push(IncludeError {
                index,
                message,
                help,
            }),
        }
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|file| {
        let path = paths::directory(main).join(file);
        // A pattern such as `*.toml` matches the main file as well.
        let is_main = own.is_some() && fs::canonicalize(path).ok() == own;
        !is_main && seen.insert(file.clone())
    });
    if found.len() > MOST_FILES {
        errors.push(IncludeError {
            index: 0,
            message: format!("more than {MOST_FILES} files are included"),
            help: String::new(),
        });
    }
    match errors.is_empty() {
        true => Ok(found),
        false => Err(errors),
    }
}

/// The files in a directory that a pattern matches, in the order of their names.
fn expand(from: &Path, pattern: &str) -> Result<Vec<String>, (String, String)> {
    let (directory, name) = match pattern.rsplit_once('/') {
        Some((directory, name)) => (&pattern[..=directory.len()], name),
        None => ("", pattern),
    };
    let unreadable = |path: &Path, error: &std::io::Error| {
        let message = format!("can't read {}: {error}", path.display());
        (message, String::new())
    };
    if !is_glob(name) {
        let path = from.join(pattern);
        return match fs::metadata(&path) {
            Ok(_) => Ok(vec![pattern.to_owned()]),
            Err(error) => Err(unreadable(&path, &error)),
        };
    }
    let path = from.join(directory);
    let about = fs::metadata(&path).map_err(|error| unreadable(&path, &error))?;
    if about.is_dir() && about.mode() & 0o002 != 0 {
        let message = format!(
            "{} is world-writable: anyone who can add a file controls the proxy",
            path.display()
        );
        return Err((message, format!("chmod o-w {}", path.display())));
    }
    let names = names(&path, name).map_err(|error| unreadable(&path, &error))?;
    Ok(names.iter().map(|n| format!("{directory}{n}")).collect())
}

/// The names in a directory that match, except for directories. As in a shell, a leading dot has to be in the pattern.
fn names(directory: &Path, pattern: &str) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let hidden = name.starts_with('.') && !pattern.starts_with('.');
        // A link to nothing is kept, so that reading it reports the error.
        if !hidden && matches(pattern, &name) && !entry.path().is_dir() {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether the name of a file is a pattern for several.
pub(crate) fn is_glob(name: &str) -> bool {
    name.contains(['*', '?'])
}

/// Whether a pattern for the names of files matches this one.
pub fn matches(pattern: &str, name: &str) -> bool {
    glob::matches(pattern.as_bytes(), name.as_bytes())
}

/// Paths whose change may change the files that a main file includes: the patterns, and the files that they match now. Empty if
/// the main file can't be read.
pub fn watched(main: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(main).unwrap_or_default();
    let directory = main.parent().unwrap_or(Path::new(""));
    let patterns = patterns(&text).into_iter().map(|(_, pattern)| pattern);
    let mut all: Vec<String> = patterns.collect();
    if all.is_empty() {
        return Vec::new();
    }
    all.extend(files(main, &text).unwrap_or_default());
    all.iter().map(|path| directory.join(path)).collect()
}

/// The files that a pattern with its directory matches now.
pub fn listing(pattern: &Path) -> Vec<String> {
    let name = pattern.file_name().and_then(|name| name.to_str());
    let Some(name) = name.filter(|name| is_glob(name)) else {
        return Vec::new();
    };
    names(paths::directory(pattern), name).unwrap_or_default()
}

/// Appends included files to the text of the main file. `read` reads one of them.
pub(super) fn joined<E>(
    mut text: String,
    files: &[String],
    mut read: impl FnMut(&str) -> Result<String, E>,
) -> Result<String, Vec<E>> {
    let mut errors = Vec::new();
    for file in files {
        match read(file) {
            Ok(part) => bundle::append(&mut text, file, &part),
            Err(error) => errors.push(error),
        }
    }
    match errors.is_empty() {
        true => Ok(text),
        false => Err(errors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A directory with these files, and the path of a main file in it.
    fn directory(files: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("conf.d")).unwrap();
        for file in files {
            fs::write(root.path().join(file), "").unwrap();
        }
        let main = root.path().join("cutover.toml");
        fs::write(&main, "").unwrap();
        (root, main)
    }

    fn found(main: &Path, text: &str) -> Vec<String> {
        files(main, text).unwrap()
    }

    #[test]
    fn patterns_lead_to_files_in_the_order_of_their_names() {
        let (root, main) = directory(&[
            "conf.d/b.toml",
            "conf.d/a.toml",
            "conf.d/.hidden.toml",
            "conf.d/c.toml~",
            "x.toml",
        ]);
        fs::create_dir(root.path().join("conf.d/sub.toml")).unwrap();
        assert_eq!(
            found(&main, "include = ['conf.d/*.toml']"),
            ["conf.d/a.toml", "conf.d/b.toml"]
        );
        // The main file doesn't include itself, and no file is included twice.
        assert_eq!(
            found(&main, "include = ['x.toml', '*.toml', 'conf.d/?.toml']"),
            ["x.toml", "conf.d/a.toml", "conf.d/b.toml"]
        );
        assert_eq!(found(&main, "include = 'conf.d/none*'"), [""; 0]);
        assert_eq!(found(&main, "\"incl\\u0075de\" = 'x.toml'"), ["x.toml"]);
        assert_eq!(found(&main, "[x]\ninclude = 'x.toml'"), [""; 0]);
        assert!(watched(&main).is_empty());
    }

    #[test]
    fn a_directory_that_is_missing_or_open_to_all_is_an_error() {
        let (root, main) = directory(&["conf.d/a.toml"]);
        let error = |text: &str| files(&main, text).unwrap_err().remove(0);
        assert_eq!(error("include = ['conf.d/*', 'none/*.toml']").index, 1);
        let missing = error("include = 'none.toml'").message;
        assert!(missing.contains("none.toml: No such file"), "{missing}");
        let open = root.path().join("conf.d");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let refused = error("include = 'conf.d/*.toml'");
        assert!(refused.message.contains("world-writable"), "{refused:?}");
        // A link that leads nowhere is one of the files, and reading it fails.
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        symlink("nowhere", open.join("b.toml")).unwrap();
        assert_eq!(found(&main, "include = 'conf.d/*.toml'").len(), 2);
    }

    #[test]
    fn malformed_patterns_are_none() {
        for pattern in ["", "conf.d/", "conf.d/..", "*/a.toml", "a\nb"] {
            assert!(fault(pattern).is_some(), "{pattern:?}");
        }
        for pattern in ["a.toml", "../a.toml", "/etc/cutover/conf.d/*.toml", "?"] {
            assert_eq!(fault(pattern), None, "{pattern:?}");
        }
    }

    #[test]
    fn patterns_and_their_files_are_watched() {
        let (root, main) = directory(&["conf.d/a.toml"]);
        fs::write(&main, "include = ['conf.d/*.toml', 'none.toml']").unwrap();
        // What is missing is watched, so that it is noticed when it appears.
        let at = |path: &str| root.path().join(path);
        assert_eq!(watched(&main), [at("conf.d/*.toml"), at("none.toml")]);
        fs::write(at("none.toml"), "").unwrap();
        assert_eq!(watched(&main)[2], at("conf.d/a.toml"));
        assert_eq!(listing(&at("conf.d/*.toml")), ["a.toml"]);
        assert_eq!(listing(&at("conf.d/a.toml")), [""; 0]);
    }
}
