# SPDX-License-Identifier: GPL-2.0-or-later
"""The steps from records to outcomes hand on columns that nobody edits afterwards."""

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
from simulated_kernel import PAGE, Kernel
from test_correlate import random_call, random_kernel

from mptrace.outcomes.correlate import FAILED, MOVED, UNKNOWN
from mptrace.outcomes.doubts import doubt
from mptrace.outcomes.replay import replay_loop
from mptrace.outcomes.shared_pages import share
from mptrace.outcomes.steps import CallRecords, EntryOutcomes
from mptrace.recording.meta import Meta


def locked(step: Any) -> Any:
    """A step's result, whose arrays can't be written to any more."""
    for field in fields(step):
        value = getattr(step, field.name)
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
        elif is_dataclass(value):
            locked(value)
    return step


@pytest.mark.parametrize("seed", range(40))
def test_a_step_writes_to_nothing_that_it_was_given(seed: int) -> None:
    """With all earlier columns read-only, and some records lost, each step does its work."""
    random = np.random.default_rng(20_000 + seed)
    kernel = random_kernel(random)
    for _ in range(4):
        random_call(kernel, random, 100)
    tables = kernel.tables()
    for name in ("folios", "migrations", "entries"):
        keep = random.random(tables[name].size) > (seed % 4) / 10
        tables[name] = tables[name][keep]
    for table in tables.values():
        table.flags.writeable = False
    records = locked(CallRecords.of(tables, Meta.of({**kernel.meta(), "lost": {"ring": 1}})))
    loop = locked(replay_loop(records))
    shared = locked(share(records, tables["folios"], loop.outcomes))
    settled = doubt(records, loop, shared)
    assert settled.outcomes.outcome.size == settled.written.size == records.entries.count


def test_each_step_adds_what_it_is_for() -> None:
    """The loop knows an entry by its own lookup, the next step by another's, doubts take away."""
    kernel = Kernel("6.1", 2)
    kernel.folio(1, 0)
    kernel.move_pages([PAGE, PAGE], [1, 1])
    tables = kernel.tables()
    records = CallRecords.of(tables, Meta.of(kernel.meta()))
    loop = replay_loop(records)
    assert loop.outcomes.outcome.tolist() == [MOVED, FAILED]
    shared = share(records, tables["folios"], loop.outcomes)
    assert shared.outcomes.outcome.tolist() == [MOVED, MOVED]
    assert shared.by_own_lookup.tolist() == [True, False]
    assert doubt(records, loop, shared).outcomes.outcome.tolist() == [MOVED, MOVED]
    unseen = {"coverage": [{"phase": "move", "state": "missing"}]}
    blind = CallRecords.of(tables, Meta.of({**kernel.meta(), **unseen}))
    assert doubt(blind, loop, shared).outcomes.outcome.tolist() == [UNKNOWN, UNKNOWN]


def test_changed_columns_are_new_ones() -> None:
    """Those of before stay as they were, and what is not named is handed on."""
    zeros = np.zeros(3, np.int64)
    before = EntryOutcomes(zeros.astype("u1"), zeros.astype("u2"), zeros.astype("u1"), zeros, zeros)
    after = before.changed(np.array([1]), outcome=MOVED, folio=7)
    assert (before.outcome.tolist(), before.folio.tolist()) == ([0, 0, 0], [0, 0, 0])
    assert (after.outcome.tolist(), after.folio.tolist()) == ([0, MOVED, 0], [0, 7, 0])
    assert after.end_nid is before.end_nid
    unknown = after.unknown(np.array([False, True, True]), 9)
    assert unknown.outcome.tolist() == [0, UNKNOWN, UNKNOWN]
    assert unknown.cause.tolist() == [0, 9, 9]
    assert unknown.folio.tolist() == [0, 7, 0]
