# SPDX-License-Identifier: GPL-2.0-or-later
"""Lays a recording beside what `conduct` counted without mptrace.  Runs on the host.

Of mptrace only what `mptrace dump` prints is used, as a user would.
"""

import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path as File
from typing import Any

Row = dict[str, Any]

#: Of each path: what mptrace calls it (the column ``path`` of its migrations).
CALLED = {
    "migratepages": {"migrate_pages"},
    "migspeed": {"mbind"},
    "move_pages": {"move_pages"},
    "mbind": {"mbind"},
    "cpuset": {"cpuset"},
    # the guest has a node without CPUs, so that either may be
    "numa-balancing": {"numa_balancing", "numa_balancing_or_promotion"},
    "promotion": {"promotion", "numa_balancing_or_promotion"},
    "soft-offline": {"soft_offline_madvise"},
    "soft-offline-sysfs": {"soft_offline_sysfs"},
    "compaction": {"compaction_sysctl"},
    "compaction-direct": {"compaction_direct"},
    "compaction-kcompactd": {"compaction_kcompactd"},
    "demotion": {"demotion_write"},
    "demotion-kswapd": {"demotion_kswapd"},
    "offlining": {"hot_unplug"},
    "longterm-pin": {"longterm_pin"},
    "contiguous": {"contiguous"},
    "damon": {"damon"},
}

#: The tracepoint's words for a reason where they aren't those of the kernel's types.
_REASONS = {"syscall_or_cpuset": "syscall"}

#: Of a path: vmstat's counters that count all its base pages, and the reason they belong to.
COUNTERS = {
    "demotion": ("pgdemote_kswapd", "pgdemote_direct", "pgdemote_khugepaged", "pgdemote_proactive"),
    "numa_misplaced": ("numa_pages_migrated",),
}


def dump(recording: File, table: str) -> list[Row]:
    """The rows of a table of the recording, as `mptrace dump` prints them."""
    argv = [sys.executable, "-m", "mptrace", "dump", "--table", table, "--format", "jsonl"]
    done = subprocess.run([*argv, str(recording)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def sums(rows: list[Row]) -> Counter[str]:
    """Migrations, and base pages that succeeded and failed in them."""
    total: Counter[str] = Counter(migrations=len(rows))
    for row in rows:
        total["succeeded"] += row["succeeded"]
        total["failed"] += row["failed"]
    return total


def by_initiator(rows: list[Row]) -> dict[tuple[str, int], Counter[str]]:
    """The same by reason and thread; tracefs knows only the last name of a thread."""
    found = defaultdict(list)
    for row in rows:
        found[row["reason_name"], row["tid"]].append(row)
    return {key: sums(rows) for key, rows in found.items()}


class Judged:
    """One kernel's session: what was told (`conduct`) and what mptrace recorded."""

    def __init__(self, told: Row, recording: File) -> None:
        self.told = told
        self.kernel: str = told["kernel"]
        self.paths: dict[str, Row] = {path["path"]: path for path in told["paths"]}
        self.meta = json.loads((recording / "meta.json").read_text())
        self.events = [
            {**event, "reason_name": _REASONS.get(event["reason"], event["reason"])}
            for event in told["events"]
        ]
        #: All that were recorded; they began before the session, and end after it.
        self.recorded = dump(recording, "migrations")
        self._pair()
        self.events = self._at("ns", self.events)
        self.migrations = self._at("ns", self.recorded)
        self.balancing = dump(recording, "balancing")
        self.folios: dict[int, list[Row]] = defaultdict(list)
        for row in dump(recording, "folios"):
            if row["migration"] is not None:
                self.folios[row["migration"]].append(row)

    def _pair(self) -> None:
        """Give each migration the time of its event: both of a thread are in order of the end."""
        times: dict[tuple[str, int], list[int]] = defaultdict(list)
        for event in self.events:
            times[event["reason_name"], event["tid"]].append(event["ns"])
        for row in sorted(self.recorded, key=lambda row: row["exit_ns"]):
            left = times[row["reason_name"], row["tid"]]
            # of one that began before the session there is an event alone; its time is in us
            while left and left[0] < row["enter_ns"] - 1000:
                left.pop(0)
            row["ns"] = left.pop(0) if left and left[0] <= row["exit_ns"] else row["exit_ns"]

    def _at(self, key: str, rows: list[Row]) -> list[Row]:
        return [row for row in rows if self.told["start_ns"] <= row[key] <= self.told["end_ns"]]

    def bounds(self, about: Row, key: str, reason: str = "") -> tuple[int, int]:
        """Least and most that a counter of /proc/vmstat may have risen by in a window.

        Migrations that were under way as it was read may have been counted or not.
        ``key`` is ``succeeded`` or ``failed``; ``reason``: of that reason alone.
        """
        rows = [row for row in self.recorded if not reason or row["reason_name"] == reason]
        start, end = about["start_ns"], about["end_ns"]
        inside = [row for row in rows if start <= row["enter_ns"] and row["exit_ns"] <= end]
        start, end = about["before_ns"], about["after_ns"]
        touching = [row for row in rows if start <= row["exit_ns"] and row["enter_ns"] <= end]
        return sums(inside)[key], sums(touching)[key]

    def events_of(self, name: str) -> list[Row]:
        """The tracepoint's events in the path's window, of its initiator and reason."""
        return [event for event in self._inside(name, self.events) if self._is(name, event)]

    def migrations_of(self, name: str) -> list[Row]:
        """mptrace's migrations likewise."""
        return [row for row in self._inside(name, self.migrations) if self._is(name, row)]

    def folios_of(self, name: str) -> list[Row]:
        """mptrace's folios of those."""
        return [x for row in self.migrations_of(name) for x in self.folios[row["migration"]]]

    def _inside(self, name: str, rows: list[Row]) -> list[Row]:
        path = self.paths[name]
        return [row for row in rows if path["start_ns"] <= row["ns"] <= path["end_ns"]]

    def _is(self, name: str, row: Row) -> bool:
        path = self.paths[name]
        if row["reason_name"] != _REASONS.get(path["reason"], path["reason"]):
            return False
        if path["pid"]:
            return bool(row["tgid"] == path["pid"])
        return bool(row["comm"].startswith(path["comm"]))

    def different(self, succeeded: bool) -> list[tuple[Row, int]]:
        """Migrations whose folios don't add up to the kernel's count, with the folios' sum.

        The kernel counts a folio that was freed under it as succeeded.
        """
        found = []
        for row in self.migrations:
            total = 0
            for folio in self.folios[row["migration"]]:
                gone = folio["outcome"] == "moved" or folio["cause"] == "freed"
                total += folio["nr_pages"] if gone == succeeded else 0
            if total != row["succeeded" if succeeded else "failed"]:
                found.append((row, total))
        return found


def table(sessions: list[Judged]) -> str:
    """Markdown: a row per path and kernel, with what mptrace says and where counts agree."""
    head = ["path", "provoked by", "kernel", "initiator", "mptrace's path", "migrations"]
    head += ["pages moved", "failed", "nodes", "pages of"]
    lines = [head, ["---"] * len(head)]
    for name, words in CALLED.items():
        for session in sessions:
            path = session.paths[name]
            first = [f"`{name}`", path["by"], session.kernel.split("-")[0]]
            if "missing" in path:
                lines.append([*first, f"not on this kernel: {path['missing']}"])
                continue
            rows = session.migrations_of(name)
            mine = sums(rows)
            assert mine == sums(session.events_of(name)), name
            moved = [x for x in session.folios_of(name) if x["outcome"] == "moved"]
            nodes: Counter[str] = Counter()
            for folio in moved:
                nodes[f"{folio['src_nid']} to {folio['dst_nid']}"] += folio["nr_pages"]
            owners = {folio["owner_tgid"] for folio in moved} - {0}
            owner = "whom the program names" if path["owner"] in owners else "various processes"
            lines.append(
                [
                    *first,
                    ", ".join(sorted({_initiator(row) for row in rows})),
                    ", ".join(sorted({row["path"] for row in rows} & words)),
                    *(str(mine[key]) for key in ("migrations", "succeeded", "failed")),
                    ", ".join(f"{key}: {count}" for key, count in nodes.most_common(3)),
                    owner if owners else "nobody",
                ]
            )
    width = len(head)
    return "".join(
        "| " + " | ".join([*cells, *[""] * (width - len(cells))]) + " |\n" for cells in lines
    )


def _initiator(row: Row) -> str:
    return row["comm"] + (" (kernel thread)" if row["kernel_thread"] else "")
