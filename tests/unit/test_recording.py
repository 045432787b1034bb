# SPDX-License-Identifier: GPL-2.0-or-later
"""The recording directory: what is written is read back, and nothing else is touched."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mptrace.errors import RecordingError
from mptrace.recording import layouts
from mptrace.recording import writer as recording
from mptrace.recording.directory import FORMAT_VERSION
from mptrace.recording.layouts import NOT_COUNTED, SYSCALL_UNKNOWN, TABLES
from mptrace.recording.reader import Recording
from mptrace.recording.writer import RecordingWriter

META = {"tool_version": "test", "command": ["mptrace"]}


def random_rows(table: str, count: int, seed: int = 7) -> np.ndarray[Any, Any]:
    """Rows of a table with random bits in every stored field."""
    random = np.random.default_rng(seed)
    rows = np.zeros(count, TABLES[table])
    for name in layouts.stored_fields(table):
        kind = rows.dtype[name]
        if kind.kind == "S":
            names = np.array([b"python3", b"mover", "münze".encode(), b""], kind)
            rows[name] = names[random.integers(0, len(names), count)]
        else:
            info = np.iinfo(kind)
            rows[name] = random.integers(info.min, info.max, count, dtype=kind, endpoint=True)
    return rows


class Clock:
    """A clock that only goes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("table", sorted(TABLES))
def test_rows_come_back_as_they_were_appended(tmp_path: Path, table: str) -> None:
    """Each field of each table survives the way to disk and back, in order."""
    rows = random_rows(table, 509)
    with RecordingWriter(tmp_path / "r", meta=META) as writer:
        writer.append(table, rows[:23])
        writer.flush()
        writer.append(table, rows[23:])
        writer.finish()
    back = Recording.open(tmp_path / "r")
    assert back.complete
    assert back.table(table).tobytes() == rows.tobytes()
    assert back.missing_parts == ()


def test_padding_is_not_stored(tmp_path: Path) -> None:
    """A field that only aligns the ring's layout has no column."""
    with RecordingWriter(tmp_path / "r", meta=META) as writer:
        writer.append("folios", random_rows("folios", 3))
        writer.finish()
    names = pq.read_schema(tmp_path / "r" / "folios-000000.parquet").names
    assert "pad" not in names
    assert "call_id" in names


def test_appended_memory_may_change(tmp_path: Path) -> None:
    """The writer keeps a copy: a ring buffer's memory is used again at once."""
    rows = random_rows("folios", 23)
    expected = rows.tobytes()
    with RecordingWriter(tmp_path / "r", meta=META) as writer:
        writer.append("folios", rows)
        rows["src"] = 0
        writer.finish()
    assert Recording.open(tmp_path / "r").table("folios").tobytes() == expected


def test_parts_are_closed_each_second_and_by_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part is on disk when its first row is a second old, or when it is full."""
    clock = Clock()
    monkeypatch.setattr(recording, "PART_ROWS", 100)
    with RecordingWriter(tmp_path / "r", meta=META, clock=clock) as writer:
        writer.append("calls", random_rows("calls", 7))
        clock.now = 0.9
        writer.append("folios", random_rows("folios", 99))
        assert not list((tmp_path / "r").glob("*.parquet"))
        clock.now = 1.0
        writer.append("folios", random_rows("folios", 1))
        assert sorted(path.name for path in (tmp_path / "r").glob("*.parquet")) == [
            "calls-000000.parquet",
            "folios-000000.parquet",
        ]
        writer.append("entries", random_rows("entries", 5))
        clock.now = 2.0
        writer.tick()
        assert (tmp_path / "r" / "entries-000000.parquet").exists()


def test_an_abandoned_recording_is_readable(tmp_path: Path) -> None:
    """Without finish() (kill -9) the closed parts are there and `complete` is false."""
    writer = RecordingWriter(tmp_path / "r", meta=META)
    rows = random_rows("entries", 23)
    writer.append("entries", rows)
    writer.flush()
    writer.append("entries", rows)
    (tmp_path / "r" / "folios-000000.parquet.tmp").write_bytes(b"half a part")
    back = Recording.open(tmp_path / "r")
    assert not back.complete
    assert back.table("entries").tobytes() == rows.tobytes()
    assert back.table("folios").size == 0
    writer.close()


def test_meta_is_updated(tmp_path: Path) -> None:
    """Keys given later replace the first ones; numpy's numbers are plain JSON."""
    with RecordingWriter(tmp_path / "r", meta={**META, "lost": {}}) as writer:
        writer.update_meta(lost={"ring": np.uint64(3)})
        assert Recording.open(tmp_path / "r").meta.lost == {"ring": 3}
        writer.finish({"interrupted": True})
    meta = Recording.open(tmp_path / "r").meta
    assert (meta.complete, meta.interrupted) == (True, True)
    assert meta.format_version == FORMAT_VERSION
    assert meta.tool_version == "test"


def test_modes_are_private(tmp_path: Path) -> None:
    """The directory is 0700 and every file 0600, whatever the umask."""
    previous = os.umask(0)
    try:
        with RecordingWriter(tmp_path / "r", meta=META) as writer:
            writer.append("calls", random_rows("calls", 2))
            writer.finish()
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "r").stat().st_mode) == 0o700
    for path in (tmp_path / "r").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_the_user_who_called_sudo_owns_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SUDO_UID and SUDO_GID own the directory and each file."""
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "2345")
    with RecordingWriter(tmp_path / "r", meta=META) as writer:
        writer.append("calls", random_rows("calls", 2))
        writer.finish()
    for path in [tmp_path / "r", *(tmp_path / "r").iterdir()]:
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


def test_existing_output_is_kept(tmp_path: Path) -> None:
    """Without force an existing path is an error and stays as it was."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "notes").write_text("mine")
    with pytest.raises(RecordingError, match="exists already") as caught:
        RecordingWriter(tmp_path / "r", meta=META)
    assert "--force" in caught.value.hint
    assert (tmp_path / "r" / "notes").read_text() == "mine"


def test_force_replaces_a_recording(tmp_path: Path) -> None:
    """The new recording has nothing of the old one."""
    for rows in (23, 5):
        with RecordingWriter(tmp_path / "r", force=True, meta=META) as writer:
            writer.append("calls", random_rows("calls", rows))
            writer.flush()
            if rows == 23:
                writer.append("calls", random_rows("calls", rows))
            writer.finish()
    assert Recording.open(tmp_path / "r").table("calls").size == 5


@pytest.mark.parametrize("kind", ["directory", "file", "symlink", "stranger", "bad meta", "nested"])
def test_force_replaces_nothing_else(tmp_path: Path, kind: str) -> None:
    """Whatever is not a recording, down to its last file, is left alone."""
    path = tmp_path / "r"
    victim = tmp_path / "victim"
    with RecordingWriter(victim, meta=META) as writer:
        writer.finish()
    if kind == "directory":
        path.mkdir()
    elif kind == "file":
        path.write_text("mine")
    elif kind == "symlink":
        path.symlink_to(victim)
    else:
        path.mkdir()
        (path / "meta.json").write_text("{}" if kind == "bad meta" else '{"format_version": 2}')
        if kind == "stranger":
            (path / "thesis.txt").write_text("mine")
        if kind == "nested":
            (path / "calls-000000.parquet").mkdir()
    with pytest.raises(RecordingError, match="not a recording"):
        RecordingWriter(path, force=True, meta=META)
    assert path.is_symlink() or path.exists()
    assert (victim / "meta.json").exists()
    if kind == "stranger":
        assert (path / "thesis.txt").read_text() == "mine"


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    """A dangling link at the output path creates nothing behind it."""
    (tmp_path / "r").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecordingError, match="exists already"):
        RecordingWriter(tmp_path / "r", meta=META)
    assert not (tmp_path / "elsewhere").exists()


def test_a_planted_link_inside_is_not_followed(tmp_path: Path) -> None:
    """Who owns the directory can't make the writer write through a link."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    with RecordingWriter(tmp_path / "r", meta=META) as writer:
        (tmp_path / "r" / "calls-000000.parquet.tmp").symlink_to(victim)
        (tmp_path / "r" / "calls-000000.parquet").symlink_to(victim)
        writer.append("calls", random_rows("calls", 2))
        writer.finish()
    assert victim.read_text() == "mine"
    assert Recording.open(tmp_path / "r").table("calls").size == 2


def test_a_missing_parent_is_an_error(tmp_path: Path) -> None:
    """The parent directory is named."""
    with pytest.raises(RecordingError, match="No such file") as caught:
        RecordingWriter(tmp_path / "none" / "r", meta=META)
    assert str(tmp_path / "none") in caught.value.message
    assert caught.value.exit_code == 1


@pytest.mark.skipif(not Path("/proc/sys").is_dir(), reason="needs /proc")
def test_an_unwritable_parent_is_an_error() -> None:
    """A directory that can't be created is a clear error, not a traceback."""
    with pytest.raises(RecordingError, match="can't create '/proc/sys/r'"):
        RecordingWriter("/proc/sys/r", meta=META)


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC names the file and says the way out; what was closed stays readable."""
    writer = RecordingWriter(tmp_path / "r", meta=META)
    writer.append("calls", random_rows("calls", 3))
    writer.flush()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    writer.append("calls", random_rows("calls", 3))
    with monkeypatch.context() as patch:
        patch.setattr(recording.os, "write", full)
        with pytest.raises(RecordingError, match=r"calls-000001.parquet.*No space") as caught:
            writer.flush()
    assert "disk is full" in caught.value.hint
    assert not list((tmp_path / "r").glob("*.tmp"))
    writer.close()
    assert Recording.open(tmp_path / "r").table("calls").size == 3


def test_a_full_disk_at_the_start_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is gone again: the same name can be used once there is room."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(recording.os, "write", full)
        with pytest.raises(RecordingError, match=r"meta.json.*No space"):
            RecordingWriter(tmp_path / "r", meta=META)
    assert not (tmp_path / "r").exists()
    RecordingWriter(tmp_path / "r", meta=META).close()


def test_no_recording_is_an_error(tmp_path: Path) -> None:
    """Neither a missing path nor any other directory is a recording."""
    with pytest.raises(RecordingError, match="can't read"):
        Recording.open(tmp_path / "none")
    with pytest.raises(RecordingError, match=r"no meta.json"):
        Recording.open(tmp_path)


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    """A format that this mptrace does not know is not guessed at."""
    with RecordingWriter(tmp_path / "r", meta=META) as writer:
        writer.finish()
    path = tmp_path / "r" / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(RecordingError, match="format version 99"):
        Recording.open(tmp_path / "r")


def test_damaged_meta_is_an_error(tmp_path: Path) -> None:
    """A truncated meta.json is named."""
    with RecordingWriter(tmp_path / "r", meta=META) as writer:
        writer.finish()
    (tmp_path / "r" / "meta.json").write_text('{"format_ver')
    with pytest.raises(RecordingError, match=r"meta.json"):
        Recording.open(tmp_path / "r")


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "empty", "other table"])
def test_a_damaged_part_is_an_error(tmp_path: Path, damage: str) -> None:
    """The part is named; the other tables stay readable, and so does the rest without it."""
    with RecordingWriter(tmp_path / "r", meta=META) as writer:
        for seed in (1, 2):
            writer.append("folios", random_rows("folios", 509, seed))
            writer.append("calls", random_rows("calls", 3))
            writer.flush()
        writer.finish()
    part = tmp_path / "r" / "folios-000001.parquet"
    content = part.read_bytes()
    if damage == "truncated":
        part.write_bytes(content[: len(content) // 2])
    elif damage == "overwritten":
        part.write_bytes(content[:100] + bytes(len(content) - 300) + content[-200:])
    elif damage == "empty":
        part.write_bytes(b"")
    else:
        part.write_bytes((tmp_path / "r" / "calls-000000.parquet").read_bytes())
    back = Recording.open(tmp_path / "r")
    with pytest.raises(RecordingError, match=r"folios-000001.parquet"):
        back.table("folios")
    assert back.table("calls").size == 6
    part.unlink()
    rest = Recording.open(tmp_path / "r")
    assert rest.table("folios").size == 509
    assert rest.missing_parts == ("folios-000001.parquet",)


def test_a_recording_of_version_2_is_read_and_says_what_it_does_not_know() -> None:
    """A fixture from before there were initiators and owners."""
    old = Recording.open(Path(__file__).parents[1] / "fixtures" / "recording-v2")
    assert old.meta.format_version == 2
    migrations, folios = old.table("migrations"), old.table("folios")
    assert migrations.size
    assert (migrations["syscall"] == SYSCALL_UNKNOWN).all()
    assert (migrations["succeeded"] == NOT_COUNTED).all()
    assert folios.size
    assert not folios["owner_tgid"].any()
    assert folios["nr_pages"].any()
    assert old.table("waits").size == 0
