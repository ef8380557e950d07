//! `cutover demo`: the first thing that anybody sees.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::LazyLock;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::proxy::{BINARY, Output, command};
use crate::support::{Ended, until};

/// Runs a demo to its end.
fn run(arguments: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    command(&[&["demo"], arguments].concat(), dir.path())
}

/// What a running demo prints up to the line with these words, and the rest of its output.
#[track_caller]
fn said_until(demo: &mut Ended, words: &str) -> (BufReader<ChildStdout>, String) {
    let mut output = BufReader::new(demo.0.stdout.take().expect("a pipe"));
    let mut said = String::new();
    while !said.contains(words) {
        let read = output.read_line(&mut said).expect("text");
        assert!(read > 0, "ended early:\n{said}");
    }
    (output, said)
}

/// What a demo prints that ended well.
#[track_caller]
fn told(demo: &Output) -> &str {
    assert_eq!(demo.code, 0, "{}\n{}", demo.stdout, demo.stderr);
    assert!(
        !demo.stdout.contains('\u{1b}'),
        "no escapes without a terminal"
    );
    &demo.stdout
}

/// What a story prints. The stories are played once for all tests, at the same time.
#[track_caller]
fn story(name: &str) -> &'static str {
    const NAMES: [&str; 3] = ["bad-canary", "good-canary", "blue-green"];
    static ALL: LazyLock<[Output; 3]> = LazyLock::new(|| {
        std::thread::scope(|scope| {
            let all = NAMES.map(|name| scope.spawn(move || run(&["--story", name])));
            all.map(|story| story.join().expect("a story"))
        })
    });
    let at = NAMES.iter().position(|known| *known == name);
    told(&ALL[at.expect("a story")])
}

/// What follows `start` on the line that begins with it.
#[track_caller]
fn line(said: &str, start: &str) -> String {
    let mut lines = said.lines().map(str::trim_start);
    let found = lines.find_map(|line| line.strip_prefix(start));
    found
        .unwrap_or_else(|| panic!("no {start:?} in\n{said}"))
        .trim()
        .to_owned()
}

/// The numbers in a line.
fn numbers(line: &str) -> Vec<f64> {
    let parts = line.split(|c: char| !c.is_ascii_digit() && c != '.');
    parts.filter_map(|part| part.parse().ok()).collect()
}

#[test]
fn the_demo_is_shown_without_a_terminal_and_ends_well() {
    let demo = run(&["--for", "5s"]);
    let said = told(&demo);
    for word in ["blue", "green", "5%", "50%", "100%", ".toml"] {
        assert!(said.contains(word), "no {word} in\n{said}");
    }
}

#[test]
fn a_bad_canary_is_rolled_back_and_no_user_sees_a_failure() {
    let said = story("bad-canary");
    // It shows the file, what the command changes in it, and how the evidence grows.
    let steps = "steps = [\"5% for 15s\", \"50% for 15s\", \"100% for 15s\"]";
    assert!(said.contains(steps), "{said}");
    let file = said.find("8  split  = { v2 = \"0%\" }");
    let edited = said.find("8  split  = { v2 = \"rollout\" }");
    assert!(file.is_some() && file < edited, "{said}");
    let bars = said
        .lines()
        .filter(|l| l.contains('░') || l.contains("██ 10^"));
    let evidence: Vec<f64> = bars
        .filter_map(|l| l.split("10^").nth(1)?.split(' ').next()?.parse().ok())
        .collect();
    assert!(evidence.len() >= 3, "{said}");
    assert!(evidence.last() >= Some(&2.0), "{evidence:?}");
    let before = &evidence[..evidence.len() - 1];
    assert!(before.iter().all(|e| *e < 2.0), "{evidence:?}");
    // The figures are those of its end.
    assert!(line(said, "reason ").starts_with("errors "), "{said}");
    let users = line(said, "users ");
    assert!(users.starts_with("0 of 600 saw a failure"), "{users}");
    let answered = numbers(&line(said, "v2 answered "));
    let [canary, all, failed, later] = answered[..] else {
        panic!("{answered:?}");
    };
    assert!(failed > 3.0 && failed < canary && canary < all / 5.0 && later == 0.0);
    assert!((failed / canary - 0.2).abs() < 0.06, "{answered:?}");
    assert!(line(said, "latched ").contains("cutover retry"), "{said}");
}

#[test]
fn a_good_canary_walks_its_steps_and_becomes_stable() {
    let said = story("good-canary");
    assert_eq!(line(said, "steps "), "10%, 50%, 100%");
    for step in [
        "step 1 of 3: 10%",
        "step 2 of 3: 50%",
        "step 3 of 3: 100%",
        "7  stable = \"v2\"",
    ] {
        assert!(said.contains(step), "no {step} in\n{said}");
    }
    assert!(line(said, "stable ").starts_with("v2, "), "{said}");
    let moved = numbers(&line(said, "users "));
    assert_eq!(moved[..2], [600.0, 600.0], "all users moved once: {said}");
    assert!(said.contains("0 moved back"), "{said}");
    assert!(line(said, "requests ").ends_with(", 0 failed"), "{said}");
}

#[test]
fn green_gets_new_users_once_it_is_ready_and_an_undo_takes_that_back() {
    let said = story("blue-green");
    let mut rest = said;
    for next in [
        "7  stable = \"green\"",
        "the gate holds it back",
        "live on every worker after",
        " undo -c ",
        "7  stable = \"blue\"",
    ] {
        let (_, after) = rest
            .split_once(next)
            .unwrap_or_else(|| panic!("no {next:?} in\n{rest}"));
        rest = after;
    }
    let cut_over = line(said, "cut-over ");
    assert!(
        cut_over.starts_with("on every worker ") && cut_over.contains(" ms "),
        "{cut_over}"
    );
    assert!(line(said, "undo ").contains(" ms "), "{said}");
    let [moved, blue, green] = numbers(&line(said, "sessions "))[..] else {
        panic!("{said}");
    };
    assert!(moved == 0.0 && blue > 20.0 && green > 20.0, "{said}");
    assert!(line(said, "requests ").ends_with(", 0 failed"), "{said}");
}

#[test]
fn a_story_ends_with_its_time_also_before_its_end() {
    let demo = run(&["--story", "good-canary", "--for", "5s"]);
    let said = told(&demo);
    assert!(said.contains("before the end of the story"), "{said}");
    assert!(said.contains(" requests, 0 failed\n"), "{said}");
}

#[test]
fn commands_can_be_tried_on_a_story_that_has_ended_until_it_is_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(BINARY)
        .args(["demo", "--story", "bad-canary", "--for", "10m"])
        .current_dir(dir.path())
        // Would lead the commands of the story to another proxy.
        .env("CUTOVER_ADMIN", "127.0.0.1:1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut demo = Ended(child.expect("the binary runs"));
    let (mut output, mut said) = said_until(&mut demo, " status shop -c ");
    let printed = said.lines().last().expect("a line");
    let printed = printed.strip_prefix("$ ").expect("a command").to_owned();
    let shell = Command::new("sh").args(["-c", &printed]).output();
    let shell = shell.expect("a shell");
    let shown = String::from_utf8_lossy(&shell.stdout);
    assert!(shown.contains("rolled-back"), "{printed}: {shown}");
    let file = Path::new(printed.rsplit(' ').next().expect("a path"));
    assert!(file.exists());
    let pid = Pid::from_child(&demo.0);
    // As when the terminal is closed.
    kill_process(pid, Signal::HUP).expect("it runs");
    output.read_to_string(&mut said).expect("text");
    let status = demo.0.wait().expect("its status");
    assert!(status.success(), "{status}");
    assert!(!file.parent().expect("its directory").exists());
    assert!(said.contains(" requests, 0 failed\n"), "{said}");
}

#[test]
fn two_at_once_have_a_port_each_and_the_command_that_they_print_works_as_it_stands() {
    let both = std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| run(&["--for", "5s"])));
        both.map(|demo| demo.join().expect("a demo"))
    });
    let said = both.each_ref().map(told);
    let url = |said: &str| line(said, "cutover demo: blue and green behind ");
    assert_ne!(url(said[0]), url(said[1]));
    // This program is not the `cutover` of PATH, if there is one.
    let shift = line(said[0], "or ");
    assert!(shift.starts_with(BINARY), "{shift}");
}

#[test]
fn a_time_without_a_unit_or_out_of_range_is_refused_with_what_would_be_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |time: &str| {
        let said = command(&["demo", "--for", time], dir.path());
        assert_eq!(said.code, 1);
        said.stderr
    };
    assert!(refused("20").contains("did you mean `20s`?"));
    let short = refused("2");
    assert!(short.contains("no unit, and 2s is out of range"), "{short}");
    assert!(refused("2h").contains("the demo takes from 5s to 1h"));
}

#[test]
fn a_fleet_needs_etcd_a_story_with_a_rollout_and_more_than_one_member() {
    let dir = tempfile::tempdir().unwrap();
    let demo = |arguments: &[&str]| {
        let output = Command::new(BINARY)
            .args([&["demo", "--fleet"], arguments].concat())
            .env("PATH", dir.path())
            .output()
            .expect("the binary runs");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    let missing = demo(&["3"]);
    for said in [
        "--fleet needs etcd, which is not in PATH",
        "apt-get install etcd-server",
        "https://github.com/etcd-io/etcd/releases",
    ] {
        assert!(missing.contains(said), "{missing}");
    }
    let without_rollout = demo(&["3", "--story", "blue-green"]);
    assert!(
        without_rollout.contains("the story blue-green has no rollout to share"),
        "{without_rollout}"
    );
    assert!(demo(&["1"]).contains("1 is not in 2..=5"));
}

#[test]
fn a_fleet_of_three_takes_a_bad_canary_back_together() {
    if std::env::var_os("CUTOVER_ETCD").is_none() {
        eprintln!("skipped: takes 10 s; tests/peers/etcd.sh runs it");
        return;
    }
    let demo = run(&["--story", "bad-canary", "--fleet", "3"]);
    let said = told(&demo);
    assert_eq!(said.matches(" --label 2.0.0 -c ").count(), 3, "{said}");
    assert!(said.contains("a, b and c share the rollout"), "{said}");
    assert!(
        line(said, "counted by ").starts_with("3 proxies, "),
        "{said}"
    );
    let together = line(said, "together ");
    assert!(together.ends_with(" ms of each other"), "{together}");
    assert!(said.contains("0 of 600 saw a failure"), "{said}");
    assert!(line(said, "latched ").contains("cutover retry"), "{said}");
    assert!(said.contains("demo --story bad-canary --fleet 3 --for 10m"));
}

#[test]
fn nothing_is_left_of_a_fleet_that_is_killed() {
    if std::env::var_os("CUTOVER_ETCD").is_none() {
        eprintln!("skipped: needs etcd; tests/peers/etcd.sh runs it");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(BINARY)
        .args(["demo", "--fleet", "2"])
        .env("TMPDIR", dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut demo = Ended(child.expect("the binary runs"));
    let (_output, said) = said_until(&mut demo, "share the rollout");
    let file = said.lines().find_map(|l| l.strip_prefix("the file, "));
    let file = file.expect("its path").trim_end_matches(':');
    let text = std::fs::read_to_string(file).expect("the file");
    let port = text
        .lines()
        .find_map(|l| l.strip_prefix("etcd   = \"http://"));
    let etcd: std::net::SocketAddr = { port.expect("etcd's URL") }
        .trim_end_matches('"')
        .parse()
        .expect("an address");
    std::net::TcpStream::connect(etcd).expect("etcd listens");
    demo.0.kill().expect("it runs");
    demo.0.wait().expect("its status");
    until("etcd is gone", || std::net::TcpStream::connect(etcd).err());
}
