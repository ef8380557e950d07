//! Why a text can't be edited.

use std::fmt;

use crate::config::units::quote;

/// Why a text can't be edited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EditError {
    /// The text isn't TOML. Contains the parser's message.
    Syntax(String),
    /// There is no such service. Contains its name and a suggestion.
    NoService(String, String),
    /// The service has no such version. Contains the names of the service and the version, and a suggestion.
    NoVersion(String, String, String),
    /// The service has no such flag. Contains the names of the service and the flag, and a suggestion.
    NoFlag(String, String, String),
    /// The flag has no share, and there is no line after which it could be added. Contains the names of the service and the flag.
    NoShare(String, String),
    /// The version is the stable one, which gets what the split leaves. Contains the names of the service and the version.
    IsStable(String, String),
    /// The service has no `stable`, or a key has the wrong type. Contains the name of the service.
    Malformed(String),
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(message) => write!(f, "the file is not valid TOML: {message}"),
            Self::NoService(name, help) => write!(f, "no service {}: {help}", quote(name)),
            Self::NoVersion(service, name, help) => {
                write!(
                    f,
                    "service `{service}` has no version {}: {help}",
                    quote(name)
                )
            }
            Self::NoFlag(service, name, help) => {
                write!(f, "service `{service}` has no flag {}: {help}", quote(name))
            }
            Self::NoShare(service, name) => write!(
                f,
                "flag `{name}` of `{service}` has no `share` to change: write one above its `when`"
            ),
            Self::IsStable(service, name) => write!(
                f,
                "`{name}` is the stable version of `{service}` and gets what the split leaves: shift another version"
            ),
            Self::Malformed(service) => write!(
                f,
                "service `{service}` is incomplete: run `cutover check` to see what is missing"
            ),
        }
    }
}

impl std::error::Error for EditError {}
