#!/usr/bin/env bash
# A fleet whose network is cut: three proxies and an etcd of one or three members, each in a network namespace of its own, on one
# bridge. Packets are dropped, so that no connection is closed and only time limits can notice, or a link is taken down.
#
# In every case each proxy serves traffic all the time. No request may fail, and no share may be above the plan. Needs root, etcd,
# curl and jq; about five minutes. `tests/peers/partition.sh FILTER` runs the cases whose names contain FILTER.
set -euo pipefail
cd "$(dirname "$0")/../.."

for tool in ip tc etcd etcdctl curl jq; do
    if ! command -v "$tool" > /dev/null; then
        echo "skipped: $tool isn't installed"
        exit 0
    fi
done
if [ "$(id -u)" != 0 ]; then
    echo "skipped: network namespaces need root"
    exit 0
fi
binary=${CUTOVER_BINARY:-target/debug/cutover}
[ -n "${CUTOVER_BINARY:-}" ] || cargo build
binary=$(realpath "$binary")

ns=cutover-$$
dir=$(mktemp -d)
export ETCDCTL_API=3 NO_COLOR=1
nodes=()

# Ends the processes of the namespaces and removes these, with all links in them.
clean_up() {
    for node in "${nodes[@]}" net; do
        ip netns pids "$ns-$node" 2> /dev/null | xargs -r kill -KILL 2> /dev/null || true
        ip netns del "$ns-$node" 2> /dev/null || true
    done
    wait 2> /dev/null || true
    nodes=()
}
trap 'clean_up; rm -rf "$dir"' EXIT

fail() {
    echo "FAILED: $*" >&2
    for proxy in a b c; do
        echo "--- $proxy" >&2
        tail -n 15 "$dir/$proxy.log" >&2 || true
        status "$proxy" | jq -c '.services[0].rollout, .fleet' >&2 || true
        tail -n 3 "$dir/$proxy.shares" >&2 || true
    done
    exit 1
}

in_node() {
    local node=$1
    shift
    ip netns exec "$ns-$node" "$@"
}

# A node with this address on the bridge `whole`.
node() {
    local name=$1 address=$2
    nodes+=("$name")
    ip netns add "$ns-$name"
    ip -n "$ns-$name" link set lo up
    ip -n "$ns-net" link add name "$name" type veth peer name eth0 netns "$ns-$name"
    ip -n "$ns-net" link set dev "$name" master whole up
    ip -n "$ns-$name" address add "10.77.0.$address/24" dev eth0
    ip -n "$ns-$name" link set dev eth0 up
}

# Drops all packets from and to a node.
drop() {
    in_node net tc qdisc add dev "$1" root pfifo limit 0
    in_node "$1" tc qdisc add dev eth0 root pfifo limit 0
}

pass() {
    in_node net tc qdisc del dev "$1" root
    in_node "$1" tc qdisc del dev eth0 root
}

# Moves nodes to another bridge: they reach each other, and nobody else.
move() {
    local bridge=$1
    shift
    for name in "$@"; do ip -n "$ns-net" link set dev "$name" master "$bridge"; done
}

members_of_etcd() { seq 1 "$1" | sed 's/.*/e&=http:\/\/10.77.0.1&:2380/' | paste -sd,; }

start_etcd() {
    local members=$1 at address
    for at in $(seq 1 "$members"); do
        node "e$at" "1$at"
        address=10.77.0.1$at
        in_node "e$at" etcd --name "e$at" --data-dir "$dir/e$at" --unsafe-no-fsync --logger zap \
            --listen-client-urls "http://$address:2379" --advertise-client-urls "http://$address:2379" \
            --listen-peer-urls "http://$address:2380" --initial-advertise-peer-urls "http://$address:2380" \
            --initial-cluster "$(members_of_etcd "$members")" > "$dir/e$at.log" 2>&1 &
    done
    endpoints=$(seq 1 "$members" | sed 's/.*/http:\/\/10.77.0.1&:2379/' | paste -sd,)
    await 20 "etcd answers" etcd_answers
}

etcd_answers() { in_node e1 etcdctl --endpoints http://10.77.0.11:2379 get x > "$dir/etcdctl" 2>&1; }

# The member of etcd that leads.
leader() {
    local url
    url=$(in_node e1 etcdctl --endpoints "$endpoints" endpoint status -w json \
        | jq -r '.[] | select(.Status.leader == .Status.header.member_id) | .Endpoint')
    url=${url#http://10.77.0.1}
    echo "e${url%%:*}"
}

# A proxy in a node of its own, with an origin, traffic, and an eye on its share.
start_proxy() {
    local name=$1 address=$2 steps=$3
    node "$name" "$address"
    cat > "$dir/origin.toml" << TOML
listen = "0.0.0.0:9001"
[service.origin]
respond = { status = 200, body = "ok" }
TOML
    cat > "$dir/$name.toml" << TOML
listen = "127.0.0.1:8080"
admin = "127.0.0.1:9900"
state_dir = "$dir/$name"
[fleet]
etcd = ["${endpoints//,/\", \"}"]
name = "test"
member = "$name"
[service.app]
stable = "v1"
split = { v2 = "rollout" }
[service.app.versions]
v1 = ["127.0.0.1:9001"]
v2 = ["127.0.0.2:9001"]
[service.app.rollout]
steps = [$steps]
guard.on_silence = "pass"
guard.p99 = []
TOML
    # The origin has its own node's loopback.
    in_node "$name" "$binary" run -c "$dir/origin.toml" > "$dir/$name.origin.log" 2>&1 &
    await 20 "the origin of $name answers" has_origin "$name"
    in_node "$name" "$binary" run -c "$dir/$name.toml" > "$dir/$name.log" 2>&1 &
    await 20 "$name is ready" is_ready "$name"
    in_node "$name" curl -s -m 600 -o /dev/null -w '%{stderr}%{http_code}\n' --rate 40/s \
        "http://127.0.0.1:8080/[1-1000000]" > /dev/null 2> "$dir/$name.codes" &
    in_node "$name" bash -c "while :; do
        curl -s -m 5 http://127.0.0.1:9900/api/v1/status | jq -r --arg at \"\$(date +%s%N)\" \
            '[\$at, .services[0].split.effective.v2, .services[0].rollout.state, .fleet.connected] | @tsv'
        sleep 0.3
    done" > "$dir/$name.shares" 2> /dev/null &
}

has_origin() { [ "$(in_node "$1" curl -s http://127.0.0.2:9001/)" = ok ]; }
is_ready() { [ "$(in_node "$1" curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:9900/readyz)" = 200 ]; }
status() { in_node "$1" curl -s -m 5 http://127.0.0.1:9900/api/v1/status; }
share() { status "$1" | jq -r '.services[0].split.effective.v2'; }
state() { status "$1" | jq -r '.services[0].rollout.state'; }
warnings() { status "$1" | jq -c '.services[0].rollout.warnings'; }
is_alone() { [ "$(status "$1" | jq -r '.fleet.connected')" = false ]; }
drives() { [ "$(status "$1" | jq -r '.services[0].rollout.fleet.is_driver')" = true ]; }
command_of() { in_node "$1" "$binary" "${@:2}" -c "$dir/$1.toml" > "$dir/$1.command" 2>&1; }
have() {
    local wanted=$1
    shift
    for proxy in "$@"; do [ "$(share "$proxy")" = "$wanted" ] || return 1; done
}
are() {
    local wanted=$1
    shift
    for proxy in "$@"; do [ "$(state "$proxy")" = "$wanted" ] || return 1; done
}
are_connected() { for proxy in "$@"; do ! is_alone "$proxy" || return 1; done; }
one_drives() { for proxy in "$@"; do if drives "$proxy"; then driver=$proxy; return 0; fi; done; return 1; }

# Waits at most so many seconds; `took` is how long it was.
await() {
    local most=$1 what=$2 begun=$EPOCHREALTIME
    shift 2
    until "$@"; do
        took=$(echo "$EPOCHREALTIME $begun" | awk '{ printf "%.1f", $1 - $2 }')
        if awk "BEGIN { exit !($took > $most) }"; then fail "not within $most s: $what"; fi
        sleep 0.1
    done
    took=$(echo "$EPOCHREALTIME $begun" | awk '{ printf "%.1f", $1 - $2 }')
}

# For so many seconds these proxies have this share.
stays() {
    local seconds=$1 wanted=$2 end=$((SECONDS + $1))
    shift 2
    while [ $SECONDS -lt $end ]; do
        have "$wanted" "$@" || fail "a share is not $wanted any more within $seconds s"
        sleep 0.3
    done
}

# Begins a case: etcd of so many members, three proxies in the first step.
begin() {
    clean_up
    rm -rf "${dir:?}"/*
    ip netns add "$ns-net"
    for bridge in whole part; do ip -n "$ns-net" link add name "$bridge" type bridge; ip -n "$ns-net" link set dev "$bridge" up; done
    start_etcd "$1"
    # In nanoseconds.
    began=$(date +%s%N)
    hold=$2
    local at=21 proxy
    for proxy in a b c; do start_proxy "$proxy" $at "\"10% for ${hold}s\", \"20% for 600s\""; at=$((at + 1)); done
    await 30 "10 % everywhere" have 10% a b c
    await 30 "a driver" one_drives a b c
    others=(a b c)
    others=("${others[@]/$driver/}")
    # shellcheck disable=SC2206 # Removes the empty one.
    others=(${others[@]})
}

# Ends a case: no request has failed, and no share was above the plan.
end() {
    local proxy wrong requests=0
    for proxy in a b c; do
        # The last line may not be complete yet.
        sed '$d' "$dir/$proxy.codes" > "$dir/$proxy.all"
        wrong=$(grep -vc '^200$' "$dir/$proxy.all" || true)
        [ "$wrong" = 0 ] || fail "$wrong requests to $proxy have failed: $(sort "$dir/$proxy.all" | uniq -c | tr '\n' ' ')"
        requests=$((requests + $(wc -l < "$dir/$proxy.all")))
        wrong=$(awk -F'\t' -v second=$((began + hold * 1000000000)) \
            '$2 != "0%" && $2 != "10%" && !($2 == "20%" && $1 >= second)' "$dir/$proxy.shares")
        [ -z "$wrong" ] || fail "$proxy was above the plan: $wrong"
        [ "$(wc -l < "$dir/$proxy.shares")" -gt 20 ] || fail "the shares of $proxy were not seen"
    done
    [ "$requests" -gt 500 ] || fail "only $requests requests"
    echo "  $requests requests, none failed, no share above the plan"
}

a_proxy_whose_packets_are_dropped() {
    begin 1 15
    local alone=${others[0]}
    drop "$alone"
    await 15 "$alone is alone" is_alone "$alone"
    echo "  alone $took s after the packets were dropped"
    await 40 "the others take the second step" have 20% "$driver" "${others[1]}"
    have 10% "$alone" || fail "the share of $alone rose"
    await 12 "$alone says that its share doesn't rise" says "$alone" "the share doesn't rise"
    status "$alone" | jq -e '.fleet.alone_s > 5 and (.fleet.error | length > 0)' > /dev/null || fail "alone since when?"
    command_of "$alone" fleet status || true
    grep -qi "alone" "$dir/$alone.command" || fail "fleet status: $(cat "$dir/$alone.command")"
    pass "$alone"
    await 25 "20 % everywhere" have 20% a b c
    echo "  back in step $took s after packets passed again"
}
says() { warnings "$1" | grep -q "$2"; }

a_driver_whose_link_is_down() {
    begin 1 20
    local old=$driver
    ip -n "$ns-$old" link set dev eth0 down
    await 15 "$old is alone" is_alone "$old"
    echo "  alone $took s after its link was down"
    await 25 "another one drives" one_drives "${others[@]}"
    echo "  replaced $took s later by $driver"
    await 40 "the others take the second step" have 20% "${others[@]}"
    have 10% "$old" || fail "the share of $old rose"
    # An abort needs nobody's leave, and isn't lost.
    command_of "$old" abort app || fail "the abort: $(cat "$dir/$old.command")"
    await 5 "no share at $old" have 0% "$old"
    have 20% "${others[@]}" || fail "the others can't know of the abort"
    ip -n "$ns-$old" link set dev eth0 up
    await 25 "aborted everywhere" are aborted a b c
    echo "  its abort reached the others $took s after its link was up"
    await 5 "0 % everywhere" have 0% a b c
    stays 2 0% a b c
}

the_leader_of_etcd_whose_packets_are_dropped() {
    begin 3 15
    local cut
    cut=$(leader)
    drop "$cut"
    await 40 "the second step" have 20% a b c
    echo "  $cut was cut off; the second step came $took s later"
    await 15 "all are connected" are_connected a b c
    pass "$cut"
    command_of a pause app || fail "the pause: $(cat "$dir/a.command")"
    await 10 "paused everywhere" are paused a b c
    stays 3 20% a b c
}

an_etcd_without_a_majority() {
    begin 3 30
    drop e2
    drop e3
    await 20 "all are alone" all_alone
    echo "  alone $took s after two members of etcd were cut off"
    stays 20 10% a b c
    for proxy in a b c; do says "$proxy" "the share doesn't rise" || fail "$proxy: $(warnings "$proxy")"; done
    pass e2
    pass e3
    await 60 "the second step" have 20% a b c
    # The clock of the step stood from 10 s after the last answer on.
    local seconds=$((($(date +%s%N) - began) / 1000000000))
    [ "$seconds" -gt 42 ] || fail "the first step took only $seconds s"
    echo "  the second step came $took s after packets passed again, $seconds s after the first one"
}
all_alone() { is_alone a && is_alone b && is_alone c; }

a_minority_of_the_proxies_and_of_etcd() {
    begin 3 15
    move part "$driver" e1
    await 20 "$driver is alone" is_alone "$driver"
    echo "  alone $took s after it was on the side of e1 only: $(status "$driver" | jq -r .fleet.error)"
    local old=$driver
    await 45 "the others take the second step" have 20% "${others[@]}"
    echo "  the majority took the second step $took s later"
    have 10% "$old" || fail "the share of $old rose"
    move whole "$old" e1
    await 30 "20 % everywhere" have 20% a b c
    echo "  back in step $took s after the halves were joined"
}

count=0
for name in a_proxy_whose_packets_are_dropped a_driver_whose_link_is_down the_leader_of_etcd_whose_packets_are_dropped \
    an_etcd_without_a_majority a_minority_of_the_proxies_and_of_etcd; do
    [[ $name == *"${1:-}"* ]] || continue
    echo "${name//_/ }"
    "$name"
    end
    count=$((count + 1))
done
[ "$count" -gt 0 ] || { echo "no case has that name" >&2; exit 1; }
echo "$count cases passed"
