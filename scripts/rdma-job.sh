#!/usr/bin/env bash
# Jobs across nodes by RDMA, where there is a device: `scripts/rdma-job.sh PHALANX SUITE…`.
#
# Mostly run as `scripts/soft-roce.sh run -- scripts/rdma-job.sh target/release/phalanx target/release/deps/across-…`:
# the command, and test suites of `tests/` as programs, all built before. Of each suite those tests run that SELECTED
# names, with PHALANX_FABRIC=rdma, one at a time, because a guest is ten times slower than its host: those that do not
# depend on how fast it is. That messages went by the device is seen in the packets that it has counted. With that
# fabric the words of named objects are the device's, also for the home's own ranks. Then come short benchmarks, whose
# JSON is looked at: that there is a limit, and figures. How fast anything is, is not.

set -uo pipefail

phalanx=${1:?usage: rdma-job.sh PHALANX SUITE…}
shift

# The tests of each suite, by parts of their names.
declare -A SELECTED=(
    [across]='a_mismatch_names a_time_out_names computes_holds groups_span_nodes reductions_are forming_that an_arrival_is
        an_rdma_connection stats_tell a_job_that_is'
    [counter]='across_nodes what_the_home nothing_is_lost'
    [lock_across]='try_time_out_and_cancel a_killed_holder waiters_keep_their_order'
    [rwlock]='of_several_nodes who_reads_or_writes_does_so_still'
    [semaphore]='of_several_nodes permits_are_out_still'
    [fenced]='nodes_read_whole_pairs'
    [fenced_home]='what_was_seen_outlives'
    [lease]='across_nodes_one_holds_it a_holder_keeps_it_through'
    [election]='one_leads_at_a_time_across a_killed_leader_of_another_node a_lost_home'
)
# Fewer packets than this in one test of two nodes are not its barriers'. It makes 2,400, each of two writes and their
# acknowledgements at least; when they went by TCP, 90 packets were seen.
packets_at_least=9000
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

fail() {
    echo "FAILED: $*"
    failed=1
}

# What all soft-RoCE devices have sent; nothing where the device is none of them.
sent_packets() {
    cat /sys/class/infiniband/rxe*/ports/1/hw_counters/sent_pkts 2>/dev/null | awk '{ sum += $1; n++ } END { if (n) print sum }'
}

# bench ARGUMENTS…: by RDMA, its JSON appended to what will be looked at. Its progress is for terminals.
bench() {
    timeout 60 "$phalanx" bench "$@" --fabric rdma --json >>"$scratch/results" 2>"$scratch/stderr" || {
        cat "$scratch/stderr"
        fail "phalanx bench $*"
    }
}

# suite PROGRAM TEST…: those tests of a suite, by RDMA.
suite() {
    local test
    for test in "${@:2}"; do
        [[ $("$1" --list "$test") == *': test'* ]] || fail "$(basename "$1") has no test like $test"
    done
    PHALANX_FABRIC=rdma timeout 200 "$1" --test-threads=1 --color never "${@:2}"
}

for program in "$@"; do
    name=$(basename "$program")
    name=${name%-*}
    read -r -d '' -a tests <<<"${SELECTED[$name]:-}" || true
    if [ ${#tests[@]} = 0 ]; then
        fail "no tests of $name are selected"
        continue
    fi
    if [ "$name" = across ]; then
        before=$(sent_packets)
        suite "$program" two_nodes_pass_together || fail "two nodes by RDMA"
        # The kernel counts anew every 10 ms.
        sleep 0.1
        after=$(sent_packets)
        if [ -n "$before" ]; then
            echo "$((after - before)) packets by RDMA"
            [ $((after - before)) -ge $packets_at_least ] || fail "the barriers' messages did not go by RDMA"
        fi
    fi
    started=$SECONDS
    suite "$program" "${tests[@]}" || fail "$name by RDMA"
    echo "$name by RDMA: $((SECONDS - started)) s"
done

for ranks in 2 4; do
    bench barrier --nodes 2 --ranks "$ranks" --iterations 300 --rounds 3
done
bench fabric --rounds 1 --operations 1000
bench lock --nodes 2 --ranks 2 --busy 1 --rounds 1

python3 - "$scratch/results" <<'PYTHON' || fail "the benchmarks' results"
import json, sys
results = [json.loads(line) for line in open(sys.argv[1])]
barriers = [result for result in results if result["bench"] == "barrier"]
operations = [result for result in results if result["bench"] == "fabric"]
locks = [result for result in results if result["bench"] == "lock"]
assert [result["acquire_p50_ns"] > 0 and result["fabric"] for result in locks] == ["rdma"], locks
assert [result["ranks"] for result in barriers] == [2, 4], barriers
assert {result["operation"] for result in operations} == {"write", "read", "fetch_add", "compare_swap"}, operations
for result in barriers + operations:
    assert result["fabric"] == "rdma" and result["limit_ns"] > 0 and result["p50_ns"] > 0, result
for result in barriers:
    assert result["nodes"] == 2 and result["iterations"] == 300, result
    print(f'barrier of {result["ranks"]} ranks on 2 nodes: p50 {result["p50_ns"]} ns, limit {result["limit_ns"]} ns')
print(f'lock: acquire p50 {locks[0]["acquire_p50_ns"]} ns')
for result in operations:
    if result["outstanding"] == 1:
        print(f'{result["operation"]}: p50 {result["p50_ns"]} ns, limit {result["limit_ns"]} ns')
PYTHON
exit $failed
