# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings on an overlay, as a container and the lab have them: a real one, mounted here."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mptrace.recording.layouts import WAIT
from mptrace.recording.reader import Recording
from mptrace.recording.rotation import Rotation, Series
from mptrace.recording.writer import RecordingWriter


def put(path: Path, note: str) -> None:
    """A recording that is known by its note, with a row."""
    with RecordingWriter(path, meta={"note": note}) as writer:
        writer.append("waits", np.ones(1, WAIT))
        writer.finish()


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """A directory whose lower layer has a recording; such a directory can't be renamed there."""
    lower, upper, work, merged = (tmp_path / name for name in ("lower", "upper", "work", "merged"))
    for path in (lower, upper, work, merged):
        path.mkdir()
    put(lower / "r", "below")
    layers = f"lowerdir={lower},upperdir={upper},workdir={work},redirect_dir=off"
    subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", merged], check=True)
    try:
        yield merged
    finally:
        subprocess.run(["umount", merged], check=True)


def test_an_earlier_recording_of_a_lower_layer_makes_room(overlay: Path, tmp_path: Path) -> None:
    """It moves whole, with its owner and mode; what lies below stays as it was."""
    with pytest.raises(OSError, match="cross-device"):
        (overlay / "r").rename(overlay / "elsewhere")
    before = (overlay / "r").stat()
    said: list[str] = []
    for note in ("first", "second"):
        series = Series(overlay / "r", Rotation())
        series.check_new(force=False, aside=True)
        series.make_room(said.append)
        if note == "first":
            old = Recording.open(overlay / "r.old")
            assert old.meta.raw["note"] == "below"
            assert (old.complete, old.table("waits").size) == (True, 1)
            after = (overlay / "r.old").stat()
            assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
        put(overlay / "r", note)
    assert said == ["the earlier 'r' is now 'r.old'"] * 2
    names = {path.name: Recording.open(path).meta.raw["note"] for path in overlay.iterdir()}
    assert names == {"r": "second", "r.old": "first"}
    assert Recording.open(tmp_path / "lower/r").meta.raw["note"] == "below"
