# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of a recording as a table whose values are all whole.  Returns, never prints."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mptrace.outcomes.plain_table import is_wall_clock
from mptrace.reporting.text.layout import WIDTH, printable
from mptrace.reporting.text.summary_when import clock

_INDENT = "    "
#: Heads where the whole names would make a row longer than a line.
_BRIEF = {
    "target_nid": "target",
    "entry_reason": "reason",
    "final_nid": "final",
    "nr_pages": "pages",
    "src_nid": "src",
    "dst_nid": "dst",
    "mode_name": "mode",
    "n_lookups": "lookups",
    "n_migrations": "migrations",
    "holder_tid": "holder",
    "lookup_seq": "lookup",
}
#: Head of wall-clock times: shown as the time of the day, in UTC and to the millisecond.
_WHEN = "when"


def lines(
    names: Sequence[str],
    widths: Sequence[int],
    rows: Iterable[Sequence[Any]],
    *,
    width: int = WIDTH,
    heads: bool = True,
) -> Iterator[str]:
    """Heads, then a line for each row; columns for which it has no room go on below.

    Such a further line is left out where it would have no value.  Nothing is cut.

    :param names: the columns.
    :param widths: letters of the longest value of each.
    :param rows: their values; None, False and the empty text are shown as ``-``, True as
        ``yes``.
    :param width: columns that there are, 80 at the least.
    :param heads: False where these rows go on below others.
    """
    width = max(width, WIDTH)
    is_time = [is_wall_clock(name) for name in names]
    titles = [_WHEN if short else name for name, short in zip(names, is_time, strict=True)]
    widths = [
        min(size, len("06:17:05.123")) if short else size
        for size, short in zip(widths, is_time, strict=True)
    ]
    sizes = _sizes(titles, widths)
    if sum(sizes) + len(sizes) - 1 > width:
        titles = [_BRIEF.get(name, name) for name in titles]
        sizes = _sizes(titles, widths)
    parts = _parts(sizes, width)
    if heads:
        yield from _row(titles, sizes, parts, width)
    for row in rows:
        cells = [
            _cell(clock({"utc": value}, ms=True) if short and value else value)
            for value, short in zip(row, is_time, strict=True)
        ]
        yield from _row(cells, sizes, parts, width)


def _cell(value: Any) -> str:
    if value is True:
        return "yes"
    return "-" if value is False or value in (None, "") else printable(str(value))


def _sizes(heads: Sequence[str], widths: Sequence[int]) -> list[int]:
    return [max(len(head), size, 1) for head, size in zip(heads, widths, strict=True)]


def _parts(sizes: Sequence[int], width: int) -> list[slice]:
    """The columns of each line of a row."""
    parts: list[slice] = []
    first = used = 0
    for at, size in enumerate(sizes):
        room = width - (len(_INDENT) if parts else 0)
        if at > first and used + 1 + size > room:
            parts.append(slice(first, at))
            first, used = at, size
        else:
            used += size + (at > first)
    return [*parts, slice(first, len(sizes))]


def _row(
    cells: Sequence[str], sizes: Sequence[int], parts: Sequence[slice], width: int
) -> Iterator[str]:
    for number, part in enumerate(parts):
        some = cells[part]
        if number and all(cell == "-" for cell in some):
            continue
        text = " ".join(f"{cell:<{size}}" for cell, size in zip(some, sizes[part], strict=True))
        text = (_INDENT * bool(number) + text).rstrip()
        yield text[:width]
        # a path that is longer than a line
        room = width - len(_INDENT)
        yield from (_INDENT + text[at : at + room] for at in range(width, len(text), room))
