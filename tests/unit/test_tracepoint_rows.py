# SPDX-License-Identifier: GPL-2.0-or-later
"""Events to rows: migrations, their folios and calls, nested, cut off, lost."""

from typing import Any

import numpy as np
import pytest
from samples import event, events, migrating, present

from mptrace.host.facts import NodeRanges
from mptrace.recording.layouts import (
    END_DONE,
    END_OPEN,
    END_PUTBACK,
    FOLIO_PMD,
    NO_LOOKUP,
    NOT_COUNTED,
    SYSCALL_UNKNOWN,
)
from mptrace.tracing.tracepoints.formats import (
    ARGUMENTS,
    END,
    ENTER,
    EVENT,
    EXIT,
    REMOVE,
    SET,
    START,
)
from mptrace.tracing.tracepoints.perf_records import LOSS
from mptrace.tracing.tracepoints.rows import Assembled, EventAssembler

NODES = NodeRanges(((0, 0x10000, 0), (0x10000, 0x20000, 1)))
COMPACTION, SYSCALL = 0, 3
NO_LOSS = np.empty(0, LOSS)
NO_ARGUMENTS = np.empty(0, ARGUMENTS)
END_OF_TIME = 1 << 60
#: A frame of node 1.
FAR = 0x10000


def start(time: int, reason: int = COMPACTION, **more: Any) -> np.void:
    """mm_migrate_pages_start, synchronous."""
    return event(START, time, reason=reason, mode=2, **more)


def end(time: int, moved: int, failed: int = 0, reason: int = COMPACTION, **more: Any) -> np.void:
    """mm_migrate_pages, synchronous."""
    return event(END, time, moved, failed, reason=reason, mode=2, **more)


def away(time: int, address: int, pfn: int, **more: Any) -> np.void:
    """set_migration_pte."""
    return event(SET, time, address, migrating(pfn), **more)


def back(time: int, address: int, pfn: int, **more: Any) -> np.void:
    """remove_migration_pte."""
    return event(REMOVE, time, address, present(pfn), **more)


def assemble(
    *rows: np.void, losses: Any = (), arguments: Any = NO_ARGUMENTS, **how: Any
) -> Assembled:
    """What a session with these events has in the end."""
    made = EventAssembler(NODES, **how)
    first = made.add(
        events(*rows), arguments, np.array(list(losses), LOSS) if losses else NO_LOSS, END_OF_TIME
    )
    return joined(first, made.finish())


def joined(*parts: Assembled) -> Assembled:
    """Rows of several batches."""
    return Assembled(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("calls", "migrations", "folios")
        ),
        outside=sum(part.outside for part in parts),
    )


def by_address(rows: Assembled) -> dict[int, np.void]:
    """Folios by address, each there once."""
    found = {int(row["address"]): row for row in rows.folios}
    assert len(found) == len(rows.folios)
    return found


def test_pages_that_move_and_one_that_stays() -> None:
    """Frames, nodes, windows and counts of one migration; the page put back did not move."""
    rows = assemble(
        start(100),
        *(away(110 + n, 0x1000 * n, 0x500 + n) for n in range(3)),
        back(120, 0x0000, FAR),
        back(130, 0x1000, 0x501),
        back(140, 0x2000, FAR + 9),
        end(150, 2, 1),
    )
    (migration,) = rows.migrations
    assert (migration["enter_ns"], migration["exit_ns"]) == (100, 150)
    assert (migration["succeeded"], migration["failed"], migration["lost"]) == (2, 1, 0)
    assert (migration["tid"], migration["mode"], migration["reason"]) == (7, 2, COMPACTION)
    assert (migration["dst_nid"], migration["syscall"]) == (1, SYSCALL_UNKNOWN)
    assert migration["call_id"] == 0
    folios = by_address(rows)
    assert set(rows.folios["migration_id"]) == {migration["migration_id"]}
    assert set(rows.folios["lookup_seq"]) == {NO_LOOKUP}
    assert [folios[a]["move_rc"] == 0 for a in (0, 0x1000, 0x2000)] == [True, False, True]
    assert [folios[a]["end"] for a in (0, 0x1000, 0x2000)] == [END_DONE, END_PUTBACK, END_DONE]
    assert [folios[a]["blackout_ns"] for a in (0, 0x1000, 0x2000)] == [10, 19, 28]
    moved = folios[0x2000]
    assert (moved["dark_first_ns"], moved["light_last_ns"]) == (112, 140)
    assert (moved["src"], moved["dst"]) == (0x502 * 64, (FAR + 9) * 64)
    assert (moved["src_nid"], moved["dst_nid"], moved["nr_pages"]) == (0, 1, 1)
    assert (folios[0x1000]["dst"], folios[0x1000]["dst_nid"]) == (0, -1)


def test_every_attempt_has_a_window() -> None:
    """A page that is put back ten times was dark ten times, not all the while."""
    attempts = []
    for n in range(10):
        attempts += [away(100 + 10 * n, 0x1000, 5), back(103 + 10 * n, 0x1000, 5)]
    (folio,) = assemble(start(1), *attempts, end(900, 0, 1)).folios
    assert (folio["n_dark"], folio["n_unmap"], folio["blackout_ns"]) == (10, 10, 30)
    assert (folio["dark_first_ns"], folio["light_last_ns"]) == (100, 193)
    assert folio["end"] == END_PUTBACK


def test_a_page_that_several_processes_map_is_one_folio() -> None:
    """Shared pages have an entry for each mapping, at any address; dark until the last is back."""
    (folio,) = assemble(
        start(1),
        away(10, 0x1000, 5), away(11, 0x9000, 5), away(12, 0x1000, 5),
        back(20, 0x1000, FAR), back(21, 0x9000, FAR), back(25, 0x1000, FAR),
        end(30, 1),
    ).folios  # fmt: skip
    assert (folio["n_maps"], folio["n_remap"], folio["n_dark"]) == (3, 3, 1)
    assert (folio["blackout_ns"], folio["move_rc"]) == (15, 0)


def test_a_large_folio_by_its_entries() -> None:
    """Entries of a large folio have one address when taken away, and their own when put back."""
    (folio,) = assemble(
        start(1),
        *(away(10 + n, 0x40000, 0x100 + n, order=4) for n in range(16)),
        # of a tail the kernel prints order 0
        *(back(40 + n, 0x40000 + 0x1000 * n, FAR + n, order=0 if n else 4) for n in range(16)),
        end(90, 16),
    ).folios
    assert (folio["nr_pages"], folio["n_remap"], folio["n_maps"]) == (16, 16, 16)
    assert (folio["src"], folio["dst"], folio["address"]) == (0x100 * 64, FAR * 64, 0x40000)
    assert (folio["move_rc"], folio["blackout_ns"]) == (0, 45)


def test_a_folio_of_which_a_process_maps_the_middle() -> None:
    """Its mapping begins within the folio: where it went is told all the same."""
    (folio,) = assemble(
        start(1),
        *(away(10 + n, 0x40000, 0x104 + n, order=4) for n in range(8)),
        *(back(40 + n, 0x40000 + 0x1000 * n, FAR + 4 + n) for n in range(8)),
        end(90, 16),
    ).folios
    assert (folio["src"], folio["dst"]) == (0x100 * 64, FAR * 64)
    assert (folio["n_remap"], folio["move_rc"]) == (8, 0)


def test_a_page_mapped_by_a_pmd() -> None:
    """512 pages, one window, and the flag that says so."""
    (folio,) = assemble(
        start(1),
        away(10, 0x200000, 0x400, order=9, mark=1),
        back(30, 0x200000, FAR, order=9, mark=1),
        end(90, 512),
    ).folios
    assert (folio["nr_pages"], folio["flags"] & FOLIO_PMD != 0) == (512, True)
    assert (folio["src"], folio["dst"], folio["blackout_ns"]) == (0x400 * 64, FAR * 64, 20)


def test_a_pmd_that_comes_back_as_entries_stayed() -> None:
    """Split while it was away: entries of the same frames are no move."""
    (folio,) = assemble(
        start(1),
        away(10, 0x200000, 0x400, order=9, mark=1),
        *(back(30 + n, 0x200000 + 0x1000 * n, 0x400 + n) for n in range(512)),
        end(900, 0, 512),
    ).folios
    assert (folio["end"], folio["n_remap"], folio["blackout_ns"]) == (END_PUTBACK, 512, 531)


def test_a_large_folio_is_split_and_its_pages_move() -> None:
    """Put back as pages, then each moved as a page of its own: none counts twice."""
    rows = assemble(
        start(1),
        *(away(10 + n, 0x40000, 0x100 + n, order=2) for n in range(4)),
        *(back(20 + n, 0x40000 + 0x1000 * n, 0x100 + n) for n in range(4)),
        *(away(30 + n, 0x40000 + 0x1000 * n, 0x100 + n) for n in range(4)),
        *(back(40 + n, 0x40000 + 0x1000 * n, FAR + 7 * n) for n in range(4)),
        end(90, 4),
    )
    assert rows.folios["nr_pages"].tolist() == [1, 1, 1, 1]
    assert rows.folios["move_rc"].tolist() == [0] * 4
    assert rows.folios["dst"].tolist() == [(FAR + 7 * n) * 64 for n in range(4)]
    head = by_address(rows)[0x40000]
    assert (head["n_dark"], head["blackout_ns"]) == (2, 13 + 10)


def test_entries_that_never_come_back_leave_it_unknown() -> None:
    """Its process is gone: neither moved nor put back, whatever the frames say before."""
    rows = assemble(
        start(1),
        away(10, 0x1000, 5),
        away(11, 0x2000, 6), back(12, 0x2000, 6), away(13, 0x2000, 6),
        end(90, 0, 0),
    )  # fmt: skip
    assert rows.folios["end"].tolist() == [END_OPEN, END_OPEN]
    assert (rows.folios["move_rc"] != 0).all()
    assert by_address(rows)[0x1000]["light_last_ns"] == 0


def test_different_pages_at_one_address() -> None:
    """Two processes' pages: both moved, and which frame is whose is not said."""
    rows = assemble(
        start(1),
        away(10, 0x1000, 5), away(11, 0x1000, 6), away(12, 0x5000, 7),
        back(20, 0x1000, FAR + 1), back(22, 0x1000, FAR + 2), back(23, 0x5000, FAR + 3),
        end(90, 3),
    )  # fmt: skip
    assert rows.folios["move_rc"].tolist() == [0, 0, 0]
    assert sorted(rows.folios["dst"].tolist()) == [0, 0, (FAR + 3) * 64]
    assert rows.folios["dst_nid"].tolist() == [1, 1, 1]
    assert rows.folios["blackout_ns"].sum() == 10 + 11 + 11


def test_different_pages_at_one_address_to_different_nodes() -> None:
    """Whose node is whose is not said either."""
    rows = assemble(
        start(1),
        away(10, 0x1000, FAR + 5), away(11, 0x1000, FAR + 6),
        back(20, 0x1000, 1), back(22, 0x1000, FAR + 2),
        end(90, 2),
    )  # fmt: skip
    assert rows.folios["dst_nid"].tolist() == [-1, -1]


def test_one_of_two_pages_at_one_address_stays() -> None:
    """The one that is put back is known by its frame, so the other one is known, too."""
    rows = assemble(
        start(1),
        away(10, 0x1000, 5), away(11, 0x1000, 6),
        back(20, 0x1000, FAR + 1), back(22, 0x1000, 5),
        end(90, 1, 1),
    )  # fmt: skip
    found = {int(row["src"]) // 64: row for row in rows.folios}
    assert (found[5]["end"], found[6]["end"]) == (END_PUTBACK, END_DONE)
    assert found[6]["dst"] == (FAR + 1) * 64


def test_one_of_two_pages_at_one_address_vanishes() -> None:
    """One frame for two pages: which of them moved can't be told, so neither is said to have."""
    rows = assemble(
        start(1),
        away(10, 0x1000, 5), away(11, 0x1000, 6), back(20, 0x1000, FAR + 1),
        end(90, 2),
    )  # fmt: skip
    assert rows.folios["end"].tolist() == [END_OPEN, END_OPEN]


def test_a_migration_inside_another() -> None:
    """Compaction to allocate a target: each page belongs to the migration that moved it."""
    rows = assemble(
        start(1, SYSCALL), away(2, 0x1000, 1),
        start(10), away(11, 0x2000, 2), back(12, 0x2000, 3), end(13, 1),
        back(20, 0x1000, FAR), end(30, 1, reason=SYSCALL),
    )  # fmt: skip
    times = {int(row["reason"]): (row["enter_ns"], row["exit_ns"]) for row in rows.migrations}
    assert times == {SYSCALL: (1, 30), COMPACTION: (10, 13)}
    ids = {int(row["reason"]): row["migration_id"] for row in rows.migrations}
    folios = by_address(rows)
    assert folios[0x1000]["migration_id"] == ids[SYSCALL]
    assert folios[0x2000]["migration_id"] == ids[COMPACTION]
    assert rows.migrations["lost"].tolist() == [0, 0]


def test_threads_at_once() -> None:
    """The same addresses, frames and times in two threads: nothing is mixed up."""
    rows = assemble(
        *(start(1, tid=tid) for tid in (7, 8)),
        away(2, 0x1000, 5, tid=7), away(2, 0x1000, 6, tid=8),
        back(3, 0x1000, FAR, tid=7), back(3, 0x1000, 6, tid=8),
        end(4, 1, tid=7), end(4, 0, 1, tid=8),
    )  # fmt: skip
    assert dict(zip(rows.folios["tid"], rows.folios["end"], strict=True)) == {
        7: END_DONE,
        8: END_PUTBACK,
    }
    assert dict(zip(rows.migrations["tid"], rows.migrations["failed"], strict=True)) == {7: 0, 8: 1}


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_batches_change_nothing(batch: int) -> None:
    """However the rings are emptied: the same rows."""
    stream = [
        event(ENTER, 1, reason=279, mark=1),
        start(2, SYSCALL), away(3, 0x1000, 1), away(4, 0x2000, 2),
        start(5), away(6, 0x9000, 8), back(7, 0x9000, 9), end(8, 1),
        back(9, 0x2000, 2), back(10, 0x1000, FAR), end(11, 1, 1, reason=SYSCALL),
        event(EXIT, 12, 1, reason=279),
        start(13), away(14, 0x1000, FAR), back(15, 0x1000, 1), end(16, 1),
    ]  # fmt: skip
    arguments = np.zeros(1, ARGUMENTS)
    arguments["time_ns"], arguments["tid"], arguments["nr_pages"] = 1, 7, 2
    whole = assemble(*stream, arguments=arguments)
    made = EventAssembler(NODES)
    parts = []
    for first in range(0, len(stream), batch):
        some = stream[first : first + batch]
        given = arguments if first == 0 else NO_ARGUMENTS
        # what is read is a little ahead of what is due
        parts.append(made.add(events(*some), given, NO_LOSS, int(some[0]["time_ns"])))
    rows = joined(*parts, made.finish())
    ids = ("call_id", "migration_id")
    for name in ("calls", "migrations", "folios"):
        mine, theirs = getattr(rows, name), getattr(whole, name)
        columns = [column for column in mine.dtype.names if column not in ids]
        key = "enter_ns" if "enter_ns" in mine.dtype.names else "start_ns"
        assert np.array_equal(
            np.sort(mine[columns], order=key), np.sort(theirs[columns], order=key)
        )
    assert (whole.calls["ret"], whole.calls["nr_pages"]) == (1, 2)
    assert whole.calls["n_migrations"].tolist() == [2]


def test_a_migration_belongs_to_the_call_it_runs_in() -> None:
    """The call has its arguments and return value; what comes after it has no call."""
    arguments = np.zeros(1, ARGUMENTS)
    for name, value in {"time_ns": 10, "tid": 7, "pid": 0, "nr_pages": 509, "nodes": 3}.items():
        arguments[name] = value
    rows = assemble(
        event(ENTER, 10, reason=279, mark=1),
        start(20, SYSCALL), end(30, 509, reason=SYSCALL),
        event(EXIT, 40, (1 << 64) - 13, reason=279),
        start(50), end(60, 1),
        arguments=arguments,
    )  # fmt: skip
    (call,) = rows.calls
    assert (call["enter_ns"], call["exit_ns"], call["ret"]) == (10, 40, -13)
    assert (call["nr_pages"], call["nodes_ptr"], call["n_migrations"]) == (509, 3, 1)
    assert call["target_tgid"] == 7
    first, second = np.sort(rows.migrations, order="enter_ns")
    assert (first["call_id"], first["syscall"]) == (call["call_id"], 279)
    assert (second["call_id"], second["syscall"]) == (0, SYSCALL_UNKNOWN)


def test_another_system_call_is_named_and_is_no_call() -> None:
    """mbind(2) has no row, and its migration says where it was."""
    rows = assemble(
        event(ENTER, 10, reason=237),
        start(20, 4), end(30, 5, reason=4),
        event(EXIT, 40, reason=237),
    )  # fmt: skip
    assert rows.calls.size == 0
    assert rows.migrations[["call_id", "syscall"]].tolist() == [(0, 237)]


def test_a_call_that_never_ends() -> None:
    """A thread that is killed inside has no exit: the call is open, and later ones are whole."""
    rows = assemble(
        event(ENTER, 10, reason=279, mark=1),
        event(ENTER, 50, reason=279, mark=1),
        event(EXIT, 60, reason=279),
    )
    assert np.sort(rows.calls[["enter_ns", "exit_ns"]]).tolist() == [(10, 0), (50, 60)]


def test_what_is_under_way_at_the_end_is_open() -> None:
    """No exit, no counts, and its pages as far as they got."""
    rows = assemble(start(10), away(20, 0x1000, 5), back(30, 0x1000, FAR), away(40, 0x2000, 6))
    (migration,) = rows.migrations
    assert (migration["enter_ns"], migration["exit_ns"]) == (10, 0)
    assert (migration["succeeded"], migration["failed"]) == (NOT_COUNTED, NOT_COUNTED)
    assert [by_address(rows)[a]["end"] for a in (0x1000, 0x2000)] == [END_DONE, END_OPEN]


def test_a_migration_that_had_begun_before() -> None:
    """An end without a start: counted by the kernel, and marked as not seen whole."""
    rows = assemble(back(5, 0x1000, 9), end(10, 33), start(20), end(30, 1))
    first, second = np.sort(rows.migrations, order="exit_ns")
    assert (first["enter_ns"], first["exit_ns"], first["succeeded"]) == (0, 10, 33)
    assert first["lost"] > 0
    assert (second["enter_ns"], second["lost"]) == (20, 0)


def test_a_kernel_that_does_not_say_when_it_begins() -> None:
    """Before 5.13: every migration is there, with its end and its counts alone."""
    rows = assemble(end(10, 1), end(20, 2), end(20, 3, tid=8), has_start=False)
    assert sorted(rows.migrations["succeeded"].tolist()) == [1, 2, 3]
    assert set(rows.migrations["enter_ns"]) == {0}
    assert set(rows.migrations["lost"]) == {0}


def test_entries_outside_a_migration_are_counted_only() -> None:
    """A large folio is split: nothing migrates."""
    rows = assemble(
        away(1, 0x1000, 5), back(2, 0x1000, 5), start(10), end(20, 0), away(30, 0x1000, 5),
    )  # fmt: skip
    assert (rows.folios.size, rows.migrations.size, rows.outside) == (0, 1, 2)


def test_a_loss_marks_what_was_under_way() -> None:
    """Whose records were lost is unknown: every migration and call at that time has lost some."""
    rows = assemble(
        start(10), end(20, 1),
        event(ENTER, 25, reason=279, mark=1), start(30, SYSCALL),
        away(31, 0x1000, 5), back(32, 0x1000, 5), away(33, 0x2000, 6), back(34, 0x2000, FAR),
        end(50, 2, reason=SYSCALL), event(EXIT, 55, reason=279),
        start(60), end(70, 1),
        losses=[(35, 40, 17)],
    )  # fmt: skip
    lost = np.sort(rows.migrations, order="enter_ns")["lost"].tolist()
    assert lost == [0, 17, 0]
    assert rows.calls["lost"].tolist() == [17]
    # put back: and perhaps taken away again; moved is for good
    assert [by_address(rows)[a]["end"] for a in (0x1000, 0x2000)] == [END_OPEN, END_DONE]


def test_a_lost_end_does_not_swallow_what_follows() -> None:
    """After a loss a new start closes the old one, and both are marked as not seen whole."""
    rows = assemble(
        start(10), away(11, 0x1000, 5), start(40, SYSCALL), away(41, 0x1000, 5),
        back(42, 0x1000, FAR), end(50, 1, reason=SYSCALL), start(60), end(70, 3),
        losses=[(20, 30, 2)],
    )  # fmt: skip
    ordered = np.sort(rows.migrations, order="enter_ns")
    assert ordered[["enter_ns", "exit_ns"]].tolist() == [(10, 0), (40, 50), (60, 70)]
    assert (ordered["lost"] > 0).tolist() == [True, False, False]
    assert ordered["succeeded"].tolist() == [NOT_COUNTED, 1, 3]


def test_ends_of_another_kind_close_what_must_have_ended() -> None:
    """An end whose start is further out: the inner one's end was lost."""
    rows = assemble(start(10, SYSCALL), start(20), end(50, 1, reason=SYSCALL), losses=[(30, 40, 1)])
    ordered = np.sort(rows.migrations, order="enter_ns")
    assert ordered[["enter_ns", "exit_ns"]].tolist() == [(10, 50), (20, 0)]
    assert (ordered["lost"] > 0).all()


def test_a_migration_too_large_to_keep() -> None:
    """Its pages are given up and counted, its end is there; memory stays bounded."""
    made = EventAssembler(NODES, max_held=10)
    pages = [away(100 + n, 0x1000 * n, n + 1) for n in range(20)]
    first = made.add(events(start(10), *pages), NO_ARGUMENTS, NO_LOSS, 900)
    rows = joined(first, made.add(events(end(1000, 20)), NO_ARGUMENTS, NO_LOSS, 2000))
    assert made.given_up == 20
    assert rows.folios.size == 0
    assert rows.migrations[["succeeded", "lost"]].tolist() == [(20, 20)]


def test_nothing_is_kept_of_what_has_ended() -> None:
    """After many migrations and losses nothing is left over: the state does not grow."""
    made = EventAssembler(NODES)
    for n in range(50):
        at = 1000 * n
        made.add(
            events(
                event(ENTER, at, reason=279, mark=1), start(at + 1, SYSCALL),
                away(at + 2, 0x1000, 5), back(at + 3, 0x1000, FAR),
                end(at + 4, 1, reason=SYSCALL), event(EXIT, at + 5, reason=279),
            ),
            NO_ARGUMENTS,
            np.array([(at, at + 1, 1)], LOSS),
            at + 999,
        )  # fmt: skip
    kept = [v for v in vars(made).values() if isinstance(v, np.ndarray | dict)]
    assert [len(v) for v in kept] == [0] * len(kept)


def test_no_events_no_rows() -> None:
    """An empty batch is nothing."""
    rows = EventAssembler(NODES).add(np.empty(0, EVENT), NO_ARGUMENTS, NO_LOSS, 1)
    assert (rows.calls.size, rows.migrations.size, rows.folios.size) == (0, 0, 0)
