# SPDX-License-Identifier: GPL-2.0-or-later
"""How large the maps and rings of a session with a driver must be: what it moves is known.  Pure.

The kernel clears their memory when it creates them: 130 MiB of rings where nothing is known.
"""

from dataclasses import replace
from typing import Any

from mptrace.driving.workloads import Workload
from mptrace.recording.layouts import CHUNK_SMALL, MAX_ENTRIES
from mptrace.tracing.plan.request import Request

#: The map of folios is never smaller: compaction may isolate, too.
_LEAST_FOLIOS = 1 << 14
#: Ring -> the most that an entry adds to it, with headers of records, and its least size: a
#: driver that allocates may compact memory, and calibration has its place in them, too.  A call
#: of one entry has a chunk as it begins and one as it ends; a larger chunk is full, with 16
#: bytes an entry.  A folio, and what refuses it, has a record each time that it is isolated.
_BYTES = {
    "folio_ring_bytes": (512, 4 << 20),
    "obstacle_ring_bytes": (512, 4 << 20),
    # at the level `outcomes`: what is refused, and lookups of calls that have few
    "refusal_ring_bytes": (512, 1 << 20),
    "few_ring_bytes": (256, 1 << 20),
    "call_ring_bytes": (256, 1 << 20),
    "small_ring_bytes": (2 * (CHUNK_SMALL.itemsize + 8), 1 << 20),
    "medium_ring_bytes": (64, 1 << 20),
    "large_ring_bytes": (64, 1 << 20),
}
#: Kinds of which a page has one entry, whatever the size of huge pages is.
_SMALL_KINDS = ("4k", "file", "shmem")


def bounds_of(workload: Workload, most: Request, max_folios: int = 0) -> Request:
    """Bounds for a workload that is resolved.

    The map of folios holds what one call isolates at once, in every thread.  Rings hold all
    that the session can put into them, whether or not it is taken meanwhile, or as much as
    ``most`` says, which has the last word about one that the user wants otherwise.

    :param max_folios: what the user wants; 0: what the workload needs.
    """
    if workload.target == "pid":
        return replace(most, max_folios=max_folios) if max_folios else most
    per_round = len(workload.explicit.entries) if workload.explicit else 2 * workload.pages
    per_call = workload.pages_per_call or per_round
    needed = max(_LEAST_FOLIOS, min(MAX_ENTRIES, per_round, per_call * workload.threads))
    folios = max_folios or _power_of_two(needed)
    # only processes that are chosen are followed, and a driver's is not
    bounds = replace(most, max_folios=folios, max_chosen=1)
    if workload.explicit or workload.kind not in _SMALL_KINDS:
        return bounds
    extra = workload.duplicates + workload.holes
    entries = round(workload.pages * (1 + extra)) + 1 + workload.bad
    # there and back, and one more round for BPF's statistics
    entries *= 2 * (workload.repeats + 1)
    rings: dict[str, Any] = {
        name: min(getattr(most, name), max(least, _power_of_two(each * entries)))
        for name, (each, least) in _BYTES.items()
        if getattr(most, name) == getattr(Request, name)
    }
    return replace(bounds, max_obstacles=min(most.max_obstacles, folios), **rings)


def _power_of_two(number: int) -> int:
    """The next one that is not less."""
    return 1 << (number - 1).bit_length()
