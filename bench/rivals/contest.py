"""What `contest.h` is for programs in C: ranks, forked, contend for objects for a fixed time and leave the same record.

A program calls `main` with a function that makes a rank's contestant: an object with `acquire(number, shared)` and
`release(number, shared)`, and `close()` for the end. The clock is CLOCK_MONOTONIC, written in ticks of the length that
the runner asks for.
"""

import argparse
import array
import multiprocessing
import os
import signal
import sys
import time

WARMUP_SHARE = 0.2
HEAD_START_NS = 2_000_000
BATCH_NS = 20_000
MOST_BATCHES = 65536
SHARED = 1 << 63
MASK = (1 << 64) - 1

now = time.monotonic_ns


def parse_options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--object", required=True)
    for name in ["--ranks", "--nodes", "--busy", "--objects", "--iterations", "--warmup", "--hold-ns", "--think-ns",
                 "--permits", "--seed", "--most-samples"]:
        parser.add_argument(name, type=int, required=True)
    for name in ["--readers", "--ns-per-tick", "--max-seconds"]:
        parser.add_argument(name, type=float, required=True)
    parser.add_argument("--cpus", default="")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    options.cpus = [int(cpu) for cpu in options.cpus.split(",") if cpu]
    return options


def random_numbers(seed):
    """SplitMix64, as in `common.h`."""
    state = seed & MASK
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def spin_until(due):
    while (time_now := now()) < due:
        pass
    return time_now


class Team:
    """Where the ranks meet."""

    def __init__(self, ranks):
        fork = multiprocessing.get_context("fork")
        self.barrier = fork.Barrier(ranks)
        self.word = fork.Value("Q", 0)

    def from_rank_0(self, rank, value):
        if rank == 0:
            self.word.value = value
        self.barrier.wait()
        value = self.word.value
        self.barrier.wait()
        return value


class Contest:
    """One rank's run; its methods mirror the functions of `contest.h`."""

    def __init__(self, options, rank, team, contestant):
        self.options, self.rank, self.team, self.contestant = options, rank, team, contestant
        self.random = random_numbers(options.seed + rank)
        self.readers = int(options.readers * 2**64)
        self.count = self.start = self.end = 0
        # Request, acquired, released, what; request, acquired, …: nanoseconds, as the file will have ticks.
        self.possessions = []
        self.pairs_of_batch = 0
        self.batches = []

    def draw(self):
        objects = self.options.objects
        number = 0 if objects == 1 else (next(self.random) * objects) >> 64
        return number, self.readers > 0 and next(self.random) <= self.readers

    def hold_until(self, deadline, times):
        options, contestant, possessions = self.options, self.contestant, []
        count = done = 0
        request = self.start = now()
        while done == 0 or (done < times and request < deadline):
            number, shared = self.draw()
            contestant.acquire(number, shared)
            acquired = now()
            released = spin_until(acquired + options.hold_ns) if options.hold_ns else acquired
            contestant.release(number, shared)
            done += 1
            count += acquired <= deadline
            if done <= options.most_samples:
                possessions.append((request, acquired, released, number | (SHARED if shared else 0)))
            request = spin_until(now() + options.think_ns)
        self.count, self.possessions = count, possessions
        self.end = max(min(request, deadline), self.start)

    def time_pairs(self, deadline):
        contestant = self.contestant
        pairs = self.pairs_of_batch = max(1, BATCH_NS * self.count // max(1, self.end - self.start))
        begin = now()
        while begin < deadline and len(self.batches) < MOST_BATCHES:
            for _ in range(pairs):
                number, shared = self.draw()
                contestant.acquire(number, shared)
                contestant.release(number, shared)
            end = now()
            self.batches.append(end - begin)
            begin = end

    def run(self):
        options, team = self.options, self.team
        busy, alone = self.rank < options.busy, options.busy == 1
        span = int(options.max_seconds * 1e9)
        warm_until = team.from_rank_0(self.rank, now() + int(WARMUP_SHARE * span))
        if busy:
            self.hold_until(warm_until, options.warmup)
        start = team.from_rank_0(self.rank, now() + HEAD_START_NS)
        time.sleep(max(0, start - now()) / 1e9)
        self.count, self.possessions, self.start, self.end = 0, [], 0, 0
        if busy:
            self.hold_until(start + (span // 2 if alone else span), options.iterations)
        if busy and alone:
            self.time_pairs(start + span)
        team.barrier.wait()
        self.write()

    def write(self):
        def tick(ns):
            return round(ns / self.options.ns_per_tick)

        words = array.array("Q", [self.count, tick(self.start), tick(self.end), len(self.possessions),
                                  len(self.batches), self.pairs_of_batch])
        for request, acquired, released, what in self.possessions:
            words.extend((tick(request), tick(acquired), tick(released), what))
        words.extend(map(tick, self.batches))
        if sys.byteorder == "big":
            words.byteswap()
        with open(os.path.join(self.options.out, f"{self.rank}.contest"), "wb") as file:
            words.tofile(file)


def run_rank(options, rank, team, make_contestant):
    # Before the client starts its threads, so that they stay on the rank's CPU too.
    if options.cpus:
        os.sched_setaffinity(0, {options.cpus[rank % len(options.cpus)]})
    contestant = make_contestant(options, rank)
    Contest(options, rank, team, contestant).run()
    contestant.close()


def fork_rank(options, rank, team, make_contestant):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        run_rank(options, rank, team, make_contestant)
        status = 0
    except Exception as error:  # the parent must learn of it, whatever it is
        print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def main(make_contestant):
    options = parse_options()
    team = Team(options.ranks)
    running = {fork_rank(options, rank, team, make_contestant) for rank in range(options.ranks)}
    failed = False
    while running:
        pid, status = os.wait()
        running.discard(pid)
        if status and not failed:
            failed = True
            for other in running:
                os.kill(other, signal.SIGKILL)
    sys.exit(failed)
