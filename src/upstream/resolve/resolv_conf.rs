//! The system's resolver settings: `/etc/resolv.conf` (resolv.conf(5)).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The port of name servers.
pub(super) const PORT: u16 = 53;
/// Most servers that are read, and most search domains: MAXNS of glibc is 3, MAXDNSRCH was 6.
const MOST_SERVERS: usize = 8;
const MOST_DOMAINS: usize = 32;
/// The largest `ndots` that glibc takes.
const MOST_DOTS: usize = 15;

/// The settings in a `resolv.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// The servers, in the order in which they are asked.
    pub(super) servers: Vec<SocketAddr>,
    /// Domains that are appended to names with few dots.
    pub(super) search: Vec<String>,
    /// Names with fewer dots are looked up in the search domains first.
    pub(super) ndots: usize,
}

impl Default for ResolvConf {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
        }
    }
}

impl ResolvConf {
    /// Reads the text of a file. Lines that aren't understood are ignored, as by the C library. Without a server, the one on this
    /// machine is asked.
    pub(super) fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            // A comment begins the line; elsewhere `#` and `;` are ordinary characters.
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().and_then(server)),
                // The last of these lines counts.
                Some("search") => conf.search = words.map(domain).collect(),
                Some("domain") => conf.search = words.take(1).map(domain).collect(),
                Some("options") => words.for_each(|option| conf.option(option)),
                _ => {}
            }
        }
        conf.servers.truncate(MOST_SERVERS);
        conf.search.truncate(MOST_DOMAINS);
        conf.search.retain(|domain| !domain.is_empty());
        if conf.servers.is_empty() {
            conf.servers.push((Ipv4Addr::LOCALHOST, PORT).into());
        }
        conf
    }

    fn option(&mut self, option: &str) {
        if let Some(dots) = option.strip_prefix("ndots:")
            && let Ok(dots) = dots.parse::<usize>()
        {
            self.ndots = dots.min(MOST_DOTS);
        }
    }

    /// The absolute names that a name may stand for, in the order in which they are tried.
    pub(super) fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let dots = name.bytes().filter(|b| *b == b'.').count();
        let mut names: Vec<String> = { self.search.iter() }
            .map(|domain| format!("{name}.{domain}"))
            .collect();
        match dots >= self.ndots {
            true => names.insert(0, name.to_owned()),
            false => names.push(name.to_owned()),
        }
        names
    }
}

fn domain(word: &str) -> String {
    word.trim_matches('.').to_ascii_lowercase()
}

/// An address, for IPv6 with its zone where it has one: `fe80::1%2`.
fn server(word: &str) -> Option<SocketAddr> {
    let plain = word.parse::<IpAddr>().map(|ip| (ip, PORT).into());
    plain.or_else(|_| format!("[{word}]:{PORT}").parse()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_search_domains_and_ndots() {
        let conf = ResolvConf::parse(
            "# nameserver 9.9.9.9\n;x\ndomain old.internal\nnameserver 10.0.0.2\nnameserver fe80::1%2\nnameserver nonsense\n\
             search shop.svc.cluster.local. svc.cluster.local\noptions timeout:1 ndots:5 rotate\n",
        );
        let servers: Vec<_> = conf.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.2:53", "[fe80::1%2]:53"]);
        assert_eq!(conf.search, ["shop.svc.cluster.local", "svc.cluster.local"]);
        assert_eq!(conf.ndots, 5);
    }

    #[test]
    fn an_empty_file_means_the_server_on_this_machine() {
        let conf = ResolvConf::parse("options ndots:999\n");
        assert_eq!(conf.servers, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!((conf.ndots, conf.search.len()), (15, 0));
    }

    #[test]
    fn search_domains_come_first_for_names_with_few_dots() {
        let conf = ResolvConf {
            search: vec!["a.b".into(), "b".into()],
            ndots: 2,
            ..ResolvConf::default()
        };
        assert_eq!(conf.candidates("app"), ["app.a.b", "app.b", "app"]);
        assert_eq!(conf.candidates("x.y.z"), ["x.y.z", "x.y.z.a.b", "x.y.z.b"]);
        assert_eq!(conf.candidates("app."), ["app"]);
    }
}
