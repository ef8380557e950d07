//! `mode` and `group` of a listener on a Unix socket: which users may connect to it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use nix::unistd::{Gid, Group};

use crate::config::spec::SocketAccess;

/// Gives the file of a socket the configured group and mode. If one of them isn't configured, it isn't changed.
///
/// # Errors
/// A message with the cause and what to do.
pub(crate) fn apply(access: &SocketAccess, path: &Path) -> Result<(), String> {
    if let Some(group) = &access.group {
        let gid = resolve(group)?;
        chown(path, None, Some(gid.as_raw())).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => format!(
                "can't give the socket to the group {group}: the proxy's user isn't in that group. Add it to the group, or run the proxy as root"
            ),
            _ => format!("can't give the socket to the group {group}: {error}"),
        })?;
    }
    // The mode is set after the group: a socket for a group must not be open to the previous one meanwhile.
    if let Some(mode) = access.mode {
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(|error| format!("can't set the mode of the socket: {error}"))?;
    }
    Ok(())
}

/// The id of a group, given by its name or its number.
///
/// # Errors
/// A message that says that there is no such group.
pub fn resolve(group: &str) -> Result<Gid, String> {
    if let Ok(number) = group.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(group) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(format!(
            "this machine has no group {group}. `getent group` lists those that it has"
        )),
        Err(error) => Err(format!("can't look up the group {group}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn groups_are_known_by_name_and_number() {
        assert_eq!(resolve("root").unwrap().as_raw(), 0);
        assert_eq!(resolve("1234").unwrap().as_raw(), 1234);
        let error = resolve("no-such-group").unwrap_err();
        assert!(error.contains("no group no-such-group"), "{error}");
    }

    #[test]
    fn only_what_is_configured_changes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(file.path(), Permissions::from_mode(0o640)).unwrap();
        let own = file.path().metadata().unwrap().gid();
        let facts = || {
            let found = file.path().metadata().unwrap();
            (found.mode() & 0o777, found.gid())
        };
        apply(&SocketAccess::default(), file.path()).unwrap();
        assert_eq!(facts(), (0o640, own));
        let access = SocketAccess {
            mode: Some(0o660),
            group: Some(own.to_string()),
        };
        apply(&access, file.path()).unwrap();
        assert_eq!(facts(), (0o660, own));
    }
}
