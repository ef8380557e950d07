//! Reason phrases.

/// Returns the reason phrase that RFC 9110 §15 or the IANA registry gives a status; empty for an unregistered one.
///
/// Used for responses of the proxy and for those received over HTTP/2, which has no reason phrases.
pub(crate) const fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::reason;

    #[test]
    fn phrases_agree_with_the_http_crate() {
        for status in 100..600 {
            let ours = reason(status);
            let theirs = http::StatusCode::from_u16(status)
                .unwrap()
                .canonical_reason()
                .unwrap_or("");
            // The crate spells these unlike RFC 9110.
            let renamed = [203, 413, 422].contains(&status);
            assert!(ours.is_empty() || renamed || ours == theirs, "{status}");
        }
        assert_eq!(reason(502), "Bad Gateway");
        assert_eq!(reason(599), "");
    }
}
