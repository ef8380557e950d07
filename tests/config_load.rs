//! Files that may not be used, whatever is in them, and what is said of files that may.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use cutover::config;

const GOOD: &str = "listen = ':80'\n[service.shop]\nversions = { v1 = ['a:1'] }\n";

struct File {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn file(text: impl AsRef<[u8]>) -> File {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cutover.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    File {
        _directory: directory,
        path,
    }
}

/// What is said, with the file's directory taken out.
fn refusal(file: &File) -> String {
    let said = config::load(&file.path).unwrap_err().to_string();
    let directory = file.path.parent().unwrap().display().to_string();
    said.replace(&format!("{directory}/"), "")
}

#[test]
fn a_good_file() {
    let file = file(GOOD);
    let loaded = config::load(&file.path).unwrap();
    assert_eq!(loaded.text, GOOD);
    assert_eq!(loaded.hash.len(), 16);
    assert_eq!(loaded.hash, config::load::hash(GOOD.as_bytes()));
    assert_eq!(loaded.spec.services[0].name, "shop");
}

#[test]
fn a_file_that_is_not_there() {
    let file = file("");
    fs::remove_file(&file.path).unwrap();
    let said = refusal(&file);
    assert!(
        said.starts_with("error: the file can't be read: No such file"),
        "{said}"
    );
    assert!(said.contains("--> cutover.toml"), "{said}");
}

#[test]
fn a_directory() {
    let file = file("");
    let failure = config::load(file.path.parent().unwrap()).unwrap_err();
    assert!(
        failure
            .summary()
            .ends_with(": this is a directory, not a file")
    );
    assert_eq!(failure.hash(), None);
}

#[test]
fn a_file_that_everybody_may_write() {
    let file = file(GOOD);
    fs::set_permissions(&file.path, fs::Permissions::from_mode(0o646)).unwrap();
    assert_eq!(
        refusal(&file),
        "error: the file is world-writable (mode 0646): whoever can write to it controls the proxy\n \
         --> cutover.toml\n  = help: chmod o-w cutover.toml\n"
    );
}

#[test]
fn an_empty_file() {
    for text in ["", " \n\t\n", "\u{feff}\n"] {
        let said = refusal(&file(text));
        assert!(
            said.starts_with("error: the file is empty\n --> cutover.toml:1:1\n"),
            "{said}"
        );
    }
}

#[test]
fn bytes_that_are_no_text() {
    let said = refusal(&file(b"listen = ':80'\nstate_dir = '/\xff'\n"));
    assert!(
        said.starts_with("error: the file is not UTF-8\n --> cutover.toml:2:15\n"),
        "{said}"
    );
}

#[test]
fn a_summary_has_one_line() {
    let file = file("listen = 3\nworkers = 0\n");
    let failure = config::load(&file.path).unwrap_err();
    let expected = format!(
        "{}:1:1: the file defines no service (and 2 more)",
        file.path.display()
    );
    assert_eq!(failure.summary(), expected);
    assert_eq!(failure.diagnostics().len(), 3);
    assert_eq!(failure.hash().map(str::len), Some(16));
}

#[test]
fn a_name_that_is_nearly_right_is_suggested() {
    let file = file(GOOD);
    let directory = file.path.parent().unwrap();
    let help = |name: &str| {
        let said = config::load(directory.join(name)).unwrap_err().to_string();
        let said = said.replace(&directory.display().to_string(), "DIR");
        let (_, help) = said.split_once("= help: ").expect("a help");
        help.trim_end().to_owned()
    };
    assert_eq!(help("cutver.toml"), "did you mean DIR/cutover.toml?");
    assert_eq!(
        help("nothing"),
        "name the file with `-c FILE`; DIR has cutover.toml"
    );
    assert_eq!(help("sub/cutover.toml"), "there is no directory DIR/sub");
    // The directory instead of the file in it.
    assert_eq!(help(""), "did you mean DIR/cutover.toml?");
}

#[test]
fn a_file_in_utf_16() {
    let text: Vec<u8> = "\u{feff}listen = ':80'\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let said = refusal(&file(text));
    assert!(
        said.starts_with("error: the file is UTF-16\n --> cutover.toml\n"),
        "{said}"
    );
    assert!(said.contains("save the file as UTF-8"), "{said}");
}
