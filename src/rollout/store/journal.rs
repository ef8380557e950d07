//! The format of a journal: one line for each entry, appended and flushed to disk before it counts.
//!
//! ```text
//! 1 17 8f0e4c1d2b3a4950 {"at_s":1795,"notes":["v2: step 2 of 5: 5%"],"evidence":[],"state":{…}}
//! │ │  │                └ the entry
//! │ │  └ XXH3 of the two fields before it and the entry
//! │ └ sequence number, without gaps
//! └ version of the format
//! ```
//!
//! A process that is killed while it appends leaves a last line without its end. It never counted, so it is dropped. Any other line
//! that can't be read is damage.

use xxhash_rust::xxh3::xxh3_64;

use super::{JournalEntry, StoreError};

/// Version of the format.
const FORMAT: u32 = 1;

/// A journal that was read.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Journal {
    /// Sequence number and entry, oldest first.
    pub entries: Vec<(u64, JournalEntry)>,
    /// Length of the readable part, in bytes.
    pub length: usize,
}

impl Journal {
    /// The sequence number of the last entry; 0 without entries.
    pub(super) fn revision(&self) -> u64 {
        self.entries.last().map_or(0, |(seq, _)| *seq)
    }
}

/// Writes an entry as a line.
///
/// # Errors
/// The entry can't be written as JSON.
pub(super) fn line(seq: u64, entry: &JournalEntry) -> serde_json::Result<String> {
    let json = serde_json::to_string(entry)?;
    let check = checksum(FORMAT, seq, &json);
    Ok(format!("{FORMAT} {seq} {check:016x} {json}\n"))
}

fn checksum(format: u32, seq: u64, json: &str) -> u64 {
    xxh3_64(format!("{format} {seq} {json}").as_bytes())
}

/// Reads a journal.
///
/// # Errors
/// The journal is damaged, beyond an incomplete last line.
pub(super) fn read(bytes: &[u8]) -> Result<Journal, StoreError> {
    let mut journal = Journal::default();
    let mut number = 0;
    while journal.length < bytes.len() {
        let rest = &bytes[journal.length..];
        number += 1;
        // The last line is incomplete.
        let Some(end) = memchr::memchr(b'\n', rest) else {
            break;
        };
        let (seq, entry) = parse(&rest[..end]).map_err(|what| damage(number, what))?;
        let expected = journal.revision() + 1;
        // The first line of a compacted journal may have any number.
        if seq != expected && number > 1 {
            let what = format!("entry {seq} follows {}", expected - 1);
            return Err(damage(number, &what));
        }
        journal.entries.push((seq, entry));
        journal.length += end + 1;
    }
    Ok(journal)
}

fn damage(line: usize, what: &str) -> StoreError {
    StoreError::Corrupt(format!("line {line}: {what}"))
}

fn parse(line: &[u8]) -> Result<(u64, JournalEntry), &'static str> {
    let line = std::str::from_utf8(line).map_err(|_| "it isn't text")?;
    let mut fields = line.splitn(4, ' ');
    let mut field = || fields.next().ok_or("it is too short");
    let format = field()?.parse().map_err(|_| "it has no format version")?;
    let seq = field()?.parse().map_err(|_| "it has no sequence number")?;
    let check = u64::from_str_radix(field()?, 16).map_err(|_| "it has no checksum")?;
    let json = field()?;
    if checksum(format, seq, json) != check {
        return Err("its checksum is wrong");
    }
    if format != FORMAT {
        return Err("it has a format that this release doesn't know");
    }
    let entry = serde_json::from_slice(json.as_bytes()).map_err(|_| "its entry can't be read")?;
    Ok((seq, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(note: &str) -> JournalEntry {
        JournalEntry {
            notes: vec![note.to_owned()],
            ..JournalEntry::default()
        }
    }

    fn journal(numbers: &[u64]) -> String {
        let lines = numbers
            .iter()
            .map(|n| line(*n, &entry(&n.to_string())).unwrap());
        lines.collect()
    }

    #[test]
    fn a_journal_that_is_cut_anywhere_keeps_the_entries_before() {
        let text = journal(&[1, 2, 3]);
        let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        for cut in 0..=text.len() {
            let read = read(&text.as_bytes()[..cut]).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!(read.entries.len(), whole, "cut at {cut}");
            assert_eq!(read.length, if whole == 0 { 0 } else { ends[whole - 1] });
        }
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let text = journal(&[1, 2, 3]);
        // Without its last newline the last line is incomplete.
        for at in 0..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(
                matches!(read(&bytes), Err(StoreError::Corrupt(_))),
                "byte {at}"
            );
        }
    }

    #[test]
    fn a_gap_is_damage_and_a_compacted_start_is_not() {
        assert!(matches!(
            read(journal(&[1, 3]).as_bytes()),
            Err(StoreError::Corrupt(_))
        ));
        assert!(matches!(
            read(journal(&[1, 2, 2]).as_bytes()),
            Err(StoreError::Corrupt(_))
        ));
        assert_eq!(read(journal(&[41, 42]).as_bytes()).unwrap().revision(), 42);
    }
}
