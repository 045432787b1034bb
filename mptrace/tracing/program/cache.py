# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps compiled BPF programs for the next session, because compiling takes seconds.

A program is found by what went into it: sources, macros, kernel version, compiler.
What lies there is loaded into the kernel: only files that nobody but this user could
have written are read.  Without a place to keep anything, each session compiles.
"""

import contextlib
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from mptrace.tracing.program.compiled import FORMAT, Compiled

#: Where, unless MPTRACE_PROGRAMS says otherwise; empty: nowhere.
DIRECTORY = "/var/cache/mptrace/programs"
#: Programs kept; those used least lately go.
MAX_KEPT = 16
SUFFIX = ".bpf"
_OURS = re.compile(rf"[0-9a-f]{{64}}{re.escape(SUFFIX)}(\.\d+)?")
_DIGEST_BYTES = 32
#: Seconds after which a file that was being written is one that somebody was killed over.
_ABANDONED_S = 3600


def directory_of(environment: Mapping[str, str]) -> Path | None:
    """Where programs are kept, None: nowhere."""
    text = environment.get("MPTRACE_PROGRAMS", DIRECTORY)
    return Path(text) if text else None


def key_of(parts: Iterable[str]) -> str:
    """A name for what was made of these texts, in this order."""
    digest = hashlib.sha256(f"{FORMAT}".encode())
    for part in parts:
        encoded = part.encode()
        digest.update(b"%d:" % len(encoded))
        digest.update(encoded)
    return digest.hexdigest()


def load(directory: Path | None, key: str) -> Compiled | None:
    """The program of that name, None where there is none that can be relied on."""
    if directory is None:
        return None
    try:
        with _opened(directory) as at:
            fd = os.open(f"{key}{SUFFIX}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            with open(fd, "rb") as file:
                _check(os.fstat(fd), stat.S_ISREG)
                digest, text = file.read(_DIGEST_BYTES), file.read()
                if hashlib.sha256(text).digest() != digest:
                    return None
                os.utime(fd)
        return Compiled.from_bytes(text)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store(directory: Path | None, key: str, program: Compiled) -> bool:
    """Keep a program under that name; returns whether it is kept, which is no condition."""
    if directory is None:
        return False
    text = program.to_bytes()
    name = f"{key}{SUFFIX}"
    unfinished = f"{name}.{os.getpid()}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(directory) as at:
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                with open(os.open(unfinished, flags, 0o600, dir_fd=at), "wb") as file:
                    file.write(hashlib.sha256(text).digest() + text)
                os.rename(unfinished, name, src_dir_fd=at, dst_dir_fd=at)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(unfinished, dir_fd=at)
            _prune(at)
    except OSError:
        return False
    return True


def _prune(at: int) -> None:
    """Of our own files in a directory, leave those used lately."""
    ages = {}
    for name in os.listdir(at):
        if _OURS.fullmatch(name):
            with contextlib.suppress(FileNotFoundError):
                ages[name] = os.stat(name, dir_fd=at, follow_symlinks=False).st_mtime
    finished = sorted((age, name) for name, age in ages.items() if name.endswith(SUFFIX))
    old = [name for _, name in finished[:-MAX_KEPT]]
    abandoned = time.time() - _ABANDONED_S
    old += [n for n, age in ages.items() if not n.endswith(SUFFIX) and age < abandoned]
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
