# SPDX-License-Identifier: GPL-2.0-or-later
"""The first screen's fixed words: names of phases, what can't be said without something.  Pure."""

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
    "balancing_map_full": "what NUMA balancing took is a least number",
    "chosen_map_full": "processes that were forked are missing",
    "handler_skipped": "events of any kind are missing",
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
