# SPDX-License-Identifier: GPL-2.0-or-later
"""Where migrations, calls and waits came from, as text.  Pure."""

from mptrace.reporting.text.layout import (
    Numbers,
    item,
    many,
    most_rows,
    ns_text,
    process_name,
    wrapped,
)
from mptrace.units import and_more

#: Initiators and processes that waited, and stacks of each.
MOST_ROWS = 5
MOST_STACKS = 3


def stacks(profile: Numbers) -> list[str]:
    """By initiator and by who waited, with the stacks of most time, the innermost frame first."""
    found = profile["stacks"]
    if found is None:
        return []
    rows = [(each, f", {each['label']}", True) for each in found["initiators"]]
    waits = [(each, " waited", False) for each in found["waits"]]
    if not rows and not waits:
        return item("stacks", "none were taken of what is shown")
    moves, stops = (sum(each["count"] for each, _, _ in group) for group in (rows, waits))
    lines = item(
        "stacks",
        f"of {many(moves, 'call or migration', 'calls and migrations')} and of "
        f"{many(stops, 'wait')}, the innermost function first",
    )
    for group, what in ((rows, "initiator"), (waits, "process that waited")):
        most = most_rows(MOST_ROWS)
        for each, words, has_pages in group[:most]:
            lines += _of_group(each, words, has_pages=has_pages)
        several = f"{what}s" if what == "initiator" else "processes that waited"
        more = and_more(len(group) - most, what, "--json", plural=several)
        lines += wrapped("  ", more) if more else []
    if found["without_record"]:
        lines += wrapped(
            "  ", f"{many(found['without_record'], 'stack')} of what has no record: not shown"
        )
    return lines


def _of_group(row: Numbers, words: str, *, has_pages: bool) -> list[str]:
    lines = wrapped(
        "  ",
        f"{process_name(row['comm'], row['tgid'])}{words}: {_measures(row, has_pages=has_pages)}",
        hang="    ",
    )
    most = most_rows(MOST_STACKS)
    is_only = len(row["stacks"]) + row["more_stacks"] == 1
    for each in row["stacks"][:most]:
        if not is_only:
            lines += wrapped("    ", _measures(each, has_pages=has_pages), hang="      ")
        lines += wrapped(
            "      ", f"kernel: {_chain(each['kernel'], each['kernel_unknown'])}", hang="        "
        )
        if each["user"] or each["user_unknown"]:
            user = _chain(each["user"], each["user_unknown"])
            lines += wrapped("      ", f"user: {user}", hang="        ")
    hidden = max(len(row["stacks"]) - most, 0) + row["more_stacks"]
    more = and_more(hidden, "stack", "--json")
    return lines + (wrapped("    ", more) if more else [])


def _measures(row: Numbers, *, has_pages: bool) -> str:
    pages = f", {many(row['moved_pages'], 'page')} moved" if has_pages else ""
    return f"{many(row['count'], 'time')}{pages}, {ns_text(row['time_ns'])}"


def _chain(folded: str | None, unknown: str) -> str:
    if folded is None:
        return f"unknown: {unknown}" if unknown else "none"
    return " < ".join(reversed(folded.split(";")))
