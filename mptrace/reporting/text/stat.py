# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts of `mptrace stat` as text and as values for JSON."""

from collections.abc import Iterable, Mapping
from typing import Any

from mptrace.reporting.text.layout import WIDTH, clip, printable, wrapped
from mptrace.tracing.counting.counts import (
    LOST_CAUSES,
    Group,
    Interval,
    bound_ns,
    by_cgroup,
    by_process,
    by_reason,
    combined,
    ranked,
    total,
)
from mptrace.units import many

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
_CGROUP_HEADING = _PROCESS_HEADING.replace(f"{'pid':>7} {'command':<15}", f"{'cgroup':<23}")
#: Columns before the reason of a process, which gets the rest.
_BEFORE_WHY = _PROCESS_HEADING.index("why")
#: Letters of a cgroup's path, where there are 80 columns; what more there are it gets.
_PATH = 23
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
        body += notes(interval)
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
    if len(groups) > 1 or view != "reason":
        lines.append(_line(total(interval.rows), view, None, width, stamp=""))
    lines += notes(interval)
    if interval.kernel_pages is not None:
        moved, failed = interval.kernel_pages
        everything = total(combined(interval.rows, interval.own))
        line = f"/proc/vmstat counted {many(moved, 'page')} moved, {failed:,} failed"
        if (moved, failed) != (everything.succeeded, everything.failed):
            line += ",\n  from a moment before the first until one after the last"
        lines.append(line)
    return "\n".join(lines)


def _heading(view: str, moved: str, width: int, time: str = "time") -> str:
    heads = {"reason": _REASON_HEADING, "process": _PROCESS_HEADING, "cgroup": _CGROUP_HEADING}
    text = heads[view]
    text = text.replace("command", "command" + " " * (_command_width(width) - _COMMAND))
    text = text.replace("cgroup", "cgroup" + " " * (width - WIDTH))
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
    groups = ranked(groups_of(interval, view, reasons), "pages")
    lines = [_line(group, view, seconds, width, stamp="") for group in groups]
    return lines if stamp is None else [f"{stamp} {how_many(len(groups), view)}", *lines]


def groups_of(interval: Interval, view: str, reasons: Mapping[int, str]) -> list[Group]:
    """The groups of a view, each by its name or number."""
    if view == "cgroup":
        return by_cgroup(interval.rows, reasons, interval.cgroups)
    return (by_reason if view == "reason" else by_process)(interval.rows, reasons)


def how_many(count: int, view: str) -> str:
    """So many processes, or cgroups."""
    return many(count, view, "processes" if view == "process" else "")


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
    why = width - _BEFORE_WHY - letters + _COMMAND
    who = f"{'' if group.tgid is None else group.tgid:>7} {command(group, letters):<{letters}}"
    if view == "cgroup":
        letters, why = _PATH + width - WIDTH, WIDTH - _BEFORE_WHY
        who = f"{path(group.name, letters):<{letters}}"
    cells = [
        who,
        f"{short(group.migrations, 5) if migrations else '-':>5}",
        f"{short(moved, 6) if migrations else '-':>6}",
        f"{short(group.failed, 5) if migrations else '-':>5}",
        f"{spent if migrations else '-':>6}",
        f"{short(group.waits, 5) if group.waits else '-':>5}",
        f"{short_ns(group.wait_ns) if group.waits else '-':>6}",
        why_of(group, why),
    ]
    return " ".join(cells).rstrip()


def _command_width(width: int) -> int:
    return _COMMAND + min(max(width - WIDTH, 0), _BRACKETS)


def command(group: Group, letters: int) -> str:
    """A process's name as it can be shown on a terminal; kernel threads in brackets, as by ps."""
    name = printable(group.name)
    return (f"[{name}]" if group.is_kthread else name)[:letters]


def path(name: str, letters: int) -> str:
    """A cgroup's path as it can be shown; its end says most, and stays."""
    name = printable(name)
    return name if len(name) <= letters else "~" + name[1 - letters :]


def why_of(group: Group, room: int) -> str:
    """The reason of most of a process's pages, and how many more there are."""
    if not group.reasons:
        return ""
    more = f"+{len(group.reasons) - 1}" if len(group.reasons) > 1 else ""
    name = group.reasons[0][0]
    gap = " " if more and len(name) + len(more) < room else ""
    return clip(name, room - len(more)) + gap + more


def notes(interval: Interval) -> list[str]:
    """What is not in the numbers, or not where it belongs; a line each."""
    groups = by_reason(interval.rows, {})
    untimed = sum(group.untimed for group in groups)
    nested = sum(group.nested for group in groups)
    said = []
    if untimed:
        said.append(f"migrations without their time, as their begin was not seen: {untimed:,}")
    if nested:
        said.append(f"migrations inside another, whose time is not the outer one's: {nested:,}")
    said += [f"{LOST_CAUSES[cause]}: {n:,}" for cause, n in interval.lost.items() if n]
    said += [
        f"{what} under way at the end, not counted: {n:,}"
        for what, n in interval.unfinished.items()
        if n
    ]
    own = total(interval.own)
    if own.migrations or own.waits:
        said.append(
            f"of mptrace itself, not counted: {many(own.migrations, 'migration')}, "
            f"{many(own.succeeded, 'page')} moved, {many(own.waits, 'wait')}"
        )
    return [line for note in said for line in wrapped("  ! ", note)]


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
    elif view == "cgroup":
        value["cgroups"] = [
            {
                "cgroup": group.name,
                "cgroup_id": group.cgroup,
                "reasons": _reasons(group),
                **_values(group, interval.seconds),
            }
            for group in groups_of(interval, view, reasons)
        ]
    else:
        value["processes"] = [
            {
                "tgid": group.tgid,
                "comm": group.name,
                "kernel_thread": group.is_kthread,
                "reasons": _reasons(group),
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


def _reasons(group: Group) -> list[dict[str, Any]]:
    return [
        {"reason": name, "moved_pages": pages, "migrations": n} for name, pages, n in group.reasons
    ]


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
