//! `cutover shift SERVICE VERSION=SHARE...` and, for a cut-over, `cutover shift SERVICE VERSION`

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;

use super::fault::Fault;
use super::place::{Place, shown};
use super::proxy::{Proxy, Silence};
use super::{Outcome, block_on};
use crate::admin::status::Status;
use crate::config::spec::Share;
use crate::config::{self, Spec, edit};

/// Longest time until the edit is live.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(5);

/// The proxy's answer is awaited this long before somebody at a terminal is told so.
const SILENT: Duration = Duration::from_millis(500);

/// Moves traffic.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 every worker works by it, 1 refused and nothing changed or not live in time,\n3 the file is changed but no proxy answers."
)]
pub struct Shift {
    /// Service
    service: String,
    /// Shares of canaries: `green=5%`; a version alone becomes stable
    #[arg(required = true, value_name = "VERSION=SHARE", value_parser = wish)]
    wishes: Vec<Wish>,
}

/// What is asked for a version.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wish {
    /// `green=5%`
    Share(String, Share),
    /// `green`: all that the split leaves.
    Stable(String),
}

fn wish(text: &str) -> Result<Wish, String> {
    match text.split_once('=') {
        None if !text.is_empty() => Ok(Wish::Stable(text.to_owned())),
        Some((version, share)) if !version.is_empty() => {
            Ok(Wish::Share(version.to_owned(), share.parse()?))
        }
        _ => Err("expected VERSION=SHARE, for example green=5%".to_owned()),
    }
}

impl Shift {
    pub fn run(&self, place: &Place) -> Outcome {
        let file = place.file()?;
        let text = std::fs::read_to_string(&file)
            .map_err(|e| Fault::new(format!("can't read {}: {e}", shown(&file))))?;
        let edited = self
            .edited(&text)
            .map_err(|error| Fault::new(error.to_string()))?;
        let spec = config::parse(&edited, &shown(&file)).map_err(|errors| {
            let refused = Fault::new("the file would not be valid; nothing is changed");
            errors.iter().fold(refused, |fault, error| {
                let lines = error.rendered(false);
                lines.lines().fold(fault, |fault, line| fault.with(line))
            })
        })?;
        let saved = Instant::now();
        if edited != text {
            edit::replace_file(&file, &edited)
                .map_err(|e| Fault::new(format!("can't write {}: {e}", shown(&file))))?;
        }
        block_on(self.adopted(
            place,
            &file,
            &spec,
            &config::load::hash(edited.as_bytes()),
            saved,
        ))?
    }

    fn edited(&self, text: &str) -> Result<String, edit::EditError> {
        let mut edited = text.to_owned();
        for wish in &self.wishes {
            edited = match wish {
                Wish::Share(version, share) => {
                    edit::shift(&edited, &self.service, &[(version, *share)])
                }
                Wish::Stable(version) => edit::set_stable(&edited, &self.service, version),
            }?;
        }
        Ok(edited)
    }

    async fn adopted(
        &self,
        place: &Place,
        file: &Path,
        spec: &Spec,
        hash: &str,
        saved: Instant,
    ) -> Outcome {
        let now = self.now(spec);
        let (proxy, mut status) = match Proxy::find(place).await {
            Ok(found) => found,
            Err(Silence::Nobody(fault)) => {
                let edited = format!("{} is changed ({now}), but no proxy answers", shown(file));
                let mut edited = Fault::new(edited).exit(3);
                edited.detail = fault.detail;
                return Err(edited);
            }
            Err(Silence::Trouble(fault)) => return Err(fault),
        };
        let (mut told, mut held) = (false, false);
        loop {
            match self.state(&status, hash) {
                State::Live => {
                    let (took, generation) = (saved.elapsed().as_millis(), status.generation);
                    anstream::println!(
                        "{now}: live in every worker after {took} ms (generation {generation})"
                    );
                    return Ok(0);
                }
                State::Refused(why) => {
                    let refused = "the proxy refuses the file; the old configuration runs on";
                    return Err(Fault::new(format!("{refused}\n{why}")));
                }
                State::Held(versions) if saved.elapsed() > PATIENCE => {
                    let fault =
                        Fault::new(format!("{now}: adopted, not in effect after {PATIENCE:?}"));
                    return Err(fault.with(waiting(versions)));
                }
                State::Held(versions) => {
                    if !std::mem::replace(&mut held, true) {
                        anstream::eprintln!("{}", waiting(versions));
                    }
                    told = true;
                }
                State::Awaited if saved.elapsed() > PATIENCE => {
                    return Err(self.late(file, &status));
                }
                State::Awaited => {}
            }
            if !told && saved.elapsed() > SILENT {
                told = true;
                anstream::eprintln!("waiting for the proxy (pid {}) to take it up", status.pid);
            }
            tokio::time::sleep(GLANCE).await;
            status = proxy.status().await?;
        }
    }

    fn late(&self, file: &Path, status: &Status) -> Fault {
        let fault = Fault::new(format!("not live after {PATIENCE:?}"))
            .with(format!("{} is changed", shown(file)));
        let same = |path: &str| Path::new(path).canonicalize().ok();
        if same(&status.config.path) == same(&shown(file)) {
            let (adopted, generation) = (status.adopted, status.generation);
            fault.with(format!(
                "generation {generation} is published, all workers have adopted {adopted}"
            ))
        } else {
            fault.with(format!(
                "the proxy that answers runs by {}: say with -c or --admin which is meant",
                status.config.path
            ))
        }
    }

    fn state<'a>(&self, status: &'a Status, hash: &str) -> State<'a> {
        if status.config.hash == hash && status.adopted >= status.generation {
            let service = status.services.iter().find(|s| s.name == self.service);
            return match service.map_or(&[][..], |s| &s.awaiting) {
                [] => State::Live,
                versions => State::Held(versions),
            };
        }
        match &status.config.error {
            Some(why) if status.config.refused_hash.as_deref() == Some(hash) => State::Refused(why),
            _ => State::Awaited,
        }
    }

    /// How the service's traffic is shared by the file as it is now: `shop: v1 95%, v2 5%`.
    fn now(&self, spec: &Spec) -> String {
        let found = spec.services.iter().find(|s| s.name == self.service);
        let Some(service) = found else {
            return self.service.clone();
        };
        let name = |version: usize| &service.versions[version].name;
        let canaries: u32 = service.split.iter().map(|(_, share)| share.0).sum();
        let rest = Share(Share::WHOLE - canaries);
        let mut shares = vec![format!("{} {rest}", name(service.stable))];
        let split = service.split.iter();
        shares.extend(split.map(|(v, share)| format!("{} {share}", name(*v))));
        format!("{}: {}", service.name, shares.join(", "))
    }
}

/// What has become of an edit.
#[derive(Debug, PartialEq, Eq)]
enum State<'a> {
    Live,
    /// Every worker has it, and these versions wait for a check to pass.
    Held(&'a [String]),
    Refused(&'a str),
    Awaited,
}

/// Why an adopted share is not in effect.
fn waiting(versions: &[String]) -> String {
    let versions = versions.join(", ");
    format!("the old split stays until an endpoint of {versions} passes its check")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::Config;

    fn status(hash: &str, generation: u64, adopted: u64) -> Status {
        Status {
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
            },
            listeners: Vec::new(),
            services: Vec::new(),
        }
    }

    fn state<'a>(status: &'a Status, hash: &str) -> State<'a> {
        let shift = Shift {
            service: "shop".into(),
            wishes: Vec::new(),
        };
        shift.state(status, hash)
    }

    #[test]
    fn an_edit_is_live_once_every_worker_has_it() {
        assert_eq!(state(&status("old", 3, 3), "new"), State::Awaited);
        assert_eq!(state(&status("new", 4, 3), "new"), State::Awaited);
        assert_eq!(state(&status("new", 4, 4), "new"), State::Live);
    }

    #[test]
    fn an_edit_that_waits_for_a_check_is_not_live() {
        let mut held = status("new", 4, 4);
        let service = |name: &str| crate::admin::status::Service {
            name: name.into(),
            stable: "v1".into(),
            split: crate::admin::status::Split {
                desired: Default::default(),
                effective: Default::default(),
            },
            awaiting: vec!["v2".into()],
            versions: Vec::new(),
        };
        held.services = vec![service("other")];
        assert_eq!(state(&held, "new"), State::Live);
        held.services.push(service("shop"));
        assert_eq!(state(&held, "new"), State::Held(&["v2".to_owned()]));
    }

    #[test]
    fn only_our_own_text_counts_as_refused() {
        let mut refused = status("old", 3, 3);
        refused.config.error = Some("line 1".into());
        refused.config.refused_hash = Some("other".into());
        assert_eq!(state(&refused, "new"), State::Awaited);
        assert_eq!(state(&refused, "other"), State::Refused("line 1"));
    }

    #[test]
    fn wishes_as_typed() {
        let five = Wish::Share("v2".to_owned(), Share(5_000));
        assert_eq!(wish("v2=5%"), Ok(five));
        assert_eq!(wish("v2"), Ok(Wish::Stable("v2".to_owned())));
        for wrong in ["", "=5%", "v2=", "v2=5", "v2=101%"] {
            assert!(wish(wrong).is_err(), "{wrong}");
        }
    }
}
