//! The certificates of listeners: read for a plan, read again when their files change, and their state for operators.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::{BoundListener, ListenerRuntime, Listeners};
use crate::config::spec;
use crate::edge::tls::{self, CertificateFault, CertificateSlot, Certificates};
use crate::snapshot::CertificateState;

/// What came of looking at the certificates again.
#[derive(Debug, Default)]
pub(crate) struct Renewal {
    /// Listeners with new certificates.
    pub renewed: Vec<String>,
    /// What is wrong with the files of others, and was not before: these keep the former certificates.
    pub errors: Vec<String>,
}

impl Listeners {
    /// Looks at the certificate files: those that changed are used from now on, if they are not worse.
    pub(crate) fn renew(&mut self) -> Renewal {
        let mut renewal = Renewal::default();
        for standing in &mut self.standing {
            if standing.runtime.tls.is_some() {
                standing.renew(&mut renewal);
            }
        }
        renewal
    }

    /// Whether files that were refused may be good by now without having changed: a certificate whose time has come.
    pub(crate) fn may_renew(&self) -> bool {
        let now = SystemTime::now();
        let mut standing = self.standing.iter();
        standing.any(|s| s.certificates.may_have_ripened(now))
    }

    /// Every certificate file that is in use.
    pub(crate) fn certificate_files(&self) -> Vec<PathBuf> {
        let files = |cert: &spec::Cert| {
            [
                Some(cert.cert.clone()),
                Some(cert.key.clone()),
                cert.client_ca.clone(),
            ]
        };
        let certs = self.standing.iter().flat_map(|s| &s.runtime.spec.certs);
        certs.flat_map(files).flatten().collect()
    }

    /// Every certificate, as an operator wants to see it.
    pub(crate) fn certificate_states(&self) -> Vec<CertificateState> {
        let of = |standing: &'_ BoundListener| {
            let listener = standing.runtime.spec.name.clone();
            let slots = standing.certificates.slots().to_vec();
            slots.into_iter().map(move |slot| state(&listener, &slot))
        };
        self.standing.iter().flat_map(of).collect()
    }
}

fn state(listener: &str, slot: &CertificateSlot) -> CertificateState {
    let current = &slot.current;
    let refused = slot.refused.as_ref();
    let error = |refused: &tls::RefusedFiles| {
        let errors: Vec<String> = refused.errors.iter().map(ToString::to_string).collect();
        errors.join("\n")
    };
    CertificateState {
        listener: listener.to_owned(),
        names: current.serves.clone(),
        file: current.spec.cert.clone(),
        not_before: current.validity.not_before,
        not_after: current.validity.not_after,
        error: refused.map(error),
        since: refused.map(|refused| refused.since),
    }
}

impl BoundListener {
    fn renew(&mut self, renewal: &mut Renewal) {
        let (old, now) = (&self.runtime, SystemTime::now());
        let name = &old.spec.name;
        let mut say = |(_, error): &CertificateFault| {
            renewal.errors.push(format!("listener {name}: {error}"))
        };
        let former = Some(&self.certificates);
        let read = Certificates::read(&old.spec.certs, former, &tls::provider(), now);
        let reading = match read {
            Ok(reading) => reading,
            // Each certificate has a former one, which stays.
            Err(faults) => return faults.iter().for_each(say),
        };
        reading.refused.iter().for_each(&mut say);
        if !reading.changed {
            self.certificates = reading.certificates;
            return;
        }
        match tls::CertificateTable::new(&old.spec, &reading.certificates, old.tls.as_deref()) {
            Ok(table) => {
                warn(&old.spec, &reading.warnings);
                renewal.renewed.push(name.clone());
                self.runtime = Arc::new(ListenerRuntime {
                    spec: old.spec.clone(),
                    listening: old.listening.clone(),
                    tls: Some(table),
                    place: old.place.clone(),
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

/// The certificates of a listener that is planned, and their table. Those whose configuration did not change stay where
/// their files are worse now: an edit elsewhere is not refused for a renewal under way.
pub(super) fn certificates(
    listener: &spec::ListenerSpec,
    former: Option<&BoundListener>,
) -> Result<(Certificates, Option<Arc<tls::CertificateTable>>), Vec<CertificateFault>> {
    if listener.certs.is_empty() {
        return Ok((Certificates::default(), None));
    }
    let now = SystemTime::now();
    let known = former.map(|f| &f.certificates);
    let reading = Certificates::read(&listener.certs, known, &tls::provider(), now)?;
    for (_, error) in &reading.refused {
        tracing::error!(
            listener = listener.name,
            detail = %error,
            "certificate refused, keeping the previous one"
        );
    }
    // The same certificates under the same protocols have the same table.
    let same = former.filter(|f| {
        let spec = &f.runtime.spec;
        spec.certs == listener.certs && (spec.h1, spec.h2) == (listener.h1, listener.h2)
    });
    let table = former.and_then(|f| f.runtime.tls.clone());
    if let (Some(_), Some(table), false) = (same, &table, reading.changed) {
        return Ok((reading.certificates, Some(table.clone())));
    }
    match tls::CertificateTable::new(listener, &reading.certificates, table.as_deref()) {
        Ok(table) => {
            warn(listener, &reading.warnings);
            Ok((reading.certificates, Some(table)))
        }
        Err(fault) => match same {
            Some(standing) => {
                tracing::error!(
                    listener = listener.name,
                    detail = %fault.1,
                    "certificates refused, keeping the previous ones"
                );
                let mut kept = standing.certificates.clone();
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
