//! Decodes the values of query parameters.

/// Decodes `+` and percent escapes, as in `application/x-www-form-urlencoded`.
pub(super) fn decoded(value: &str) -> Result<String, String> {
    let wrong = || format!("{value:?} is not percent-encoded UTF-8");
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let (digits, after) = rest.split_at_checked(2).ok_or_else(wrong)?;
                rest = after;
                let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
                u8::from_str_radix(digits, 16).map_err(|_| wrong())?
            }
            plain => plain,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}
