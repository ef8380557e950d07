#!/usr/bin/env bash
# Sends PROXY protocol headers to a real nginx, which is installed with apt if it is missing (as root).
#
# Without it `cargo test` skips that test, which this script doesn't accept.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v nginx > /dev/null; then
    apt-get update
    # Only the program is needed, not its service.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install --yes --no-install-recommends nginx-light
fi
nginx -v

output=$(cargo test --test it -- --exact proxy_protocol_out::a_real_nginx_learns_the_clients --nocapture 2>&1) || { echo "$output"; exit 1; }
echo "$output"
# A filter that matches nothing would pass too.
if ! grep -q "1 passed" <<< "$output" || grep -q "skipped" <<< "$output"; then
    echo "the test did not run" >&2
    exit 1
fi
