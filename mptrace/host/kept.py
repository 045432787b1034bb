# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that a session keeps for the next one, in a directory of this user's alone.

What lies there is believed, and some of it is loaded into the kernel: only files that
nobody but this user could have written are read.  That nothing can be kept is no error.
"""

import contextlib
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

#: Where, unless MPTRACE_PROGRAMS says otherwise; empty: nowhere.
DIRECTORY = "/var/cache/mptrace/programs"
#: Files kept of a kind; those used least lately go.
MAX_KEPT = 16
_DIGEST_BYTES = 32
#: Seconds after which a file that was being written is one that somebody was killed over.
_ABANDONED_S = 3600


def directory_of(environment: Mapping[str, str]) -> Path | None:
    """Where files are kept, None: nowhere."""
    text = environment.get("MPTRACE_PROGRAMS", DIRECTORY)
    return Path(text) if text else None


def key_of(parts: Iterable[str]) -> str:
    """A name for what was made of these texts, in this order."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(b"%d:" % len(encoded))
        digest.update(encoded)
    return digest.hexdigest()


def load(directory: Path | None, key: str, suffix: str) -> bytes | None:
    """What is kept under that key, None where there is nothing that can be relied on."""
    if directory is None:
        return None
    try:
        with _opened(directory) as at:
            fd = os.open(f"{key}{suffix}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            with open(fd, "rb") as file:
                _check(os.fstat(fd), stat.S_ISREG)
                digest, data = file.read(_DIGEST_BYTES), file.read()
                if hashlib.sha256(data).digest() != digest:
                    return None
                os.utime(fd)
        return data
    except OSError:
        return None


def store(directory: Path | None, key: str, suffix: str, data: bytes) -> bool:
    """Keep it under that key; returns whether it is kept.

    :param key: of `key_of`.
    :param suffix: of the files of one kind, which begins with a dot.
    """
    if directory is None:
        return False
    name = f"{key}{suffix}"
    unfinished = f"{name}.{os.getpid()}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(directory) as at:
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                with open(os.open(unfinished, flags, 0o600, dir_fd=at), "wb") as file:
                    file.write(hashlib.sha256(data).digest() + data)
                os.rename(unfinished, name, src_dir_fd=at, dst_dir_fd=at)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(unfinished, dir_fd=at)
            _prune(at, suffix)
    except OSError:
        return False
    return True


def _prune(at: int, suffix: str) -> None:
    """Of our own files in a directory, leave those used lately."""
    ours = re.compile(rf"[0-9a-f]{{64}}{re.escape(suffix)}(\.\d+)?")
    ages = {}
    for name in os.listdir(at):
        if ours.fullmatch(name):
            with contextlib.suppress(FileNotFoundError):
                ages[name] = os.stat(name, dir_fd=at, follow_symlinks=False).st_mtime
    finished = sorted((age, name) for name, age in ages.items() if name.endswith(suffix))
    old = [name for _, name in finished[:-MAX_KEPT]]
    abandoned = time.time() - _ABANDONED_S
    old += [n for n, age in ages.items() if not n.endswith(suffix) and age < abandoned]
    for name in old:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=at)


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """A directory that is ours; raises OSError where it isn't, or is none."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    at = os.open(directory, flags)
    try:
        _check(os.fstat(at), stat.S_ISDIR)
        yield at
    finally:
        os.close(at)


def _check(status: os.stat_result, of_type: Callable[[int], bool]) -> None:
    """Raise PermissionError unless only this user can have written it."""
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not of_type(status.st_mode) or status.st_uid != os.geteuid() or others:
        raise PermissionError("not ours alone")
