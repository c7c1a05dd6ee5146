#!/usr/bin/env bash
# Our latencies beside perftest's, on the device that is there: `scripts/rdma-latency.sh PROGRAM [ROUNDS]`.
#
# To be run where there is a device, so mostly as `scripts/soft-roce.sh run -- scripts/rdma-latency.sh
# target/release/phalanx-hwtests`. The two alternate, each ROUNDS times (3), because a machine's mood changes; what is
# compared are the medians of the rounds: perftest's typical, which is its median, and our p50. Without perftest only
# our own are printed. Ratios mean something, absolute times in an emulated guest do not. Nothing is asserted but that
# all runs end well; the limit is 1.25 for writes and atomics.

set -euo pipefail

program=${1:?usage: rdma-latency.sh PROGRAM [ROUNDS]}
rounds=${2:-3}
device=$(ls /sys/class/infiniband | head -n 1)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"; kill $(jobs -p) 2>/dev/null || true' EXIT

# perftest's typical latency: `perftest NAME COMMAND…`, appended to NAME's figures.
perftest() {
    local name=$1 attempt
    shift
    "$@" -d "$device" -n 5000 >/dev/null 2>&1 &
    # It says nowhere when it listens: try until it answers.
    for attempt in $(seq 100); do
        if "$@" -d "$device" -n 5000 "${SOFT_ROCE_ADDRESS:-127.0.0.1}" >"$scratch/out" 2>/dev/null; then break; fi
        if [ "$attempt" = 100 ]; then return 1; fi
        sleep 0.1
    done
    wait $!
    awk '/t_typical/ { at = 1; next } at { print $5; exit }' "$scratch/out" >>"$scratch/perftest-$name"
}

median() {
    sort -n "$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

for ((round = 0; round < rounds; round++)); do
    if command -v ib_write_lat >/dev/null; then
        perftest write ib_write_lat -s 8
        perftest fetch_add ib_atomic_lat -A FETCH_AND_ADD
        perftest compare_swap ib_atomic_lat -A CMP_AND_SWAP
    fi
    "$program" latency --require rdma --device "$device" | tee "$scratch/ours"
    for name in write fetch_add compare_swap; do
        sed -n "s/^$name.* p50 *\([0-9.]*\) .*/\1/p" "$scratch/ours" >>"$scratch/ours-$name"
    done
done

for name in write fetch_add compare_swap; do
    ours=$(median "$scratch/ours-$name")
    if [ ! -e "$scratch/perftest-$name" ]; then
        echo "$name: $ours us (perftest: not run, it is not installed)"
        continue
    fi
    theirs=$(median "$scratch/perftest-$name")
    awk -v name=$name -v ours="$ours" -v theirs="$theirs" \
        'BEGIN { printf "%-14s %6.2f us, perftest %6.2f us, ratio %.2f\n", name, ours, theirs, ours / theirs }'
done
