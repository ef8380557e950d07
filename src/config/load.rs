//! Loads a configuration file. `run`, `check` and every reload use this one function, so they accept the same files.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bundle::{self, FilePart};
use super::diagnostic::Diagnostic;
use super::include;
use super::locate::{PathStep, is_written, locate};
use super::paths;
use super::position::BYTE_ORDER_MARK;
use super::shared::{self, SharedTables};
use super::spec::Spec;

/// The maximum size of a configuration file in bytes. A larger one was probably named by mistake.
const LARGEST: u64 = 16 << 20;

/// A configuration file that was read and is valid.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The validated configuration.
    pub spec: Arc<Spec>,
    /// The text of the file. If it includes others, their texts follow, each after the control character FS, its path and a
    /// line feed.
    pub text: String,
    /// Hash of the text: see [`hash`].
    pub hash: String,
    /// Settings that are valid but probably not intended, in text order.
    pub warnings: Vec<Diagnostic>,
}

impl Loaded {
    /// Creates an error at the key at `path`, or at its closest ancestor in the file. An empty `help` is left out.
    pub fn diagnostic(
        &self,
        file: &str,
        path: &[PathStep],
        message: &str,
        help: &str,
    ) -> Diagnostic {
        let parts = bundle::parts(&self.text);
        let found = match locate(&parts, path) {
            Some(span) => Diagnostic::at(&parts, file, span, message),
            None => Diagnostic::of_file(file, message.to_owned(), None),
        };
        match help {
            "" => found,
            help => found.helped(help),
        }
    }

    /// Returns whether the file sets the key at `path`.
    pub fn is_written(&self, path: &[PathStep]) -> bool {
        is_written(&bundle::parts(&self.text), path)
    }

    /// The files with the services that each defines, the main file first. `main` is the path of the main file.
    pub fn files(&self, main: &Path) -> Vec<ConfigFile> {
        let parts = bundle::parts(&self.text);
        let (_, included) = parts.split_at(1);
        let mut files = vec![ConfigFile {
            path: main.to_owned(),
            services: Vec::new(),
        }];
        files.extend(included.iter().map(|part| ConfigFile {
            path: part.file(main),
            services: bundle::services(part),
        }));
        // No service is in two files, so the main file needs no second parsing.
        let elsewhere: HashSet<&String> = files.iter().flat_map(|file| &file.services).collect();
        let all = self.spec.services.iter().map(|service| &service.name);
        let own: Vec<String> = all
            .filter(|name| !elsewhere.contains(name))
            .cloned()
            .collect();
        files[0].services = own;
        files
    }
}

/// A file of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// Path of the file; relative if the path of the main file is.
    pub path: PathBuf,
    /// Names of the services that it defines.
    pub services: Vec<String>,
}

/// Why a file can't be used: one or more errors. `Display` writes all of them in full, without colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadFailure {
    errors: Vec<Diagnostic>,
    hash: Option<String>,
}

/// Reads and validates a configuration file.
///
/// # Errors
/// Fails if the path doesn't lead to a regular file, the file can't be read, is world-writable or larger than 16 MiB, its
/// text isn't a valid configuration, or a `body_file` can't be read. The same goes for the files that it includes.
pub fn load(path: impl AsRef<Path>) -> Result<Loaded, LoadFailure> {
    let path = path.as_ref();
    let name = path.display().to_string();
    of_text(text(path)?, &name)
}

/// Validates the text of a configuration as [`load`](load()) does, where `name` is the path of its main file.
///
/// # Errors
/// The text isn't valid, or a `body_file` can't be read.
pub fn of_text(text: String, name: &str) -> Result<Loaded, LoadFailure> {
    let hash = hash(text.as_bytes());
    let failure = |errors| LoadFailure {
        errors,
        hash: Some(hash.clone()),
    };
    if text.trim_start_matches(BYTE_ORDER_MARK).trim().is_empty() {
        return Err(failure(vec![empty(&text, name)]));
    }
    let (spec, warnings) = super::parse_with_files(&text, name).map_err(failure)?;
    Ok(Loaded {
        spec: Arc::new(spec),
        text,
        hash,
        warnings,
    })
}

/// Returns the 64-bit xxh3 hash of a text as 16 hex digits. It identifies a text in logs and the API, and isn't
/// cryptographic.
pub fn hash(text: &[u8]) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text))
}

/// Reads a file and those that it includes into one text, without parsing it: see [`bundle`].
///
/// # Errors
/// A file can't be read, or is no text.
pub fn text(path: &Path) -> Result<String, LoadFailure> {
    let main = one_text(path)?;
    with_included(path, main)
}

/// Returns the [`hash`] of a file with those that it includes, or `None` if one of them can't be read.
pub fn hash_of(path: &Path) -> Option<String> {
    Some(hash(text(path).ok()?.as_bytes()))
}

/// Adds the files that the main file at `path` includes to its text, and the tables that its fleet shares.
///
/// # Errors
/// One of them can't be read, or is no text.
pub(super) fn with_included(path: &Path, main: String) -> Result<String, LoadFailure> {
    let main = unseparated(main);
    let name = path.display().to_string();
    let files = include::files(path, &main).map_err(|errors| {
        let parts = [FilePart::single(&main)];
        let diagnose = |error: include::IncludeError| {
            let list = [include::KEY.into(), PathStep::Item(error.index)];
            // The pattern was read from this text.
            let span = locate(&parts, &list).unwrap_or_default();
            let found = Diagnostic::at(&parts, &name, span, &error.message);
            match &*error.help {
                "" => found,
                help => found.helped(help),
            }
        };
        LoadFailure {
            errors: errors.into_iter().map(diagnose).collect(),
            hash: None,
        }
    })?;
    let shared = shared::of_text(&main);
    let directory = path.parent().unwrap_or(Path::new(""));
    let read = |file: &str| -> Result<String, LoadFailure> {
        one_text(&directory.join(file)).map(unseparated)
    };
    let text = include::joined(main, &files, read).map_err(|failures| LoadFailure {
        errors: failures.into_iter().flat_map(|f| f.errors).collect(),
        hash: None,
    })?;
    let text = match shared {
        Some(SharedTables { part, copy }) if copy.exists() => {
            let mut text = text;
            bundle::append(&mut text, &part, &unseparated(one_text(&copy)?));
            text
        }
        _ => text,
    };
    if text.len() as u64 > LARGEST {
        return Err(LoadFailure {
            errors: vec![too_large(&name)],
            hash: None,
        });
    }
    Ok(text)
}

/// The text with another control character, which TOML forbids as well, in place of the one that separates files. A file can't pass
/// for several then.
fn unseparated(text: String) -> String {
    match text.contains(bundle::SEPARATOR) {
        true => text.replace(bundle::SEPARATOR, "\u{1d}"),
        false => text,
    }
}

/// Reads one file as text.
fn one_text(path: &Path) -> Result<String, LoadFailure> {
    let name = path.display().to_string();
    let bytes = read(path, &name)?;
    String::from_utf8(bytes).map_err(|error| LoadFailure {
        errors: vec![not_utf8(&error, &name)],
        hash: Some(hash(error.as_bytes())),
    })
}

fn too_large(name: &str) -> Diagnostic {
    let message = "the configuration is larger than 16 MiB";
    Diagnostic::of_file(name, message.to_owned(), None)
}

/// Reads the file and checks what was opened, so that it can't be exchanged in between.
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
    // Checked before the file is opened, because opening a named pipe blocks until it has a writer.
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
            "the file is world-writable (mode {:04o}): whoever can write to it controls the proxy",
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

/// Suggests what to do about a file that doesn't exist.
fn missing(path: &Path) -> String {
    let parent = paths::directory(path);
    if !parent.is_dir() {
        return format!("there is no directory {}", parent.display());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let known = configurations(parent);
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    match (super::suggest::nearest(&name, &known), &known[..]) {
        (Some(near), _) => format!("did you mean {}?", path.with_file_name(near).display()),
        (None, []) => "name the file with `-c FILE`".to_owned(),
        (None, known) => format!(
            "name the file with `-c FILE`; {} has {}",
            parent.display(),
            known.join(", ")
        ),
    }
}

/// Guesses the configuration in a directory that was given instead of a file: the one with the default name, or the only
/// one.
fn in_directory(directory: &Path) -> Option<String> {
    const USUAL: &str = "cutover.toml";
    let found = configurations(directory);
    let usual = found.iter().find(|name| *name == USUAL);
    let name = usual.or_else(|| found.first().filter(|_| found.len() == 1))?;
    Some(directory.join(name).display().to_string())
}

/// Returns the names of the `.toml` files in a directory: the first ten in alphabetical order.
fn configurations(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".toml")).collect();
    names.sort();
    names.truncate(10);
    names
}

fn not_utf8(error: &std::string::FromUtf8Error, name: &str) -> Diagnostic {
    // The byte order marks of UTF-16, which some editors on Windows write.
    if matches!(error.as_bytes(), [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) {
        let help = "save the file as UTF-8, which TOML requires".to_owned();
        return Diagnostic::of_file(name, "the file is UTF-16".to_owned(), Some(help));
    }
    let at = error.utf8_error().valid_up_to();
    let text = String::from_utf8_lossy(error.as_bytes());
    // Up to the first invalid byte, offsets in the lossy text are the same.
    let width = text[at..].chars().next().map_or(0, char::len_utf8);
    Diagnostic::at(
        &[FilePart::single(&text)],
        name,
        at..at + width,
        "the file is not UTF-8",
    )
    .labelled("this byte is not part of a character")
    .helped("save the file as UTF-8, which TOML requires")
}

fn empty(text: &str, name: &str) -> Diagnostic {
    Diagnostic::at(&[FilePart::single(text)], name, 0..0, "the file is empty")
        .labelled("expected a listener and a service")
        .helped("an interrupted write can leave an empty file: write its content again")
}

impl LoadFailure {
    /// Returns all errors in text order; at least one.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.errors
    }

    /// Returns the [`hash`] of the refused text, or `None` if the file couldn't be read.
    pub fn hash(&self) -> Option<&str> {
        self.hash.as_deref()
    }

    /// Returns one line: the first error as `file:line:column: message`, and the number of further ones.
    pub fn summary(&self) -> String {
        let first = self.errors.first().map(Diagnostic::summary);
        let first = first.unwrap_or_default();
        match self.errors.len() {
            0 | 1 => first,
            n => format!("{first} (and {} more)", n - 1),
        }
    }

    /// Renders all errors in full. `color` adds ANSI escape sequences; print such text with `anstream`, which strips
    /// them if the output is no terminal.
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
