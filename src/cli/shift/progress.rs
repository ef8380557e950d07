//! What has become of an edit, by what the proxy says of itself.

use crate::admin::status::{ProxyStatus, ServiceStatus};
use crate::config::Spec;
use crate::config::spec::Share;

/// An edit of one service that is in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    service: String,
    goals: Vec<Goal>,
    /// Of the text with the edit.
    hash: String,
    /// The generation that was published before the edit was saved.
    before: u64,
}

/// What the edited file gives one of the versions that the command named.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Goal {
    Stable(String),
    Share(String, Share),
}

impl Goal {
    fn version(&self) -> &str {
        let (Self::Stable(version) | Self::Share(version, _)) = self;
        version
    }

    fn is_desired(&self, service: &ServiceStatus) -> bool {
        match self {
            Self::Stable(version) => service.stable == *version,
            Self::Share(version, share) => {
                service.split.desired.get(version) == Some(&share.to_string())
            }
        }
    }

    /// The version for whose check this one waits.
    fn awaited<'s>(&self, service: &'s ServiceStatus) -> Option<&'s str> {
        let awaits = |version: &str| service.awaiting.iter().find(|v| *v == version);
        if let Some(own) = awaits(self.version()) {
            return Some(own);
        }
        // While a new stable version is awaited, the old split stays, lowered where the file lowers it.
        let Self::Share(version, share) = self else {
            return None;
        };
        let stable = awaits(&service.stable)?;
        let effective = service.split.effective.get(version);
        let effective = effective.and_then(|share| share.parse::<Share>().ok());
        (effective.unwrap_or(Share(0)) < *share).then_some(stable)
    }
}

/// What has become of an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ShiftProgress {
    /// In effect on every worker, since this generation or before.
    Live(u64),
    /// On every worker, but these versions wait for a check to pass.
    Held(Vec<String>),
    /// The proxy refused the text with the edit, for this reason.
    Refused(String),
    /// It was on every worker, and the text that runs now doesn't have it any more.
    Past(u64),
    /// The file runs as it is now, and it doesn't have the edit any more.
    Overwritten,
    /// None of these yet.
    Awaited,
}

impl Edit {
    /// The edit of `service` that named these versions. `spec` and `hash` are of the edited text, `before` is the
    /// generation that was published before it was saved.
    pub(super) fn new(
        service: &str,
        versions: &[&str],
        spec: &Spec,
        hash: String,
        before: u64,
    ) -> Self {
        let goal = |version: &&str| {
            let service = spec.services.iter().find(|s| s.name == service)?;
            let at = service.versions.iter().position(|v| v.name == *version)?;
            if at == service.stable {
                return Some(Goal::Stable((*version).to_owned()));
            }
            let (_, share) = service.split.iter().find(|(v, _)| *v == at)?;
            Some(Goal::Share((*version).to_owned(), *share))
        };
        Self {
            service: service.to_owned(),
            goals: versions.iter().filter_map(goal).collect(),
            hash,
            before,
        }
    }

    /// How far it is. `file` is the hash of the file as it is now: others may have saved since.
    pub(super) fn progress(&self, status: &ProxyStatus, file: Option<&str>) -> ShiftProgress {
        let everywhere = status.adopted >= status.generation;
        let config = &status.config;
        let runs = everywhere && config.hash == self.hash;
        let ran = config.recent.iter().find(|text| {
            let later = text.generation > self.before && text.generation <= status.adopted;
            later && text.hash == self.hash
        });
        // What another writer made of the file may still have the edit.
        let file_runs = everywhere && file == Some(config.hash.as_str());
        if !runs && ran.is_none() && !file_runs {
            return match &config.error {
                Some(why) if config.refused_hash.as_ref() == Some(&self.hash) => {
                    ShiftProgress::Refused(why.clone())
                }
                _ => ShiftProgress::Awaited,
            };
        }
        let service = status.services.iter().find(|s| s.name == self.service);
        let service = service.filter(|s| self.goals.iter().all(|goal| goal.is_desired(s)));
        let Some(service) = service else {
            return ran.map_or(ShiftProgress::Overwritten, |text| {
                ShiftProgress::Past(text.generation)
            });
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
    use crate::admin::status::{Adopted, Config, SplitStatus};

    const FILE: &str = "listen = ':80'\n[service.shop]\nstable = 'v1'\nsplit = { v2 = '5%' }\n\
                        versions = { v1 = ['a:1'], v2 = ['a:2'], v3 = ['a:3'] }\n";

    /// `cutover shift shop v2=5%`, saved when generation 3 was published.
    fn edit() -> Edit {
        let spec = crate::config::parse(FILE, "t.toml").unwrap();
        Edit::new("shop", &["v2"], &spec, "new".into(), 3)
    }

    /// The text with this hash runs as `generation`, of which workers have adopted `adopted`; v2 is to have `share`.
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
                hash: hash.into(),
                ok: true,
                error: None,
                refused_hash: None,
                published: None,
                recent: Vec::new(),
            },
            listeners: Vec::new(),
            certificates: Vec::new(),
            services: vec![ServiceStatus {
                name: "shop".into(),
                stable: "v1".into(),
                split: SplitStatus {
                    desired: shares(share),
                    effective: shares(share),
                },
                awaiting: Vec::new(),
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
        assert_eq!(progress(status("old", 3, 3, "0%")), ShiftProgress::Awaited);
        assert_eq!(progress(status("new", 4, 3, "5%")), ShiftProgress::Awaited);
        assert_eq!(progress(status("new", 4, 4, "5%")), ShiftProgress::Live(4));
    }

    #[test]
    fn a_text_with_the_same_edit_counts_once_the_file_runs() {
        let runs = status("newer", 4, 4, "5%");
        assert_eq!(
            edit().progress(&runs, Some("newer")),
            ShiftProgress::Live(4)
        );
        // The edit was made to a later text than the one that runs.
        assert_eq!(edit().progress(&runs, Some("new")), ShiftProgress::Awaited);
        assert_eq!(edit().progress(&runs, None), ShiftProgress::Awaited);
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
        // The same text ran before the edit: that says nothing of the edit.
        let before = recent(later, &[("new", 2), ("old", 3), ("newer", 5)]);
        assert_eq!(
            edit().progress(&before, Some("new")),
            ShiftProgress::Awaited
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
            ShiftProgress::Awaited
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
}
