# SPDX-License-Identifier: GPL-2.0-or-later
"""What a session writes: one recording or, with rotation, several in turn."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mptrace.errors import RecordingError
from mptrace.recording.clock import RecorderClock, now
from mptrace.recording.layouts import TABLES
from mptrace.recording.meta import RecorderCost
from mptrace.recording.rotation import Series
from mptrace.recording.writer import RecordingWriter


class Parts:
    """The recordings of ``series``; the first one is created at once.

    :param meta: meta.json of each, without ``rotation``; ``started`` is the first one's.
    :raises RecordingError: one can't be created or written; so do the methods.
    """

    def __init__(self, series: Series, meta: Mapping[str, Any], *, force: bool) -> None:
        self._series = series
        self._meta = dict(meta)
        if series.rotation:
            # by which its recordings are known as one session's
            self._meta["session"] = meta.get("started")
        self._force = force
        #: Where to write to.
        self.writer = self._next()
        #: Rows per table of the recordings that are finished.
        self.rows = dict.fromkeys(TABLES, 0)
        self._clock = RecorderClock()
        self._took: list[Mapping[str, int]] = []

    @property
    def paths(self) -> tuple[Path, ...]:
        """Recordings that are there, oldest first."""
        return tuple(self._series.paths)

    @property
    def recorder(self) -> RecorderCost | None:
        """What recording took for those that are finished."""
        return RecorderCost.of(self._took)

    def _next(self) -> RecordingWriter:
        path = self._series.next()
        return RecordingWriter(
            path, force=self._force, meta={**self._meta, "rotation": self._series.part}
        )

    def rotate_if_due(
        self,
        age_s: float,
        hand_over: Callable[[RecordingWriter], object],
        last_meta: Callable[[], dict[str, Any]],
    ) -> bool:
        """Go on in the next recording where that is due, and finish the one before.

        :param age_s: seconds since the present one was begun.
        :param hand_over: told the next one; from its return on nothing is appended to
            the one before.
        :param last_meta: what meta.json of the one before gets last.
        """
        if not self._series.rotation.is_due(self.writer.bytes, age_s):
            return False
        self._meta["started"] = now()
        following = self._next()
        hand_over(following)
        before, self.writer = self.writer, following
        try:
            self._finish(before, last_meta())
        finally:
            before.close()
        self._series.drop_old()
        return True

    def finish(self, last_meta: Mapping[str, Any]) -> None:
        """End the last recording in order."""
        last = {"last_part": True} if self._series.rotation else {}
        self._finish(self.writer, {**last_meta, **last})

    def abandon(self, failure: RecordingError, last_meta: Mapping[str, Any]) -> RecordingError:
        """Say in the recording why it ends, if that can still be written.

        Returns the failure with where to find what was recorded.
        """
        self._count(self.writer)
        with contextlib.suppress(RecordingError):
            took = self._spent(self.writer)
            self.writer.update_meta(**last_meta, recorder=took, end_reason=failure.message)
        self.writer.close()
        there = " and ".join(f"'{path}'" for path in self.paths[-2:] if path.exists())
        hints = [f"{there} has what was recorded until then", failure.hint]
        return RecordingError(failure.message, "\n  ".join(filter(None, hints)))

    def _finish(self, writer: RecordingWriter, last_meta: Mapping[str, Any]) -> None:
        self._count(writer)
        # what is buffered is a part of what it takes
        writer.flush()
        writer.finish({**last_meta, "recorder": self._spent(writer)})

    def _spent(self, writer: RecordingWriter) -> Mapping[str, int]:
        self._took.append(self._clock.took(writer.rows["lookups"] or writer.rows["folios"]))
        return self._took[-1]

    def _count(self, writer: RecordingWriter) -> None:
        for table, count in writer.rows.items():
            self.rows[table] += count
