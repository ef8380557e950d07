//! The author of an edit, as commands announce it to the proxy.

use std::env;

use super::proxy::Proxy;
use crate::admin::history::Announcement;
use crate::config;

/// Longest part of a name, in characters.
const PART: usize = 64;

/// Tells the proxy that this user's `command` is about to save `text`. Errors are ignored: the edit doesn't depend on it.
pub(super) async fn announce(proxy: &Proxy, command: &str, text: &str) {
    let announcement = Announcement {
        hash: config::load::hash(text.as_bytes()),
        by: author(command),
    };
    let _ = proxy
        .post::<serde_json::Value>("/api/v1/announce", &announcement)
        .await;
}

/// The user, the machine and the command: `alice@build-7 (shift)`.
pub(super) fn author(command: &str) -> String {
    format!("{} ({command})", person())
}

/// The user and the machine: `alice@build-7`.
pub(super) fn person() -> String {
    let var = |name: &str| env::var(name).ok();
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    let uid = rustix::process::getuid().as_raw();
    format!("{}@{}", user(var, uid), printable(&host))
}

/// The user; behind `sudo`, the one that called it.
fn user(var: impl Fn(&str) -> Option<String>, uid: u32) -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].iter();
    let mut names = named.filter_map(|name| var(name).map(|user| printable(&user)));
    let found = names.find(|name| !name.is_empty());
    found.unwrap_or_else(|| format!("uid-{uid}"))
}

fn printable(text: &str) -> String {
    let shown = text.chars().filter(|c| !c.is_control());
    shown.take(PART).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_behind_sudo_is_the_author() {
        let by = |vars: &[(&str, &str)]| {
            let var = |name: &str| {
                let found = vars.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            user(var, 7)
        };
        assert_eq!(by(&[("USER", "root"), ("SUDO_USER", "alice")]), "alice");
        assert_eq!(by(&[("LOGNAME", "bob\n"), ("USER", "")]), "bob");
        assert_eq!(by(&[]), "uid-7");
        assert!(author("shift").ends_with(" (shift)"));
    }
}
