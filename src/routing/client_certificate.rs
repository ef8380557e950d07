//! The properties of a client that its certificate proves.

/// The verified certificate of a client, in the form in which it is matched and forwarded to endpoints. Extracted once, after
/// the handshake. All texts but `common_name` are printable ASCII.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject as an RFC 4514 string: `CN=partner,O=Example`. May be empty.
    pub subject: String,
    /// The subject alternative names with their types: `DNS:partner.test`, `URI:spiffe://test/partner`,
    /// `email:ops@partner.test`, `IP:192.0.2.1`.
    pub san: Vec<String>,
    /// The first common name in the subject, in UTF-8. Empty if there is none.
    pub common_name: String,
    /// SHA-256 of the DER encoding, in lower-case hex.
    pub fingerprint: String,
}
