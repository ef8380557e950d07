use super::super::fixtures::{document, four, model, noon, service};
use super::super::key::TerminalKey;
use super::super::log_model::LogRow;
use super::super::model::{WatchEvent, WatchModel, WatchOverlay};
use super::super::update::update;
use super::*;

fn text(model: &WatchModel, size: (usize, usize)) -> String {
    draw(model, size, noon()).rows().join("\n")
}

fn press(model: &mut WatchModel, keys: &str) {
    for c in keys.chars() {
        let key = match c {
            '\n' => TerminalKey::Enter,
            '\t' => TerminalKey::Tab,
            c => TerminalKey::Char(c),
        };
        update(model, WatchEvent::Key(key), noon());
    }
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

#[test]
fn the_list_fits_in_the_smallest_terminal() {
    let shown = text(&model(&four()), (80, 24));
    has(
        &shown,
        &[
            "cutover 0.1.0 ready  pid 4711  up 2m 5s  gen 12  2 of 4 need a look",
            "! failing        v1 95% v2 5%",
            "? limping",
            "> shop",
            "v2 step 2/5 at 5%",
            "q quit",
        ],
    );
    assert!(shown.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn a_service_shows_its_rollout_and_why_an_endpoint_is_out() {
    let [_, mut limping, ..] = four();
    limping["rollout"] = super::super::fixtures::rollout("step");
    let mut model = model(&[limping]);
    press(&mut model, "\n");
    has(
        &text(&model, (120, 50)),
        &[
            "limping  stable v1",
            "95%",
            "ROLLOUT v2 (1.1.0)  step for 3m",
            "● ◐ ○ ○ ○  step 2 of 5, at 5%",
            "3m of 10m",
            "10^1.2 against it; fails at 10^2.0",
            "10^1.1 errors x1.5",
            "errors x3.80 of stable's, between 1.20 and unknown",
            "in about 95 s at this rate (within 240 s in 9 of 10 cases)",
            "! v1         10.0.0.2:80",
            "down for 2m 5s (answered 503)",
        ],
    );
}

/// The selected row is on the screen wherever it is, and so is the last line at the end.
#[test]
fn the_selected_row_is_always_seen() {
    let mut many = service("shop", "up", 0.0);
    many["rollout"] = super::super::fixtures::rollout("step");
    let endpoints =
        (0..60).map(|n| super::super::fixtures::endpoint(&format!("10.0.1.{n}:80"), "up"));
    many["versions"][1]["endpoints"] = endpoints.collect();
    let mut model = model(&[many]);
    press(&mut model, "\n");
    for n in 0..64 {
        let screen = draw(&model, (80, 24), noon());
        assert!(
            screen.has_reversed("10.0.") || n < 2,
            "row {n}:\n{}",
            screen.rows().join("\n")
        );
        press(&mut model, "j");
    }
    has(&text(&model, (80, 24)), &["10.0.1.59:80"]);
}

#[test]
fn every_view_of_every_size_is_drawn() {
    let hostile = "a\x1b[2J\u{202e}漢字\n";
    let mut odd = service("odd", "down", 1.0);
    odd["warnings"] = serde_json::json!([hostile.repeat(20)]);
    odd["versions"][0]["label"] = hostile.into();
    let row = LogRow {
        status: 503,
        text: hostile.repeat(30),
    };
    let sizes = (1..=30).flat_map(|h| [1, 2, 7, 79, 80, 81, 120, 200].map(|w| (w, h)));
    for size in sizes {
        for keys in ["", "/o", "\n", "\nG", "\ns", "\nd", "\t", "?"] {
            let mut status = document(&[odd.clone()]);
            status.config.error = Some(hostile.repeat(50));
            let mut model = WatchModel::new(status, None, noon());
            update(&mut model, WatchEvent::Lost(hostile.to_owned()), noon());
            update(&mut model, WatchEvent::Line(row.clone()), noon());
            press(&mut model, keys);
            let screen = draw(&model, size, noon());
            let rows = screen.rows();
            assert_eq!(rows.len(), size.1);
            let is_clean = |row: &String| !row.contains(['\x1b', '\u{202e}', '\n']);
            assert!(rows.iter().all(is_clean), "{size:?} {keys:?}");
            // The keys of a question are seen even on the smallest screen.
            if size == (80, 24) && keys == "\nd" {
                has(&rows.join("\n"), &["n, Esc no"]);
            }
        }
    }
}

#[test]
fn a_small_terminal_is_told_so() {
    let shown = text(&model(&four()), (79, 24));
    has(
        &shown,
        &["this terminal has 79x24 cells", "80x24 are needed"],
    );
}

#[test]
fn the_proxys_own_errors_are_above_everything() {
    let mut status = document(&four());
    status.config.error = Some("shop.toml:3:1: unknown key `hots`\nmore".to_owned());
    let mut model = WatchModel::new(status, None, noon());
    update(
        &mut model,
        WatchEvent::Lost("connection refused".to_owned()),
        noon(),
    );
    has(
        &text(&model, (80, 24)),
        &[
            "! connection lost since 0s: connection refused",
            "! the current file is rejected (e: why): shop.toml:3:1: unknown key `hots`",
        ],
    );
    press(&mut model, "e");
    assert_eq!(model.overlay, Some(WatchOverlay::ConfigError));
    has(&text(&model, (80, 24)), &["│ more"]);
}

#[test]
fn a_thousand_services_are_a_list_like_any_other() {
    let services: Vec<_> = (0..1000)
        .map(|n| service(&format!("s{n:04}"), "up", 0.0))
        .collect();
    let mut model = model(&services);
    has(&text(&model, (80, 24)), &["s0000", "1000 services"]);
    press(&mut model, "G");
    let end = text(&model, (80, 24));
    has(&end, &["s0999"]);
    assert!(!end.contains("s0900"));
    press(&mut model, "/s05\n");
    has(
        &text(&model, (80, 24)),
        &["s0500", "search `s05` (Esc clears)"],
    );
}

#[test]
fn the_log_shows_the_newest_lines_at_the_bottom() {
    let mut model = model(&four());
    press(&mut model, "\tf");
    for n in 0..100 {
        let text = format!("line {n} 漢字");
        update(
            &mut model,
            WatchEvent::Line(LogRow { status: 200, text }),
            noon(),
        );
    }
    let shown = text(&model, (80, 24));
    has(
        &shown,
        &["LOG failed requests to all services", "line 99 漢字"],
    );
    assert!(!shown.contains("line 70 "), "{shown}");
    press(&mut model, "g");
    has(&text(&model, (80, 24)), &["line 0 ", "newer lines"]);
}

#[test]
fn help_fits_in_the_smallest_terminal() {
    let mut model = model(&four());
    press(&mut model, "?");
    has(
        &text(&model, (80, 24)),
        &["Marks: ! in trouble", "any key closes", "└─"],
    );
}
