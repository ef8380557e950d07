//! `mode` and `group` of a listener on a Unix socket: which users may connect to it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::config::spec::SocketAccess;

/// The groups of this machine.
const GROUPS: &str = "/etc/group";

/// Gives the file of a socket the configured group and mode. If one of them isn't configured, it isn't changed.
///
/// # Errors
/// A message with the cause and what to do.
pub(crate) fn apply(access: &SocketAccess, path: &Path) -> Result<(), String> {
    if let Some(group) = &access.group {
        let gid = resolve(group)?;
        chown(path, None, Some(gid)).map_err(|error| match error.kind() {
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
/// The C library isn't asked: in a static program, as the packages have, it loads modules that may not fit it, and the process crashes.
///
/// # Errors
/// A message that says that there is no such group.
pub fn resolve(group: &str) -> Result<u32, String> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let local = fs::read_to_string(GROUPS).unwrap_or_default();
    id_of(group, &local)
        .or_else(|| from_directories(group))
        .ok_or_else(|| {
            format!("this machine has no group {group}. `getent group` lists those that it has")
        })
}

/// The id of a group in lines as those of group(5).
fn id_of(group: &str, lines: &str) -> Option<u32> {
    lines.lines().find_map(|line| {
        let mut fields = line.split(':');
        let id = (fields.next() == Some(group)).then(|| fields.nth(1))?;
        id?.parse().ok()
    })
}

/// The id of a group that only a directory service knows, such as LDAP.
fn from_directories(group: &str) -> Option<u32> {
    let listed = Command::new("getent").args(["group", "--", group]).output();
    let listed = listed.ok().filter(|listed| listed.status.success())?;
    id_of(group, &String::from_utf8_lossy(&listed.stdout))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn groups_are_known_by_name_and_number() {
        assert_eq!(resolve("root").unwrap(), 0);
        assert_eq!(resolve("1234").unwrap(), 1234);
        let error = resolve("no-such-group").unwrap_err();
        assert!(error.contains("no group no-such-group"), "{error}");
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let lines = "roots:x:7:\nroot:x:0:a,b\nbroken\nodd:x:many:\nroot:x:9:\n";
        assert_eq!(id_of("root", lines), Some(0));
        assert_eq!(id_of("roo", lines), None);
        assert_eq!(id_of("broken", lines), None);
        assert_eq!(id_of("odd", lines), None);
    }

    #[test]
    fn directories_are_asked_as_well() {
        assert_eq!(from_directories("root"), Some(0));
        assert_eq!(from_directories("no-such-group"), None);
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
