#!/usr/bin/env bash
# Asks a running proxy whatever its OpenAPI description (docs/openapi.json) allows and forbids, by schemathesis: no answer that isn't
# described, and none of 5xx. More arguments go to schemathesis: `--max-examples=1000`.
#
# pip installs schemathesis into target; skipped with a message where it can't.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${CARGO_TARGET_DIR:-target}
tools=$target/schemathesis
if ! [ -x "$tools/bin/schemathesis" ]; then
    if ! python3 -m venv "$tools" 2> /dev/null || ! "$tools/bin/pip" install --quiet 'schemathesis>=4,<5'; then
        rm -rf "$tools"
        echo "skipped: pip can't install schemathesis" >&2
        exit 0
    fi
fi

cargo build --quiet --bin cutover
directory=$(mktemp -d)
proxy=
trap '[ -z "$proxy" ] || kill "$proxy" 2> /dev/null; rm -rf "$directory"' EXIT
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
(umask 077 && echo the-token-of-this-test > "$directory/token")
cat > "$directory/cutover.toml" << TOML
workers = 1
state_dir = "$directory/state"

[admin]
listen = "127.0.0.1:$port"
token_file = "$directory/token"

[listen.http]
bind = "unix:$directory/http.sock"

[service.shop]
hosts = ["shop.example.com"]
stable = "v1"
split = { v2 = "rollout" }
cohort.by = ["ip"]
[service.shop.versions]
v1 = ["127.0.0.1:1"]
v2 = ["127.0.0.1:2"]
[service.shop.rollout]
steps = ["1% for 1h"]
[service.shop.mirror]
to = "v2"

[service.plain]
hosts = ["plain.example.com"]
stable = "v1"
split = { v2 = "5%" }
cohort.by = ["ip"]
[service.plain.versions]
v1 = ["127.0.0.1:1"]
v2 = ["127.0.0.1:2"]
[service.plain.flags]
new-checkout.share = "10%"
TOML
"$target/debug/cutover" run -c "$directory/cutover.toml" > "$directory/log" 2>&1 &
proxy=$!
for _ in $(seq 100); do
    "$target/debug/cutover" status -c "$directory/cutover.toml" > /dev/null 2>&1 && break
    sleep 0.1
done

# Streams have no end, so they are left to tests/it. A request that is valid for the description may be refused for its content: a
# service that doesn't exist, a share of 300 %.
description=$PWD/docs/openapi.json
tools=$(realpath "$tools")
# It leaves its notes in the current directory.
cd "$directory"
"$tools/bin/schemathesis" run "$description" \
    --url "http://127.0.0.1:$port" \
    --header "Authorization: Bearer the-token-of-this-test" \
    --exclude-path /api/v1/events --exclude-path /api/v1/logs \
    --checks all --exclude-checks positive_data_acceptance \
    --max-examples 100 --workers 1 --suppress-health-check all \
    "$@"
kill -0 "$proxy"
