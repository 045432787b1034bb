# SPDX-License-Identifier: GPL-2.0-or-later
"""What was selected of a recording, and what there is, as text.  Pure."""

from collections.abc import Sequence

from mptrace.outcomes.said import is_empty
from mptrace.reporting.text.layout import Numbers, columns, process_name, wrapped
from mptrace.reporting.text.summary_when import clock, day, span_of
from mptrace.units import and_more, format_count, many

_NAMES = {
    "migrations": ("migration", "migrations"),
    "calls": ("call", "calls"),
    "entries": ("entry", "entries"),
    "folios": ("folio", "folios"),
    "waits": ("wait", "waits"),
    "balancing": ("row of NUMA balancing", "rows of NUMA balancing"),
}
_MOST = 8


def selected(said: Numbers, *, width: int | None = None) -> list[str]:
    """The first lines of what is filtered: what is shown, of how much, and what can't be told.

    :param said: of ``said.said_of``.
    :param width: columns that there are; None: as in the text that is being rendered.
    """
    if width is not None:
        with columns(width):
            return selected(said)
    counts = [
        f"{format_count(row['chosen'])} of {many(row['of'], *_NAMES[table])}"
        for table, row in ((table, said["rows"][table]) for table in _NAMES)
        if row["of"]
    ]
    text = f"only {', '.join(_asked(said))}: {', '.join(counts) or 'of nothing'}"
    lines = wrapped("", text, hang="  ")
    unsure = [
        many(said["unsure"][table], *_NAMES[table]) for table in _NAMES if said["unsure"][table]
    ]
    if unsure:
        lines += wrapped("  ", f"left out as unknown whether they belong: {', '.join(unsure)}")
    return lines + (there_is(said) if is_empty(said) else [])


def there_is(said: Numbers, *, width: int | None = None) -> list[str]:
    """Where nothing fits: what the recording has."""
    if width is not None:
        with columns(width):
            return there_is(said)
    found = said["there_is"]
    first = found["first"]
    when = span_of(first, found["last"])
    if first is not None and first["utc"] is not None:
        when = f"{day(first)} {when} UTC"
    people = [process_name(each["comm"], each["tgid"]) for each in found["processes"]]
    parts = [
        f"times {when or 'none'}",
        f"processes {_some(people)}",
        f"paths {_some(found['paths'])}",
        f"nodes {_some([str(nid) for nid in found['nodes']])}",
    ]
    return wrapped("", "nothing fits; the recording has " + "; ".join(parts), hang="  ")


def _some(names: Sequence[str]) -> str:
    more = and_more(len(names) - _MOST, "", "mptrace dump", inline=True)
    return (", ".join(names[:_MOST]) or "none") + (f" {more}" if more else "")


def _asked(said: Numbers) -> list[str]:
    start, end = said["from"], said["to"]
    parts = []
    if start or end:
        first = said["there_is"]["first"]
        is_dated = len({day(each) for each in (start, end, first) if each} - {""}) > 1
        words = [
            f"{word} {_time(each, is_dated=is_dated)}"
            for word, each in (("from", start), ("to", end))
            if each
        ]
        zone = " UTC" if all(each["utc"] for each in (start, end) if each) else ""
        parts.append(" ".join(words) + zone)
    if said["pids"]:
        parts.append("of " + ", ".join(f"process {pid}" for pid in said["pids"]))
    if said["paths"]:
        parts.append("by " + " or ".join(said["paths"]))
    if said["nodes"]:
        parts.append("from or to node " + " or ".join(map(str, said["nodes"])))
    return parts + (["what failed"] if said["failed"] else [])


def _time(moment: Numbers, *, is_dated: bool) -> str:
    """The time of the day with as many digits as it has."""
    if moment["utc"] is None:
        return clock(moment)
    whole, _, rest = str(moment["utc"]).removesuffix("Z").partition("T")[2].partition(".")
    fraction = rest.rstrip("0")
    text = f"{whole}.{fraction}" if fraction else whole
    return f"{day(moment)} {text}" if is_dated else text
