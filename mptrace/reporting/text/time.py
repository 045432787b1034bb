# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the time of calls went, and how much moved from where to where, as text.  Pure."""

from collections.abc import Iterable

from mptrace.reporting.text.layout import (
    DARK,
    Numbers,
    item,
    many,
    ns_text,
    quantiles,
    short,
    table,
    unproved,
    wide,
    wrapped,
)
from mptrace.units import format_bytes, format_count, format_ns

_BAR = 40
#: Names of the phases as people read them.
_PHASE_NAMES = {"tlb_flush": "TLB flush", "lru_add": "LRU add"}


def time(profile: Numbers) -> list[str]:
    total = profile["calls"]["time_ns"]
    if not profile["calls"]["count"]:
        return ["time       no calls"]
    rows = [
        [
            "calls",
            "call",
            short(profile["calls"]["count"]),
            format_ns(total),
            "100",
            *quantiles(profile["calls"]),
        ]
    ]
    notes = []
    for name, phase in profile["phases"].items():
        label = _PHASE_NAMES.get(name, name)
        if phase["state"] == "not_traced":
            continue
        if phase["total_ns"] is None:
            notes.append(f"{label}: {phase['state'].replace('_', ' ')}: {phase['reason'] or '-'}")
            continue
        share = "" if phase["share"] is None else f"{100 * phase['share']:.1f}"
        count = "" if name == "unattributed" else short(phase["count"])
        rows.append(
            [label, phase["unit"], count, format_ns(phase["total_ns"]), share, *quantiles(phase)]
        )
        if phase["state"] == "unproved":
            notes.append(f"{label}: unproved" + (f": {phase['reason']}" if phase["reason"] else ""))
    blackout = profile["blackout"]
    if blackout["folios"]:
        rows.append(
            [
                "blackout",
                "folio",
                short(blackout["folios"]),
                # of many folios at once: the sum is no time that passed
                "",
                "",
                *quantiles(blackout),
            ]
        )
    lines = table(
        rows,
        ["time", "unit", "count", "total", "%", "p50", "p90", "p99", "max"],
        ("left", "left", *["right"] * 7),
    )
    if any(phase["state"] == "not_traced" for phase in profile["phases"].values()):
        notes.append("phases of pages: not traced at this level of detail (--detail all)")
    for note in notes:
        lines += wrapped("  ", note)
    if profile["phases"]["unattributed"]["total_ns"] < 0:
        lines += wrapped("  ", "unattributed is negative: phases overlap, or calls were lost")
    if blackout["folios"]:
        text = (
            f"a folio was inaccessible in {many(blackout['windows'], 'window')}; "
            f"from first to last p50 {ns_text(blackout['span']['p50'])}, "
            f"max {ns_text(blackout['span']['max'])}"
        )
        if blackout["stayed"]["max"] is not None:
            text += f"; those that stayed all the same: max {ns_text(blackout['stayed']['max'])}"
        doubt = unproved(profile, *DARK)
        lines += wrapped("  ", text + (f"; blackout: {doubt}" if doubt else ""))
    return lines


def movement(profile: Numbers) -> list[str]:
    rates = profile["rates"]
    if not rates["pages"]:
        return []
    lines = item(
        "moved",
        f"{many(rates['pages'], 'page')} ({format_bytes(rates['bytes'])})"
        + (
            f" in {format_ns(rates['call_ns'])} of calls: "
            f"{format_count(round(rates['pages_per_s']))} pages/s, "
            f"{rates['bytes_per_s'] / 1e9:.3g} GB/s"
            if rates["pages_per_s"]
            else ""
        ),
    )
    cells = {(cell["from"], cell["to"]): cell["pages"] for cell in profile["matrix"]}
    targets = sorted({target for _, target in cells})
    head = ["from \\ to", *(f"node {nid}" for nid in targets)]
    rows = [
        [
            f"node {source}",
            *(
                format_count(cells[source, nid]) if (source, nid) in cells else "-"
                for nid in targets
            ),
        ]
        for source in sorted({source for source, _ in cells})
    ]
    # Many nodes: as many columns as fit, then the next ones below.
    cell = 2 + max(len(text) + 2 * (row is head) for row in (head, *rows) for text in row)
    step = max((wide() - cell) // cell, 1)
    for first in range(1, len(head), step):
        part = slice(first, first + step)
        lines += table(
            [[row[0], *row[part]] for row in rows],
            [head[0], *head[part]],
            ("left", *["right"] * len(head[part])),
        )
    return lines


def histograms(profile: Numbers) -> list[str]:
    lines: list[str] = []
    named = {**profile["phases"], "blackout": profile["blackout"], "calls": profile["calls"]}
    for name, numbers in named.items():
        bins = numbers["histogram"]
        if not bins:
            continue
        if lines:
            lines.append("")
        lines.append(f"{_PHASE_NAMES.get(name, name)}, per {numbers.get('unit', 'call')}")
        most = max(count for _, count in bins)
        counts = dict(bins)
        low, high = min(counts), max(counts)
        for start in _doubling(low, high):
            count = counts.get(start, 0)
            bar = "#" * -(-count * _BAR // most)
            lines.append(f"  >= {format_ns(start):>7} {short(count):>9} {bar}".rstrip())
    return lines


def _doubling(low: int, high: int) -> Iterable[int]:
    if low == 0:
        yield 0
        low = 1
    while low <= high:
        yield low
        low *= 2
