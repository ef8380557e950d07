#!/usr/bin/env bash
# Runs h2spec, the conformance suite for servers of HTTP/2, against listeners with TLS and with clear text. If it is missing, `go
# install` installs it for the run.
#
# Skipped with a message where it can't. Without it `cargo test` skips this test, which this script doesn't accept.
set -euo pipefail
cd "$(dirname "$0")/../.."

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
if ! h2spec=$(command -v h2spec); then
    if ! command -v go > /dev/null; then
        echo "skipped: neither h2spec nor go, which can install it, is there" >&2
        exit 0
    fi
    GOBIN=$directory go install github.com/summerwind/h2spec/cmd/h2spec@latest
    h2spec=$directory/h2spec
fi
"$h2spec" --version

output=$(CUTOVER_H2SPEC=$h2spec cargo test --test it -- --exact h2spec::all_of_h2spec_passes --nocapture 2>&1) || { echo "$output"; exit 1; }
echo "$output"
# A filter that matches nothing would pass too.
if ! grep -q "1 passed" <<< "$output" || grep -q "skipped:" <<< "$output"; then
    echo "the test did not run" >&2
    exit 1
fi
