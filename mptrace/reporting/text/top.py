# SPDX-License-Identifier: GPL-2.0-or-later
"""The screen of `mptrace top`, and what its keys do to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mptrace.reporting.text.layout import WIDTH, clip, printable
from mptrace.reporting.text.stat import (
    command,
    groups_of,
    notes,
    path,
    short,
    short_ns,
    why_of,
)
from mptrace.tracing.counting.counts import SORTS, Group, Interval, by_process, ranked
from mptrace.units import and_more

#: Key -> the sort that it asks for.
SORT_KEYS = {"p": "pages", "t": "time", "f": "failed", "w": "stalls"}
HELP = (
    "keys of mptrace top",
    "",
    "  s      sort by pages, time, failed pages, time stalled in turn",
    "  p      sort by pages moved",
    "  t      sort by time spent in migrate_pages()",
    "  f      sort by pages that failed to move",
    "  w      sort by time that threads waited for pages",
    "  i      sort by the interval, or by the sums since the start",
    "  c      show processes, or cgroups",
    "  /      type a filter: part of a command or of a cgroup's path, or a pid;",
    "         Enter keeps it, Esc drops it",
    "  h, ?   this help",
    "  q      quit",
    "",
    "any key goes back",
)
#: Columns of a name where there are 80, and the least of `why`, which only a wider one has.
_NAME, _LEAST_WHY = 23, 10
_HEADS = ("moved/s", "failed", "spent", "waited"), ("moved", "failed", "spent", "waited")
_WIDTHS = (7, 6, 6, 6), (6, 6, 6, 6)
_MOST_TYPED = 40


@dataclass(frozen=True)
class Look:
    """How the counts are looked at; ``by`` is "process" or "cgroup".

    ``by_start``: sorted by the sums since the start.  ``typed`` is a filter that
    is being typed, None otherwise; it works at once.
    """

    sort: str = "pages"
    by_start: bool = False
    by: str = "process"
    filter: str = ""
    typed: str | None = None
    help: bool = False
    quit: bool = False

    def after(self, key: str) -> "Look":
        """What a key makes of it: a letter, "enter", "escape", "backspace", "resize", ..."""
        if key == "resize":
            return self
        if self.help:
            return replace(self, help=False)
        if self.typed is not None:
            return self._typing(self.typed, key)
        if key in SORT_KEYS:
            return replace(self, sort=SORT_KEYS[key])
        changes: dict[str, Look] = {
            "s": replace(self, sort=next_sort(self.sort)),
            "i": replace(self, by_start=not self.by_start),
            "c": replace(self, by="cgroup" if self.by == "process" else "process"),
            "/": replace(self, typed=self.filter),
            "escape": replace(self, filter=""),
            "h": replace(self, help=True),
            "?": replace(self, help=True),
            "q": replace(self, quit=True),
        }
        return changes.get(key, self)

    def _typing(self, typed: str, key: str) -> "Look":
        if key == "enter":
            return replace(self, filter=typed, typed=None)
        if key == "escape":
            return replace(self, filter="", typed=None)
        if key == "backspace":
            return replace(self, typed=typed[:-1])
        if len(key) == 1 and key.isprintable() and len(typed) < _MOST_TYPED:
            return replace(self, typed=typed + key)
        return self

    @property
    def wanted(self) -> str:
        """The filter that works now."""
        return self.filter if self.typed is None else self.typed


def next_sort(sort: str) -> str:
    """The sort that comes after one."""
    names = list(SORTS)
    return names[(names.index(sort) + 1) % len(names)]


def top_lines(
    interval: Interval,
    so_far: Interval,
    reasons: Mapping[int, str],
    look: Look,
    size: tuple[int, int],
    stamp: str,
    unseen: Sequence[str] = (),
) -> list[str]:
    """The screen of `mptrace top`: at most size[0] lines of at most size[1] characters.

    Line 0 is the state, then come the reasons, a heading and as many processes
    (or cgroups) as there is room for, in the order asked for; each with what it
    did in ``interval`` and from the start on (``so_far``).
    """
    height, width = size
    if look.help:
        return [line[:width] for line in HELP[:height]]
    columns = _Columns(look, max(width, WIDTH), interval.seconds)
    both = [_matching(each, so_far, look.wanted) for each in (interval, so_far)]
    lines = [
        f"mptrace top  {stamp}  sorted by {look.sort}"
        f" {'since the start' if look.by_start else 'in the interval'}  help (h)  quit (q)",
        *_filter_line(look),
        columns.spans(so_far.seconds),
        columns.heading("reason"),
        *(columns.line(*pair, "reason") for pair in _paired(both, "reason", reasons)),
        *notes(so_far),
        *(f"  ! {note}" for note in unseen),
        "",
        columns.heading(look.by),
    ]
    pairs = _in_order(_paired(both, look.by, reasons), look)
    room = max(0, height - len(lines))
    shown = pairs if len(pairs) <= room else pairs[: max(0, room - 1)]
    lines += [columns.line(*pair, look.by) for pair in shown]
    if len(shown) < len(pairs):
        beyond = len(pairs) - len(shown)
        plural = "processes" if look.by == "process" else ""
        more = and_more(beyond, look.by, f"mptrace stat --by {look.by}", plural=plural)
        lines.append(f"{'':7} {more}")
    if not pairs:
        lines.append(f"{'':7} no migrations" + (" of these" if look.wanted else ""))
    if len(lines) > height:
        hidden = and_more(len(lines) - height + 1, "line", "a taller terminal")
        lines[height - 1 :] = [hidden]
    return [line[:width] for line in lines]


def _filter_line(look: Look) -> list[str]:
    if look.typed is not None:
        return [f"filter: {printable(look.typed)}_   keep (Enter)  drop (Esc)"]
    return [f"filter: {printable(look.filter)}   change (/)  drop (Esc)"] if look.filter else []


def _matching(interval: Interval, known: Interval, text: str) -> Interval:
    """What those did whose command or cgroup's path has ``text`` in it, or whose number it is."""
    if not text:
        return interval
    text = text.casefold()
    tgids = [
        group.tgid
        for group in by_process(known.rows, {})
        if group.tgid is not None and (text in group.name.casefold() or text == str(group.tgid))
    ]
    cgroups = [number for number, name in known.cgroups.items() if text in name.casefold()]
    rows = interval.rows
    return replace(
        interval, rows=rows[np.isin(rows["tgid"], tgids) | np.isin(rows["cgroup"], cgroups)]
    )


Pair = tuple[Group | None, Group]


def _paired(both: Sequence[Interval], view: str, reasons: Mapping[int, str]) -> list[Pair]:
    """Groups since the start, each with what it did in the interval."""
    now, since = (groups_of(each, view, reasons) for each in both)

    def key(group: Group) -> object:
        # groups of no number of their own have a name, and a process may change its
        return group.tgid if group.tgid is not None else (group.name, group.cgroup)

    found = {key(group): group for group in now}
    return [(found.get(key(group)), group) for group in since]


def _in_order(pairs: Sequence[Pair], look: Look) -> list[Pair]:
    """By what was asked for; those that did nothing in the interval come by their sums."""
    by_sums = {id(group): at for at, group in enumerate(ranked([p[1] for p in pairs], look.sort))}
    ordered = sorted(pairs, key=lambda pair: by_sums[id(pair[1])])
    if look.by_start:
        return ordered
    return sorted(ordered, key=lambda pair: -SORTS[look.sort](pair[0]) if pair[0] else 0)


class _Columns:
    """Lines of both tables, one below the other."""

    def __init__(self, look: Look, width: int, interval_s: float) -> None:
        self._seconds = interval_s, 1.0
        more = width - WIDTH
        # what is beyond 80 columns is for paths, or for the reasons of processes
        self._name = _NAME + (more if look.by == "cgroup" else 0)
        self._why = more - 1 if look.by == "process" and more > _LEAST_WHY else 0

    def spans(self, start_s: float) -> str:
        """How long each half of the columns is about."""
        halves = (f" over {self._seconds[0]:.1f} s ", f" since the start, {start_s:.1f} s ")
        widths = [sum(each) + len(each) - 1 for each in _WIDTHS]
        marked = [f"{text:-^{width}}" for text, width in zip(halves, widths, strict=True)]
        return f"{'':{self._name}} {' '.join(marked)}"

    def heading(self, view: str) -> str:
        """The names of the columns."""
        name = f"{'pid':>7} command" if view == "process" else view
        cells = [
            f"{head:>{width}}"
            for heads, widths in zip(_HEADS, _WIDTHS, strict=True)
            for head, width in zip(heads, widths, strict=True)
        ]
        why = " why" if self._why and view == "process" else ""
        return f"{name:<{self._name}} {' '.join(cells)}{why}"

    def line(self, now: Group | None, since: Group, view: str) -> str:
        """A group: what it is, what it did in the interval and since the start."""
        name = clip(since.name, self._name)
        if view == "cgroup":
            name = path(since.name, self._name)
        elif view == "process":
            number = "" if since.tgid is None else since.tgid
            name = f"{number:>7} {command(since, self._name - 8)}"
        cells = [
            f"{cell:>{width}}"
            for group, widths, seconds in zip((now, since), _WIDTHS, self._seconds, strict=True)
            for cell, width in zip(_numbers(group, widths, seconds), widths, strict=True)
        ]
        why = f" {why_of(since, self._why)}" if self._why and view == "process" else ""
        return f"{name:<{self._name}} {' '.join(cells)}{why}".rstrip()


def _numbers(group: Group | None, widths: Sequence[int], seconds: float) -> list[str]:
    """Pages moved (a second) and failed, time spent and waited; "-" of what there was none."""
    if group is None:
        return ["-"] * len(widths)
    spent = "?" if group.time_ns is None else short_ns(group.time_ns)
    waited = short_ns(group.wait_ns) if group.waits else "-"
    if not group.migrations:
        return ["-", "-", "-", waited]
    moved = short(group.succeeded / seconds, widths[0])
    return [moved, short(group.failed, widths[1]), spent, waited]
