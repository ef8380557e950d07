#!/usr/bin/env bash
# A real Chromium opens a WebSocket through the proxy on the HTTP/2 connection that it loaded the page on (RFC 8441).
#
# Skipped with a message where there is no Chromium, chromedriver, node or openssl.
set -euo pipefail
cd "$(dirname "$0")/../.."

. tests/peers/chromium.sh
require_chromium openssl

cargo build --quiet --bin cutover
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout "$directory/key.pem" -out "$directory/cert.pem" 2> /dev/null
node tests/peers/websocket/run.mjs "${CARGO_TARGET_DIR:-target}/debug/cutover" "$directory"
