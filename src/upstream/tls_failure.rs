//! Explains why a TLS handshake with an endpoint failed, for logs, status and check results.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};
use rustls_pki_types::UnixTime;

use crate::certificates::date;

/// The TLS error inside an I/O error, if there is one.
pub(crate) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Explains the TLS error inside an I/O error. `None` if the connection failed for another reason.
pub(super) fn explain(error: &io::Error) -> Option<String> {
    Some(match tls_error(error)? {
        rustls::Error::InvalidCertificate(why) => certificate(why),
        rustls::Error::AlertReceived(alert) => received(*alert),
        rustls::Error::NoCertificatesPresented => {
            "TLS: the endpoint presented no certificate".to_owned()
        }
        other => format!("TLS: {other}"),
    })
}

fn certificate(why: &CertificateError) -> String {
    let why = match why {
        CertificateError::UnknownIssuer => {
            "was not issued by a known authority (unknown issuer)".to_owned()
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("has expired at {}", time(*not_after))
        }
        CertificateError::Expired => "has expired".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}", time(*not_before))
        }
        CertificateError::NotValidYet => "is not valid yet".to_owned(),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let names = match &**presented {
                [] => "no name".to_owned(),
                names => names
                    .iter()
                    .map(|n| plain(n))
                    .collect::<Vec<_>>()
                    .join(", "),
            };
            format!(
                "is not valid for name {}, only for {names}",
                expected.to_str()
            )
        }
        CertificateError::Revoked => "was revoked".to_owned(),
        CertificateError::Other(other) => format!("can't be used: {}", root(&other.0)),
        other => format!("can't be used: {other}"),
    };
    format!("TLS: the endpoint's certificate {why}")
}

/// A name as rustls formats it, such as `DnsName("shop.test")` or `IpAddress(192.0.2.1)`, without the kind of name.
fn plain(name: &str) -> String {
    let inner = name
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"').to_owned()
}

/// An alert of the endpoint.
fn received(alert: AlertDescription) -> String {
    let help = match alert {
        AlertDescription::CertificateRequired => {
            ": it requires a client certificate (`tls.cert` and `tls.key` of the version)"
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => ": it refused the client certificate",
        AlertDescription::UnrecognisedName => ": it doesn't serve this name (`tls.server_name`)",
        AlertDescription::ProtocolVersion => ": it speaks neither TLS 1.2 nor TLS 1.3",
        AlertDescription::NoApplicationProtocol => ": it speaks neither HTTP/2 nor HTTP/1.1",
        _ => "",
    };
    format!("TLS: the endpoint sent the alert {alert:?}{help}")
}

fn time(time: UnixTime) -> String {
    date(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

/// The innermost cause.
fn root(error: &(dyn Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
