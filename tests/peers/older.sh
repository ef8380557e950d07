#!/usr/bin/env bash
# Members of a fleet that run an older program beside those of this build: the oldest commit whose members share rollouts, or the
# one that is named. It is built in `target/older`, in some minutes. Shared tables are tried with programs that refuse restored ones,
# which they do since 08fbd7e; b7c592b is the last one without timelines.
#
# Needs etcd, see tests/peers/etcd.sh. `cargo test` skips these tests, which this script doesn't accept.
set -euo pipefail
cd "$(dirname "$0")/../.."

commit=${1:-a924f2a}
if ! command -v etcd > /dev/null || ! command -v etcdctl > /dev/null; then
    echo "skipped: etcd isn't installed"
    exit 0
fi
if ! git cat-file -e "$commit^{commit}" 2> /dev/null; then
    echo "skipped: this repository has no commit $commit, as after a shallow clone"
    exit 0
fi
source=$(mktemp -d)
trap 'git worktree remove --force "$source/tree" 2> /dev/null || true; rm -rf "$source"' EXIT
git worktree add --quiet --detach "$source/tree" "$commit"
CARGO_TARGET_DIR=$PWD/target/older cargo build --manifest-path "$source/tree/Cargo.toml"
git log -1 --format='older program: %h %s' "$commit"

output=$(CUTOVER_OLDER=$PWD/target/older/debug/cutover cargo test --test it -- fleet_older:: --nocapture --test-threads 1 2>&1) \
    || { echo "$output"; exit 1; }
echo "$output"
# A filter that matches nothing would pass too.
if grep -q "skipped" <<< "$output" || ! grep -q "result: ok. 3 passed" <<< "$output"; then
    echo "tests did not run" >&2
    exit 1
fi
