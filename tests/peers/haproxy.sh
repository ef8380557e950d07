#!/usr/bin/env bash
# Receives PROXY protocol headers from a real HAProxy and sends them to it. It is installed with apt if it is missing (as root).
#
# Without it `cargo test` skips these tests, which this script doesn't accept.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v haproxy > /dev/null; then
    apt-get update
    # Only the program is needed, not its service.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install --yes --no-install-recommends haproxy
fi
# Not by a pipe: the program would be told that its reader has gone.
version=$(haproxy -v)
echo "${version%%$'\n'*}"

output=$(cargo test --test it -- --exact proxy_protocol::a_real_haproxy_names_its_clients \
    proxy_protocol_out::a_real_haproxy_learns_the_clients --nocapture 2>&1) || { echo "$output"; exit 1; }
echo "$output"
# A filter that matches nothing would pass too.
if ! grep -q "2 passed" <<< "$output" || grep -q "skipped" <<< "$output"; then
    echo "the tests did not run" >&2
    exit 1
fi
