# SPDX-License-Identifier: GPL-2.0-or-later
"""Helpers of the alignment that the rest of the correlator stands on."""

import ast
from pathlib import Path

import numpy as np
import pytest

import mptrace
from mptrace.recording.joins import any_near, pair_ids, ranks, rows_of_calls


def test_no_sort_depends_on_emulated_avx2() -> None:
    """Index sorts are stable: the other kind is wrong in the lab's guests (joins.ranks)."""
    package = Path(mptrace.__file__).parent
    for path in package.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            keywords = {keyword.arg for keyword in call.keywords}
            if call.func.attr == "argsort":
                assert "kind" in keywords, f"{path}:{call.lineno}"
            if call.func.attr == "unique":
                assert "return_inverse" not in keywords or "return_index" in keywords, (
                    f"{path}:{call.lineno}"
                )


@pytest.mark.parametrize("size", [0, 1, 2, 509])
def test_ranks_are_those_of_unique(size: int) -> None:
    """Distinct values in order and the place of each."""
    values = np.random.default_rng(size).integers(-9, 99, size)
    distinct, places = ranks(values)
    expected, inverse = np.unique(values, return_index=False, return_inverse=True)
    assert distinct.tolist() == expected.tolist()
    assert places.tolist() == inverse.tolist()


def test_pair_ids_number_pairs_in_order() -> None:
    """Equal pairs have equal numbers; the order of pairs is the order of numbers."""
    first = np.array([1, 0, 1, 0, 1])
    second = np.array([5, 9, 5, 2, 7], np.uint64)
    assert pair_ids(first, second).tolist() == [2, 1, 2, 0, 3]
    assert pair_ids(first[:0], second[:0]).size == 0


@pytest.mark.parametrize("base", [160_000_000_000_000, 1 << 63, (1 << 64) - 8])
def test_pair_ids_tell_real_ids_apart(base: int) -> None:
    """Neighbouring ids of a session, and pointers above 2**63, on either side."""
    ids = np.array([base, base + 1, base + 2, base + 3, base], np.uint64)
    seq = np.array([3, 2, 1, 0, 3], np.uint32)
    assert pair_ids(ids, seq).tolist() == [0, 1, 2, 3, 0]
    assert pair_ids(ids, ids).tolist() == [0, 1, 2, 3, 0]
    assert pair_ids(seq.astype(np.int64), ids).tolist() == [3, 2, 1, 0, 3]


def test_rows_of_calls() -> None:
    """The rows of the calls asked for, in that order, empty calls too."""
    start = np.array([0, 2, 2, 5])
    assert rows_of_calls(start, np.array([2, 1, 0])).tolist() == [2, 3, 4, 0, 1]


def test_any_near_looks_in_the_same_call_only() -> None:
    """Within reach on either side; another call's pages count for nothing."""
    near = any_near(
        np.array([0, 0, 1]),
        np.array([10, 50, 20]),
        np.array([0, 0, 0, 1, 2]),
        np.array([12, 13, 20, 18, 10]),
        np.array([2, 2, 2, 2, 9]),
    )
    assert near.tolist() == [True, False, False, True, False]
