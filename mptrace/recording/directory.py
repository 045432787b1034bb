# SPDX-License-Identifier: GPL-2.0-or-later
"""The directory of a recording: what belongs to it, and how to create, replace and remove it.

A recording is often written by root into a directory of somebody else.  Every
file is therefore opened relative to a directory descriptor, with O_EXCL and
O_NOFOLLOW, and nothing is removed that is not a recording's file.  A writer locks
its directory (flock): nobody removes or renames what is still being written.
"""

import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mptrace.errors import RecordingError

#: The version of the format that is written.
FORMAT_VERSION = 3
META = "meta.json"

PART = re.compile(r"(?P<table>[a-z_]+)-(?P<number>\d{6,})\.parquet")
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


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


def read_hint(path: Path) -> str:
    return f"read it with sudo, or make it yours: sudo chown -R \"$USER\" '{path}'"


@contextmanager
def explained(path: Path, verb: str) -> Iterator[None]:
    """Turns an OSError about ``path`` into a RecordingError that says the way out."""
    try:
        yield
    except OSError as error:
        message = f"can't {verb} '{path}': {error.strerror or error}"
        hint = _HINTS.get(error.errno or 0, "")
        if verb == "read" and error.errno in _UNREADABLE:
            hint = read_hint(path.parent if path.name == META else path)
        raise RecordingError(message, hint) from error


def sudo_owner() -> tuple[int, int] | None:
    """Whoever called sudo, where this is root by sudo: uid and gid."""
    if os.geteuid() != 0:
        return None
    try:
        return int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
    except (KeyError, ValueError):
        return None


def give(fd: int, owner: tuple[int, int] | None) -> None:
    """Make a file its owner's, where there is another than this process."""
    if owner is not None:
        os.fchown(fd, *owner)


def create_directory(path: Path, force: bool, owner: tuple[int, int] | None) -> int:
    """Create ``path`` with mode 0700 and return a descriptor of it."""
    name = path.name
    if name in ("", ".", ".."):
        raise RecordingError(f"'{path}' can't be created", "give the name of a new directory")
    with explained(path.parent, "use the directory"):
        parent = os.open(path.parent, _DIRECTORY)
    try:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not force:
                raise _exists(path) from None
            _remove_recording(path, parent, name)
            with explained(path, "create"):
                os.mkdir(name, 0o700, dir_fd=parent)
        except OSError:
            with explained(path, "create"):
                raise
        with explained(path, "create"):
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            try:
                os.fchmod(fd, 0o700)
                give(fd, owner)
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
        with explained(path, "move"):
            try:
                os.rename(path.name, to.name, src_dir_fd=parent, dst_dir_fd=parent)
            except OSError as error:
                # a directory of the lower layer of an overlay, as in a container or the lab
                if error.errno != errno.EXDEV:
                    raise
                _move_files(parent, path.name, to.name)


def _move_files(parent: int, name: str, to: str) -> None:
    """Move a recording file by file, all of them or none."""
    fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        about = os.fstat(fd)
        os.mkdir(to, 0o700, dir_fd=parent)
        target = os.open(to, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            os.fchown(target, about.st_uid, about.st_gid)
            os.fchmod(target, stat.S_IMODE(about.st_mode))
            for each in sorted(os.listdir(fd), key=lambda each: each == META):
                os.rename(each, each, src_dir_fd=fd, dst_dir_fd=target)
            os.utime(target, ns=(about.st_atime_ns, about.st_mtime_ns))
        except BaseException:
            # a full disk, Ctrl-C: all of it is in one place again
            for each in os.listdir(target):
                os.rename(each, each, src_dir_fd=target, dst_dir_fd=fd)
            os.rmdir(to, dir_fd=parent)
            raise
        finally:
            os.close(target)
        os.rmdir(name, dir_fd=parent)
    finally:
        os.close(fd)


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
    with explained(path, verb):
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
    with explained(path.parent, "use the directory"):
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
    sudo = sudo_owner()
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
            f"another session is writing '{path}', so it stays as it is",
            "give another name with -o, or end that session first",
        ) from None
    except OSError:
        pass  # no locks on this file system
    return fd


def _remove_recording(path: Path, parent: int, name: str) -> None:
    """Remove the recording ``name`` in ``parent``, or refuse and remove nothing."""
    fd = _open_replaceable(path, parent, name)
    try:
        with explained(path, "replace"):
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
    match = PART.fullmatch(plain)
    if plain != META and not match:
        return False
    return stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
