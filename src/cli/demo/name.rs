//! The command with which the user started this program, so that printed commands work when they are pasted into a shell.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The name that is looked up in `PATH`.
const NAME: &str = "cutover";

/// The word that calls this program, quoted for a shell: `cutover` if a shell finds this program under that name, else the
/// path it was started with, else its absolute path.
pub(super) fn program() -> String {
    let typed = std::env::args_os().next().unwrap_or_default();
    let this = std::env::current_exe().unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    quoted(&program_by(&typed, &this, &path).display().to_string())
}

fn program_by(typed: &OsStr, this: &Path, path: &OsStr) -> PathBuf {
    let same = |candidate: &Path| {
        let real = candidate.canonicalize();
        real.is_ok_and(|real| this.canonicalize().is_ok_and(|this| this == real))
    };
    // A shell runs the first match in PATH, even if a later one is this program.
    let found = std::env::split_paths(path).map(|dir| dir.join(NAME));
    if found
        .into_iter()
        .find(|f| f.is_file())
        .is_some_and(|f| same(&f))
    {
        return NAME.into();
    }
    // The path as typed is shorter, and works in the same directory. A name without a slash was looked up in PATH.
    let typed = Path::new(typed);
    if typed.as_os_str().as_encoded_bytes().contains(&b'/') && same(typed) {
        return typed.to_owned();
    }
    this.to_owned()
}

/// Quotes a word for a POSIX shell, where that is needed.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=@%,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_alone_is_printed_only_where_a_shell_finds_this_program_by_it() {
        let dir = tempfile::tempdir().unwrap();
        let (mine, other) = (dir.path().join("mine"), dir.path().join("other"));
        for home in [&mine, &other] {
            std::fs::create_dir(home).unwrap();
            std::fs::write(home.join("cutover"), "").unwrap();
        }
        let this = mine.join("cutover");
        let by = |typed: &str, path: &[&PathBuf]| {
            let path = std::env::join_paths(path).unwrap();
            program_by(OsStr::new(typed), &this, &path)
        };
        assert_eq!(by("cutover", &[&mine, &other]), Path::new("cutover"));
        assert_eq!(by("cutover", &[&other, &mine]), this);
        assert_eq!(by("cutover", &[]), this);
        let typed = mine.join("../mine/cutover");
        assert_eq!(by(typed.to_str().unwrap(), &[&other]), typed);
        assert_eq!(by("./cutover", &[]), this, "that is another file");
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_split_them() {
        assert_eq!(quoted("target/release/cutover"), "target/release/cutover");
        assert_eq!(quoted("/a b/it's"), r"'/a b/it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
