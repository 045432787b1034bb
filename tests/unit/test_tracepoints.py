# SPDX-License-Identifier: GPL-2.0-or-later
"""From the bytes of a perf ring to events: formats of two kernels, runs, losses, page tables."""

import numpy as np
import pytest
from samples import END as END_POINT
from samples import (
    MASK,
    REMOVE_PTE,
    SERIES,
    SET_PTE,
    bytes_of,
    comm,
    formats_of,
    lost,
    migrating,
    present,
    sample,
    task,
)
from samples import START as START_POINT

from mptrace.host.facts import NodeRanges
from mptrace.tracing.tracepoints.formats import (
    END,
    ENTER,
    EXIT,
    PFN_BITS_LA57,
    PMD_ORDER,
    POINTS,
    REMOVE,
    SET,
    START,
    Decoder,
    Format,
    migration_pfn,
    present_pfn,
)
from mptrace.tracing.tracepoints.perf_records import (
    LOSS,
    TASK,
    head,
    raw,
    record_bytes,
    runs,
    split,
)


@pytest.mark.parametrize("series", SERIES)
def test_every_point_has_the_fields_that_are_read(series: str) -> None:
    """Both kernels' format files have each tracepoint with all of its fields."""
    formats = formats_of(series)
    assert {point.name: formats[point.name].lacks(point.fields) for point in POINTS} == {
        point.name: () for point in POINTS
    }


def test_a_field_is_found_by_name_wherever_it_stands() -> None:
    """6.12 has a field more before the mode: mode and reason move, what is read does not."""
    old, new = (formats_of(series)[END_POINT] for series in SERIES)
    assert old.fields["mode"] != new.fields["mode"]
    for layout in (old, new):
        block = sample(layout, 5, succeeded=509, failed=23, mode=2, reason=8)
        events, _ = Decoder({END_POINT: layout}).decode([bytes_of(block).reshape(1, -1)])
        row = events[0]
        assert (row["kind"], row["first"], row["second"]) == (END, 509, 23)
        assert (row["mode"], row["reason"], row["time_ns"]) == (2, 8, 5)


@pytest.mark.parametrize("series", SERIES)
def test_names_of_reasons_and_modes_come_from_the_kernel(series: str) -> None:
    """The tracepoint's own list of names, which differs between kernels."""
    layout = formats_of(series)[END_POINT]
    assert layout.symbols("reason")[0] == "compaction"
    assert layout.symbols("reason")[3] == "syscall_or_cpuset"
    assert layout.symbols("mode")[2] == "MIGRATE_SYNC"
    assert ("damon" in layout.symbols("reason").values()) == (series == "6.12")
    assert layout.symbols("nothing") == {}


def test_a_file_that_is_no_format_is_refused() -> None:
    """A text without an ID is a ValueError."""
    with pytest.raises(ValueError, match="no ID"):
        Format.parse("name: x\n")


@pytest.mark.parametrize("series", SERIES)
def test_each_kind_of_event(series: str) -> None:
    """Page table entries, calls with their arguments, ends: as the kernel wrote them."""
    formats = formats_of(series)

    def one(name: str, **fields: int) -> np.ndarray:
        return bytes_of(sample(formats[name], 11, 42, 40, **fields)).reshape(1, -1)

    blocks = [
        one(START_POINT, mode=0, reason=5),
        one(SET_PTE, addr=0x7F00_0000_1000, pte=migrating(0x1234), order=0),
        one(REMOVE_PTE, addr=0x7F00_0000_1000, pte=present(0x5678), order=9),
        one("thp:set_migration_pmd", addr=0x200000, pmd=migrating(0x400)),
        one("thp:remove_migration_pmd", addr=0x200000, pmd=present(0x800)),
        one(
            "syscalls:sys_enter_move_pages", __syscall_nr=279, pid=99, nr_pages=1000,
            pages=0x1000, nodes=0x2000, status=0x3000, flags=4,
        ),
        one("syscalls:sys_exit_move_pages", __syscall_nr=279, ret=-13),
        one("syscalls:sys_enter_mbind", __syscall_nr=237),
    ]  # fmt: skip
    events, arguments = Decoder(formats).decode(blocks)
    assert events["kind"].tolist() == [START, SET, REMOVE, SET, REMOVE, ENTER, EXIT, ENTER]
    assert set(events["tid"].tolist()) == {42}
    assert set(events["tgid"].tolist()) == {40}
    assert events["order"].tolist() == [0, 0, 9, PMD_ORDER, PMD_ORDER, 0, 0, 0]
    assert events["mark"].tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    assert events["first"][1] == 0x7F00_0000_1000
    assert migration_pfn(events["second"][[1, 3]]).tolist() == [0x1234, 0x400]
    assert present_pfn(events["second"][[2, 4]]).tolist() == [0x5678, 0x800]
    assert events["first"][6:7].view("<i8")[0] == -13
    assert events["reason"][5:].tolist() == [279, 279, 237]
    row = arguments[0]
    assert (len(arguments), row["time_ns"], row["tid"]) == (1, 11, 42)
    assert (row["pid"], row["nr_pages"], row["flags"]) == (99, 1000, 4)
    assert (row["pages"], row["nodes"], row["status"]) == (0x1000, 0x2000, 0x3000)


def test_an_event_of_somebody_else_is_passed_over() -> None:
    """A sample whose type is none of the points' makes no event."""
    formats = formats_of("6.12")
    block = bytes_of(sample(formats[SET_PTE], 1)).reshape(1, -1)
    events, arguments = Decoder({END_POINT: formats[END_POINT]}).decode([block])
    assert (events.size, arguments.size) == (0, 0)


def test_a_ring_is_cut_into_runs_of_equal_records() -> None:
    """A loop per run: 3 + 1 + 2 samples of two sizes are three runs, and nothing is missed."""
    formats = formats_of("6.12")
    pte = [sample(formats[SET_PTE], time, addr=time) for time in range(5)]
    end = sample(formats[END_POINT], 9, succeeded=1)
    found = list(runs(bytes_of(*pte[:3], end, *pte[3:])))
    assert [block.shape for _, block in found] == [(3, 64), (1, 96), (2, 64)]
    assert record_bytes(formats[SET_PTE].raw_bytes) == 64
    assert record_bytes(formats[END_POINT].raw_bytes) == 96
    assert head(found[2][1])["time_ns"].tolist() == [3, 4]
    assert raw(found[0][1]).shape == (3, 36)


def test_data_that_is_no_record_is_refused() -> None:
    """A header that leads nowhere is an error, not an endless loop."""
    with pytest.raises(ValueError, match="a record of 0 bytes"):
        list(runs(np.zeros(16, np.uint8)))


def test_losses_lie_between_the_records_around_them() -> None:
    """A loss begins after the last record before it, also where that came in an earlier read."""
    pte = formats_of("6.1")[SET_PTE]
    samples, losses, tasks, last = split(bytes_of(sample(pte, 100), lost(200, 17)), 50)
    assert (len(samples), tasks.size, last) == (1, 0, 200)
    assert losses.tolist() == [(100, 200, 17)]
    assert losses.dtype == LOSS
    _, losses, _, last = split(bytes_of(lost(300, 3), sample(pte, 310)), last)
    assert (losses.tolist(), last) == ([(200, 300, 3)], 310)


def test_threads_that_come_are_named_and_go() -> None:
    """FORK, COMM and EXIT records in order."""
    _, _, tasks, _ = split(
        bytes_of(task(7, 1, 31, 30), comm(2, 31, "migratepages"), task(4, 3, 31, 30)), 0
    )
    assert tasks.dtype == TASK
    assert tasks["kind"].tolist() == [b"fork", b"comm", b"exit"]
    assert tasks["time_ns"].tolist() == [1, 2, 3]
    assert tasks["tid"].tolist() == [31, 31, 31]
    assert tasks["parent_tid"].tolist() == [30, 0, 30]
    assert tasks["comm"][1] == b"migratepages"


def test_a_migration_entry_that_a_kernel_printed() -> None:
    """A word of a kernel's trace, with the frame that the kernel printed for it."""
    # Naoya Horiguchi on linux-mm, of a patch that printed both
    assert migration_pfn(np.array([0xDFFF_FFFF_DF47_8602], np.uint64)).tolist() == [0x105C3C]


@pytest.mark.parametrize("pfn", [1, 0x105C3C, (1 << 34) - 1])
def test_bits_beyond_the_frame_are_no_part_of_it(pfn: int) -> None:
    """A migration entry keeps in its upper bits whether the page was young and dirty."""
    assert migration_pfn(np.array([migrating(pfn)], np.uint64)).tolist() == [pfn]
    assert present_pfn(np.array([present(pfn)], np.uint64)).tolist() == [pfn]


def test_five_levels_of_page_tables_have_wider_frames() -> None:
    """With LA57 a frame has 40 bits."""
    word = np.array([((~(1 << 39) & MASK) << 14 & MASK) >> 5], np.uint64)
    assert migration_pfn(word, PFN_BITS_LA57).tolist() == [1 << 39]


def test_an_entry_without_access_is_inverted() -> None:
    """PROT_NONE: not present, and the bits of the address are inverted against L1TF."""
    protnone = 1 << 8
    word = (~(0x5678 << 12) & 0x000F_FFFF_FFFF_F000) | protnone
    assert present_pfn(np.array([word], np.uint64)).tolist() == [0x5678]


def test_nodes_by_spans_and_by_memory_blocks() -> None:
    """A frame in one node's spans is that node's; in two nodes' the memory block decides."""
    ranges = NodeRanges(
        ((0, 1000, 0), (900, 2000, 1), (5000, 6000, 0)),
        block_pages=100,
        blocks={9: frozenset({1}), 30: frozenset({0, 1}), 31: frozenset({0})},
    )
    frames = np.array([0, 899, 950, 1999, 3000, 3100, 4000, 5500], np.uint64)
    assert ranges.nids(frames).tolist() == [0, 0, 1, 1, -1, 0, -1, 0]
    assert NodeRanges().nids(frames).tolist() == [-1] * 8
