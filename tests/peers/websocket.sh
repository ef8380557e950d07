#!/usr/bin/env bash
# A real Chromium opens a WebSocket through the proxy on the HTTP/2 connection that it loaded the page on (RFC 8441).
#
# Skipped with a message where there is no Chromium, chromedriver, node or openssl.
set -euo pipefail
cd "$(dirname "$0")/../.."

for program in node chromedriver openssl; do
    if ! command -v $program > /dev/null; then
        echo "skipped: $program is missing" >&2
        exit 0
    fi
done
if ! command -v chromium > /dev/null && ! command -v chromium-browser > /dev/null && ! command -v google-chrome > /dev/null; then
    echo "skipped: there is no Chromium" >&2
    exit 0
fi

cargo build --quiet --bin cutover
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout "$directory/key.pem" -out "$directory/cert.pem" 2> /dev/null
node tests/peers/websocket/run.mjs "${CARGO_TARGET_DIR:-target}/debug/cutover" "$directory"
