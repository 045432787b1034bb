# SPDX-License-Identifier: GPL-2.0-or-later
"""What was drained becomes the tables of a recording, whoever drained it."""

import numpy as np
from test_pump import PlayedTracer

from mptrace.recording.layouts import FOLIO, MAPPER, OBSTACLE, TABLES
from mptrace.sessions.assembler import Assembler, Tables, joined


def added(*calls: tuple[int, int]) -> tuple[Tables, Tables]:
    """The tables of calls, each (number, when it ended or 0), and what is left of them then."""
    tracer, assembler = PlayedTracer(), Assembler()
    parts = []
    for call_id, exit_ns in calls:
        tracer.put_call(call_id, 1, exit_ns)
        parts.append(assembler.add(tracer.drain()))
    return joined(parts), joined([assembler.rest(tracer)])  # type: ignore[arg-type]


def test_the_arrays_of_a_call_come_with_its_end() -> None:
    """Those of one that has not ended at the very end."""
    tables, rest = added((1, 0), (2, 7), (1, 7), (3, 0))
    assert tables["calls"]["call_id"].tolist() == [2, 1]
    assert tables["entries"]["call_id"].tolist() == [2, 2, 2, 1, 1, 1]
    assert rest["entries"]["call_id"].tolist() == [3, 3, 3]


def test_what_has_no_end_is_given_once() -> None:
    """Its addresses are to be named like those of what has ended."""
    tracer, assembler = PlayedTracer(), Assembler()
    tracer.put(1)
    drained = tracer.drain()
    drained.obstacles["a_ops"] = 0x1000
    left = np.zeros(1, OBSTACLE)
    left["migrate_op"] = 0x2000
    tracer.open_obstacles = lambda: left  # type: ignore[method-assign]
    assembler.add(drained)
    rest = assembler.rest(tracer)  # type: ignore[arg-type]
    assert rest["obstacles"] is left
    assert assembler.addresses == {0, 0x1000, 0x2000}
    assert not joined([assembler.rest(tracer)])["entries"].size  # type: ignore[arg-type]


def test_joined_tables_are_all_there() -> None:
    """In the order of their parts, each of the layout of a recording."""
    folios, mappers = np.zeros(3, FOLIO), np.zeros(1, MAPPER)
    folios["src"] = range(3)
    tables = joined([{"folios": folios[:2]}, {"mappers": mappers}, {"folios": folios[2:]}])
    assert {name: rows.dtype for name, rows in tables.items()} == dict(TABLES)
    assert tables["folios"]["src"].tolist() == [0, 1, 2]
    assert {name for name, rows in tables.items() if rows.size} == {"folios", "mappers"}
