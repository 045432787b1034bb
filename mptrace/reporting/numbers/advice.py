# SPDX-License-Identifier: GPL-2.0-or-later
"""What to do about what a report has found.  Pure."""

from mptrace.recording.detail import LEVEL_OUTCOMES
from mptrace.reporting.numbers.sums import Numbers
from mptrace.units import many

#: Cause of a loss -> how to lose less the next time.
_AGAINST_LOSS = {
    "folio_ring_full": "record again with a larger --buffer",
    "folio_map_full": "record again with a larger --max-folios",
}

#: Path -> what helps whoever has to wait for it.
_AGAINST_WAITS = {
    "move_pages": "smaller calls make shorter waits: --budget 20ms names the largest batch",
    "migrate_pages": "move in portions, by move_pages(2): --budget 20ms names the largest batch",
    "mbind": "bind memory before it is touched, or in smaller ranges",
    "cpuset": "set cpuset.mems before the process fills its memory",
    "numa_balancing": "bind the process (numactl), or sysctl kernel.numa_balancing=0",
    "numa_balancing_or_promotion": "bind the process (numactl), or sysctl kernel.numa_balancing=0",
    "compaction_direct": "let kcompactd do it: 'defer' in "
    "/sys/kernel/mm/transparent_hugepage/defrag; keep more memory free (vm.min_free_kbytes)",
    "compaction_kcompactd": "sysctl vm.compaction_proactiveness=0 stops its proactive part",
    "compaction_sysctl": "find who writes to /proc/sys/vm/compact_memory, and when",
    "demotion_kswapd": "give more memory, or no demotion: /sys/kernel/mm/numa/demotion_enabled",
    "demotion_direct": "give more memory, or no demotion: /sys/kernel/mm/numa/demotion_enabled",
    "demotion_write": "who writes to memory.reclaim, memory.high or memory.max of a cgroup?",
    "hot_unplug": "take memory offline while the application is idle",
}


def advice_of(numbers: Numbers) -> list[str]:
    """What to do, the most urgent first; the remedies of pages that stayed stand with these.

    :param numbers: all other numbers of a report.
    """
    found = [text for cause, text in _AGAINST_LOSS.items() if numbers["lost"].get(cause)]
    for row in numbers["stalls"]["by_initiator"]:
        path = None if row["initiator"] is None else row["initiator"]["path"]
        text = _AGAINST_WAITS.get(path or "")
        if text and text not in found:
            found.append(text)
    if numbers["agreement"]["disagree"]:
        found.append("see where the witnesses disagree: --calls")
    for row in numbers["misled"]:
        if row["pages"]:
            name = f"{row['comm'] or row['process']}/{row['tgid']}"
            found.append(
                f"{name} may take {many(row['pages'], 'untouched status', 'untouched statuses')} "
                "for nodes: fill the array with an impossible value first (--calls)"
            )
    for row in numbers["groups"]:
        if row["calls"]:
            name = f"{row['comm'] or row['process']}/{row['tgid']}"
            found.append(
                f"{name}: entries alternate between nodes, so pages are migrated in "
                f"{many(row['groups'], 'group')}: sort them by node (--calls)"
            )
    if numbers["failure_causes"] or any(row["failures"] for row in numbers["paths"]):
        found.append("each page that stayed, with its evidence: mptrace explain")
    if numbers["detail"] == LEVEL_OUTCOMES:
        found.append(
            "longest dark, whose pages, phases: not traced at --detail outcomes; record with "
            "--detail all"
        )
    return found
