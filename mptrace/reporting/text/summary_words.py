# SPDX-License-Identifier: GPL-2.0-or-later
"""The first screen's fixed words: names of phases, what losses forbid, what to do.  Pure."""

from mptrace.reporting.text.layout import Numbers, many, process_name

#: Names of the phases as people read them.
PHASES = {"tlb_flush": "TLB flush", "lru_add": "LRU add"}

#: Cause of a loss -> what can't be said any more.
FORBIDS = {
    "folio_ring_full": "pages moved and stayed are least numbers",
    "folio_map_full": "pages moved and stayed are least numbers",
    "call_ring_full": "calls and migrations are missing",
    "thread_map_full": "calls are missing",
    "nested_too_deep": "migrations are missing",
    "chunk_ring_full": "what became of some entries is unknown",
    "return_missed": "what became of some entries is unknown",
    "obstacle_ring_full": "some causes are less exact",
    "obstacle_map_full": "some causes are less exact",
    "wait_ring_full": "waits are missing",
    "wait_map_full": "waits are missing",
    "chosen_map_full": "processes that were forked are missing",
    "handler_skipped": "events of any kind are missing",
}
#: Cause of a loss -> how to lose less the next time.
_AGAINST_LOSS = {
    "folio_ring_full": "record again with a larger --buffer",
    "folio_map_full": "record again with a larger --max-folios",
}

#: What was not seen -> what can't be said without it.  Of other phases it is times alone.
NEEDED = {
    "migration": "what became of pages is unknown",
    "move": "what became of pages is unknown",
    "call": "calls of move_pages(2) are not seen",
    "lookup": "what became of calls' entries is unknown",
    "isolate": "what became of calls' entries is unknown",
    "dark": "how long pages were dark is unknown",
    "dark_pmd": "how long huge pages were dark is unknown",
    "owner": "whose pages they are is unknown",
    "wait_pte": "who waited is unknown",
    "wait_pmd": "who waited for huge pages is unknown",
    "wait_hugetlb": "who waited for hugetlb pages is unknown",
    "io_sleep": "who waited for a page's lock is unknown",
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


def advice(profile: Numbers) -> list[str]:
    """What to do, the most urgent first; a remedy of a page that stayed stands there."""
    summary = profile["summary"]
    found = [text for cause, text in _AGAINST_LOSS.items() if summary["lost"].get(cause)]
    for row in profile["stalls"]["by_initiator"]:
        path = None if row["initiator"] is None else row["initiator"]["path"]
        text = _AGAINST_WAITS.get(path or "")
        if text and text not in found:
            found.append(text)
    if profile["agreement"]["disagree"]:
        found.append("see where the witnesses disagree: --calls")
    for row in profile["misled"]:
        if row["pages"]:
            name = process_name(row["comm"] or row["process"], row["tgid"])
            found.append(
                f"{name} may take {many(row['pages'], 'untouched status', 'untouched statuses')} "
                "for nodes: fill the array with an impossible value first (--calls)"
            )
    for row in profile["groups"]:
        if row["calls"]:
            name = process_name(row["comm"] or row["process"], row["tgid"])
            found.append(
                f"{name}: entries alternate between nodes, so pages are migrated in "
                f"{many(row['groups'], 'group')}: sort them by node (--calls)"
            )
    if summary["stayed"]:
        found.append("each page that stayed, with its evidence: mptrace explain")
    return found
