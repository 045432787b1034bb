# SPDX-License-Identifier: GPL-2.0-or-later
"""Callers that may read an untouched status as a node."""

from typing import Any

import pytest
from simulated_kernel import PAGE, SENTINEL, Kernel

from mptrace.recording.layouts import READ_STATUS
from mptrace.recording.meta import Meta
from mptrace.report import render
from mptrace.reporting.numbers.profile import profile


def kernel_with_a_pinned_page(initial: int, generation: str = "6.12") -> Kernel:
    """A call for 23 pages whose seventh is pinned, with a filled array; and one that succeeds."""
    kernel = Kernel(generation, 2)
    for page in range(1, 24):
        kernel.folio(page, 0, trait="pinned" if page == 7 else "")
    kernel.move_pages([page * PAGE for page in range(1, 24)], [1] * 23, initial=initial, tid=501)
    kernel.move_pages([PAGE], [0], initial=initial, tid=502)
    return kernel


def misled(kernel: Kernel, tables: dict[str, Any] | None = None, **meta: Any) -> list[Any]:
    """Numbers of the callers that may be misled."""
    rows, known = tables or kernel.tables(), Meta.of({**kernel.meta(), **meta})
    found: list[Any] = profile(rows, known)["misled"]
    return found


def test_a_zero_filled_array_reads_as_node_0() -> None:
    """All 23 statuses are untouched: 22 pages moved to node 1, one stayed."""
    (caller,) = misled(kernel_with_a_pinned_page(0))
    assert (caller["tgid"], caller["comm"], caller["calls"]) == (501, "mover", 1)
    assert (caller["pages"], caller["stayed_pages"], caller["unknown_pages"]) == (23, 1, 0)
    assert caller["example"] == {
        "call": 0,
        "entry": 6,
        "address": hex(7 * PAGE),
        "ret": 1,
        "reads_as_node": 0,
        "outcome": "failed",
    }


@pytest.mark.parametrize("initial", [SENTINEL, -1, -14, 2])
def test_a_value_that_is_no_node_of_this_host_misleads_nobody(initial: int) -> None:
    """A sentinel, an errno, a node that this host does not have."""
    assert misled(kernel_with_a_pinned_page(initial)) == []


def test_a_call_that_returned_zero_is_counted_apart() -> None:
    """5.10 can return 0 with statuses untouched."""
    kernel = kernel_with_a_pinned_page(1)
    for row in kernel.rows["calls"]:
        row["ret"] = 0
    (caller,) = misled(kernel)
    assert (caller["calls_returned_zero"], caller["pages"]) == (1, 23)


def test_what_a_lost_migration_returned_is_unknown() -> None:
    """A call that returned 0 may have left its last group's statuses untouched, on 5.10."""
    kernel = Kernel("5.10", 2)
    for page in range(1, 24):
        kernel.folio(page, 0, trait="pinned" if page == 7 else "")
    call = kernel.move_pages([page * PAGE for page in range(1, 24)], [1] * 23, initial=0)
    assert call.ret == 0
    (caller,) = misled(kernel)
    assert (caller["pages"], caller["stayed_pages"], caller["unknown_pages"]) == (23, 1, 0)
    tables = kernel.tables()
    tables["migrations"] = tables["migrations"][:0]
    (caller,) = misled(kernel, tables, lost={"ring": 1})
    assert (caller["pages"], caller["unknown_pages"]) == (0, 23)


def test_a_call_that_failed_misleads_nobody() -> None:
    """An error is an error: who ignores it is not misled by a status."""
    kernel = Kernel("6.12", 2)
    kernel.folio(1, 0)
    kernel.move_pages([PAGE], [77], initial=0)
    assert kernel.rows["calls"][0]["ret"] < 0
    assert misled(kernel) == []


def test_what_could_not_be_read_is_unknown() -> None:
    """Neither before nor after: no claim; read after only: that is what the caller reads."""
    kernel = kernel_with_a_pinned_page(0)
    tables = kernel.tables()
    tables["entries"]["unread_before"] = READ_STATUS
    (caller,) = misled(kernel, tables)
    assert (caller["pages"], caller["unknown_pages"]) == (23, 0)
    tables["entries"]["unread"] |= READ_STATUS
    (caller,) = misled(kernel, tables)
    assert (caller["pages"], caller["unknown_pages"], caller["example"]) == (0, 23, None)


def test_without_nodes_nothing_is_claimed() -> None:
    """Which numbers are nodes of the host is not recorded."""
    (caller,) = misled(kernel_with_a_pinned_page(0), nodes=[])
    assert (caller["pages"], caller["unknown_pages"]) == (0, 23)


def test_the_report_says_so() -> None:
    """By caller, with an example; nothing where nobody is misled."""
    kernel = kernel_with_a_pinned_page(0)
    text = " ".join(render(profile(kernel.tables(), Meta.of(kernel.meta()))).split())
    assert (
        "misled? mover/501: 1 call returned a count and left 23 statuses untouched that read "
        "like a node; 1 of these pages did not move. E.g. 0x7000 (call 0, entry 6): reads as "
        "node 0, failed"
    ) in text
    fine = kernel_with_a_pinned_page(SENTINEL)
    assert "misled" not in render(profile(fine.tables(), Meta.of(fine.meta())))
    unread = kernel.tables()
    unread["entries"]["unread_before"] = unread["entries"]["unread"] = READ_STATUS
    text = " ".join(render(profile(unread, Meta.of(kernel.meta()))).split())
    assert "mover/501: unknown for 23 entries: what the status held before" in text
