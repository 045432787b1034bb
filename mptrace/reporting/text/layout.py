# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces of reports: labelled lines, wrapped text, tables, short numbers.  Pure."""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mptrace.outcomes.causes.statuses import status_text
from mptrace.units import and_more, format_count, format_ns, many

__all__ = [
    "DARK",
    "LABEL",
    "WAITS",
    "WIDTH",
    "Numbers",
    "asked_for",
    "big",
    "clip",
    "clip_process",
    "columns",
    "cut",
    "item",
    "many",
    "most_rows",
    "named",
    "ns_text",
    "place",
    "printable",
    "process_name",
    "quantiles",
    "rows_of_lists",
    "short",
    "table",
    "unproved",
    "wide",
    "wrapped",
]

#: Columns of text where nobody asked for more: off a terminal, and the least that is laid out.
WIDTH = 80
#: Width of the labels at the left.
LABEL = 11
#: Phases that a blackout rests on, and those that waits do.
DARK = ("dark", "dark_pmd")
WAITS = ("wait_pte", "wait_pmd", "wait_hugetlb", "io_sleep")

#: One blank between columns, where two of all leave too little.
_NARROWEST = " "
#: A flexible column of a table is never narrower, nor than its head.
_LEAST = 6

Numbers = Mapping[str, Any]
Cutter = Callable[[str, int], str]
# Set by columns() for the time of one rendering, so that each piece needn't be handed it.
_width = ContextVar("width", default=WIDTH)
_top: ContextVar[int | None] = ContextVar("top", default=None)


@contextmanager
def columns(width: int) -> Iterator[None]:
    """Lay out what is rendered inside in ``width`` columns, :data:`WIDTH` at the least."""
    token = _width.set(max(width, WIDTH))
    try:
        yield
    finally:
        _width.reset(token)


@contextmanager
def rows_of_lists(top: int | None) -> Iterator[None]:
    """Show ``top`` rows of each list of what is rendered inside; None: as many as usual."""
    token = _top.set(top)
    try:
        yield
    finally:
        _top.reset(token)


def most_rows(usual: int) -> int:
    """Rows that a list of the text being rendered may have."""
    top = _top.get()
    return usual if top is None else top


def wide() -> int:
    """Columns that the text being rendered may take."""
    return _width.get()


def printable(text: str) -> str:
    """Text as a terminal may have it: whoever names a process or a file does not command it."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def item(label: str, text: str, *, indent: str = "") -> list[str]:
    """Text behind a label."""
    return wrapped(f"{indent}{label:<{LABEL}}", text)


def wrapped(
    head: str, text: str, *, keep_spaces: bool = False, hang: str | None = None
) -> list[str]:
    """Text behind a head, its further lines behind ``hang`` (by default below the text)."""
    text = printable(text.replace("\n", " "))
    if keep_spaces and len(head) + len(text) <= wide():
        return [(head + text).rstrip()]
    return textwrap.wrap(
        text,
        wide(),
        initial_indent=head,
        subsequent_indent=" " * len(head) if hang is None else hang,
        break_on_hyphens=False,
    ) or [head.rstrip()]


def table(
    rows: Sequence[Sequence[str]],
    headers: Sequence[str],
    align: Sequence[str] = (),
    cuts: Mapping[int, Cutter] | None = None,
) -> list[str]:
    """A table of whole cells, narrowed only where it would be wider than the text may be.

    :param cuts: how cells of a column are cut, by its number: of no other is anything
        cut.  First the blanks around heads go, then the widest of these columns shrink,
        and where that is not enough one of the two blanks between columns goes.
    """
    aligned = tuple(align) or ("left",) * len(headers)
    rows = [[printable(cell) for cell in row] for row in rows]
    # tabulate asks for its own version where it is loaded, which takes as long as all of it
    from tabulate import tabulate

    text = tabulate(
        rows, headers=headers, tablefmt="plain", disable_numparse=True, colalign=aligned
    )
    if _widest(text) > wide():
        text = _narrow(rows, headers, aligned, cuts or {})
    return [line.rstrip() for line in text.splitlines()]


def _narrow(
    rows: Sequence[Sequence[str]],
    headers: Sequence[str],
    aligned: Sequence[str],
    cuts: Mapping[int, Cutter],
) -> str:
    from tabulate import simple_separated_format, tabulate

    cells = [list(headers), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    over = sum(widths) + 2 * (len(widths) - 1) - wide()
    loosest = sum(max(0, widths[at] - max(_LEAST, len(headers[at]))) for at in cuts)
    gap = _NARROWEST if over > loosest else "  "
    over -= (len(widths) - 1) * (gap == _NARROWEST)
    for _ in range(over):
        loose = [at for at in cuts if widths[at] > max(_LEAST, len(headers[at]))]
        if not loose:
            break
        widths[max(loose, key=lambda at: widths[at])] -= 1
    for row in cells[1:]:
        for at, cut in cuts.items():
            row[at] = cut(row[at], widths[at])
    # heads as a row of their own: tabulate puts two more blanks around real ones
    form = simple_separated_format(gap)
    return tabulate(cells, tablefmt=form, disable_numparse=True, colalign=aligned)


def _widest(text: str) -> int:
    return max((len(line.rstrip()) for line in text.splitlines()), default=0)


def clip(text: str, width: int) -> str:
    """Text cut at its end, and marked so, where it is longer than ``width``."""
    return text if len(text) <= width else text[: width - 1] + "~"


def short(count: int) -> str:
    """A count in at most 7 characters: 200,003 or 1.05M."""
    text = format_count(count)
    if len(text) <= 7:
        return text
    for unit, scale in (("M", 10**6), ("G", 10**9)):
        if count < 1000 * scale:
            return f"{count / scale:.2f}{unit}"
    return f"{count:.1e}"


def big(count: int) -> str:
    return format_count(count) if count < 10**12 else f"{count:.3e}"


def place(nid: int) -> str:
    return f"node {nid}" if nid >= 0 else status_text(nid)


def quantiles(numbers: Numbers) -> list[str]:
    return [ns_text(numbers[name]) for name in ("p50", "p90", "p99", "max")]


def ns_text(value: int | None) -> str:
    return "" if value is None else format_ns(value)


def process_name(comm: str, tgid: int | None, *, gone: bool = False) -> str:
    """``comm/tgid`` of a process.

    Of one without a name its number, and that it was ``gone`` when it was asked.
    """
    if tgid is None:
        return comm
    if not comm:
        return f"{tgid} (gone)" if gone else f"process {tgid}"
    return f"{comm}/{tgid}"


def clip_process(name: str, width: int) -> str:
    """What :func:`process_name` gives, its comm cut: the number stays whole."""
    comm, slash, number = name.rpartition("/")
    if not slash or len(name) <= width:
        return clip(name, width)
    return clip(comm, max(width - len(number) - 1, 1)) + slash + number


def cut(
    rows: Sequence[Numbers], most: int, tgid: Callable[[Numbers], Any], asked: frozenset[int]
) -> tuple[list[Numbers], list[Numbers]]:
    """The first rows and, of the others, those of processes that were asked for; and the rest."""
    most = most_rows(most)
    kept = [row for row in rows[most:] if tgid(row) in asked]
    return [*rows[:most], *kept], [row for row in rows[most:] if tgid(row) not in asked]


def asked_for(profile: Numbers) -> frozenset[int]:
    """Processes that a session was about by their numbers, and what they forked."""
    pids = (profile["scope"] or {}).get("pids") or ()
    owners = [owner for row in profile["paths"] for owner in row["owners"] if owner["asked"]]
    return frozenset([*pids, *(owner["tgid"] for owner in owners)])


def unproved(profile: Numbers, *phases: str) -> str:
    """Of figures that rest on these phases: that calibration refuted one; "" where it did not.

    Phases that calibration did not try are none of them.
    """
    for phase in profile["coverage"]:
        seen, expected = phase.get("seen"), phase.get("expected")
        refuted = phase.get("state") == "unproved" and None not in (seen, expected)
        if refuted and seen != expected and phase.get("phase") in phases:
            return (
                f"unproved ({format_count(seen)} of {format_count(expected)} seen in calibration)"
            )
    return ""


def named(texts: Sequence[str], most: int, what: str = "", where: str = "--json") -> str:
    """Names in one line, and how many there are beyond the first ones."""
    more = and_more(len(texts) - most, what, where, inline=True)
    return ", ".join(texts[:most]) + (f" {more}" if more else "")
