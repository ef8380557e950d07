//! Calls to the outside on behalf of rollouts. Each runs as a task and reports its result.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::spawn_local;

use super::Rollouts;
use super::news::{CallEnded, CallResult};
use super::service::ServiceRollout;
use super::view;
use crate::admin::blocking::on_thread;
use crate::admin::history::{Attribution, ChangeCause};
use crate::admin::saved_edit::{SavedEdit, share};
use crate::admin::shared_edit::ShareRefused;
use crate::config::file_edit::{FileEdit, FlagChange, SplitChange};
use crate::config::rollout::RolloutSubject;
use crate::config::spec::{ServiceSpec, Share};
use crate::control::outcall::{hooks, prometheus, smoke};
use crate::rollout::events::{HookKind, Outcome};
use crate::snapshot::{Service, Snapshot};
use crate::upstream::Endpoint;

impl Rollouts {
    /// Runs a call as a task, which reports its result.
    fn call(&self, name: &str, work: impl Future<Output = CallResult> + 'static) {
        let Some(epoch) = self
            .services
            .get(name)
            .and_then(ServiceRollout::state)
            .map(|s| s.epoch)
        else {
            return;
        };
        let (calls, service) = (self.calls.clone(), name.to_owned());
        spawn_local(async move {
            let result = work.await;
            // Fails only when the process ends.
            let _ = calls.send(CallEnded {
                service,
                epoch,
                result,
            });
        });
    }

    pub(super) fn run_smoke(&self, name: &str, snapshot: &Snapshot) {
        let Some((spec, service)) = find(snapshot, name) else {
            return;
        };
        let (Some(subject), Some(plan)) = (spec.rolling, &spec.rollout) else {
            return;
        };
        let mut checks = plan.smoke.clone();
        let version = match subject {
            RolloutSubject::Version(version) => version,
            RolloutSubject::Flag(flag) => {
                // The requests go to stable, with the flag on.
                let on = ("x-flags".to_owned(), spec.flags[flag].name.clone());
                checks
                    .iter_mut()
                    .for_each(|check| check.headers.push(on.clone()));
                spec.stable
            }
        };
        let members = &service.versions[version].pool.members;
        let endpoints: Vec<Arc<Endpoint>> = members.iter().map(|m| m.endpoint.clone()).collect();
        let service = spec.clone();
        self.call(name, async move {
            let result = smoke::run(&checks, &endpoints, &service).await;
            CallResult::Outcome(Outcome::Smoke(result))
        });
    }

    pub(super) fn run_hook(&self, name: &str, kind: HookKind) {
        let Some(rollout) = self.services.get(name) else {
            return;
        };
        let hooks = &rollout.plan.hooks;
        let hook = match kind {
            HookKind::BeforeRollout => &hooks.before_rollout,
            HookKind::BeforeStep => &hooks.before_step,
            HookKind::BeforePromote => &hooks.before_promote,
            HookKind::AfterRollback => &hooks.after_rollback,
        };
        let Some(hook) = hook.clone() else {
            return;
        };
        let status = serde_json::to_value(view::status(rollout)).unwrap_or_default();
        let body = serde_json::json!({ "service": name, "hook": kind.as_str(), "rollout": status });
        let service = name.to_owned();
        self.call(name, async move {
            let result = hooks::call(&hook, &body).await;
            if let Err(error) = &result {
                tracing::warn!(service, hook = kind.as_str(), cause = error, "hook failed");
            }
            CallResult::Outcome(Outcome::Hook(kind, result))
        });
    }

    pub(super) fn ask_queries(&mut self, name: &str, now: Instant) {
        let Some(rollout) = self.services.get_mut(name) else {
            return;
        };
        if !rollout.drives()
            || rollout.in_force().share.0 == 0
            || rollout.state().is_none_or(|state| state.has_ended())
        {
            return;
        }
        for (at, query) in rollout.queries.due(now) {
            self.call(name, async move {
                CallResult::Query(at, prometheus::ask(&query).await)
            });
        }
    }

    /// Writes the version into the configuration file as stable, or the share of the flag as 100 %. The file watcher then reports
    /// the change like any other.
    pub(super) fn promote(&self, name: &str, by: String, snapshot: &Snapshot) {
        let Some((spec, _)) = find(snapshot, name) else {
            return;
        };
        let Some(subject) = spec.rolling else {
            return;
        };
        let (file, history, service) = (self.file.clone(), self.history.clone(), name.to_owned());
        let (calls, epoch) = (
            self.calls.clone(),
            self.services.get(name).and_then(|r| Some(r.state()?.epoch)),
        );
        let edit = match subject {
            RolloutSubject::Version(version) => FileEdit::Split {
                service: service.clone(),
                changes: vec![(spec.versions[version].name.clone(), SplitChange::Stable)],
            },
            RolloutSubject::Flag(flag) => FileEdit::Flags {
                service: service.clone(),
                changes: vec![(
                    spec.flags[flag].name.clone(),
                    FlagChange::Share(Share(Share::WHOLE)),
                )],
            },
        };
        let by = Attribution {
            cause: ChangeCause::Rollout,
            who: Some(by),
        };
        let drives = { self.services.get(name) }.is_some_and(ServiceRollout::drives);
        let control = self.control.clone();
        spawn_local(async move {
            let save = move || match SavedEdit::make(&file, &edit, by, &history) {
                Ok(saved) => Ok(saved.shared().cloned()),
                Err(fault) => Err(fault.to_string()),
            };
            let result = match on_thread("promote", save).await.flatten() {
                // Where the fleet shares the service, one member has to make the change.
                Ok(Some(change)) if drives => {
                    share(change, &control)
                        .await
                        .map_err(|refused| match refused {
                            ShareRefused::Overtaken => {
                                "the fleet's tables were changed in between: try again".to_owned()
                            }
                            ShareRefused::Failed(why) | ShareRefused::Refused(why) => why,
                        })
                }
                Ok(_) => Ok(0),
                Err(why) => Err(why),
            };
            if let (Err(why), Some(epoch)) = (result, epoch) {
                let result = CallResult::Outcome(Outcome::PromoteFailed(why));
                // Fails only when the process ends.
                let _ = calls.send(CallEnded {
                    service,
                    epoch,
                    result,
                });
            }
        });
    }
}

/// The service with this name: its specification and its compiled form.
pub(super) fn find<'s>(
    snapshot: &'s Snapshot,
    name: &str,
) -> Option<(&'s ServiceSpec, &'s Service)> {
    let mut pairs = snapshot.spec.services.iter().zip(&snapshot.services);
    let (spec, service) = pairs.find(|(spec, _)| spec.name == name)?;
    Some((spec, service))
}
