//! The watcher with real files, because the tests are about the kernel's events.

use super::*;
use std::io::Write;
use std::os::unix::fs::symlink;

/// Far longer than a change may take, far shorter than a hang.
const SOON: Duration = Duration::from_secs(5);

/// A watcher without its poll, which would find every change half a second later.
fn by_events(file: &Path) -> FileWatcher {
    let mut watch = FileWatcher::new(file);
    let never = Duration::from_secs(3600);
    watch.poll = tokio::time::interval_at(Instant::now() + never, never);
    watch
}

async fn next(watch: &mut FileWatcher) -> Changed {
    tokio::time::timeout(SOON, watch.changed())
        .await
        .expect("a change is reported")
}

/// Asserts that nothing is reported for `during`.
async fn nothing(watch: &mut FileWatcher, during: Duration) {
    let seen = tokio::time::timeout(during, watch.changed()).await;
    assert!(seen.is_err(), "reported {seen:?} though nothing changed");
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cutover.toml");
    std::fs::write(&file, "one").unwrap();
    (dir, file)
}

#[tokio::test]
async fn an_in_place_write_is_noticed_once() {
    let (_dir, file) = directory();
    let mut watch = by_events(&file);
    std::fs::write(&file, "two").unwrap();
    assert_eq!(next(&mut watch).await, Changed::Config);
    nothing(&mut watch, Duration::from_millis(700)).await;
}

#[tokio::test]
async fn a_save_by_rename_is_noticed_every_time() {
    let (dir, file) = directory();
    let mut watch = by_events(&file);
    for i in 0..3 {
        let temporary = dir.path().join(".cutover.toml.tmp");
        std::fs::write(&temporary, format!("{i}")).unwrap();
        std::fs::rename(&temporary, &file).unwrap();
        assert_eq!(next(&mut watch).await, Changed::Config);
    }
}

#[tokio::test]
async fn a_swapped_config_map_is_noticed_every_time() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let put = |n: usize| {
        std::fs::create_dir(root.join(format!("..{n}"))).unwrap();
        std::fs::write(root.join(format!("..{n}/cutover.toml")), format!("{n}")).unwrap();
        symlink(format!("..{n}"), root.join("..tmp")).unwrap();
        std::fs::rename(root.join("..tmp"), root.join("..data")).unwrap();
        if n > 0 {
            std::fs::remove_dir_all(root.join(format!("..{}", n - 1))).unwrap();
        }
    };
    put(0);
    symlink("..data/cutover.toml", root.join("cutover.toml")).unwrap();
    let mut watch = by_events(&root.join("cutover.toml"));
    for n in 1..4 {
        put(n);
        assert_eq!(next(&mut watch).await, Changed::Config);
    }
}

#[tokio::test]
async fn a_change_of_another_file_is_not_reported() {
    let (dir, file) = directory();
    let mut watch = by_events(&file);
    std::fs::write(dir.path().join("other.toml"), "x").unwrap();
    std::fs::read(&file).unwrap();
    nothing(&mut watch, Duration::from_millis(200)).await;
}

#[tokio::test]
async fn a_file_that_vanishes_and_returns_is_noticed_both_times() {
    let (_dir, file) = directory();
    let mut watch = by_events(&file);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(next(&mut watch).await, Changed::Config);
    std::fs::write(&file, "two").unwrap();
    assert_eq!(next(&mut watch).await, Changed::Config);
}

#[tokio::test]
async fn a_directory_that_is_replaced_is_watched_again() {
    let dir = tempfile::tempdir().unwrap();
    let sub = dir.path().join("sub");
    std::fs::create_dir(&sub).unwrap();
    let file = sub.join("cutover.toml");
    std::fs::write(&file, "one").unwrap();
    let mut watch = by_events(&file);
    std::fs::remove_dir_all(&sub).unwrap();
    assert_eq!(next(&mut watch).await, Changed::Config);
    std::fs::create_dir(&sub).unwrap();
    std::fs::write(&file, "two").unwrap();
    assert_eq!(next(&mut watch).await, Changed::Config);
}

#[tokio::test]
async fn a_writer_is_waited_for_until_it_closes_the_file() {
    let (_dir, file) = directory();
    let mut watch = by_events(&file);
    let mut writer = std::fs::File::create(&file).unwrap();
    writer.write_all(b"half").unwrap();
    nothing(&mut watch, Duration::from_millis(150)).await;
    writer.write_all(b" and half").unwrap();
    drop(writer);
    assert_eq!(next(&mut watch).await, Changed::Config);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "half and half");
}

#[tokio::test]
async fn without_events_the_poll_finds_it() {
    let (_dir, file) = directory();
    let mut watch = FileWatcher::new(&file);
    watch.watcher = None;
    std::fs::write(&file, "something longer").unwrap();
    assert_eq!(next(&mut watch).await, Changed::Config);
}

#[tokio::test]
async fn certificates_are_distinguished_from_the_configuration() {
    let (_dir, file) = directory();
    let other = tempfile::tempdir().unwrap();
    let pem = other.path().join("shop.pem");
    std::fs::write(&pem, "old").unwrap();
    let mut watch = by_events(&file);
    watch.set_certificates([pem.clone()]);
    std::fs::write(&pem, "new").unwrap();
    assert_eq!(next(&mut watch).await, Changed::Certificates);
    watch.set_certificates([]);
    std::fs::write(&pem, "newer").unwrap();
    nothing(&mut watch, Duration::from_millis(300)).await;
}

#[tokio::test]
async fn half_a_file_is_read_again() {
    let (_dir, file) = directory();
    let calls = std::cell::Cell::new(0);
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap();
        calls.set(calls.get() + 1);
        match calls.get() {
            // A writer starts during the first read and isn't done before the second.
            1 => std::fs::write(path, "ha").unwrap(),
            2 => std::fs::write(path, "half and half").unwrap(),
            _ => (),
        }
        text
    };
    assert_eq!(when_whole(&file, read).await, "half and half");
}

#[test]
fn a_file_is_young_for_ten_milliseconds_and_not_if_its_time_is_in_the_future() {
    let (_dir, file) = directory();
    let status = status(&file).unwrap();
    let written = std::fs::metadata(&file).unwrap();
    let written =
        SystemTime::UNIX_EPOCH + Duration::new(written.ctime() as u64, written.ctime_nsec() as u32);
    let young = [0, 9, 10, 500].map(|ms| status.is_young(written + Duration::from_millis(ms)));
    assert_eq!(young, [true, true, false, false]);
    assert!(!status.is_young(written - Duration::from_millis(1)));
}
