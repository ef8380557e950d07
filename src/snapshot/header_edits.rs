//! Edits of header fields, merged when the configuration is compiled: a request looks its edits up and merges nothing.

use http::HeaderName;

use crate::config::actions::{FieldEdits, HeaderEdits};
use crate::config::spec;
use crate::config::template::Template;
use crate::index::{RuleIx, VersionIx};

/// The edits of a service, for each rule and version that has its own.
#[derive(Debug)]
pub(crate) struct EditTable {
    /// Edits by rule. Empty if the service has no edits at all.
    rows: Box<[Row]>,
    /// For each rule, the index of its row. Rules without edits share the first row.
    row_of: Box<[usize]>,
}

/// The edits by version. The first entry is for requests that no version gets.
type Row = Box<[MergedEdits]>;

/// The edits of a request and its response.
#[derive(Debug)]
pub(crate) struct MergedEdits {
    /// Edits of the request.
    pub(crate) request: Option<CompiledFields>,
    /// Edits of the response.
    pub(crate) response: Option<CompiledFields>,
}

/// Edits of the fields of a head.
#[derive(Debug)]
pub(crate) struct CompiledFields {
    /// Lower-case names of the fields that are dropped.
    drop: Box<[Box<[u8]>]>,
    /// The fields that are added.
    pub(crate) put: Box<[(HeaderName, Template)]>,
}

impl EditTable {
    pub(super) fn new(spec: &spec::ServiceSpec) -> Self {
        let rules = spec.rules.iter().map(|rule| &rule.actions.headers);
        let versions = spec.versions.iter().map(|version| &version.actions.headers);
        let own = &spec.actions.headers;
        let mut all = rules.clone().chain(versions).chain([own]);
        if all.all(HeaderEdits::is_empty) {
            return Self {
                rows: Box::default(),
                row_of: Box::default(),
            };
        }
        let row = |rule: Option<RuleIx>| -> Row {
            let with = VersionIx::all(spec.versions.len()).map(Some);
            let merged = [None].into_iter().chain(with);
            let merged = merged.map(|version| spec.header_edits(rule, version));
            merged.map(|edits| MergedEdits::new(&edits)).collect()
        };
        let mut rows = vec![row(None)];
        let row_of = rules
            .enumerate()
            .map(|(rule, edits)| match edits.is_empty() {
                true => 0,
                false => {
                    rows.push(row(Some(RuleIx(rule))));
                    rows.len() - 1
                }
            });
        Self {
            row_of: row_of.collect(),
            rows: rows.into(),
        }
    }

    /// The edits for requests that this rule matches and this version gets. `None` if the service has no edits.
    #[inline]
    pub(crate) fn of(
        &self,
        rule: Option<RuleIx>,
        version: Option<VersionIx>,
    ) -> Option<&MergedEdits> {
        if self.rows.is_empty() {
            return None;
        }
        let row = rule.map_or(0, |rule| self.row_of[rule.0]);
        self.rows[row].get(version.map_or(0, |version| version.0 + 1))
    }
}

impl MergedEdits {
    /// Compiles edits.
    pub(super) fn new(edits: &HeaderEdits) -> Self {
        Self {
            request: CompiledFields::new(&edits.request),
            response: CompiledFields::new(&edits.response),
        }
    }
}

impl CompiledFields {
    /// Compiles edits; `None` if nothing is edited.
    fn new(edits: &FieldEdits) -> Option<Self> {
        if edits.is_empty() {
            return None;
        }
        let put = edits.put.iter().filter_map(|(name, value)| {
            // The configuration has checked the name.
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, value.clone()))
        });
        Some(Self {
            drop: edits
                .drop
                .iter()
                .map(|name| name.as_bytes().into())
                .collect(),
            put: put.collect(),
        })
    }

    /// Whether received fields of this name, in any case, are dropped.
    #[inline]
    pub(crate) fn drops(&self, name: &[u8]) -> bool {
        self.drop
            .iter()
            .any(|dropped| dropped.eq_ignore_ascii_case(name))
    }
}
