//! The progress of an edit, judged by the status of the running proxy.
//!
//! An edit is recognised in two ways: by the hash of the edited text, among the texts that the proxy has adopted or refused;
//! and by the shares that the running configuration gives the service, because another writer may have saved a text that
//! still contains the edit.

use crate::admin::status::{ProxyStatus, ServiceStatus};
use crate::config::Spec;
use crate::config::file_edit::FlagChange;
use crate::config::spec::Share;

/// An edit that is in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Edit {
    /// The service that the edit concerns; `None` for a whole text.
    service: Option<String>,
    goals: Vec<Goal>,
    mark: EditMark,
}

/// Identifies an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
enum EditMark {
    /// The text.
    Text {
        /// Hash of the edited text.
        hash: String,
        /// The generation that was published before the edit was saved.
        before: u64,
    },
    /// The generation with which the proxy adopted it.
    Generation(u64),
}

/// The role or share of a version or flag that the command named, according to the edited file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Goal {
    /// The version is stable.
    Stable(String),
    /// The version has this share.
    Share(String, Share),
    /// The flag is on for this share of the users, or follows the rollout.
    Flag(String, FlagChange),
}

impl Goal {
    fn is_desired(&self, service: &ServiceStatus) -> bool {
        match self {
            Self::Stable(version) => service.stable == *version,
            Self::Share(version, share) => {
                service.split.desired.get(version) == Some(&share.to_string())
            }
            Self::Flag(flag, change) => {
                let found = service.flags.iter().find(|f| f.name == *flag);
                found.is_some_and(|found| match change {
                    FlagChange::Share(share) => !found.rollout && found.share == share.to_string(),
                    FlagChange::Rollout => found.rollout,
                })
            }
        }
    }

    /// The version whose health check this goal waits for, if any.
    fn awaited<'s>(&self, service: &'s ServiceStatus) -> Option<&'s str> {
        let awaits = |version: &str| service.awaiting.iter().find(|v| *v == version);
        let (Self::Stable(version) | Self::Share(version, _)) = self else {
            return None; // Flags wait for nothing.
        };
        if let Some(own) = awaits(version) {
            return Some(own);
        }
        // While the gate waits for a new stable version, the previous split stays in effect, except that shares which the file
        // lowers are lowered at once. So only a share that rises has to wait.
        let Self::Share(version, share) = self else {
            return None;
        };
        let stable = awaits(&service.stable)?;
        let effective = service.split.effective.get(version);
        let effective = effective.and_then(|share| share.parse::<Share>().ok());
        (effective.unwrap_or(Share(0)) < *share).then_some(stable)
    }
}

/// The progress of an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum ShiftProgress {
    /// In effect on every worker, which run this generation.
    Live(u64),
    /// Adopted by every worker, but not in effect until a health check of these versions passes.
    Held(Vec<String>),
    /// The proxy refused the text with the edit, for this reason.
    Refused(String),
    /// Every worker had adopted the edit with this generation; the text that runs now no longer contains it.
    Past(u64),
    /// The proxy runs the current file, which no longer contains the edit.
    Overwritten,
    /// The proxy doesn't know the edit yet.
    Pending,
}

impl Edit {
    /// Creates the edit of `service` that named these versions. `spec` and `hash` belong to the edited text, `before` is the
    /// generation that was published before it was saved.
    pub(in crate::cli) fn new(
        service: &str,
        versions: &[&str],
        spec: &Spec,
        hash: String,
        before: u64,
    ) -> Self {
        let goal = |version: &&str| {
            let service = spec.services.iter().find(|s| s.name == service)?;
            let at = service.version(version)?;
            if at == service.stable {
                return Some(Goal::Stable((*version).to_owned()));
            }
            if service.rolling_version() == Some(at) {
                return None; // Its share depends on the rollout.
            }
            let (_, share) = service.split.iter().find(|(v, _)| *v == at)?;
            Some(Goal::Share((*version).to_owned(), *share))
        };
        Self {
            service: Some(service.to_owned()),
            goals: versions.iter().filter_map(goal).collect(),
            mark: EditMark::Text { hash, before },
        }
    }

    /// Creates the edit of flags of `service`. `hash` belongs to the edited text, `before` is the generation that was published
    /// before it was saved.
    pub(in crate::cli) fn of_flags(
        service: &str,
        goals: Vec<Goal>,
        hash: String,
        before: u64,
    ) -> Self {
        Self {
            service: Some(service.to_owned()),
            goals,
            mark: EditMark::Text { hash, before },
        }
    }

    /// Creates the edit of `service` that the proxy made itself, and that runs since `generation`.
    pub(in crate::cli) fn adopted(service: &str, goals: Vec<Goal>, generation: u64) -> Self {
        Self {
            service: Some(service.to_owned()),
            goals,
            mark: EditMark::Generation(generation),
        }
    }

    /// Creates the edit that replaces the whole text.
    pub(in crate::cli) fn of_text(hash: String, before: u64) -> Self {
        Self {
            service: None,
            goals: Vec::new(),
            mark: EditMark::Text { hash, before },
        }
    }

    /// Judges the edit by a status. `file` is the hash of the file's current content, which may be a later text.
    pub(in crate::cli) fn progress(
        &self,
        status: &ProxyStatus,
        file: Option<&str>,
    ) -> ShiftProgress {
        let everywhere = status.adopted >= status.generation;
        let config = &status.config;
        let ran = match &self.mark {
            EditMark::Generation(_) => None,
            // The same text may have run before the edit, for example if the split was shifted there and back.
            EditMark::Text { hash, before } => config.recent.iter().find(|text| {
                let later = text.generation > *before && text.generation <= status.adopted;
                later && text.hash == *hash
            }),
        };
        let runs = everywhere
            && match &self.mark {
                EditMark::Generation(generation) => status.generation >= *generation,
                EditMark::Text { hash, .. } => config.hash == *hash,
            };
        // A later text by another writer may still contain the edit. It counts only if it is the current text of the file: a
        // different running text may be one from before the edit.
        let file_runs = everywhere && file == Some(config.hash.as_str());
        if !runs && ran.is_none() && !file_runs {
            return match (&config.error, &self.mark) {
                (Some(why), EditMark::Text { hash, .. })
                    if config.refused_hash.as_ref() == Some(hash) =>
                {
                    ShiftProgress::Refused(why.clone())
                }
                _ => ShiftProgress::Pending,
            };
        }
        let past = || {
            ran.map_or(ShiftProgress::Overwritten, |text| {
                ShiftProgress::Past(text.generation)
            })
        };
        let Some(name) = &self.service else {
            return match runs {
                true => ShiftProgress::Live(status.generation),
                false => past(),
            };
        };
        let service = status.services.iter().find(|s| s.name == *name);
        let service = service.filter(|s| self.goals.iter().all(|goal| goal.is_desired(s)));
        let Some(service) = service else {
            return past();
        };
        let held = self.goals.iter().filter_map(|goal| goal.awaited(service));
        let mut held: Vec<String> = held.map(str::to_owned).collect();
        held.dedup();
        match held.is_empty() {
            true => ShiftProgress::Live(status.generation),
            false => ShiftProgress::Held(held),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use crate::admin::config_status::{Adopted, Config};
    use crate::admin::status::SplitStatus;

    const FILE: &str = "listen = ':80'\n[service.shop]\nstable = 'v1'\nsplit = { v2 = '5%' }\n\
                        versions = { v1 = ['a:1'], v2 = ['a:2'], v3 = ['a:3'] }\n";

    /// `cutover shift shop v2=5%`, saved when generation 3 was published.
    fn edit() -> Edit {
        let spec = crate::config::parse(FILE, "t.toml").unwrap();
        Edit::new("shop", &["v2"], &spec, "new".into(), 3)
    }

    /// A proxy that has published this text as `generation`, with `adopted` on every worker; v2 has `share`.
    fn status(hash: &str, generation: u64, adopted: u64, share: &str) -> ProxyStatus {
        let shares = |share: &str| [("v2".to_owned(), share.to_owned())].into();
        ProxyStatus {
            version: String::new(),
            pid: 1,
            phase: "ready".into(),
            generation,
            adopted,
            uptime_s: 0,
            config: Config {
                path: "cutover.toml".into(),
                files: Vec::new(),
                hash: hash.into(),
                ok: true,
                error: None,
                refused_hash: None,
                published: None,
                recent: Vec::new(),
            },
            listeners: Vec::new(),
            certificates: Vec::new(),
            fleet: None,
            services: vec![ServiceStatus {
                answer: None,
                name: "shop".into(),
                stable: "v1".into(),
                split: SplitStatus {
                    desired: shares(share),
                    effective: shares(share),
                },
                awaiting: Vec::new(),
                rollout: None,
                mirror: None,
                flags: Vec::new(),
                new_errors: Vec::new(),
                warnings: Vec::new(),
                clients: BTreeMap::new(),
                versions: Vec::new(),
            }],
        }
    }

    fn recent(mut status: ProxyStatus, texts: &[(&str, u64)]) -> ProxyStatus {
        let adopted = |(hash, generation): &(&str, u64)| Adopted {
            hash: (*hash).into(),
            generation: *generation,
        };
        status.config.recent = texts.iter().map(adopted).collect();
        status
    }

    #[test]
    fn an_edit_is_live_once_every_worker_has_it() {
        let progress = |status| edit().progress(&status, Some("new"));
        assert_eq!(progress(status("old", 3, 3, "0%")), ShiftProgress::Pending);
        assert_eq!(progress(status("new", 4, 3, "5%")), ShiftProgress::Pending);
        assert_eq!(progress(status("new", 4, 4, "5%")), ShiftProgress::Live(4));
    }

    #[test]
    fn a_text_with_the_same_edit_counts_once_the_file_runs() {
        let runs = status("newer", 4, 4, "5%");
        assert_eq!(
            edit().progress(&runs, Some("newer")),
            ShiftProgress::Live(4)
        );
        // The running text is older than the edited one.
        assert_eq!(edit().progress(&runs, Some("new")), ShiftProgress::Pending);
        assert_eq!(edit().progress(&runs, None), ShiftProgress::Pending);
    }

    #[test]
    fn a_later_text_without_the_edit_ends_the_wait() {
        let later = status("newer", 5, 5, "9%");
        let progress = edit().progress(&later, Some("newer"));
        assert_eq!(progress, ShiftProgress::Overwritten);
        let adopted = recent(later.clone(), &[("old", 3), ("new", 4), ("newer", 5)]);
        assert_eq!(
            edit().progress(&adopted, Some("newer")),
            ShiftProgress::Past(4)
        );
        // The same text ran before the edit, which proves nothing.
        let before = recent(later, &[("new", 2), ("old", 3), ("newer", 5)]);
        assert_eq!(
            edit().progress(&before, Some("new")),
            ShiftProgress::Pending
        );
    }

    #[test]
    fn an_edit_waits_for_its_own_versions_only() {
        let mut held = status("new", 4, 4, "5%");
        held.services[0].awaiting = vec!["v3".into()];
        assert_eq!(edit().progress(&held, None), ShiftProgress::Live(4));
        held.services[0].awaiting.push("v2".into());
        assert_eq!(
            edit().progress(&held, None),
            ShiftProgress::Held(vec!["v2".into()])
        );
    }

    #[test]
    fn a_share_that_rises_waits_for_a_stable_version_that_is_awaited() {
        let mut held = status("new", 4, 4, "5%");
        held.services[0].awaiting = vec!["v1".into()];
        assert_eq!(edit().progress(&held, None), ShiftProgress::Live(4));
        held.services[0].split.effective.clear();
        assert_eq!(
            edit().progress(&held, None),
            ShiftProgress::Held(vec!["v1".into()])
        );
    }

    #[test]
    fn only_the_text_with_the_edit_counts_as_refused() {
        let mut refused = status("old", 3, 3, "0%");
        refused.config.error = Some("line 1".into());
        refused.config.refused_hash = Some("other".into());
        assert_eq!(
            edit().progress(&refused, Some("new")),
            ShiftProgress::Pending
        );
        refused.config.refused_hash = Some("new".into());
        let progress = edit().progress(&refused, Some("new"));
        assert_eq!(progress, ShiftProgress::Refused("line 1".into()));
    }

    #[test]
    fn a_new_stable_version_is_a_goal_of_its_own() {
        let spec = crate::config::parse(FILE, "t.toml").unwrap();
        let edit = Edit::new("shop", &["v1"], &spec, "new".into(), 3);
        let mut now = status("new", 4, 4, "5%");
        assert_eq!(edit.progress(&now, None), ShiftProgress::Live(4));
        now.services[0].awaiting = vec!["v1".into()];
        assert_eq!(
            edit.progress(&now, None),
            ShiftProgress::Held(vec!["v1".into()])
        );
        now.services[0].stable = "v2".into();
        assert_eq!(edit.progress(&now, Some("new")), ShiftProgress::Overwritten);
    }

    #[test]
    fn a_whole_text_is_live_when_it_runs() {
        let edit = Edit::of_text("new".into(), 3);
        let progress = |status, file| edit.progress(&status, Some(file));
        assert_eq!(
            progress(status("old", 3, 3, "0%"), "new"),
            ShiftProgress::Pending
        );
        assert_eq!(
            progress(status("new", 4, 4, "0%"), "new"),
            ShiftProgress::Live(4)
        );
        let later = recent(status("newer", 5, 5, "0%"), &[("new", 4), ("newer", 5)]);
        assert_eq!(progress(later, "newer"), ShiftProgress::Past(4));
        assert_eq!(
            progress(status("newer", 5, 5, "0%"), "newer"),
            ShiftProgress::Overwritten
        );
    }

    #[test]
    fn an_edit_by_the_proxy_is_known_by_its_generation() {
        let goal = |share| vec![Goal::Share("v2".to_owned(), Share(share))];
        let edit = Edit::adopted("shop", goal(5_000), 4);
        let progress = |status| edit.progress(&status, None);
        assert_eq!(progress(status("x", 3, 3, "5%")), ShiftProgress::Pending);
        assert_eq!(progress(status("x", 4, 4, "5%")), ShiftProgress::Live(4));
        assert_eq!(
            progress(status("x", 5, 5, "6%")),
            ShiftProgress::Overwritten
        );
        let mut held = status("x", 4, 4, "5%");
        held.services[0].awaiting = vec!["v2".into()];
        assert_eq!(progress(held), ShiftProgress::Held(vec!["v2".into()]));
    }
}
