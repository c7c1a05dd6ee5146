"""Figures as people read them."""


def duration(ns):
    """Three significant digits with a unit: 118 ns, 2.83 µs, 8.05 ms."""
    if ns is None:
        return "–"
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= 0.9995 * size:
            value = ns / size
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return f"{ns:.0f} ns"


def rate(per_second):
    """Three significant digits, in thousands or millions: 423 k, 13.9 M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if per_second >= 0.9995 * size:
            value = per_second / size
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return f"{per_second:.0f}"
