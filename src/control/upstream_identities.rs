//! TLS settings of versions: reads their files, reloads them when they change, and reports their state.
//!
//! As with the certificates of listeners, files that are broken or worse never replace those in use. A changed setting reaches
//! the workers through the version's transport, and connections that were opened before carry no more requests.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::certificates::{CertError, News, RefusedFiles, seconds};
use crate::config::Spec;
use crate::config::spec::UpstreamTls;
use crate::snapshot::{CertificateOwner, CertificateState};
use crate::upstream::Registry;
use crate::upstream::tls::{IdentitySlot, TlsIdentity};

/// The TLS settings of all versions that have their own, in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct UpstreamIdentities {
    versions: Vec<VersionIdentity>,
}

#[derive(Clone, Debug)]
struct VersionIdentity {
    service: String,
    version: String,
    slot: IdentitySlot,
}

/// A problem with the files of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdentityFault {
    /// The service's name.
    pub service: String,
    /// The version's name.
    pub version: String,
    pub error: CertError,
}

/// Result of [`UpstreamIdentities::read`].
#[derive(Debug, Default)]
pub(crate) struct IdentityReading {
    /// The settings to use.
    pub identities: UpstreamIdentities,
    /// The versions, as `service/version`, whose settings are new.
    pub renewed: Vec<String>,
    /// Errors of files that are refused now and were not before. The settings read before them stay in use.
    pub refused: Vec<IdentityFault>,
    /// Warnings about settings that are new.
    pub warnings: Vec<IdentityFault>,
}

impl UpstreamIdentities {
    /// Reads the files of all versions. Where they are broken or worse now, the settings that `former` has for the same
    /// configuration stay in use.
    ///
    /// # Errors
    /// All errors of versions that `former` doesn't have.
    pub(crate) fn read(
        spec: &Spec,
        former: &Self,
        now: SystemTime,
    ) -> Result<IdentityReading, Vec<IdentityFault>> {
        let (mut reading, mut errors) = (IdentityReading::default(), Vec::new());
        for (service, version, tls) in with_tls(spec) {
            let known = { former.versions.iter() }.find(|known| {
                known.service == service
                    && known.version == version
                    && known.slot.current.spec == *tls
            });
            let fault = |error: CertError| IdentityFault {
                service: service.to_owned(),
                version: version.to_owned(),
                error,
            };
            let (slot, news) = match TlsIdentity::read(tls, known.map(|known| &known.slot), now) {
                Ok(read) => read,
                Err(wrong) => {
                    errors.extend(wrong.into_iter().map(fault));
                    continue;
                }
            };
            match news {
                News::None => {}
                News::New => {
                    reading.renewed.push(format!("{service}/{version}"));
                    let warning = slot.current.warning(seconds(now));
                    reading.warnings.extend(warning.map(fault));
                }
                News::Refused => {
                    let refused = slot.refused.iter().flat_map(|r| r.errors.clone());
                    reading.refused.extend(refused.map(fault));
                }
            }
            reading.identities.versions.push(VersionIdentity {
                service: service.to_owned(),
                version: version.to_owned(),
                slot,
            });
        }
        match errors.is_empty() {
            true => Ok(reading),
            false => Err(errors),
        }
    }

    /// Puts the settings in force for every version of `spec`. To be called after its endpoints have been registered.
    pub(crate) fn apply(&self, spec: &Spec, registry: &Registry) {
        for service in &spec.services {
            for version in &service.versions {
                let identity = { self.versions.iter() }
                    .find(|known| known.service == service.name && known.version == version.name);
                let tls = identity.map(|identity| &identity.slot.current.client);
                let header = version.proxy_protocol;
                registry.set_transport(&service.name, &version.name, tls, header);
            }
        }
    }

    /// Paths of all files.
    pub(crate) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let specs = self.versions.iter().map(|known| &known.slot.current.spec);
        let files = specs.flat_map(|tls| [&tls.ca, &tls.cert, &tls.key]);
        files.flatten().cloned()
    }

    /// Whether files that were refused may be acceptable now although they have not changed: a certificate has become valid.
    pub(crate) fn may_renew(&self, now: SystemTime) -> bool {
        self.versions
            .iter()
            .any(|known| known.slot.may_be_ripe(now))
    }

    /// The state of every version's files, for the admin API.
    pub(crate) fn states(&self) -> impl Iterator<Item = CertificateState> {
        self.versions.iter().map(|known| {
            let (current, refused) = (&known.slot.current, known.slot.refused.as_ref());
            CertificateState {
                is_obtained: false,
                owner: CertificateOwner::Version {
                    service: known.service.clone(),
                    version: known.version.clone(),
                },
                names: Vec::new(),
                file: current.file().to_owned(),
                validity: current.validity,
                error: refused.map(RefusedFiles::text),
                since: refused.map(|refused| refused.since),
            }
        })
    }
}

/// The versions that have TLS settings of their own.
fn with_tls(spec: &Spec) -> impl Iterator<Item = (&str, &str, &UpstreamTls)> {
    spec.services.iter().flat_map(|service| {
        let versions = service.versions.iter();
        versions.filter_map(|version| Some((&*service.name, &*version.name, version.tls.as_ref()?)))
    })
}
