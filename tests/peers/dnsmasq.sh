#!/usr/bin/env bash
# Follows names that a real dnsmasq serves, which is installed with apt if it is missing (as root).
#
# Without it `cargo test` skips that test, which this script doesn't accept.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v dnsmasq > /dev/null; then
    if ! command -v apt-get > /dev/null || [ "$(id -u)" != 0 ]; then
        echo "skipped: dnsmasq isn't installed, and apt-get can't install it here" >&2
        exit 0
    fi
    apt-get update
    # Only the program is needed, not its service.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install --yes --no-install-recommends dnsmasq-base
fi
dnsmasq --version | sed -n 1p

output=$(cargo test --test it -- --exact names::a_real_dnsmasq_is_followed --nocapture 2>&1) || { echo "$output"; exit 1; }
echo "$output"
# A filter that matches nothing would pass too.
if ! grep -q "1 passed" <<< "$output" || grep -q "skipped" <<< "$output"; then
    echo "the test did not run" >&2
    exit 1
fi
