# SPDX-License-Identifier: GPL-2.0-or-later
"""Ids are names: what is said of a recording does not depend on how large they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mptrace.arrays import Table, Tables
from mptrace.explain.entries import Explainer
from mptrace.recording.meta import Meta
from mptrace.recording.rotated import open_recording
from mptrace.reporting.numbers.profile import profile

RECORDING = Path(__file__).parent.parent / "fixtures" / "conform-6.12" / "recording"
#: Columns with ids of calls and migrations, 0 is none.
IDS = ("call_id", "migration_id", "holder_id")


def renamed(rows: Table, base: int) -> Table:
    """The rows with every id larger by ``base``."""
    found = rows.copy()
    for name in set(IDS) & set(rows.dtype.names or ()):
        found[name][rows[name] != 0] += np.uint64(base)
    return found


def explained(tables: Tables, meta: Meta) -> list[dict[str, Any]]:
    """Every entry explained, without the ids themselves."""
    one = Explainer(tables, meta)
    every = np.arange(one.count)
    each = [entry.as_dict() for entry in one.each(every)]
    for entry in each:
        del entry["call_id"]
    return each


@pytest.mark.parametrize("base", [160_000_000_000_000, 1 << 63])
def test_the_size_of_ids_changes_nothing(base: int) -> None:
    """Report and explanations; float64 has no room for neighbouring ids above 2**53."""
    recording, _ = open_recording(RECORDING)
    tables, meta = recording.tables(), recording.meta
    large = {name: renamed(rows, base) for name, rows in tables.items()}
    assert profile(large, meta) == profile(tables, meta)
    assert explained(large, meta) == explained(tables, meta)
