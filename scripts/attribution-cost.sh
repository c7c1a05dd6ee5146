#!/usr/bin/env bash
# What attribution (arrival times, waits, last-arriver counts) costs a barrier: the same benchmark built with and
# without it, in turns, so that what the machine does in between it does to both.
#
#   scripts/attribution-cost.sh [PAIRS] [BENCH-OPTIONS…]
#
# Prints the mean of each run and, at the end, the median of the pairs' ratios. Run it with nothing else running.

set -euo pipefail
cd "$(dirname "$0")/.."

pairs=${1:-15}
shift || true

cargo build --release --locked --quiet -p phalanx-cli
cargo build --release --locked --quiet -p phalanx-cli --no-default-features --target-dir target/without-attribution

mean() {
    "$1" bench barrier --json --rounds 1 --iterations 2000000 "${@:2}" | sed 's/.*"mean_ns":\([0-9.]*\).*/\1/'
}

ratios=()
for ((pair = 1; pair <= pairs; pair++)); do
    with=$(mean target/release/phalanx "$@")
    without=$(mean target/without-attribution/release/phalanx "$@")
    ratios+=("$(awk -v a="$with" -v b="$without" 'BEGIN { printf "%.3f", a / b }')")
    echo "pair $pair: $with ns with, $without ns without: ${ratios[-1]}"
done
printf '%s\n' "${ratios[@]}" | sort -n | awk '{ all[NR] = $1 } END {
    middle = NR % 2 ? all[(NR + 1) / 2] : (all[NR / 2] + all[NR / 2 + 1]) / 2
    printf "median ratio with/without attribution: %.3f\n", middle
}'
