//! Certificates and authorities that were read from files, and the decision whether newer files replace them.
//!
//! Files that were refused are remembered by fingerprint, so that the same errors are reported only once.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::{CertError, CertificateKey};
use super::read::{Validity, date};

/// Certificates or authorities that are read from files, and stay in use until files that aren't worse replace them.
pub trait Material: Sized {
    /// Hash of the files.
    fn fingerprint(&self) -> u64;

    /// Start of the validity, in seconds since the epoch; `None` for authorities.
    fn valid_from(&self) -> Option<i64>;

    /// The reason why this must not replace `current` at `now`; `None` if it may.
    fn worse_than(&self, current: &Self, now: i64) -> Option<CertError>;
}

/// The certificates or authorities that were read from files, and what became of files that were refused.
///
/// The control thread owns it and replaces it as a whole each time it has looked at the files. There is always something in use:
/// without a first success there is no slot.
#[derive(Debug)]
pub struct FileSlot<M> {
    /// The certificates or authorities in use.
    pub current: Arc<M>,
    /// Set if the present files were refused.
    pub refused: Option<RefusedFiles>,
}

impl<M> Clone for FileSlot<M> {
    fn clone(&self) -> Self {
        Self {
            current: self.current.clone(),
            refused: self.refused.clone(),
        }
    }
}

/// Files that were refused, so that the certificates or authorities read before them stay in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedFiles {
    /// Fingerprint of the files; `None` if they could not be read.
    fingerprint: Option<u64>,
    /// What is wrong with them, one error a file.
    pub errors: Vec<CertError>,
    /// When these errors were found first.
    pub since: SystemTime,
    /// The start of validity, in seconds since the epoch, if the files were refused because of it.
    retry: Option<i64>,
}

impl RefusedFiles {
    /// The errors, one line each.
    pub fn text(&self) -> String {
        let errors: Vec<String> = self.errors.iter().map(ToString::to_string).collect();
        errors.join("\n")
    }
}

/// The change since the files were last read.
#[derive(Debug)]
pub enum News {
    /// The files are the same as before.
    None,
    /// The files contain something new, which is now in use.
    New,
    /// The files were refused, for a reason that was not reported yet.
    Refused,
}

impl<M: Material> FileSlot<M> {
    /// The slot after files with this fingerprint (`None`: not readable) have been read. `parse` is called if they have changed.
    ///
    /// # Errors
    /// `parse` failed, and there is no `former` slot that stays in use.
    pub(crate) fn read(
        former: Option<&Self>,
        fingerprint: Option<u64>,
        now: SystemTime,
        parse: impl FnOnce() -> Result<M, Vec<CertError>>,
    ) -> Result<(Self, News), Vec<CertError>> {
        if let Some(former) = former
            && let Some(news) = former.unchanged(fingerprint, now)
        {
            return Ok((news, News::None));
        }
        let read = parse();
        let used = |new: M| Self {
            current: Arc::new(new),
            refused: None,
        };
        let Some(former) = former else {
            return Ok((used(read?), News::New));
        };
        let (errors, retry) = match read {
            Ok(new) => match new.worse_than(&former.current, seconds(now)) {
                None => return Ok((used(new), News::New)),
                Some(error) => {
                    let from = new.valid_from().filter(|from| *from > seconds(now));
                    (vec![error], from)
                }
            },
            Err(errors) => (errors, None),
        };
        Ok(former.keep(fingerprint, errors, retry, now))
    }

    /// The next state if the files are the same as those in use, or as those that were refused last.
    fn unchanged(&self, fingerprint: Option<u64>, now: SystemTime) -> Option<Self> {
        let fingerprint = fingerprint?;
        if fingerprint == self.current.fingerprint() {
            return Some(Self {
                current: self.current.clone(),
                refused: None,
            });
        }
        let refused = self.refused.as_ref()?;
        let is_same = refused.fingerprint == Some(fingerprint);
        (is_same && !self.may_be_ripe(now)).then(|| self.clone())
    }

    /// The next state if the files are refused. The same errors are reported only once.
    fn keep(
        &self,
        fingerprint: Option<u64>,
        errors: Vec<CertError>,
        retry: Option<i64>,
        now: SystemTime,
    ) -> (Self, News) {
        let again = self.refused.as_ref().is_some_and(|r| r.errors == errors);
        let since = match &self.refused {
            Some(refused) if again => refused.since,
            _ => now,
        };
        let slot = Self {
            current: self.current.clone(),
            refused: Some(RefusedFiles {
                fingerprint,
                errors,
                since,
                retry,
            }),
        };
        (slot, if again { News::None } else { News::Refused })
    }

    /// Marks files as refused because of something else than their contents. The certificates or authorities in use stay.
    pub(crate) fn refuse(&mut self, fingerprint: u64, error: CertError, now: SystemTime) {
        self.refused = Some(RefusedFiles {
            fingerprint: Some(fingerprint),
            errors: vec![error],
            since: now,
            retry: None,
        });
    }

    /// Whether files that were refused because they were not valid yet have become valid.
    pub fn may_be_ripe(&self, now: SystemTime) -> bool {
        let refused = self.refused.as_ref();
        let retry = refused.and_then(|refused| refused.retry);
        retry.is_some_and(|time| time <= seconds(now))
    }
}

/// The error for a certificate that isn't valid at `now`, while the one in use is. An earlier expiry is no reason.
pub fn outdated(path: &Path, new: Validity, current: Validity, now: i64) -> Option<CertError> {
    if !current.covers(now) || new.covers(now) {
        return None;
    }
    let when = match new.not_before > now {
        true => format!("is not valid before {}", date(new.not_before)),
        false => format!("has expired at {}", date(new.not_after)),
    };
    let (shown, until) = (path.display(), date(current.not_after));
    Some(CertError::new(
        CertificateKey::Cert,
        format!("certificate {shown} {when}; the one in use is valid until {until}"),
        "Put a valid certificate there",
    ))
}

/// Seconds since the epoch.
pub fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
