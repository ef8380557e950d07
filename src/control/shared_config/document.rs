//! The tables that a fleet shares, as JSON under their key. A writer of the key decides where the fleet's traffic goes, but must
//! not be able to harm the process: a value that can't be read is ignored.

use serde::{Deserialize, Serialize};

use super::timeline::Timeline;
use crate::config::shared::is_tables;
use crate::control::etcd::MAX_VALUE;

/// Longest name of an author, in characters.
const MAX_NAME: usize = 200;

/// The document. Later releases may add fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::control) struct SharedDocument {
    /// The tables, as a file would have them.
    pub text: String,
    /// The author of the tables: `alice@build-7 (shift)`.
    pub by: String,
    /// The timeline of the tables; `None` if they were written by hand, or by a program that doesn't know timelines. Those ignore
    /// it, and leave it out of their edits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
}

impl SharedDocument {
    /// The value of the key.
    ///
    /// # Errors
    /// The value is larger than members read. Contains the message.
    pub(super) fn to_value(&self) -> Result<Vec<u8>, String> {
        // Strings can always be written.
        let value = serde_json::to_vec(self).unwrap_or_default();
        match value.len() {
            ..=MAX_VALUE => Ok(value),
            bytes => Err(format!(
                "the fleet's tables would take {bytes} bytes as JSON, and a key of etcd has room for {MAX_VALUE}: move some of them into the members' files, or leave out comments"
            )),
        }
    }

    /// Reads the value of the key.
    ///
    /// # Errors
    /// A message that says what is wrong with the value.
    pub(super) fn read(value: &[u8]) -> Result<Self, String> {
        if value.is_empty() {
            return Err("it is empty, or larger than 64 KiB".to_owned());
        }
        let read = serde_json::from_slice::<Self>(value);
        let read = read.map_err(|_| "it is not what `cutover fleet init` writes".to_owned())?;
        if !is_tables(&read.text) {
            return Err("it has control characters".to_owned());
        }
        let by = read.by.chars().filter(|c| !c.is_control());
        let by = by.take(MAX_NAME).collect();
        Ok(Self { by, ..read })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_was_written_can_be_read_and_nothing_else() {
        let document = SharedDocument {
            text: "[service.shop]\n".to_owned(),
            by: "alice@build-7 (shift)".to_owned(),
            timeline: Some(Timeline::begin(None, SystemTime::UNIX_EPOCH)),
        };
        let value = document.to_value().expect("it is small");
        assert_eq!(SharedDocument::read(&value), Ok(document));
        let read = SharedDocument::read;
        assert!(read(b"").unwrap_err().contains("larger than 64 KiB"));
        for hostile in [
            &b"[service.shop]"[..],
            br#"{"text":1,"by":""}"#,
            br#"{"text":"","by":"","timeline":"x"}"#,
            br#"{"text":"a = 1\u001cother.toml\nb = 2","by":""}"#,
            b"\xff",
        ] {
            assert!(read(hostile).is_err(), "{hostile:?}");
        }
        let long = format!(r#"{{"text":"","by":"\u001b[2J{}","x":1}}"#, "y".repeat(999));
        let by = read(long.as_bytes()).unwrap().by;
        assert!(by.starts_with("[2J") && by.len() == MAX_NAME, "{by:?}");
    }

    #[test]
    fn programs_with_and_without_timelines_read_each_other() {
        // As programs without timelines have it.
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Older {
            text: String,
            by: String,
        }
        // Written by a program without timelines (commit b7c592b).
        let recorded = include_str!("../../../tests/fleet_values/config.json");
        let recorded = recorded.trim_end().as_bytes();
        let mut document = SharedDocument::read(recorded).expect("it can be read");
        assert!(document.text.starts_with("[service.app]") && document.by.ends_with("(shift)"));
        assert_eq!(document.timeline, None);
        assert_eq!(document.to_value().expect("small"), recorded, "unchanged");
        document.timeline = Some(Timeline::begin(None, SystemTime::now()));
        let value = document.to_value().expect("small");
        assert_ne!(value, recorded);
        let older = serde_json::from_slice::<Older>(&value).expect("it can be read");
        assert_eq!((&older.text, &older.by), (&document.text, &document.by));
        let edited = serde_json::to_vec(&older).expect("written");
        let read = SharedDocument::read(&edited).expect("it can be read");
        assert_eq!(read.timeline, None);
    }

    #[test]
    fn what_members_would_not_read_is_not_written() {
        let of_size = |lines: usize| SharedDocument {
            text: "# a comment\n".repeat(lines),
            by: String::new(),
            timeline: None,
        };
        // A line break takes two bytes in JSON, and the names of the fields some more.
        let most = (MAX_VALUE - r#"{"text":"","by":""}"#.len()) / 13;
        let value = of_size(most).to_value().expect("it fits");
        assert!(SharedDocument::read(&value).is_ok());
        let refused = of_size(most + 1).to_value().expect_err("too large");
        assert!(refused.contains("room for 65536"), "{refused}");
    }
}
