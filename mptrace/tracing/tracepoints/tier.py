# SPDX-License-Identifier: GPL-2.0-or-later
"""What a session with tracepoints alone can and can't see, in words.  Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mptrace import __version__
from mptrace.host.facts import HostFacts
from mptrace.recording.layouts import MAX_ENTRIES
from mptrace.tracing.plan.candidates import CANDIDATES
from mptrace.tracing.tracepoints.formats import POINTS, Format
from mptrace.units import many

#: The architecture whose page table entries are decoded.
_DECODED = "x86_64"
# The kernel prints one reason under another name than it has.
_RENAMED = {"syscall_or_cpuset": "syscall"}
# Phase (`candidates`) -> the tracepoint that stands for it; "": none does.
_PHASES = {
    "call": "syscalls:sys_enter_move_pages",
    "lookup": "",
    "isolate": "",
    "migration": "migrate:mm_migrate_pages",
    "outcome": "migrate:mm_migrate_pages",
    "allocate": "",
    "unmap": "",
    "dark": "migrate:set_migration_pte",
    "dark_pmd": "thp:set_migration_pmd",
    "move": "",
    "copy": "",
    "remap": "migrate:remove_migration_pte",
    "owner": "",
    "wait_pte": "",
}


@dataclass(frozen=True)
class Kernel:
    """The kernel, as its tracepoints show it."""

    release: str
    machine: str
    page_size: int
    #: As the tracepoint prints them: number -> name.
    reasons: Mapping[int, str]
    modes: Mapping[int, str]
    formats: Mapping[str, Format]
    #: Points that are not there, or of no use: name -> why.
    gaps: Mapping[str, str] = field(default_factory=dict)

    @property
    def decodes_pages(self) -> bool:
        """Whether page table entries of this machine can be read."""
        return self.machine == _DECODED and self.page_size == 4096 and self._has_pages

    @property
    def has_start(self) -> bool:
        """Whether the kernel says when a migration begins."""
        return "migrate:mm_migrate_pages_start" in self.formats

    @property
    def reason_names(self) -> dict[int, str]:
        """The reasons by number, under the names that they have in the kernel."""
        return {number: _RENAMED.get(name, name) for number, name in self.reasons.items()}

    @property
    def call_reason(self) -> int:
        """Number of the reason of move_pages(2)'s migrations; -1 where no name is known."""
        numbers = {name: number for number, name in self.reason_names.items()}
        return numbers.get("syscall", -1)

    @property
    def _has_pages(self) -> bool:
        return self.has_start and "migrate:set_migration_pte" in self.formats


def first_meta(
    kernel: Kernel, host: HostFacts, started: Mapping[str, int], scope: str
) -> dict[str, Any]:
    """Keys of ``meta.json`` that are known at the start."""
    return {
        "tool_version": __version__,
        "command": [],
        "interrupted": False,
        "kernel": {
            "release": kernel.release,
            "machine": kernel.machine,
            "page_size": kernel.page_size,
        },
        **host.to_meta(),
        "started": dict(started),
        "workload": None,
        "mappings": [],
        "mappings_gap": "",
        "reasons": {str(number): name for number, name in kernel.reason_names.items()},
        "modes": {
            str(n): name.removeprefix("MIGRATE_").lower() for n, name in kernel.modes.items()
        },
        "coverage": _coverage(kernel),
        "unproved_kinds": [],
        "tier": "tracepoints",
        "unseen": unseen(kernel, scope),
        "lost": {},
        "symbols": {},
        "page_flags": {},
        "cost": None,
        "cost_reason": "mptrace does not run traced programs again without tracing",
        "max_entries": MAX_ENTRIES,
    }


def unseen(
    kernel: Kernel, scope: str = "all", *, outside: int = 0, cpus: tuple[int, ...] = ()
) -> list[str]:
    """What this tier can't see here, a sentence each.

    :param outside: page table entries that were met outside a migration.
    :param cpus: those that came online during the session.
    """
    sentences = [
        "why a page stayed: no cause, no reference counts, no error number",
        "pages that no process maps (page cache, swap cache), and pages refused before they "
        "were unmapped: the kernel counts them, but they have no record",
        "how long each step took: only a migration's time, and how long a page was inaccessible",
        "whose pages they are, and who waited for one",
        "mptrace's own pages: they are in the sums if others move them; what mptrace itself "
        "migrates without a call is in no sum",
        "the arrays of move_pages(2): what became of its entries is unknown",
        "what a migration returned: `rc` is the number of base pages that the kernel counted "
        "as failed",
        "the system call of a migration, except move_pages(2), migrate_pages(2) and mbind(2); "
        "calls of 32-bit programs",
        "which of several pages at one address of different processes went where, in one "
        "migration: `dst` is 0",
    ]
    if scope != "all":
        sentences.append(
            "migrations of these processes' pages by others, except by calls of move_pages(2)"
        )
    if not kernel.decodes_pages and kernel.machine != _DECODED:
        sentences.append(f"which pages moved: page table entries of {kernel.machine} can't be read")
    lacking: dict[str, list[str]] = {}
    for point in POINTS:
        if point.name in kernel.gaps:
            lacking.setdefault(point.without, []).append(f"{point.name}: {kernel.gaps[point.name]}")
    sentences += [f"{what} ({'; '.join(why)})" for what, why in lacking.items()]
    if outside:
        sentences.append(
            f"{many(outside, 'page table entry was', 'page table entries were')} taken away "
            "outside a migration (a large folio is split, or a migration had begun before): not "
            "recorded"
        )
    if cpus:
        sentences.append(f"CPUs that came online during the session: {', '.join(map(str, cpus))}")
    return sentences


def _coverage(kernel: Kernel) -> list[dict[str, Any]]:
    units = {candidate.phase: candidate.unit for candidate in CANDIDATES}
    rows = []
    for phase, point in _PHASES.items():
        there = point in kernel.formats
        reason = "not calibrated" if there else kernel.gaps.get(point, "no tracepoint tells it")
        rows.append(
            {
                "phase": phase,
                "unit": units.get(phase, ""),
                "attach": point if there else "",
                "method": "perf_event" if there else "",
                "state": "unproved" if there else "missing",
                "expected": None,
                "seen": None,
                "reason": reason,
            }
        )
    return rows
