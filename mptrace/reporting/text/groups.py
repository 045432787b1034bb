# SPDX-License-Identifier: GPL-2.0-or-later
"""Callers whose entries alternate between nodes, as text.  Pure."""

from collections.abc import Iterator

from mptrace.reporting.text.layout import Numbers, asked_for, cut, item, many, process_name
from mptrace.units import and_more, format_count, format_ns

#: Callers that a report names; JSON has all.
MOST_ROWS = 15


def groups(profile: Numbers) -> list[str]:
    """How many groups their calls made, how many they would make, and what that costs."""
    lines: list[str] = []
    rows, rest = cut(profile["groups"], MOST_ROWS, lambda row: row["tgid"], asked_for(profile))
    for row in rows:
        for text in _sentences(row):
            lines += item("" if lines else "groups", text)
    if rest:
        lines += item("", and_more(len(rest), "caller", "--json"))
    if any(row["groups"] for row in profile["groups"]):
        lines += item("", "-> sort the entries by node: each change of it ends a group")
    return lines


def _sentences(row: Numbers) -> Iterator[str]:
    name = process_name(row["comm"], row["tgid"])
    if row["groups"]:
        calls = "" if row["calls"] == 1 else f" in {many(row['calls'], 'call')}"
        yield (
            f"{name}: entries alternate between nodes{calls}: "
            f"{many(row['groups'], 'group')} of {_mean(row)}; sorted by node it would be "
            f"{format_count(row['sorted_groups'])}. {_cost(row)}"
        )
    if row["unknown_calls"]:
        yield (
            f"{name}: whether entries alternate is unknown for "
            f"{many(row['unknown_calls'], 'call')} of {many(row['unknown_groups'], 'group')}: "
            "the arrays were not read whole, or records were lost"
        )


def _mean(row: Numbers) -> str:
    if row["pages"] % row["groups"] == 0:
        return many(row["pages"] // row["groups"], "page")
    return f"{row['pages'] / row['groups']:.1f} pages on average"


def _cost(row: Numbers) -> str:
    if row["ns_per_page"] is None:
        return "What a page took there is unknown"
    text = f"A page took {format_ns(row['ns_per_page'])} there, "
    larger = row["larger"]
    if larger is None:
        return text + "and this recording has no larger groups to compare with"
    return text + (
        f"{format_ns(larger['ns_per_page'])} in {many(larger['groups'], 'larger group')} of "
        f"{many(larger['least_pages'], 'page')} or more"
    )
