# SPDX-License-Identifier: GPL-2.0-or-later
"""The one family of errors: what was tried, what came back, the way out.

Every error that a user can meet is an :class:`MptraceError`.  The command
line prints ``message`` and ``hint`` on stderr and leaves with ``exit_code``;
nothing else in mptrace decides on an exit status.
"""

from collections.abc import Callable

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_STRICT = 3  # --strict: something was lost, or an entry stayed unknown
EXIT_INTERRUPTED = 130


class MptraceError(Exception):
    """A failure that has a clear message, a way out and an exit status.

    ``message`` is lower case and quotes the object concerned; ``hint`` is the
    way out, empty where there is none.
    """

    exit_code = EXIT_FAILURE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(MptraceError):
    """The request itself is wrong: an unknown node, options that exclude each other."""

    exit_code = EXIT_USAGE


class HostError(MptraceError):
    """This host can't do what was asked: no BTF, one node, no privilege, no bcc."""


class TargetError(MptraceError):
    """The process to look at is not there, went away or is not ours to touch."""


class RecordingError(MptraceError):
    """A recording can't be written or read: exists, damaged, unknown version."""


class OutputError(MptraceError):
    """Standard output can't be written; ``is_unwanted`` where its reader has gone away."""

    def __init__(self, message: str, *, is_unwanted: bool = False) -> None:
        super().__init__(message)
        self.is_unwanted = is_unwanted

    @classmethod
    def of(cls, error: OSError) -> "OutputError":
        """The error for what a write returned."""
        why = error.strerror or str(error)
        return cls(
            f"can't write to standard output: {why}",
            is_unwanted=isinstance(error, BrokenPipeError),
        )


class LabError(MptraceError):
    """The lab guest could not be built, booted or reached."""


class CommandError(MptraceError):
    """The command to run can't be run; leaves with the status that a shell would give."""

    def __init__(self, message: str, hint: str, exit_code: int) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


#: Is told what a session does now, for whoever waits.
Progress = Callable[[str], None]
