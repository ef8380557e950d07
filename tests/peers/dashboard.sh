#!/usr/bin/env bash
# Drives the dashboard in a real Chromium by WebDriver: a bad canary, changes by clicks and by keyboard, a restart, hostile names, and
# accessibility by axe-core, which is fetched from npm.
#
# Skipped with a message where there is no Chromium, chromedriver or node. `--screenshots` writes docs/images instead.
set -euo pipefail
cd "$(dirname "$0")/../.."

. tests/peers/chromium.sh
require_chromium

cargo build --quiet --bin cutover
binary=${CARGO_TARGET_DIR:-target}/debug/cutover
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

if [ "${1:-}" = --screenshots ]; then
    node tests/peers/dashboard/screenshots.mjs "$binary" "$directory" docs/images
    exit
fi

axe=${CUTOVER_AXE:-}
if [ -z "$axe" ] && (cd "$directory" && npm pack --silent axe-core > /dev/null 2>&1 && tar xzf axe-core-*.tgz package/axe.min.js); then
    axe=$directory/package/axe.min.js
fi
node tests/peers/dashboard/run.mjs "$binary" "$directory" "$axe"
