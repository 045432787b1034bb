# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings on an overlay, as a container and the lab have them: a real one, mounted here."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mptrace.errors import RecordingError
from mptrace.recording.layouts import CALL, WAIT
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
    """A directory whose lower layer has a recording; such a directory can't be renamed there.

    The upper layer has 1 MiB.
    """
    lower, layer, merged = (tmp_path / name for name in ("lower", "layer", "merged"))
    for path in (lower, layer, merged):
        path.mkdir()
    put(lower / "r", "below")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "layer", layer], check=True)
    try:
        for name in ("upper", "work"):
            (layer / name).mkdir()
        layers = f"lowerdir={lower},upperdir={layer}/upper,workdir={layer}/work,redirect_dir=off"
        subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", merged], check=True)
        try:
            yield merged
        finally:
            subprocess.run(["umount", merged], check=True)
    finally:
        subprocess.run(["umount", layer], check=True)


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


def test_what_does_not_fit_stays_where_it_was(overlay: Path, tmp_path: Path) -> None:
    """The upper layer is full in the middle: an error, and the recording is as it was, whole."""
    noise = np.zeros(1 << 17, WAIT)
    noise["start_ns"] = np.random.default_rng(23).integers(1 << 63, size=noise.size)
    with RecordingWriter(tmp_path / "lower/large", meta={"note": "large"}) as writer:
        writer.append("calls", np.zeros(1, CALL))
        writer.append("waits", noise)
        writer.finish()
    series = Series(overlay / "large", Rotation())
    series.check_new(force=False, aside=True)
    with pytest.raises(RecordingError, match="No space left"):
        series.make_room(print)
    found = Recording.open(overlay / "large")
    assert (found.complete, found.missing_parts) == (True, ())
    assert (found.table("calls").size, found.table("waits").size) == (1, noise.size)
    assert not (overlay / "large.old").exists()
