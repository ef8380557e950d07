//! Sticky sessions: the sealed cookie that binds a session to a version and an endpoint, and the rules for how long.
//!
//! The cookie holds 45 bytes as 60 characters of base64url. All numbers are big-endian:
//!
//! | bytes | content |
//! |---|---|
//! | 0 | format, 1 |
//! | 1–8 | the version's id |
//! | 9–16 | the endpoint's id; 0 = none |
//! | 17–22 | when the session began, in seconds since the epoch |
//! | 23–28 | when it was last sealed, likewise |
//! | 29–44 | seal: the first 16 bytes of HMAC-SHA256 (RFC 2104) over the service's name and the bytes before |
//!
//! Ids are the first 8 bytes of an HMAC of the name under the same key. A cookie therefore reveals no names or addresses,
//! and all proxies with the same key agree on the ids. A cookie that can't be opened is ignored; it is never an error.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};

use super::{RequestView, Split, extract};
use crate::config::policy;
use crate::config::spec::Share;
use crate::index::VersionIx;

/// The key that seals cookies.
pub struct SealingKey(hmac::Key);

/// Minimum length of a key, in bytes.
pub const KEY_LEN: usize = 32;
/// Length of a cookie's value, in characters.
pub const SEALED_LEN: usize = 60;
const FORMAT: u8 = 1;
const BODY: usize = 29;
const WHOLE: usize = 45;
/// Tolerated difference, in seconds, between the clocks of proxies that share a key.
const SKEW_S: u64 = 60;
/// Number of cookies of a request that are tried. A client that sends hundreds must not cause hundreds of HMACs.
const LOOKS: u32 = 4;
const TIME_MAX: u64 = (1 << 48) - 1;

/// The content of a session cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// [`version_id`] of the version that the session is bound to.
    pub version: u64,
    /// [`endpoint_id`] of the endpoint that the session is bound to, if any.
    pub endpoint: Option<u64>,
    /// Time at which it was bound to this version, in seconds since the epoch; below 2^48.
    pub began_s: u64,
    /// Time at which its cookie was last sealed, in seconds since the epoch; below 2^48.
    pub seen_s: u64,
}

impl SealingKey {
    /// A key of these bytes; `None` if there are fewer than [`KEY_LEN`].
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= KEY_LEN).then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// The HMAC of the parts. Each part is preceded by its length, so that different parts never give the same input. The
    /// first part names the use, so that a tag of one use is worthless for another.
    fn tag(&self, parts: [&[u8]; 3]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign()
    }

    /// An id, never 0, which stands for "none" in cookies.
    fn id(&self, parts: [&[u8]; 3]) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.tag(parts).as_ref()[..8]);
        u64::from_be_bytes(first).max(1)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(secret)")
    }
}

impl Session {
    /// A session that begins now.
    pub fn begin(version: u64, endpoint: Option<u64>, now_s: u64) -> Self {
        Self {
            version,
            endpoint,
            began_s: now_s,
            seen_s: now_s,
        }
    }

    /// The same session after another request, now bound to this endpoint of its version.
    pub fn seen(self, endpoint: Option<u64>, now_s: u64) -> Self {
        Self {
            endpoint,
            // The clock may have been set back; `open` refuses a session that was seen before it began.
            seen_s: now_s.max(self.began_s),
            ..self
        }
    }

    /// A number that tells its holder from those of other sessions, nearly always: of all that a session holds but its version.
    #[inline]
    pub fn holder(&self) -> u64 {
        self.began_s ^ self.seen_s.rotate_left(32) ^ self.endpoint.unwrap_or(0)
    }
}

/// The id that stands for a version in the cookies of its service.
pub fn version_id(key: &SealingKey, service: &str, version: &str) -> u64 {
    key.id([b"version", service.as_bytes(), version.as_bytes()])
}

/// The id of an endpoint, by its name, in the cookies of its service.
pub fn endpoint_id(key: &SealingKey, service: &str, endpoint: &str) -> u64 {
    key.id([b"endpoint", service.as_bytes(), endpoint.as_bytes()])
}

/// The cookie's value: [`SEALED_LEN`] characters that need no quotes.
pub fn seal(key: &SealingKey, service: &str, session: &Session) -> String {
    let mut sealed = [0; WHOLE];
    sealed[0] = FORMAT;
    sealed[1..9].copy_from_slice(&session.version.to_be_bytes());
    sealed[9..17].copy_from_slice(&session.endpoint.unwrap_or(0).to_be_bytes());
    sealed[17..23].copy_from_slice(&session.began_s.min(TIME_MAX).to_be_bytes()[2..]);
    sealed[23..29].copy_from_slice(&session.seen_s.min(TIME_MAX).to_be_bytes()[2..]);
    let tag = key.tag([b"session", service.as_bytes(), &sealed[..BODY]]);
    sealed[BODY..].copy_from_slice(&tag.as_ref()[..WHOLE - BODY]);
    encode(&sealed)
}

/// The session in a cookie's value; `None` if the value isn't sealed by `key` for `service`, or is outdated.
pub fn open(
    key: &SealingKey,
    service: &str,
    value: &[u8],
    now_s: u64,
    sticky: &policy::Sticky,
) -> Option<Session> {
    let sealed = decode(value)?;
    let (body, seal) = sealed.split_at(BODY);
    let tag = key.tag([b"session", service.as_bytes(), body]);
    constant_time::verify_slices_are_equal(&tag.as_ref()[..WHOLE - BODY], seal).ok()?;
    if body[0] != FORMAT {
        return None;
    }
    let number = |bytes: &[u8]| bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b));
    let session = Session {
        version: number(&body[1..9]),
        endpoint: Some(number(&body[9..17])).filter(|id| *id != 0),
        began_s: number(&body[17..23]),
        seen_s: number(&body[23..29]),
    };
    let in_time = session.began_s <= session.seen_s
        && session.seen_s <= now_s.saturating_add(SKEW_S)
        && now_s.saturating_sub(session.began_s) < sticky.max_life.as_secs()
        && now_s.saturating_sub(session.seen_s) < sticky.idle.as_secs();
    in_time.then_some(session)
}

/// The session of a request: the first cookie of the service's name that [`open`] accepts. Only the first four are tried.
pub fn find(
    key: &SealingKey,
    service: &str,
    request: &impl RequestView,
    now_s: u64,
    sticky: &policy::Sticky,
) -> Option<Session> {
    let (mut found, mut looks) = (None, 0);
    extract::any_cookie(request, sticky.cookie.as_bytes(), |value| {
        looks += 1;
        found = open(key, service, value, now_s, sticky);
        found.is_some() || looks == LOOKS
    });
    found
}

/// Whether the request carries a cookie of that name, valid or not.
pub fn is_carried(request: &impl RequestView, sticky: &policy::Sticky) -> bool {
    extract::any_cookie(request, sticky.cookie.as_bytes(), |_| true)
}

/// Whether an unchanged session must be sealed again to stay alive: a tenth of `idle` has passed since the last time. This
/// saves most responses a `Set-Cookie`.
pub fn needs_refresh(session: &Session, now_s: u64, sticky: &policy::Sticky) -> bool {
    now_s.saturating_sub(session.seen_s) >= (sticky.idle.as_secs() / 10).max(1)
}

/// The validity of a cookie that is sealed now: `idle`, or the rest of `max_life` if that is shorter.
pub fn lasts(session: &Session, now_s: u64, sticky: &policy::Sticky) -> Duration {
    let age = Duration::from_secs(now_s.saturating_sub(session.began_s));
    sticky.idle.min(sticky.max_life.saturating_sub(age))
}

/// The value of a `Set-Cookie` field (RFC 6265 section 4.1). `secure` adds the `Secure` attribute, for clients that use TLS.
pub fn set_cookie(name: &str, value: &str, max_age: Duration, secure: bool) -> String {
    let max_age = max_age.as_secs();
    let secure = if secure { "; Secure" } else { "" };
    format!("{name}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}")
}

/// The past of a version, as far as its sessions depend on it. It is carried from snapshot to snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// [`version_id`] of the version.
    pub id: u64,
    /// Time since which its share has been 0, in seconds since the epoch; `None` while it has a share.
    pub left_s: Option<u64>,
    /// Sessions that began at or before this time are void, because of an abort or a rollback.
    pub voided_s: Option<u64>,
}

impl Past {
    /// The past of a version that is seen for the first time. Without a share it counts as having lost it now, so that
    /// after a restart its sessions have the whole of `finish_sessions`.
    pub fn new(id: u64, share: Share, now_s: u64) -> Self {
        Self {
            id,
            left_s: (share.0 == 0).then_some(now_s),
            voided_s: None,
        }
    }

    /// The past in the next snapshot, in which the version has this share.
    pub fn next(self, share: Share, now_s: u64) -> Self {
        Self {
            left_s: (share.0 == 0).then(|| self.left_s.unwrap_or(now_s)),
            ..self
        }
    }

    /// The past after an abort or a rollback: the version's sessions move at once, even if it gets a share again.
    pub fn void(self, now_s: u64) -> Self {
        Self {
            voided_s: self.voided_s.max(Some(now_s)),
            ..self
        }
    }
}

/// Whether a session stays on its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// The session stays on this version.
    Stay {
        /// Index of the version.
        version: VersionIx,
    },
    /// The session ends here. The request is decided like one without a session and starts a new one.
    Move,
}

/// Whether a session stays on its version. `pasts` are those of the service's versions, in order.
///
/// A session stays while its version has a share, however small. After that it stays for the duration of `finish`, if it
/// began before the share was lost. It moves if the version was removed or its sessions were voided.
pub fn follow(
    session: &Session,
    split: &Split,
    pasts: &[Past],
    finish: Option<Duration>,
    now_s: u64,
) -> Follow {
    let Some(version) = pasts
        .iter()
        .position(|past| past.id == session.version)
        .map(VersionIx)
    else {
        return Follow::Move;
    };
    let past = &pasts[version.0];
    if past.voided_s.is_some_and(|until| session.began_s <= until) {
        return Follow::Move;
    }
    let may_finish = || {
        let (Some(finish), Some(left_s)) = (finish, past.left_s) else {
            return false;
        };
        session.began_s <= left_s && now_s.saturating_sub(left_s) < finish.as_secs()
    };
    if split.share(version).0 > 0 || may_finish() {
        Follow::Stay { version }
    } else {
        Follow::Move
    }
}

/// base64url (RFC 4648 section 5). 45 bytes are 15 groups of 3, so that there is no padding and each value has exactly one
/// encoding.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn encode(bytes: &[u8; WHOLE]) -> String {
    let mut text = String::with_capacity(SEALED_LEN);
    for three in bytes.chunks_exact(3) {
        let n = three.iter().fold(0, |n, b| n << 8 | usize::from(*b));
        for shift in [18, 12, 6, 0] {
            text.push(char::from(ALPHABET[n >> shift & 63]));
        }
    }
    text
}

fn decode(text: &[u8]) -> Option<[u8; WHOLE]> {
    if text.len() != SEALED_LEN {
        return None;
    }
    let mut bytes = [0; WHOLE];
    for (four, three) in text.chunks_exact(4).zip(bytes.chunks_exact_mut(3)) {
        let mut n = 0u32;
        for digit in four {
            n = n << 6 | u32::from(value_of(*digit)?);
        }
        three.copy_from_slice(&n.to_be_bytes()[1..]);
    }
    Some(bytes)
}

fn value_of(digit: u8) -> Option<u8> {
    Some(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    })
}

#[cfg(test)]
#[path = "sticky_tests.rs"]
mod tests;
