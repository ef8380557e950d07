//! Whether a request costs the same in a large configuration as in a small one: services, routes and rules, endpoints, connections.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::ptr;
use std::time::Duration;

use crate::cases::Stage;
use crate::load::Load;
use crate::order::shuffled;
use crate::peers::{self, Contender, Kind, Running};
use crate::report::{Table, with_range};
use crate::rounds::{self, Sample, sample_spread};
use crate::stats::{median, spread};
use crate::town::Town;
use crate::valgrind::{self, Launch};
use crate::{Result, copy, cpu, together};

struct Size {
    name: &'static str,
    town: Town,
    connections: usize,
}

const SMALL: Town = Town {
    services: 1,
    routes: 1,
    rules: 1,
    endpoints: 2,
    versions: 1,
};

/// The first is what the others are measured against.
const SIZES: [Size; 6] = [
    Size {
        name: "1 service, 1 route, 1 rule, 2 endpoints, 64 connections",
        town: SMALL,
        connections: 64,
    },
    Size {
        name: "10,000 routes",
        town: Town {
            routes: 10_000,
            ..SMALL
        },
        connections: 64,
    },
    Size {
        name: "1,000 endpoints",
        town: Town {
            endpoints: 1000,
            ..SMALL
        },
        connections: 64,
    },
    Size {
        name: "1,000 services",
        town: Town {
            services: 1000,
            ..SMALL
        },
        connections: 64,
    },
    Size {
        name: "1,000 services, 10,000 routes, 10,000 rules",
        town: Town {
            services: 1000,
            routes: 10,
            rules: 10,
            ..SMALL
        },
        connections: 64,
    },
    Size {
        name: "8,000 connections",
        town: SMALL,
        connections: 8000,
    },
];

/// One proxy in one size.
struct Entry<'a> {
    proxy: rounds::Entry<'a>,
    size: &'a Size,
    requests: Vec<Vec<u8>>,
    /// Its own: the connections of all of them would be too many for one process.
    origin: Running,
}

impl Entry<'_> {
    fn sample(&self, stage: &Stage, running: &Running) -> Result<Sample> {
        let stage = Stage {
            origin: &self.origin,
            ..*stage
        };
        let load = load_of(running.plain, self.size.connections, stage.bench.length);
        sample_spread(&stage, running, &load, &self.requests)
    }
}

/// Takes a sample of each proxy in the same size at the same moment.
fn sample_together(stage: &Stage, entries: Vec<&mut Entry>) {
    let mut samples = {
        let running: Vec<_> = entries
            .iter()
            .filter_map(|e| e.proxy.running.as_ref())
            .collect();
        let samples = together::sample_all(&running, |running| {
            let is_it = |e: &&&mut Entry| {
                e.proxy
                    .running
                    .as_ref()
                    .is_some_and(|r| ptr::eq(r, running))
            };
            let entry = entries.iter().find(is_it).ok_or("no such proxy")?;
            entry.sample(stage, running)
        });
        samples.into_iter()
    };
    for entry in entries {
        let sampled = entry
            .proxy
            .running
            .is_some()
            .then(|| samples.next())
            .flatten();
        entry.proxy.add(sampled);
    }
}

/// Whether a contender runs in `SIZES[at]`. To the byte copy, sizes with equally many endpoints and connections are the same.
fn takes_part(kind: &Kind, at: usize) -> bool {
    let sockets = |size: &Size| (size.town.all_endpoints(), size.connections);
    let measured = || { SIZES[..at].iter() }.any(|before| sockets(before) == sockets(&SIZES[at]));
    match kind {
        Kind::Cutover(_) => true,
        // Another program in the same sizes shows how much of it is the kernel's.
        Kind::Nginx { large } => !large,
        Kind::Copy => !measured(),
        Kind::Haproxy => false,
    }
}

/// Runs the case.
pub fn run(stage: &Stage) -> Result<Table> {
    let mut entries = start_all(stage)?;
    if stage.bench.together {
        shuffled(stage.bench.rounds, SIZES.len(), |at| {
            let of_size = |e: &&mut Entry| ptr::eq(e.size, &SIZES[at]);
            sample_together(stage, entries.iter_mut().filter(of_size).collect());
        });
    } else {
        shuffled(stage.bench.rounds, entries.len(), |at| {
            let entry = &mut entries[at];
            let sampled = entry.proxy.running.as_ref().map(|r| entry.sample(stage, r));
            entry.proxy.add(sampled);
        });
    }
    let mut table = tabulate(&entries, stage.bench.together);
    let measured: Vec<(&Contender, &Size)> = entries
        .iter()
        .filter(|e| e.proxy.failure.is_none())
        .map(|e| (e.proxy.contender, e.size))
        .collect();
    drop(entries);
    count(stage, &measured, &mut table);
    Ok(table)
}

fn start_all<'a>(stage: &Stage<'a>) -> Result<Vec<Entry<'a>>> {
    let mut entries = Vec::new();
    for contender in stage.contenders {
        for (at, size) in SIZES.iter().enumerate() {
            if !takes_part(&contender.kind, at) {
                continue;
            }
            let origin = peers::start_origin(stage.bench.load_core, size.town.addresses())?;
            let stage = Stage {
                origin: &origin,
                ..*stage
            };
            let (running, failure) = match start(&stage, contender, size) {
                Ok(running) => (Some(running), None),
                Err(error) => (None, Some(error.to_string())),
            };
            let proxy = rounds::Entry {
                contender,
                running,
                samples: Vec::new(),
                failure,
            };
            entries.push(Entry {
                proxy,
                size,
                requests: size.town.requests(),
                origin,
            });
        }
    }
    Ok(entries)
}

fn start(stage: &Stage, contender: &Contender, size: &Size) -> Result<Running> {
    let launch = prepare(stage, contender, size)?;
    let mut command = Command::new(launch.program);
    command.args(launch.arguments);
    peers::launch(
        &contender.name,
        command,
        &launch.dir,
        stage.bench.proxy_core,
        [launch.plain; 3],
    )
}

/// Writes the configuration, and returns how the program is started with it.
fn prepare(stage: &Stage, contender: &Contender, size: &Size) -> Result<Launch> {
    let place = SIZES.iter().position(|s| ptr::eq(s, size));
    let name = format!("scale-{}-{}", contender.name, place.unwrap_or(SIZES.len()));
    let dir = stage.scratch.dir(&name)?;
    let (town, plain, origin) = (&size.town, peers::free_address()?, stage.origin.plain);
    let conf = dir.join("conf");
    let (program, arguments) = match &contender.kind {
        Kind::Copy => (
            std::env::current_exe()?,
            copy::arguments(town, plain, origin),
        ),
        Kind::Cutover(binary) => {
            fs::write(&conf, cutover(town, &dir, plain, origin))?;
            (binary.clone(), vec!["run".into(), "-c".into(), conf])
        }
        _ => {
            fs::write(&conf, nginx(town, &dir, plain, origin))?;
            (
                peers::installed("nginx").ok_or("nginx is missing")?,
                peers::nginx_arguments(&dir, &conf).into(),
            )
        }
    };
    Ok(Launch {
        program,
        arguments,
        dir,
        plain,
    })
}

fn cutover(town: &Town, dir: &Path, plain: SocketAddr, origin: SocketAddr) -> String {
    format!(
        "workers = 1\nstate_dir = \"{}\"\nlisten = \"{plain}\"\n\n[defaults.limits]\nconnections = 0\npending = 0\nrequests = 0\n\n{}",
        dir.display(),
        town.cutover(origin, 0, 0)
    )
}

fn nginx(town: &Town, dir: &Path, plain: SocketAddr, origin: SocketAddr) -> String {
    let dir = dir.display();
    let user = match rustix::process::geteuid().is_root() {
        true => "user root;\n",
        false => "",
    };
    format!(
        "daemon off;\nworker_processes 1;\npid {dir}/pid;\n{user}error_log {dir}/error.log warn;
worker_rlimit_nofile 40000;
events {{ worker_connections 39000; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  keepalive_requests 1000000000; keepalive_timeout 600s;
{}  proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
  server {{ listen {plain} backlog=4096; location / {{ proxy_pass http://$pool; }} }}
}}
",
        town.nginx(origin)
    )
}

fn load_of(target: SocketAddr, connections: usize, length: Duration) -> Load {
    Load {
        target,
        connections,
        request: Vec::new(),
        body: 1024,
        tls: None,
        fresh: false,
        rate: None,
        // Each connection has had its first answer, and its place in every pool.
        warm_up: Duration::from_millis(500 + connections as u64 / 3),
        length,
    }
}

fn tabulate(entries: &[Entry], together: bool) -> Table {
    let mut table = Table {
        head: [
            "proxy and size",
            "CPU µs/request",
            "large / small",
            "outside the kernel",
            "large / small",
            "requests/s",
            "resident MiB",
            "errors",
        ]
        .map(str::to_owned)
        .to_vec(),
        notes: vec![
            "large / small: CPU time per request over that of the first line of the same proxy in the same round".to_owned(),
        ],
        ..Table::default()
    };
    if together {
        table.head.push("first / theirs".to_owned());
        table.notes.push("first / theirs: CPU time per request of the first proxy in the same size over that of this one at the same moment".to_owned());
    }
    if entries.iter().any(|e| e.proxy.contender.kind == Kind::Copy) {
        table.notes.push("copy is no proxy: it passes the same bytes on unread, by the same system calls, between as many sockets. Its growth is that of the kernel's work and of the CPU's cache misses, which a proxy has as well".to_owned());
    }
    for entry in entries {
        let name = format!("{}, {}", entry.proxy.contender.name, entry.size.name);
        if let Some(failure) = &entry.proxy.failure {
            table
                .notes
                .push(format!("{name} is left out: {}", failure.trim()));
            continue;
        }
        let base = entries.iter().find(|e| {
            e.proxy.contender.name == entry.proxy.contender.name && ptr::eq(e.size, &SIZES[0])
        });
        let ratio = |figure: fn(&Sample) -> f64| {
            let pairs = base?.proxy.samples.iter().zip(&entry.proxy.samples);
            spread(pairs.map(|(small, large)| figure(large) / figure(small)))
        };
        let own = entry.proxy.samples.iter().map(|s| s.outside_kernel);
        let memory = entry
            .proxy
            .running
            .as_ref()
            .map_or(0, |r| cpu::memory(&r.pids).0);
        table.rows.push(vec![
            name,
            format!("{:.2}", median(entry.proxy.samples.iter().map(|s| s.cost))),
            with_range(ratio(|s| s.cost)),
            format!("{:.2}", median(own)),
            with_range(ratio(|s| s.outside_kernel)),
            format!(
                "{:.0}",
                median(entry.proxy.samples.iter().map(|s| s.per_second))
            ),
            format!("{:.0}", memory as f64 / 1024.0),
            entry
                .proxy
                .samples
                .iter()
                .map(|s| s.errors)
                .sum::<u64>()
                .to_string(),
        ]);
        if together {
            let first = entries.iter().find(|e| ptr::eq(e.size, entry.size));
            let pairs = first
                .into_iter()
                .flat_map(|first| first.proxy.samples.iter().zip(&entry.proxy.samples));
            let ratio = spread(pairs.map(|(first, own)| first.cost / own.cost));
            table
                .rows
                .last_mut()
                .into_iter()
                .for_each(|row| row.push(with_range(ratio)));
        }
    }
    table
}

/// Adds to each row the instructions of a request outside the kernel, as far as valgrind is there to count them.
fn count(stage: &Stage, measured: &[(&Contender, &Size)], table: &mut Table) {
    let valgrind = match valgrind::find(stage) {
        Ok(valgrind) => valgrind,
        Err(reason) => {
            table.notes.push(reason.to_owned());
            return;
        }
    };
    table
        .head
        .extend(["instructions/request", "large / small"].map(str::to_owned));
    let mut small = None;
    for ((contender, size), row) in measured.iter().zip(&mut table.rows) {
        if !matches!(contender.kind, Kind::Cutover(_)) {
            continue;
        }
        let each = peers::start_origin(stage.bench.load_core, size.town.addresses());
        let each = each.and_then(|origin| {
            let stage = Stage {
                origin: &origin,
                ..*stage
            };
            let requests = size.town.requests();
            // Longer than all connections need for their first answers under valgrind.
            let warm_up = 4 + size.connections as u64 / 500;
            let load = load_of(origin.plain, size.connections, Duration::ZERO);
            valgrind::instructions(&valgrind, &stage, (&load, warm_up), &requests, || {
                prepare(&stage, contender, size)
            })
        });
        match each {
            Ok(each) => {
                if ptr::eq(*size, &SIZES[0]) {
                    small = Some(each);
                }
                row.push(format!("{each:.0}"));
                row.push(small.map_or_else(String::new, |small| format!("{:.2}", each / small)));
            }
            Err(error) => {
                row.extend(["–", "–"].map(str::to_owned));
                let name = size.name;
                let note = format!("instructions with {name} are left out: {error}");
                table.notes.push(note);
            }
        }
    }
    table.notes.push("instructions: outside the kernel, counted by valgrind, in which every other cost of time (ticks, connections) weighs some fifty times as much as in life".to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_copy_leaves_out_sizes_that_differ_only_in_routes_or_rules() {
        let sizes = |kind| (0..SIZES.len()).filter(move |at| takes_part(&kind, *at));
        let names: Vec<&str> = sizes(Kind::Copy).skip(1).map(|at| SIZES[at].name).collect();
        assert_eq!(
            names,
            ["1,000 endpoints", "1,000 services", "8,000 connections"]
        );
        assert_eq!(sizes(Kind::Nginx { large: false }).count(), SIZES.len());
    }
}
