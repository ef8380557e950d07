//! `traceparent`, the field that identifies a request's trace (W3C Trace Context, section 3.2).

/// Length of a `traceparent` of version 00.
pub(crate) const TRACEPARENT_LEN: usize = 55;

/// The flag of a trace that is recorded.
pub(crate) const SAMPLED: u8 = 0x01;
/// The flag of a trace id whose last 7 bytes are random (W3C Trace Context Level 2).
const RANDOM: u8 = 0x02;

/// The trace that a request belongs to, as its sender states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    /// Id of the trace, not 0.
    pub trace_id: u128,
    /// Id of the sender's span, not 0.
    pub parent_id: u64,
    /// Flags of the trace. Only flags that are defined.
    pub flags: u8,
}

impl TraceContext {
    /// Parses the value of a `traceparent`. `None` if it is malformed, so that the trace has to be restarted.
    ///
    /// A version after 00 may append further fields. The known ones are read as in version 00 (section 4.3).
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let value = value.trim_ascii();
        let (known, further) = value.split_at_checked(TRACEPARENT_LEN)?;
        if [known[2], known[35], known[52]] != [b'-'; 3] {
            return None;
        }
        let version = hex(&known[..2])?;
        let is_valid = match version {
            0 => further.is_empty(),
            0xff => false,
            _ => further.is_empty() || further[0] == b'-',
        };
        let context = Self {
            trace_id: hex(&known[3..35])?,
            // Sixteen hex digits fit into a `u64`.
            parent_id: hex(&known[36..52])? as u64,
            flags: hex(&known[53..])? as u8 & (SAMPLED | RANDOM),
        };
        (is_valid && context.trace_id != 0 && context.parent_id != 0).then_some(context)
    }
}

/// Writes a `traceparent` of version 00.
pub(crate) fn traceparent(trace_id: u128, span_id: u64, flags: u8) -> [u8; TRACEPARENT_LEN] {
    let mut text = [b'-'; TRACEPARENT_LEN];
    put_hex(&mut text[..2], 0);
    put_hex(&mut text[3..35], trace_id);
    put_hex(&mut text[36..52], span_id.into());
    put_hex(&mut text[53..], flags.into());
    text
}

/// Writes the last digits of a number in hexadecimal, as many as there is room for.
pub(crate) fn put_hex(out: &mut [u8], number: u128) {
    let mut rest = number;
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(rest & 0xf) as usize];
        rest >>= 4;
    }
}

/// Parses up to 32 hexadecimal digits, which have to be in lower case (section 3.2.2).
fn hex(text: &[u8]) -> Option<u128> {
    let mut number = 0;
    for &byte in text {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        number = number << 4 | u128::from(digit);
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn parse(value: &str) -> Option<TraceContext> {
        TraceContext::parse(value.as_bytes())
    }

    #[test]
    fn a_valid_value_is_read_and_written_back() {
        let context = parse(VALID).expect("valid");
        assert_eq!(context.trace_id, 0x0af7651916cd43dd8448eb211c80319c);
        assert_eq!(context.parent_id, 0xb7ad6b7169203331);
        assert_eq!(context.flags, 1);
        let written = traceparent(context.trace_id, context.parent_id, context.flags);
        assert_eq!(written, VALID.as_bytes());
        assert_eq!(parse(&format!(" {VALID}\t")), Some(context));
    }

    #[test]
    fn only_defined_flags_are_kept() {
        let flags = |flags: &str| parse(&format!("{}{flags}", &VALID[..53])).map(|c| c.flags);
        let found = ["00", "01", "02", "03", "ff", "fc"].map(flags);
        assert_eq!(found, [0, 1, 2, 3, 3, 0].map(Some));
    }

    #[test]
    fn a_later_version_may_append_fields() {
        let body = &VALID[2..];
        assert_eq!(parse(&format!("01{body}")), parse(VALID));
        assert_eq!(parse(&format!("cc{body}-what-comes")), parse(VALID));
        assert_eq!(parse(&format!("cc{body}.what-comes")), None);
        assert_eq!(parse(&format!("00{body}-what-comes")), None);
        assert_eq!(parse(&format!("ff{body}")), None);
    }

    #[test]
    fn malformed_values_are_refused() {
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            "-".to_owned(),
            VALID[..54].to_owned(),
            format!("{VALID}0"),
            VALID.to_uppercase(),
            VALID.replace('-', "_"),
            VALID.replace("0af7651916cd43dd8448eb211c80319c", &zeros),
            VALID.replace("b7ad6b7169203331", &zeros[..16]),
            VALID.replace("b7ad", "b7ag"),
            format!("0x{}", &VALID[2..]),
            format!("{VALID}, {VALID}"),
        ] {
            assert_eq!(parse(&bad), None, "{bad:?}");
        }
    }

    #[test]
    fn one_byte_changed_never_gives_another_trace_silently() {
        // Whatever a digit is replaced by, the value is refused or says something else.
        for at in 0..VALID.len() {
            let mut other = VALID.as_bytes().to_vec();
            other[at] = b'-';
            if other != VALID.as_bytes() {
                assert_eq!(TraceContext::parse(&other), None, "{at}");
            }
        }
    }
}
