//! The actions of an operator in the view: the question that is asked first, and the request that is then sent.

use std::fmt;

use serde_json::{Value, json};

use crate::admin::drain::DrainRequest;
use crate::admin::writes::{UndoPlan, UndoRequest};
use crate::rollout::machine::OperatorCommand;

/// A change that the operator has asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum WatchAction {
    /// The share of a version, as in `25%`, `rollout` or `stable`.
    Shift {
        service: String,
        version: String,
        to: String,
        /// Share of the version so far.
        from: String,
    },
    /// A command on the rollout of a service.
    Rollout {
        service: String,
        subject: String,
        command: OperatorCommand,
    },
    /// Drain a version or an endpoint, or put it back in use.
    Drain {
        service: String,
        version: String,
        endpoint: Option<String>,
        undo: bool,
    },
    /// Take back the last change of the file.
    Undo(UndoPlan),
}

/// A request to the admin API.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ActionRequest {
    pub path: String,
    pub body: Value,
}

impl WatchAction {
    /// The question before the action: its first line, and further lines.
    pub(super) fn question(&self) -> (String, Vec<String>) {
        match self {
            Self::Shift {
                service,
                version,
                to,
                from,
            } => {
                let question = match &**to {
                    "stable" => format!("make {version} the stable version of {service}?"),
                    "rollout" => format!("begin the rollout of {version} in {service}?"),
                    share => format!("{service}: shift {version} from {from} to {share}?"),
                };
                let note = "the proxy edits its configuration file; undo takes it back";
                (question, vec![note.to_owned()])
            }
            Self::Rollout {
                service,
                subject,
                command,
            } => (
                format!("{command} the rollout of {subject} in {service}?"),
                vec![consequence(*command).to_owned()],
            ),
            Self::Drain { undo: true, .. } => {
                (format!("put {} back in use?", self.target()), Vec::new())
            }
            Self::Drain { .. } => {
                let note = "it gets no new requests; those in flight finish";
                (format!("drain {}?", self.target()), vec![note.to_owned()])
            }
            Self::Undo(plan) => {
                let mut lines: Vec<String> = plan.changes.iter().map(|l| l.text.clone()).collect();
                if lines.is_empty() {
                    lines.push("only comments or layout differ".to_owned());
                }
                (format!("go back to generation {}?", plan.generation), lines)
            }
        }
    }

    fn target(&self) -> String {
        match self {
            Self::Drain {
                service,
                version,
                endpoint,
                ..
            } => match endpoint {
                Some(endpoint) => format!("{endpoint} of {service}/{version}"),
                None => format!("{service}/{version}"),
            },
            _ => String::new(),
        }
    }

    /// Returns the request that makes the change in the name of `person`.
    pub(super) fn request(&self, person: &str) -> ActionRequest {
        match self {
            Self::Shift {
                service,
                version,
                to,
                ..
            } => ActionRequest {
                path: format!("/api/v1/services/{service}/split"),
                body: json!({ version: to }),
            },
            Self::Rollout {
                service, command, ..
            } => ActionRequest {
                path: format!("/api/v1/services/{service}/rollout/{command}"),
                body: json!({ "by": person }),
            },
            Self::Drain {
                service,
                version,
                endpoint,
                undo,
            } => ActionRequest {
                path: format!("/api/v1/services/{service}/drain"),
                body: json!(DrainRequest {
                    version: Some(version.clone()),
                    endpoint: endpoint.clone(),
                    undo: *undo,
                    force: false,
                }),
            },
            Self::Undo(plan) => ActionRequest {
                path: UNDO_PATH.to_owned(),
                body: json!(UndoRequest {
                    generation: Some(plan.generation),
                    running: Some(plan.running.clone()),
                    plan: false,
                }),
            },
        }
    }
}

/// The path of an undo and of its plan.
pub(super) const UNDO_PATH: &str = "/api/v1/undo";

/// Formats the completed action in a few words.
impl fmt::Display for WatchAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shift {
                service,
                version,
                to,
                ..
            } => write!(f, "{service}: {version} {to}"),
            Self::Rollout {
                service, command, ..
            } => write!(f, "{service}: {command}"),
            Self::Drain { undo: true, .. } => write!(f, "{}: back in use", self.target()),
            Self::Drain { .. } => write!(f, "{}: drained", self.target()),
            Self::Undo(plan) => write!(f, "back to generation {}", plan.generation),
        }
    }
}

fn consequence(command: OperatorCommand) -> &'static str {
    match command {
        OperatorCommand::Pause => "it holds its share until it is resumed",
        OperatorCommand::Resume => "its step goes on",
        OperatorCommand::Approve => "it goes on to its next step",
        OperatorCommand::Promote => "it becomes stable in the configuration file",
        OperatorCommand::Abort => "it loses its share at once",
        OperatorCommand::Retry => "it begins again with its first step",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_the_requests_of_the_commands() {
        let shift = WatchAction::Shift {
            service: "shop".to_owned(),
            version: "v2".to_owned(),
            to: "25%".to_owned(),
            from: "5%".to_owned(),
        };
        assert_eq!(shift.question().0, "shop: shift v2 from 5% to 25%?");
        let request = shift.request("alice@desk");
        assert_eq!(request.path, "/api/v1/services/shop/split");
        assert_eq!(request.body, json!({"v2": "25%"}));
        let drain = WatchAction::Drain {
            service: "shop".to_owned(),
            version: "v1".to_owned(),
            endpoint: Some("10.0.0.1:80".to_owned()),
            undo: false,
        };
        assert_eq!(drain.question().0, "drain 10.0.0.1:80 of shop/v1?");
        let body = drain.request("").body;
        assert_eq!(body["endpoint"], "10.0.0.1:80");
        assert_eq!(body["force"], false);
        let abort = WatchAction::Rollout {
            service: "shop".to_owned(),
            subject: "v2".to_owned(),
            command: OperatorCommand::Abort,
        };
        let request = abort.request("alice@desk");
        assert_eq!(request.path, "/api/v1/services/shop/rollout/abort");
        assert_eq!(request.body, json!({"by": "alice@desk"}));
    }
}
