#!/usr/bin/env python3
"""torch.distributed's Gloo barriers: `barrier`, or `monitored_barrier` with --monitored.

Ranks are processes forked after torch has been imported once. They find one another through a file in the output
directory and talk over the loopback interface only. Arguments, arrival patterns, time budget and record are those of
`common.h`, which see; the clock is CLOCK_MONOTONIC, written in ticks of the length that the runner asks for.
"""

import argparse
import array
import os
import signal
import sys
import time

import torch
import torch.distributed

WARMUP_SHARE = 0.2
MASK = (1 << 64) - 1

now = time.monotonic_ns


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--warmup", type=int, default=0)
    parser.add_argument("--arrival", choices=["back-to-back", "rotate-late", "random-late", "open-loop"],
                        default="back-to-back")
    parser.add_argument("--late-ns", type=int, default=0)
    parser.add_argument("--period-ns", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ns-per-tick", type=float, default=1.0)
    parser.add_argument("--cpus", default="")
    parser.add_argument("--out", required=True)
    parser.add_argument("--max-seconds", type=float, default=10.0)
    parser.add_argument("--monitored", action="store_true")
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


def from_rank_0(value):
    """Hands rank 0's number to all the ranks."""
    word = torch.tensor([value], dtype=torch.int64)
    torch.distributed.broadcast(word, 0)
    return int(word[0])


class Rank:
    """One rank's run; its methods mirror the functions of `common.h`."""

    def __init__(self, options, rank):
        self.options = options
        self.rank = rank
        self.meet = torch.distributed.monitored_barrier if options.monitored else torch.distributed.barrier
        self.random = random_numbers(options.seed + rank)
        self.start = 0
        # Enter, exit, enter, exit, …: as the file will have them.
        self.samples = array.array("Q", bytes(16 * options.iterations))

    def iterate(self, count):
        if self.options.arrival == "back-to-back":
            self.iterate_back_to_back(count)
        else:
            self.iterate_delayed(count)

    def iterate_back_to_back(self, count):
        meet, samples = self.meet, self.samples
        enter = now()
        for i in range(count):
            meet()
            left = now()
            samples[2 * i] = enter
            samples[2 * i + 1] = left
            enter = left

    def iterate_delayed(self, count):
        open_loop = self.options.arrival == "open-loop"
        left = now()
        for i in range(count):
            due = self.entry_due(i, left)
            entered = now()
            while entered < due:
                entered = now()
            self.meet()
            left = now()
            self.samples[2 * i] = due if open_loop else entered
            self.samples[2 * i + 1] = left

    def entry_due(self, i, left):
        options = self.options
        if options.arrival == "open-loop":
            return self.start + i * options.period_ns
        if options.arrival == "random-late":
            return left + (next(self.random) * options.late_ns >> 64)
        return left + (options.late_ns if i % options.ranks == self.rank else 0)

    def warm_up(self):
        """Batches that double, within their share of the budget. Returns the length of an iteration: in the last batch,
        or in all but the first if that is more."""
        budget_ns = WARMUP_SHARE * self.options.max_seconds * 1e9
        begin = first_end = now()
        done, batch, iteration_ns = 0, 1, 1.0
        while (batch := from_rank_0(batch)) > 0:
            batch_begin = self.start = now()
            self.iterate(batch)
            batch_end = now()
            iteration_ns = (batch_end - batch_begin) / batch
            if done == 0:
                first_end = batch_end
            else:
                iteration_ns = max(iteration_ns, (batch_end - first_end) / (done + batch - 1))
            done += batch
            fit = int((budget_ns - (batch_end - begin)) / iteration_ns)
            batch = max(0, min(2 * batch, self.options.warmup - done, fit, self.options.iterations))
        return iteration_ns

    def measure(self):
        options = self.options
        iteration_ns = self.warm_up()
        fit = int((1 - WARMUP_SHARE) * options.max_seconds * 1e9 / iteration_ns)
        count = from_rank_0(min(options.iterations, max(1, fit)))
        self.random = random_numbers(options.seed + self.rank)
        self.start = from_rank_0(now() + 1_000_000 + int(4 * iteration_ns))
        self.meet()
        self.iterate(count)
        self.write(count)

    def write(self, count):
        ticks = array.array("Q", (round(ns / self.options.ns_per_tick) for ns in self.samples[: 2 * count]))
        if sys.byteorder == "big":
            ticks.byteswap()
        with open(os.path.join(self.options.out, f"{self.rank}.samples"), "wb") as file:
            ticks.tofile(file)


def run_rank(options, rank, meeting_point):
    # Before Gloo starts its threads, so that they stay on the rank's CPU too.
    if options.cpus:
        os.sched_setaffinity(0, {options.cpus[rank % len(options.cpus)]})
    store = torch.distributed.FileStore(meeting_point, options.ranks)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=options.ranks)
    Rank(options, rank).measure()
    # Nobody closes its connections while another is still in its last barrier.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def fork_rank(options, rank, meeting_point):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        run_rank(options, rank, meeting_point)
        status = 0
    except Exception as error:  # the parent must learn of it, whatever it is
        print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def main():
    options = parse_options()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    meeting_point = os.path.join(options.out, "gloo-store")
    if os.path.exists(meeting_point):
        os.unlink(meeting_point)
    running = {fork_rank(options, rank, meeting_point) for rank in range(options.ranks)}
    failed = False
    while running:
        pid, status = os.wait()
        running.discard(pid)
        if status and not failed:
            failed = True
            for other in running:
                os.kill(other, signal.SIGKILL)
    if os.path.exists(meeting_point):
        os.unlink(meeting_point)
    sys.exit(failed)


if __name__ == "__main__":
    main()
