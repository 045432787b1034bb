# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts and times what NUMA balancing does beside its migrations, by kprobes of tracefs.

On a function that mptrace has an fentry at, the kprobe runs before it and the kretprobe after
its fexit, so that times here enclose mptrace's.  Times are microseconds, cut off: a time
between two events is less than what they say and one microsecond more.
"""

import os
import re
from collections import Counter, defaultdict
from typing import Any

from .witness import TRACING, Witness

_GROUP = "mptrace_balancing"
_EVENT = re.compile(
    r"^\s*.{1,16}-(?P<tid>\d+)\s+\(\s*(?P<tgid>\d+|-+)\) \[\d+\] .{4,6} *"
    r"(?P<seconds>\d+)\.(?P<micros>\d+): (?P<name>\w+): "
)
#: Event -> kind, and functions of which a kernel has one.
_PROBES = {
    "scan": ("p", ("task_numa_work",)),
    "scan_end": ("r", ("task_numa_work",)),
    "change": ("p", ("change_prot_numa",)),
    "change_end": ("r", ("change_prot_numa",)),
    "fault": ("p", ("numa_migrate_check", "numa_migrate_prep")),
    "fault_end": ("r", ("task_numa_fault",)),
    "move": ("p", ("migrate_misplaced_folio", "migrate_misplaced_page")),
    "move_end": ("r", ("migrate_misplaced_folio", "migrate_misplaced_page")),
}
_US = 1000


class BalancingWitness(Witness):
    """A tracefs instance with kprobes at scans and hint faults, and at the work in them."""

    def __init__(self) -> None:
        super().__init__("mptrace-balancing")

    def __enter__(self) -> "BalancingWitness":
        there = {line.split()[0] for line in (TRACING / "available_filter_functions").open()}
        for name, (kind, functions) in _PROBES.items():
            function = next(each for each in functions if each in there)
            _define(f"{kind}:{_GROUP}/{name} {function}")
        super().__enter__()
        (self.root / "events/migrate/mm_migrate_pages/enable").write_text("0")
        (self.root / "events" / _GROUP / "enable").write_text("1")
        return self

    def __exit__(self, *_: object) -> None:
        (self.root / "events" / _GROUP / "enable").write_text("0")
        super().__exit__()
        for name in _PROBES:
            _define(f"-:{_GROUP}/{name}")

    def told(self, end_ns: int, after_ns: int) -> dict[str, Any]:
        """Sums of ``all`` and ``of`` each process, and hint faults until two times.

        ``hits`` and ``missed`` are the kernel's own counts of each probe.
        """
        (self.root / "events" / _GROUP / "enable").write_text("0")
        sums = _Sums()
        faults = []
        with (self.root / "trace").open() as lines:
            for line in lines:
                if line.startswith("#") or not (match := _EVENT.match(line)):
                    assert line.startswith("#") or not line.strip(), f"can't read {line!r}"
                    continue
                ns = int(match["seconds"]) * 1_000_000_000 + int(match["micros"]) * _US
                tgid = int(match["tgid"]) if match["tgid"].isdigit() else 0
                sums.add(match["name"], ns, int(match["tid"]), tgid)
                if match["name"] == "fault":
                    faults.append(ns)
        profile = [line.split() for line in (TRACING / "kprobe_profile").read_text().splitlines()]
        mine = [words for words in profile if words[0] in _PROBES]
        return {
            "all": dict(sum(sums.of.values(), Counter())),
            "of": {tgid: dict(of) for tgid, of in sums.of.items()},
            "faults_until_end": sum(ns <= end_ns for ns in faults),
            "faults_until_after": sum(ns <= after_ns for ns in faults),
            "hits": {words[0]: int(words[1]) for words in mine},
            "missed": {words[0]: int(words[2]) for words in mine},
            "lost": self.lost(),
        }


class _Sums:
    """Adds events up; a thread is in one scan or one hint fault at a time."""

    def __init__(self) -> None:
        self.of: dict[int, Counter[str]] = defaultdict(Counter)
        self._began: dict[tuple[str, int], int] = {}
        #: Thread -> time of migrations in the hint fault that it is in.
        self._inside: Counter[int] = Counter()

    def add(self, name: str, ns: int, tid: int, tgid: int) -> None:
        """One event; they come in order of time."""
        mine, what = self.of[tgid], name.removesuffix("_end")
        if what == name:
            self._began[what, tid] = ns
            if name == "fault":
                mine["faults"] += 1
                self._inside[tid] = 0
            return
        began = self._began.pop((what, tid), None)
        if began is None:
            return
        least, most = max(ns - began - _US, 0), ns - began + _US
        if what == "scan":
            mine["scans"] += 1
            mine["scan_most_ns"] += most
        elif what == "change":
            mine["changing_least_ns"] += least
        elif what == "move":
            self._inside[tid] += least
        else:
            mine["faults_timed"] += 1
            mine["fault_most_ns"] += most
            mine["migrating_least_ns"] += self._inside[tid]


def _define(text: str) -> None:
    # Python's own append would seek, which tracefs refuses
    fd = os.open(TRACING / "kprobe_events", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)
