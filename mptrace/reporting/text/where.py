# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of ``mptrace where``: pages per node and state.  Pure."""

from tabulate import tabulate

from mptrace.driving.places import Place, Where
from mptrace.reporting.text.layout import WIDTH, columns, printable, wide
from mptrace.units import format_count

_LEAST_NAME = 20

_MEANINGS = {
    "EFAULT": "zero page, or never touched (anonymous memory before 6.12)",
    "ENOENT": "no page present: never touched, swapped out, or being migrated",
}


def render_where(answer: Where, *, width: int = WIDTH) -> str:
    """Return the answer as text: the mappings with their counts, the sums below.

    A column per node and state, or where these don't fit into ``width`` columns (80
    at the least) a line per count.  A mapping without a page on any node is left out
    and counted in a line of its own; the sums hold it.
    """
    with columns(width):
        return _render(answer)


def _render(answer: Where) -> str:
    total = answer.total()
    shown = [place for place in answer.mappings if place.nodes or place.unread]
    nids = tuple(sorted({*answer.nids, *total.nodes}))
    lines = [f"process {answer.pid} ({printable(answer.comm)}), pages of {answer.page_bytes} bytes"]
    lines += _wide([*shown, total], nids) or _long([*shown, total], nids)
    left_out = len(answer.mappings) - len(shown)
    if not answer.mappings:
        lines.append("nothing is mapped there")
    if left_out:
        lines.append(f"mappings without a page on a node, not shown: {format_count(left_out)}")
    if total.unread:
        lines.append(f"pages not looked at: {format_count(total.unread)}; name a smaller range")
    lines += [f"{name}: {text}" for name, text in _MEANINGS.items() if name in total.states]
    return "\n".join(lines)


def _wide(places: list[Place], nids: tuple[int, ...]) -> list[str]:
    """A line per mapping; nothing where that leaves too little room for the names."""
    states = sorted(places[-1].states)
    headers = ["address", *(f"N{nid}" for nid in nids), *states, "mapping"]
    return _table(
        headers,
        [
            [
                _address(place),
                *(_number(place.nodes.get(nid, 0)) for nid in nids),
                *(_number(place.states.get(name, 0)) for name in states),
                _label(place),
            ]
            for place in places
        ],
        _LEAST_NAME,
    )


def _long(places: list[Place], nids: tuple[int, ...]) -> list[str]:
    """A line per mapping and node or state."""
    rows = []
    for place in places:
        counts = {f"N{nid}": place.nodes[nid] for nid in nids if nid in place.nodes}
        for name, count in {**counts, **place.states}.items():
            rows.append([_address(place), name, _number(count), _label(place)])
    return _table(["address", "on", "pages", "mapping"], rows, 0)


def _table(headers: list[str], rows: list[list[str]], least: int) -> list[str]:
    """Lay out the table, names cut to what is left; [] where that is under ``least``."""
    others = list(zip(headers, *rows, strict=True))[:-1]
    room = wide() - sum(max(map(len, column)) + 2 for column in others)
    # tabulate keeps two blanks between columns and widens each to its header plus two.
    room -= sum(max(len(column[0]) + 2 - max(map(len, column)), 0) for column in others)
    if room < least:
        return []
    text = tabulate(
        [[*row[:-1], _cut(row[-1], room)] for row in rows],
        headers,
        tablefmt="plain",
        colalign=["right"] * len(others) + ["left"],
        disable_numparse=True,
    )
    return [line.rstrip() for line in text.splitlines()]


def _address(place: Place) -> str:
    return f"{place.start:x}" if place.end else ""


def _label(place: Place) -> str:
    return printable(f"{place.perms} {place.name}".strip()) if place.end else "total"


def _number(count: int) -> str:
    return str(count) if count else "-"


def _cut(name: str, room: int) -> str:
    """Cut a mapping's name in the middle: its permissions and the end of its path stay."""
    if len(name) <= room:
        return name
    return f"{name[:5]}...{name[len(name) - (room - 8) :]}"
