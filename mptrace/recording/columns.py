# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of a table as columns, and how Parquet stores each of them.  Pure.

What it costs to store a folio is what a session's recorder costs, so that each choice was
measured (bench/migration_cost.py): columns that say that they have no nulls need no levels,
bytes of one place laid together compress as well as a dictionary does and quicker, and arrays
that are filled again and again need no new memory.
"""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mptrace.arrays import Table
from mptrace.recording.joins import run_starts
from mptrace.recording.layouts import TABLES, stored_fields

#: Rows of a row group: its columns are small enough to come from the heap (host/heap.py).
GROUP_ROWS = 1 << 14
_FIRST_ROWS = 256
#: Of 8 bytes, and the same or few values for many rows: compression alone makes them small.
_REPEATED = ("call_id", "migration_id", "holder_id", "cgroup_id")
#: Of 4 bytes, and counting up.
_COUNTING = ("entry", "lookup_seq")
#: Columns with statistics: a reader may leave out row groups by them.
_CHOSEN_BY = ("call_id", "migration_id", "start_ns", "end_ns", "enter_ns", "exit_ns")


class Columns:
    """Rows of one table, in arrays that grow and are filled again once they were written."""

    def __init__(self, table: str) -> None:
        self._layout = {name: TABLES[table][name] for name in stored_fields(table)}
        self.schema = pa.schema(
            pa.field(name, _stored(kind), nullable=False) for name, kind in self._layout.items()
        )
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        #: Rows that are there.
        self.rows = 0
        self._room = 0
        self.free()

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """How `pyarrow.parquet.ParquetWriter` is to store them."""
        return _parquet_options(self.schema)

    def append(self, rows: Table) -> None:
        """Copy rows with the fields of the table's layout behind those that are there."""
        start, stop = self.rows, self.rows + rows.size
        if stop > self._room:
            self._grow(max(stop, 2 * self._room, _FIRST_ROWS))
        for name, values in self._arrays.items():
            values[start:stop] = rows[name]
        self.rows = stop

    def take(self) -> pa.Table:
        """All rows, of `schema`, in memory that the next `append` overwrites."""
        count, self.rows = self.rows, 0
        arrays = []
        for array in self._arrays.values():
            values = array[:count]
            arrays.append(_texts(values) if values.dtype.kind == "S" else pa.array(values))
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def free(self) -> None:
        """Give the memory back; what was there is gone."""
        self.rows = self._room = 0
        self._arrays = {name: np.empty(0, kind) for name, kind in self._layout.items()}

    def _grow(self, room: int) -> None:
        for name, before in self._arrays.items():
            larger = np.empty(room, before.dtype)
            larger[: self.rows] = before[: self.rows]
            self._arrays[name] = larger
        self._room = room


def _parquet_options(schema: pa.Schema) -> dict[str, Any]:
    texts = [each.name for each in schema if pa.types.is_string(each.type)]
    return {
        "compression": "lz4",
        "use_dictionary": texts,
        "column_encoding": {each.name: _coding(each) for each in schema if each.name not in texts},
        "write_statistics": [name for name in _CHOSEN_BY if name in schema.names],
        "write_batch_size": GROUP_ROWS,
    }


def _coding(column: pa.Field) -> str:
    """How compression finds what its values have in common."""
    if column.name in _COUNTING:
        return "DELTA_BINARY_PACKED"
    if column.type.bit_width == 64 and column.name not in _REPEATED:
        # times, durations and addresses differ in their low bytes: those of a place go together
        return "BYTE_STREAM_SPLIT"
    return "PLAIN"


def _stored(kind: np.dtype[Any]) -> pa.DataType:
    return pa.string() if kind.kind == "S" else pa.from_numpy_dtype(kind)


def _texts(values: npt.NDArray[np.bytes_]) -> pa.Array:
    """Few distinct names, many rows, mostly in a row: each name is decoded once."""
    starts = run_starts(values)
    # With its index np.unique sorts stably: see joins.ranks().
    distinct, _, place = np.unique(values[starts], return_index=True, return_inverse=True)
    texts = np.array([bytes(value).decode("utf-8", "replace") for value in distinct], object)
    lengths = np.diff(starts, append=values.size)
    # Arrow's own take() would load all of pyarrow.compute
    return pa.array(np.repeat(texts[place], lengths), pa.string())
