//! Property test: `explain` and the data path make the same decision for any configuration, endpoint states and request.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::config;
use crate::http1::{Framing, Method};
use crate::http2::{BlockLimits, Decoder, Encoder, HeadBlock, HeadKind, Indexing};
use crate::index::{EndpointIx, VersionIx};
use crate::net::clock::wall_s;
use crate::proxy::headers::{H1Fields, Request, RequestId};
use crate::proxy::placing::{Placed, Placement, place};
use crate::proxy::{Peer, Worker};
use crate::routing::Chosen;
use crate::routing::sticky::SealingKey;
use crate::snapshot::fixtures::compiled;
use crate::snapshot::{Keys, Previous};
use crate::telemetry::WorkerId;
use crate::upstream::endpoint::flag;

const VERSIONS: [&str; 4] = ["v1", "v2", "v3", "old"];

/// A random configuration, state and request.
#[derive(Clone, Debug)]
struct Case {
    /// Shares of v2 and v3 in percent.
    shares: (u32, u32),
    cohort: bool,
    sticky: bool,
    finish: bool,
    fallback: bool,
    panic: bool,
    /// One bit for each endpoint: whether it is down.
    down: u8,
    preview: bool,
    x_to: Option<&'static str>,
    user: Option<u16>,
    /// The version and endpoint of the session that the request carries, or a forged cookie.
    session: Option<Option<(usize, usize)>>,
}

fn cases() -> impl Strategy<Value = Case> {
    let shares = prop_oneof![
        Just((0, 0)),
        (0u32..=5, 0u32..=5).prop_map(|(a, b)| (a * 10, b * 10))
    ];
    let x_to = proptest::option::of(proptest::sample::select(vec!["v2", "only-v2", "nowhere"]));
    let session = proptest::option::of(proptest::option::weighted(0.8, (0usize..4, 0usize..2)));
    let flags = (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        proptest::bool::weighted(0.1),
    );
    let user = proptest::option::of(any::<u16>());
    let down = prop_oneof![Just(0u8), any::<u8>()];
    (shares, flags, down, x_to, user, session).prop_map(
        |(
            shares,
            (cohort, sticky, finish, fallback, panic, preview),
            down,
            x_to,
            user,
            session,
        )| {
            Case {
                shares,
                cohort,
                sticky,
                finish,
                fallback,
                panic,
                down,
                preview,
                x_to,
                user,
                session,
            }
        },
    )
}

impl Case {
    fn file(&self) -> String {
        let mut file = format!(
            "listen = \"127.0.0.1:8080\"\n[service.shop]\nstable = \"v1\"\n\
             split = {{ v2 = \"{}%\", v3 = \"{}%\" }}\noutlier = {{ panic = \"{}\" }}\n",
            self.shares.0,
            self.shares.1,
            if self.panic { "50%" } else { "0%" },
        );
        for (wanted, line) in [
            (self.fallback, "fallback = \"old\"\n"),
            (self.finish, "finish_sessions = \"30m\"\n"),
            (self.cohort, "cohort.by = [\"cookie:uid\"]\n"),
            (self.sticky, "sticky = { to = \"endpoint\" }\n"),
        ] {
            file.push_str(if wanted { line } else { "" });
        }
        file.push_str("[service.shop.versions]\n");
        for version in &VERSIONS[..3] {
            file.push_str(&format!(
                "{version} = [\"{version}a:1\", \"{version}b:1\"]\n"
            ));
        }
        file.push_str(
            "[service.shop.versions.old]\nendpoints = [\"olda:1\", \"oldb:1\"]\npreview = \"old.test\"\n",
        );
        for (value, strict) in [("v2", false), ("only-v2", true)] {
            file.push_str(&format!(
                "[[service.shop.match]]\nwhen = {{ header.x-to = \"{value}\" }}\nto = \"v2\"\nstrict = {strict}\n"
            ));
        }
        file
    }

    fn snapshot(&self) -> Snapshot {
        let spec = config::parse(&self.file(), "test.toml").expect("a valid file");
        let key = Arc::new(SealingKey::new(&[7; 32]).expect("long enough"));
        let keys = Keys::from([(None, key)]);
        let snapshot = compiled(&Arc::new(spec), Previous::Nothing, true, (&keys, wall_s()));
        for (at, (_, endpoint)) in snapshot.endpoints().enumerate() {
            if self.down >> at & 1 == 1 {
                endpoint.state.raise(flag::DOWN);
            }
        }
        snapshot
    }

    /// The request's own header fields.
    fn fields(&self, snapshot: &Snapshot) -> Vec<(&'static str, String)> {
        let service = &snapshot.services[0];
        let mut fields = Vec::new();
        if let Some(value) = self.x_to {
            fields.push(("x-to", value.to_owned()));
        }
        if let Some(user) = self.user {
            fields.push(("cookie", format!("uid={user}")));
        }
        if let Some(session) = self.session {
            let sealed = session.and_then(|(version, member)| {
                let member = (VersionIx(version), EndpointIx(member));
                let sessions = service.sessions.as_ref()?;
                let set = sessions.cookie(service, None, member, wall_s(), false)?;
                Some(set.split(';').next()?.to_owned())
            });
            fields.push(("cookie", sealed.unwrap_or("cutover=forged".to_owned())));
        }
        fields
    }

    fn host(&self) -> &'static str {
        if self.preview {
            "old.test"
        } else {
            "shop.test"
        }
    }
}

/// These fields as a head that was received.
fn head_of(fields: &[(&str, String)]) -> HeadBlock {
    let (mut block, mut encoder) = (Vec::new(), Encoder::new());
    encoder.begin(&mut block);
    for (name, value) in fields {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        encoder.put(&mut block, name, value, Indexing::Incremental);
    }
    let limits = BlockLimits {
        bytes: 1 << 16,
        fields: 100,
    };
    let mut head = HeadBlock::default();
    let decoded = Decoder::new().decode(&block, HeadKind::Trailers, &limits, &mut head);
    assert!(decoded.is_ok() && head.malformed.is_none(), "{head:?}");
    head
}

/// Where a worker places 40 of these requests in a row.
fn placed(snapshot: &Arc<Snapshot>, case: &Case, fields: &[(&str, String)]) -> Vec<Placed> {
    let (suspects, _) = tokio::sync::mpsc::unbounded_channel();
    let worker = Worker::new(WorkerId(0), snapshot.clone(), suspects);
    let peer = Peer::new(None, false, None, Arc::new([]), &[]);
    let head = head_of(fields);
    let request = Request {
        fields: H1Fields {
            head: &head.bytes,
            fields: &head.fields,
        },
        method: Method::Get,
        method_text: b"GET",
        authority: case.host().as_bytes(),
        host: case.host(),
        target: b"/",
        path_len: 1,
        typed_path: b"/",
        framing: Framing::Empty,
        ends_with_head: true,
        expect_continue: false,
        upgrade: None,
        te_trailers: false,
        via: None,
        peer: &peer,
        client: peer.ip,
        id: RequestId::of(None, &mut fastrand::Rng::with_seed(1)),
    };
    let found = snapshot.table.find(case.host(), b"/").expect("a route");
    let service = &snapshot.services[found.service];
    (0..40)
        .map(|_| match place(&worker, service, found.preview, &request) {
            Placement::Forward(placed) => placed,
            Placement::Answer(answered) => panic!("{answered:?}"),
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn explain_and_the_data_path_agree(case in cases()) {
        let snapshot = Arc::new(case.snapshot());
        let fields = case.fields(&snapshot);
        let headers: Vec<String> = fields.iter().map(|(n, v)| format!("{n}: {v}")).collect();
        let request = DescribedRequest::new(&format!("http://{}/", case.host()), None, &headers, None);
        let explanation = explain(&snapshot, &request.expect("a request"));
        let placed = placed(&snapshot, &case, &fields);
        let versions = &snapshot.services[0].versions;
        let reached: BTreeSet<_> = placed.iter().map(|p| &*versions[p.aim.version].name).collect();
        // Every share is at least a tenth, so that the exact split reaches each version within 40 requests.
        let expected: BTreeSet<_> = match &explanation.version {
            Some(version) => BTreeSet::from([&**version]),
            None => explanation
                .candidates
                .iter()
                .map(|c| c.instead.as_deref().unwrap_or(&c.version))
                .collect(),
        };
        prop_assert_eq!(&reached, &expected, "{:?}", explanation.why);
        for placed in &placed {
            prop_assert_eq!(placed.rule.map(|rule| rule.0), explanation.rule);
            let session = placed.chosen == Chosen::Session;
            prop_assert!(!session || explanation.session.is_some());
            if session {
                let version = &versions[placed.aim.version];
                let endpoint = placed.aim.endpoint.map(|at| &*version.pool.members[at].endpoint.name);
                let stays = explanation.session.as_ref().and_then(|s| s.endpoint.as_deref());
                prop_assert_eq!(endpoint, stays);
            }
            prop_assert_eq!(placed.chosen == Chosen::Cohort, explanation.cohort.is_some() && !failed_over(&explanation));
        }
    }
}

fn failed_over(explanation: &Explanation) -> bool {
    explanation.candidates.iter().any(|c| c.instead.is_some())
}
