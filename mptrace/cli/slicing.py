# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording by slices, for commands that go through it without having it in memory."""

from typing import TYPE_CHECKING

from mptrace.outcomes.implied import with_implied
from mptrace.outcomes.locations import asked_of
from mptrace.recording.detail import LEVEL_OUTCOMES
from mptrace.recording.layouts import TABLES
from mptrace.recording.slices import FIRST_ROWS, LARGE, SLICE_ROWS, InMemory, Slices

if TYPE_CHECKING:
    from mptrace.recording.reader import Recording
    from mptrace.recording.rotated import Joined


def sliced(
    data: "Recording | Joined", *, rows: int = SLICE_ROWS, first: int = FIRST_ROWS
) -> Slices:
    """The slices of a recording; of one at the level `outcomes` all of it is in memory.

    :param rows: of a slice, more or less; ``first``: of the first one.
    :raises RecordingError: a part is damaged; so does going through them.
    """
    if data.meta.detail == LEVEL_OUTCOMES:
        tables = with_implied(data.tables(), data.meta)
        small = {name: rows for name, rows in tables.items() if name not in LARGE}
        whole = {name: [InMemory(tables[name])] for name in LARGE}
        return Slices(small, whole, asked_of(small), rows=rows, first=first)
    small = {name: data.table(name) for name in TABLES if name not in LARGE}
    large = {name: data.sources(name) for name in LARGE}
    return Slices(small, large, asked_of(small), rows=rows, first=first)
