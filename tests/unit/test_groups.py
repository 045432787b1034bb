# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls whose entries alternate between nodes: how many groups, and what they cost."""

from typing import Any

import numpy as np
import pytest
from simulated_kernel import PAGE, Kernel

from mptrace.recording.layouts import READ_NODES
from mptrace.recording.meta import Meta
from mptrace.report import render
from mptrace.reporting.numbers.profile import profile

FIRST = 0x100
COUNT = 1366


def kernel_with_pages(count: int = COUNT, generation: str = "6.12") -> Kernel:
    """All on node 0."""
    kernel = Kernel(generation, 4)
    for page in range(count):
        kernel.folio(FIRST + page, 0)
    return kernel


def addresses(count: int = COUNT) -> list[int]:
    """Of these pages."""
    return [(FIRST + page) * PAGE for page in range(count)]


def timed(tables: dict[str, Any], small: int, large: int) -> dict[str, Any]:
    """Each migration takes ``small`` or ``large`` ns per page of it: small ones have one page."""
    migrations, folios = tables["migrations"], tables["folios"]
    for row in migrations:
        pages = int(folios["nr_pages"][folios["migration_id"] == row["migration_id"]].sum())
        row["exit_ns"] = row["enter_ns"] + (small if pages == 1 else large * pages)
    return tables


def of(kernel: Kernel, tables: dict[str, Any] | None = None) -> list[Any]:
    """The numbers of the report."""
    found: list[Any] = profile(tables or kernel.tables(), Meta.of(kernel.meta()))["groups"]
    return found


def said(kernel: Kernel, tables: dict[str, Any] | None = None) -> str:
    """The section of the report in one line, or nothing."""
    text = render(profile(tables or kernel.tables(), Meta.of(kernel.meta())))
    sections = [part for part in text.split("\n\n") if part.startswith("groups ")]
    return " ".join("".join(sections).split())


@pytest.mark.parametrize("generation", ["6.1", "6.12"])
def test_targets_in_turn_make_groups_of_one_page(generation: str) -> None:
    """0, 1, 0, 1, ...: those for node 0 are there already, each other one is a group."""
    kernel = kernel_with_pages(generation=generation)
    kernel.move_pages(addresses(), [0, 1] * (COUNT // 2), tid=501)
    # back, and then sorted: one group of 683 pages, to compare with
    kernel.move_pages(addresses()[1::2], [0] * 683, tid=501)
    tables = timed(kernel.tables(), 40_000, 4_000)
    (row,) = of(kernel, tables)
    assert row == {
        "tgid": 501,
        "comm": "mover",
        "process": "mover",
        "calls": 1,
        "groups": 683,
        "pages": 683,
        "sorted_groups": 1,
        "ns_per_page": 40_000.0,
        "larger": {"groups": 1, "least_pages": 683, "pages": 683, "ns_per_page": 4_000.0},
        "unknown_calls": 0,
        "unknown_groups": 0,
    }
    assert said(kernel, tables) == (
        "groups mover/501: entries alternate between nodes: 683 groups of 1 page; sorted by node "
        "it would be 1. A page took 40 us there, 4 us in 1 larger group of 683 pages or more -> "
        "sort the entries by node: each change of it ends a group"
    )


def test_a_larger_group_of_mptraces_pages_is_no_measure() -> None:
    """Whoever moved them; what others' larger groups cost is compared with."""
    kernel = kernel_with_pages()
    kernel.move_pages(addresses(), [0, 1] * (COUNT // 2), tid=501)
    kernel.move_pages(addresses()[1::2], [0] * 683, tid=501)
    tables, meta = timed(kernel.tables(), 40_000, 4_000), {**kernel.meta(), "own": [6001]}
    (row,) = profile(tables, Meta.of(meta))["groups"]
    assert row["larger"]["groups"] == 1
    tables["calls"]["target_tgid"][1] = 6001
    (row,) = profile(tables, Meta.of(meta))["groups"]
    assert (row["groups"], row["larger"]) == (683, None)


def test_what_sorting_leaves() -> None:
    """Three targets make three groups; an entry that is not queued ends one also when sorted."""
    kernel = kernel_with_pages(24)
    kernel.pages[FIRST + 12] = None
    kernel.move_pages(addresses(24), [1, 2, 3] * 8)
    (row,) = of(kernel)
    # the absent page is the fifth to node 1: its group is in two
    assert (row["groups"], row["pages"], row["sorted_groups"]) == (23, 23, 4)
    assert "23 groups of 1 page; sorted by node it would be 4." in said(kernel)
    assert "no larger groups to compare with" in said(kernel)


def test_calls_are_added_up() -> None:
    """Of one caller; another one whose entries do not alternate is not there."""
    kernel = kernel_with_pages(60)
    for _ in range(3):
        kernel.move_pages(addresses(40), [1, 1, 2, 3] * 10, tid=501)
        kernel.move_pages(addresses(40), [0] * 40, tid=502)
    (row,) = of(kernel)
    assert (row["tgid"], row["calls"], row["groups"], row["pages"]) == (501, 3, 90, 120)
    assert row["sorted_groups"] == 9
    assert (
        "entries alternate between nodes in 3 calls: 90 groups of 1.3 pages on average; sorted by "
        "node it would be 9."
    ) in said(kernel)


@pytest.mark.parametrize(
    "targets",
    [[1] * 24, [1] * 12 + [2] * 12, [1, 2] * 3 + [1] * 18, [1, 1, 1, 2, 2, 2] * 4],
    ids=["one node", "sorted", "few groups", "few groups more"],
)
def test_what_is_not_worth_a_word(targets: list[int]) -> None:
    """One target, sorted ones, or too few groups, or..."""
    kernel = kernel_with_pages(24)
    kernel.move_pages(addresses(24), targets)
    expected = [(8, 2)] if targets == [1, 1, 1, 2, 2, 2] * 4 else []
    assert [(row["groups"], row["sorted_groups"]) for row in of(kernel)] == expected
    assert bool(said(kernel)) == bool(expected)


def test_groups_that_holes_end_are_no_matter_of_nodes() -> None:
    """Every other page is absent: as many groups, sorted or not."""
    kernel = kernel_with_pages(40)
    for page in range(0, 40, 2):
        kernel.pages[FIRST + page] = None
    kernel.move_pages(addresses(40), [1] * 40)
    assert kernel.tables()["calls"]["n_migrations"].tolist() == [20]
    assert of(kernel) == []


def test_without_the_arrays_it_is_unknown() -> None:
    """Of one entry the target was not read: how many groups there would be nobody can say."""
    kernel = kernel_with_pages(46)
    kernel.move_pages(addresses(46), [1, 2] * 23, tid=501)
    tables = kernel.tables()
    tables["entries"]["unread"][7] |= READ_NODES
    (row,) = of(kernel, tables)
    assert (row["groups"], row["unknown_calls"], row["unknown_groups"]) == (0, 1, 46)
    assert said(kernel, tables) == (
        "groups mover/501: whether entries alternate is unknown for 1 call of 46 groups: the "
        "arrays were not read whole, or records were lost"
    )
    tables = kernel.tables()
    tables["entries"] = tables["entries"][:0]
    assert of(kernel, tables)[0]["unknown_calls"] == 1


def test_events_and_arrays_must_agree() -> None:
    """With folios' records lost the arrays alone do not tell which entries were queued."""
    kernel = kernel_with_pages(46)
    kernel.move_pages(addresses(46), [1, 2] * 23)
    tables = kernel.tables()
    tables["folios"] = np.delete(tables["folios"], slice(10, 20))
    (row,) = of(kernel, tables)
    assert (row["groups"], row["unknown_groups"]) == (0, 46)
