//! Request ids, which correlate the logs of all hops.

/// The value of `x-request-id`: the client's if it is safe to log, else 128 random bits in hex.
#[derive(Clone, Copy, Debug)]
pub enum RequestId {
    /// The client's field is forwarded.
    Theirs,
    /// A generated id, in hex.
    Ours([u8; 32]),
}

impl RequestId {
    /// The text of a generated id; empty for the client's.
    pub fn ours(&self) -> &[u8] {
        match self {
            Self::Ours(id) => id,
            Self::Theirs => b"",
        }
    }

    /// Keeps the client's id if it has 1 to 128 bytes of `[A-Za-z0-9._:/+=-]`, else generates one.
    /// `rng` need not be cryptographic: an id is no secret.
    pub fn of(theirs: Option<&[u8]>, rng: &mut fastrand::Rng) -> Self {
        let harmless = |b: &u8| b.is_ascii_alphanumeric() || b"._:/+=-".contains(b);
        match theirs {
            Some(id) if (1..=128).contains(&id.len()) && id.iter().all(harmless) => Self::Theirs,
            _ => Self::Ours(hex(rng.u128(..))),
        }
    }
}

fn hex(n: u128) -> [u8; 32] {
    // Eight digits at a time in one word. The nibbles are spread to one byte each. Adding 6 to a
    // byte carries into bit 4 if the digit is above 9; these get the distance from '9' to 'a' on top.
    let eight = |half: u32| {
        let mut spread = u64::from(half);
        spread = (spread | spread << 16) & 0x0000_ffff_0000_ffff;
        spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
        spread = (spread | spread << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        let letters = ((spread + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
        (spread + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'0' - 10)).to_be_bytes()
    };
    let mut text = [0; 32];
    let eights = text.as_chunks_mut().0.iter_mut();
    for (digits, shift) in eights.zip([96, 64, 32, 0]) {
        *digits = eight((n >> shift) as u32);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_in_hex() {
        for n in [
            0,
            u128::MAX,
            0x0123_4567_89ab_cdef_fedc_ba98_7654_3210,
            0x9a9a_a9a9_0ff0_f00f_0909_a0a0_1e1e_d2d2,
        ] {
            assert_eq!(hex(n), format!("{n:032x}").as_bytes());
        }
    }
}
