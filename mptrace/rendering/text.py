# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces of reports: labelled lines, wrapped text, tables, short numbers.  Pure."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from mptrace.statuses import status_text
from mptrace.units import format_count, format_ns

WIDTH = 80
#: Width of the labels at the left.
LABEL = 11

Numbers = Mapping[str, Any]


def item(label: str, text: str, *, indent: str = "") -> list[str]:
    """Text behind a label."""
    return wrapped(f"{indent}{label:<{LABEL}}", text)


def wrapped(
    head: str, text: str, *, keep_spaces: bool = False, hang: str | None = None
) -> list[str]:
    """Text behind a head, its further lines behind ``hang`` (by default below the text)."""
    if keep_spaces and len(head) + len(text) <= WIDTH:
        return [(head + text).rstrip()]
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head) if hang is None else hang,
        break_on_hyphens=False,
    ) or [head.rstrip()]


def table(
    rows: Sequence[Sequence[str]], headers: Sequence[str], align: Sequence[str] = ()
) -> list[str]:
    text = tabulate(
        rows,
        headers=headers,
        tablefmt="plain",
        disable_numparse=True,
        colalign=tuple(align) or ("left",) * len(headers),
    )
    return [line.rstrip() for line in text.splitlines()]


def clip(text: str, width: int) -> str:
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


def process_name(comm: str, tgid: int | None, width: int = 0, *, gone: bool = False) -> str:
    """``comm/tgid`` of a process, the name cut where that is wider than ``width`` (0: never).

    Of one without a name its number, and that it was ``gone`` when it was asked.
    """
    if tgid is None:
        return comm
    if not comm:
        return f"{tgid} (gone)" if gone else f"process {tgid}"
    number = f"/{tgid}"
    if width and len(comm) + len(number) > width:
        comm = clip(comm, max(width - len(number), 1))
    return comm + number


def many(count: int, what: str, plural: str = "") -> str:
    """A count with its noun: ``1 page``, ``2 pages``."""
    return f"{format_count(count)} {what if count == 1 else plural or what + 's'}"
