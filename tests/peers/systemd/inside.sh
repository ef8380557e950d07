#!/usr/bin/env bash
# Runs inside the container, as root, once it has booted. The last line is `passed` or the container ended early.
set -euo pipefail
trap 'echo "failed in line $LINENO"; systemctl status cutover --no-pager || true; journalctl -u cutover --no-pager | tail -n 30' ERR
here=/root/cutover-test

get() { curl --silent --show-error --fail --max-time 10 http://127.0.0.1:8080/; }
# Waits for a condition at most 40 s.
until_true() {
    for _ in $(seq 400); do
        "$@" && return 0
        sleep 0.1
    done
    echo "not within 40 s: $*"
    return 1
}
restarts() { systemctl show cutover --property NRestarts --value; }
pid() { systemctl show cutover --property MainPID --value; }
has_restarted() { [ "$(restarts)" -gt "$1" ] && get > /dev/null 2>&1; }

systemctl --version | head -n 1

echo "== install"
dpkg -i $here/cutover.deb
# dpkg may leave the manager with its old list of units.
systemctl daemon-reload
[ "$(systemctl is-active cutover)" = inactive ]
# The container has no `man`.
systemd-analyze verify --man=no cutover.service
cutover --version
man_page=$(zcat /usr/share/man/man1/cutover.1.gz | head -n 3)
grep -qi cutover <<< "$man_page"

echo "== start"
systemctl start cutover
get
[ "$(stat -c %U /proc/"$(pid)")" = cutover ]

echo "== reload"
for n in 1 2; do
    systemd-run --quiet --unit=origin$n python3 $here/origin.py 300$n v$n
    until_true curl --silent --output /dev/null http://127.0.0.1:300$n/
done
cat > /etc/cutover/cutover.toml << 'TOML'
listen = ":8080"
admin  = "127.0.0.1:9900"

[service.app]
stable = "v1"
split  = { v2 = "0%" }

[service.app.versions]
v1 = ["127.0.0.1:3001"]
v2 = ["127.0.0.1:3002"]
TOML
systemctl reload cutover
[ "$(get)" = v1 ]

echo "== a broken file"
cp /etc/cutover/cutover.toml /tmp/good.toml
echo 'nonsense = 1' >> /etc/cutover/cutover.toml
if systemctl reload cutover; then
    echo "the reload of a broken file succeeded"
    exit 1
fi
[ "$(get)" = v1 ]
cat /tmp/good.toml > /etc/cutover/cutover.toml
systemctl reload cutover

echo "== the process writes its own file"
socket=$(ls /var/lib/cutover/control-*.sock)
curl --silent --show-error --fail --unix-socket "$socket" --json '{"v2":"100%"}' http://localhost/api/v1/services/app/split
echo
grep -q '100%' /etc/cutover/cutover.toml
[ "$(get)" = v2 ]

echo "== restarts under load"
touch /tmp/load
python3 $here/load.py /tmp/load > /tmp/load.out 2>&1 &
load=$!
for _ in 1 2 3; do
    sleep 1
    systemctl reload cutover
    before=$(pid)
    systemctl restart cutover
    [ "$(pid)" != "$before" ]
done
sleep 1
rm /tmp/load
wait $load || { cat /tmp/load.out; false; }
cat /tmp/load.out

echo "== the process is killed"
before=$(restarts)
kill -9 "$(pid)"
until_true has_restarted "$before"

echo "== the process hangs: the watchdog ends it"
before=$(restarts)
kill -STOP "$(pid)"
until_true has_restarted "$before"
journalctl -u cutover --no-pager | grep -i watchdog | tail -n 1

echo "== stop and removal"
systemctl stop cutover
[ "$(systemctl is-failed cutover || true)" = inactive ]
dpkg --purge cutover
[ ! -e /var/lib/cutover ]
echo passed
