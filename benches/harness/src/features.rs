//! What each feature adds to a GET 1 KiB: the same requests to a proxy with the feature and to one without.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::cases::Stage;
use crate::load::{Load, get};
use crate::order::shuffled;
use crate::peers::{self, Contender, Kind, Running};
use crate::report::{Table, with_range};
use crate::rounds::{Sample, sample_spread};
use crate::stats::{median, spread};
use crate::valgrind::{self, Launch};
use crate::{Result, together};

/// What a feature needs in the file. `{dir}` is a directory of its own, `{origin}` the origin's address.
struct Feature {
    name: &'static str,
    /// Keys of the service.
    service: &'static str,
    /// Tables after the service's.
    tables: &'static str,
}

const NOTHING: Feature = Feature {
    name: "nothing",
    service: "",
    tables: "",
};

const COHORT: &str = "cohort = { by = [\"cookie:uid\", \"ip\"] }\n";

/// The first is what the others are compared with.
const FEATURES: [Feature; 18] = [
    NOTHING,
    Feature {
        name: "access log, JSON",
        tables: "[access_log]\nto = \"{dir}/access.log\"\n",
        ..NOTHING
    },
    Feature {
        name: "access log, 1 % of ordinary requests",
        tables: "[access_log]\nto = \"{dir}/access.log\"\nsample = \"1%\"\n",
        ..NOTHING
    },
    Feature {
        name: "header edits: two of the request, two of the response",
        tables: "[service.app.headers.request]\nset = { x-env = \"prod\", x-real-ip = \"{client_ip}\" }\n[service.app.headers.response]\nset = { cache-control = \"no-store\" }\nremove = [\"server\"]\n",
        ..NOTHING
    },
    Feature {
        name: "rewrite by a regular expression",
        service: "rewrite = { regex = \"^/(.*)$\", to = \"/$1\" }\n",
        ..NOTHING
    },
    Feature {
        name: "split, 5 % of the requests",
        service: "split = { v2 = \"5%\" }\n",
        ..NOTHING
    },
    Feature {
        name: "split, 5 % of the users by a cookie",
        service: "split = { v2 = \"5%\" }\ncohort = { by = [\"cookie:uid\", \"ip\"] }\n",
        ..NOTHING
    },
    Feature {
        name: "sticky sessions, each request begins one",
        service: "sticky = { to = \"endpoint\" }\n",
        ..NOTHING
    },
    Feature {
        name: "five match rules, none holds",
        tables: "[[service.app.match]]\nwhen = { header.x-canary = \"always\" }\nto = \"v2\"\n[[service.app.match]]\nwhen = { cookie.beta = \"yes\" }\nto = \"v2\"\n[[service.app.match]]\nwhen = { query.debug = \"*\" }\nto = \"v2\"\n[[service.app.match]]\nwhen = { path = \"/admin/*\" }\nto = \"v2\"\n[[service.app.match]]\nwhen = { ip = \"10.0.0.0/8\" }\nto = \"v2\"\n",
        ..NOTHING
    },
    Feature {
        name: "limits by client's address",
        tables: "[service.app.client_limits]\nrequests = \"1000000/s\"\n",
        ..NOTHING
    },
    Feature {
        name: "a flag for 10 % of the users",
        service: COHORT,
        tables: "[service.app.flags.checkout]\nshare = \"10%\"\n",
    },
    Feature {
        name: "a goal",
        tables: "[service.app.goals]\npurchase = \"POST /checkout 2xx\"\n",
        ..NOTHING
    },
    Feature {
        name: "shield",
        service: "shield = true\nsplit = { v2 = \"5%\" }\n",
        ..NOTHING
    },
    Feature {
        name: "mirror of 1 %",
        tables: "[service.app.mirror]\nto = \"v2\"\nshare = \"1%\"\n",
        ..NOTHING
    },
    Feature {
        name: "hedge after the 99.9th percentile",
        service: "hedge = \"p999\"\n",
        ..NOTHING
    },
    Feature {
        name: "rollout at 50 % with its guard",
        service: "split = { v2 = \"rollout\" }\n",
        tables: "[service.app.rollout]\nsteps = [\"50% until approved\"]\n",
    },
    Feature {
        name: "traces, 1 % of the requests",
        tables: "[trace]\notlp = \"http://{origin}\"\nsample = \"1%\"\n",
        ..NOTHING
    },
    Feature {
        name: "all of a front door: log, edits, cohort, rules, limits, flag, goal, rollout, traces",
        service: "split = { v2 = \"rollout\" }\ncohort = { by = [\"cookie:uid\", \"ip\"] }\nshield = true\n",
        tables: "[service.app.rollout]\nsteps = [\"50% until approved\"]\n[service.app.goals]\npurchase = \"POST /checkout 2xx\"\n[service.app.flags.checkout]\nshare = \"10%\"\n[service.app.client_limits]\nrequests = \"1000000/s\"\n[[service.app.match]]\nwhen = { header.x-canary = \"always\" }\nto = \"v2\"\n[service.app.headers.request]\nset = { x-env = \"prod\" }\n[service.app.headers.response]\nremove = [\"server\"]\n[trace]\notlp = \"http://{origin}\"\nsample = \"1%\"\n[access_log]\nto = \"{dir}/access.log\"\n",
    },
];

/// What every request carries, whether the feature looks at it or not.
const FIELDS: &str = "user-agent: bench/1\r\ncookie: theme=dark; uid=7312894\r\n";

/// One proxy with one feature.
struct Entry<'a> {
    contender: &'a Contender,
    binary: &'a Path,
    feature: &'a Feature,
    running: Option<Running>,
    /// Samples at the same time of the proxy without any feature, and of this one.
    pairs: Vec<(Sample, Sample)>,
    failure: Option<String>,
}

/// Runs the case.
pub fn run(stage: &Stage) -> Result<Table> {
    let mut entries = start_all(stage);
    shuffled(stage.bench.rounds, entries.len(), |at| {
        // Each contender's features are in order, and the first has none.
        let without = at - at % FEATURES.len();
        if at == without {
            return;
        }
        let running = [without, at].map(|at| entries[at].running.as_ref());
        let [Some(without), Some(with)] = running else {
            return;
        };
        let sample = |proxy: &Running| {
            let load = load_of(stage, proxy.plain);
            sample_spread(stage, proxy, &load, &[get("/1k", FIELDS)])
        };
        let mut samples = together::sample_all(&[without, with], sample).into_iter();
        match (samples.next(), samples.next()) {
            (Some(Ok(without)), Some(Ok(with))) => entries[at].pairs.push((without, with)),
            (Some(Err(error)), _) | (_, Some(Err(error))) => {
                entries[at].failure = Some(error.to_string());
                entries[at].running = None;
            }
            _ => {}
        }
    });
    for entry in &mut entries {
        entry.running = None;
    }
    let valgrind = valgrind::find(stage);
    let counted = entries
        .iter()
        .map(|entry| count(stage, valgrind.as_deref().ok(), entry))
        .collect::<Vec<_>>();
    let mut table = tabulate(&entries, &counted);
    if let Err(reason) = valgrind {
        table.notes.push(reason.to_owned());
    }
    Ok(table)
}

fn start_all<'a>(stage: &Stage<'a>) -> Vec<Entry<'a>> {
    let mut entries = Vec::new();
    for contender in stage.contenders {
        let Kind::Cutover(binary) = &contender.kind else {
            continue;
        };
        for feature in &FEATURES {
            let (running, failure) = match start(stage, contender, binary, feature) {
                Ok(running) => (Some(running), None),
                Err(error) => (None, Some(error.to_string())),
            };
            entries.push(Entry {
                contender,
                binary,
                feature,
                running,
                pairs: Vec::new(),
                failure,
            });
        }
    }
    entries
}

fn start(
    stage: &Stage,
    contender: &Contender,
    binary: &Path,
    feature: &Feature,
) -> Result<Running> {
    let launch = prepare(stage, contender, binary, feature)?;
    let mut command = Command::new(&launch.program);
    command.args(&launch.arguments);
    let core = stage.bench.proxy_core;
    let at = [launch.plain; 3];
    peers::launch(&contender.name, command, &launch.dir, core, at)
}

/// Writes the configuration.
fn prepare(
    stage: &Stage,
    contender: &Contender,
    binary: &Path,
    feature: &Feature,
) -> Result<Launch> {
    let place = FEATURES.iter().position(|f| std::ptr::eq(f, feature));
    let name = format!(
        "features-{}-{}",
        contender.name,
        place.unwrap_or(FEATURES.len())
    );
    let dir = stage.scratch.dir(&name)?;
    let plain = peers::free_address()?;
    let file = dir.join("conf");
    fs::write(&file, text(feature, &dir, plain, stage.origin.plain))?;
    Ok(Launch {
        program: binary.to_owned(),
        arguments: vec!["run".into(), "-c".into(), file],
        dir,
        plain,
    })
}

fn text(feature: &Feature, dir: &Path, plain: SocketAddr, origin: SocketAddr) -> String {
    let text = format!(
        "workers = 1\nstate_dir = \"{{dir}}\"\nlisten = \"{plain}\"\n\n\
         [defaults.limits]\nconnections = 0\npending = 0\nrequests = 0\n\n\
         [service.app]\nstable = \"v1\"\nversions = {{ v1 = [\"{origin}\"], v2 = [\"{origin}\"] }}\n{}{}",
        feature.service, feature.tables
    );
    text.replace("{dir}", &dir.display().to_string())
        .replace("{origin}", &origin.to_string())
}

fn load_of(stage: &Stage, target: SocketAddr) -> Load {
    Load {
        target,
        connections: stage.bench.connections,
        request: Vec::new(),
        body: 1024,
        tls: None,
        fresh: false,
        rate: None,
        warm_up: Duration::from_millis(500),
        length: stage.bench.length,
    }
}

/// The instructions of a request with the feature; `None` where they can't be counted.
fn count(stage: &Stage, valgrind: Option<&Path>, entry: &Entry) -> Option<f64> {
    if entry.failure.is_some() {
        return None;
    }
    let load = load_of(stage, stage.origin.plain);
    valgrind::instructions(valgrind?, stage, (&load, 4), &[get("/1k", FIELDS)], || {
        prepare(stage, entry.contender, entry.binary, entry.feature)
    })
    .ok()
}

fn tabulate(entries: &[Entry], counted: &[Option<f64>]) -> Table {
    let mut table = Table {
        head: [
            "proxy and feature",
            "CPU µs/request",
            "with / without",
            "price, µs",
            "instructions/request",
            "with / without",
            "errors",
        ]
        .map(str::to_owned)
        .to_vec(),
        notes: vec![
            "with / without: over the proxy without any of them under the same load at the same time; CPU time of all threads, so that of the log's, the control and the mirror's included".to_owned(),
        ],
        ..Table::default()
    };
    for (at, entry) in entries.iter().enumerate() {
        let name = format!("{}, {}", entry.contender.name, entry.feature.name);
        if let Some(failure) = &entry.failure {
            let note = format!("{name} is left out: {}", failure.trim());
            table.notes.push(note);
            continue;
        }
        let without = at - at % FEATURES.len();
        let costs: Vec<_> = match at == without {
            true => { entries[at..][..FEATURES.len()].iter() }
                .flat_map(|entry| entry.pairs.iter().map(|(without, _)| without.cost))
                .collect(),
            false => entry.pairs.iter().map(|(_, with)| with.cost).collect(),
        };
        let ratio = spread({ entry.pairs.iter() }.map(|(without, with)| with.cost / without.cost));
        let price = spread({ entry.pairs.iter() }.map(|(without, with)| with.cost - without.cost));
        let instructions = counted[at].map(|each| format!("{each:.0}"));
        let more = counted[at]
            .zip(counted[without])
            .map(|(with, without)| format!("{:.2}", with / without));
        let missing = || "–".to_owned();
        table.rows.push(vec![
            name,
            format!("{:.2}", median(costs.into_iter())),
            with_range(ratio),
            with_range(price),
            instructions.unwrap_or_else(missing),
            more.unwrap_or_else(missing),
            { entry.pairs.iter() }
                .map(|(_, with)| with.errors)
                .sum::<u64>()
                .to_string(),
        ]);
    }
    table
}
