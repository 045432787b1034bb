# SPDX-License-Identifier: GPL-2.0-or-later
"""What NUMA balancing cost beside its migrations, as text.  Pure."""

from mptrace.reporting.text.layout import (
    Numbers,
    asked_for,
    clip_process,
    cut,
    many,
    process_name,
    short,
    table,
    wrapped,
)
from mptrace.reporting.text.summary_when import clock, moment
from mptrace.units import and_more, format_ns

MOST_ROWS = 10
_TITLE = "NUMA balancing beside its migrations"
_NOTE = "times are of the clock; hint faults include migrating: the process's own migrations"
_WHAT = {"scans": "scans", "faults": "hint faults", "fault_ns": "times of hint faults"}


def balancing(profile: Numbers) -> list[str]:
    """By process: scans and hint faults, how many, how long in all, the longest and when."""
    found = profile["balancing"]
    why = _unknown(profile)
    if found["processes"] is None:
        # where mptrace did not even look, nothing is said of it
        return wrapped("", f"{_TITLE}: unknown: {why[0]}", hang="  ") if why else []
    title = f"{_TITLE}: no scan and no hint fault was seen"
    if found["processes"]:
        of = many(len(found["processes"]), "process", "processes")
        sums = found["totals"]
        took = (">= " if found["is_least"] else _untimed(sums)) + format_ns(_total(sums))
        title = f"{_TITLE}: {took} in {of}"
    lines = wrapped("", title, hang="  ")
    least = ">= " if found["is_least"] else ""
    rows, rest = cut(found["processes"], MOST_ROWS, lambda row: row["tgid"], asked_for(profile))
    if rows:
        head = ["process", "scans", "in all", "longest", "hint faults", "in all", "longest"]
        cells = [
            [
                process_name(row["comm"], row["tgid"]),
                _count(row["scans"], least),
                _ns(row["scan_ns"], least),
                _longest(row, "scan"),
                _count(row["faults"], least),
                _ns(row["fault_ns"], least or _untimed(row)),
                _longest(row, "fault"),
                _ns(row["migrating_ns"], ""),
            ]
            for row in rows
        ]
        align = ("left", *["right"] * 7)
        heads, *body = table(cells, [*head, "migrating"], align, {0: clip_process})
        lines.append(heads)
        for row, text in zip(rows, body, strict=True):
            lines += [text, *_details(row)]
        more = and_more(len(rest), "process", "--json", plural="processes")
        lines += wrapped("  ", more) if more else []
        lines += wrapped("  ", _NOTE)
    for text in why:
        lines += wrapped("  ", f"unknown: {text}")
    if rows and found["why_unknown"]["migrating_ns"]:
        lines += wrapped("  ", f"migrating: unknown: {found['why_unknown']['migrating_ns']}")
    return lines


def line(profile: Numbers) -> list[str]:
    """One sentence for the first screen; nothing where there is nothing, or nobody looked."""
    found = profile["summary"]["balancing"]
    if not found:
        return []
    most, several = found["most"], found["processes"] > 1
    least = ">= " if found["is_least"] else ""
    who = process_name(most["comm"], most["tgid"])
    whose = many(found["processes"], "process", "processes") if several else who
    parts = []
    if found["scans"] is not None:
        longest = found["scan_max_ns"]
        text = f"{least}{many(found['scans'], 'scan')}"
        if found["scans"]:
            text += f" {format_ns(found['scan_ns'])}"
        parts.append(text + (f" (longest {format_ns(longest)})" if longest else ""))
    if found["faults"] is not None:
        text = f"{least}{many(found['faults'], 'hint fault')}"
        if found["fault_ns"] is not None and found["faults_timed"]:
            text += f" {least or _untimed(found)}{format_ns(found['fault_ns'])}"
        parts.append(text)
    first = f"; {format_ns(_total(most))} of {who}" if several else ""
    took = f"{least or _untimed(found)}{format_ns(_total(found))}"
    text = f"NUMA balancing took {took} of {whose}: {', '.join(parts)}{first} (--phases)"
    return wrapped("", text, hang="  ")


def _total(sums: Numbers) -> int:
    return (sums["scan_ns"] or 0) + (sums["fault_ns"] or 0)


def _unknown(profile: Numbers) -> list[str]:
    """What was not seen though it was looked for, and why; each reason once."""
    phases = {phase.get("phase") for phase in profile["coverage"]}
    if "numa_scan" not in phases:
        return []
    of: dict[str, list[str]] = {}
    for name, what in _WHAT.items():
        if reason := profile["balancing"]["why_unknown"][name]:
            of.setdefault(reason, []).append(what)
    return [f"{', '.join(names)}: {reason}" for reason, names in of.items()]


def _untimed(row: Numbers) -> str:
    """``>= `` where the end of some hint faults was not seen."""
    timed = row["faults_timed"]
    return ">= " if timed is not None and (row["faults"] or 0) > timed else ""


def _count(count: int | None, least: str) -> str:
    return "unknown" if count is None else least + short(count)


def _ns(ns: int | None, least: str) -> str:
    return "unknown" if ns is None else least + format_ns(ns)


def _longest(row: Numbers, what: str) -> str:
    if row[f"{what}_ns"] is None:
        return "unknown"
    ns = row[f"{what}_max_ns"]
    return "-" if ns is None else format_ns(ns)


def _details(row: Numbers) -> list[str]:
    """When the longest ones were, and how many hint faults have no time."""
    parts = [
        f"longest {name} at {clock(when, ms=True)}"
        for what, name in (("scan", "scan"), ("fault", "hint fault"))
        if (when := moment(row, f"{what}_max_at")) is not None
    ]
    if _untimed(row):
        untimed = row["faults"] - row["faults_timed"]
        parts.append(f"{many(untimed, 'hint fault')} without a time")
    return wrapped("  ", "; ".join(parts), hang="    ") if parts else []
