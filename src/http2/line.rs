//! Single field lines: the class of a name, and defects of a name or a value (RFC 9113 §8.2).

use super::malformed::Malformed;
use crate::http1::FieldId;
use crate::http1::lists::is_token_byte;

/// A pseudo-header field (RFC 9113 §8.3, RFC 8441 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Pseudo {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
}

impl Pseudo {
    pub(super) const ALL: [Self; 6] = [
        Self::Method,
        Self::Scheme,
        Self::Authority,
        Self::Path,
        Self::Protocol,
        Self::Status,
    ];
    pub(super) const COUNT: usize = Self::ALL.len();

    pub(super) const fn name(self) -> &'static [u8] {
        match self {
            Self::Method => b":method",
            Self::Scheme => b":scheme",
            Self::Authority => b":authority",
            Self::Path => b":path",
            Self::Protocol => b":protocol",
            Self::Status => b":status",
        }
    }

    pub(super) fn of(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|pseudo| pseudo.name() == name)
    }

    #[inline]
    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The class of a field name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Pseudo(Pseudo),
    Field(FieldId),
}

/// The properties of a field line that don't depend on its neighbours. The dynamic table keeps them, so that a name or value that
/// is repeated is checked once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineTraits {
    pub(super) class: Class,
    /// Whether a name without a class has `_`.
    pub(super) has_underscore: bool,
    pub(super) bad_name: Option<Malformed>,
    pub(super) bad_value: Option<Malformed>,
}

impl LineTraits {
    /// The traits of a line with this class and without defects.
    pub(super) const fn good(class: Class) -> Self {
        Self {
            class,
            has_underscore: false,
            bad_name: None,
            bad_value: None,
        }
    }

    /// Examines a name that was received as a literal.
    pub(super) fn of_name(name: &[u8]) -> Self {
        if name.first() == Some(&b':') {
            let class = Pseudo::of(name).map(Class::Pseudo);
            let mut traits = Self::good(class.unwrap_or(Class::Field(FieldId::Other)));
            traits.bad_name = class.is_none().then_some(Malformed::UnknownPseudo);
            return traits;
        }
        let id = FieldId::of(name);
        let found = name
            .iter()
            .fold(0, |found, &b| found | NAME[usize::from(b)]);
        Self {
            class: Class::Field(id),
            has_underscore: found & UNDERSCORE != 0,
            bad_name: if found & BAD != 0 || name.is_empty() {
                Some(Malformed::BadName)
            } else if found & UPPERCASE != 0 {
                Some(Malformed::UppercaseName)
            } else {
                None
            },
            bad_value: None,
        }
    }

    /// The traits of a line with the same name and this value.
    #[inline]
    pub(super) fn with_value(self, value: &[u8]) -> Self {
        Self {
            bad_value: check_value(value),
            ..self
        }
    }
}

const UPPERCASE: u8 = 1;
const UNDERSCORE: u8 = 2;
const BAD: u8 = 4;

/// The meaning of each byte in a field name.
static NAME: [u8; 256] = {
    let mut bytes = [BAD; 256];
    let mut i = 0;
    while i < 256 {
        let byte = i as u8;
        if byte.is_ascii_uppercase() {
            bytes[i] = UPPERCASE;
        } else if byte == b'_' {
            bytes[i] = UNDERSCORE;
        } else if is_token_byte(byte) {
            bytes[i] = 0;
        }
        i += 1;
    }
    bytes
};

/// Checks a value (RFC 9113 §8.2.1). Beyond that, control characters other than HTAB are malformed, as in HTTP/1 (RFC 9110
/// §5.5).
#[inline]
fn check_value(value: &[u8]) -> Option<Malformed> {
    // As u8, controls are below the space and DEL is the one exception above. `|` instead of `||` and no early exit let
    // this become a few vector instructions.
    let has_control = value.iter().fold(false, |any, &b| {
        any | ((b < b' ') & (b != b'\t')) | (b == 0x7f)
    });
    if has_control {
        return Some(Malformed::BadValue);
    }
    let is_space = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    (is_space(value.first()) || is_space(value.last())).then_some(Malformed::PaddedValue)
}
