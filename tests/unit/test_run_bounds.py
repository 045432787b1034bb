# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps and rings of a session with a driver hold what its workload makes, and not much more."""

import dataclasses

import numpy as np
import pytest

from mptrace.driving import patterns
from mptrace.driving.workloads import Explicit, Workload
from mptrace.recording.layouts import (
    CALL,
    CHUNK_LARGE,
    CHUNK_MEDIUM,
    CHUNK_SMALL,
    FOLIO,
    LARGE_CHUNK,
    MEDIUM_CHUNK,
    MIGRATION,
    OBSTACLE,
    SMALL_CHUNK,
)
from mptrace.sessions.bounds import bounds_of
from mptrace.tracing.plan.request import Request

#: struct bpf_ringbuf_hdr, before each record
HEADER = 8
RINGS = tuple(each.name for each in dataclasses.fields(Request) if "ring" in each.name)


def chunks(entries: int) -> dict[str, int]:
    """Chunks of one side of a call, by size: as bpf/move_pages/arrays.h cuts it."""
    large, rest = divmod(entries, LARGE_CHUNK)
    medium, rest = divmod(rest, MEDIUM_CHUNK)
    return {"large": large, "medium": medium, "small": -(-rest // SMALL_CHUNK)}


def made(workload: Workload) -> dict[str, int]:
    """Bytes that all rounds of a workload put into each ring, where nothing is taken."""
    entries = len(patterns.entries(workload, workload.pages))
    calls = patterns.call_bounds(entries, workload.threads, workload.pages_per_call)
    lengths = np.diff(calls[:, 1:]).ravel().tolist()
    ways = 2 * (workload.repeats + 1)
    by_size = {
        f"{size}_ring_bytes": 2 * ways * sum(chunks(n)[size] for n in lengths)
        for size in ("small", "medium", "large")
    }
    dtypes = {"small": CHUNK_SMALL, "medium": CHUNK_MEDIUM, "large": CHUNK_LARGE}
    return {
        **{
            name: count * (dtypes[name.partition("_")[0]].itemsize + HEADER)
            for name, count in by_size.items()
        },
        "folio_ring_bytes": ways * entries * (FOLIO.itemsize + HEADER),
        "obstacle_ring_bytes": ways * entries * (OBSTACLE.itemsize + HEADER),
        "call_ring_bytes": ways * len(lengths) * (max(CALL.itemsize, MIGRATION.itemsize) + HEADER),
    }


@pytest.mark.parametrize("pages", [1, 67, 509, 5003, 20011])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pages_per_call": 1},
        {"pages_per_call": 65, "threads": 3},
        {"duplicates": 1.0, "holes": 0.5, "bad": 1009, "repeats": 7},
        {"pages_per_call": 1, "duplicates": 1.0, "holes": 1.0, "repeats": 2},
        {"kind": "file", "back": False},
    ],
)
def test_rings_hold_what_a_workload_makes(pages: int, options: dict[str, object]) -> None:
    """All of it, even where nobody takes anything; else they are as large as ever."""
    workload = Workload(pages=pages, source_nids=(0,), target_nids=(1,), **options)  # type: ignore[arg-type]
    bounds = bounds_of(workload, Request())
    for name, size in made(workload).items():
        most = getattr(Request, name)
        ring = getattr(bounds, name)
        assert min(size, most) <= ring <= most, name
        assert ring & (ring - 1) == 0, name


def test_a_small_workload_takes_little_memory() -> None:
    """67 pages: a tenth of what is taken where nothing is known."""
    bounds = bounds_of(Workload(pages=67), Request())
    assert (
        sum(getattr(bounds, name) for name in RINGS)
        < sum(getattr(Request, name) for name in RINGS) / 5
    )
    assert bounds.max_obstacles == bounds.max_folios == 1 << 14
    assert bounds.max_chosen == 1


def test_what_the_user_wants_stands() -> None:
    """--buffer and --max-folios, larger or smaller; stacks."""
    for size in (4096, 1 << 26):
        bounds = bounds_of(Workload(pages=67), Request(folio_ring_bytes=size, stacks=True), 4096)
        assert (bounds.folio_ring_bytes, bounds.max_folios) == (size, 4096)
        assert bounds.stacks
        assert bounds.large_ring_bytes == 1 << 20


@pytest.mark.parametrize(
    "workload",
    [
        Workload(kind="thp", pages=67),
        Workload(kind="hugetlb", pages=67),
        Workload(explicit=Explicit(((0, 1),))),
        Workload(target="pid", pid=1),
    ],
)
def test_what_is_not_known_has_rings_as_ever(workload: Workload) -> None:
    """Huge pages may have an entry for each of their pages; others' memory is not known yet."""
    bounds = bounds_of(workload, Request())
    assert all(getattr(bounds, name) == getattr(Request, name) for name in RINGS)


def test_the_map_of_folios_holds_what_calls_isolate() -> None:
    """Of all threads, and never less than compaction may need."""
    assert bounds_of(Workload(pages=67), Request()).max_folios == 1 << 14
    assert bounds_of(Workload(pages=20011), Request()).max_folios == 1 << 16
    one = Workload(pages=20011, pages_per_call=512, threads=2)
    assert bounds_of(one, Request()).max_folios == 1 << 14
    assert bounds_of(Workload(target="pid", pid=1), Request()).max_folios == Request.max_folios
    assert bounds_of(Workload(target="pid", pid=1), Request(), 4096).max_folios == 4096
