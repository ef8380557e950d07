#!/usr/bin/env bash
# Runs the OCI image of `just package` under a real runtime: `check` works in it, the proxy answers requests and ends on SIGTERM.
#
# Needs root. umoci and runc are installed with apt if they are missing. The container shares the network of this machine, has a
# read-only root and no capabilities, and runs as the image's user.
set -euo pipefail
cd "$(dirname "$0")/../.."

image=target/package/oci:latest
if [ ! -e target/package/oci/index.json ]; then
    echo "no image in target/package: run \`just package\` first" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "skipped: a container needs root here" >&2
    exit 0
fi
if ! command -v umoci > /dev/null || ! command -v runc > /dev/null; then
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends umoci runc
fi

directory=$(mktemp -d)
name=cutover-test-$$
cleanup() {
    runc --root "$directory/runc" delete --force "$name" 2> /dev/null || true
    [ -z "${origin:-}" ] || kill "$origin" 2> /dev/null || true
    rm -rf "$directory"
}
trap cleanup EXIT

umoci unpack --image "$image" "$directory/bundle"
# A proxy of a service on this machine. The user of the image may read the file and write to the directory for state.
chmod 755 "$directory"
mkdir "$directory/etc" "$directory/state" "$directory/www"
chown 65532:65532 "$directory/state"
echo "from the origin" > "$directory/www/index.html"
touch "$directory/origin.log"
python3 -u -m http.server --bind 127.0.0.1 --directory "$directory/www" 0 > "$directory/origin.log" 2>&1 &
origin=$!
for _ in $(seq 100); do
    origin_port=$(sed -n 's/.* port \([0-9]*\) .*/\1/p' "$directory/origin.log")
    [ -z "$origin_port" ] || break
    sleep 0.1
done
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > "$directory/etc/cutover.toml" << TOML
listen    = "127.0.0.1:$port"
state_dir = "/var/lib/cutover"

[service.shop]
versions = { v1 = ["127.0.0.1:$origin_port"] }
TOML

# container ARGUMENT…: the command of the container. Without arguments, that of the image.
container() {
    python3 - "$directory" "$@" << 'PYTHON'
import json, sys
directory, arguments = sys.argv[1], sys.argv[2:]
path = f"{directory}/bundle/config.json"
config = json.load(open(path))
process = config["process"]
process["terminal"] = False
process["noNewPrivileges"] = True
process["capabilities"] = {}
if arguments:
    process["args"] = process["args"][:1] + arguments
config["root"]["readonly"] = True
linux = config["linux"]
linux["namespaces"] = [n for n in linux["namespaces"] if n["type"] not in ("network", "user")]
linux.pop("uidMappings", None), linux.pop("gidMappings", None)
linux["resources"] = {}
bind = lambda source, target, mode: {
    "destination": target, "type": "bind", "source": source, "options": ["rbind", mode]}
mounts = [m for m in config["mounts"] if m["destination"] not in ("/etc/cutover", "/var/lib/cutover", "/sys/fs/cgroup")]
mounts += [bind(f"{directory}/etc", "/etc/cutover", "ro"), bind(f"{directory}/state", "/var/lib/cutover", "rw")]
config["mounts"] = mounts
json.dump(config, open(path, "w"))
print("runs", process["args"], "as", process["user"])
PYTHON
}
run() {
    runc --root "$directory/runc" run --bundle "$directory/bundle" "$name"
}

cp "$directory/bundle/config.json" "$directory/image.json"
container check /etc/cutover/cutover.toml
run
cp "$directory/image.json" "$directory/bundle/config.json"
container
run > "$directory/log" 2>&1 &
running=$!
for _ in $(seq 100); do
    answer=$(curl --silent --max-time 5 "http://127.0.0.1:$port/" || true)
    [ -z "$answer" ] || break
    sleep 0.1
done
if [ "$answer" != "from the origin" ]; then
    cat "$directory/log"
    echo "the proxy answered: $answer" >&2
    exit 1
fi
runc --root "$directory/runc" exec "$name" /usr/local/bin/cutover status
began=$(date +%s)
runc --root "$directory/runc" kill "$name" TERM
status=0
wait "$running" || status=$?
if [ "$status" != 0 ] || [ $(($(date +%s) - began)) -gt 10 ]; then
    cat "$directory/log"
    echo "it ended with $status after $(($(date +%s) - began)) s" >&2
    exit 1
fi
echo "passed: checked, answered and ended with 0 on SIGTERM"
