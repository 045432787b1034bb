# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a recording from its directory."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mptrace.arrays import Table, Words
from mptrace.errors import RecordingError
from mptrace.recording.directory import FORMAT_VERSION, META, PART, explained, read_hint
from mptrace.recording.layouts import (
    NOT_COUNTED,
    PADDING,
    SYSCALL_UNKNOWN,
    TABLES,
    field_names,
    stored_fields,
)
from mptrace.recording.meta import Meta
from mptrace.recording.shapes import MetaError, check, parse
from mptrace.units import many

#: Columns that came with version 3, and what they are in a recording of version 2.
_NEW_COLUMNS: dict[str, dict[str, int]] = {
    "calls": {"target_tgid": 0},
    "folios": {"n_maps": 0, "owner_tgid": 0},
    "migrations": {
        "cgroup_id": 0,
        "flags": 0,
        "syscall": SYSCALL_UNKNOWN,
        "succeeded": NOT_COUNTED,
        "failed": NOT_COUNTED,
    },
}
_READABLE = (2, FORMAT_VERSION)
#: Missing parts of a table that are named one by one.
_MOST_NAMED = 100
_AT_ONCE = 4096
# More than any part has: an append of one ring's drain at once is far below.
_MOST_ROWS = 1 << 32


class Recording:
    """A recording, read back.

    ``meta`` is what ``meta.json`` says, ``path`` the directory,
    ``missing_parts`` the names of parts that the numbering shows to be gone.
    """

    def __init__(self, path: Path, meta: Meta, parts: dict[str, dict[int, str]]) -> None:
        self.path = path
        self.meta = meta
        self._parts = parts
        self._tables: dict[str, Table] = {}
        self.missing_parts = tuple(self._gaps())

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Recording":
        """Open a recording for reading.

        :raises RecordingError: there is none at ``path``, its version is not
            ours, or its ``meta.json`` is damaged.
        """
        where = Path(path)
        with explained(where, "read"):
            names = os.listdir(where)
        if META not in names:
            raise RecordingError(
                f"'{where}' is not a recording: it has no {META}",
                "give the directory that `mptrace run -o` wrote",
            )
        meta = _read_meta(where)
        version = meta.get("format_version")
        if version not in _READABLE:
            raise RecordingError(
                f"'{where}' has format version {version!r}; this mptrace reads "
                + " and ".join(map(str, _READABLE)),
                f"read it with the mptrace that wrote it ({meta.get('tool_version', 'unknown')})",
            )
        parts: dict[str, dict[int, str]] = {table: {} for table in TABLES}
        for name in sorted(names):
            match = PART.fullmatch(name)
            if match and match["table"] in parts:
                parts[match["table"]][int(match["number"])] = name
        return cls(where, Meta.of(meta), parts)

    @property
    def complete(self) -> bool:
        """Whether the session ended in order and wrote everything."""
        return self.meta.complete

    def table(self, name: str) -> Table:
        """All rows of a table, shape (n,), dtype ``layouts.TABLES[name]``, padding zero.

        :raises RecordingError: a part is damaged.
        """
        if name not in self._tables:
            paths = [self.path / part for _, part in sorted(self._parts[name].items())]
            files = [_open_part(path, name) for path in paths]
            rows = _room_for(paths, files, TABLES[name])
            start = 0
            old = self.meta.format_version != FORMAT_VERSION
            for path, file in zip(paths, files, strict=True):
                stop = start + file.metadata.num_rows
                _read_part(path, file, name, rows[start:stop], old=old)
                start = stop
            self._tables[name] = rows
        return self._tables[name]

    def tables(self) -> dict[str, Table]:
        """Every table by name."""
        return {name: self.table(name) for name in TABLES}

    def sources(self, name: str) -> "list[PartSource]":
        """The parts of a table in the order of its rows, to be read one by one.

        :raises RecordingError: a part is damaged; so does reading it.
        """
        old = self.meta.format_version != FORMAT_VERSION
        paths = [self.path / part for _, part in sorted(self._parts[name].items())]
        return [PartSource(path, name, old=old) for path in paths]

    def _gaps(self) -> list[str]:
        gone = []
        for table, parts in self._parts.items():
            count = max(max(parts, default=-1) + 1, self.meta.parts.get(table, 0)) - len(parts)
            absent = (number for number in itertools.count() if number not in parts)
            named = itertools.islice(absent, min(count, _MOST_NAMED))
            gone += [f"{table}-{number:06d}.parquet" for number in named]
            if count > _MOST_NAMED:
                gone.append(f"{count - _MOST_NAMED} more of {table}")
        return gone


class PartSource:
    """One part of a table: a `slices.Source`.  It is open only while it is read."""

    def __init__(self, path: Path, table: str, *, old: bool) -> None:
        self._path, self._table, self._old = path, table, old
        file = _open_part(path, table)
        self._metadata = file.metadata
        with _undamaged(path):
            _wanted(file, table, old=old)
        file.close()
        self.count = _count(path, self._metadata)

    def read(self) -> Table:
        """All rows, dtype ``layouts.TABLES[table]``, padding zero."""
        rows = np.zeros(self.count, TABLES[self._table])
        file = _open_part(self._path, self._table)
        _read_part(self._path, file, self._table, rows, old=self._old)
        return rows

    def columns(self, *names: str) -> list[Words]:
        """Some columns, uint64."""
        file = _open_part(self._path, self._table)
        with _undamaged(self._path):
            content = file.read(columns=list(names), use_threads=False)
            kinds = TABLES[self._table]
            found = [_numbers(content.column(name), name, kinds[name]) for name in names]
            return [values.astype(np.uint64) for values in found]

    def ends(self, name: str) -> tuple[int, int] | None:
        """Least and greatest value of a column, None where the part does not say."""
        found: list[int] = []
        for number in range(self._metadata.num_row_groups):
            group = self._metadata.row_group(number)
            columns = [group.column(place) for place in range(group.num_columns)]
            known = [each.statistics for each in columns if each.path_in_schema == name]
            if not known or known[0] is None or not known[0].has_min_max:
                return None
            found += [int(known[0].min), int(known[0].max)]
        return (min(found), max(found)) if found else None


def _read_meta(where: Path) -> dict[str, Any]:
    path = where / META
    with explained(path, "read"):
        content = path.read_bytes()
    try:
        meta = parse(content)
        if meta.get("format_version") in _READABLE:
            check(meta)
        return meta
    except MetaError as error:
        raise RecordingError(
            f"can't read '{path}': {error}",
            "the file is damaged and the recording can't be read without it",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _open_part(path: Path, table: str) -> pq.ParquetFile:
    layout = TABLES[table]
    texts = [name for name in field_names(layout) if layout[name].kind == "S"]
    with _undamaged(path):
        if not path.is_file():
            raise ValueError("it is not a file")
        # coded as they lie there: Arrow's own coding would load all of pyarrow.compute
        return pq.ParquetFile(path, memory_map=True, read_dictionary=texts)


def _room_for(paths: list[Path], files: list[pq.ParquetFile], layout: np.dtype[Any]) -> Table:
    """Zeros for the rows of all parts; a part that claims more rows than can be is damaged."""
    rows = sum(_count(path, file.metadata) for path, file in zip(paths, files, strict=True))
    try:
        return np.zeros(rows, layout)
    except MemoryError as error:
        raise RecordingError(
            f"there is not enough memory for {many(rows, 'row')} of {many(len(paths), 'part')}, "
            f"the first of which is '{paths[0]}'",
            "read it on a larger machine, or move parts out of the recording",
        ) from error


def _count(path: Path, metadata: pq.FileMetaData) -> int:
    with _undamaged(path):
        count = int(metadata.num_rows)
        if not 0 <= count <= _MOST_ROWS:
            raise ValueError(f"it says that it has {many(count, 'row')}")
        return count


def _read_part(path: Path, file: pq.ParquetFile, table: str, rows: Table, *, old: bool) -> None:
    with _undamaged(path):
        defaults = _NEW_COLUMNS.get(table, {}) if old else {}
        content = file.read(columns=_wanted(file, table, old=old), use_threads=False)
        for name, value in defaults.items():
            rows[name] = value
        if content.num_rows != rows.size:
            raise ValueError(f"it has {many(content.num_rows, 'row')}, not {rows.size}")
        _fill(rows, content, without=(*PADDING, *defaults))


def _wanted(file: pq.ParquetFile, table: str, *, old: bool) -> list[str]:
    """Columns that are read of a part."""
    defaults = _NEW_COLUMNS.get(table, {}) if old else {}
    wanted = [name for name in stored_fields(table) if name not in defaults]
    names = file.schema_arrow.names
    for name in wanted:
        if name not in names:
            raise ValueError(f"it has no column {name!r}")
    return wanted


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise RecordingError(
            f"can't read '{path}': Permission denied", read_hint(path.parent)
        ) from error
    except (OSError, ValueError, KeyError, MemoryError, pa.ArrowException) as error:
        raise RecordingError(
            f"can't read '{path}': {_first_line(error)}",
            "the file is damaged; move it out of the recording to read the rest "
            "(entries that need it become unknown)",
        ) from error


def _fill(rows: Table, content: pa.Table, *, without: tuple[str, ...]) -> None:
    # Into structured rows that are there already.
    numbers = {}
    for name in field_names(rows.dtype):
        if name in without:
            continue
        kind = rows.dtype[name]
        column = content.column(name)
        if kind.kind == "S":
            _check_nulls(column, name)
            is_coded = pa.types.is_dictionary(column.type)
            plain = column.type.value_type if is_coded else column.type
            if not is_coded or not pa.types.is_string(plain):
                raise ValueError(f"column {name!r} has type {plain}, not string")
            start = 0
            for coded in column.chunks:
                # each row group has a dictionary of its own
                texts = [str(text).encode() for text in coded.dictionary.to_pylist()]
                if len(coded):
                    values = np.array(texts, kind)[coded.indices.to_numpy()]
                    rows[name][start : start + len(coded)] = values
                start += len(coded)
        else:
            numbers[name] = _numbers(column, name, kind)
    # so many rows at a time that they stay in the cache while column by column is filled in
    for start in range(0, rows.size, _AT_ONCE):
        here = slice(start, start + _AT_ONCE)
        for name, values in numbers.items():
            rows[name][here] = values[here]


def _numbers(column: pa.ChunkedArray, name: str, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    _check_nulls(column, name)
    values: npt.NDArray[Any] = column.to_numpy()
    if values.dtype != kind:
        raise ValueError(f"column {name!r} has type {values.dtype}, not {kind}")
    return values


def _check_nulls(column: pa.ChunkedArray, name: str) -> None:
    if column.null_count:
        raise ValueError(f"column {name!r} has {column.null_count} nulls")
