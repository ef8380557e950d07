use super::buffer::LineBuffer;
use super::*;
use std::fs;
use std::io::{BufRead, BufReader, PipeReader, Read, pipe};
use std::path::Path;
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until the condition holds.
fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn add(buffer: &mut LineBuffer, sink: &Arc<LogSink>, line: impl std::fmt::Display) {
    let line = format!("{line}\n");
    buffer.add(sink, |out| out.extend_from_slice(line.as_bytes()));
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn piped(log: &AccessLog) -> (Arc<LogSink>, PipeReader) {
    let (reader, writer) = pipe().unwrap();
    (log.sink(LogOutput::Stream(writer.into())).unwrap(), reader)
}

#[test]
fn lines_arrive_whole_and_in_order() {
    let log = AccessLog::default();
    let (sink, reader) = piped(&log);
    let count = 30_000;
    let lines = std::thread::spawn(move || {
        let lines = BufReader::new(reader).lines().map(Result::unwrap);
        lines.take(count).collect::<Vec<_>>()
    });
    let mut buffer = LineBuffer::default();
    for number in 0..count {
        add(&mut buffer, &sink, format_args!("{number:0>100}"));
        // The queue is never full, as long as it is emptied now and then.
        if number % 1000 == 0 {
            buffer.flush();
            assert!(log.flush(PATIENCE));
        }
    }
    buffer.flush();
    let lines = lines.join().unwrap();
    let numbers = lines.iter().map(|l| l.parse::<usize>().unwrap());
    assert!(numbers.eq(0..count));
    assert_eq!(log.dropped(), 0);
}

#[test]
fn a_line_larger_than_a_buffer_is_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let log = AccessLog::default();
    let sink = log.sink(LogOutput::file(&path).unwrap()).unwrap();
    let mut buffer = LineBuffer::default();
    add(&mut buffer, &sink, "before");
    add(&mut buffer, &sink, "x".repeat(200_000));
    add(&mut buffer, &sink, "after");
    buffer.flush();
    assert!(log.flush(PATIENCE));
    let lengths: Vec<usize> = read(&path).lines().map(str::len).collect();
    assert_eq!(lengths, [6, 200_000, 5]);
}

#[test]
fn a_buffer_that_is_dropped_passes_its_lines_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    fs::write(&path, "kept\n").unwrap();
    let log = AccessLog::default();
    let sink = log.sink(LogOutput::file(&path).unwrap()).unwrap();
    let mut buffer = LineBuffer::default();
    add(&mut buffer, &sink, "last");
    assert_eq!(read(&path), "kept\n");
    drop(buffer);
    assert!(log.flush(PATIENCE));
    assert_eq!(read(&path), "kept\nlast\n");
}

#[test]
fn lines_go_to_the_sink_that_they_were_formatted_for() {
    let dir = tempfile::tempdir().unwrap();
    let [former, next] = ["former", "next"].map(|name| dir.path().join(name));
    let log = AccessLog::default();
    let [a, b] = [&former, &next].map(|p| log.sink(LogOutput::file(p).unwrap()).unwrap());
    let mut buffer = LineBuffer::default();
    add(&mut buffer, &a, 1);
    a.retire();
    add(&mut buffer, &b, 2);
    buffer.flush();
    assert!(log.flush(PATIENCE));
    assert_eq!((read(&former), read(&next)), ("1\n".into(), "2\n".into()));
}

#[test]
fn a_renamed_file_is_opened_again_without_being_asked() {
    let dir = tempfile::tempdir().unwrap();
    let [path, old] = ["access.log", "access.log.1"].map(|name| dir.path().join(name));
    let log = AccessLog::default();
    let sink = log.sink(LogOutput::file(&path).unwrap()).unwrap();
    let mut buffer = LineBuffer::default();
    add(&mut buffer, &sink, "one");
    buffer.flush();
    assert!(log.flush(PATIENCE));
    fs::rename(&path, &old).unwrap();
    // Also without a line in between.
    until("the file is there again", || path.exists());
    add(&mut buffer, &sink, "two");
    buffer.flush();
    assert!(log.flush(PATIENCE));
    assert_eq!((read(&old), read(&path)), ("one\n".into(), "two\n".into()));
}

#[test]
fn a_file_that_is_replaced_is_opened_again_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let [path, old] = ["access.log", "access.log.1"].map(|name| dir.path().join(name));
    let log = AccessLog::default();
    let sink = log.sink(LogOutput::file(&path).unwrap()).unwrap();
    fs::rename(&path, &old).unwrap();
    fs::write(&path, "new\n").unwrap();
    sink.reopen();
    let mut buffer = LineBuffer::default();
    add(&mut buffer, &sink, "line");
    buffer.flush();
    assert!(log.flush(PATIENCE));
    assert_eq!((read(&old), read(&path)), ("".into(), "new\nline\n".into()));
}

#[test]
fn a_file_that_cant_be_opened_again_stays_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let path = logs.join("access.log");
    let log = AccessLog::default();
    let sink = log.sink(LogOutput::file(&path).unwrap()).unwrap();
    let moved = dir.path().join("moved");
    fs::rename(&logs, &moved).unwrap();
    sink.reopen();
    let mut buffer = LineBuffer::default();
    add(&mut buffer, &sink, "line");
    buffer.flush();
    assert!(log.flush(PATIENCE));
    assert_eq!(read(&moved.join("access.log")), "line\n");
    assert_eq!(log.dropped(), 0);
}

#[test]
fn a_stalled_reader_costs_lines_and_no_time() {
    const LINES: u64 = 200_000;
    let log = AccessLog::default();
    let (sink, mut reader) = piped(&log);
    let mut buffer = LineBuffer::default();
    let start = Instant::now();
    (0..LINES).for_each(|number| add(&mut buffer, &sink, format_args!("{number:0>99}")));
    buffer.flush();
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    let lost = log.dropped();
    assert!(lost > LINES / 2, "{lost}");
    assert!(!log.flush(Duration::from_millis(20)), "nobody reads");
    let text = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    assert!(log.flush(PATIENCE));
    drop((buffer, sink, log));
    let text = text.join().unwrap();
    assert_eq!(text.lines().count() as u64 + lost, LINES);
    assert!(text.lines().all(|line| line.len() == 99));
}

#[test]
fn a_stalled_sink_that_is_retired_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let log = AccessLog::default();
    let (stalled, _reader) = piped(&log);
    let mut buffer = LineBuffer::default();
    (0..2000).for_each(|_| add(&mut buffer, &stalled, "x".repeat(99)));
    let file = log.sink(LogOutput::file(&path).unwrap()).unwrap();
    add(&mut buffer, &file, "line");
    buffer.flush();
    assert!(!log.flush(Duration::from_millis(20)), "nobody reads");
    assert_eq!(log.dropped(), 0);
    stalled.retire();
    assert!(log.flush(PATIENCE));
    assert_eq!(read(&path), "line\n");
    // A pipe holds 16 pages, the rest is lost.
    let lost = log.dropped();
    assert!((1000..1500).contains(&lost), "{lost}");
}

#[test]
fn lines_for_a_reader_that_has_gone_are_counted() {
    let log = AccessLog::default();
    let (sink, reader) = piped(&log);
    drop(reader);
    let mut buffer = LineBuffer::default();
    (0..3).for_each(|number| add(&mut buffer, &sink, number));
    buffer.flush();
    assert!(log.flush(PATIENCE));
    assert_eq!(log.dropped(), 3);
}

#[test]
fn a_named_pipe_without_a_reader_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(LogOutput::file(&path).is_err());
    assert!(LogOutput::file(dir.path()).is_err(), "a directory");
}
