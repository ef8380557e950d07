//! What a configuration names on this machine: certificates, keys, secrets, the state directory. Everything that is wrong
//! with them is found at once, and told at the key that names it.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Access, access};

use super::sticky_key;
use crate::admin::guard;
use crate::config::spec::ListenerSpec;
use crate::config::{Diagnostic, Loaded, PathStep, paths};
use crate::edge::listener::PlanError;
use crate::edge::tls::{self, CertificateFault, Certificates};

/// The longest path that fits into a Unix socket's address.
const LONGEST_SOCKET: usize = 107;

/// What was found, in the order of the file.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// The configuration can't be used.
    pub errors: Vec<Diagnostic>,
    /// It can be used, but is probably not meant so.
    pub warnings: Vec<Diagnostic>,
}

/// Looks at everything that `file` names. Nothing is created and nothing is listened at.
pub(crate) fn preflight(loaded: &Loaded, file: &Path) -> Findings {
    let mut look = Look {
        loaded,
        name: file.display().to_string(),
        findings: Findings::default(),
    };
    for listener in &loaded.spec.listeners {
        look.certificates(listener);
    }
    look.sticky_keys();
    look.findings.errors.extend(token_error(loaded, file));
    look.state_directory(file);
    let Findings { errors, warnings } = &mut look.findings;
    for list in [errors, warnings] {
        list.sort_by_key(Diagnostic::position);
        list.dedup();
    }
    look.findings
}

/// The errors of a plan, each at the key that it is about.
pub(crate) fn plan_errors(loaded: &Loaded, file: &Path, errors: &[PlanError]) -> Vec<Diagnostic> {
    let name = file.display().to_string();
    let placed = |error: &PlanError| match error {
        PlanError::Certificate(listener, fault) => certificate(loaded, &name, listener, fault),
        PlanError::Bind(listener, message) => {
            let key = ["listen", listener, "bind"].map(PathStep::from);
            let message = format!("listener {listener}: {message}");
            loaded.diagnostic(&name, &key, &message, "")
        }
    };
    errors.iter().map(placed).collect()
}

/// What is wrong with the file that `admin.token_file` names, if it can't be used.
pub(crate) fn token_error(loaded: &Loaded, file: &Path) -> Option<Diagnostic> {
    let said = guard::check_token(&loaded.spec).err()?;
    let key = ["admin", "token_file"].map(PathStep::from);
    let name = file.display().to_string();
    Some(diagnostic(loaded, &name, &key, &said))
}

/// An error at `key`. The second sentence of `said` says what to do.
fn diagnostic(loaded: &Loaded, name: &str, key: &[PathStep], said: &str) -> Diagnostic {
    let (message, help) = said.split_once(". ").unwrap_or((said, ""));
    loaded.diagnostic(name, key, message, help)
}

fn certificate(
    loaded: &Loaded,
    name: &str,
    listener: &str,
    (index, error): &CertificateFault,
) -> Diagnostic {
    let key = [
        "listen".into(),
        listener.into(),
        "cert".into(),
        (*index).into(),
        error.part.key().into(),
    ];
    loaded.diagnostic(name, &key, &error.message, &error.help)
}

struct Look<'l> {
    loaded: &'l Loaded,
    name: String,
    findings: Findings,
}

impl Look<'_> {
    fn certificates(&mut self, listener: &ListenerSpec) {
        if listener.certs.is_empty() {
            return;
        }
        let now = SystemTime::now();
        let read = Certificates::read(&listener.certs, None, &tls::provider(), now);
        let (faults, warnings) = match read {
            Ok(reading) => {
                let table = tls::CertificateTable::new(listener, &reading.certificates, None);
                (table.err().into_iter().collect(), reading.warnings)
            }
            Err(faults) => (faults, Vec::new()),
        };
        let (loaded, name) = (self.loaded, &self.name);
        let placed = |fault: &CertificateFault| certificate(loaded, name, &listener.name, fault);
        self.findings.errors.extend(faults.iter().map(placed));
        let warnings = warnings.iter().map(placed).map(Diagnostic::into_warning);
        self.findings.warnings.extend(warnings);
    }

    fn sticky_keys(&mut self) {
        let spec = self.loaded.spec.clone();
        let sticky = |s: &'_ crate::config::spec::ServiceSpec| {
            s.policies
                .sticky
                .as_ref()
                .map(|sticky| sticky.key_file.clone())
        };
        for service in &spec.services {
            let Some(key_file) = sticky(service) else {
                continue;
            };
            let state = paths::state_dir(spec.state_dir.as_deref());
            let (path, key) = match key_file {
                Some(path) => {
                    let own = ["service", &service.name, "sticky", "key_file"].map(PathStep::from);
                    let shared = ["defaults", "sticky", "key_file"].map(PathStep::from);
                    let key = match self.loaded.is_written(&own) {
                        true => own.to_vec(),
                        false => shared.to_vec(),
                    };
                    (path, key)
                }
                // Our own key; without one the first start makes it.
                None => (sticky_key::own_path(&state), vec!["state_dir".into()]),
            };
            let is_ours = key.len() == 1;
            if is_ours && !path.exists() {
                continue;
            }
            if let Err(said) = sticky_key::read(&path) {
                let found = diagnostic(self.loaded, &self.name, &key, &said);
                self.findings.errors.push(found);
            }
        }
    }

    fn state_directory(&mut self, file: &Path) {
        let spec = self.loaded.spec.clone();
        let state = paths::state_dir(spec.state_dir.as_deref());
        let Some(wrong) = unusable(&state, file) else {
            return;
        };
        let message = format!("the state directory {}: {wrong}", state.display());
        let help = "it holds the control socket and the key of sticky sessions: `state_dir` names another one";
        let key = ["state_dir".into()];
        let found = self.loaded.diagnostic(&self.name, &key, &message, help);
        match spec.state_dir {
            Some(_) => self.findings.errors.push(found),
            // Nobody chose it, and the proxy starts without it.
            None => self.findings.warnings.push(found.into_warning()),
        }
    }
}

/// Why the sockets and keys of the proxy can't be kept in this directory.
fn unusable(state: &Path, config: &Path) -> Option<String> {
    if let Ok(socket) = paths::handover_socket(state, config)
        && socket.as_os_str().as_bytes().len() > LONGEST_SOCKET
    {
        return Some(format!(
            "its path is too long for a socket in it, which has {LONGEST_SOCKET} bytes at most"
        ));
    }
    // What isn't there is made, in the nearest directory that is.
    let there = nearest(state);
    if !there.is_dir() {
        return Some(format!("{} is not a directory", there.display()));
    }
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    access(&there, wanted).err().map(|error| {
        let error = std::io::Error::from(error);
        format!("{} can't be written: {error}", there.display())
    })
}

/// The path itself, or the nearest of its parents that exists.
fn nearest(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut parents = absolute.ancestors();
    let there = parents.find(|parent| parent.symlink_metadata().is_ok());
    there.unwrap_or(Path::new("/")).to_owned()
}
