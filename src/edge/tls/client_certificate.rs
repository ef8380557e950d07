//! Extracts the parts of a client's certificate that may be matched and forwarded to applications: subject, names and fingerprint.

use std::net::IpAddr;

use aws_lc_rs::digest;
use rustls_pki_types::CertificateDer;
use x509_parser::asn1_rs::ToDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, RelativeDistinguishedName, X509Name};

use crate::routing::ClientCertificate;

/// Attribute types with a short name: those of RFC 4514 §3, and `emailAddress` as written by OpenSSL.
const SHORT: [(&str, &str); 10] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// Parses a certificate that the handshake has verified. `None` if it is malformed, which a verified certificate should not be.
pub(super) fn parse(der: &CertificateDer<'_>) -> Option<ClientCertificate> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    Some(ClientCertificate {
        subject: subject(parsed.subject()),
        san: alternative_names(&parsed),
        common_name: { parsed.subject().iter_common_name().next() }
            .and_then(|name| name.as_str().ok())
            .unwrap_or_default()
            .to_owned(),
        fingerprint: hex(digest::digest(&digest::SHA256, der).as_ref()),
    })
}

/// The subject alternative names (RFC 5280 §4.2.1.6), each with its type as OpenSSL writes it. DNS names are in lower case. Other
/// types than these four are left out.
fn alternative_names(cert: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = cert.subject_alternative_name() else {
        return Vec::new();
    };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => {
            Some(format!("DNS:{}", printable(&name.to_ascii_lowercase())))
        }
        GeneralName::URI(uri) => Some(format!("URI:{}", printable(uri))),
        GeneralName::RFC822Name(mail) => Some(format!("email:{}", printable(mail))),
        GeneralName::IPAddress(octets) => Some(format!("IP:{}", address(octets)?)),
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}

/// Escapes characters that are not printable, or would end the name in a list.
fn printable(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b',' | b'\\' => {
                out.push('\\');
                out.push(byte.into());
            }
            b'!'..=b'~' => out.push(byte.into()),
            _ => {
                out.push('\\');
                out.push_str(&hex(&[byte]));
            }
        }
    }
    out
}

/// Formats a name as in RFC 4514 §2, most specific part first. Bytes other than printable ASCII are escaped, so that the result is
/// a valid header field value.
fn subject(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name.iter_rdn().map(relative).collect();
    parts.reverse();
    parts.join(",")
}

fn relative(part: &RelativeDistinguishedName<'_>) -> String {
    part.iter().map(attribute).collect::<Vec<_>>().join("+")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let short = SHORT.iter().find(|(known, _)| *known == oid);
    match (short, attribute.as_str()) {
        (Some((_, short)), Ok(text)) => format!("{short}={}", escaped(text)),
        (short, _) => {
            let name = short.map_or(oid.as_str(), |(_, short)| short);
            let encoded = attribute.attr_value().to_der_vec().unwrap_or_default();
            format!("{name}=#{}", hex(&encoded))
        }
    }
}

/// Escapes a value (RFC 4514 §2.4).
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for (at, byte) in value.bytes().enumerate() {
        let at_end = at == 0 || at + 1 == value.len();
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                out.push('\\');
                out.push(byte.into());
            }
            b'#' if at == 0 => out.push_str("\\#"),
            b' ' if at_end => out.push_str("\\ "),
            b' '..=b'~' => out.push(byte.into()),
            _ => {
                out.push('\\');
                out.push_str(&hex(&[byte]));
            }
        }
    }
    out
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|b| [b >> 4, b & 0xf]);
    digits
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType};

    #[test]
    fn alternative_names_have_their_types_and_are_escaped() {
        let names = ["Shop.test", "192.0.2.7", "2001:db8::1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).expect("names");
        let ia5 = |text: &str| text.try_into().expect("ASCII");
        params
            .subject_alt_names
            .push(SanType::URI(ia5("spiffe://test/a,b\\")));
        params
            .subject_alt_names
            .push(SanType::Rfc822Name(ia5("ops@shop.test\r\n")));
        let key = KeyPair::generate().expect("a key");
        let signed = params.self_signed(&key).expect("a certificate");
        let read = parse(signed.der()).expect("readable");
        let expected = [
            "DNS:shop.test",
            "IP:192.0.2.7",
            "IP:2001:db8::1",
            "URI:spiffe://test/a\\,b\\\\",
            "email:ops@shop.test\\0d\\0a",
        ];
        assert_eq!(read.san, expected);
    }

    #[test]
    fn a_subject_is_written_as_rfc_4514_has_it() {
        let mut name = DistinguishedName::new();
        name.push(DnType::CountryName, "DE");
        name.push(DnType::OrganizationName, "Ex,ample \"1\"+\\;<>");
        name.push(DnType::OrganizationalUnitName, "#a b ");
        name.push(
            DnType::CustomDnType(vec![2, 5, 4, 12]),
            DnValue::Utf8String("x".into()),
        );
        name.push(DnType::CommonName, "caf\u{e9}\r\nx: y");
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        let key = KeyPair::generate().expect("a key");
        let signed = params.self_signed(&key).expect("a certificate");
        let read = parse(signed.der()).expect("readable");
        assert_eq!(
            read.subject,
            "CN=caf\\c3\\a9\\0d\\0ax: y,2.5.4.12=#0c0178,OU=\\#a b\\ ,\
             O=Ex\\,ample \\\"1\\\"\\+\\\\\\;\\<\\>,C=DE"
        );
        let whole = hex(digest::digest(&digest::SHA256, signed.der()).as_ref());
        assert_eq!(read.fingerprint, whole);
        assert_eq!(hex(&[0, 0x9f, 0xff]), "009fff");
    }
}
