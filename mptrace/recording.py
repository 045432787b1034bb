# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording on disk: a directory of Parquet parts, written as it goes, read back.

``meta.json`` is there from the start (``"complete": false``) and the tables of
:data:`mptrace.records.TABLES` follow as numbered parts ``TABLE-NNNNNN.parquet``,
each written under a ``.tmp`` name and renamed when it is whole: whatever
happens to the writer, what lies in the directory can be read.

A recording is often written by root into a directory of somebody else.  Every
file is therefore opened relative to a directory descriptor, with O_EXCL and
O_NOFOLLOW, and nothing is removed that is not a recording's file.  A writer locks
its directory (flock): nobody removes or renames what is still being written.
"""

import errno
import fcntl
import itertools
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mptrace.errors import RecordingError
from mptrace.meta import MetaError, check, parse
from mptrace.records import NOT_COUNTED, PADDING, SYSCALL_UNKNOWN, TABLES
from mptrace.units import many

#: The version of the format that this module writes.
FORMAT_VERSION = 3
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
META = "meta.json"
#: A part is closed when it has this many rows or when its first row is this old.
PART_ROWS = 1 << 18
PART_SECONDS = 1.0
_FIRST_ROWS = 256
#: Missing parts of a table that are named one by one.
_MOST_NAMED = 100
# More than any part has: an append of one ring's drain at once is far below.
_MOST_ROWS = 1 << 32

Table = npt.NDArray[np.void]

_PART = re.compile(r"(?P<table>[a-z_]+)-(?P<number>\d{6,})\.parquet")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def stored_fields(table: str) -> tuple[str, ...]:
    """Names of the columns that a table has on disk: its fields without padding."""
    return tuple(name for name in _names(TABLES[table]) if name not in PADDING)


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
        self._owner = _sudo_owner() if owner is None else owner
        self._clock = clock
        # filled again and again, as a session of months must not tear its heap to pieces
        self._buffers: dict[str, Table] = {name: np.empty(0, TABLES[name]) for name in TABLES}
        self._rows = dict.fromkeys(TABLES, 0)
        self._since = dict.fromkeys(TABLES, 0.0)
        self._parts = dict.fromkeys(TABLES, 0)
        #: Bytes written so far.
        self.bytes = 0
        #: Rows written or buffered so far, per table.
        self.rows = dict.fromkeys(TABLES, 0)
        self._fd = -1
        self._fd = _create_directory(self.path, force, self._owner)
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
        """Append structured rows with the layout of ``records.TABLES[table]``.

        The rows are copied: the caller's memory (a ring buffer) may change
        afterwards.  Parts that are full or a second old are written.
        """
        if _names(rows.dtype) != _names(TABLES[table]):
            raise ValueError(f"rows of {table!r} have fields {rows.dtype.names}")
        if rows.size:
            if not self._rows[table]:
                self._since[table] = self._clock()
            start = self._rows[table]
            stop = start + rows.size
            self._room(table, stop)[start:stop] = rows
            self._rows[table] = stop
            self.rows[table] += rows.size
        self.tick()

    def tick(self) -> None:
        """Write the parts that are due; for a session that has nothing to append."""
        now = self._clock()
        for table, count in self._rows.items():
            if count >= PART_ROWS or (count and now - self._since[table] >= PART_SECONDS):
                self._write_part(table)

    def flush(self) -> None:
        """Write everything that is buffered."""
        for table, count in self._rows.items():
            if count:
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
        with _explained(self.path, "write"):
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

    def _room(self, table: str, count: int) -> Table:
        """The buffer of a table, made large enough for so many rows."""
        buffer = self._buffers[table]
        if count > len(buffer):
            larger = np.empty(max(count, 2 * len(buffer), _FIRST_ROWS), TABLES[table])
            larger[: self._rows[table]] = buffer[: self._rows[table]]
            self._buffers[table] = buffer = larger
        return buffer

    def _write_part(self, table: str) -> None:
        rows = self._buffers[table][: self._rows[table]]
        # Forget the rows first: a full disk must not be met again by the next append.
        self._rows[table] = 0
        if len(rows) > PART_ROWS:
            self._buffers[table] = np.empty(0, TABLES[table])
        sink = pa.BufferOutputStream()
        pq.write_table(_to_arrow(table, rows), sink, compression="zstd", compression_level=1)
        self._write_file(f"{table}-{self._parts[table]:06d}.parquet", sink.getvalue())
        self._parts[table] += 1

    def _write_meta(self) -> None:
        text = json.dumps(self.meta, indent=1, default=_plain) + "\n"
        self._write_file(META, text.encode())

    def _write_file(self, name: str, content: Any) -> None:
        temporary = f"{name}.tmp"
        with _explained(self.path / name, "write"):
            try:
                fd = os.open(temporary, _NEW_FILE, 0o600, dir_fd=self._fd)
            except FileExistsError:
                os.unlink(temporary, dir_fd=self._fd)
                fd = os.open(temporary, _NEW_FILE, 0o600, dir_fd=self._fd)
            try:
                os.fchmod(fd, 0o600)
                _give(fd, self._owner)
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


class Recording:
    """A recording, read back.

    ``meta`` is the dictionary of ``meta.json``, ``path`` the directory,
    ``missing_parts`` the names of parts that the numbering shows to be gone.
    """

    def __init__(self, path: Path, meta: dict[str, Any], parts: dict[str, dict[int, str]]) -> None:
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
        with _explained(where, "read"):
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
            match = _PART.fullmatch(name)
            if match and match["table"] in parts:
                parts[match["table"]][int(match["number"])] = name
        return cls(where, meta, parts)

    @property
    def complete(self) -> bool:
        """Whether the session ended in order and wrote everything."""
        return bool(self.meta.get("complete"))

    def table(self, name: str) -> Table:
        """All rows of a table, shape (n,), dtype ``records.TABLES[name]``, padding zero.

        :raises RecordingError: a part is damaged.
        """
        if name not in self._tables:
            paths = [self.path / part for _, part in sorted(self._parts[name].items())]
            files = [_open_part(path) for path in paths]
            rows = _room_for(paths, files, TABLES[name])
            start = 0
            old = self.meta.get("format_version") != FORMAT_VERSION
            for path, file in zip(paths, files, strict=True):
                stop = start + file.metadata.num_rows
                _read_part(path, file, name, rows[start:stop], old=old)
                start = stop
            self._tables[name] = rows
        return self._tables[name]

    def tables(self) -> dict[str, Table]:
        """Every table by name."""
        return {name: self.table(name) for name in TABLES}

    def _gaps(self) -> list[str]:
        expected = self.meta.get("parts") or {}
        gone = []
        for table, parts in self._parts.items():
            count = max(max(parts, default=-1) + 1, expected.get(table, 0)) - len(parts)
            absent = (number for number in itertools.count() if number not in parts)
            named = itertools.islice(absent, min(count, _MOST_NAMED))
            gone += [f"{table}-{number:06d}.parquet" for number in named]
            if count > _MOST_NAMED:
                gone.append(f"{count - _MOST_NAMED} more of {table}")
        return gone


_HINTS = {
    errno.ENOSPC: "the disk is full: free some space or record elsewhere with -o",
    errno.EDQUOT: "the disk quota is used up: record elsewhere with -o",
    errno.EACCES: "choose a directory that you may use",
    errno.EPERM: "choose a directory that you may use",
    errno.EROFS: "the file system is read-only: choose another directory with -o",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a recording is a directory: check the path",
    errno.ELOOP: "symbolic links are not followed here: give the real path",
}


_UNREADABLE = (errno.EACCES, errno.EPERM)


def _read_hint(path: Path) -> str:
    return f"read it with sudo, or make it yours: sudo chown -R \"$USER\" '{path}'"


@contextmanager
def _explained(path: Path, verb: str) -> Iterator[None]:
    # Turns an OSError about `path` into a RecordingError that says the way out.
    try:
        yield
    except OSError as error:
        message = f"can't {verb} '{path}': {error.strerror or error}"
        hint = _HINTS.get(error.errno or 0, "")
        if verb == "read" and error.errno in _UNREADABLE:
            hint = _read_hint(path.parent if path.name == META else path)
        raise RecordingError(message, hint) from error


def _names(dtype: np.dtype[Any]) -> tuple[str, ...]:
    return tuple(dtype.names or ())


def _sudo_owner() -> tuple[int, int] | None:
    if os.geteuid() != 0:
        return None
    try:
        return int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
    except (KeyError, ValueError):
        return None


def _give(fd: int, owner: tuple[int, int] | None) -> None:
    if owner is not None:
        os.fchown(fd, *owner)


def _create_directory(path: Path, force: bool, owner: tuple[int, int] | None) -> int:
    """Create ``path`` with mode 0700 and return a descriptor of it."""
    name = path.name
    if name in ("", ".", ".."):
        raise RecordingError(f"'{path}' can't be created", "give the name of a new directory")
    with _explained(path.parent, "use the directory"):
        parent = os.open(path.parent, _DIRECTORY)
    try:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not force:
                raise _exists(path) from None
            _remove_recording(path, parent, name)
            with _explained(path, "create"):
                os.mkdir(name, 0o700, dir_fd=parent)
        except OSError:
            with _explained(path, "create"):
                raise
        with _explained(path, "create"):
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            try:
                os.fchmod(fd, 0o700)
                _give(fd, owner)
            except OSError:
                os.close(fd)
                raise
        return fd
    finally:
        os.close(parent)


def check_new(path: str | os.PathLike[str], *, force: bool) -> None:
    """Raise the RecordingError that creating ``path`` would raise; change nothing.

    For a session that has minutes of work before its first row.
    """
    path = Path(path)
    with _parent_of(path, "create") as parent:
        if os.path.lexists(path):
            if not force:
                raise _exists(path)
            os.close(_open_replaceable(path, parent, path.name))


def check_movable(path: Path, to: Path) -> None:
    """Raise the RecordingError that moving ``path`` to ``to`` would raise; change nothing.

    What is there by either name must be a recording of ours, that nobody writes any more.
    """
    with _parent_of(path, "move") as parent:
        for each, refusal in (
            (path, f"it is not moved to '{to.name}'"),
            (to, f"it is not replaced by '{path.name}'"),
        ):
            if os.path.lexists(each):
                os.close(_open_ours(each, parent, refusal))


def move(path: Path, to: Path) -> None:
    """Rename a recording within its directory; a recording at ``to`` is removed.

    Raises RecordingError as `check_movable`, and then has changed nothing.
    """
    check_movable(path, to)
    with _parent_of(path, "move") as parent:
        if os.path.lexists(to):
            _remove_recording(to, parent, to.name)
        with _explained(path, "move"):
            os.rename(path.name, to.name, src_dir_fd=parent, dst_dir_fd=parent)


def is_recording(path: Path) -> bool:
    """Whether there is a recording of ours, and nothing else, that nobody writes any more."""
    try:
        with _parent_of(path, "use") as parent:
            os.close(_open_ours(path, parent, ""))
    except RecordingError:
        return False
    return True


@contextmanager
def _parent_of(path: Path, verb: str) -> Iterator[int]:
    """A descriptor of the directory that ``path`` is in, which must be writable."""
    with _explained(path, verb):
        parent = os.open(path.parent, _DIRECTORY)
    try:
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise RecordingError(
                f"can't {verb} '{path}': permission denied",
                "give a directory that you may write to with -o",
            )
        yield parent
    finally:
        os.close(parent)


def remove(path: Path) -> None:
    """Remove a recording; raises RecordingError where there is none, or something else."""
    with _explained(path.parent, "use the directory"):
        parent = os.open(path.parent, _DIRECTORY)
    try:
        _remove_recording(path, parent, path.name)
    finally:
        os.close(parent)


def _exists(path: Path) -> RecordingError:
    return RecordingError(
        f"'{path}' exists already",
        "give another name with -o, or replace the recording with --force",
    )


def _open_ours(path: Path, parent: int, refusal: str) -> int:
    """As `_open_replaceable`, and neither root nor anybody else takes a stranger's recording."""
    fd = _open_replaceable(path, parent, path.name, refusal)
    uid = os.fstat(fd).st_uid
    sudo = _sudo_owner()
    if uid != os.geteuid() and (sudo is None or uid != sudo[0]):
        os.close(fd)
        raise RecordingError(
            f"'{path}' belongs to another user ({uid}): {refusal}",
            "give another name with -o",
        )
    return fd


def _open_replaceable(
    path: Path, parent: int, name: str, refusal: str = "--force does not replace it"
) -> int:
    """A descriptor of the recording ``name`` in ``parent``; refuses anything else."""
    refused = RecordingError(
        f"'{path}' is not a recording: {refusal}",
        "give another name with -o, or remove it yourself",
    )
    try:
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        raise refused from error
    if not _is_ours(fd) or not all(_is_part_of_recording(fd, each) for each in os.listdir(fd)):
        os.close(fd)
        raise refused
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise RecordingError(
            f"another session is writing '{path}': it stays as it is",
            "give another name with -o, or end that session first",
        ) from None
    except OSError:
        pass  # no locks on this file system
    return fd


def _remove_recording(path: Path, parent: int, name: str) -> None:
    """Remove the recording ``name`` in ``parent``, or refuse and remove nothing."""
    fd = _open_replaceable(path, parent, name)
    try:
        with _explained(path, "replace"):
            names = os.listdir(fd)
            # meta.json goes last: what is left by an interruption is still a recording.
            for each in sorted(names, key=lambda each: each == META):
                os.unlink(each, dir_fd=fd)
            os.rmdir(name, dir_fd=parent)
    finally:
        os.close(fd)


def _is_ours(fd: int) -> bool:
    try:
        file = os.open(META, _OLD_FILE, dir_fd=fd)
        with open(file, encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and type(found.get("format_version")) is int


def _is_part_of_recording(fd: int, name: str) -> bool:
    plain = name.removesuffix(".tmp")
    match = _PART.fullmatch(plain)
    if plain != META and not match:
        return False
    return stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)


def _read_meta(where: Path) -> dict[str, Any]:
    path = where / META
    with _explained(path, "read"):
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


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _to_arrow(table: str, rows: Table) -> pa.Table:
    columns = {}
    for name in stored_fields(table):
        column = rows[name]
        if column.dtype.kind == "S":
            # Few distinct names, many rows: decode each name once.
            # With its index np.unique sorts stably: see align.ranks().
            values, _, index = np.unique(column, return_index=True, return_inverse=True)
            texts = [bytes(value).decode("utf-8", "replace") for value in values]
            names = pa.array(texts, pa.string())
            columns[name] = names.take(pa.array(index.astype(np.int32)))
        else:
            columns[name] = pa.array(np.ascontiguousarray(column))
    return pa.table(columns)


def _open_part(path: Path) -> pq.ParquetFile:
    with _undamaged(path):
        if not path.is_file():
            raise ValueError("it is not a file")
        return pq.ParquetFile(path, memory_map=True)


def _room_for(paths: list[Path], files: list[pq.ParquetFile], layout: np.dtype[Any]) -> Table:
    """Zeros for the rows of all parts; a part that claims more rows than can be is damaged."""
    rows = 0
    for path, file in zip(paths, files, strict=True):
        with _undamaged(path):
            count = file.metadata.num_rows
            if not 0 <= count <= _MOST_ROWS:
                raise ValueError(f"it says that it has {many(count, 'row')}")
            rows += count
    try:
        return np.zeros(rows, layout)
    except MemoryError as error:
        raise RecordingError(
            f"there is not enough memory for {many(rows, 'row')} of {many(len(paths), 'part')}, "
            f"the first of which is '{paths[0]}'",
            "read it on a larger machine, or move parts out of the recording",
        ) from error


def _read_part(path: Path, file: pq.ParquetFile, table: str, rows: Table, *, old: bool) -> None:
    with _undamaged(path):
        defaults = _NEW_COLUMNS.get(table, {}) if old else {}
        wanted = [name for name in stored_fields(table) if name not in defaults]
        for name in wanted:
            if name not in file.schema_arrow.names:
                raise ValueError(f"it has no column {name!r}")
        content = file.read(columns=wanted)
        for name, value in defaults.items():
            rows[name] = value
        if content.num_rows != rows.size:
            raise ValueError(f"it has {many(content.num_rows, 'row')}, not {rows.size}")
        _fill(rows, content, without=(*PADDING, *defaults))


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise RecordingError(
            f"can't read '{path}': Permission denied", _read_hint(path.parent)
        ) from error
    except (OSError, ValueError, KeyError, MemoryError, pa.ArrowException) as error:
        raise RecordingError(
            f"can't read '{path}': {_first_line(error)}",
            "the file is damaged; move it out of the recording to read the rest "
            "(entries that need it become unknown)",
        ) from error


def _fill(rows: Table, content: pa.Table, *, without: tuple[str, ...]) -> None:
    # Column by column into structured rows that are there already.
    for name in _names(rows.dtype):
        if name in without:
            continue
        kind = rows.dtype[name]
        column = content.column(name)
        if column.null_count:
            raise ValueError(f"column {name!r} has {column.null_count} nulls")
        if kind.kind == "S":
            if not pa.types.is_string(column.type):
                raise ValueError(f"column {name!r} has type {column.type}, not string")
            # One dictionary for the whole column, whatever its chunks.
            coded = column.combine_chunks().dictionary_encode()
            texts = [str(text).encode() for text in coded.dictionary.to_pylist()]
            if rows.size:
                rows[name] = np.array(texts, kind)[coded.indices.to_numpy()]
        else:
            values = column.to_numpy()
            if values.dtype != kind:
                raise ValueError(f"column {name!r} has type {values.dtype}, not {kind}")
            rows[name] = values
