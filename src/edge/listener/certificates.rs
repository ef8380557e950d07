//! Certificates of listeners: reads them for a plan, reloads them when their files change, and reports their state.
//!
//! A certificate in use is never replaced by files that are broken or worse (see [`tls`]). The rejected files are reported once,
//! and the previous certificate stays in use.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::{BoundListener, ListenerRuntime, Listeners};
use crate::certificates::{RefusedFiles, Validity, ocsp_path, provider};
use crate::config::spec;
use crate::edge::tls::{self, CertificateFault, CertificateSlot, Certificates, TicketKeys};
use crate::snapshot::{CertificateOwner, CertificateState};

/// Result of [`Listeners::renew`].
#[derive(Debug, Default)]
pub struct Renewal {
    /// Names of the listeners with new certificates.
    pub renewed: Vec<String>,
    /// New problems with certificate files. The certificates in use stay in use.
    pub errors: Vec<String>,
}

impl Listeners {
    /// Reads the certificate files and uses those that have changed, unless they are worse than the certificates in use. New
    /// connections use them once the workers have got the updates.
    pub fn renew(&mut self) -> Renewal {
        let mut renewal = Renewal::default();
        for listener in &mut self.bound {
            if listener.runtime.tls.is_some() {
                listener.renew(&self.tickets, &mut renewal);
            }
        }
        renewal
    }

    /// The keys of the tickets of all listeners.
    pub fn tickets(&self) -> &TicketKeys {
        &self.tickets
    }

    /// Whether files that were refused may be acceptable now although they have not changed: a certificate has become valid.
    pub fn may_renew(&self) -> bool {
        let now = SystemTime::now();
        let mut bound = self.bound.iter();
        bound.any(|s| s.certificates.may_have_become_valid(now))
    }

    /// Paths of all certificate, key, client CA and OCSP files, except those that the proxy writes itself.
    pub fn certificate_files(&self) -> Vec<PathBuf> {
        let files = |cert: &spec::Cert| {
            [
                Some(cert.cert.clone()),
                Some(cert.key.clone()),
                cert.client_ca.clone(),
                Some(ocsp_path(&cert.cert)),
            ]
        };
        let certs = self.bound.iter().flat_map(|s| &s.runtime.spec.certs);
        let certs = certs.filter(|cert| !cert.acme);
        certs.flat_map(files).flatten().collect()
    }

    /// The state of every certificate, for the admin API and metrics.
    pub fn certificate_states(&self) -> Vec<CertificateState> {
        let of = |bound: &'_ BoundListener| {
            let listener = bound.runtime.spec.name.clone();
            let slots = bound.certificates.slots().iter();
            let mut states: Vec<_> = slots.map(|slot| state(&listener, slot)).collect();
            let missing = bound.certificates.missing().iter();
            states.extend(missing.map(|cert| missing_state(&listener, cert)));
            states
        };
        self.bound.iter().flat_map(of).collect()
    }
}

fn state(listener: &str, slot: &CertificateSlot) -> CertificateState {
    let current = &slot.current;
    let refused = slot.refused.as_ref();
    CertificateState {
        owner: CertificateOwner::Listener(listener.to_owned()),
        names: current.serves.clone(),
        file: current.spec.cert.clone(),
        is_obtained: current.spec.acme,
        validity: Some(current.validity),
        error: refused.map(RefusedFiles::text),
        since: refused.map(|refused| refused.since),
    }
}

/// The state of a certificate that the proxy has not obtained yet.
fn missing_state(listener: &str, cert: &spec::Cert) -> CertificateState {
    CertificateState {
        owner: CertificateOwner::Listener(listener.to_owned()),
        names: cert.sni.clone(),
        file: cert.cert.clone(),
        is_obtained: true,
        validity: Some(Validity {
            not_before: 0,
            not_after: 0,
        }),
        error: None,
        since: None,
    }
}

impl BoundListener {
    fn renew(&mut self, tickets: &TicketKeys, renewal: &mut Renewal) {
        let (old, now) = (&self.runtime, SystemTime::now());
        let name = &old.spec.name;
        let mut say = |(_, error): &CertificateFault| {
            renewal.errors.push(format!("listener {name}: {error}"))
        };
        let former = Some(&self.certificates);
        let read = Certificates::read(&old.spec.certs, former, &provider(), now);
        let reading = match read {
            Ok(reading) => reading,
            // Not reached: every certificate has a previous one, so that its files are refused instead. Nothing changes.
            Err(faults) => return faults.iter().for_each(say),
        };
        reading.refused.iter().for_each(&mut say);
        if !reading.changed {
            self.certificates = reading.certificates;
            return;
        }
        match tls::CertificateTable::new(&old.spec, &reading.certificates, tickets) {
            Ok(table) => {
                warn(&old.spec, &reading.warnings);
                renewal.renewed.push(name.clone());
                self.runtime = Arc::new(ListenerRuntime {
                    spec: old.spec.clone(),
                    info: old.info.clone(),
                    tls: Some(table),
                    address: old.address.clone(),
                    clients: old.clients.clone(),
                    refusals: old.refusals.clone(),
                    answers: old.answers.clone(),
                });
                self.certificates = reading.certificates;
            }
            Err(fault) => {
                say(&fault);
                self.certificates.refuse(fault, &reading.certificates, now);
            }
        }
    }
}

/// Reads the certificates of a planned listener and builds their table. A certificate whose configuration has not changed stays
/// in use if its files are broken or worse now, so that a reload doesn't fail because a renewal is under way.
///
/// # Errors
/// The problems of certificates that are new in the configuration.
pub(super) fn certificates(
    listener: &spec::ListenerSpec,
    former: Option<&BoundListener>,
    tickets: &TicketKeys,
) -> Result<(Certificates, Option<Arc<tls::CertificateTable>>), Vec<CertificateFault>> {
    if listener.certs.is_empty() {
        return Ok((Certificates::default(), None));
    }
    let now = SystemTime::now();
    let known = former.map(|f| &f.certificates);
    let reading = Certificates::read(&listener.certs, known, &provider(), now)?;
    for (_, error) in &reading.refused {
        tracing::error!(
            listener = listener.name,
            detail = %error,
            "certificate refused, keeping the previous one"
        );
    }
    // The table depends on the certificates, the protocols and the versions of TLS only. It is kept if none has changed.
    let same = former.filter(|f| {
        let spec = &f.runtime.spec;
        let policy = |of: &spec::ListenerSpec| (of.h1, of.h2, of.tls_min);
        spec.certs == listener.certs && policy(spec) == policy(listener)
    });
    let table = former.and_then(|f| f.runtime.tls.clone());
    if let (Some(_), Some(table), false) = (same, &table, reading.changed) {
        return Ok((reading.certificates, Some(table.clone())));
    }
    match tls::CertificateTable::new(listener, &reading.certificates, tickets) {
        Ok(table) => {
            warn(listener, &reading.warnings);
            Ok((reading.certificates, Some(table)))
        }
        Err(fault) => match same {
            Some(present) => {
                tracing::error!(
                    listener = listener.name,
                    detail = %fault.1,
                    "certificates refused, keeping the previous ones"
                );
                let mut kept = present.certificates.clone();
                kept.refuse(fault, &reading.certificates, now);
                Ok((kept, table))
            }
            None => Err(vec![fault]),
        },
    }
}

fn warn(listener: &spec::ListenerSpec, warnings: &[CertificateFault]) {
    for (_, warning) in warnings {
        tracing::warn!(listener = listener.name, "{warning}");
    }
}
