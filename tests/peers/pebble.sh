#!/usr/bin/env bash
# Obtains certificates from a real ACME authority: Pebble, Let's Encrypt's own for tests. If it is missing, apt installs it (as root),
# or `go install` where there is no such package.
#
# Skipped with a message where neither can.
set -euo pipefail
cd "$(dirname "$0")/../.."

directory=$(mktemp -d)
processes=()
cleanup() {
    [ ${#processes[@]} -eq 0 ] || kill "${processes[@]}" 2> /dev/null || true
    rm -rf "$directory"
}
trap cleanup EXIT

if ! command -v pebble > /dev/null && command -v apt-get > /dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends pebble || true
fi
if ! command -v pebble > /dev/null; then
    if ! command -v go > /dev/null; then
        echo "skipped: neither apt-get nor go can install Pebble here" >&2
        exit 0
    fi
    package=github.com/letsencrypt/pebble/v2/cmd
    GOBIN=$directory go install "$package/pebble@latest" "$package/pebble-challtestsrv@latest"
    PATH=$directory:$PATH
fi

# The certificate of the directory, by an authority of its own.
key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2)
openssl req -x509 "${key[@]}" -subj "/CN=authority of the test" -keyout "$directory/ca.key" -out "$directory/ca.pem" 2> /dev/null
openssl req "${key[@]:0:4}" -nodes -subj "/CN=localhost" -keyout "$directory/key.pem" -out "$directory/request.pem" 2> /dev/null
printf 'subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n' > "$directory/extensions"
openssl x509 -req -in "$directory/request.pem" -CA "$directory/ca.pem" -CAkey "$directory/ca.key" -CAcreateserial -days 2 \
    -extfile "$directory/extensions" -out "$directory/cert.pem" 2> /dev/null

export PEBBLE_HTTP_PORT=15002 PEBBLE_TLS_PORT=15001 CUTOVER_PEBBLE_CA=$directory/ca.pem
export CUTOVER_PEBBLE=https://localhost:14000/dir CUTOVER_PEBBLE_EAB=https://localhost:14001/dir
export CUTOVER_PEBBLE_KID=kid-1 CUTOVER_PEBBLE_HMAC=zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W
# Newer versions listen for DNS over HTTPS, too. The help is an error for them.
help=$(pebble-challtestsrv -help 2>&1 || true)
doh=()
[[ $help != *-doh* ]] || doh=(-doh "")
pebble-challtestsrv -defaultIPv6 "" -defaultIPv4 127.0.0.1 -http01 "" -https01 "" -tlsalpn01 "" "${doh[@]}" \
    -dns01 127.0.0.1:18053 -management 127.0.0.1:18055 > "$directory/dns.log" 2>&1 &
processes+=($!)
# authority NAME PORT MORE: two of them, of which the second wants accounts that are bound to others.
authority() {
    cat > "$directory/$1.json" << JSON
{ "pebble": {
    "listenAddress": "127.0.0.1:$2", "managementListenAddress": "127.0.0.1:$(($2 + 2000))",
    "certificate": "$directory/cert.pem", "privateKey": "$directory/key.pem",
    "httpPort": $PEBBLE_HTTP_PORT, "tlsPort": $PEBBLE_TLS_PORT, "ocspResponderURL": "", $3
} }
JSON
    PEBBLE_VA_NOSLEEP=1 pebble -config "$directory/$1.json" -dnsserver 127.0.0.1:18053 > "$directory/$1.log" 2>&1 &
    processes+=($!)
}
authority open 14000 '"externalAccountBindingRequired": false'
authority bound 14001 "\"externalAccountBindingRequired\": true, \"externalAccountMACKeys\": { \"$CUTOVER_PEBBLE_KID\": \"$CUTOVER_PEBBLE_HMAC\" }"
for port in 14000 14001; do
    for _ in $(seq 100); do
        (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null && break
        sleep 0.1
    done
done

output=$(cargo test --test it -- --exact acme::pebble_issues_certificates acme::pebble_binds_an_external_account \
    --test-threads 1 --nocapture 2>&1) || { echo "$output"; tail -n 50 "$directory"/*.log; exit 1; }
echo "$output"
# A filter that matches nothing would pass too.
if ! grep -q "2 passed" <<< "$output" || grep -q "skipped" <<< "$output"; then
    echo "the tests did not run" >&2
    exit 1
fi
