use super::*;
use std::io::{PipeReader, Read, pipe};

/// A file whose disk is full when 64 KiB are in it: a pipe that doesn't block.
fn small_disk() -> (LogFile, PipeReader) {
    let (reader, writer) = pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    rustix::io::ioctl_fionbio(&reader, true).unwrap();
    let file = LogFile {
        path: PathBuf::from("/nonexistent/access.log"),
        file: File::from(OwnedFd::from(writer)),
        identity: (0, 0),
        checked: Instant::now(),
        torn: Vec::new(),
        retry_at: None,
        failed_to_reopen: false,
    };
    (file, reader)
}

/// Returns the text that was written to the pipe since the last call.
fn taken(reader: &mut PipeReader) -> String {
    let mut bytes = vec![0; 1 << 20];
    let mut len = 0;
    while let Ok(n @ 1..) = reader.read(&mut bytes[len..]) {
        len += n;
    }
    String::from_utf8(bytes[..len].to_vec()).unwrap()
}

fn lines(from: usize, count: usize) -> String {
    (from..from + count)
        .map(|n| format!("{n:0>98}\n"))
        .collect()
}

#[test]
fn a_full_disk_costs_whole_lines() {
    let (mut file, mut reader) = small_disk();
    let now = Instant::now();
    let written = file.write(lines(0, 1000).as_bytes(), now);
    let lost = written.lost as usize;
    assert!(lost > 300 && written.error.is_some(), "{written:?}");
    // Not tried again within a second, and then from where the torn line ended.
    let mut disk = taken(&mut reader);
    assert!(!disk.ends_with('\n'), "the test needs a torn line");
    let soon = file.write(lines(1000, 10).as_bytes(), now + RETRY_AFTER / 2);
    assert_eq!((soon.lost, soon.error.is_none()), (10, true));
    assert_eq!(taken(&mut reader), "");
    let later = file.write(lines(1010, 5).as_bytes(), now + RETRY_AFTER);
    assert_eq!(later.lost, 0);
    disk.push_str(&taken(&mut reader));
    let numbers = disk.lines().map(|line| {
        assert_eq!(line.len(), 98);
        line.parse::<usize>().unwrap()
    });
    assert!(numbers.eq((0..1000 - lost).chain(1010..1015)));
}

#[test]
fn a_disk_that_stays_full_keeps_the_torn_line() {
    let (mut file, mut reader) = small_disk();
    let now = Instant::now();
    let first = file.write(lines(0, 1000).as_bytes(), now).lost as usize;
    let again = file.write(lines(1000, 7).as_bytes(), now + RETRY_AFTER);
    assert_eq!((again.lost, again.error.is_some()), (7, true));
    let mut disk = taken(&mut reader);
    file.write(lines(2000, 1).as_bytes(), now + 2 * RETRY_AFTER);
    disk.push_str(&taken(&mut reader));
    let numbers = disk.lines().map(|line| line.parse::<usize>().unwrap());
    assert!(numbers.eq((0..1000 - first).chain([2000])));
}

#[test]
fn pieces_end_with_lines() {
    let split = |text: &'static str, most| {
        let mut rest = text.as_bytes();
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let first = piece(rest, most);
            pieces.push(std::str::from_utf8(first).unwrap());
            rest = &rest[first.len()..];
        }
        pieces
    };
    assert_eq!(split("a\nb\nc\n", 4), ["a\nb\n", "c\n"]);
    assert_eq!(split("abcdefg\nb\n", 4), ["abcdefg\n", "b\n"]);
    assert_eq!(split("a\nb\n", 100), ["a\nb\n"]);
}
