# SPDX-License-Identifier: GPL-2.0-or-later
"""The recordings of a long session: when the next one begins, and what it is called."""

import contextlib
import glob
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mptrace.errors import RecordingError, UsageError
from mptrace.recording.directory import check_movable, check_new, is_recording, move, remove

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
            raise UsageError("--keep needs --rotate-size or --rotate-time")

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

    def check_new(self, *, force: bool, aside: bool = False) -> None:
        """Raise the RecordingError that any of them would raise when created; change nothing.

        An older session's recordings would end this one in the middle.  ``aside``: they
        must be such that `make_room` can move them.
        """
        if aside:
            for path, to in self._moves():
                check_movable(path, to)
            # where nothing has to move the name is new, but for its parent
            if not os.path.lexists(self._path(1)):
                check_new(self._path(1), force=False)
            return
        check_new(self._path(1), force=force)
        if self.rotation:
            for path in numbered(self._base):
                check_new(path, force=force)

    def make_room(self, say: Callable[[str], None]) -> None:
        """Move an earlier session's recordings aside: BASE to BASE.old, BASE.N to BASE.old.N.

        What was there as BASE.old is removed, all recordings of it where this session
        rotates.  ``say`` is told what has moved.
        """
        moves = self._moves()
        # all or nothing: nothing moves where something else would be in the way
        for path, to in moves:
            check_movable(path, to)
        if moves and self.rotation:
            for path in (self._old, *numbered(self._old)):
                if is_recording(path):
                    remove(path)
        for path, to in moves:
            move(path, to)
            if path in (moves[0][0], moves[-1][0]):
                say(f"the earlier '{path.name}' is now '{to.name}'")

    def _moves(self) -> list[tuple[Path, Path]]:
        """Where each recording of an earlier session is to go."""
        moves = [(self._base, self._old)] if os.path.lexists(self._base) else []
        if self.rotation:
            for path in numbered(self._base):
                moves.append((path, self._old.with_name(self._old.name + path.suffix)))
            if moves:
                # it would be read in place of what moves
                check_movable(moves[0][0], self._old)
        return moves

    @property
    def _old(self) -> Path:
        return self._base.with_name(f"{self._base.name}.old")

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


def numbered(base: Path) -> list[Path]:
    """What has the name of a recording of a session ``base`` that rotates, in order."""
    found = base.parent.glob(f"{glob.escape(base.name)}.*")
    return sorted(
        (path for path in found if _NUMBER.fullmatch(path.name.removeprefix(base.name))),
        key=lambda path: int(path.suffix[1:]),
    )
