//! One text for all files of a configuration: the main file, followed by the files that it includes.
//!
//! Each included file is preceded by [`SEPARATOR`], its path and a line feed. TOML allows that character nowhere, so that no valid
//! file contains it. The text of a configuration without included files is its main file, byte for byte. History, undo, plans and
//! hashes therefore treat both kinds alike.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

/// The control character FS.
pub(super) const SEPARATOR: char = '\u{1c}';

/// The beginning of the path of a part that is stored in etcd, see [`shared`](super::shared).
pub(super) const SCHEME: &str = "etcd:";

/// A file in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilePart<'t> {
    /// The path as `include` leads to it, relative to the directory of the main file; `None` for the main file.
    pub path: Option<&'t str>,
    /// The text of the file.
    pub text: &'t str,
    /// Offset of `text` in the whole text.
    pub(super) start: usize,
}

impl<'t> FilePart<'t> {
    /// A text that is one file, whatever it contains.
    pub(super) fn single(text: &'t str) -> Self {
        Self {
            path: None,
            text,
            start: 0,
        }
    }

    /// Whether the part is stored in etcd.
    pub fn is_shared(&self) -> bool {
        self.path.is_some_and(|path| path.starts_with(SCHEME))
    }

    /// The name of the file, where `main` is the name of the main file.
    pub(super) fn name(&self, main: &str) -> String {
        if let Some(path) = self.path.filter(|_| self.is_shared()) {
            return path.to_owned();
        }
        self.file(Path::new(main)).display().to_string()
    }

    /// The path of the file, where `main` is the path of the main file. Shared tables have none.
    pub(crate) fn file(&self, main: &Path) -> PathBuf {
        match (self.path, main.parent()) {
            (None, _) => main.to_owned(),
            (Some(path), Some(directory)) => directory.join(path),
            (Some(path), None) => PathBuf::from(path),
        }
    }
}

/// The files of a text; the main file is the first.
pub fn parts(text: &str) -> Vec<FilePart<'_>> {
    let mut start = 0;
    let mut found = Vec::new();
    for piece in text.split(SEPARATOR) {
        let (path, body) = match found.is_empty() {
            true => (None, piece),
            false => {
                let (path, body) = piece.split_once('\n').unwrap_or((piece, ""));
                (Some(path), body)
            }
        };
        found.push(FilePart {
            path,
            text: body,
            start: start + piece.len() - body.len(),
        });
        start += piece.len() + SEPARATOR.len_utf8();
    }
    found
}

/// Appends an included file to a text.
pub fn append(text: &mut String, path: &str, file: &str) {
    text.push(SEPARATOR);
    text.push_str(path);
    text.push('\n');
    text.push_str(file);
}

/// The text with `new` in place of the text of a part.
pub(super) fn with_part(text: &str, part: &FilePart<'_>, new: &str) -> String {
    let end = part.start + part.text.len();
    [&text[..part.start], new, &text[end..]].concat()
}

/// The names of the services that a part defines.
pub(super) fn services(part: &FilePart<'_>) -> Vec<String> {
    let (root, _) = DeTable::parse_recoverable(part.text);
    let Some(service) = root.get_ref().get("service") else {
        return Vec::new();
    };
    match service.get_ref() {
        DeValue::Table(table) => table.keys().map(|key| key.get_ref().to_string()).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_included_files_is_one_file() {
        assert_eq!(parts("a = 1\n"), [FilePart::single("a = 1\n")]);
        assert_eq!(parts(""), [FilePart::single("")]);
    }

    #[test]
    fn included_files_follow_with_their_paths_and_offsets() {
        let mut text = "main\n".to_owned();
        append(&mut text, "conf.d/a.toml", "one");
        append(&mut text, "/etc/b.toml", "");
        let found = parts(&text);
        let shown: Vec<_> = found.iter().map(|p| (p.path, p.text)).collect();
        assert_eq!(
            shown,
            [
                (None, "main\n"),
                (Some("conf.d/a.toml"), "one"),
                (Some("/etc/b.toml"), "")
            ]
        );
        for part in &found {
            assert!(text[part.start..].starts_with(part.text));
        }
        let main = Path::new("/etc/cutover/cutover.toml");
        let files: Vec<_> = found.iter().map(|p| p.name("cutover.toml")).collect();
        assert_eq!(files, ["cutover.toml", "conf.d/a.toml", "/etc/b.toml"]);
        assert_eq!(found[1].file(main), Path::new("/etc/cutover/conf.d/a.toml"));
        let new = with_part(&text, &found[1], "two, longer");
        assert_eq!(parts(&new)[1].text, "two, longer");
        assert_eq!(parts(&new)[2].path, Some("/etc/b.toml"));
    }

    #[test]
    fn a_separator_without_a_path_ends_nowhere_else() {
        let found = parts("a\u{1c}");
        assert_eq!((found[1].path, found[1].text), (Some(""), ""));
        assert_eq!(found[1].start, 2);
    }
}
