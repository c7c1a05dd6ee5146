#!/usr/bin/env python3
"""Writes the README's table of locks and their family from `phalanx bench lock|rwlock|… --json --vs all`.

scripts/compare.sh --contests calls it with bench/results/contests.json. Of each object, system and place the last
result counts. A row is one of an object in one place; beside Phalanx stand all rivals that were measured there, the
best first.
"""

import argparse
import json

from units import duration, rate

BEGIN = "<!-- figures of locks: written by scripts/compare.sh -->"
END = "<!-- end of figures of locks -->"
NAMES = {"lock": "lock", "rwlock": "reader-writer lock", "semaphore": "semaphore", "counter": "counter",
         "election": "election"}
RIVALS = {"openmpi": "Open MPI", "mpich": "MPICH", "posix": "POSIX", "redis": "Redis", "zookeeper": "ZooKeeper"}


def places(result):
    """What a row says of where it was measured, in the order of the rows; and which figure it shows."""
    nodes, ranks, busy = result["nodes"], result["ranks"], result["busy"]
    one = result["bench"] == "counter"
    pair = "an addition" if one else "acquire + release"
    if nodes == 1 and busy == 1:
        return 0, f"{pair}, one rank", "pair_ns"
    if nodes == 1:
        return ranks, f"{ranks} ranks, a second", "throughput_per_s"
    if busy == 1:
        return 1000, f"{pair} from another node", "pair_ns"
    return 1000 + ranks, f"{nodes} nodes × {ranks // nodes}, a second", "throughput_per_s"


def cell(result, figure):
    value = result.get(figure)
    if value is None:
        return None
    return duration(value) if figure == "pair_ns" else rate(value)


def read_rows(path):
    """{(object, place): {system: result}}, in the README's order."""
    rows = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                result = json.loads(line)
                key = (list(NAMES).index(result["bench"]), *places(result), result["bench"])
                rows.setdefault(key, {})[result["system"]] = result
            except (ValueError, KeyError, TypeError) as error:
                raise SystemExit(f"{path}:{number}: not a result: {error!r}") from error
    return sorted(rows.items())


def line_of(key, by_system):
    _, _, place, figure, name = key
    best_first = sorted(by_system.items(), key=lambda item: item[1].get(figure) or 0, reverse=figure != "pair_ns")
    rivals = [f"{RIVALS.get(system, system)} {cell(result, figure)}" for system, result in best_first
              if system != "phalanx" and cell(result, figure)]
    ours = cell(by_system["phalanx"], figure) if "phalanx" in by_system else None
    return f"| {NAMES[name]}: {place} | {ours or '–'} | {', '.join(rivals) or '–'} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input")
    parser.add_argument("--machine", default="machine not recorded", help="what it was measured on")
    parser.add_argument("--readme", required=True, help="the README whose table is to be renewed")
    options = parser.parse_args()
    rows = read_rows(options.input)
    lines = ["| | Phalanx | rivals |", "| --- | ---: | --- |"] + [line_of(key, by_system) for key, by_system in rows]
    results = [result for _, by_system in rows for result in by_system.values()]
    limits = sorted(result["limit_ns"] for result in results if result["nodes"] == 1 and result.get("limit_ns"))
    limit = f"; a cache line from core to core, one way: {limits[len(limits) // 2]:.0f} ns" if limits else ""
    commits = ", ".join(sorted({result["commit"] for result in results}))
    with open(options.readme, encoding="utf-8") as file:
        text = file.read()
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{options.readme}: no place for figures between {BEGIN} and {END}")
    before, rest = text.split(BEGIN, 1)
    body = "\n".join([BEGIN, *lines, "", f"{options.machine}{limit}.", f"Commit {commits}.", END])
    with open(options.readme, "w", encoding="utf-8") as file:
        file.write(before + body + rest.split(END, 1)[1])


if __name__ == "__main__":
    main()
