#!/usr/bin/env bash
# Runs the queries of rollouts against a real Prometheus, which is installed with apt if it is missing (as root).
#
# Without it `cargo test` skips that test, which this script doesn't accept.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v prometheus > /dev/null; then
    apt-get update
    # Only the program is needed, not its service.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install --yes --no-install-recommends prometheus
fi
prometheus --version 2>&1 | sed -n 1p

run() {
    output=$(cargo test "$@" --nocapture 2>&1) || { echo "$output"; exit 1; }
    echo "$output"
    # A filter that matches nothing would pass too.
    if ! grep -q "1 passed" <<< "$output" || grep -q "skipped" <<< "$output"; then
        echo "the test did not run" >&2
        exit 1
    fi
}

run --lib -- --exact control::outcall::prometheus::tests::a_real_prometheus_answers
run --test it -- --exact rollout_verdicts::a_real_prometheus_that_is_killed_holds_the_step_until_it_answers_again
