#!/usr/bin/env bash
# Runs h2spec, the conformance suite for servers of HTTP/2, against listeners with TLS and with clear text, and h2specd, the one for
# clients, against the side of endpoints. If they are missing, `go install` installs them for the run.
#
# Skipped with a message where it can't. Without them `cargo test` skips these tests, which this script doesn't accept.
set -euo pipefail
cd "$(dirname "$0")/../.."

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
if ! command -v curl > /dev/null; then
    echo "skipped: it needs curl" >&2
    exit 0
fi
if ! command -v h2spec > /dev/null || ! command -v h2specd > /dev/null; then
    if ! command -v go > /dev/null; then
        echo "skipped: neither h2spec and h2specd nor go, which can install them, are there" >&2
        exit 0
    fi
    suites=github.com/summerwind/h2spec/cmd
    GOBIN=$directory go install "$suites/h2spec@latest" "$suites/h2specd@latest"
    PATH=$directory:$PATH
fi
h2spec --version
CUTOVER_H2SPEC=$(command -v h2spec)
CUTOVER_H2SPECD=$(command -v h2specd)
export CUTOVER_H2SPEC CUTOVER_H2SPECD

output=$(cargo test --test it -- h2spec:: --nocapture 2>&1) || { echo "$output"; exit 1; }
echo "$output"
# A filter that matches nothing would pass too.
if ! grep -q "2 passed" <<< "$output" || grep -q "skipped:" <<< "$output"; then
    echo "the tests did not run" >&2
    exit 1
fi
