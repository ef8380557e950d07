use super::super::fixtures::{document, four, model, noon, service};
use super::*;
use crate::cli::logs::filter::LogFilter;
use std::time::Duration;

/// Presses keys: characters, or `\n` for Enter, `\x1b` for Escape, `\t` for Tab. Returns what the last one asks for.
fn press(model: &mut WatchModel, keys: &str) -> Option<WatchEffect> {
    let mut effect = None;
    for c in keys.chars() {
        let key = match c {
            '\n' => TerminalKey::Enter,
            '\x1b' => TerminalKey::Escape,
            '\t' => TerminalKey::Tab,
            '\x08' => TerminalKey::Backspace,
            c => TerminalKey::Char(c),
        };
        effect = update(model, WatchEvent::Key(key), noon());
    }
    effect
}

fn listed(model: &WatchModel) -> Vec<&str> {
    let names = { model.listed() }
        .into_iter()
        .map(|at| model.status.services[at].name.as_str());
    names.collect()
}

#[test]
fn the_most_urgent_services_come_first() {
    let model = model(&four());
    assert_eq!(listed(&model), ["failing", "limping", "calm", "shop"]);
    assert_eq!(model.selected, "failing");
    assert_eq!(model.troubled(), 2);
}

#[test]
fn the_selection_stays_with_its_service() {
    let mut model = model(&four());
    press(&mut model, "jj");
    assert_eq!(model.selected, "calm");
    let [calm, ..] = four();
    let mut worse = calm.clone();
    worse["awaiting"] = serde_json::json!(["v2"]);
    let next = document(&[worse, service("limping", "up", 0.0)]);
    update(&mut model, WatchEvent::Status(Box::new(next)), noon());
    assert_eq!(listed(&model), ["calm", "limping"]);
    assert_eq!(model.selected, "calm");
    // The selected service has gone.
    let next = document(&[service("limping", "up", 0.0)]);
    update(&mut model, WatchEvent::Status(Box::new(next)), noon());
    assert_eq!(model.selected, "limping");
}

#[test]
fn a_search_narrows_the_list_and_keys_are_its_text() {
    let mut model = model(&four());
    assert_eq!(press(&mut model, "/q"), None, "q is a letter here");
    press(&mut model, "\x08LIM");
    assert_eq!(listed(&model), ["limping"]);
    press(&mut model, "\n\n");
    assert_eq!(model.view, WatchView::Service("limping".to_owned()));
    press(&mut model, "\x1b\x1b");
    assert_eq!(
        (model.view.clone(), listed(&model).len()),
        (WatchView::Services, 4)
    );
    press(&mut model, "/nothing\n\n");
    assert_eq!(
        model.view,
        WatchView::Services,
        "nothing is found, so nothing opens"
    );
}

#[test]
fn a_shift_asks_for_the_share_and_then_whether_it_is_meant() {
    let mut model = model(&four());
    press(&mut model, "/shop\n\ns");
    press(&mut model, "2x\n");
    let Some(WatchOverlay::Share { error: Some(_), .. }) = &model.overlay else {
        panic!("{:?}", model.overlay);
    };
    let Some(WatchEffect::PlanShift(shift)) = press(&mut model, "\x085\n") else {
        panic!("{:?}", model.overlay);
    };
    let plan = vec!["shop: v2 5% -> 25%".to_owned()];
    update(&mut model, WatchEvent::ShiftPlanned(shift, plan), noon());
    assert_eq!(press(&mut model, "x\n"), None, "neither yes nor no");
    let Some(WatchEffect::Send(action)) = press(&mut model, "y") else {
        panic!("{:?}", model.overlay);
    };
    assert_eq!(action.to_string(), "shop: v2 25%");
    assert_eq!(model.overlay, None);
}

#[test]
fn nothing_is_sent_without_a_yes() {
    for (keys, question) in [
        ("p", "pause the rollout of v2 in shop?"),
        ("A", "abort the rollout of v2 in shop?"),
        ("jjd", "drain 10.0.0.1:80 of shop/v1?"),
        ("GD", "put 10.0.0.3:80 of shop/v2 back in use?"),
    ] {
        let mut model = model(&four());
        assert_eq!(press(&mut model, &format!("/shop\n\n{keys}")), None);
        let Some(WatchOverlay::Confirm { action, .. }) = &model.overlay else {
            panic!("{keys}: {:?}", model.overlay);
        };
        assert_eq!(action.question().0, question);
        assert_eq!(press(&mut model, "n"), None);
        assert_eq!(
            (model.overlay.clone(), press(&mut model, "y")),
            (None, None)
        );
    }
}

#[test]
fn a_command_without_a_rollout_is_explained() {
    let mut model = model(&four());
    press(&mut model, "/calm\n\np");
    let remark = model.remark.expect("a remark");
    assert_eq!(
        (remark.text.as_str(), remark.is_error),
        ("calm has no rollout", true)
    );
}

#[test]
fn the_log_is_followed_only_while_it_is_shown() {
    let mut model = model(&four());
    let follow = |service: Option<&str>, failed| {
        Some(WatchEffect::Follow(Some(LogFilter {
            service: service.map(str::to_owned),
            failed,
            canary: false,
        })))
    };
    assert_eq!(
        press(&mut model, "/shop\n\n\t"),
        follow(Some("shop"), false)
    );
    assert_eq!(press(&mut model, "f"), follow(Some("shop"), true));
    assert_eq!(press(&mut model, "s"), follow(None, true));
    assert_eq!(press(&mut model, "\t"), Some(WatchEffect::Follow(None)));
    assert_eq!(model.view, WatchView::Service("shop".to_owned()));
}

#[test]
fn a_lost_connection_is_dated_from_its_start_and_survived() {
    let mut model = model(&four());
    let later = |seconds| noon() + Duration::from_secs(seconds);
    update(&mut model, WatchEvent::Lost("refused".to_owned()), later(1));
    update(&mut model, WatchEvent::Lost("no file".to_owned()), later(5));
    assert_eq!(model.lost, Some((later(1), "no file".to_owned())));
    let mut next = document(&four());
    next.pid += 1;
    update(&mut model, WatchEvent::Status(Box::new(next)), later(9));
    assert_eq!(model.lost, None);
    let remark = model.remark.clone().expect("a remark");
    assert_eq!(remark.text, "process 4712 has followed 4711");
    update(&mut model, WatchEvent::Tick, later(60));
    assert_eq!(model.remark, None);
}

#[test]
fn an_undo_is_planned_before_it_is_asked_for() {
    let mut model = model(&four());
    assert_eq!(press(&mut model, "u"), Some(WatchEffect::PlanUndo));
    let plan = serde_json::json!({
        "generation": 11, "at": "2026-01-31T11:00:00Z", "text": "", "running": "ab",
        "changes": [{"service": "shop", "text": "shop: v2 5% -> 0%"}]
    });
    let plan = serde_json::from_value(plan).expect("a plan");
    update(&mut model, WatchEvent::UndoPlanned(plan), noon());
    let Some(WatchEffect::Send(WatchAction::Undo(plan))) = press(&mut model, "y") else {
        panic!("{:?}", model.overlay);
    };
    assert_eq!(plan.generation, 11);
}

#[test]
fn control_keys_work_everywhere() {
    for keys in ["", "/", "?", "/shop\n\ns", "/shop\n\nA", "\t"] {
        let mut model = model(&four());
        press(&mut model, keys);
        let quit = update(&mut model, WatchEvent::Key(TerminalKey::Ctrl('c')), noon());
        assert_eq!(quit, Some(WatchEffect::Quit), "{keys:?}");
    }
}
