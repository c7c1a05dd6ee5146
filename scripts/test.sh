#!/usr/bin/env bash
# Installs what the tests need and runs them all: `scripts/test.sh`, or `scripts/test.sh --quick` for the inner loop, or
# `scripts/test.sh --night` for those that take minutes each, which the others leave out.
#
# Works on a fresh Debian or Ubuntu with rustup. Every step runs, also after one that failed, so that one run shows
# all there is to mend; the exit status is 1 if any failed. `--quick` is the plain test suite in the debug profile;
# without it follow documentation tests, the stress tests in release, the loom and shuttle models, the fuzzer for a
# moment, criterion's benches as tests, the examples, the command itself, some faults in jobs of real processes, RDMA on
# soft-RoCE (in a guest where the kernel has none), and the layout of the verbs' declarations.
#
# The last line sums up what the test runners counted, `N passed, N failed, N skipped`. A test that says `test not run:
# …` (`phalanx::testing::not_run`) counts as skipped, not as passed. A step that is no test runner counts as one, and a
# step that fails without a failed test (it did not compile, say) as one failure.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

# What the tests need of the system, one a line: the command that shows it is there, its package, and what for.
needs='
cc       gcc             the linker, the rivals in C, and a program of a test
git      git             tidy lists the files with it
python3  python3-minimal reads the JSON that the command prints
pgrep    procps          tests that no process is left behind
mpicc    libopenmpi-dev  builds the Open MPI rival
mpirun   openmpi-bin     runs it
'

quick=no night=no
case "${1:-}" in
    '') ;;
    --quick) quick=yes ;;
    --night) night=yes ;;
    *)
        echo "usage: scripts/test.sh [--quick | --night]" >&2
        exit 2
        ;;
esac

target=${CARGO_TARGET_DIR:-target}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

passed=0 failed=0 skipped=0
summary=()

heading() {
    printf '\n== %s\n' "$1"
}

# As root, or by sudo if it asks for no password.
apt() {
    local as_root=()
    if [ "$(id -u)" != 0 ]; then as_root=(sudo -n); fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" </dev/null
}

can_install() {
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null
}

install_missing() {
    local missing=() command package reason
    while read -r command package reason; do
        [ -n "$command" ] || continue
        command -v "$command" >/dev/null && continue
        echo "missing: $package ($reason)"
        missing+=("$package")
    done <<<"$needs"
    if [ ${#missing[@]} = 0 ]; then
        echo "all there"
        return 0
    fi
    if ! can_install; then
        echo "cannot install as this user; run: apt-get install ${missing[*]}"
        return 1
    fi
    apt update && apt install --no-install-recommends "${missing[@]}" >"$scratch/apt.log" 2>&1 && return 0
    tail -n 20 "$scratch/apt.log"
    return 1
}

# The counts of all `test result:` lines of a log, as `passed failed ignored`. They count as passed what was not run;
# the line that says so may follow another one's beginning.
count_tests() {
    awk '/test not run: / { p--; s++ }
    /^test result:/ {
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) p += $(i - 1)
            if ($i ~ /^failed/) f += $(i - 1)
            if ($i ~ /^ignored/) s += $(i - 1)
        }
        n++
    } END { print p + 0, f + 0, s + 0, n + 0 }' "$1"
}

# step NAME COMMAND…: runs it, prints its output and duration, and counts.
step() {
    local name=$1 log=$scratch/log started=$SECONDS status p f s runs verdict
    shift
    heading "$name"
    "$@" </dev/null 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    read -r p f s runs < <(count_tests "$log")
    if [ "$runs" = 0 ] && [ "$status" = 0 ]; then p=1; fi
    if [ "$f" = 0 ] && [ "$status" != 0 ]; then f=1; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    verdict=ok
    if [ "$status" != 0 ]; then verdict="FAILED (exit $status)"; fi
    printf -- '-- %s: %s, %d s\n' "$name" "$verdict" $((SECONDS - started))
    summary+=("$(printf '%-34s %5d s  %s' "$name" $((SECONDS - started)) "$verdict")")
}

# skip NAME REASON: says that a step was not run.
skip() {
    heading "$1"
    echo "not run: $2"
    skipped=$((skipped + 1))
    summary+=("$(printf '%-34s %5s    not run: %s' "$1" - "$2")")
}

# One suite under a model checker. The flags also build `phalanx` itself with the checker's atomics; a target folder of
# its own keeps them from rebuilding everything else.
model() {
    local checker=$1 flags="--cfg model --cfg model=\"$1\""
    step "model: $checker" env RUSTFLAGS="$flags" cargo test --locked --release --target-dir "$target/$checker" \
        -p phalanx --test "$checker"
}

criterion_smoke() {
    if [ -d bench/benches ]; then
        step 'criterion benches, once each' cargo bench --locked -p phalanx-bench --benches -- --test
    else
        skip 'criterion benches, once each' 'bench/benches does not exist'
    fi
}

# An example on its own and as two ranks, in a folder that it may write to. As every step, it runs in a subshell, so
# that the `cd` stays here.
run_example() {
    local example=$1 programs
    programs=$(realpath "$target")/release
    mkdir -p "$scratch/$example"
    cd "$scratch/$example" || return
    echo "$example, unlaunched:" && timeout 120 "$programs/examples/$example" || return
    echo "$example, two ranks:" && timeout 120 "$programs/phalanx" run -n 2 -- "$programs/examples/$example"
}

examples() {
    local source found=no
    for source in examples/*.rs; do
        [ -f "$source" ] || continue
        found=yes
        step "example: $(basename "$source" .rs)" run_example "$(basename "$source" .rs)"
    done
    if [ $found = no ]; then skip 'examples' 'there are none yet'; fi
}

# What a person's first run prints, as a program reads it: one JSON object a line.
command_smoke() {
    cargo run --locked -q --release -p phalanx-cli -- bench barrier --iterations 2000 --json >"$scratch/bench.json" || return
    python3 - "$scratch/bench.json" <<'PYTHON'
import json, sys
results = [json.loads(line) for line in open(sys.argv[1]) if line.strip()]
assert results, "no result printed"
for result in results:
    assert result["bench"] == "barrier" and result["p50_ns"] > 0, result
    print(f'{result["system"]}: {result["ranks"]} ranks, p50 {result["p50_ns"]} ns')
PYTHON
}

# The same of ranks that contend, beside rivals that every machine has.
contest_smoke() {
    cargo run --locked -q --release -p phalanx-cli -- bench lock --vs pthread,flock --seconds 0.1 --rounds 2 --json \
        >"$scratch/contest.json" || return
    python3 - "$scratch/contest.json" <<'PYTHON'
import json, sys
results = [json.loads(line) for line in open(sys.argv[1]) if line.strip()]
assert results, "no result printed"
for result in results:
    assert result["bench"] == "lock" and result["acquire_p50_ns"] > 0 and result["overlaps"] == 0, result
    print(f'{result["system"]}: {result["throughput_per_s"]:.0f} a second, Jain {result["jain"]}')
PYTHON
}

# A few faults of each kind, timed: that all survivors have their errors, and the next one a dead holder's lock, not how
# soon.
failure_smoke() {
    cargo run --locked -q --release -p phalanx-cli -- bench failure --faults 5 --json >"$scratch/failure.json" || return
    python3 - "$scratch/failure.json" <<'PYTHON'
import json, sys
results = [json.loads(line) for line in open(sys.argv[1]) if line.strip()]
assert results, "no result printed"
for result in results:
    assert result["bench"] == "failure" and (result["not_run"] or result["faults"] == 5), result
    print(f'{result["kind"]}: ' + (f'not run: {result["not_run"]}' if result["not_run"] else f'p50 {result["p50_ns"] / 1e6:.2f} ms'))
PYTHON
}

# The paths of test suites' programs, built in release.
suite_programs() {
    cargo test --locked -q --release -p phalanx "${@/#/--test=}" --no-run --message-format=json |
        python3 -c '
import json, sys
for message in map(json.loads, sys.stdin):
    if message.get("executable") and message.get("profile", {}).get("test"):
        print(message["executable"])'
}

# Whether there is soft-RoCE, on the host or in a guest, after installing what is missing. Where that cannot be had it
# is no failure.
has_soft_roce() {
    local status
    scripts/soft-roce.sh run -- true </dev/null >"$scratch/soft-roce.log" 2>&1
    status=$?
    [ $status = 0 ] && return
    tail -n 5 "$scratch/soft-roce.log"
    # 69: something cannot be installed or downloaded. What else goes wrong is found, and counted, by the steps.
    [ $status != 69 ]
}

# Jobs across nodes: barriers, named objects, and the benchmarks.
rdma_job() {
    local suites programs
    suites=(across counter lock_across rwlock semaphore fenced fenced_home lease election)
    mapfile -t programs < <(suite_programs "${suites[@]}")
    if [ ${#programs[@]} != ${#suites[@]} ]; then return 1; fi
    cargo build --locked -q --release -p phalanx-cli || return
    scripts/soft-roce.sh run --timeout 700 -- scripts/rdma-job.sh "$target/release/phalanx" "${programs[@]}"
}

# RDMA: one machine with many ends, latencies beside perftest's where that is installed, jobs across nodes, two machines
# of which one is killed. `--require rdma`: with a device made for it, finding none is a failure.
rdma() {
    local hwtests=$target/release/phalanx-hwtests
    if ! command -v qemu-system-x86_64 >/dev/null && ! can_install; then
        skip 'rdma' 'there is no QEMU, and it cannot be installed as this user'
        return
    fi
    if ! has_soft_roce; then
        skip 'rdma' 'what a soft-RoCE device needs cannot be installed or downloaded'
        return
    fi
    step 'hwtests, build' cargo build --locked --release -p phalanx-hwtests
    step 'rdma: contract, two devices' scripts/soft-roce.sh run --devices 2 -- "$hwtests" check --require rdma
    step 'rdma: two machines, one killed' scripts/soft-roce.sh pair -- "$hwtests" pair --require rdma
    # With a long time-out: what is looked at is that all have their errors, and that who comes back finds itself
    # excluded.
    step 'rdma: a machine of a job lost' scripts/soft-roce.sh pair -- "$hwtests" lost --faults 3 --timeout-ms 2000 --require rdma
    step 'rdma: jobs across nodes' rdma_job
    step 'rdma: latencies' scripts/soft-roce.sh run -- scripts/rdma-latency.sh "$hwtests"
    step "verbs' declarations" scripts/check-layout.sh
}

# What a person's first command builds. Printed, not asserted: under a minute on two idle cores is the aim, and CI's
# cores are not always idle.
release_build() {
    local started=$SECONDS clean=''
    if [ ! -d "$target/release" ]; then clean='clean '; fi
    cargo build --locked -q --release || return
    echo "${clean}release build of the default members: $((SECONDS - started)) s"
}

# Tests that take minutes each with optimization.
for_nights=(
    nodes_pass_together_on_fresh_seeds
    survivors_pass_together_on_fresh_seeds
    the_home_is_lost_and_more
    words_are_kept_again_and_again
    somebody_dies_and_others_give_up
    the_home_is_lost_as_one_follows_who_let_its_time_pass
    two_nodes_are_lost_and_go_on
    the_home_of_three_is_lost
    three_nodes_twice_in_every_order
    two_of_three_die_or_give_up_at_any_moment
)

if ! command -v cargo >/dev/null; then
    echo "cargo is missing: install Rust with rustup (https://rustup.rs)" >&2
    exit 2
fi

step 'what the tests need' install_missing
if [ $night = yes ]; then
    step 'tests for nights' cargo test --locked --release -p phalanx --tests -- --include-ignored "${for_nights[@]}"
else
    step 'tests, debug' cargo test --locked --workspace --tests --no-fail-fast
fi
if [ $quick = no ] && [ $night = no ]; then
    step 'documentation tests' cargo test --locked --workspace --doc
    # Ignored tests that do not belong here: a measurement, one that writes files of the repository, work for nights.
    not_here=(which_engine_is_quicker the_traces_are_recorded_anew "${for_nights[@]}")
    step 'release build' release_build
    # Stress tests are marked `#[ignore]` where a debug build would be too slow for them. Of the command's suites only
    # the simulator's has such; what else it does in release is seen below.
    step 'tests, release, stress included' cargo test --locked --release -p phalanx --tests --no-fail-fast \
        -- --include-ignored "${not_here[@]/#/--skip=}"
    step 'simulator, release' cargo test --locked --release -p phalanx-cli --test simulate -- --include-ignored
    skip 'tests for nights' "${#for_nights[@]} that take minutes each; scripts/test.sh --night runs them"
    model loom
    model shuttle
    step 'fuzz, some seconds' cargo run --locked -q --release -p phalanx-fuzz -- --seconds 16
    criterion_smoke
    step 'examples, build' cargo build --locked --release -p phalanx -p phalanx-cli --examples --bins
    examples
    step 'phalanx bench barrier --json' command_smoke
    step 'phalanx bench lock --json' contest_smoke
    step 'phalanx bench failure --json' failure_smoke
    step 'campaign of faults, 35 s' scripts/campaign.sh --minutes 0.58 --seed 1
    rdma
fi

heading 'summary'
printf '%s\n' "${summary[@]}"
echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
