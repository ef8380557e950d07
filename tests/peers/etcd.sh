#!/usr/bin/env bash
# Members of a fleet, and the client of etcd by itself, against a real etcd of one and of three members, which is installed with apt
# if it is missing (as root).
#
# Without it `cargo test` skips these tests, which this script doesn't accept.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v etcd > /dev/null || ! command -v etcdctl > /dev/null; then
    if ! command -v apt-get > /dev/null || [ "$(id -u)" != 0 ]; then
        echo "skipped: etcd isn't installed, and apt-get can't install it here" >&2
        exit 0
    fi
    apt-get update
    # Only the programs are needed, not the service.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install --yes --no-install-recommends etcd-server etcd-client
fi
etcd --version | sed -n 1p
# Asks for the tests that take minutes.
export CUTOVER_ETCD=1

output=
# Shows what the tests print, with the times that they have measured, and keeps it.
run() {
    local printed
    printed=$(cargo test "$@" 2>&1) || { echo "$printed"; exit 1; }
    echo "$printed"
    output+=$printed
}
run --lib -- control::etcd::real_tests --nocapture
run --test it -- fleet:: --nocapture
# One after the other: they measure how fast members follow.
run --test it -- fleet_rollouts:: --nocapture --test-threads 1
run --test it -- fleet_outages:: --nocapture
run --test it -- fleet_changes:: --nocapture
CUTOVER_FLEET_CHAOS=3 run --test it -- fleet_chaos:: --nocapture
run --test it -- acme_fleet:: --nocapture
run --test it -- fleet_tables:: --nocapture
run --test it -- demo:: --nocapture
# A filter that matches nothing would pass too.
if grep -q "skipped" <<< "$output" || grep -q "result: ok. 0 passed" <<< "$output"; then
    echo "tests did not run" >&2
    exit 1
fi
echo "all passed"
