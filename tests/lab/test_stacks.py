# SPDX-License-Identifier: GPL-2.0-or-later
"""From where migrations, calls and waits came: call chains that are known, of programs of ours.

The run is that of tests/lab/test_stalls.py, which records with --stacks.
"""

from pathlib import Path

import numpy as np
import pytest
from crowd.run import MACHINE, Crowd, crowd_of

from mptrace.lab.guest import Guest
from mptrace.recording.layouts import WAIT_PTE
from mptrace.recording.stack_layouts import STACK_OF_CALL, STACK_OF_MIGRATION, STACK_OF_WAIT

PAGE = 4096
REFUSED = b"another stack had its place"
WRITE = 1  # write(2) on x86-64

pytestmark = MACHINE


@pytest.fixture
def crowd(guest: Guest, kernel: str, guest_dir: str, tmp_path: Path) -> Crowd:
    """What this kernel's one run left."""
    return crowd_of(guest, kernel, guest_dir, tmp_path)


def names_of(crowd: Crowd, number: int) -> list[str]:
    """Functions of a stack, the innermost first."""
    frames = crowd.recording.table("stacks")
    mine = frames[frames["stack"] == number]
    assert mine["depth"].tolist() == list(range(len(mine)))
    return [symbol.decode() for symbol in mine["symbol"].tolist()]


def stacks_of(crowd: Crowd, kind: int, ids: np.ndarray, column: str) -> list[list[str]]:
    """The different stacks of calls, migrations or waits (by their begin), as functions."""
    uses = crowd.recording.table("stack_uses")
    mine = uses[(uses["kind"] == kind) & np.isin(uses["id"], ids)]
    frames = crowd.recording.table("stacks")
    # two may want one place in the kernel's map: those it could not keep say so
    refused = frames["stack"][frames["unknown"] == REFUSED]
    numbers = np.setdiff1d(mine[column], refused)
    assert numbers.size
    return [names_of(crowd, int(number)) for number in numbers]


def has_in_order(names: list[str], *wanted: str) -> bool:
    """Whether these functions are there, each called by the next."""
    places = [names.index(name) for name in wanted if name in names]
    return len(places) == len(wanted) and places == sorted(places)


def test_each_has_a_stack(crowd: Crowd) -> None:
    """Each call, each migration without one and each wait has one use, and nothing else has."""
    uses = crowd.recording.table("stack_uses")
    migrations, waits = (crowd.recording.table(name) for name in ("migrations", "waits"))
    lone = migrations[migrations["call_id"] == 0]
    for kind, ids in (
        (STACK_OF_CALL, crowd.recording.table("calls")["call_id"]),
        (STACK_OF_MIGRATION, lone["migration_id"]),
        (STACK_OF_WAIT, waits["start_ns"]),
    ):
        assert len(ids) > 5, kind
        assert np.sort(uses["id"][uses["kind"] == kind]).tolist() == np.sort(ids).tolist()
    assert (uses["kernel_stack"] != 0).all()


def test_who_compacts_does_so_by_the_sysctl(crowd: Crowd) -> None:
    """All migrations in its write(2) for compaction came through the sysctl's handler."""
    migrations = crowd.recording.table("migrations")
    mine = migrations[
        (migrations["tgid"] == crowd.race["compactor"]) & (migrations["syscall"] == WRITE)
    ]
    assert mine.size
    found = stacks_of(crowd, STACK_OF_MIGRATION, mine["migration_id"], "kernel_stack")
    assert found
    for names in found:
        assert has_in_order(names, "sysctl_compaction_handler", "vfs_write", "do_syscall_64"), names
        assert any(name.startswith("compact_zone") for name in names), names


def test_migratepages_calls_migrate_pages(crowd: Crowd) -> None:
    """By the system call of that name, whose function in the kernel is called so, too."""
    migrations = crowd.recording.table("migrations")
    mine = migrations[(migrations["comm"] == b"migratepages") & (migrations["call_id"] == 0)]
    assert mine.size
    found = stacks_of(crowd, STACK_OF_MIGRATION, mine["migration_id"], "kernel_stack")
    for names in found:
        assert has_in_order(names, "kernel_migrate_pages", "__x64_sys_migrate_pages"), names


def test_calls_of_move_pages_come_from_their_system_call(crowd: Crowd) -> None:
    """All of them, 32 racing threads' among them."""
    calls = crowd.recording.table("calls")
    found = stacks_of(crowd, STACK_OF_CALL, calls["call_id"], "kernel_stack")
    assert found
    for names in found:
        assert has_in_order(names, "__x64_sys_move_pages", "do_syscall_64"), names


def test_who_waits_was_in_the_function_that_touches(crowd: Crowd) -> None:
    """A fault on the toucher's pages: in `run` of touch.c, and in the kernel's swap path."""
    section = crowd.sections["migratepages"]
    waits = crowd.recording.table("waits")
    end = section["base"] + section["pages"] * PAGE
    mine = waits[
        np.isin(waits["tid"], section["tids"])
        & (waits["kind"] == WAIT_PTE)
        & (waits["address"] >= section["base"])
        & (waits["address"] < end)
    ]
    assert mine.size > 5
    for names in stacks_of(crowd, STACK_OF_WAIT, mine["start_ns"], "kernel_stack"):
        assert has_in_order(names, "migration_entry_wait", "do_swap_page", "exc_page_fault"), names
    frames = crowd.recording.table("stacks")
    unknown = set(frames["unknown"][frames["tgid"] == section["pid"]].tolist())
    found = stacks_of(crowd, STACK_OF_WAIT, mine["start_ns"], "user_stack")
    assert {names[0] for names in found} == {"run"}, unknown
    of_toucher = frames[(frames["tgid"] == section["pid"]) & (frames["symbol"] == b"run")]
    assert {path.rpartition(b"/")[2] for path in of_toucher["module"].tolist()} == {b"touch"}
