use std::sync::mpsc::channel;

use super::*;

const ONE: &str = "listen = \":80\"\n[service.shop]\nstable = \"v1\"\nsplit = { v2 = \"5%\" }\n\
                   versions = { v1 = [\"a:1\"], v2 = [\"a:2\"] }\n";

fn snapshot(generation: u64, text: &str) -> Snapshot {
    let spec = config::parse(text, "").unwrap();
    Snapshot::build(
        generation,
        Arc::new(spec),
        &Registry::new(),
        &Telemetry::new(1),
    )
}

fn two() -> String {
    ONE.replace("5%", "25%")
}

fn hash(text: &str) -> String {
    config::load::hash(text.as_bytes())
}

/// A recorder that has read the history in this directory and started with this text, as a process does.
fn started(dir: &Path, text: &str) -> (HistoryRecorder, u64) {
    let mut recorder = HistoryRecorder::new(&dir.join("state"), &dir.join("cutover.toml"));
    recorder.load();
    let generation = recorder.first_generation(&hash(text));
    recorder.start(&snapshot(generation, text), &hash(text), text.into());
    (recorder, generation)
}

fn flush(recorder: &HistoryRecorder) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(recorder.flush(Duration::from_secs(10)));
}

fn words(recorder: &HistoryRecorder) -> Vec<(u64, Vec<String>)> {
    let entries = recorder.history().report(None).entries.into_iter();
    let texts = |entry: HistoryEntry| {
        let lines = entry.changes.into_iter().map(|line| line.text);
        (entry.generation, lines.collect())
    };
    entries.map(texts).collect()
}

#[test]
fn generations_continue_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, first) = started(dir.path(), ONE);
    assert_eq!(first, 1);
    let two = two();
    recorder.record(
        2,
        lines(&snapshot(1, ONE), &snapshot(2, &two)),
        (&hash(&two), Some((&*two).into())),
        None,
    );
    flush(&recorder);
    let (again, same) = started(dir.path(), &two);
    assert_eq!(same, 2, "the same text has the same number");
    let shifted = vec![
        "shop: v1 95% -> 75%".to_owned(),
        "shop: v2 5% -> 25%".to_owned(),
    ];
    assert_eq!(words(&again), [(2, shifted), (1, Vec::new())]);
    flush(&again);
    let (edited, next) = started(dir.path(), ONE);
    assert_eq!(next, 3, "the file was edited while no proxy ran");
    let back = vec![
        "shop: v1 75% -> 95%".to_owned(),
        "shop: v2 25% -> 5%".to_owned(),
    ];
    assert_eq!(words(&edited)[0], (3, back));
    let text = edited.history().text(&hash(&two));
    assert_eq!(text.as_deref(), Some(&*two), "texts survive");
}

#[test]
fn a_directory_that_cannot_be_written_leaves_a_history_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    // A file where the directory should be fails for root too.
    std::fs::write(dir.path().join("state"), "").unwrap();
    let (recorder, _) = started(dir.path(), ONE);
    flush(&recorder);
    let report = recorder.history().report(None);
    assert_eq!((report.stored, report.entries.len()), (false, 1));
    assert_eq!(recorder.history().text(&hash(ONE)).as_deref(), Some(ONE));
}

#[test]
fn comments_and_hidden_keys_are_told_apart() {
    let before = snapshot(1, ONE);
    assert!(lines(&before, &snapshot(2, &format!("# new\n{ONE}"))).is_empty());
    let many: String = (0..150)
        .map(|n| {
            format!(
                "[service.s{n}]\nhosts = [\"s{n}\"]\nstable = \"a\"\nversions = {{ a = [\"a:1\"] }}\n"
            )
        })
        .collect();
    let all = lines(&before, &snapshot(2, &format!("{ONE}{many}")));
    assert_eq!(all.len(), MAX_LINES + 1);
    assert!(
        all[MAX_LINES].text.starts_with("and "),
        "{:?}",
        all[MAX_LINES]
    );
}

#[test]
fn a_slow_disk_never_blocks_the_recorder() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = HistoryRecorder::new(dir.path(), &dir.path().join("cutover.toml"));
    let (writer, jobs) = sync_channel(QUEUE);
    recorder.writer = Some(writer);
    recorder.started = true;
    let (done, finished) = channel();
    let worker = std::thread::spawn(move || {
        let (before, after) = (snapshot(1, ONE), snapshot(2, &two()));
        for _ in 0..2 * QUEUE {
            recorder.record(2, lines(&before, &after), ("x", None), None);
        }
        done.send(recorder.history().report(None).entries.len())
    });
    // Nobody takes the jobs, as if the disk hung.
    let kept = finished.recv_timeout(Duration::from_secs(20));
    assert_eq!(kept, Ok(2 * QUEUE));
    worker.join().unwrap().unwrap();
    drop(jobs);
}
