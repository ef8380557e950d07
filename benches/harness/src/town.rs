//! Large configurations, generated: so many services, each with so many routes, match rules and endpoints.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::origin;

/// The header that rules look at. Every request carries it, and no rule takes its value.
pub const ASKED_HEADER: &str = "x-user: nobody-of-the-rules\r\n";

/// How large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Town {
    /// Services, each with a host of its own.
    pub services: usize,
    /// Paths of each service.
    pub routes: usize,
    /// Match rules of each service; each is looked at for every request of it.
    pub rules: usize,
    /// Endpoints of each version.
    pub endpoints: usize,
    /// Versions of each service: one, or blue and green.
    pub versions: usize,
}

impl Town {
    /// 1,000 services with 10,000 routes and endpoints.
    pub const LARGE: Self = Self {
        services: 1000,
        routes: 10,
        rules: 1,
        endpoints: 10,
        versions: 1,
    };

    /// cutover's configuration of the services. The first one has the host `edition-N.bench.local`, by which it is seen which
    /// edition answers; every version's endpoints are moved on by so many addresses.
    pub fn cutover(&self, origin: SocketAddr, edition: usize, moved: usize) -> String {
        let mut text = String::new();
        for service in 0..self.services {
            let own = match service {
                0 => {
                    format!(", \"bench.local\", \"edition-{edition}.bench.local\"")
                }
                _ => String::new(),
            };
            let _ = writeln!(
                text,
                "[service.s{service}]\nhosts = [\"s{service}.bench.local\"{own}]\nstable = \"v1\""
            );
            // The first service answers for everything else of its host as well: its probe has no route's path.
            if self.routes > 1 {
                let paths: Vec<String> = (0..self.routes)
                    .map(|n| format!("\"/r{n}/*\""))
                    .chain((service == 0).then(|| "\"/*\"".to_owned()))
                    .collect();
                let _ = writeln!(text, "paths = [{}]", paths.join(", "));
            }
            for rule in 0..self.rules {
                let _ = writeln!(
                    text,
                    "[[service.s{service}.match]]\nwhen = {{ header.x-user = \"user-{service}-{rule}\" }}\nto = \"v1\""
                );
            }
            let _ = writeln!(text, "[service.s{service}.versions]");
            for version in 1..=self.versions {
                let first = service * self.endpoints + version + moved;
                let endpoints: Vec<String> = (0..self.endpoints)
                    .map(|n| {
                        format!(
                            "\"{}:{}\"",
                            origin::address((first + n) % self.addresses()),
                            origin.port()
                        )
                    })
                    .collect();
                let _ = writeln!(text, "v{version} = [{}]", endpoints.join(", "));
            }
        }
        text
    }

    /// nginx's configuration of the same: upstreams, and what its one server does.
    pub fn nginx(&self, origin: SocketAddr) -> String {
        let mut text = String::from(
            "  map_hash_max_size 65536; map_hash_bucket_size 128;\n  map $host $pool {\n    default s0;\n",
        );
        for service in 0..self.services {
            let _ = writeln!(text, "    s{service}.bench.local s{service};");
        }
        text.push_str("  }\n");
        for service in 0..self.services {
            let _ = write!(text, "  upstream s{service} {{\n    least_conn;");
            for n in 0..self.endpoints {
                let at = origin::address((service * self.endpoints + 1 + n) % self.addresses());
                let _ = write!(text, " server {at}:{};", origin.port());
            }
            // Each place of the pool takes memory from the start.
            let kept = if self.services > 1 { 64 } else { 8192 };
            let _ = writeln!(
                text,
                " keepalive {kept}; keepalive_requests 1000000000; keepalive_timeout 600s;\n  }}"
            );
        }
        text
    }

    /// How many addresses of the origin are used.
    pub fn addresses(&self) -> usize {
        self.all_endpoints().min(1000)
    }

    /// Endpoints of all services; those beyond the number of addresses share one with others.
    pub(crate) fn all_endpoints(&self) -> usize {
        self.services * self.endpoints
    }

    /// A GET 1 KiB for every route of every service.
    pub fn requests(&self) -> Vec<Vec<u8>> {
        let mut requests = Vec::new();
        for service in 0..self.services {
            for route in 0..self.routes {
                let place = match self.routes {
                    1 => String::new(),
                    _ => format!("/r{route}"),
                };
                requests.push(
                    format!(
                        "GET {place}/1k HTTP/1.1\r\nhost: s{service}.bench.local\r\n{ASKED_HEADER}\r\n"
                    )
                    .into_bytes(),
                );
            }
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_town_has_what_it_says() {
        let town = Town {
            services: 3,
            routes: 2,
            rules: 4,
            endpoints: 5,
            versions: 1,
        };
        let text = town.cutover(([127, 0, 0, 1], 9000).into(), 7, 0);
        assert_eq!(text.matches("[service.s2]").count(), 1);
        assert_eq!(text.matches("[[service.").count(), 12);
        assert_eq!(text.matches(":9000\"").count(), 15);
        assert!(text.contains("edition-7.bench.local"));
        assert_eq!(town.requests().len(), 6);
        assert_ne!(text, town.cutover(([127, 0, 0, 1], 9000).into(), 8, 0));
        assert_ne!(text, town.cutover(([127, 0, 0, 1], 9000).into(), 7, 1));
    }
}
