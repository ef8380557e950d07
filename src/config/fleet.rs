//! Proxies that share state through etcd: `[fleet]`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::spec::UpstreamTls;

/// The fleet that this proxy belongs to: `[fleet]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetSpec {
    /// Members of etcd's cluster, without duplicates; at least one.
    pub etcd: Vec<EtcdUrl>,
    /// Name of the fleet. Proxies with the same name belong together.
    pub name: String,
    /// Name of this proxy in the fleet. Default `None`: the name of the host.
    pub member: Option<String>,
    /// How etcd is verified, and the certificate that is presented to it. Default `None`: the system's authorities, and no
    /// certificate.
    pub tls: Option<UpstreamTls>,
    /// The user to log in as. Default `None`: etcd asks for no user, or takes the certificate's name.
    pub user: Option<EtcdUser>,
    /// Whether `limits.requests` of a version holds for the fleet, so that each live member has its part. Default `false`.
    pub divide_limits: bool,
    /// Treatment of a canary's share while etcd doesn't answer. Default [`OnLost::Stay`].
    pub on_lost: OnLost,
    /// How long a start waits for the shared state of rollouts. Default 5 s.
    pub join_wait: Duration,
    /// The tables that are stored in etcd for all members, without duplicates. Default none.
    pub share: Vec<SharedTable>,
}

/// A table that the members of a fleet may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedTable {
    /// `[service]`.
    Service,
    /// `[defaults]`.
    Defaults,
}

impl SharedTable {
    /// All tables that can be shared.
    pub const ALL: [Self; 2] = [Self::Service, Self::Defaults];

    /// The name of the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Defaults => "defaults",
        }
    }
}

/// Treatment of the shares of rollouts while etcd doesn't answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLost {
    /// The shares stay as they are.
    #[default]
    Stay,
    /// After this time the shares are 0, until etcd answers again.
    Rollback(Duration),
}

impl fmt::Display for OnLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stay => f.write_str("stay"),
            Self::Rollback(after) => write!(f, "rollback {}", humantime::format_duration(*after)),
        }
    }
}

impl FleetSpec {
    /// Whether both are the same member of the same fleet, with the same connection settings for etcd.
    pub fn is_same_member(&self, other: &Self) -> bool {
        let other = Self {
            on_lost: self.on_lost,
            join_wait: self.join_wait,
            share: self.share.clone(),
            ..other.clone()
        };
        *self == other
    }

    /// The key of the tables that the members share.
    pub fn config_key(&self) -> String {
        format!("{}config", self.prefix())
    }

    /// The beginning of all keys of the fleet.
    pub fn prefix(&self) -> String {
        format!("/cutover/{}/", self.name)
    }
}

/// A user of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdUser {
    /// The user's name.
    pub name: String,
    /// File with the password.
    pub password_file: PathBuf,
}

/// The client URL of a member of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdUrl {
    /// Whether the scheme is `https`.
    pub https: bool,
    /// The host, an IPv6 address without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for EtcdUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}
