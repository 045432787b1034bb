# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiled BPF programs kept from one session to the next, as compiling takes seconds.

A program is found by all that went into it: sources, macros, kernel release, compiler.
What lies there is loaded into the kernel: only files that nobody else could have
written are read.  Without a place to keep anything, each session compiles.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mptrace.bpf_program import FORMAT, Compiled

#: Where, unless MPTRACE_PROGRAMS says otherwise; empty: nowhere.
DIRECTORY = "/var/cache/mptrace/programs"
#: Programs kept; those used least lately go.
MAX_KEPT = 16
_SUFFIX = ".json"
_DIGEST_BYTES = 32


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
    if directory is None or not _is_ours(directory, stat.S_ISDIR):
        return None
    path = directory / f"{key}{_SUFFIX}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb") as file:
        if not _is_private(os.fstat(file.fileno()), stat.S_ISREG):
            return None
        digest, text = file.read(_DIGEST_BYTES), file.read()
    if hashlib.sha256(text).digest() != digest:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    try:
        return Compiled.from_bytes(text)
    except (ValueError, KeyError, TypeError):
        return None


def store(directory: Path | None, key: str, program: Compiled) -> bool:
    """Keep a program under that name; returns whether it is kept, which is no condition."""
    if directory is None:
        return False
    text = program.to_bytes()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(directory, stat.S_ISDIR):
            return False
        with tempfile.NamedTemporaryFile(dir=directory, delete=False) as file:
            try:
                file.write(hashlib.sha256(text).digest() + text)
                file.close()
                os.rename(file.name, directory / f"{key}{_SUFFIX}")
            except BaseException:
                os.unlink(file.name)
                raise
        _prune(directory)
    except OSError:
        return False
    return True


def _prune(directory: Path) -> None:
    kept = sorted(directory.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime)
    for path in kept[:-MAX_KEPT]:
        path.unlink(missing_ok=True)


def _is_ours(path: Path, of_type: Callable[[int], bool]) -> bool:
    try:
        return _is_private(path.lstat(), of_type)
    except OSError:
        return False


def _is_private(status: os.stat_result, of_type: Callable[[int], bool]) -> bool:
    """Whether only this user can have written it."""
    return (
        of_type(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )
