//! The two sides that the guard of a rollout compares: a canary and stable, or the users with a flag and those without.

use std::sync::Arc;

use crate::config::rollout::RolloutSubject;
use crate::config::spec::ServiceSpec;
use crate::index::{FlagIx, VersionIx};
use crate::rollout::guard::SideNames;
use crate::snapshot::{Service, Version};
use crate::telemetry::guard::GuardCounters;
use crate::telemetry::latency::BUCKETS;
use crate::telemetry::record::FlagState;
use crate::upstream::Endpoint;

/// The sides that are compared, as indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sides {
    /// Two versions. Without a canary the guard only learns from stable.
    Versions {
        stable: VersionIx,
        canary: Option<VersionIx>,
    },
    /// The users with this flag and those without, whatever their versions.
    Flag(FlagIx),
}

/// The counters of both sides.
pub(super) struct ComparedSides<'a> {
    /// The side that the other one is compared with.
    pub stable: SideCounters<'a>,
    pub canary: Option<SideCounters<'a>>,
    /// The endpoints that serve `stable`.
    pub endpoints: Vec<&'a Arc<Endpoint>>,
    /// Number of endpoints that serve `canary`.
    pub canary_endpoints: usize,
    /// Latencies of `stable` since its counters began.
    pub latency: [u64; BUCKETS],
}

/// The counters of one side, and a name that distinguishes them from others.
pub(super) struct SideCounters<'a> {
    pub name: String,
    /// The counters; `None` in a snapshot that was compiled before the side was judged.
    pub counters: Option<&'a GuardCounters>,
}

impl Sides {
    /// The sides of a service's rollout.
    pub(super) fn of(spec: &ServiceSpec) -> Self {
        match spec.rolling {
            Some(RolloutSubject::Flag(flag)) => Self::Flag(flag),
            Some(RolloutSubject::Version(version)) => Self::Versions {
                stable: spec.stable,
                canary: Some(version),
            },
            None => Self::Versions {
                stable: spec.stable,
                canary: None,
            },
        }
    }

    /// The names of the sides in messages.
    pub(super) fn names(self) -> SideNames {
        match self {
            Self::Versions { .. } => SideNames::VERSIONS,
            Self::Flag(_) => SideNames::FLAG,
        }
    }

    /// The counters of both sides in a snapshot of the service.
    pub(super) fn compared(self, service: &Service) -> ComparedSides<'_> {
        match self {
            Self::Versions { stable, canary } => {
                let stable = &service.versions[stable];
                let canary = canary.map(|version| &service.versions[version]);
                ComparedSides {
                    stable: of_version(stable),
                    canary: canary.map(of_version),
                    endpoints: endpoints([stable]),
                    canary_endpoints: canary.map_or(1, |version| version.pool.members.len()),
                    latency: stable.metrics.totals().latency.buckets,
                }
            }
            Self::Flag(flag) => of_flag(service, flag),
        }
    }
}

fn of_version(version: &Version) -> SideCounters<'_> {
    SideCounters {
        name: version.name.to_string(),
        counters: version.guard.as_deref(),
    }
}

fn of_flag(service: &Service, flag: FlagIx) -> ComparedSides<'_> {
    let rolling = service.rolling_flag.as_ref();
    let rolling = rolling.filter(|rolling| rolling.flag == flag);
    let side = |state: FlagState| SideCounters {
        // No version has such a name.
        name: format!("{} {state}", service.routing.flag_names[flag.0]),
        counters: rolling.map(|rolling| rolling.guard.side(state)),
    };
    let endpoints = endpoints(&service.versions);
    ComparedSides {
        stable: side(FlagState::Off),
        canary: Some(side(FlagState::On)),
        // Every endpoint serves users of both sides.
        canary_endpoints: endpoints.len(),
        endpoints,
        latency: rolling.map_or([0; BUCKETS], |rolling| rolling.guard.latency_without()),
    }
}

fn endpoints<'a>(versions: impl IntoIterator<Item = &'a Version>) -> Vec<&'a Arc<Endpoint>> {
    let members = versions.into_iter().flat_map(|v| &v.pool.members);
    members.map(|member| &member.endpoint).collect()
}
