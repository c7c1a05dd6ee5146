#!/usr/bin/env python3
"""Renders the results of `phalanx bench barrier --json` for people: a Markdown table and a plot (SVG and PNG).

    plot.py bench/results/barrier.json [--machine TEXT] [--toolchain TEXT] [--out bench/results]

The input has one JSON object a line, as `scripts/compare.sh` collects them. Where a system was measured several times
on the same nodes and ranks, the last measurement counts. The outputs are named after the input. Phalanx's losses are
printed like its wins: the table leaves out nothing that was measured.
"""

import argparse
import datetime
import json
import os

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from units import duration

LABELS = {
    "phalanx": "Phalanx",
    "openmpi": "Open MPI",
    "mpich": "MPICH",
    "libgomp": "libgomp",
    "pthread": "pthread_barrier",
    "std": "std::sync::Barrier",
    "gloo": "Gloo barrier",
    "gloo-monitored": "Gloo monitored",
}

# Mid-tones that keep their contrast on white and on near-black, so that one picture serves both page themes.
COLOURS = {
    "phalanx": "#e0561b",
    "openmpi": "#3b82c4",
    "mpich": "#2a9d8f",
    "libgomp": "#8f6fd1",
    "pthread": "#7d8590",
    "std": "#b5832a",
    "gloo": "#c2528b",
    "gloo-monitored": "#5f9e3a",
}
INK = "#808890"


def read_results(path):
    """The last measurement of each system in each place: {system: {(nodes, ranks): result}}."""
    results = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                result = json.loads(line)
                place = (result["nodes"], result["ranks"])
                results.setdefault(result["system"], {})[place] = result
            except (ValueError, KeyError, TypeError) as error:
                raise SystemExit(f"{path}:{number}: not a result: {error!r}") from error
    if not results:
        raise SystemExit(f"{path}: no results")
    return results


def in_report_order(results):
    known = [system for system in LABELS if system in results]
    return known + sorted(set(results) - set(known))


def places_of(results):
    """Nodes and ranks, fewest first."""
    return sorted({place for by_place in results.values() for place in by_place})


def is_across_nodes(results):
    return any(nodes > 1 for nodes, _ in places_of(results))


def place_label(place):
    nodes, ranks = place
    if nodes == 1:
        return f"{ranks} ranks"
    if ranks % nodes:
        return f"{ranks} ranks on {nodes} nodes"
    return f"{nodes} nodes × {ranks // nodes}"


def short_label(place):
    """For tables whose head says the rest."""
    return place_label(place).removesuffix(" ranks").replace(" nodes × ", " × ")


def label(system):
    return LABELS.get(system, system)


def ratio(result, reference, field):
    """How many times slower than Phalanx; below 1 means that Phalanx lost."""
    ours, theirs = (reference or {}).get(field), result.get(field)
    if not ours or theirs is None:
        return "–"
    times = theirs / ours
    return f"{times:.2f} ×" if times < 9.995 else f"{times:,.0f} ×"


def table(results):
    lines = [
        f"| system | {'nodes × ranks' if is_across_nodes(results) else 'ranks'} | p50 | mean | p99.9 | p50 to Phalanx's | mean to Phalanx's | p99.9 to Phalanx's |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for place in places_of(results):
        reference = results.get("phalanx", {}).get(place)
        for system in in_report_order(results):
            result = results[system].get(place)
            if result is None:
                continue
            cells = [label(system), short_label(place)]
            cells += [duration(result.get(field)) for field in ("p50_ns", "mean_ns", "p999_ns")]
            cells += [ratio(result, reference, field) for field in ("p50_ns", "mean_ns", "p999_ns")]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def values_of(results, field):
    """The distinct values of a field over all results, in words."""
    found = {json.dumps(result.get(field)) for by_ranks in results.values() for result in by_ranks.values()}
    return ", ".join(sorted(json.loads(text) if text.startswith('"') else text for text in found))


def version_of(results, system):
    versions = {result.get("system_version") for result in results[system].values()}
    return ", ".join(sorted(str(version) for version in versions if version))


def phalanx_choices(results):
    """Which algorithm and wait policy Phalanx used in each place."""
    ours = results.get("phalanx", {})
    choices = [f"{short_label(place)}: {ours[place].get('algorithm')}, {ours[place].get('wait')}" for place in sorted(ours)]
    return "; ".join(choices)


def limits_of(results):
    """What the hardware allows, in words: the least that was measured."""
    limits = [result["limit_ns"] for result in results.get("phalanx", {}).values() if result.get("limit_ns")]
    if not limits:
        return ""
    what = "half a round trip of raw spinning sockets" if is_across_nodes(results) else (
        "a cache line from core to core, one way")
    return f"; {what}: {duration(min(limits))}"


def markdown(results, name, options):
    head = [
        "# Barrier latency",
        "",
        "Written by `scripts/compare.sh`, which see for how to repeat it. One sample is one rank's time from entering a "
        "barrier to leaving it; all systems run in interleaved rounds with the same placement.",
        "",
        f"- Machine: {options.machine or 'not recorded'}",
        f"- Toolchain: {options.toolchain or 'not recorded'}",
        f"- Commit: {values_of(results, 'commit')}",
        f"- Date: {datetime.date.today().isoformat()}",
        f"- CPUs: {values_of(results, 'cpus')}; arrival: {values_of(results, 'arrival')}",
        "- Versions: " + "; ".join(f"{label(s)}: {version_of(results, s)}" for s in in_report_order(results)),
    ]
    if "phalanx" in results:
        head.append(f"- Phalanx's algorithm and wait policy by ranks: {phalanx_choices(results)}")
    if is_across_nodes(results):
        head[0] = "# Barrier latency across nodes"
        head.append(f"- Nodes are pretended: processes of one machine that share no memory, joined by "
                    f"{values_of(results, 'fabric')}{limits_of(results)}")
        return "\n".join(head + ["", table(results), ""])
    picture = f"![Latency against ranks, per system]({name}.svg)"
    return "\n".join(head + ["", table(results), "", picture, ""])


def summary(results):
    """The README's table: mean latency, a row a system, a column a number of ranks; and the tail at the fewest."""
    columns = places_of(results)
    fewest = place_label(columns[0])
    head = [f"{fewest}, p50", f"{fewest}, p99.9"] + [f"{place_label(place)}, mean" for place in columns]
    if is_across_nodes(results):
        head.insert(1, f"{fewest}, p50 to the limit")
    lines = ["| | " + " | ".join(head) + " |", "| --- |" + " ---: |" * len(head)]
    for system in in_report_order(results):
        by_place = results[system]
        first = by_place.get(columns[0], {})
        cells = [duration(first.get("p50_ns")), duration(first.get("p999_ns"))]
        cells += [duration(by_place.get(place, {}).get("mean_ns")) for place in columns]
        if is_across_nodes(results):
            to_limit = first.get("limit_ratio")
            cells.insert(1, f"{to_limit:.2f} ×" if to_limit else "–")
        lines.append(f"| {label(system)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def readme_marks(results):
    """Where the README has these figures: between a first and a last mark."""
    what = "figures across nodes" if is_across_nodes(results) else "figures"
    return f"<!-- {what}: written by scripts/compare.sh -->", f"<!-- end of {what} -->"


def update_readme(path, results, options):
    """Puts the summary between the README's two marks."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    begin, end = readme_marks(results)
    if begin not in text or end not in text:
        raise SystemExit(f"{path}: no place for figures between {begin} and {end}")
    before, rest = text.split(begin, 1)
    after = rest.split(end, 1)[1]
    machine = options.machine or "machine not recorded"
    where = f"{machine}{limits_of(results)}.\nCommit {values_of(results, 'commit')}."
    body = f"{begin}\n{summary(results)}\n\n{where}\n{end}"
    with open(path, "w", encoding="utf-8") as file:
        file.write(before + body + after)


def spread(positions, distance):
    """Moves labels that would overlap apart, keeping their order: {key: wanted} to {key: placed}.

    Labels that are too close form a crowd, which is centred on the mean of what its members wanted; two crowds that
    then touch become one.
    """
    crowds = []
    for key, wanted in sorted(positions.items(), key=lambda item: item[1]):
        crowds.append([(key, wanted)])
        while len(crowds) > 1 and top_of(crowds[-2], distance) + distance > bottom_of(crowds[-1], distance):
            last = crowds.pop()
            crowds[-1] += last
    return {
        key: bottom_of(crowd, distance) + place * distance
        for crowd in crowds
        for place, (key, _) in enumerate(crowd)
    }


def bottom_of(crowd, distance):
    return sum(wanted for _, wanted in crowd) / len(crowd) - (len(crowd) - 1) * distance / 2


def top_of(crowd, distance):
    return bottom_of(crowd, distance) + (len(crowd) - 1) * distance


def label_lines(axes, ends):
    """Names each line at its right end, in its colour: no legend to match by eye."""
    to_pixels = axes.transData.transform
    wanted = {system: to_pixels((x, y))[1] for system, (x, y) in ends.items()}
    right = max(x for x, _ in ends.values())
    for system, pixel in spread(wanted, 15 * axes.figure.dpi / 72).items():
        _, y = ends[system]
        axes.annotate(
            label(system), (right, y), xytext=(8, (pixel - wanted[system]) * 72 / axes.figure.dpi),
            textcoords="offset points", color=COLOURS.get(system, INK), va="center", fontsize=10,
            fontweight="bold" if system == "phalanx" else "normal", annotation_clip=False,
        )


def draw(results, path_without_suffix):
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["font.family"] = "sans-serif"
    # Without this the same results would give another file each time.
    matplotlib.rcParams["svg.hashsalt"] = "phalanx"
    figure, axes = plt.subplots(figsize=(8.5, 5.2), dpi=150)
    ends = {}
    for system in in_report_order(results):
        points = sorted((ranks, result["p50_ns"]) for (_, ranks), result in results[system].items())
        draw_line(axes, system, points)
        ends[system] = points[-1]
    dress(axes, results)
    figure.tight_layout()
    figure.subplots_adjust(right=0.79)
    figure.canvas.draw()
    label_lines(axes, ends)
    figure.savefig(path_without_suffix + ".svg", transparent=True, metadata={"Date": None})
    figure.savefig(path_without_suffix + ".png", transparent=True)
    plt.close(figure)


def draw_line(axes, system, points):
    ours = system == "phalanx"
    ranks, latencies = zip(*points)
    axes.plot(
        ranks, latencies, color=COLOURS.get(system, INK), marker="o", markersize=6 if ours else 4.5,
        linewidth=3 if ours else 1.6, zorder=3 if ours else 2, clip_on=False,
    )


def dress(axes, results):
    ranks = sorted({ranks for _, ranks in places_of(results)})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ranks, [str(number) for number in ranks])
    axes.set_xlim(ranks[0] / 1.12, ranks[-1] * 1.02)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: duration(value).replace(".00", "").replace(".0", ""))
    axes.set_xlabel("ranks", color=INK)
    axes.set_title("Barrier latency, p50 (log scale, lower is better)", color=INK, loc="left", fontsize=12)
    axes.grid(axis="y", color=INK, alpha=0.25, linewidth=0.7)
    axes.tick_params(colors=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(INK)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input")
    parser.add_argument("--machine", default="", help="what it was measured on, for the head of the table")
    parser.add_argument("--toolchain", default="", help="compilers and kernel, for the head of the table")
    parser.add_argument("--out", help="directory of the outputs; default: the input's")
    parser.add_argument("--readme", help="a README whose table of figures is to be renewed")
    options = parser.parse_args()
    results = read_results(options.input)
    directory = options.out or os.path.dirname(options.input) or "."
    name = os.path.splitext(os.path.basename(options.input))[0]
    os.makedirs(directory, exist_ok=True)
    base = os.path.join(directory, name)
    # Across nodes one machine has two places to measure: two points make no curve.
    pictures = [] if is_across_nodes(results) else [f"{base}.svg", f"{base}.png"]
    if pictures:
        draw(results, base)
    with open(base + ".md", "w", encoding="utf-8") as file:
        file.write(markdown(results, name, options))
    if options.readme:
        update_readme(options.readme, results, options)
    print("wrote " + ", ".join([f"{base}.md", *pictures]))


if __name__ == "__main__":
    main()
