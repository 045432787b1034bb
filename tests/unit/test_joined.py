# SPDX-License-Identifier: GPL-2.0-or-later
"""The recordings of one session that rotated are read as one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mptrace.cli import main
from mptrace.errors import RecordingError
from mptrace.recording.layouts import CALL, FOLIO, MIGRATION, PROCESS
from mptrace.recording.meta import Instant, PartOf
from mptrace.recording.reader import Recording
from mptrace.recording.rotated import Joined, open_recording
from mptrace.recording.rotation import Rotation, Series
from mptrace.recording.series import Parts
from mptrace.recording.writer import RecordingWriter

#: When the recordings of `Session` begin.
BOUNDARIES = (1000, 2000, 3000, 4000)


def call(call_id: int, enter_ns: int, *, lost: int = 0) -> np.ndarray[Any, Any]:
    """A call that has ended."""
    rows = np.zeros(1, CALL)
    rows["call_id"], rows["enter_ns"], rows["exit_ns"], rows["lost"] = call_id, enter_ns, 9999, lost
    return rows


def process(tgid: int, comm: bytes, seen_ns: int) -> np.ndarray[Any, Any]:
    """One that was met."""
    rows = np.zeros(1, PROCESS)
    rows["tgid"], rows["comm"], rows["seen_ns"] = tgid, comm, seen_ns
    return rows


class Session:
    """Four recordings of one session, each with a call of its own and one from before."""

    def __init__(self, base: Path, *, began: int = 10**18, tier: str = "bpf") -> None:
        self.base = base
        self.meta = {
            "started": {"wall_ns": began, "monotonic_ns": 1},
            "tier": tier,
            "rotation": None,
            "mappings": [[1, 2, "all"]],
        }
        series = Series(base, Rotation(bytes=1))
        self.parts = Parts(series, self.meta, force=False)
        for number, boundary in enumerate(BOUNDARIES):
            self._fill(number, boundary)
            if number < len(BOUNDARIES) - 1:
                assert self.parts.rotate_if_due(0, self._hand_over, self._last(number))
        self.parts.finish(self._last(3)())

    def _hand_over(self, writer: RecordingWriter) -> None:
        self.parts.writer.flush()
        number = len(self.parts.paths) - 1
        writer.meta["boundary_ns"] = BOUNDARIES[number]
        # as `now()`, but for a test's own time
        writer.update_meta(started={"wall_ns": self._wall(number), "monotonic_ns": 1})

    def _wall(self, number: int) -> int:
        started: dict[str, Any] = self.meta["started"]  # type: ignore[assignment]
        return int(started["wall_ns"]) + number

    def _fill(self, number: int, boundary: int) -> None:
        writer = self.parts.writer
        writer.append("calls", call(10 * number + 10, boundary))
        # it began in the recording before, and something else of it is lost, too
        early = int(number > 0)
        writer.append("calls", call(10 * number + 11, boundary - 1, lost=1 + early))
        migrations = np.zeros(2, MIGRATION)
        migrations["call_id"] = 10 * number + 10, 10 * number + 11
        migrations["enter_ns"], migrations["lost"] = [boundary, boundary - 1], [0, early]
        writer.append("migrations", migrations)
        folios = np.zeros(number + 1, FOLIO)
        folios["call_id"] = 10 * number + 10
        writer.append("folios", folios)
        writer.append("processes", process(23, b"mover" if number < 2 else b"", number))
        writer.append("processes", process(42 + number, b"other", number))

    def _last(self, number: int) -> Callable[[], dict[str, Any]]:
        return lambda: {
            "ended": {"wall_ns": self._wall(number + 1), "monotonic_ns": 2},
            "lost": {"ring": number, "held": 0},
            "symbols": {f"{number:#x}": f"f{number}"},
            "cgroups": {"7": "/all", str(100 + number): f"/{number}"},
            "unseen": ["statuses", *(["CPU 7"] if number == 2 else [])],
        }


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The name of a session that has ended."""
    return Session(tmp_path / "rot").base


def joined(base: Path) -> Joined:
    """All of it."""
    data, _ = open_recording(base)
    assert isinstance(data, Joined)
    return data


def test_every_row_is_there_once(base: Path) -> None:
    """In the order of the recordings."""
    data = joined(base)
    assert data.table("calls")["call_id"].tolist() == [10, 11, 20, 21, 30, 31, 40, 41]
    assert data.table("migrations").size == 8
    assert data.table("folios")["call_id"].tolist() == [10] + [20] * 2 + [30] * 3 + [40] * 4
    assert data.tables()["entries"].size == 0
    assert (data.missing_parts, data.notes, data.complete) == ((), (), True)


def test_what_lies_across_a_boundary_is_whole_where_both_are_read(base: Path) -> None:
    """What else it lost stays lost; each recording by itself has it as lost."""
    data = joined(base)
    assert data.table("calls")["lost"].tolist() == [0, 1] * 4
    assert data.table("migrations")["lost"].tolist() == [0, 0] * 4
    alone, _ = open_recording(base.with_name("rot.000002"))
    assert alone.table("calls")["lost"].tolist() == [0, 2]
    assert alone.meta.rotation == PartOf((2,), "rot")


def test_tracepoints_mark_calls_alone(tmp_path: Path) -> None:
    """A migration that lost something has lost it."""
    data = joined(Session(tmp_path / "rot", tier="tracepoints").base)
    assert data.table("calls")["lost"].tolist() == [0, 1] * 4
    assert data.table("migrations")["lost"].tolist() == [0, 0, *[0, 1] * 3]


def test_each_process_is_there_once(base: Path) -> None:
    """By its name where it was gone when it was asked about again."""
    rows = joined(base).table("processes")
    assert rows[["tgid", "comm"]].tolist() == [
        (23, b"mover"),
        *((42 + number, b"other") for number in range(4)),
    ]


def test_meta_is_of_the_whole_session(base: Path) -> None:
    """From the first one's begin to the last one's end; what was lost is added up."""
    meta = joined(base).meta
    assert meta.started == Instant(10**18, 1)
    assert meta.ended == Instant(10**18 + 4, 2)
    assert meta.lost == {"ring": 6, "held": 0}
    assert meta.symbols == {n: f"f{n}" for n in range(4)}
    assert meta.cgroups == {7: "/all", **{100 + n: f"/{n}" for n in range(4)}}
    assert meta.mappings == ((1, 2, "all"),)
    assert meta.raw["unseen"] == ["statuses", "CPU 7"]
    assert meta.rotation == PartOf((1, 2, 3, 4), "rot")


def test_one_that_is_missing_in_the_middle_is_said(base: Path) -> None:
    """What began in it, or before, and ended later stays lost."""
    shutil.rmtree(base.with_name("rot.000002"))
    data = joined(base)
    assert data.missing_parts == ("rot.000002",)
    assert data.table("calls")["lost"].tolist() == [0, 1, 0, 2, 0, 1]
    result = CliRunner().invoke(main, ["report", "--strict", "--all", str(base)])
    assert result.exit_code == 3
    assert " a part is missing: rot.000002" in result.stdout
    shutil.rmtree(base.with_name("rot.000003"))
    result = CliRunner().invoke(main, ["report", "--strict", "--all", str(base)])
    assert " parts are missing: rot.000002, rot.000003" in result.stdout


def test_a_part_of_one_that_is_missing_is_said(base: Path) -> None:
    """By the recording's name and its own."""
    (base.with_name("rot.000003") / "folios-000000.parquet").unlink()
    assert joined(base).missing_parts == ("rot.000003/folios-000000.parquet",)


def test_what_keep_has_removed_is_no_fault(base: Path) -> None:
    """It is said all the same."""
    for number in (1, 2):
        shutil.rmtree(base.with_name(f"rot.00000{number}"))
    data = joined(base)
    assert (data.missing_parts, data.complete) == ((), True)
    assert data.notes == (
        "the session's recordings before 'rot.000003' are gone (--keep removes them)",
    )
    # the recording in which it began is gone
    assert data.table("calls")["lost"].tolist() == [0, 2, 0, 1]


def test_without_its_last_recording_a_session_is_not_complete(base: Path) -> None:
    """Though each that is there is."""
    shutil.rmtree(base.with_name("rot.000004"))
    assert not joined(base).complete


def test_a_session_that_was_killed_is_not_complete(base: Path) -> None:
    """What its last recording lost nobody knows."""
    path = base.with_name("rot.000004") / "meta.json"
    meta = json.loads(path.read_text()) | {"complete": False, "lost": {}}
    path.write_text(json.dumps(meta))
    assert not joined(base).complete
    assert joined(base).meta.lost == {"ring": 3, "held": 0}
    for number in (2, 3):
        shutil.rmtree(base.with_name(f"rot.00000{number}"))
    assert joined(base).meta.lost == {}


def test_sessions_are_not_mixed(base: Path, tmp_path: Path) -> None:
    """The newest one of that name is read, and the other is named."""
    (tmp_path / "new").mkdir()
    newer = Session(tmp_path / "new" / "rot", began=2 * 10**18).base
    for number in (1, 2):
        shutil.rmtree(base.with_name(f"rot.00000{number}"))
        newer.with_name(f"rot.00000{number}").rename(base.with_name(f"rot.00000{number}"))
    data = joined(base)
    assert data.meta.rotation == PartOf((1, 2), "rot")
    assert data.table("calls")["call_id"].tolist() == [10, 11, 20, 21]
    older = [f"'{base}.00000{number}'" for number in (3, 4)]
    assert data.notes == (f"not read, as an older session wrote it: {older[0]} to {older[1]}",)


def test_sessions_of_before_are_told_apart_by_time(base: Path) -> None:
    """They wrote no name of the session: later numbers of an older one began earlier."""
    for number, wall in enumerate((50, 51, 10, 11), 1):
        path = base.with_name(f"rot.00000{number}") / "meta.json"
        meta = json.loads(path.read_text())
        del meta["session"]
        meta["started"]["wall_ns"] = wall
        path.write_text(json.dumps(meta))
    assert joined(base).meta.rotation == PartOf((1, 2), "rot")


def test_what_is_none_of_them_is_left_out(base: Path) -> None:
    """A file, a directory, a recording that was put there: each is named."""
    base.with_name("rot.000005").write_text("mine")
    base.with_name("rot.000006").mkdir()
    RecordingWriter(base.with_name("rot.000007"), meta={"rotation": None}).finish()
    data = joined(base)
    assert data.meta.rotation == PartOf((1, 2, 3, 4), "rot")
    assert [note.partition(" ")[0] for note in data.notes] == [
        f"'{base}.00000{number}'" for number in (5, 6, 7)
    ]


def test_a_copy_counts_nothing_twice(base: Path) -> None:
    """One of the session by another number is that one again."""
    shutil.copytree(base.with_name("rot.000002"), base.with_name("rot.000007"))
    data = joined(base)
    assert data.table("calls").size == 8
    assert data.notes == (f"'{base}.000007' is a copy of another recording, and is not read",)


def test_a_recording_by_that_very_name_is_read_alone(base: Path) -> None:
    """And the session beside it is named."""
    RecordingWriter(base, meta={"note": "alone"}).finish()
    data, notes = open_recording(base)
    assert isinstance(data, Recording)
    assert data.meta.raw["note"] == "alone"
    assert f"'{base}.000001' to '{base}.000004' are another session's" in notes[0]
    for number in (2, 3, 4):
        shutil.rmtree(base.with_name(f"rot.00000{number}"))
    _, notes = open_recording(base)
    assert notes == (
        f"'{base}.000001' is another session's and is not read; give its name to read it",
    )


#: Values of these keys that are fine, though another one was written.
FINE = [
    *((key, None) for key in ("session", "boundary_ns", "rotation", "started")),
    ("last_part", True),
    ("rotation", {"a": [1]}),
    # keys below that nobody reads
    *((key, value) for key in ("session", "started") for value in ({"number": "x"}, {"a": [1]})),
]


@pytest.mark.parametrize("key", ["session", "boundary_ns", "last_part", "rotation", "started"])
@pytest.mark.parametrize("value", ["x", [1], {"number": "x"}, {"a": [1]}, -1, True, 1e300, None])
def test_a_wrong_value_is_named(base: Path, key: str, value: object) -> None:
    """With the file and the key; a value that may be there is read."""
    path = base.with_name("rot.000003") / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    if (key, value) in FINE:
        data = joined(base)
        assert data.table("calls").size in (2, 4, 6, 8)
        assert data.meta.rotation.base == "rot"
        return
    with pytest.raises(RecordingError) as caught:
        joined(base)
    assert str(path) in caught.value.message
    assert f"{key} is " in caught.value.message.replace(".number", "")


def test_where_nothing_is_there_that_is_said(tmp_path: Path) -> None:
    """As for any recording; also where only strangers have such names."""
    with pytest.raises(RecordingError, match=r"can't read .*none': No such file"):
        open_recording(tmp_path / "none")
    (tmp_path / "r.000001").write_text("mine")
    with pytest.raises(RecordingError, match="there is no recording") as caught:
        open_recording(tmp_path / "r")
    assert "is not a recording" in caught.value.hint


@pytest.mark.parametrize("command", ["report", "dump", "explain"])
def test_every_command_reads_a_session(base: Path, command: str) -> None:
    """By its name; by the name of one of its recordings that one alone."""
    of = {"report": ("report", "--json"), "explain": ("explain",)}.get(
        command, ("dump", "--table", "calls", "--format", "jsonl")
    )
    whole = CliRunner().invoke(main, [*of, str(base)])
    single = CliRunner().invoke(main, [*of, f"{base}.000002"])
    assert (whole.exit_code, single.exit_code) == (0, 0)
    if command == "dump":
        assert (len(whole.stdout.splitlines()), len(single.stdout.splitlines())) == (8, 2)
    elif command == "report":
        numbers = json.loads(whole.stdout)
        assert (numbers["migrations"]["count"], numbers["lost"]["ring"]) == (8, 6)
        assert json.loads(single.stdout)["migrations"]["count"] == 2
        text = CliRunner().invoke(main, ["report", "--all", str(base)]).stdout
        assert "part       1 to 4 of rot\n" in text
