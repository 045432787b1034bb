# SPDX-License-Identifier: GPL-2.0-or-later
"""What recording itself takes: measured, kept in each recording, summed, and said."""

import json
import time
from pathlib import Path

import pytest
import recorded
from click.testing import CliRunner
from test_joined import Session, joined

from mptrace.cli import main
from mptrace.recording.clock import RecorderClock
from mptrace.recording.layouts import TABLES
from mptrace.recording.meta import Meta, RecorderCost
from mptrace.reporting.numbers.recorder import recorder_numbers
from mptrace.reporting.text.recorder import recorder_text
from mptrace.sessions.request import RecordResult

COST = RecorderCost(cpu_ns=420_000_000, wall_ns=10_500_000_000, cpus=4, folios=105_000)


def text(cost: RecorderCost) -> str:
    """What is said of it."""
    numbers = recorder_numbers(cost)
    assert numbers is not None
    return recorder_text(numbers)


def test_it_is_the_cpu_time_of_this_process_since_the_last_time() -> None:
    """Not the time on the wall; of all that it does."""
    clock = RecorderClock()
    cpu, wall = time.process_time_ns(), time.monotonic_ns()
    while time.process_time_ns() - cpu < 30_000_000:
        pass
    time.sleep(0.03)
    busy = clock.took(23)
    spent, passed = time.process_time_ns() - cpu, time.monotonic_ns() - wall
    assert 30_000_000 <= busy["cpu_ns"] <= spent + 1_000_000
    assert busy["cpu_ns"] + 20_000_000 < busy["wall_ns"] <= passed + 1_000_000
    assert (busy["folios"], busy["cpus"] > 0) == (23, True)
    assert clock.took(0)["cpu_ns"] < 30_000_000


def test_each_recording_of_a_session_has_its_own_and_all_have_their_sum(tmp_path: Path) -> None:
    """Of the folios that are in it."""
    session = Session(tmp_path / "rot")
    each = [
        json.loads((path / "meta.json").read_text())["recorder"] for path in session.parts.paths
    ]
    assert [one["folios"] for one in each] == [1, 2, 3, 4]
    assert all(one["cpu_ns"] > 0 for one in each)
    sums = [sum(one[name] for one in each) for name in ("cpu_ns", "wall_ns", "folios")]
    for whole in (session.parts.recorder, joined(session.base).meta.recorder):
        assert whole is not None
        assert [whole.cpu_ns, whole.wall_ns, whole.folios] == sums
        assert whole.cpus == each[0]["cpus"]


def test_where_one_recording_does_not_say_it_the_sum_is_unknown(tmp_path: Path) -> None:
    """It was killed, or is of an older version."""
    base = Session(tmp_path / "rot").base
    path = tmp_path / "rot.000002" / "meta.json"
    meta = json.loads(path.read_text())
    del meta["recorder"]
    path.write_text(json.dumps(meta))
    assert joined(base).meta.recorder is None


def test_it_is_said_of_a_cpu_of_all_and_for_a_folio() -> None:
    """Without folios, and on one CPU, with less."""
    assert text(COST) == (
        "420 ms of CPU time in 10.5 s: 4 % of a CPU, 1 % of 4; 4 us for each of 105,000 folios"
    )
    assert text(RecorderCost(7_000, 70_000, 1, 0)) == "7 us of CPU time in 70 us: 10 % of a CPU"
    assert text(RecorderCost(7_000, 0, 1, 0)) == "7 us of CPU time in 0 ns"
    assert recorder_numbers(None) is None


def test_the_report_has_it(tmp_path: Path) -> None:
    """With --all and in JSON; of a recording that does not say it there is nothing."""
    path = recorded.write(tmp_path / "r")
    said = CliRunner().invoke(main, ["report", "--all", str(path)])
    assert "recorder" not in said.stdout
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({**meta, "recorder": vars(COST)}))
    said = CliRunner().invoke(main, ["report", "--all", str(path)])
    (line,) = (line for line in said.stdout.splitlines() if line.startswith("recorder"))
    assert line.split(maxsplit=1)[1].startswith("420 ms of CPU time in 10.5 s: 4 % of a CPU, 1 %")
    numbers = json.loads(CliRunner().invoke(main, ["report", "--json", str(path)]).stdout)
    assert numbers["recorder"]["share_of_cpus"] == pytest.approx(0.01)
    assert numbers["recorder"]["cpu_ns_per_folio"] == 4_000


def test_record_says_it_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what was recorded, on stderr."""
    result = RecordResult((tmp_path,), dict.fromkeys(TABLES, 0), {}, None, False, COST)
    monkeypatch.setattr("mptrace.sessions.record.record", lambda *_: result)
    done = CliRunner().invoke(main, ["record", "-a"])
    assert f"the recorder took {text(COST)}" in done.stderr
    assert Meta.of({}).recorder is None
