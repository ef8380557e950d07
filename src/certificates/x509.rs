//! Reads what is needed of certificates (RFC 5280): serial number, validity, subject and names. Signatures and chains are checked
//! by rustls.

use std::net::IpAddr;

use super::der::{
    CONTEXT_0, CONTEXT_3, IA5_STRING, INTEGER, NUMERIC_STRING, OCTETS, OID, PRINTABLE_STRING,
    SEQUENCE, SET, UTF8_STRING, Value, Values, time,
};

/// `id-ce-subjectAltName`, 2.5.29.17, and `id-ce-authorityKeyIdentifier`, 2.5.29.35, as DER has them.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x23];
/// `keyIdentifier`: `[0]`, primitive.
const KEY_IDENTIFIER: u8 = 0x80;

/// Validity period of a certificate, in seconds since the epoch. Both ends are included (RFC 5280 §4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub not_before: i64,
    pub not_after: i64,
}

impl Validity {
    /// Whether the certificate is valid at `now`.
    pub(crate) fn covers(self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// A certificate whose outer structure has been read.
#[derive(Debug)]
pub(crate) struct Certificate<'d> {
    /// The serial number, as DER has it.
    pub serial: &'d [u8],
    pub validity: Validity,
    subject: &'d [u8],
    extensions: &'d [u8],
}

/// An entry of the subject alternative names (RFC 5280 §4.2.1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AlternativeName<'d> {
    Dns(&'d str),
    Uri(&'d str),
    Mail(&'d str),
    Address(IpAddr),
}

/// A type and value of a name, such as `CN=shop`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attribute<'d> {
    oid: &'d [u8],
    value: Value<'d>,
}

impl<'d> Certificate<'d> {
    /// `None` if it is malformed.
    pub(crate) fn parse(der: &'d [u8]) -> Option<Self> {
        let signed = Values(der).expect(SEQUENCE)?;
        let mut fields = Values(Values(signed).expect(SEQUENCE)?);
        // The version, which a certificate of version 1 leaves out.
        let mut serial = fields.next()?;
        if serial.tag == CONTEXT_0 {
            serial = fields.next()?;
        }
        let _signature = fields.expect(SEQUENCE)?;
        let _issuer = fields.expect(SEQUENCE)?;
        let mut times = Values(fields.expect(SEQUENCE)?);
        let validity = Validity {
            not_before: time(times.next()?)?,
            not_after: time(times.next()?)?,
        };
        let subject = fields.expect(SEQUENCE)?;
        let _public_key = fields.expect(SEQUENCE)?;
        let extensions = match fields.find(|field| field.tag == CONTEXT_3) {
            Some(field) => Values(field.contents).expect(SEQUENCE)?,
            None => &[],
        };
        (serial.tag == INTEGER).then_some(Self {
            serial: serial.contents,
            validity,
            subject,
            extensions,
        })
    }

    /// The subject: relative names, most general first, each with its attributes, of which there is mostly one.
    pub(crate) fn subject(&self) -> impl Iterator<Item = impl Iterator<Item = Attribute<'d>>> {
        Values(self.subject).all_of(SET).map(|relative| {
            Values(relative).all_of(SEQUENCE).filter_map(|attribute| {
                let mut fields = Values(attribute);
                Some(Attribute {
                    oid: fields.expect(OID)?,
                    value: fields.next()?,
                })
            })
        })
    }

    /// The subject alternative names. Those of other types are left out.
    pub(crate) fn alternative_names(&self) -> impl Iterator<Item = AlternativeName<'d>> {
        let names = { self.extension(SUBJECT_ALT_NAME) }
            .and_then(|extension| Values(extension).expect(SEQUENCE))
            .unwrap_or_default();
        Values(names).filter_map(|name| {
            let text = || str::from_utf8(name.contents).ok();
            match name.tag {
                0x81 => text().map(AlternativeName::Mail),
                0x82 => text().map(AlternativeName::Dns),
                0x86 => text().map(AlternativeName::Uri),
                0x87 => address(name.contents).map(AlternativeName::Address),
                _ => None,
            }
        })
    }

    /// The identifier of the authority's key.
    pub(crate) fn authority_key(&self) -> Option<&'d [u8]> {
        let extension = self.extension(AUTHORITY_KEY_IDENTIFIER)?;
        Values(Values(extension).expect(SEQUENCE)?).expect(KEY_IDENTIFIER)
    }

    /// The value of the extension with this type.
    fn extension(&self, oid: &[u8]) -> Option<&'d [u8]> {
        Values(self.extensions)
            .all_of(SEQUENCE)
            .find_map(|extension| {
                let mut fields = Values(extension);
                if fields.expect(OID)? != oid {
                    return None;
                }
                // Between the two may stand whether the extension is critical.
                fields.find(|field| field.tag == OCTETS).map(|v| v.contents)
            })
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}

impl<'d> Attribute<'d> {
    /// The type in dotted decimals.
    pub(crate) fn oid(&self) -> String {
        let mut arcs = Vec::new();
        let mut arc = 0u128;
        for byte in self.oid {
            // No arc in use is longer: the longest are UUIDs, of 128 bits (X.667).
            arc = arc << 7 | u128::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                arcs.push(arc);
                arc = 0;
            }
        }
        if let Some(first) = arcs.first_mut() {
            // The first number holds two arcs: 0, 1 or 2, and one that is below 40 unless the first is 2 (X.690 §8.19.4).
            let root = (*first / 40).min(2);
            *first -= root * 40;
            arcs.insert(0, root);
        }
        let arcs: Vec<String> = arcs.iter().map(u128::to_string).collect();
        arcs.join(".")
    }

    /// The value, unless it is of a type whose text isn't ASCII or UTF-8.
    pub(crate) fn text(&self) -> Option<&'d str> {
        match self.value.tag {
            UTF8_STRING | NUMERIC_STRING | PRINTABLE_STRING | IA5_STRING => {
                str::from_utf8(self.value.contents).ok()
            }
            _ => None,
        }
    }

    /// The value as DER has it, with its tag.
    pub(crate) fn encoded(&self) -> &'d [u8] {
        self.value.whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};
    use x509_parser::asn1_rs::ToDer;
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::prelude::{FromDer, X509Certificate};

    /// A certificate with everything that is read.
    fn issued() -> Vec<u8> {
        let names = ["shop.test", "192.0.2.7", "2001:db8::1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).expect("names");
        let uri = SanType::URI("spiffe://test/a".try_into().expect("ASCII"));
        params.subject_alt_names.push(uri);
        let mail = SanType::Rfc822Name("ops@shop.test".try_into().expect("ASCII"));
        params.subject_alt_names.push(mail);
        params.use_authority_key_identifier_extension = true;
        params.not_after = rcgen::date_time_ymd(2051, 2, 28);
        let name = &mut params.distinguished_name;
        for (arcs, text) in [
            (vec![2, 5, 4, 10], "Shop"),
            (vec![2, 25, 1 << 40], "a"),
            (vec![0, 9, 2342, 19_200_300, 100, 1, 1], "b"),
            (vec![1, 39, 0, 127, 128], "c"),
        ] {
            let value = DnValue::Utf8String(text.into());
            name.push(DnType::CustomDnType(arcs), value);
        }
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("signed").der().to_vec()
    }

    /// All that is read, as text: serial number and validity, and the rest.
    fn ours(der: &[u8]) -> Option<[String; 2]> {
        let read = Certificate::parse(der)?;
        let names: Vec<String> = read.alternative_names().map(|n| format!("{n:?}")).collect();
        let subject: Vec<String> = { read.subject().flatten() }
            .map(|a| format!("{}={:?} {:?}", a.oid(), a.text(), a.encoded()))
            .collect();
        let Validity {
            not_before,
            not_after,
        } = read.validity;
        let (serial, authority) = (read.serial, read.authority_key());
        Some([
            format!("{serial:?} {not_before} {not_after}"),
            format!("{subject:?} {names:?} {authority:?}"),
        ])
    }

    /// The same by x509-parser.
    fn theirs(der: &[u8]) -> Option<[String; 2]> {
        let (_, read) = X509Certificate::from_der(der).ok()?;
        let name = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(n) => Some(format!("{:?}", AlternativeName::Dns(n))),
            GeneralName::URI(n) => Some(format!("{:?}", AlternativeName::Uri(n))),
            GeneralName::RFC822Name(n) => Some(format!("{:?}", AlternativeName::Mail(n))),
            GeneralName::IPAddress(n) => {
                Some(format!("{:?}", AlternativeName::Address(address(n)?)))
            }
            _ => None,
        };
        let mut names: Vec<String> = Vec::new();
        if let Some(extension) = read.subject_alternative_name().ok()? {
            names.extend(extension.value.general_names.iter().filter_map(name));
        }
        let subject: Vec<String> = { read.subject().iter_attributes() }
            .map(|a| {
                let encoded = a.attr_value().to_der_vec().expect("parsed");
                let oid = a.attr_type().to_id_string();
                format!("{oid}={:?} {encoded:?}", a.as_str().ok())
            })
            .collect();
        let authority = read
            .iter_extensions()
            .find_map(|e| match e.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    id.key_identifier.as_ref().map(|k| k.0)
                }
                _ => None,
            });
        let (serial, validity) = (read.tbs_certificate.raw_serial(), read.validity());
        let (not_before, not_after) = (
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        );
        Some([
            format!("{serial:?} {not_before} {not_after}"),
            format!("{subject:?} {names:?} {authority:?}"),
        ])
    }

    #[test]
    fn a_certificate_reads_as_another_parser_reads_it() {
        let der = issued();
        let read = ours(&der).expect("readable");
        assert_eq!(Some(&read), theirs(&der).as_ref());
        for part in ["2.25.1099511627776=", "1.39.0.127.128=", "spiffe://test/a"] {
            assert!(read[1].contains(part), "{part} in {read:?}");
        }
    }

    #[test]
    fn a_certificate_that_is_cut_short_is_malformed() {
        let der = issued();
        for length in 0..der.len() {
            assert_eq!(ours(&der[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn a_damaged_certificate_is_malformed_or_has_the_same_serial_number_and_validity() {
        let der = issued();
        for at in 0..der.len() {
            for bit in [0x01, 0x20, 0x80] {
                let mut der = der.clone();
                der[at] ^= bit;
                // The other parser refuses more, and reads names whose tags are wrong.
                if let (Some([ours, _]), Some([theirs, _])) = (ours(&der), theirs(&der)) {
                    assert_eq!(ours, theirs, "byte {at}, bit {bit}");
                }
            }
        }
    }
}
