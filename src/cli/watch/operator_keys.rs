//! The keys of the service view that change something. Each opens a question first.

use std::time::SystemTime;

use super::action::WatchAction;
use super::model::{ServiceTarget, WatchModel, WatchOverlay, targets};
use crate::admin::status::{ServiceStatus, VersionStatus};
use crate::rollout::machine::OperatorCommand;

/// The key of each command on a rollout.
pub(super) const ROLLOUT_KEYS: [(char, OperatorCommand); 6] = [
    ('p', OperatorCommand::Pause),
    ('r', OperatorCommand::Resume),
    ('a', OperatorCommand::Approve),
    ('P', OperatorCommand::Promote),
    ('A', OperatorCommand::Abort),
    ('t', OperatorCommand::Retry),
];

/// Opens the question of a key, or shows why there is nothing to ask.
pub(super) fn action_key(model: &mut WatchModel, letter: char, now: SystemTime) {
    let Some(service) = model.viewed() else {
        return;
    };
    let command = ROLLOUT_KEYS.iter().find(|(key, _)| *key == letter);
    let asked = match (command, letter) {
        (Some((_, command)), _) => rollout(service, *command),
        (None, 's') => shift(service, model.target),
        (None, 'd') => drain(service, model.target, false),
        (None, 'D') => drain(service, model.target, true),
        (None, _) => return,
    };
    match asked {
        Ok(overlay) => model.overlay = Some(overlay),
        Err(why) => model.say(why, true, now),
    }
}

fn rollout(service: &ServiceStatus, command: OperatorCommand) -> Result<WatchOverlay, String> {
    let name = &service.name;
    let rollout = service.rollout.as_ref();
    let rollout = rollout.ok_or_else(|| format!("{name} has no rollout"))?;
    Ok(WatchOverlay::Confirm {
        action: WatchAction::Rollout {
            service: name.clone(),
            subject: rollout.subject(),
            command,
        },
        plan: Vec::new(),
    })
}

/// Asks for the share of the selected version; of the other one if there are two and stable is selected.
fn shift(service: &ServiceStatus, target: usize) -> Result<WatchOverlay, String> {
    let selected = selected(service, target)?.version;
    let others: Vec<&VersionStatus> = { service.versions.iter() }
        .filter(|v| v.name != service.stable)
        .collect();
    let version = match (selected.name == service.stable, &*others) {
        (false, _) => selected,
        (true, [other]) => other,
        (true, []) => return Err(format!("{} has one version only", service.name)),
        (true, _) => {
            let stable = &service.stable;
            return Err(format!(
                "{stable} is stable and gets the rest: select another version"
            ));
        }
    };
    Ok(WatchOverlay::Share {
        service: service.name.clone(),
        version: version.name.clone(),
        from: version.share.clone(),
        text: String::new(),
        error: None,
    })
}

fn drain(service: &ServiceStatus, target: usize, undo: bool) -> Result<WatchOverlay, String> {
    let ServiceTarget { version, endpoint } = selected(service, target)?;
    Ok(WatchOverlay::Confirm {
        action: WatchAction::Drain {
            service: service.name.clone(),
            version: version.name.clone(),
            endpoint: endpoint.map(|e| e.address.clone()),
            undo,
        },
        plan: Vec::new(),
    })
}

fn selected(service: &ServiceStatus, target: usize) -> Result<ServiceTarget<'_>, String> {
    let found = targets(service).get(target).copied();
    found.ok_or_else(|| format!("{} has no versions", service.name))
}
