# SPDX-License-Identifier: GPL-2.0-or-later
"""The entries of a workload, their calls and their targets."""

import numpy as np
import pytest

from mptrace.driving import patterns
from mptrace.driving.patterns import NAMES_HOLE, NAMES_PAGE, NAMES_UNMAPPED
from mptrace.driving.workloads import HOLE, UNMAPPED, Workload

PAGES = 509


def _pages(entries: patterns.NamedEntries) -> np.ndarray:
    return entries.index[entries.what == NAMES_PAGE]


@pytest.mark.parametrize("pattern", ["sequential", "random", "strided"])
def test_every_order_names_each_page_once(pattern: str) -> None:
    """A pattern is a permutation of the pages."""
    entries = patterns.entries(Workload(pattern=pattern), PAGES)
    assert sorted(entries.index) == list(range(PAGES))
    assert not entries.what.any()


def test_strided_goes_through_the_pages_in_strides() -> None:
    """0, 16, 32, ..., then 1, 17, ...: the last lap starts at 15."""
    order = patterns.entries(Workload(pattern="strided", stride=16), PAGES).index
    assert order[:3].tolist() == [0, 16, 32]
    assert order[32:34].tolist() == [1, 17]
    assert np.count_nonzero(np.diff(order) != 16) == 15


def test_the_seed_decides_what_is_random() -> None:
    """The same seed gives the same entries, another one others."""
    options = {"pattern": "random", "duplicates": 0.1, "holes": 0.1, "bad": 3}
    first, again = (patterns.entries(Workload(seed=7, **options), PAGES) for _ in range(2))
    other = patterns.entries(Workload(seed=8, **options), PAGES)
    assert (first.index == again.index).all()
    assert (first.what == again.what).all()
    assert (first.index != other.index).any()


def test_extras_are_added_in_exact_numbers() -> None:
    """Duplicates repeat pages; holes and unmapped addresses are each another one."""
    entries = patterns.entries(Workload(duplicates=0.1, holes=0.05, bad=3), PAGES)
    assert len(entries) == PAGES + 51 + 25 + 3
    pages = _pages(entries)
    assert pages.size == PAGES + 51
    assert set(pages) == set(range(PAGES))
    assert sorted(entries.index[entries.what == NAMES_HOLE]) == list(range(25))
    assert sorted(entries.index[entries.what == NAMES_UNMAPPED]) == [0, 1, 2]
    assert (entries.count(NAMES_HOLE), entries.count(NAMES_UNMAPPED)) == (25, 3)


def test_the_pages_keep_their_order_among_the_extras() -> None:
    """Holes lie between the pages without reordering them."""
    pages = _pages(patterns.entries(Workload(holes=0.5, bad=23), PAGES))
    assert pages.tolist() == list(range(PAGES))


def test_explicit_entries_stand_as_they_are_given() -> None:
    """Holes and unmapped addresses are numbered in order; pages may repeat."""
    entries = patterns.explicit_entries([5, UNMAPPED, 5, HOLE, UNMAPPED, 0])
    assert entries.what.tolist() == [0, NAMES_UNMAPPED, 0, NAMES_HOLE, NAMES_UNMAPPED, 0]
    assert entries.index.tolist() == [5, 0, 5, 0, 1, 0]


@pytest.mark.parametrize("pages_per_folio", [1, 512])
def test_pins_choose_one_page_of_different_folios(pages_per_folio: int) -> None:
    """The fraction is of the folios; the same seed pins the same pages."""
    pins = patterns.pinned(Workload(pin=0.25), 92, pages_per_folio)
    assert pins.size == 23
    assert np.unique(pins // pages_per_folio).size == 23
    assert (pins == patterns.pinned(Workload(pin=0.25), 92, pages_per_folio)).all()
    assert (np.diff(pins) > 0).all()


@pytest.mark.parametrize("count", [1, 2, 3, 23, 509])
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("per_call", [0, 1, 100, 1000])
def test_calls_cover_every_entry_once_and_in_order(count: int, threads: int, per_call: int) -> None:
    """Threads have shares that differ by one entry at most; no call is empty or too long."""
    bounds = patterns.call_bounds(count, threads, per_call)
    lengths = bounds[:, 2] - bounds[:, 1]
    assert bounds[0, 1] == 0
    assert bounds[-1, 2] == count
    assert (bounds[1:, 1] == bounds[:-1, 2]).all()
    assert lengths.min() >= 1
    assert not per_call or lengths.max() <= per_call
    shares = np.bincount(bounds[:, 0], weights=lengths, minlength=threads)
    assert shares.max() - shares.min() <= 1


def test_targets_alternate_from_the_start_of_each_call() -> None:
    """Entry by entry, in turn."""
    bounds = patterns.call_bounds(7, 1, 4)
    assert patterns.target_nids(bounds, (1, 2), True).tolist() == [1, 2, 1, 2, 1, 2, 1]


def test_targets_without_alternating_are_one_run_each_per_call() -> None:
    """Each call has one run of entries per node."""
    bounds = patterns.call_bounds(10, 1, 6)
    assert patterns.target_nids(bounds, (3, 5, 7), False).tolist() == [3, 3, 5, 5, 7, 7, 3, 3, 5, 7]
