//! Looks up names: in `/etc/hosts`, then with the name servers, for the candidates that the search domains give.
//!
//! It doesn't use the C library, whose `getaddrinfo` blocks a thread, hides TTLs, knows no SRV records, and loads modules of the
//! system that don't fit a static program. Of `nsswitch.conf` it
//! follows what nearly every machine has: files, then DNS.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::message::{Question, RecordData, RecordKind, Reply};
use super::record::{Family, LookupAnswer, LookupFailure, LookupName, ResolvedAddress};
use super::system_files::SystemFiles;
use super::transport;

/// Time limits for the answer of a server, when all are asked for the first time and when they are asked again.
const LIMITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// Time for which a line of `/etc/hosts` is used before the file is read again.
const HOSTS_TTL: Duration = Duration::from_secs(5);
/// Most targets of a service's records that are looked up.
const MOST_TARGETS: usize = 256;

/// A resolver. It is used by tasks of one thread.
///
/// It keeps no answers: the caller knows their TTL and decides when to ask again. It remembers only which server answered last.
#[derive(Debug)]
pub struct Resolver {
    /// The servers of the configuration; empty: those of the system.
    servers: RefCell<Vec<SocketAddr>>,
    files: SystemFiles,
    /// The index of the server that answered last. It is asked first, so that one that is down delays few lookups.
    preferred: Cell<usize>,
}

/// The result of a lookup.
#[derive(Debug)]
pub struct LookupOutcome {
    /// The addresses, or why there are none.
    pub result: Result<LookupAnswer, LookupFailure>,
    /// The absolute name that has the addresses.
    pub absolute: Option<String>,
}

/// Records of one name, and the duration of their validity.
type Records = (Vec<RecordData>, Duration);

impl Resolver {
    /// A resolver that uses the files of this system.
    pub fn of_system() -> Self {
        Self::new("/etc/hosts".into(), "/etc/resolv.conf".into())
    }

    fn new(hosts: PathBuf, resolv_conf: PathBuf) -> Self {
        Self {
            servers: RefCell::default(),
            files: SystemFiles::new(hosts, resolv_conf),
            preferred: Cell::new(0),
        }
    }

    /// Sets the servers of the configuration; empty: those of the system. Returns whether that changed anything.
    pub fn set_servers(&self, servers: &[SocketAddr]) -> bool {
        let changed = *self.servers.borrow() != servers;
        if changed {
            *self.servers.borrow_mut() = servers.to_vec();
            self.preferred.set(0);
        }
        changed
    }

    /// Looks up a name. `known` is the absolute name that had its addresses the last time: while its server fails, no other
    /// candidate takes its place.
    pub async fn lookup(&self, name: &LookupName, known: Option<&str>) -> LookupOutcome {
        let (result, absolute) = match name {
            LookupName::Host(host) => self.host(host, known).await,
            LookupName::Service(service) => self.service(service, known).await,
        };
        LookupOutcome {
            result: result.map(without_unreachable),
            absolute,
        }
    }

    async fn host(&self, host: &str, known: Option<&str>) -> Looked<LookupAnswer> {
        if let Some(found) = self.files.hosts().find(host) {
            return (Ok(of_hosts_file(host, &found)), None);
        }
        let candidates = self.files.resolv_conf().candidates(host);
        let ask = async |absolute: &str| self.addresses(host, absolute).await;
        first_candidate(candidates, known, ask).await
    }

    async fn service(&self, service: &str, known: Option<&str>) -> Looked<LookupAnswer> {
        let candidates = self.files.resolv_conf().candidates(service);
        let ask = async |absolute: &str| self.ask(absolute, RecordKind::Srv).await;
        let (records, absolute) = first_candidate(candidates, known, ask).await;
        let answer = match records {
            Ok((records, ttl)) => self.targets(&records, ttl).await,
            Err(failure) => Err(failure),
        };
        (answer, absolute)
    }

    /// The addresses of the targets of a service's records.
    async fn targets(
        &self,
        records: &[RecordData],
        ttl: Duration,
    ) -> Result<LookupAnswer, LookupFailure> {
        let mut whole = LookupAnswer {
            addresses: Vec::new(),
            ttl,
            failed: Vec::new(),
            failure: None,
        };
        let mut hosts: Vec<&str> = records.iter().filter_map(target).collect();
        hosts.sort_unstable();
        hosts.dedup();
        for host in hosts.into_iter().take(MOST_TARGETS) {
            let found = match self.files.hosts().find(host) {
                Some(found) => Ok(of_hosts_file(host, &found)),
                None => self.addresses(host, host).await,
            };
            match found {
                Ok(found) => {
                    let of_host = records.iter().filter(|r| target(r) == Some(host));
                    for record in of_host {
                        whole.addresses.extend(at_record(record, &found.addresses));
                    }
                    whole.ttl = whole.ttl.min(found.ttl);
                    whole.failed.extend(found.failed);
                    whole.failure = whole.failure.or(found.failure);
                }
                // A target without addresses counts as no target.
                Err(LookupFailure::NoSuchName | LookupFailure::NoRecord) => {}
                Err(failure) => {
                    let families = [Family::V4, Family::V6];
                    whole.failed.extend(families.map(|f| (host.to_owned(), f)));
                    whole.failure = whole.failure.or(Some(failure));
                }
            }
        }
        match whole.addresses.is_empty() && whole.failed.is_empty() {
            true => Err(LookupFailure::NoRecord),
            false => Ok(whole),
        }
    }

    /// The addresses of `absolute`, which the configuration calls `host`.
    async fn addresses(&self, host: &str, absolute: &str) -> Result<LookupAnswer, LookupFailure> {
        let (v4, v6) = tokio::join!(
            self.ask(absolute, RecordKind::A),
            self.ask(absolute, RecordKind::Aaaa)
        );
        both_families(host, v4, v6)
    }

    /// Asks the servers one after the other until one answers.
    async fn ask(&self, absolute: &str, kind: RecordKind) -> Result<Records, LookupFailure> {
        // A search domain may make a name too long. Such a name doesn't exist.
        let Some(question) = Question::new(absolute, kind) else {
            return Err(LookupFailure::NoSuchName);
        };
        let mut servers = self.servers.borrow().clone();
        if servers.is_empty() {
            servers.clone_from(&self.files.resolv_conf().servers);
        }
        let mut failure = LookupFailure::Timeout;
        for limit in LIMITS {
            let mut is_lost = false;
            for step in 0..servers.len() {
                let index = (self.preferred.get() + step) % servers.len();
                match transport::ask(servers[index], &question, random_id(), limit).await {
                    Ok(Reply::Records { records, ttl }) => {
                        self.preferred.set(index);
                        return Ok((records, ttl));
                    }
                    Ok(Reply::NoRecord) => return Err(LookupFailure::NoRecord),
                    Ok(Reply::NoSuchName) => return Err(LookupFailure::NoSuchName),
                    Ok(Reply::Failed(code)) => failure = LookupFailure::Server(code),
                    Ok(Reply::Truncated | Reply::Unrelated) => {
                        failure = LookupFailure::Server("a malformed message".to_owned());
                    }
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                        is_lost = true;
                        failure = LookupFailure::Timeout;
                    }
                    Err(error) => failure = LookupFailure::Unreachable(error.to_string()),
                }
            }
            // Asking again helps against lost datagrams only.
            if !is_lost {
                break;
            }
        }
        Err(failure)
    }
}

/// The addresses of a host that is no endpoint, such as that of a hook, by the files and name servers of the system; at least one.
/// `host` may be a literal address.
///
/// # Errors
/// The host has no address, or it can't be told.
pub async fn addresses_of_host(host: &str, port: u16) -> Result<Vec<SocketAddr>, LookupFailure> {
    let at_port = |ip: IpAddr| SocketAddr::new(ip, port);
    if let Ok(literal) = host.parse() {
        return Ok(vec![at_port(literal)]);
    }
    let name = LookupName::Host(host.to_ascii_lowercase());
    let answer = Resolver::of_system().lookup(&name, None).await.result?;
    let found: Vec<_> = answer.addresses.iter().map(|one| at_port(one.ip)).collect();
    match found.is_empty() {
        true => Err(answer.failure.unwrap_or(LookupFailure::NoRecord)),
        false => Ok(found),
    }
}

/// The result of looking up one candidate name, and that name.
type Looked<T> = (Result<T, LookupFailure>, Option<String>);

/// Asks for each candidate until one has records.
async fn first_candidate<T>(
    candidates: Vec<String>,
    known: Option<&str>,
    ask: impl AsyncFn(&str) -> Result<T, LookupFailure>,
) -> Looked<T> {
    let mut worst = LookupFailure::NoSuchName;
    for candidate in candidates {
        let failure = match ask(&candidate).await {
            Ok(found) => return (Ok(found), Some(candidate)),
            Err(failure) => failure,
        };
        let is_known = known == Some(&*candidate);
        worst = match failure {
            LookupFailure::NoSuchName => worst,
            LookupFailure::NoRecord if worst == LookupFailure::NoSuchName => failure,
            LookupFailure::NoRecord => worst,
            // The C library goes on to the next candidate as well: a search domain may be broken for years.
            LookupFailure::Server(_) if !is_known => failure,
            // The next candidate may exist too, as another host.
            failure => return (Err(failure), None),
        };
    }
    (Err(worst), None)
}

/// Joins the answers about both IP versions. An error about one of them doesn't hide the other.
fn both_families(
    host: &str,
    v4: Result<Records, LookupFailure>,
    v6: Result<Records, LookupFailure>,
) -> Result<LookupAnswer, LookupFailure> {
    let mut whole = LookupAnswer {
        addresses: Vec::new(),
        ttl: Duration::MAX,
        failed: Vec::new(),
        failure: None,
    };
    // A name that has no record of one kind exists, whatever the other answer says.
    let mut nothing = LookupFailure::NoSuchName;
    for (family, result) in [(Family::V4, v4), (Family::V6, v6)] {
        match result {
            Ok((records, ttl)) => {
                let ips = records.iter().filter_map(|record| match record {
                    RecordData::Address(ip) => Some(*ip),
                    RecordData::Service { .. } => None,
                });
                whole.addresses.extend(ips.map(|ip| plain(host, ip)));
                whole.ttl = whole.ttl.min(ttl);
            }
            Err(LookupFailure::NoSuchName) => {}
            Err(LookupFailure::NoRecord) => nothing = LookupFailure::NoRecord,
            Err(failure) => {
                whole.failed.push((host.to_owned(), family));
                whole.failure = whole.failure.or(Some(failure));
            }
        }
    }
    match (whole.addresses.is_empty(), &whole.failure) {
        (false, _) => Ok(whole),
        (true, Some(failure)) => Err(failure.clone()),
        (true, None) => Err(nothing),
    }
}

fn plain(host: &str, ip: IpAddr) -> ResolvedAddress {
    ResolvedAddress {
        priority: 0,
        ip,
        port: None,
        weight: 0,
        host: host.to_owned(),
    }
}

fn of_hosts_file(host: &str, found: &[IpAddr]) -> LookupAnswer {
    LookupAnswer {
        addresses: found.iter().map(|ip| plain(host, *ip)).collect(),
        ttl: HOSTS_TTL,
        failed: Vec::new(),
        failure: None,
    }
}

/// The target of a service's record; `None` if the record says that there is no such service (RFC 2782).
fn target(record: &RecordData) -> Option<&str> {
    match record {
        RecordData::Service { target, .. } => Some(&**target).filter(|target| !target.is_empty()),
        RecordData::Address(_) => None,
    }
}

/// The addresses of a record's target, with the record's port, priority and weight.
fn at_record(record: &RecordData, addresses: &[ResolvedAddress]) -> Vec<ResolvedAddress> {
    let RecordData::Service {
        priority,
        weight,
        port,
        ..
    } = record
    else {
        return Vec::new();
    };
    let one = |address: &ResolvedAddress| ResolvedAddress {
        priority: *priority,
        port: Some(*port),
        weight: *weight,
        ..address.clone()
    };
    addresses.iter().map(one).collect()
}

/// Leaves out the addresses that this machine has no route to, such as those of IPv6 on a machine that has IPv4 only, unless
/// none would be left (RFC 6724 section 5, rule 1).
fn without_unreachable(mut answer: LookupAnswer) -> LookupAnswer {
    let all = &answer.addresses;
    let are_mixed =
        all.iter().any(|one| one.ip.is_ipv4()) && all.iter().any(|one| one.ip.is_ipv6());
    if are_mixed {
        let reachable: Vec<ResolvedAddress> = { all.iter() }
            .filter(|one| transport::has_route(one.ip))
            .cloned()
            .collect();
        if !reachable.is_empty() {
            answer.addresses = reachable;
        }
    }
    answer
}

/// A query id that can't be predicted without seeing the query (RFC 5452 section 9.2).
fn random_id() -> u16 {
    let mut id = [0; 2];
    if aws_lc_rs::rand::fill(&mut id).is_err() {
        return fastrand::u16(..);
    }
    u16::from_ne_bytes(id)
}

#[cfg(test)]
#[path = "resolver_tests.rs"]
mod tests;
