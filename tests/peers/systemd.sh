#!/usr/bin/env bash
# systemd.sh SUITE…: installs the Debian package in a container that boots a real systemd, and starts, reloads, restarts, kills and hangs
# the service there. `bookworm` has systemd 252, `trixie` 257; both are tested without an argument.
#
# Needs root, debootstrap and systemd-nspawn (both are installed with apt if they are missing) and the package of `just package`.
# The container has a network of its own. The roots are kept in $CUTOVER_ROOTS, by default target/roots.
set -euo pipefail
cd "$(dirname "$0")/../.."

packages=(target/package/*.deb)
if [ ! -e "${packages[0]}" ]; then
    echo "no package in target/package: run \`just package\` first" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "a container with systemd needs root" >&2
    exit 1
fi
if ! command -v debootstrap > /dev/null || ! command -v systemd-nspawn > /dev/null; then
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends debootstrap systemd-container
fi
roots=${CUTOVER_ROOTS:-target/roots}
mkdir -p "$roots"
roots=$(realpath "$roots")

boot() {
    local root=$roots/$1
    if [ ! -e "$root/.complete" ]; then
        rm -rf "$root"
        debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,curl,python3,logrotate "$1" "$root"
        touch "$root/.complete"
    fi
    mkdir -p "$root/root/cutover-test"
    cp tests/peers/systemd/* "$root/root/cutover-test/"
    cp "${packages[0]}" "$root/root/cutover-test/cutover.deb"
    rm -f "$root/root/result"
    cat > "$root/etc/systemd/system/cutover-test.service" << 'UNIT'
[Unit]
Description=test of the cutover package
After=dbus.service
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
TimeoutStartSec=240
ExecStart=/bin/bash /root/cutover-test/inside.sh
StandardOutput=append:/root/result
StandardError=append:/root/result
UNIT
    ln -sf ../cutover-test.service "$root/etc/systemd/system/multi-user.target.wants/cutover-test.service"
    timeout 300 systemd-nspawn --quiet --directory "$root" --ephemeral --bind "$root/root:/root" --private-network \
        --register=no --keep-unit --boot > "$root.console" 2>&1 || true
    echo "--- $1"
    cat "$root/root/result" || { tail -n 20 "$root.console"; exit 1; }
    [ "$(tail -n 1 "$root/root/result")" = passed ]
}

if [ $# = 0 ]; then
    set -- bookworm trixie
fi
for suite in "$@"; do
    boot "$suite"
done
