# SPDX-License-Identifier: GPL-2.0-or-later
"""The recordings of a long session: when the next begins, which of them stay."""

import os
from pathlib import Path

import pytest

from mptrace.errors import RecordingError, UsageError
from mptrace.recording.reader import Recording
from mptrace.recording.rotation import Rotation, Series
from mptrace.recording.writer import RecordingWriter


def write(path: Path) -> None:
    """An empty recording."""
    RecordingWriter(path, meta={}).finish()


def record(series: Series, count: int) -> list[Path]:
    """So many recordings of a session, the old ones dropped as it goes."""
    made = []
    for _ in range(count):
        made.append(series.next())
        write(made[-1])
        series.drop_old()
    return made


def test_it_is_due_by_size_or_by_age() -> None:
    """Whichever comes first; never without either."""
    both = Rotation(bytes=1000, seconds=60)
    assert not both.is_due(999, 59.9)
    assert both.is_due(1000, 0)
    assert both.is_due(0, 60)
    assert not Rotation(bytes=1000).is_due(999, 1e9)
    assert not Rotation().is_due(1 << 60, 1e9)


def test_keep_needs_something_to_keep() -> None:
    """Without rotation there is one recording, whatever is asked for."""
    with pytest.raises(UsageError, match="--keep"):
        Rotation(keep=3)
    assert Rotation(seconds=1, keep=3).keep == 3


def test_names(tmp_path: Path) -> None:
    """Without rotation the name asked for; else it with a number, and meta.json says which."""
    alone = Series(tmp_path / "r", Rotation())
    assert (alone.next(), alone.part) == (tmp_path / "r", None)
    series = Series(tmp_path / "r.data", Rotation(seconds=1))
    assert series.next() == tmp_path / "r.data.000001"
    assert series.next() == tmp_path / "r.data.000002"
    assert series.part == {"number": 2, "of": "r.data"}


def test_the_last_ones_stay(tmp_path: Path) -> None:
    """Older ones of this session go, and nothing else does."""
    write(tmp_path / "r.000000")
    write(tmp_path / "r.999999")
    made = record(Series(tmp_path / "r", Rotation(bytes=1, keep=2)), 5)
    assert sorted(tmp_path.iterdir()) == [
        tmp_path / "r.000000",
        *made[-2:],
        tmp_path / "r.999999",
    ]


def test_all_stay_unless_told_otherwise(tmp_path: Path) -> None:
    """Rotation alone removes nothing."""
    made = record(Series(tmp_path / "r", Rotation(bytes=1)), 3)
    assert sorted(tmp_path.iterdir()) == made


def test_one_that_is_gone_already_ends_nothing(tmp_path: Path) -> None:
    """The user may remove recordings while the session goes on."""
    series = Series(tmp_path / "r", Rotation(bytes=1, keep=1))
    first = series.next()
    write(first)
    (first / "meta.json").unlink()
    first.rmdir()
    made = record(series, 2)
    assert list(tmp_path.iterdir()) == made[-1:]


def test_what_is_no_recording_stays(tmp_path: Path) -> None:
    """Somebody put another directory, or a link to one, in its place."""
    for number, trap in enumerate(("directory", "link")):
        series = Series(tmp_path / trap, Rotation(bytes=1, keep=1))
        first = series.next()
        precious = tmp_path / f"precious-{number}"
        precious.mkdir()
        (precious / "file").write_text("mine")
        if trap == "link":
            first.symlink_to(precious)
        else:
            precious.rename(first)
        write(series.next())
        series.drop_old()
        assert (first / "file").read_text() == "mine"


def test_an_older_session_is_met_at_the_start(tmp_path: Path) -> None:
    """Not when this one comes to its number; --force replaces recordings only."""
    write(tmp_path / "r.000007")
    series = Series(tmp_path / "r", Rotation(bytes=1))
    with pytest.raises(RecordingError, match=r"r\.000007' exists"):
        series.check_new(force=False)
    series.check_new(force=True)
    (tmp_path / "r.000007/more").write_text("")
    with pytest.raises(RecordingError, match="not a recording"):
        series.check_new(force=True)
    Series(tmp_path / "r", Rotation()).check_new(force=False)
    assert not series.paths


def put(path: Path, note: str) -> None:
    """A recording that is known by its note."""
    RecordingWriter(path, meta={"note": note}).finish()


def notes(directory: Path) -> dict[str, str]:
    """Name -> note of every recording there."""
    return {path.name: Recording.open(path).meta.raw["note"] for path in directory.iterdir()}


def make_room(series: Series) -> list[str]:
    """As a session does that begins; what it says."""
    said: list[str] = []
    series.check_new(force=False, aside=True)
    series.make_room(said.append)
    return said


def test_an_earlier_recording_becomes_old(tmp_path: Path) -> None:
    """And takes the place of the one before it; nothing but these two is touched."""
    alone = Series(tmp_path / "r", Rotation())
    assert make_room(alone) == []
    for note in ("first", "second", "third"):
        assert make_room(alone) == ["the earlier 'r' is now 'r.old'"] * (note != "first")
        put(tmp_path / "r", note)
    assert notes(tmp_path) == {"r": "third", "r.old": "second"}


def test_checking_changes_nothing(tmp_path: Path) -> None:
    """What fails before it records leaves the earlier recording where it was."""
    put(tmp_path / "r", "mine")
    put(tmp_path / "r.old", "older")
    Series(tmp_path / "r", Rotation()).check_new(force=False, aside=True)
    assert notes(tmp_path) == {"r": "mine", "r.old": "older"}


def test_an_earlier_sessions_recordings_become_old_together(tmp_path: Path) -> None:
    """Those of one name never come from two sessions."""
    for number in range(1, 5):
        put(tmp_path / f"r.00000{number}", f"first {number}")
    series = Series(tmp_path / "r", Rotation(bytes=1))
    assert make_room(series) == [
        "the earlier 'r.000001' is now 'r.old.000001'",
        "the earlier 'r.000004' is now 'r.old.000004'",
    ]
    put(tmp_path / "r.000001", "second 1")
    make_room(series)
    assert notes(tmp_path) == {"r.old.000001": "second 1"}
    put(tmp_path / "r", "third")
    make_room(series)
    assert notes(tmp_path) == {"r.old": "third"}


@pytest.mark.parametrize("rotation", [Rotation(), Rotation(bytes=1)])
@pytest.mark.parametrize("where", ["r", "r.old"])
@pytest.mark.parametrize("kind", ["file", "directory", "link", "more"])
def test_only_recordings_are_moved_or_removed(
    tmp_path: Path, kind: str, where: str, rotation: Rotation
) -> None:
    """Whatever else has one of the names is named, and everything stays."""
    for name in ("r", "r.old"):
        put(tmp_path / name, name)
    mine = tmp_path / where
    if kind == "more":
        (mine / "thesis.txt").write_text("mine")
    else:
        mine.rename(tmp_path / "elsewhere")
        if kind == "link":
            mine.symlink_to("elsewhere")
        elif kind == "file":
            mine.write_text("mine")
        else:
            mine.mkdir()
    before = sorted(tmp_path.rglob("*"))
    series = Series(tmp_path / "r", rotation)
    for act in (lambda: series.check_new(force=False, aside=True), lambda: make_room(series)):
        with pytest.raises(RecordingError, match=rf"/{where}' is not a recording: .*'r"):
            act()
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_being_written_is_not_moved(tmp_path: Path) -> None:
    """Nor removed by --force: another session would lose its recording."""
    series = Series(tmp_path / "r", Rotation())
    with RecordingWriter(tmp_path / "r", meta={}) as writer:
        with pytest.raises(RecordingError, match="another session is writing"):
            series.check_new(force=False, aside=True)
        with pytest.raises(RecordingError, match="another session is writing"):
            series.check_new(force=True)
        writer.finish()
    assert len(make_room(series)) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_a_strangers_recording_is_not_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root could; only the user who called sudo is no stranger."""
    series = Series(tmp_path / "r", Rotation())
    put(tmp_path / "r", "theirs")
    os.chown(tmp_path / "r", 1234, 1234)
    with pytest.raises(RecordingError, match=r"belongs to another user \(1234\)"):
        make_room(series)
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "1234")
    assert len(make_room(series)) == 1


def test_the_parent_is_checked_where_nothing_moves(tmp_path: Path) -> None:
    """As without an earlier recording."""
    with pytest.raises(RecordingError, match="No such file"):
        Series(tmp_path / "none" / "r", Rotation()).check_new(force=False, aside=True)


def test_names_that_only_look_alike_are_left_alone(tmp_path: Path) -> None:
    """A base name with the shell's wildcards names itself alone."""
    (tmp_path / "r.old").mkdir()
    write(tmp_path / "rx.000001")
    Series(tmp_path / "r", Rotation(bytes=1)).check_new(force=False)
    Series(tmp_path / "r*", Rotation(bytes=1)).check_new(force=False)
