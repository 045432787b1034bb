# SPDX-License-Identifier: GPL-2.0-or-later
"""Standard output and standard error, and what happens when a write to them fails.

A result that can't be printed, mostly because a disk is full, ends the command with one line,
unless the reader has closed the pipe.  A message that can't be printed is dropped, so that a
recording goes on.
"""

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import click

from mptrace.errors import EXIT_OK, OutputError


class _Descriptor(io.FileIO):
    """A descriptor to write to, without its end being a reason to close it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data: Any) -> int:
        """Write it all, or as much as there is room for; waits where the descriptor would not."""
        while (written := super().write(data)) is None:
            select.select([], [self], [])
        return written


class _Results(_Descriptor):
    """Standard output: the first write that fails raises OutputError, later ones do nothing."""

    def __init__(self, descriptor: int, *, is_closed: bool) -> None:
        super().__init__(descriptor)
        self._is_closed = is_closed
        self._has_failed = False

    def write(self, data: Any) -> int:
        """Write, or raise OutputError."""
        if self._has_failed:
            return memoryview(data).nbytes
        try:
            if self._is_closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return super().write(data)
        except OSError as error:
            self._has_failed = True
            raise OutputError.of(error) from error


class _Messages(_Descriptor):
    """Standard error: what can't be written is dropped."""

    def write(self, data: Any) -> int:
        """Write, or drop it."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def progress(message: str) -> None:
    """Say on standard error what goes on."""
    click.echo(f"mptrace: {message}", err=True)


@contextmanager
def guarded() -> Iterator[None]:
    """Run a command line: its output is written out, or the process leaves with status 1."""
    _guard_streams()
    leaving: SystemExit | None = None
    try:
        try:
            yield
        except SystemExit as error:
            leaving = error
        sys.stdout.flush()
    except OutputError as error:
        if not error.is_unwanted:
            progress(error.message)
            sys.exit(error.exit_code)
        sys.exit(EXIT_OK if leaving is None else leaving.code)
    if leaving is not None:
        raise leaving


def _guard_streams() -> None:
    """Replace the streams that the interpreter made, or made none of; a test's own stay."""
    _fill_standard_descriptors()
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    if sys.stdout is sys.__stdout__:
        descriptor = 1 if sys.stdout is None else sys.stdout.fileno()
        results = _Results(descriptor, is_closed=sys.stdout is None)
        sys.stdout = _stream(results, sys.stdout)
    if sys.stderr is sys.__stderr__:
        messages = _Messages(2 if sys.stderr is None else sys.stderr.fileno())
        sys.stderr = _stream(messages, sys.stderr, is_prompt=True)


def _stream(raw: _Descriptor, before: TextIO | None, *, is_prompt: bool = False) -> TextIO:
    """A text stream in place of ``before``; a name that its encoding lacks is escaped."""
    errors = "backslashreplace"
    if before is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", errors, line_buffering=True)
    assert isinstance(before, io.TextIOWrapper)
    if before.errors != "strict":
        errors = before.errors or errors
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        before.encoding,
        errors,
        line_buffering=is_prompt or before.line_buffering or before.write_through,
    )


def _fill_standard_descriptors() -> None:
    """Open /dev/null where 0, 1 or 2 is closed, lest a file or socket of ours gets that number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
