//! The time to renew a certificate as the authority suggests it: ACME renewal information (RFC 9773).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::plan::Period;
use super::store::StoredCertificate;
use crate::control::outcall::acme_http::AcmeHttp;

/// The window in which the authority suggests to renew, and the time after which to ask again. `None` if it doesn't tell.
pub(super) async fn suggested(
    http: &AcmeHttp,
    directory: &str,
    certificate: &StoredCertificate,
) -> Option<(Period, Option<Duration>)> {
    let (directory, _) = http.get_json(directory).await?;
    let base = directory.get("renewalInfo")?.as_str()?;
    let url = format!("{base}/{}", identifier(certificate)?);
    let (info, again) = http.get_json(&url).await?;
    Some((window(&info)?, again))
}

/// The certificate's identifier (RFC 9773 section 4.1).
fn identifier(certificate: &StoredCertificate) -> Option<String> {
    let key = URL_SAFE_NO_PAD.encode(certificate.authority_key.as_ref()?);
    let serial = URL_SAFE_NO_PAD.encode(&certificate.serial);
    Some(format!("{key}.{serial}"))
}

fn window(info: &Value) -> Option<Period> {
    let window = info.get("suggestedWindow")?;
    let time = |key: &str| {
        let time: SystemTime = humantime::parse_rfc3339(window.get(key)?.as_str()?).ok()?;
        let since = time.duration_since(UNIX_EPOCH).ok()?;
        Some(since.as_secs().cast_signed())
    };
    let (start, end) = (time("start")?, time("end")?);
    // A server must not send another one, and a client must not use it (RFC 9773 section 4.2).
    (start < end).then_some(Period { start, end })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_identifier_is_that_of_the_rfc() {
        // RFC 9773 section 4.1.
        let key = [
            0x69, 0x88, 0x5b, 0x6b, 0x87, 0x46, 0x40, 0x41, 0xe1, 0xb3, 0x7b, 0x84, 0x7b, 0xa0,
            0xae, 0x2c, 0xde, 0x01, 0xc8, 0xd4,
        ];
        let certificate = StoredCertificate {
            validity: Period { start: 0, end: 1 },
            serial: vec![0x00, 0x87, 0x65, 0x43, 0x21],
            authority_key: Some(key.to_vec()),
        };
        let expected = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE";
        assert_eq!(identifier(&certificate).as_deref(), Some(expected));
    }

    #[test]
    fn a_window_has_an_order() {
        let info =
            |start: &str, end: &str| json!({ "suggestedWindow": { "start": start, "end": end } });
        let found = window(&info("2026-01-02T04:00:00Z", "2026-01-03T04:00:00.5Z"));
        let start = 1_767_326_400;
        assert_eq!(
            found,
            Some(Period {
                start,
                end: start + 86_400
            })
        );
        assert_eq!(
            window(&info("2026-01-03T04:00:00Z", "2026-01-02T04:00:00Z")),
            None
        );
        assert_eq!(window(&info("soon", "later")), None);
        assert_eq!(window(&json!({})), None);
    }
}
