//! Applies events to the state.

use std::ops::ControlFlow;
use std::time::SystemTime;

use super::action::WatchAction;
use super::key::TerminalKey;
use super::model::{WatchEffect, WatchEvent, WatchModel, WatchOverlay, WatchView, targets};
use super::operator_keys::action_key;
use crate::config::file_edit::SplitChange;

/// Rows that Page Up and Page Down move.
const PAGE: isize = 15;

/// Longest search and share that can be typed, in characters.
const LONGEST_INPUT: usize = 60;

/// Applies an event and returns the tasks that follow.
pub(super) fn update(
    model: &mut WatchModel,
    event: WatchEvent,
    now: SystemTime,
) -> Option<WatchEffect> {
    match event {
        WatchEvent::Key(key) => return on_key(model, key, now),
        WatchEvent::Status(status) => model.update_status(*status, now),
        WatchEvent::Past(service, past) => model.add_past(&service, &past, now),
        WatchEvent::Lost(why) => match &mut model.lost {
            Some((_, last)) => *last = why,
            None => model.lost = Some((now, why)),
        },
        WatchEvent::Line(row) => model.log.add(row),
        WatchEvent::LinesDropped(lines) => model.log.dropped += lines,
        WatchEvent::LogBroken(why) => model.log.broken = Some(why),
        WatchEvent::Done(what) => model.say(what, false, now),
        WatchEvent::Refused(why) => model.say(why, true, now),
        WatchEvent::ShiftPlanned(action, plan) => ask(model, action, plan),
        WatchEvent::UndoPlanned(plan) => ask(model, WatchAction::Undo(plan), Vec::new()),
        WatchEvent::Tick => model.tick(now),
    }
    None
}

/// Asks whether an action is meant. An answer that comes late doesn't cover the current input of the operator.
fn ask(model: &mut WatchModel, action: WatchAction, plan: Vec<String>) {
    if model.overlay.is_none() {
        model.remark = None;
        model.overlay = Some(WatchOverlay::Confirm { action, plan });
    }
}

fn on_key(model: &mut WatchModel, key: TerminalKey, now: SystemTime) -> Option<WatchEffect> {
    match key {
        TerminalKey::Ctrl('c') => return Some(WatchEffect::Quit),
        TerminalKey::Ctrl('z') => return Some(WatchEffect::Suspend),
        TerminalKey::Ctrl('l') => return Some(WatchEffect::Redraw),
        _ => {}
    }
    if let Some(overlay) = model.overlay.take() {
        return on_overlay_key(model, overlay, key, now);
    }
    if model.is_searching {
        search_key(model, key);
        return None;
    }
    match key {
        TerminalKey::Char('q') => return Some(WatchEffect::Quit),
        TerminalKey::Char('?') => model.overlay = Some(WatchOverlay::Help),
        TerminalKey::Char('e') if model.status.config.error.is_some() => {
            model.overlay = Some(WatchOverlay::ConfigError);
        }
        TerminalKey::Char('u') => return Some(WatchEffect::PlanUndo),
        TerminalKey::Tab | TerminalKey::BackTab => return toggle_log(model),
        _ => match model.view.clone() {
            WatchView::Services => list_key(model, key),
            WatchView::Service(name) => service_key(model, &name, key, now),
            WatchView::Log => return log_key(model, key),
        },
    }
    None
}

fn on_overlay_key(
    model: &mut WatchModel,
    overlay: WatchOverlay,
    key: TerminalKey,
    now: SystemTime,
) -> Option<WatchEffect> {
    match (overlay, key) {
        (WatchOverlay::Confirm { action, .. }, TerminalKey::Char('y' | 'Y')) => {
            return Some(WatchEffect::Send(action));
        }
        (
            WatchOverlay::Confirm { .. },
            TerminalKey::Char('n' | 'N' | 'q') | TerminalKey::Escape,
        ) => {}
        // A key that was meant for another view neither confirms nor declines.
        (confirm @ WatchOverlay::Confirm { .. }, _) => model.overlay = Some(confirm),
        (WatchOverlay::Share { .. }, TerminalKey::Escape) => {}
        (share @ WatchOverlay::Share { .. }, key) => match share_key(share, key) {
            ControlFlow::Break(shift) => {
                model.say("asking what would change".to_owned(), false, now);
                return Some(WatchEffect::PlanShift(shift));
            }
            ControlFlow::Continue(overlay) => model.overlay = Some(overlay),
        },
        // Any key closes a box that is only read.
        (WatchOverlay::Help | WatchOverlay::ConfigError, _) => {}
    }
    None
}

/// Edits a share; returns the shift once it is complete, else the next box.
fn share_key(overlay: WatchOverlay, key: TerminalKey) -> ControlFlow<WatchAction, WatchOverlay> {
    let WatchOverlay::Share {
        service,
        version,
        from,
        mut text,
        ..
    } = overlay
    else {
        return ControlFlow::Continue(overlay);
    };
    let error = match key {
        TerminalKey::Enter => {
            // A bare number can only be meant as a percentage here.
            let is_number = text.parse::<f64>().is_ok();
            let to = if is_number {
                format!("{text}%")
            } else {
                text.clone()
            };
            match to.parse::<SplitChange>() {
                Ok(_) => {
                    return ControlFlow::Break(WatchAction::Shift {
                        service,
                        version,
                        to,
                        from,
                    });
                }
                Err(why) => Some(why),
            }
        }
        key => {
            edit(&mut text, key);
            None
        }
    };
    ControlFlow::Continue(WatchOverlay::Share {
        service,
        version,
        from,
        text,
        error,
    })
}

/// Edits a line of input.
fn edit(text: &mut String, key: TerminalKey) {
    match key {
        TerminalKey::Char(c) if text.chars().count() < LONGEST_INPUT => text.push(c),
        TerminalKey::Backspace => drop(text.pop()),
        TerminalKey::Ctrl('u') => text.clear(),
        _ => {}
    }
}

fn search_key(model: &mut WatchModel, key: TerminalKey) {
    match key {
        TerminalKey::Enter => model.is_searching = false,
        TerminalKey::Escape => {
            model.is_searching = false;
            model.search.clear();
        }
        TerminalKey::Up => select(model, -1),
        TerminalKey::Down => select(model, 1),
        key => edit(&mut model.search, key),
    }
    select(model, 0);
}

/// Moves the selection in the list. If the search has hidden it, the first service is selected.
fn select(model: &mut WatchModel, by: isize) {
    let listed = model.listed();
    let is_selected = |at: &usize| model.status.services[*at].name == model.selected;
    let next = match listed.iter().position(is_selected) {
        Some(row) => row
            .saturating_add_signed(by)
            .min(listed.len().saturating_sub(1)),
        None => 0,
    };
    if let Some(at) = listed.get(next) {
        model.selected = model.status.services[*at].name.clone();
    }
}

/// Number of lines that a key moves a selection; `isize::MAX` to the end.
fn distance(key: TerminalKey) -> Option<isize> {
    Some(match key {
        TerminalKey::Up | TerminalKey::Char('k') => -1,
        TerminalKey::Down | TerminalKey::Char('j') => 1,
        TerminalKey::PageUp | TerminalKey::Ctrl('b') => -PAGE,
        TerminalKey::PageDown | TerminalKey::Ctrl('f') | TerminalKey::Char(' ') => PAGE,
        TerminalKey::Home | TerminalKey::Char('g') => -isize::MAX,
        TerminalKey::End | TerminalKey::Char('G') => isize::MAX,
        _ => return None,
    })
}

fn list_key(model: &mut WatchModel, key: TerminalKey) {
    if let Some(by) = distance(key) {
        return select(model, by);
    }
    match key {
        TerminalKey::Char('/') => model.is_searching = true,
        TerminalKey::Escape => model.search.clear(),
        TerminalKey::Enter | TerminalKey::Right | TerminalKey::Char('l') => {
            let is_listed = |at: &usize| model.status.services[*at].name == model.selected;
            if model.listed().iter().any(is_listed) {
                model.view = WatchView::Service(model.selected.clone());
                model.target = 0;
            }
        }
        _ => {}
    }
}

fn service_key(model: &mut WatchModel, name: &str, key: TerminalKey, now: SystemTime) {
    if let Some(by) = distance(key) {
        let count = model.viewed().map_or(0, |service| targets(service).len());
        let last = count.saturating_sub(1);
        model.target = model.target.saturating_add_signed(by).min(last);
        return;
    }
    match key {
        TerminalKey::Escape | TerminalKey::Left | TerminalKey::Char('h') => {
            model.view = WatchView::Services;
            model.selected = name.to_owned();
            select(model, 0);
        }
        TerminalKey::Char(letter) => action_key(model, letter, now),
        _ => {}
    }
}

/// Opens the log, with the requests of the service that is shown, or goes back.
fn toggle_log(model: &mut WatchModel) -> Option<WatchEffect> {
    if model.view == WatchView::Log {
        return close_log(model);
    }
    let mut filter = model.log.filter.clone();
    filter.service = match &model.view {
        WatchView::Service(name) => Some(name.clone()),
        WatchView::Services | WatchView::Log => None,
    };
    if filter != model.log.filter {
        model.log.select(filter.clone());
    }
    model.before_log = std::mem::replace(&mut model.view, WatchView::Log);
    Some(WatchEffect::Follow(Some(filter)))
}

fn close_log(model: &mut WatchModel) -> Option<WatchEffect> {
    model.view = model.before_log.clone();
    Some(WatchEffect::Follow(None))
}

fn log_key(model: &mut WatchModel, key: TerminalKey) -> Option<WatchEffect> {
    if let Some(by) = distance(key) {
        model.log.scroll(by);
        return None;
    }
    let mut filter = model.log.filter.clone();
    match key {
        TerminalKey::Escape | TerminalKey::Left | TerminalKey::Char('h') => {
            return close_log(model);
        }
        TerminalKey::Char('f') => filter.failed = !filter.failed,
        TerminalKey::Char('c') => filter.canary = !filter.canary,
        TerminalKey::Char('s') => {
            filter.service = match filter.service {
                Some(_) => None,
                None => Some(model.selected.clone()).filter(|name| !name.is_empty()),
            };
        }
        _ => return None,
    }
    model.log.select(filter.clone());
    Some(WatchEffect::Follow(Some(filter)))
}

#[cfg(test)]
#[path = "update_tests.rs"]
mod tests;
