# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes a recording: a directory of Parquet parts, filled as it goes.

``meta.json`` is there from the start (``"complete": false``) and the tables of
:data:`mptrace.recording.layouts.TABLES` follow as numbered parts ``TABLE-NNNNNN.parquet``,
each written under a ``.tmp`` name and renamed when it is whole: whatever
happens to the writer, what lies in the directory can be read.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mptrace.arrays import Table
from mptrace.errors import RecordingError
from mptrace.recording.columns import GROUP_ROWS, Columns
from mptrace.recording.directory import (
    FORMAT_VERSION,
    META,
    NEW_FILE,
    create_directory,
    explained,
    give,
    sudo_owner,
)
from mptrace.recording.layouts import TABLES, field_names

#: A part is closed when it has this many rows or when its first row is this old.
PART_ROWS = 1 << 18
PART_SECONDS = 1.0


class RecordingWriter:
    """Creates a recording and appends to its tables.

    :param path: the directory to create; its parent must exist.
    :param force: replace ``path`` if, and only if, it is a recording.
    :param meta: what is known at the start (keys: docs/architecture.md).  The
        writer adds ``format_version`` and ``complete``.
    :param owner: uid and gid of the files; by default SUDO_UID and SUDO_GID
        when running as root under sudo, otherwise the running user.
    :raises RecordingError: ``path`` exists, its parent can't be written, the
        disk is full.

    Not safe for several threads at once.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        force: bool = False,
        meta: Mapping[str, Any],
        owner: tuple[int, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = Path(path)
        self.meta: dict[str, Any] = {
            **meta,
            "format_version": FORMAT_VERSION,
            "complete": False,
        }
        self._owner = sudo_owner() if owner is None else owner
        self._clock = clock
        # filled again and again, as a session of months must not tear its heap to pieces
        self._columns = {name: Columns(name) for name in TABLES}
        self._since = dict.fromkeys(TABLES, 0.0)
        self._parts = dict.fromkeys(TABLES, 0)
        #: Bytes written so far.
        self.bytes = 0
        #: Rows written or buffered so far, per table.
        self.rows = dict.fromkeys(TABLES, 0)
        self._fd = -1
        self._fd = create_directory(self.path, force, self._owner)
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            self._write_meta()
        except RecordingError:
            # a directory without its meta.json is no recording, and would not be replaced
            self.close()
            with suppress(OSError):
                os.rmdir(self.path)
            raise

    def append(self, table: str, rows: Table) -> None:
        """Append structured rows with the layout of ``layouts.TABLES[table]``.

        The rows are copied: the caller's memory (a ring buffer) may change
        afterwards.  Parts that are full or a second old are written.
        """
        if field_names(rows.dtype) != field_names(TABLES[table]):
            raise ValueError(f"rows of {table!r} have fields {rows.dtype.names}")
        if rows.size:
            if not self._columns[table].rows:
                self._since[table] = self._clock()
            self._columns[table].append(rows)
            self.rows[table] += rows.size
        self.tick()

    def tick(self) -> None:
        """Write the parts that are due; for a session that has nothing to append."""
        now = self._clock()
        for table, columns in self._columns.items():
            count = columns.rows
            if count >= PART_ROWS or (count and now - self._since[table] >= PART_SECONDS):
                self._write_part(table)

    def flush(self) -> None:
        """Write everything that is buffered."""
        for table, columns in self._columns.items():
            if columns.rows:
                self._write_part(table)

    def update_meta(self, **changes: Any) -> None:
        """Replace keys of ``meta.json``, atomically."""
        self.meta.update(changes)
        self._write_meta()

    def finish(self, meta: Mapping[str, Any] | None = None) -> None:
        """Flush, mark the recording as complete and close it.

        :param meta: last changes of ``meta.json``; may say ``"complete": False``
            of a session that ended out of order.
        """
        self.flush()
        parts = {name: count for name, count in self._parts.items() if count}
        self.update_meta(**{"complete": True, **(meta or {}), "parts": parts})
        with explained(self.path, "write"):
            os.fsync(self._fd)
        self.close()

    def close(self) -> None:
        """Close without completing; does nothing when closed already."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "RecordingWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write_part(self, table: str) -> None:
        columns = self._columns[table]
        is_large = columns.rows > PART_ROWS
        # The rows are forgotten first: a full disk must not be met again by the next append.
        rows = columns.take()
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, columns.schema, **columns.options) as writer:
            writer.write_table(rows, row_group_size=GROUP_ROWS)
        if is_large:
            columns.free()
        self._write_file(f"{table}-{self._parts[table]:06d}.parquet", sink.getvalue())
        self._parts[table] += 1

    def _write_meta(self) -> None:
        text = json.dumps(self.meta, indent=1, default=_plain) + "\n"
        self._write_file(META, text.encode())

    def _write_file(self, name: str, content: Any) -> None:
        temporary = f"{name}.tmp"
        with explained(self.path / name, "write"):
            try:
                fd = os.open(temporary, NEW_FILE, 0o600, dir_fd=self._fd)
            except FileExistsError:
                os.unlink(temporary, dir_fd=self._fd)
                fd = os.open(temporary, NEW_FILE, 0o600, dir_fd=self._fd)
            try:
                os.fchmod(fd, 0o600)
                give(fd, self._owner)
                view = memoryview(content)
                while view:
                    view = view[os.write(fd, view) :]
            except OSError:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=self._fd)
                raise
            finally:
                os.close(fd)
            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        self.bytes += len(content)


def _plain(value: Any) -> Any:
    """What json can't write by itself: numpy's scalars and arrays, paths, sets."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} can't be stored in {META}")
