# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings of a long session, one after the other: when the next begins, what it is called."""

import contextlib
import glob
import re
from dataclasses import dataclass
from pathlib import Path

from mptrace.errors import RecordingError, UsageError
from mptrace.recording import check_new, remove

_NUMBER = re.compile(r"\.\d{6,}")


@dataclass(frozen=True)
class Rotation:
    """When a recording is closed and the next begun; both 0: never.

    ``keep``: of the recordings of this session only the last so many stay, 0: all.
    """

    bytes: int = 0
    seconds: float = 0.0
    keep: int = 0

    def __post_init__(self) -> None:
        if self.keep and not self:
            raise UsageError("--keep goes with --rotate-size or --rotate-time")

    def __bool__(self) -> bool:
        return bool(self.bytes or self.seconds)

    def is_due(self, written: int, age_s: float) -> bool:
        """Whether a recording of that size and age is to be closed."""
        return bool(
            (self.bytes and written >= self.bytes) or (self.seconds and age_s >= self.seconds)
        )


class Series:
    """The names of a session's recordings: BASE, or BASE.000001, BASE.000002 ... under rotation."""

    def __init__(self, base: Path, rotation: Rotation) -> None:
        self._base = base
        self.rotation = rotation
        self._number = 0
        #: Recordings that are there, oldest first.
        self.paths: list[Path] = []

    def next(self) -> Path:
        """The next recording's path."""
        self._number += 1
        self.paths.append(self._path(self._number))
        return self.paths[-1]

    def _path(self, number: int) -> Path:
        if not self.rotation:
            return self._base
        return self._base.with_name(f"{self._base.name}.{number:06d}")

    def check_new(self, *, force: bool) -> None:
        """Raise the RecordingError that any of them would raise when created; change nothing.

        An older session's recordings would end this one in the middle.
        """
        check_new(self._path(1), force=force)
        if self.rotation:
            for path in sorted(self._base.parent.glob(f"{glob.escape(self._base.name)}.*")):
                if _NUMBER.fullmatch(path.suffix):
                    check_new(path, force=force)

    @property
    def part(self) -> dict[str, object] | None:
        """Key ``rotation`` of meta.json for the last of them; None without rotation."""
        return {"number": self._number, "of": self._base.name} if self.rotation else None

    def drop_old(self) -> None:
        """Remove the oldest recordings of this session beyond those to keep.

        Whatever is there by that name now, only a recording is removed.
        """
        keep = self.rotation.keep
        while keep and len(self.paths) > keep:
            # a user who was faster, or put something else there, ends no session
            with contextlib.suppress(RecordingError):
                remove(self.paths.pop(0))
