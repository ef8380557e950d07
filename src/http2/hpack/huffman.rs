//! Decoding of HPACK's Huffman code (RFC 7541 §5.2 and Appendix B).
//!
//! The code is canonical: codes of one length are consecutive numbers, and shorter codes come first. The lengths alone
//! therefore determine all codes, and the tables are computed from them at compile time. Codes of up to 8 bits, which are
//! those of nearly all header text, are decoded with one lookup; longer ones by comparison with the ranges of each length.

/// Length of the longest code in bits.
const MAX_BITS: usize = 30;
/// The end-of-string symbol. A string that contains it is malformed (RFC 7541 §5.2).
const EOS: usize = 256;
/// Length in bits of the code of each byte.
const LENGTHS: [u8; EOS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// The decoding tables.
struct Code {
    /// All symbols in the order of their codes.
    symbols: [u16; EOS + 1],
    /// By length: the first code, left-aligned in 32 bits.
    first: [u32; MAX_BITS + 1],
    /// By length: the value after the last code, left-aligned in 32 bits; may be 2^32.
    end: [u64; MAX_BITS + 1],
    /// By length: the index of its first symbol in `symbols`.
    offset: [u16; MAX_BITS + 1],
    /// By the first eight bits: the symbol and the length of its code, or length 0 if the code is longer than that.
    short: [(u8, u8); 256],
}

static CODE: Code = build();

/// Assigns the canonical codes: by length, and within a length in the order of the symbols.
const fn build() -> Code {
    let mut code = Code {
        symbols: [0; EOS + 1],
        first: [0; MAX_BITS + 1],
        end: [0; MAX_BITS + 1],
        offset: [0; MAX_BITS + 1],
        short: [(0, 0); 256],
    };
    let (mut next, mut count, mut len): (u64, usize, usize) = (0, 0, 1);
    while len <= MAX_BITS {
        next <<= 1;
        let align = 32 - len;
        code.first[len] = (next << align) as u32;
        code.offset[len] = count as u16;
        let mut symbol = 0;
        while symbol <= EOS {
            let bits = if symbol == EOS {
                MAX_BITS
            } else {
                LENGTHS[symbol] as usize
            };
            if bits == len {
                code.symbols[count] = symbol as u16;
                count += 1;
                if len <= 8 {
                    let mut at = (next << (8 - len)) as usize;
                    let end = ((next + 1) << (8 - len)) as usize;
                    while at < end {
                        code.short[at] = (symbol as u8, len as u8);
                        at += 1;
                    }
                }
                next += 1;
            }
            symbol += 1;
        }
        code.end[len] = next << align;
        len += 1;
    }
    code
}

/// Returns the symbol whose code is at the left end of `window`, and the length of the code.
#[inline]
fn symbol(window: u32) -> (usize, u32) {
    let (symbol, len) = CODE.short[(window >> 24) as usize];
    if len > 0 {
        return (symbol.into(), len.into());
    }
    // Ends at 30 at the latest: the code is complete, so `end` of the greatest length is 2^32.
    let mut len = 9;
    while u64::from(window) >= CODE.end[len] {
        len += 1;
    }
    let nth = (window - CODE.first[len]) >> (32 - len);
    let symbol = CODE.symbols[usize::from(CODE.offset[len]) + nth as usize];
    (symbol.into(), len as u32)
}

/// Decodes a string and appends it to `out`. If the result is `None`, `out` has an unspecified part of it.
///
/// Returns `None` for a string that contains EOS, or whose padding is a byte or longer or not of ones (RFC 7541 §5.2).
pub(super) fn decode(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    // The shortest code has five bits.
    out.resize(start + text.len() * 8 / 5 + BATCH, 0);
    let end = start + decode_into(text, &mut out[start..])?;
    out.truncate(end);
    Some(())
}

/// Symbols that are decoded between two refills: as many as 32 bits certainly have, if their codes are short.
const BATCH: usize = 4;

/// Decodes into `out`, which is [`BATCH`] bytes longer than the longest possible result. Returns the length.
fn decode_into(text: &[u8], out: &mut [u8]) -> Option<usize> {
    // The upper `held` bits of `bits` have not been decoded yet; the others are zero.
    let (mut bits, mut held, mut count) = (0_u64, 0_u32, 0);
    let (words, rest) = text.as_chunks::<4>();
    let mut words = words.iter();
    loop {
        if held < 32 {
            let Some(word) = words.next() else { break };
            bits |= u64::from(u32::from_be_bytes(*word)) << (32 - held);
            held += 32;
        }
        let mut batch = [0; BATCH];
        let mut short = 0;
        for slot in &mut batch {
            let (symbol, len) = CODE.short[(bits >> 56) as usize];
            if len == 0 {
                break;
            }
            *slot = symbol;
            short += 1;
            bits <<= len;
            held -= u32::from(len);
        }
        out[count..count + BATCH].copy_from_slice(&batch);
        count += short;
        if short == 0 {
            // At least 32 bits are held, so the code is complete.
            let (symbol, len) = symbol((bits >> 32) as u32);
            out[count] = u8::try_from(symbol).ok()?;
            count += 1;
            bits <<= len;
            held -= len;
        }
    }
    for &byte in rest {
        bits |= u64::from(byte) << (56 - held);
        held += 8;
    }
    while held > 0 {
        // Missing bits at the end are filled with ones, like the padding.
        let window = ((bits | u64::MAX >> held) >> 32) as u32;
        let (symbol, len) = symbol(window);
        if len > held {
            // The rest must be padding: less than 8 bits, all of them ones, which are the first bits of EOS.
            return (held < 8 && window == u32::MAX).then_some(count);
        }
        out[count] = u8::try_from(symbol).ok()?;
        count += 1;
        bits <<= len;
        held -= len;
    }
    Some(count)
}

/// Appends the code of a text, padded. The proxy sends no Huffman code; the tests of the decoder need one.
#[cfg(test)]
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut held) = (0_u64, 0_u32);
    for &byte in text {
        let len = u32::from(LENGTHS[usize::from(byte)]);
        let at = CODE.symbols.iter().position(|&s| s == u16::from(byte));
        let nth = at.expect("every byte has a code") - usize::from(CODE.offset[len as usize]);
        let code = (CODE.first[len as usize] >> (32 - len)) + nth as u32;
        bits = bits << len | u64::from(code);
        held += len;
        while held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    if held > 0 {
        out.push((bits << (8 - held)) as u8 | 0xff >> held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(coded: &[u8]) -> Option<Vec<u8>> {
        let mut text = b"before".to_vec();
        decode(coded, &mut text)?;
        Some(text.strip_prefix(b"before").expect("appended").to_vec())
    }

    fn coded(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(text, &mut out);
        out
    }

    /// Decodes bit by bit, by the numbers of Appendix B as they follow from the lengths.
    fn slowly(coded: &[u8]) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        let (mut code, mut len) = (0_u64, 0_usize);
        for bit in coded
            .iter()
            .flat_map(|b| (0..8).rev().map(move |i| b >> i & 1))
        {
            code = code << 1 | u64::from(bit);
            len += 1;
            let first = u64::from(CODE.first[len] >> (32 - len));
            let end = CODE.end[len] >> (32 - len);
            if (first..end).contains(&code) {
                let nth = usize::from(CODE.offset[len]) + (code - first) as usize;
                text.push(u8::try_from(CODE.symbols[nth]).ok()?);
                (code, len) = (0, 0);
            }
        }
        (len < 8 && code == (1 << len) - 1).then_some(text)
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        // RFC 7541 C.4.1, C.4.2, C.4.3 and C.6.1.
        let host = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(text(&host).expect("text"), b"www.example.com");
        let cache = [0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf];
        assert_eq!(text(&cache).expect("text"), b"no-cache");
        let key = [0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f];
        assert_eq!(text(&key).expect("text"), b"custom-key");
        assert_eq!(text(&[0x64, 0x02]).expect("text"), b"302");
    }

    #[test]
    fn every_byte_has_a_code() {
        let all: Vec<u8> = (0..=u8::MAX).chain((0..=u8::MAX).rev()).collect();
        assert_eq!(text(&coded(&all)), Some(all));
        for byte in 0..=u8::MAX {
            for before in 0..9 {
                let mut one = b"aaaaaaaaa"[..before].to_vec();
                one.push(byte);
                assert_eq!(text(&coded(&one)), Some(one), "{byte}");
            }
        }
    }

    #[test]
    fn any_bytes_are_read_as_they_are_bit_by_bit() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut good = 0;
        for _ in 0..200_000 {
            let mut bytes: Vec<u8> = (0..rng.usize(..12)).map(|_| rng.u8(..)).collect();
            if rng.bool()
                && let Some(last) = bytes.last_mut()
            {
                *last |= 0xff >> rng.u32(1..8);
            }
            let expected = slowly(&bytes);
            good += u32::from(expected.is_some());
            assert_eq!(text(&bytes), expected, "{bytes:x?}");
        }
        assert!(good > 20_000, "{good}");
        for _ in 0..20_000 {
            let plain: Vec<u8> = (0..rng.usize(..40)).map(|_| rng.u8(..)).collect();
            assert_eq!(text(&coded(&plain)), Some(plain));
        }
    }

    #[test]
    fn what_no_encoder_writes_is_refused() {
        assert_eq!(text(&[]), Some(Vec::new()));
        for len in 1..10 {
            assert_eq!(text(&vec![0xff; len]), None, "a byte of padding, or EOS");
        }
        assert_eq!(text(&[0b0000_0000]), None, "padded with zeros");
        assert_eq!(text(&[0b0000_0111]), Some(b"0".to_vec()));
    }
}
