# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts of `mptrace stat` and `mptrace top` as text and as values for JSON."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mptrace.reporting.text.layout import WIDTH, clip, printable, wrapped
from mptrace.tracing.counting.counts import (
    LOST_CAUSES,
    SORTS,
    Group,
    Interval,
    bound_ns,
    by_process,
    by_reason,
    combined,
    ranked,
    total,
)
from mptrace.units import and_more, many

VIEWS = ("reason", "process")
#: Lines after which the heading is printed again: one screen's.
_HEADING_EVERY = 20
# docs/stat.md says what the columns are.  The longest reason of any kernel has 17
# letters, a command 15.  Heads of a process's numbers, each one blank from the
# next, are as long as the numbers below them are wide.
_REASON_HEADING = (
    f"{'time':8} {'reason':<18} {'migr':>7} {'moved/s':>8} {'failed':>7} {'spent':>6}"
    f" {'99%<':>6} {'waits':>6} {'waited':>6}"
)
_PROCESS_HEADING = f"{'pid':>7} {'command':<15} migr moved/s failed spent waits waited why"
#: Columns before the reason of a process, which gets the rest.
_BEFORE_WHY = _PROCESS_HEADING.index("why")
#: Letters of a command; in brackets two more, where there are more than 80 columns.
_COMMAND, _BRACKETS = 15, 2


class Lines:
    """Text of an interval at a time, the heading where it is due."""

    def __init__(self, view: str, reasons: Mapping[int, str], width: int = WIDTH) -> None:
        self._width = max(width, WIDTH)
        self._view = view
        self._reasons = reasons
        self._since_heading: int | None = None

    def interval(self, interval: Interval, stamp: str) -> str:
        """The lines of an interval that ended at ``stamp``, HH:MM:SS; no newline at the end."""
        lines = []
        if self._since_heading is None or self._since_heading >= _HEADING_EVERY:
            lines.append(_heading(self._view, "moved/s", self._width))
            self._since_heading = 0
        body = _table(interval, self._view, self._reasons, stamp, self._width)
        body += _notes(interval)
        self._since_heading += len(body)
        return "\n".join(lines + body)

    def total(self, interval: Interval) -> str:
        """The lines of everything together, with what is known of it beside."""
        return render_total(interval, self._view, self._reasons, self._width)


def render_total(
    interval: Interval, view: str, reasons: Mapping[int, str], width: int = WIDTH
) -> str:
    """Everything that was counted, its heading and what else is known of it.

    :param width: columns that there are, 80 at the least.
    """
    width = max(width, WIDTH)
    lines = [f"total of {_seconds(interval.seconds)} s", _heading(view, "moved", width, time="")]
    lines += _table(interval, view, reasons, None, width)
    groups = by_reason(interval.rows, reasons)
    if len(groups) > 1 or view == "process":
        lines.append(_line(total(interval.rows), view, None, width, stamp=""))
    lines += _notes(interval)
    if interval.kernel_pages is not None:
        moved, failed = interval.kernel_pages
        everything = total(combined(interval.rows, interval.own))
        line = f"/proc/vmstat counted {many(moved, 'page')} moved, {failed:,} failed"
        if (moved, failed) != (everything.succeeded, everything.failed):
            line += ",\n  from a moment before the first until one after the last"
        lines.append(line)
    return "\n".join(lines)


def _heading(view: str, moved: str, width: int, time: str = "time") -> str:
    text = _REASON_HEADING if view == "reason" else _PROCESS_HEADING
    text = text.replace("command", "command" + " " * (_command_width(width) - _COMMAND))
    return text.replace("moved/s", f"{moved:>7}").replace("time", f"{time:4}")


def _table(
    interval: Interval, view: str, reasons: Mapping[int, str], stamp: str | None, width: int
) -> list[str]:
    """A line per group; without ``stamp`` of a total, which has pages, not pages a second."""
    seconds = None if stamp is None else interval.seconds
    if view == "reason":
        groups = by_reason(interval.rows, reasons)
        if not groups:
            return [f"{stamp or '':8} -"]
        return [
            _line(group, view, seconds, width, stamp="" if number else stamp or "")
            for number, group in enumerate(groups)
        ]
    groups = ranked(by_process(interval.rows, reasons), "pages")
    lines = [_line(group, view, seconds, width, stamp="") for group in groups]
    return lines if stamp is None else [f"{stamp} {_processes(len(groups))}", *lines]


def _processes(count: int) -> str:
    return many(count, "process", "processes")


def _line(group: Group, view: str, seconds: float | None, width: int, *, stamp: str) -> str:
    """A group as a line; pages a second, or all of them where ``seconds`` is None."""
    moved = group.succeeded if seconds is None else group.succeeded / seconds
    spent = "?" if group.time_ns is None else short_ns(group.time_ns)
    migrations = group.migrations > 0
    if view == "reason":
        below = bound_ns(group.histogram, 0.99)
        cells = [
            f"{stamp:8} {group.name:<18.18}",
            f"{short(group.migrations, 7) if migrations else '-':>7}",
            f"{short(moved, 8) if migrations else '-':>8}",
            f"{short(group.failed, 7) if migrations else '-':>7}",
            f"{spent if migrations else '-':>6}",
            f"{short_ns(below) if below else '-':>6}",
            f"{short(group.waits, 6) if group.waits else '-':>6}",
            f"{short_ns(group.wait_ns) if group.waits else '-':>6}",
        ]
        return " ".join(cells)
    letters = _command_width(width)
    cells = [
        f"{'' if group.tgid is None else group.tgid:>7} {_command(group, letters):<{letters}}",
        f"{short(group.migrations, 5) if migrations else '-':>5}",
        f"{short(moved, 6) if migrations else '-':>6}",
        f"{short(group.failed, 5) if migrations else '-':>5}",
        f"{spent if migrations else '-':>6}",
        f"{short(group.waits, 5) if group.waits else '-':>5}",
        f"{short_ns(group.wait_ns) if group.waits else '-':>6}",
        _why(group, width - _BEFORE_WHY - letters + _COMMAND),
    ]
    return " ".join(cells).rstrip()


def _command_width(width: int) -> int:
    return _COMMAND + min(max(width - WIDTH, 0), _BRACKETS)


def _command(group: Group, letters: int) -> str:
    """A process's name as it can be shown on a terminal; kernel threads in brackets, as by ps."""
    name = printable(group.name)
    return (f"[{name}]" if group.is_kthread else name)[:letters]


def _why(group: Group, room: int) -> str:
    """The reason of most of a process's pages, and how many more there are."""
    if not group.reasons:
        return ""
    more = f"+{len(group.reasons) - 1}" if len(group.reasons) > 1 else ""
    name = group.reasons[0][0]
    gap = " " if more and len(name) + len(more) < room else ""
    return clip(name, room - len(more)) + gap + more


def _notes(interval: Interval) -> list[str]:
    """What is not in the numbers, or not where it belongs; a line each."""
    groups = by_reason(interval.rows, {})
    untimed = sum(group.untimed for group in groups)
    nested = sum(group.nested for group in groups)
    notes = []
    if untimed:
        notes.append(f"migrations without their time, as their begin was not seen: {untimed:,}")
    if nested:
        notes.append(f"migrations inside another, whose time is not the outer one's: {nested:,}")
    notes += [f"{LOST_CAUSES[cause]}: {n:,}" for cause, n in interval.lost.items() if n]
    notes += [
        f"{what} under way at the end, not counted: {n:,}"
        for what, n in interval.unfinished.items()
        if n
    ]
    own = total(interval.own)
    if own.migrations or own.waits:
        notes.append(
            f"of mptrace itself, not counted: {many(own.migrations, 'migration')}, "
            f"{many(own.succeeded, 'page')} moved, {many(own.waits, 'wait')}"
        )
    return [line for note in notes for line in wrapped("  ! ", note)]


# ---- numbers that fit ---------------------------------------------------------------


def short(number: float, width: int) -> str:
    """A count in at most ``width`` (>= 5) characters: as it is, or with k, M, G, T."""
    text = f"{number:.0f}"
    if len(text) <= width:
        return text
    suffixes = iter("kMGTPE")
    suffix = ""
    while number >= 999.5:
        number /= 1000
        suffix = next(suffixes)
    return f"{number:.3g}{suffix}"


def short_ns(ns: float) -> str:
    """A time in at most 6 characters: 870ns, 12.3us, 1.23ms, 45.6s, 12345s, 417d."""
    if ns < 1000:
        return f"{ns:.0f}ns"
    for unit in ("us", "ms", "s"):
        ns /= 1000
        if ns < 999.5:
            return f"{ns:.3g}{unit}"
    return f"{ns:.0f}s" if ns < 99_999.5 else f"{ns / 86_400:.0f}d"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}"


# ---- top ------------------------------------------------------------------------------


def top_lines(
    interval: Interval,
    reasons: Mapping[int, str],
    sort: str,
    size: tuple[int, int],
    stamp: str,
    notes: Sequence[str] = (),
) -> list[str]:
    """The screen of `mptrace top`: at most size[0] lines of at most size[1] characters.

    Line 0 is the state, then come the reasons, a heading and as many processes
    as there is room for, the first by ``sort``.
    """
    height, width = size
    everything = total(interval.rows)
    lines = [
        f"mptrace top  {stamp}  over {_seconds(interval.seconds)} s"
        f"  sorted by {sort} (s)  quit (q)",
        _heading("reason", "moved/s", width),
        *_table(interval, "reason", reasons, stamp, width),
        *_notes(interval),
        *(f"  ! {note}" for note in notes),
        "",
        _heading("process", "moved/s", width),
    ]
    groups = ranked(by_process(interval.rows, reasons), sort)
    room = max(0, height - len(lines))
    shown = groups if len(groups) <= room else groups[: max(0, room - 1)]
    lines += [
        _line(group, "process", interval.seconds, max(width, WIDTH), stamp="") for group in shown
    ]
    if len(shown) < len(groups):
        more = and_more(
            len(groups) - len(shown), "process", "mptrace stat --by process", plural="processes"
        )
        lines.append(f"{'':7} {more}")
    if not everything.migrations and not everything.waits:
        lines.append(f"{'':7} no migrations")
    if len(lines) > height:
        hidden = and_more(len(lines) - height + 1, "line", "a taller terminal")
        lines[height - 1 :] = [hidden]
    return [line[:width] for line in lines]


def next_sort(sort: str) -> str:
    """The sort that comes after one."""
    names = list(SORTS)
    return names[(names.index(sort) + 1) % len(names)]


# ---- values ------------------------------------------------------------------------------


def to_json(interval: Interval, reasons: Mapping[int, str], kind: str, view: str) -> dict[str, Any]:
    """An interval or a total (``kind``) as a JSON-able dict; units are in the names."""
    value: dict[str, Any] = {
        "type": kind,
        "wall_ns": interval.wall_ns,
        "start_ns": interval.start_ns,
        "end_ns": interval.end_ns,
        "seconds": interval.seconds,
        "total": _values(total(interval.rows), interval.seconds),
        "own": _values(total(interval.own), interval.seconds),
    }
    if view == "reason":
        value["reasons"] = [
            {"reason": group.name, **_values(group, interval.seconds)}
            for group in by_reason(interval.rows, reasons)
        ]
    else:
        value["processes"] = [
            {
                "tgid": group.tgid,
                "comm": group.name,
                "kernel_thread": group.is_kthread,
                "reasons": [
                    {"reason": name, "moved_pages": pages, "migrations": n}
                    for name, pages, n in group.reasons
                ],
                **_values(group, interval.seconds),
            }
            for group in by_process(interval.rows, reasons)
        ]
    value["lost"] = dict(interval.lost)
    if kind == "total":
        value["unfinished"] = dict(interval.unfinished)
        pages = interval.kernel_pages
        value["vmstat_moved_pages"] = None if pages is None else pages[0]
        value["vmstat_failed_pages"] = None if pages is None else pages[1]
    return value


def _values(group: Group, seconds: float) -> dict[str, Any]:
    return {
        "migrations": group.migrations,
        "migrations_untimed": group.untimed,
        "migrations_nested": group.nested,
        "moved_pages": group.succeeded,
        "moved_pages_per_s": group.succeeded / seconds,
        "failed_pages": group.failed,
        "time_ns": group.time_ns,
        "duration_histogram_ns": _histogram(group.histogram),
        "waits": group.waits,
        "wait_ns": group.wait_ns,
        "wait_histogram_ns": _histogram(group.wait_histogram),
    }


def _histogram(counts: Iterable[int]) -> list[list[int]]:
    """[least ns, count] of the slots that have any; each reaches to twice its least."""
    return [[1 << slot if slot else 0, n] for slot, n in enumerate(counts) if n]
