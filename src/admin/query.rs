//! Decodes the values of query parameters.

/// Parses the query of a change, whose only parameter is `dry_run`: with `true` the change is planned and not made.
///
/// # Errors
/// A message that names the invalid parameter.
pub(super) fn is_dry_run(query: &str) -> Result<bool, String> {
    let mut is_dry = false;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        is_dry = match pair {
            "dry_run" | "dry_run=true" => true,
            "dry_run=false" => false,
            _ => return Err(format!("unknown parameter {pair:?}: expected dry_run=true")),
        };
    }
    Ok(is_dry)
}

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
