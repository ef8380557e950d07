//! `/etc/hosts` (hosts(5)): addresses that a machine's administrator gave to names.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of each name, in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HostsFile(HashMap<String, Vec<IpAddr>>);

impl HostsFile {
    /// Reads the text of a file. Lines that aren't understood are ignored, as by the C library.
    pub(super) fn parse(text: &str) -> Self {
        let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let Some(Ok(ip)) = words.next().map(str::parse::<IpAddr>) else {
                continue;
            };
            for name in words {
                let all = names.entry(name.to_ascii_lowercase()).or_default();
                if !all.contains(&ip) {
                    all.push(ip);
                }
            }
        }
        Self(names)
    }

    /// The addresses of a name. `localhost` and names below it are this machine even without a line (RFC 6761 section 6.3). Name
    /// servers are never asked for them.
    pub(super) fn find(&self, name: &str) -> Option<Vec<IpAddr>> {
        let name = name.strip_suffix('.').unwrap_or(name);
        if let Some(found) = self.0.get(name) {
            return Some(found.clone());
        }
        let is_local = name == "localhost" || name.ends_with(".localhost");
        is_local.then(|| vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_addresses_of_all_its_lines() {
        let hosts = HostsFile::parse(
            "127.0.0.1 localhost # this machine\n10.0.0.1\tApp.internal app\n# 10.0.0.9 app\n10.0.0.2 app\n10.0.0.2 app\nnonsense app\n",
        );
        let found = |name| hosts.find(name).map(|all| format!("{all:?}"));
        assert_eq!(found("app").as_deref(), Some("[10.0.0.1, 10.0.0.2]"));
        assert_eq!(found("app.internal").as_deref(), Some("[10.0.0.1]"));
        assert_eq!(found("localhost").as_deref(), Some("[127.0.0.1]"));
        assert_eq!(found("other"), None);
    }

    #[test]
    fn localhost_is_this_machine_without_a_line() {
        let hosts = HostsFile::default();
        assert_eq!(hosts.find("localhost").map(|all| all.len()), Some(2));
        assert_eq!(hosts.find("a.localhost.").map(|all| all.len()), Some(2));
        assert_eq!(hosts.find("localhost.example"), None);
    }
}
