#!/usr/bin/env bash
# Exports spans to a real OTLP receiver: rotel, an OpenTelemetry collector, which is installed from PyPI into a directory of its own.
#
# Without it `cargo test` skips that test, which this script doesn't accept.
set -euo pipefail
cd "$(dirname "$0")/../.."

directory=$(mktemp -d)
receiver=
cleanup() {
    [ -z "$receiver" ] || kill "$receiver" 2> /dev/null || true
    rm -rf "$directory"
}
trap cleanup EXIT

python3 -m pip download --quiet --no-deps --dest "$directory" rotel
(cd "$directory" && python3 -m zipfile -e rotel-*.whl .)
agent=$directory/rotel/rotel-agent
chmod +x "$agent"
"$agent" --version

# It writes the spans that it receives into its log.
"$agent" start --otlp-http-endpoint 127.0.0.1:14318 --otlp-grpc-endpoint 127.0.0.1:14317 --exporter blackhole \
    --debug-log traces --debug-log-verbosity detailed > "$directory/log" 2>&1 &
receiver=$!
for _ in $(seq 100); do
    (: < /dev/tcp/127.0.0.1/14318) 2> /dev/null && break
    sleep 0.1
done

export CUTOVER_OTLP_PEER=http://127.0.0.1:14318
test=traces::a_real_receiver_takes_the_spans
output=$(cargo test --test it -- --exact "$test" --nocapture 2>&1) || { echo "$output"; cat "$directory/log"; exit 1; }
echo "$output"
# A filter that matches nothing would pass too.
if ! grep -q "1 passed" <<< "$output" || grep -q "skipped" <<< "$output"; then
    echo "the test did not run" >&2
    exit 1
fi
# What it has understood, by its own decoder.
for expected in "GET app/v1" "http.response.status_code" "cutover.version" "0af7651916cd43dd8448eb211c80319c"; do
    if ! grep -q "$expected" "$directory/log"; then
        tail -n 50 "$directory/log"
        echo "the receiver's log lacks $expected" >&2
        exit 1
    fi
done
echo "the receiver has understood the spans"
