//! Decodes the values of query parameters.

/// Parses the query of a change, whose only parameter is the [`switch`] `dry_run`: plan the change without making it.
///
/// # Errors
/// A message that names the invalid parameter.
pub(super) fn is_dry_run(query: &str) -> Result<bool, String> {
    let mut is_dry = false;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name != "dry_run" {
            return Err(format!("unknown parameter {name:?}: expected dry_run"));
        }
        is_dry = switch(name, value)?;
    }
    Ok(is_dry)
}

/// Parses the value of a parameter that is on or off: `true` or `1`, `false` or `0`. Without a value it is on.
///
/// # Errors
/// A message that names the parameter.
pub(super) fn switch(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{name} is neither true nor false: {value:?}")),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_on_or_off() {
        for on in ["dry_run", "dry_run=", "dry_run=1", "dry_run=true"] {
            assert_eq!(is_dry_run(on), Ok(true), "{on}");
        }
        for off in ["", "&", "dry_run=0", "dry_run=false"] {
            assert_eq!(is_dry_run(off), Ok(false), "{off}");
        }
        for wrong in ["dry_run=yes", "dry_run=TRUE", "dryrun", "dry_run=1&more"] {
            assert!(is_dry_run(wrong).is_err(), "{wrong}");
        }
    }
}
