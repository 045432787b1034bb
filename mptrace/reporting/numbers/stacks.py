# SPDX-License-Identifier: GPL-2.0-or-later
"""Where migrations, calls and waits came from: the numbers.  Pure.

One row for each (path, process or kernel thread) and for each process that waited, with its
stacks; those of the same text are one.
"""

from typing import Any

import numpy as np

from mptrace.arrays import Ints, Table, Tables
from mptrace.outcomes.paths import PATHS, of_migrations
from mptrace.outcomes.processes import RecordedProcesses, text
from mptrace.outcomes.stacks import StackText, StackTexts, rows_of_uses, table_of
from mptrace.outcomes.waiting import waits_of
from mptrace.recording.layouts import MIGRATION_KTHREAD
from mptrace.recording.meta import Meta
from mptrace.recording.stack_layouts import STACK_OF_CALL, STACK_OF_MIGRATION, STACK_OF_WAIT
from mptrace.reporting.numbers.parts import Gathered
from mptrace.reporting.numbers.sums import Numbers

#: Stacks of one row, those of most time; the rest is summed.
MAX_STACKS = 50
_MOVE_PAGES = next(code for code, path in enumerate(PATHS) if path.key == "move_pages")


def stacks_of(
    tables: Tables, meta: Meta, processes: RecordedProcesses, gathered: Gathered
) -> Numbers | None:
    """By initiator and by who waited; times in ns, the most time first.

    ``moved_pages`` are those of the folios that moved.  None of a session without stacks.

    :param gathered: what is left out, mptrace's own and what was not selected; pages that moved.
    """
    uses = table_of(tables, "stack_uses")
    if not uses.size and not meta.raw.get("stacks"):
        return None
    view = _View(tables, meta, processes, gathered)
    return {
        "uses": int(uses.size),
        "without_record": int((view.row < 0).sum()),
        "initiators": view.initiators(),
        "waits": view.waits(),
    }


class _View:
    def __init__(
        self, tables: Tables, meta: Meta, processes: RecordedProcesses, gathered: Gathered
    ) -> None:
        self._tables, self._meta = tables, meta
        self._processes, self._own, self._gathered = processes, gathered.out, gathered
        self._uses, self._texts = table_of(tables, "stack_uses"), StackTexts(tables)
        self.row = rows_of_uses(tables)

    def _kept(self, kind: int, out: Any) -> tuple[Ints, Ints]:
        """Uses of a kind that are in the sums, and their rows."""
        uses = np.flatnonzero((self._uses["kind"] == kind) & (self.row >= 0))
        uses = uses[~out[self.row[uses]]]
        return uses, self.row[uses]

    def initiators(self) -> list[Numbers]:
        migrations, calls = self._tables["migrations"], self._tables["calls"]
        gathered = self._gathered
        moved_by_migration, moved_by_call = gathered.moved_pages, gathered.moved_by_call
        uses, rows = self._kept(STACK_OF_MIGRATION, self._own.migrations)
        some = migrations[rows]
        parts = [
            (
                uses,
                some,
                of_migrations(some, self._meta),
                (some["flags"] & MIGRATION_KTHREAD) != 0,
                moved_by_migration[rows],
            )
        ]
        uses, rows = self._kept(STACK_OF_CALL, self._own.calls)
        some = calls[rows]
        path = np.full(rows.size, _MOVE_PAGES, np.int64)
        parts.append((uses, some, path, np.zeros(rows.size, np.bool_), moved_by_call[rows]))
        groups: dict[tuple[int, int, bytes, bool], list[tuple[int, int, int]]] = {}
        for uses, some, paths, kthread, moved in parts:
            columns = (
                paths.tolist(),
                some["tgid"].tolist(),
                some["comm"].tolist(),
                kthread.tolist(),
            )
            measured = zip(uses.tolist(), _spans(some, "enter_ns", "exit_ns"), moved, strict=True)
            for key, (use, ns, pages) in zip(zip(*columns, strict=True), measured, strict=True):
                groups.setdefault(key, []).append((use, ns, int(pages)))
        return _most_time_first(
            [
                {
                    "path": PATHS[path].key,
                    "label": PATHS[path].label,
                    "tgid": tgid,
                    "comm": text(comm) or self._processes.comm(tgid),
                    "kernel_thread": kthread,
                    **_sums(group, moved=True),
                    **self._stacks(group, moved=True),
                }
                for (path, tgid, comm, kthread), group in groups.items()
            ]
        )

    def waits(self) -> list[Numbers]:
        uses, rows = self._kept(STACK_OF_WAIT, self._own.waits)
        waits = waits_of(self._tables)[rows]
        groups: dict[int, list[tuple[int, int, int]]] = {}
        names: dict[int, str] = {}
        for use, ns, tgid, comm in zip(
            uses.tolist(),
            _spans(waits, "start_ns", "end_ns"),
            waits["tgid"].tolist(),
            waits["comm"].tolist(),
            strict=True,
        ):
            groups.setdefault(tgid, []).append((use, ns, 0))
            names.setdefault(tgid, text(comm))
        return _most_time_first(
            [
                {
                    "tgid": tgid,
                    "comm": self._processes.comm(tgid) or names[tgid],
                    **_sums(group, moved=False),
                    **self._stacks(group, moved=False),
                }
                for tgid, group in groups.items()
            ]
        )

    def _stacks(self, group: list[tuple[int, int, int]], *, moved: bool) -> Numbers:
        """The different stacks of some uses, by their texts."""
        alike: dict[tuple[StackText, StackText], list[tuple[int, int, int]]] = {}
        for each in group:
            use = self._uses[each[0]]
            both = (
                self._texts.of(int(use["kernel_stack"])),
                self._texts.of(int(use["user_stack"])),
            )
            alike.setdefault(both, []).append(each)
        found = _most_time_first(
            [
                {
                    "folded": _folded(kernel, user),
                    "kernel": kernel.folded or None,
                    "kernel_unknown": kernel.unknown,
                    "user": user.folded or None,
                    "user_unknown": user.unknown,
                    **_sums(some, moved=moved),
                }
                for (kernel, user), some in alike.items()
            ]
        )
        rest = found[MAX_STACKS:]
        return {
            "stacks": found[:MAX_STACKS],
            "more_stacks": len(rest),
            "more_count": sum(each["count"] for each in rest),
        }


def _folded(kernel: StackText, user: StackText) -> str:
    """Both parts in one line, the outermost frame first."""
    parts = [
        part.folded or (f"[unknown: {part.unknown}]" if part.unknown else "")
        for part in (user, kernel)
    ]
    return ";".join(filter(None, parts))


def _spans(rows: Table, start: str, end: str) -> list[int]:
    """Times of rows that ended, 0 of others."""
    ns = rows[end].astype(np.int64) - rows[start].astype(np.int64)
    found: list[int] = np.maximum(ns, 0).tolist()
    return found


def _sums(group: list[tuple[int, int, int]], *, moved: bool) -> Numbers:
    found: Numbers = {"count": len(group), "time_ns": sum(ns for _, ns, _ in group)}
    return {**found, "moved_pages": sum(pages for _, _, pages in group)} if moved else found


def _most_time_first(rows: list[Numbers]) -> list[Numbers]:
    return sorted(rows, key=lambda row: (-int(row["time_ns"]), -int(row["count"])))
