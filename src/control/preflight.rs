//! Checks of the files and directories that a configuration names: certificates, keys, secrets, the state directory.
//!
//! All problems are reported at once, each as a diagnostic at the key that names the file. `check` and the start of the proxy run
//! the same checks, except that only `check` refuses a rollout whose state can't be stored.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::upstream_identities::{IdentityFault, UpstreamIdentities};
use super::{access_log, acme, etcd, sticky_key};
use crate::admin::guard;
use crate::certificates::provider;
use crate::config::Spec;
use crate::config::access_log::LogTarget;
use crate::config::rollout::RolloutSubject;
use crate::config::spec::ListenerSpec;
use crate::config::{Diagnostic, Loaded, PathStep, paths};
use crate::edge::listener::PlanError;
use crate::edge::listener::socket_access;
use crate::edge::tls::{self, CertificateFault, Certificates, TicketKeys};
use crate::upstream::tls::TlsIdentity;

/// Longest path of a Unix socket, in bytes: `sun_path` has 108, one of which is the terminating zero (unix(7)).
const LONGEST_SOCKET: usize = 107;

/// The problems that were found, in the order of the file.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Problems for which the configuration is refused.
    pub errors: Vec<Diagnostic>,
    /// Problems that don't keep the proxy from running, but are probably mistakes.
    pub warnings: Vec<Diagnostic>,
}

/// Checks everything that the configuration names. Creates no file and binds no socket.
pub(crate) fn preflight(loaded: &Loaded, file: &Path) -> Findings {
    let mut checks = Checks {
        loaded,
        name: file.display().to_string(),
        findings: Findings::default(),
    };
    for listener in &loaded.spec.listeners {
        checks.certificates(listener);
        checks.socket_group(listener);
    }
    checks.identities();
    checks.sticky_keys();
    checks.acme();
    checks.fleet();
    checks.findings.errors.extend(token_error(loaded, file));
    checks.state_directory(file);
    if let Some(problem) = unusable_log(&loaded.spec) {
        let error = log_error(loaded, file, &problem);
        checks.findings.errors.push(error);
    }
    let Findings { errors, warnings } = &mut checks.findings;
    for list in [errors, warnings] {
        list.sort_by(Diagnostic::in_order);
        list.dedup();
    }
    checks.findings
}

/// Diagnoses rollouts whose state can't be stored. A running proxy gives such a version no traffic, or such a flag no users, and
/// keeps running, but `check` can tell before.
pub(crate) fn unstorable_rollouts(loaded: &Loaded, file: &Path) -> Vec<Diagnostic> {
    let state = paths::state_dir(loaded.spec.state_dir.as_deref()).join("rollouts");
    let Some(problem) = unusable(&state, file) else {
        return Vec::new();
    };
    let name = file.display().to_string();
    let message = format!("the state of this rollout can't be stored: {problem}");
    let help = format!(
        "make {} writable for the proxy's user, or name another directory with `state_dir`",
        state.display()
    );
    let services = loaded.spec.services.iter();
    let rolling = services.filter_map(|service| Some((service, service.rolling?)));
    let diagnose = rolling.map(|(service, subject)| {
        let below = match subject {
            RolloutSubject::Version(version) => vec!["split", &service.versions[version].name],
            RolloutSubject::Flag(flag) => vec!["flags", &service.flags[flag].name, "share"],
        };
        let key = ["service", &service.name].into_iter().chain(below);
        let key: Vec<PathStep> = key.map(PathStep::from).collect();
        loaded.diagnostic(&name, &key, &message, &help)
    });
    diagnose.collect()
}

/// Turns the errors of a listener plan into diagnostics, each at the key that caused it.
pub(crate) fn plan_errors(loaded: &Loaded, file: &Path, errors: &[PlanError]) -> Vec<Diagnostic> {
    let name = file.display().to_string();
    let diagnose = |error: &PlanError| match error {
        PlanError::Certificate(listener, fault) => certificate(loaded, &name, listener, fault),
        PlanError::Bind(listener, message) => {
            let key = ["listen", listener, "bind"].map(PathStep::from);
            let message = format!("listener {listener}: {message}");
            loaded.diagnostic(&name, &key, &message, "")
        }
    };
    errors.iter().map(diagnose).collect()
}

/// Turns the errors in the TLS files of versions into diagnostics, each at the key that names the file.
pub(crate) fn identity_errors(
    loaded: &Loaded,
    file: &Path,
    faults: &[IdentityFault],
) -> Vec<Diagnostic> {
    let name = file.display().to_string();
    let diagnose = |fault: &IdentityFault| identity(loaded, &name, fault);
    faults.iter().map(diagnose).collect()
}

fn identity(loaded: &Loaded, name: &str, fault: &IdentityFault) -> Diagnostic {
    let part = fault.error.part.key();
    let table = ["service", &fault.service, "versions", &fault.version, "tls"];
    let key: Vec<PathStep> = table
        .into_iter()
        .chain([part])
        .map(PathStep::from)
        .collect();
    loaded.diagnostic(name, &key, &fault.error.message, &fault.error.help)
}

/// The diagnostic for `admin.token_file`, if that file can't be used.
pub(crate) fn token_error(loaded: &Loaded, file: &Path) -> Option<Diagnostic> {
    let problem = guard::check_token(&loaded.spec).err()?;
    let key = ["admin", "token_file"].map(PathStep::from);
    let name = file.display().to_string();
    Some(diagnostic(loaded, &name, &key, &problem))
}

/// The diagnostic for an access log that can't be opened.
pub(crate) fn log_error(loaded: &Loaded, file: &Path, problem: &str) -> Diagnostic {
    let key = ["access_log", "to"].map(PathStep::from);
    let name = file.display().to_string();
    diagnostic(loaded, &name, &key, problem)
}

/// An error at `key`. The first sentence of `problem` becomes the message, the rest the help.
fn diagnostic(loaded: &Loaded, name: &str, key: &[PathStep], problem: &str) -> Diagnostic {
    let (message, help) = problem.split_once(". ").unwrap_or((problem, ""));
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

struct Checks<'l> {
    loaded: &'l Loaded,
    name: String,
    findings: Findings,
}

impl Checks<'_> {
    fn certificates(&mut self, listener: &ListenerSpec) {
        if listener.certs.is_empty() {
            return;
        }
        let now = SystemTime::now();
        let read = Certificates::read(&listener.certs, None, &provider(), now);
        let (faults, warnings) = match read {
            Ok(reading) => {
                let table = tls::CertificateTable::new(
                    listener,
                    &reading.certificates,
                    &TicketKeys::new(0),
                );
                (table.err().into_iter().collect(), reading.warnings)
            }
            Err(faults) => (faults, Vec::new()),
        };
        let (loaded, name) = (self.loaded, &self.name);
        let diagnose = |fault: &CertificateFault| certificate(loaded, name, &listener.name, fault);
        self.findings.errors.extend(faults.iter().map(diagnose));
        let warnings = warnings.iter().map(diagnose).map(Diagnostic::into_warning);
        self.findings.warnings.extend(warnings);
    }

    fn identities(&mut self) {
        let (spec, former) = (&self.loaded.spec, UpstreamIdentities::default());
        let (errors, warnings) = match UpstreamIdentities::read(spec, &former, SystemTime::now()) {
            Ok(reading) => (Vec::new(), reading.warnings),
            Err(faults) => (faults, Vec::new()),
        };
        let (loaded, name) = (self.loaded, &self.name);
        let diagnose = |fault: &IdentityFault| identity(loaded, name, fault);
        self.findings.errors.extend(errors.iter().map(diagnose));
        let warnings = warnings.iter().map(diagnose).map(Diagnostic::into_warning);
        self.findings.warnings.extend(warnings);
    }

    /// Checks the files for orders of certificates. If they can't be used the proxy runs, but obtains none.
    fn acme(&mut self) {
        let Some(spec) = &self.loaded.spec.acme else {
            return;
        };
        for (key, problem) in acme::unusable(spec) {
            let key = ["acme", key].map(PathStep::from);
            let found = diagnostic(self.loaded, &self.name, &key, &problem);
            self.findings.warnings.push(found.into_warning());
        }
    }

    /// Checks the files for the connection to etcd. If they can't be used the proxy runs, but is alone.
    fn fleet(&mut self) {
        let Some(spec) = &self.loaded.spec.fleet else {
            return;
        };
        let mut found = Vec::new();
        let tls = spec.tls.as_ref().map(TlsIdentity::load);
        if let Some(Err(errors)) = tls {
            for error in errors {
                let key = ["fleet", "tls", error.part.key()].map(PathStep::from);
                let loaded = self.loaded;
                found.push(loaded.diagnostic(&self.name, &key, &error.message, &error.help));
            }
        }
        if let Some(user) = &spec.user
            && let Err(problem) = etcd::read_password(&user.password_file)
        {
            let key = ["fleet", "password_file"].map(PathStep::from);
            found.push(diagnostic(self.loaded, &self.name, &key, &problem));
        }
        let found = found.into_iter().map(Diagnostic::into_warning);
        self.findings.warnings.extend(found);
    }

    fn socket_group(&mut self, listener: &ListenerSpec) {
        let Some(group) = &listener.access.group else {
            return;
        };
        if let Err(problem) = socket_access::resolve(group) {
            let key = ["listen", &listener.name, "group"].map(PathStep::from);
            let found = diagnostic(self.loaded, &self.name, &key, &problem);
            self.findings.errors.push(found);
        }
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
                // The proxy's own key. If there is none yet, the first start creates it.
                None => (sticky_key::own_path(&state), vec!["state_dir".into()]),
            };
            let is_own = key.len() == 1;
            if is_own && !path.exists() {
                continue;
            }
            if let Err(problem) = sticky_key::read(&path) {
                let found = diagnostic(self.loaded, &self.name, &key, &problem);
                self.findings.errors.push(found);
            }
        }
    }

    fn state_directory(&mut self, file: &Path) {
        let spec = self.loaded.spec.clone();
        let state = paths::state_dir(spec.state_dir.as_deref());
        let Some(problem) = unusable(&state, file) else {
            return;
        };
        let message = format!("the state directory {}: {problem}", state.display());
        let help = "it holds the control socket and the key of sticky sessions: `state_dir` names another one";
        let key = ["state_dir".into()];
        let found = self.loaded.diagnostic(&self.name, &key, &message, help);
        match spec.state_dir {
            Some(_) => self.findings.errors.push(found),
            // A default that the operator didn't choose. The proxy runs without it, with fewer features.
            None => self.findings.warnings.push(found.into_warning()),
        }
    }
}

/// The reason why the access log can't be opened; `None` if it can.
fn unusable_log(spec: &Spec) -> Option<String> {
    let target = &spec.access_log.as_ref()?.to;
    let LogTarget::File(path) = target else {
        return None;
    };
    let error = match path.metadata() {
        Ok(found) if found.is_dir() => Err(Errno::ISDIR),
        Ok(_) => access(path, Access::WRITE_OK),
        // The start of the proxy creates the file.
        Err(_) => access(paths::directory(path), Access::WRITE_OK | Access::EXEC_OK),
    };
    let error = std::io::Error::from(error.err()?);
    Some(access_log::unusable(target, &error))
}

/// The reason why this directory can't contain the proxy's sockets and keys; `None` if it can.
fn unusable(state: &Path, config: &Path) -> Option<String> {
    if let Ok(socket) = paths::handover_socket(state, config)
        && socket.as_os_str().as_bytes().len() > LONGEST_SOCKET
    {
        return Some(format!(
            "its path is too long: the path of a socket in it has at most {LONGEST_SOCKET} bytes"
        ));
    }
    // Missing directories are created at startup, so the nearest existing one must be writable.
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

/// The path itself if it exists, otherwise its nearest existing ancestor.
fn nearest(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut parents = absolute.ancestors();
    let there = parents.find(|parent| parent.symlink_metadata().is_ok());
    there.unwrap_or(Path::new("/")).to_owned()
}
