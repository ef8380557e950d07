//! The options that name the configuration file and the running proxy, and the admin address that follows from them.
//!
//! Without `--admin`, the proxy is found by its configuration file: the name of its control socket is a hash of the file's
//! path. The file may be invalid at that moment, so only the few keys needed are read from it, leniently.

use std::path::{Path, PathBuf};

use clap::Args;
use toml::de::{DeTable, DeValue};

use super::error::CommandError;
use crate::config::{paths, shared};

/// The global options `--config`, `--admin` and `--token-file`.
#[derive(Clone, Debug, Args)]
pub(super) struct ProxyAddress {
    /// Configuration file [default: ./cutover.toml, then /etc/cutover/cutover.toml]
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        env = "CUTOVER_CONFIG"
    )]
    pub config: Option<PathBuf>,
    /// Admin address of the proxy: HOST:PORT, http://HOST:PORT or unix:PATH [default: found from the configuration file]
    #[arg(long, global = true, value_name = "ADDRESS", env = "CUTOVER_ADMIN")]
    pub admin: Option<String>,
    /// File with the admin token, which changes over TCP need; CUTOVER_TOKEN may hold the token itself instead
    #[arg(long, global = true, value_name = "FILE", env = "CUTOVER_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}

/// Environment variable that holds the token itself.
const TOKEN: &str = "CUTOVER_TOKEN";

/// An address of the admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AdminAddress {
    /// `host:port`
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl ProxyAddress {
    /// The configuration file: from `--config`, else the first of the default paths that exists.
    ///
    /// # Errors
    /// No file is named and no default path exists.
    pub(super) fn file(&self) -> Result<PathBuf, CommandError> {
        if let Some(file) = &self.config {
            return Ok(file.clone());
        }
        paths::default_config().ok_or_else(|| {
            let tried = paths::DEFAULT_CONFIGS.join(" nor ");
            CommandError::new("no configuration file")
                .with(format!("found neither {tried}"))
                .with("name one with -c FILE or CUTOVER_CONFIG")
        })
    }

    /// Whether an edit of a service, or of any if none is named, goes through the admin API: `--admin` is given and the file isn't
    /// on this machine, or a fleet shares the service, so that the file doesn't have it.
    pub(super) fn edits_through_api(&self, service: Option<&str>) -> bool {
        let is_shared = |file: &Path| match service {
            Some(service) => shared::has_service(file, service),
            None => shared::fleet_of(file).is_some(),
        };
        let is_remote = self.admin.is_some() && self.config.is_none();
        is_remote || self.file().is_ok_and(|file| is_shared(&file))
    }

    /// The admin token: from `--token-file`, else `CUTOVER_TOKEN`, else the `token_file` of the configuration, if it is
    /// readable and `--admin` is not given.
    ///
    /// # Errors
    /// `--token-file` can't be read or is empty.
    pub(super) fn token(&self) -> Result<Option<String>, CommandError> {
        let whole = |text: String| Some(text.trim().to_owned()).filter(|token| !token.is_empty());
        if let Some(file) = &self.token_file {
            let text = std::fs::read_to_string(file).map_err(|e| {
                CommandError::new(format!("can't read the token in {}: {e}", shown(file)))
            })?;
            let empty = || CommandError::new(format!("{} contains no token", shown(file)));
            return whole(text).ok_or_else(empty).map(Some);
        }
        if let Some(token) = std::env::var(TOKEN).ok().and_then(whole) {
            return Ok(Some(token));
        }
        // An address given by --admin may belong to another proxy. Sending it the local token would disclose that token.
        let file = self.file().ok().filter(|_| self.admin.is_none());
        let text = file.and_then(|file| std::fs::read_to_string(file).ok());
        let named = text.and_then(|text| Hints::of(&text).token_file);
        let text = named.and_then(|file| std::fs::read_to_string(file).ok());
        Ok(text.and_then(whole))
    }

    /// The addresses at which the proxy may answer, in the order to try: `--admin` alone if given; else the control sockets in
    /// the state directories of this user and of the packaged service, then `admin` of the configuration.
    ///
    /// # Errors
    /// `--admin` is not an address; neither an address nor a file is known.
    pub(super) fn addresses(&self) -> Result<Vec<AdminAddress>, CommandError> {
        if let Some(named) = &self.admin {
            return Ok(vec![address(named)?]);
        }
        let file = self.file()?;
        // An invalid file must not hide the proxy that refuses it, so parse errors are ignored here.
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let hints = Hints::of(&text);
        let states = paths::state_dirs(hints.state_dir.as_deref());
        let sockets = states
            .iter()
            .filter_map(|state| paths::control_socket(state, &file).ok());
        let mut found: Vec<_> = sockets.map(AdminAddress::Unix).collect();
        found.extend(hints.admin.iter().filter_map(|text| address(text).ok()));
        Ok(found)
    }
}

/// Parses an address of `--admin` or of the key `admin`, as something to connect to.
fn address(text: &str) -> Result<AdminAddress, CommandError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(AdminAddress::Unix(path.into()));
    }
    let rest = text.strip_prefix("http://").unwrap_or(text);
    let rest = rest.trim_end_matches('/');
    let parts = rest.rsplit_once(':');
    let fits = |host: &str, port: &str| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let whole = bare.len() == host.len();
        port.parse::<u16>().is_ok() && !bare.contains('/') && !(whole && bare.contains(':'))
    };
    let Some((host, port)) = parts.filter(|(host, port)| fits(host, port)) else {
        return Err(
            CommandError::new(format!("{text:?} is not an admin address"))
                .with("expected HOST:PORT, http://HOST:PORT or unix:PATH"),
        );
    };
    // A listener on the unspecified address is reached over loopback.
    let host = match host {
        "" | "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        named => named,
    };
    Ok(AdminAddress::Tcp(format!("{host}:{port}")))
}

/// The keys of a configuration file that determine the addresses of its proxy.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hints {
    state_dir: Option<PathBuf>,
    admin: Vec<String>,
    token_file: Option<PathBuf>,
}

impl Hints {
    fn of(text: &str) -> Self {
        let (table, _) = DeTable::parse_recoverable(text);
        let table = table.get_ref();
        let string = |value: &DeValue<'_>| value.as_str().map(str::to_owned);
        let (listen, token_file) = match get(table, "admin") {
            Some(DeValue::Table(admin)) => (get(admin, "listen"), get(admin, "token_file")),
            other => (other, None),
        };
        Self {
            state_dir: get(table, "state_dir").and_then(string).map(PathBuf::from),
            token_file: token_file.and_then(string).map(PathBuf::from),
            admin: match listen {
                Some(DeValue::Array(list)) => {
                    list.iter().filter_map(|v| string(v.get_ref())).collect()
                }
                Some(one) => string(one).into_iter().collect(),
                None => Vec::new(),
            },
        }
    }
}

fn get<'t, 'i>(table: &'t DeTable<'i>, name: &str) -> Option<&'t DeValue<'i>> {
    let found = table.iter().find(|(key, _)| key.get_ref() == name);
    found.map(|(_, value)| value.get_ref())
}

/// The failure of a command that names a service which the proxy doesn't have.
pub(super) fn unknown_service<'a>(
    name: &str,
    known: impl Iterator<Item = &'a str>,
) -> CommandError {
    let fault = CommandError::new(format!("no service {name:?}"));
    match meant(name, known) {
        Some(near) => fault.with(format!("did you mean {near}?")),
        None => fault,
    }
}

/// The known name nearest to the typed one, if it is near enough to suggest.
pub(super) fn meant<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|name| (strsim::damerau_levenshtein(typed, name), name));
    let near = near.filter(|(distance, name)| *distance <= name.len().div_ceil(3));
    near.min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// A path as it appears in messages.
pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_typed() {
        let tcp = |text: &str| address(text).unwrap().to_string();
        assert_eq!(tcp("127.0.0.1:9900"), "127.0.0.1:9900");
        assert_eq!(tcp("http://localhost:9900/"), "localhost:9900");
        assert_eq!(tcp(":9900"), "127.0.0.1:9900");
        assert_eq!(tcp("0.0.0.0:9900"), "127.0.0.1:9900");
        assert_eq!(tcp("[::]:9900"), "[::1]:9900");
        assert_eq!(
            address("unix:/run/c"),
            Ok(AdminAddress::Unix("/run/c".into()))
        );
        for wrong in ["9900", "localhost", "https://localhost:1", "a:b", ""] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_broken_file_still_says_where_its_proxy_answers() {
        let hints = Hints::of("state_dir = \"/s\"\nadmin = \":9900\"\nlisten = \n[service");
        assert_eq!(hints.state_dir.as_deref(), Some(Path::new("/s")));
        assert_eq!(hints.admin, [":9900"]);
        let table =
            Hints::of("[admin]\nlisten = [\"127.0.0.1:1\", \"unix:/a\"]\ntoken_file = \"/t\"\n");
        assert_eq!(table.admin, ["127.0.0.1:1", "unix:/a"]);
        assert_eq!(table.token_file.as_deref(), Some(Path::new("/t")));
        assert_eq!(Hints::of(""), Hints::default());
    }

    #[test]
    fn an_admin_address_is_the_only_one_tried() {
        let proxy = ProxyAddress {
            config: Some("/no/such/file".into()),
            admin: Some("127.0.0.1:1".into()),
            token_file: None,
        };
        assert_eq!(proxy.addresses().unwrap().len(), 1);
    }

    #[test]
    fn near_names_are_suggested() {
        let known = ["shop", "api"];
        assert_eq!(meant("shp", known.into_iter()), Some("shop"));
        assert_eq!(meant("checkout", known.into_iter()), None);
    }
}
