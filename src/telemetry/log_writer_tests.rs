use super::*;
use std::io::{BufRead, BufReader, PipeReader, Read, pipe};

const PATIENCE: Duration = Duration::from_secs(10);

/// A log into a pipe, with a counter of its own.
fn log() -> (LogWriter, PipeReader, &'static AtomicU64) {
    let (reader, out) = pipe().unwrap();
    let dropped: &'static AtomicU64 = Box::leak(Box::default());
    let report = |n| format!("{n} dropped\n");
    let log = LogWriter::start(dropped, out, report).unwrap();
    (log, reader, dropped)
}

/// A line of 100 bytes.
fn line(number: usize) -> String {
    format!("{number:<99}\n")
}

#[test]
fn lines_arrive_whole_and_in_order() {
    let (log, reader, dropped) = log();
    let mut lines = BufReader::new(reader).lines();
    for number in 0..20_000 {
        log.push(line(number));
        let got = lines.next().unwrap().unwrap();
        assert_eq!(got.trim_end().parse::<usize>().unwrap(), number);
    }
    assert!(log.flush(PATIENCE));
    assert_eq!(dropped.load(Relaxed), 0);
}

#[test]
fn a_reader_that_stalls_costs_lines_and_no_time() {
    const LINES: u64 = 50_000;
    let (log, mut reader, dropped) = log();
    let start = Instant::now();
    (0..LINES as usize).for_each(|number| log.push(line(number)));
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    let lost = dropped.load(Relaxed);
    // A pipe, a batch and the queue hold the rest.
    let kept = 64 * 1024 / 100 + BATCH_BYTES as u64 / 100 + QUEUED_LINES as u64;
    assert!(lost >= LINES - kept - 10, "{lost}");
    assert!(!log.flush(Duration::from_millis(20)), "nobody reads");
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    assert!(log.flush(PATIENCE));
    drop(log);
    let text = read.join().unwrap();
    let (lines, report) = text.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(report, format!("{lost} dropped"));
    let numbers = lines
        .lines()
        .map(|l| l.trim_end().parse::<usize>().unwrap());
    assert!(numbers.is_sorted());
    assert_eq!(lines.lines().count() as u64 + lost, LINES);
}

#[test]
fn the_queue_is_bounded_in_bytes_too() {
    let (log, reader, dropped) = log();
    let long = "x".repeat(QUEUED_BYTES / 4);
    // One is in the writer's hands, four are in the queue.
    (0..9).for_each(|_| log.push(long.clone()));
    assert!((3..=5).contains(&dropped.load(Relaxed)), "{dropped:?}");
    drop(reader);
    assert!(log.flush(PATIENCE));
}

#[test]
fn lines_for_a_reader_that_has_gone_count_as_dropped() {
    let (log, reader, dropped) = log();
    drop(reader);
    (0..3).for_each(|number| log.push(line(number)));
    assert!(
        log.flush(PATIENCE),
        "nothing waits for a reader that has gone"
    );
    assert_eq!(dropped.load(Relaxed), 3);
}

#[test]
fn a_non_blocking_descriptor_is_waited_for() {
    let (mut reader, out) = pipe().unwrap();
    rustix::io::ioctl_fionbio(&out, true).unwrap();
    let dropped: &'static AtomicU64 = Box::leak(Box::default());
    let log = LogWriter::start(dropped, out, |n| format!("{n} dropped\n")).unwrap();
    let size = 200_000;
    log.push("x".repeat(size));
    let mut text = vec![0; size];
    reader.read_exact(&mut text).unwrap();
    assert!(log.flush(PATIENCE));
    assert_eq!(dropped.load(Relaxed), 0);
}
