//! Default paths: the configuration file, the state directory and the sockets in it.
//!
//! `run` binds the control socket and every other command connects to it. Both compute its path here, from the path of the
//! configuration file, so that several proxies on one machine don't collide.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

/// Configuration files that are tried, in this order, if none is given.
pub const DEFAULT_CONFIGS: [&str; 2] = ["./cutover.toml", "/etc/cutover/cutover.toml"];

/// Returns the first of [`DEFAULT_CONFIGS`] that exists.
pub fn default_config() -> Option<PathBuf> {
    DEFAULT_CONFIGS
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
}

/// The state directory of the packaged service (`StateDirectory=cutover` of its unit).
pub(crate) const PACKAGED_STATE_DIR: &str = "/var/lib/cutover";

/// Returns the directories in which a running proxy may keep its state, the most likely first: the one that `run` would use
/// as this user and, unless one is configured, that of the packaged service, which runs as another user.
pub fn state_dirs(configured: Option<&Path>) -> Vec<PathBuf> {
    state_dirs_by(configured, |name| env::var_os(name))
}

fn state_dirs_by(
    configured: Option<&Path>,
    var: impl Fn(&str) -> Option<OsString>,
) -> Vec<PathBuf> {
    let mut dirs = vec![state_dir_by(configured, var)];
    let packaged = Path::new(PACKAGED_STATE_DIR);
    if configured.is_none() && dirs[0] != packaged {
        dirs.push(packaged.to_owned());
    }
    dirs
}

/// Returns the state directory: the configured one, else `$STATE_DIRECTORY` (set by systemd), else
/// `$XDG_STATE_HOME/cutover`, else `~/.local/state/cutover`, else `/var/lib/cutover`. It need not exist.
///
/// Relative paths in the variables are ignored, as the XDG Base Directory Specification asks for.
pub fn state_dir(configured: Option<&Path>) -> PathBuf {
    state_dir_by(configured, |name| env::var_os(name))
}

fn state_dir_by(configured: Option<&Path>, var: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    if let Some(configured) = configured {
        return configured.to_owned();
    }
    let set = |name| {
        var(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    // systemd sets a colon-separated list if the unit names several directories.
    if let Some(list) = var("STATE_DIRECTORY")
        && let Some(first) = env::split_paths(&list).find(|path| path.is_absolute())
    {
        return first;
    }
    if let Some(state) = set("XDG_STATE_HOME") {
        return state.join("cutover");
    }
    match set("HOME") {
        Some(home) => home.join(".local/state/cutover"),
        None => PathBuf::from(PACKAGED_STATE_DIR),
    }
}

/// Returns the control socket of the proxy that runs with this configuration file:
/// `STATE_DIR/control-<16 hex digits>.sock`.
///
/// The digits are a hash of the file's path with its directory canonicalised. The file name itself isn't resolved: if it is a
/// symlink that is replaced (as in a Kubernetes ConfigMap), the socket must keep its name.
///
/// # Errors
/// Fails if the path has no file name, or its directory doesn't exist or can't be read.
pub fn control_socket(state_dir: &Path, config: &Path) -> io::Result<PathBuf> {
    socket("control", state_dir, config)
}

/// Returns the socket on which the proxy that runs with this configuration file hands over its listeners to a successor:
/// `STATE_DIR/handover-<16 hex digits>.sock`, with the same digits as the control socket.
///
/// # Errors
/// Fails for the same reasons as [`control_socket`].
pub fn handover_socket(state_dir: &Path, config: &Path) -> io::Result<PathBuf> {
    socket("handover", state_dir, config)
}

/// Returns the directory in which the proxy that runs with this configuration file keeps its history:
/// `STATE_DIR/history/<16 hex digits>`, with the same digits as the control socket.
///
/// # Errors
/// Fails for the same reasons as [`control_socket`].
pub fn history_dir(state_dir: &Path, config: &Path) -> io::Result<PathBuf> {
    Ok(state_dir.join("history").join(digits(config)?))
}

fn socket(kind: &str, state_dir: &Path, config: &Path) -> io::Result<PathBuf> {
    Ok(state_dir.join(format!("{kind}-{}.sock", digits(config)?)))
}

/// The directory of a file.
pub fn directory(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// The 16 hex digits that stand for a configuration file: a hash of its path.
fn digits(config: &Path) -> io::Result<String> {
    let parent = directory(config);
    let name = config.file_name().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} does not name a file", config.display()),
        )
    })?;
    let canonical = parent.canonicalize()?.join(name);
    let hash = xxh3_64(canonical.as_os_str().as_encoded_bytes());
    Ok(format!("{hash:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(configured: Option<&str>, vars: &[(&str, &str)]) -> PathBuf {
        state_dir_by(configured.map(Path::new), |name| {
            let found = vars.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_nearest_state_directory_wins() {
        let all = [
            ("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"),
            ("XDG_STATE_HOME", "/x"),
            ("HOME", "/home/u"),
        ];
        assert_eq!(by(Some("/c"), &all), Path::new("/c"));
        assert_eq!(by(None, &all), Path::new("/var/lib/a"));
        assert_eq!(by(None, &all[1..]), Path::new("/x/cutover"));
        assert_eq!(
            by(None, &all[2..]),
            Path::new("/home/u/.local/state/cutover")
        );
        assert_eq!(by(None, &[]), Path::new("/var/lib/cutover"));
    }

    #[test]
    fn a_proxy_is_looked_for_in_the_packaged_state_directory_too() {
        let all = |configured: Option<&str>, vars: &[(&str, &str)]| {
            state_dirs_by(configured.map(Path::new), |name| {
                let found = vars.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| OsString::from(value))
            })
        };
        let home = [("HOME", "/home/u")];
        let both = ["/home/u/.local/state/cutover", "/var/lib/cutover"].map(PathBuf::from);
        assert_eq!(all(None, &home), both);
        assert_eq!(all(Some("/c"), &home), [PathBuf::from("/c")]);
        let service = [("STATE_DIRECTORY", "/var/lib/cutover"), home[0]];
        assert_eq!(all(None, &service), both[1..]);
        assert_eq!(all(None, &[]), both[1..]);
    }

    #[test]
    fn relative_directories_from_the_environment_are_ignored() {
        let vars = [("XDG_STATE_HOME", "state"), ("HOME", "/home/u")];
        assert_eq!(by(None, &vars), Path::new("/home/u/.local/state/cutover"));
    }

    #[test]
    fn one_file_has_one_socket_however_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let state = Path::new("/s");
        let plain = control_socket(state, &dir.path().join("a.toml")).unwrap();
        let dotted = control_socket(state, &dir.path().join("./a.toml")).unwrap();
        let other = control_socket(state, &dir.path().join("b.toml")).unwrap();
        let history = history_dir(state, &dir.path().join("a.toml")).unwrap();
        assert_eq!(plain, dotted);
        assert_ne!(plain, other);
        let name = plain.file_name().unwrap().to_str().unwrap();
        assert_eq!(name.len(), "control-0123456789abcdef.sock".len());
        let digits = history.strip_prefix("/s/history").unwrap();
        assert_eq!(name, format!("control-{}.sock", digits.display()));
        assert!(control_socket(state, Path::new("/no/such/place/a.toml")).is_err());
    }

    #[test]
    fn a_swapped_symlink_keeps_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("cutover.toml");
        let state = Path::new("/s");
        std::fs::write(dir.path().join("one"), "").unwrap();
        std::os::unix::fs::symlink("one", &link).unwrap();
        let before = control_socket(state, &link).unwrap();
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("two", &link).unwrap();
        assert_eq!(control_socket(state, &link).unwrap(), before);
    }
}
