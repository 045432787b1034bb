# SPDX-License-Identifier: GPL-2.0-or-later
"""How many huge pages moved whole, were split, or stayed, as text.  Pure."""

from mptrace.reporting.text.layout import (
    Numbers,
    clip,
    clip_process,
    many,
    process_name,
    short,
    table,
    wrapped,
)
from mptrace.units import and_more

_MOST_ROWS = 15
_NAMES = {"page": "page", "large": "large folio", "thp": "THP", "hugetlb": "hugetlb"}


def sizes(profile: Numbers) -> list[str]:
    """A row for each path, initiator and size; nothing where no folio was larger than a page."""
    rows = [
        (row, size)
        for row in profile["paths"]
        if any(size["kind"] != "page" for size in row["sizes"])
        for size in row["sizes"]
    ]
    if not rows:
        return []
    cells = [
        [
            row["label"],
            process_name(
                row["initiator"]["comm"] or row["initiator"]["process"], row["initiator"]["tgid"]
            ),
            _size(size),
            short(size["moved"]),
            "unknown" if size["split"] is None else _split(size),
            short(size["stayed"]),
            short(size["unknown"]),
        ]
        for row, size in rows[:_MOST_ROWS]
    ]
    head = ["folios by size", "by", "size", "moved", "split", "stayed", "unknown"]
    lines = table(cells, head, ("left", "left", "left", *["right"] * 4), {0: clip, 1: clip_process})
    more = and_more(len(rows) - _MOST_ROWS, "row", "--json")
    lines += wrapped("  ", more) if more else []
    if any(size["split"] is None for _, size in rows):
        lines += wrapped(
            "  ", "split: unknown, as the pages of a split folio could not be seen one by one here"
        )
    if any(size["split"] for _, size in rows):
        lines += wrapped("  ", "pages of folios that were split are in the rows of smaller sizes")
    return lines


def _size(size: Numbers) -> str:
    name = _NAMES[size["kind"]]
    return name if size["kind"] == "page" else f"{name} of {many(1 << size['order'], 'page')}"


def _split(size: Numbers) -> str:
    return "-" if size["kind"] == "page" else short(size["split"])
