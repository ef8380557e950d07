//! A file to a [`Spec`], by the one path that `run`, `check` and every reload take.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::diagnostic::Diagnostic;
use super::locate::{PathStep, is_written, locate};
use super::spec::Spec;

/// No configuration is larger, in bytes; what is larger is another file.
const LARGEST: u64 = 16 << 20;

/// What came of a file that is good.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub spec: Arc<Spec>,
    /// The text as read.
    pub text: String,
    /// xxh3 of the text, as 16 hex digits.
    pub hash: String,
    /// What is valid but probably not meant.
    pub warnings: Vec<Diagnostic>,
}

impl Loaded {
    /// An error at the key that `path` leads to, or as near to it as anything is written. `help` may be empty.
    pub fn diagnostic(
        &self,
        file: &str,
        path: &[PathStep],
        message: &str,
        help: &str,
    ) -> Diagnostic {
        let found = match locate(&self.text, path) {
            Some(span) => Diagnostic::at(&self.text, file, span, message),
            None => Diagnostic::of_file(file, message.to_owned(), None),
        };
        match help {
            "" => found,
            help => found.helped(help),
        }
    }

    /// Whether the file says something for the key that `path` leads to.
    pub fn is_written(&self, path: &[PathStep]) -> bool {
        is_written(&self.text, path)
    }
}

/// Why a file can't be used: at least one error. `Display` is the full plain rendering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadFailure {
    errors: Vec<Diagnostic>,
    hash: Option<String>,
}

/// Reads, checks and lowers a file. It must be a regular file (or a link to one) that others may not write.
///
/// # Errors
/// It can't be read, or its text is not a valid configuration.
pub fn load(path: impl AsRef<Path>) -> Result<Loaded, LoadFailure> {
    let path = path.as_ref();
    let name = path.display().to_string();
    let bytes = read(path, &name)?;
    let hash = hash(&bytes);
    let failure = |errors| LoadFailure {
        errors,
        hash: Some(hash.clone()),
    };
    let text = String::from_utf8(bytes).map_err(|error| failure(vec![not_utf8(&error, &name)]))?;
    if text.trim().is_empty() {
        return Err(failure(vec![empty(&text, &name)]));
    }
    let (spec, warnings) = super::parse_with_warnings(&text, &name).map_err(failure)?;
    Ok(Loaded {
        spec: Arc::new(spec),
        text,
        hash,
        warnings,
    })
}

/// xxh3 of a text, as 16 hex digits.
pub fn hash(text: &[u8]) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text))
}

/// Opens once, so that what is checked is what is read.
fn read(path: &Path, name: &str) -> Result<Vec<u8>, LoadFailure> {
    let refuse = |message: String, help: Option<String>| LoadFailure {
        errors: vec![Diagnostic::of_file(name, message, help)],
        hash: None,
    };
    let unreadable = |error: std::io::Error| {
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => missing(path),
            std::io::ErrorKind::PermissionDenied => format!("chmod u+r {name}, as its owner"),
            _ => return refuse(format!("the file can't be read: {error}"), None),
        };
        refuse(format!("the file can't be read: {error}"), Some(help))
    };
    // Looked at before it is opened: opening a pipe would wait for a writer.
    let about = std::fs::metadata(path).map_err(unreadable)?;
    if about.is_dir() {
        let help = in_directory(path).map(|file| format!("did you mean {file}?"));
        return Err(refuse("this is a directory, not a file".to_owned(), help));
    }
    if !about.is_file() {
        return Err(refuse("this is not a regular file".to_owned(), None));
    }
    let file = File::open(path).map_err(unreadable)?;
    let about = file.metadata().map_err(unreadable)?;
    if about.mode() & 0o002 != 0 {
        let message = format!(
            "everybody may write to this file (mode {:04o}): who can change it commands the proxy",
            about.mode() & 0o7777
        );
        return Err(refuse(message, Some(format!("chmod o-w {name}"))));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        return Err(refuse("the file is larger than 16 MiB".to_owned(), None));
    }
    Ok(bytes)
}

/// What to do about a file that isn't there.
fn missing(path: &Path) -> String {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        return format!("there is no directory {}", parent.display());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let known = configurations(parent);
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    match (super::raw::nearest(&name, &known), &known[..]) {
        (Some(near), _) => format!("did you mean {}?", path.with_file_name(near).display()),
        (None, []) => "name the file with `-c FILE`".to_owned(),
        (None, known) => format!(
            "name the file with `-c FILE`; {} has {}",
            parent.display(),
            known.join(", ")
        ),
    }
}

/// The configuration in a directory that was named instead of it: the one of the usual name, or the only one.
fn in_directory(directory: &Path) -> Option<String> {
    const USUAL: &str = "cutover.toml";
    let found = configurations(directory);
    let usual = found.iter().find(|name| *name == USUAL);
    let name = usual.or_else(|| found.first().filter(|_| found.len() == 1))?;
    Some(directory.join(name).display().to_string())
}

/// The names of files in TOML, at most ten.
fn configurations(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".toml")).collect();
    names.sort();
    names.truncate(10);
    names
}

fn not_utf8(error: &std::string::FromUtf8Error, name: &str) -> Diagnostic {
    // A byte order mark of UTF-16, which some editors write.
    if matches!(error.as_bytes(), [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) {
        let help = "save the file as UTF-8, which TOML asks for".to_owned();
        return Diagnostic::of_file(name, "the file is UTF-16".to_owned(), Some(help));
    }
    let at = error.utf8_error().valid_up_to();
    let text = String::from_utf8_lossy(error.as_bytes());
    // What stands before the first bad byte is the same in the lossy text.
    let width = text[at..].chars().next().map_or(0, char::len_utf8);
    Diagnostic::at(&text, name, at..at + width, "the file is not UTF-8")
        .labelled("this byte is in no character")
        .helped("save the file as UTF-8, which TOML asks for")
}

fn empty(text: &str, name: &str) -> Diagnostic {
    Diagnostic::at(text, name, 0..0, "the file is empty")
        .labelled("expected a listener and a service")
        .helped("a file that was cut off while it was written looks like this: write it anew")
}

impl LoadFailure {
    /// Every error, in the order of the file; at least one.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.errors
    }

    /// xxh3 of the refused text, as 16 hex digits, if it could be read.
    pub fn hash(&self) -> Option<&str> {
        self.hash.as_deref()
    }

    /// One line: the first error as `file:line:column: message`, and how many more there are.
    pub fn summary(&self) -> String {
        let first = self.errors.first().map(Diagnostic::summary);
        let first = first.unwrap_or_default();
        match self.errors.len() {
            0 | 1 => first,
            n => format!("{first} (and {} more)", n - 1),
        }
    }

    /// Every error with its line and a caret. With `color`, for [`anstream`], which takes the colour out again where
    /// there is no terminal.
    pub fn rendered(&self, color: bool) -> String {
        let errors: Vec<String> = self.errors.iter().map(|e| e.rendered(color)).collect();
        errors.join("\n")
    }
}

impl fmt::Display for LoadFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered(false))
    }
}

impl std::error::Error for LoadFailure {}
