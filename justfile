# Every routine of the project. `just` lists them; only cargo and gcc are needed to run any of the first group.

default:
    @just --list

# Two origins, traffic and a live view; nothing else needed.
demo:
    cargo run --release -- demo

# Unit and integration tests.
test *ARGS:
    cargo test {{ARGS}}

# The integration tests alone, or those whose path contains FILTER.
it *FILTER:
    cargo test --test it -- {{FILTER}}

# 1,000 names that are looked up every second, for SECONDS; shows requests above 10 ms, cores and memory. Needs a quiet machine.
names SECONDS="600":
    CUTOVER_NAMES_SECONDS={{SECONDS}} cargo test --release --test it -- --exact names::many_names_are_looked_up_every_second --nocapture

# A hundred certificates are renewed under RATE handshakes a second: none fails.
renewals RATE="500":
    CUTOVER_RENEWALS_RATE={{RATE}} cargo test --test it -- renewals --nocapture

# Tests of HTTP/2 with the h2 crate instead of our own codec, to see whether a failure is the codec's.
h2-crate *FILTER="h2 http2 grpc":
    cargo test --features h2-crate --test it -- {{FILTER}}

# What every change must pass.
ci:
    .ci/run

fmt:
    cargo fmt --all

lint:
    cargo clippy --all-targets -- -D warnings

# Optimised in a minute or two: for a first look, and for measuring while working.
release:
    cargo build --release

# What packages contain and benches measure: link-time optimisation over all crates.
dist:
    cargo build --profile dist

# The dashboard in a real Chromium, with chromedriver and node; about two minutes.
dashboard:
    tests/peers/dashboard.sh

# The admin API against its OpenAPI description, by schemathesis, which pip installs into target; some minutes.
schemathesis *ARGS:
    tests/peers/schemathesis.sh {{ARGS}}

# Pictures of the dashboard for README, in docs/images; some minutes.
screenshots:
    tests/peers/dashboard.sh --screenshots

# Needs cargo-deny: licences, bans and sources are checked without a network.
deny:
    cargo deny --offline check bans licenses sources

# Needs cargo-fuzz and a nightly toolchain.
fuzz TARGET:
    cargo +nightly fuzz run {{TARGET}}

# cutover beside nginx and HAProxy, about half an hour; what is missing is named. `just bench --case get1k` for one case.
bench *ARGS:
    cargo run --release --manifest-path benches/harness/Cargo.toml -- bench --write {{ARGS}}

# What 50 open pages of the dashboard cost the control thread and the workers, with 1 and with 1,000 services: two minutes. `--rounds 100`
# where the machine is not quiet.
pages *ARGS:
    cargo run --release --manifest-path benches/harness/Cargo.toml -- bench --case pages {{ARGS}}

# Instructions of each step of a request (parse, find, match, split, pick, serialise, record) against the budgets beside the code.
# Needs valgrind. `--write` keeps them in benches/INSTRUCTIONS.md, `--step NAME` counts one.
instructions *ARGS:
    cargo bench --bench instructions -- {{ARGS}}

# The guard's false alarms and times to detection in simulated traffic, a quarter of an hour. `--write` keeps them in benches/GUARD.md,
# `--only WORD` runs some scenarios, `--scale 0.1` a tenth of the rollouts.
guard *ARGS:
    cargo bench --bench guard --profile release -- {{ARGS}}

# ROLLOUTS of equal versions on a fleet of five under load, 20 at a time: at most one in a hundred is taken back. Needs etcd.
fleet-aa ROLLOUTS="200":
    CUTOVER_FLEET_AA={{ROLLOUTS}} cargo test --test it -- fleet_equal:: --nocapture

# The same with simulated counts and without processes: many more ROLLOUTS in less time.
fleet-aa-simulated ROLLOUTS="1000":
    CUTOVER_FLEET_AA={{ROLLOUTS}} cargo test --release --lib -- equal_versions_are_rarely --nocapture

# Many members of a fleet in one process on a real etcd: how soon the last one hears of a step, and what etcd needs. Needs etcd.
fleet-crowd MEMBERS="300":
    CUTOVER_FLEET_CROWD={{MEMBERS}} cargo test --release --lib -- all_members_of_a_large_fleet --nocapture

# SCHEDULES of random failures of a fleet and its etcd, some at a time: a quarter of an hour. A schedule is repeated by its SEED. Needs etcd.
fleet-chaos SCHEDULES="100" SEED="":
    CUTOVER_FLEET_CHAOS={{SCHEDULES}} CUTOVER_SEED={{SEED}} cargo test --test it -- no_schedule_of_failures --nocapture

# A fleet whose network is cut, in network namespaces; as root, five minutes. Needs etcd. `just fleet-partition driver` for one case.
fleet-partition *CASE:
    tests/peers/partition.sh {{CASE}}

# What a proxy keeps, logs and tries for MINUTES without a usable etcd, under a light load.
fleet-alone MINUTES="10":
    CUTOVER_FLEET_ALONE={{MINUTES}} cargo test --test it -- without_etcd_keeps --nocapture

# Members of a fleet with the program of an older COMMIT beside those of this one, which is built first. Needs etcd.
fleet-older *COMMIT:
    tests/peers/older.sh {{COMMIT}}

# A rollout whose process is killed a thousand times at random instants: some minutes.
kills:
    CUTOVER_KILLS=1000 cargo test --test it -- rollout_kills --nocapture

# What each step takes, by criterion.
micro *ARGS:
    cargo bench --bench http1 --bench routing --bench steps -- {{ARGS}}

# Which code is hot under load, for `just package` to build with. Needs llvm-tools of rustup; a quarter of an hour.
profile:
    packaging/profile.sh

# A static binary, a Debian package (needs cargo-deb) and an OCI image (needs umoci), in target/package.
package:
    packaging/package.sh

# The package under a real systemd 252 and 257, in containers. As root; apt installs what is missing.
systemd-test *SUITES:
    tests/peers/systemd.sh {{SUITES}}

# The OCI image of `just package` under a real runc. As root; apt installs what is missing.
oci-test:
    tests/peers/oci.sh

# Certificates from a real ACME authority, which apt or go installs if it is missing.
pebble:
    tests/peers/pebble.sh

# The manifests of docs/kubernetes.md and config/prometheus against the schemas of Kubernetes. pip installs the checker into target.
kubernetes:
    tests/peers/kubernetes.sh

# Rollout queries against a real Prometheus, which apt installs if it is missing.
prometheus:
    tests/peers/prometheus.sh

# Calls of grpc-go through the proxy, which apt installs if it is missing.
grpc:
    tests/peers/grpc.sh

# The conformance suites h2spec and h2specd for HTTP/2, which `go install` installs if they are missing.
h2spec:
    tests/peers/h2spec.sh

# PROXY protocol headers of a real HAProxy, which apt installs if it is missing.
haproxy:
    tests/peers/haproxy.sh
