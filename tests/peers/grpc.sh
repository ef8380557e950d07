#!/usr/bin/env bash
# A client of grpc-go calls a server of grpc-go through the proxy, over clear text and TLS: gRPC's interoperability cases. If Go or
# grpc-go is missing, apt installs it (as root).
#
# Skipped with a message where it can't.
set -euo pipefail
cd "$(dirname "$0")/../.."

library=/usr/share/gocode
is_there() { command -v go > /dev/null && [ -d "$library/src/google.golang.org/grpc" ]; }
if ! is_there && command -v apt-get > /dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends golang-go golang-google-grpc-dev || true
fi
if ! is_there || ! command -v openssl > /dev/null; then
    echo "skipped: it needs openssl and, by apt, golang-go and golang-google-grpc-dev" >&2
    exit 0
fi

cargo build --quiet --bin cutover
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout "$directory/key.pem" -out "$directory/cert.pem" 2> /dev/null
GO111MODULE=off GOPATH=$library go build -o "$directory/calls" tests/peers/grpc/main.go
"$directory/calls" "${CARGO_TARGET_DIR:-target}/debug/cutover" "$directory"
