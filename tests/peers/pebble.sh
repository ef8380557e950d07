#!/usr/bin/env bash
# Obtains certificates from a real ACME authority: Pebble, Let's Encrypt's own for tests, which is installed by `go install`.
#
# Skipped with a message where there is no Go.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v go > /dev/null; then
    echo "skipped: Pebble is installed by go, which is missing" >&2
    exit 0
fi
directory=$(mktemp -d)
processes=()
cleanup() {
    [ ${#processes[@]} -eq 0 ] || kill "${processes[@]}" 2> /dev/null || true
    rm -rf "$directory"
}
trap cleanup EXIT

GOBIN=$directory/bin go install github.com/letsencrypt/pebble/v2/cmd/pebble@latest github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv@latest
source=$(go list -m -f '{{.Dir}}' github.com/letsencrypt/pebble/v2@latest 2> /dev/null || true)
[ -n "$source" ] || source=$(ls -d "$(go env GOMODCACHE)"/github.com/letsencrypt/pebble/v2@* | tail -n 1)

export PEBBLE_CHALLTESTSRV=http://127.0.0.1:18055 PEBBLE_HTTP_PORT=15002 PEBBLE_TLS_PORT=15001
cat > "$directory/config.json" << JSON
{ "pebble": {
    "listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000",
    "certificate": "$source/test/certs/localhost/cert.pem", "privateKey": "$source/test/certs/localhost/key.pem",
    "httpPort": $PEBBLE_HTTP_PORT, "tlsPort": $PEBBLE_TLS_PORT, "ocspResponderURL": "", "externalAccountBindingRequired": false
} }
JSON
"$directory/bin/pebble-challtestsrv" -defaultIPv6 "" -defaultIPv4 127.0.0.1 -http01 "" -https01 "" -tlsalpn01 "" -doh "" \
    -dns01 127.0.0.1:18053 -management 127.0.0.1:18055 > "$directory/dns.log" 2>&1 &
processes+=($!)
PEBBLE_VA_NOSLEEP=1 "$directory/bin/pebble" -config "$directory/config.json" -dnsserver 127.0.0.1:18053 > "$directory/pebble.log" 2>&1 &
processes+=($!)
for _ in $(seq 100); do
    (: < /dev/tcp/127.0.0.1/14000) 2> /dev/null && break
    sleep 0.1
done

export CUTOVER_PEBBLE=https://localhost:14000/dir CUTOVER_PEBBLE_CA=$source/test/certs/pebble.minica.pem
test=acme::pebble_issues_certificates
output=$(cargo test --test it -- --exact "$test" --nocapture 2>&1) || { echo "$output"; tail -n 50 "$directory/pebble.log"; exit 1; }
echo "$output"
# A filter that matches nothing would pass too.
if ! grep -q "1 passed" <<< "$output" || grep -q "skipped" <<< "$output"; then
    echo "the test did not run" >&2
    exit 1
fi
