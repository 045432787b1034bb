# SPDX-License-Identifier: GPL-2.0-or-later
"""The largest batch that a budget allows: from what was measured, and marked where it is not."""

from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from others import META, MOVER, Others

from mptrace.cli import main
from mptrace.errors import UsageError
from mptrace.recording.layouts import CALL, TABLES
from mptrace.recording.meta import Meta
from mptrace.recording.writer import RecordingWriter
from mptrace.report import render
from mptrace.reporting.numbers.budget import MAX_SIZES, MIN_BATCHES, MIN_SAMPLES, within
from mptrace.reporting.numbers.profile import profile
from mptrace.units import parse_ns


def calls(*groups: tuple[int, int, int]) -> dict[str, Any]:
    """Tables with calls: (pages, how many, ns of each)."""
    tables = {name: np.zeros(0, layout) for name, layout in TABLES.items()}
    rows = np.zeros(sum(count for _, count, _ in groups), CALL)
    rows["nodes_ptr"], rows["call_id"] = 1, np.arange(rows.size) + 1
    rows["nr_pages"] = np.repeat([p for p, _, _ in groups], [n for _, n, _ in groups])
    rows["enter_ns"] = 1000
    rows["exit_ns"] = 1000 + np.repeat([ns for _, _, ns in groups], [n for _, n, _ in groups])
    return {**tables, "calls": rows}


def answer(tables: dict[str, Any], budget_ns: int) -> dict[str, Any]:
    """That of the calls' time."""
    (found,) = within(
        profile(tables, KNOWN)["cost_curve"],
        budget_ns,
    )
    assert (found["measure"], found["path"]) == ("call_duration", "move_pages")
    return found


KNOWN = Meta.of(META)
CURVE = ((64, 100, 1_000_000), (512, 100, 8_000_000), (4096, 100, 60_000_000))


def test_the_largest_batch_below_the_budget() -> None:
    """The measured size before the first that exceeds it, with what that one costs."""
    found = answer(calls(*CURVE), 20_000_000)
    assert (found["state"], found["pages"], found["p99_ns"]) == ("measured", 512, 8_000_000)
    assert found["next"] == {"pages": 4096, "p99_ns": 60_000_000, "samples": 100}
    assert found["extrapolated_pages"] is None


def test_a_size_that_only_just_meets_the_budget_does_not_stay_below() -> None:
    """Below means below; one nanosecond more is enough."""
    assert answer(calls(*CURVE), 8_000_000)["pages"] == 64
    assert answer(calls(*CURVE), 8_000_001)["pages"] == 512


def test_the_p99_decides_and_not_the_middle() -> None:
    """Two slow ones of a hundred and one exceed the budget; one does not."""
    slow = calls((512, 99, 1000), (512, 2, 10**9))
    fast = calls((512, 100, 1000), (512, 1, 10**9))
    assert answer(slow, 10**6)["state"] == "none"
    assert answer(fast, 10**6)["state"] == "at_least"


def test_beyond_what_was_measured_it_is_an_extrapolation() -> None:
    """On a straight line, marked, and not far."""
    line = calls(*((n, 100, 1000 * n) for n in (100, 200, 400)))
    found = answer(line, 1_000_000)
    assert (found["state"], found["pages"], found["extrapolated_pages"]) == ("at_least", 400, 1000)
    assert answer(line, 10**9)["extrapolated_pages"] is None
    small = answer(line, 50_000)
    assert (small["state"], small["pages"], small["extrapolated_pages"]) == ("none", None, 50)
    assert answer(calls((400, 100, 1000)), 10**6)["extrapolated_pages"] is None


def test_too_few_samples_are_unknown() -> None:
    """A size with less than a hundred calls decides nothing; their number is said."""
    found = answer(calls((64, MIN_SAMPLES - 1, 1000)), 10**9)
    assert (found["state"], found["pages"], found["samples"]) == ("unknown", None, 99)
    found = answer(calls((64, 100, 1000), (512, 99, 1000)), 10**9)
    assert (found["state"], found["pages"]) == ("at_least", 64)


def test_a_larger_size_that_happens_to_be_fast_is_not_taken() -> None:
    """The first that exceeds the budget ends it."""
    assert answer(calls((1, 100, 10), (2, 100, 10**6), (3, 100, 10)), 1000)["pages"] == 1


def test_many_sizes_are_put_together() -> None:
    """By powers of two; the smallest of a group is what may be claimed."""
    sizes = calls(*((n, 20, 1000 * n) for n in range(1, 2 * MAX_SIZES)))
    (curve,) = profile(sizes, KNOWN)["cost_curve"]
    assert [group["pages"] for group in curve["groups"]] == [1, 2, 4, 8, 16, 32]
    assert [group["most_pages"] for group in curve["groups"]] == [1, 3, 7, 15, 31, 63]
    assert answer(sizes, 32_000)["pages"] == 16


def test_calls_that_failed_or_lost_records_are_left_out() -> None:
    """So are those that did not end."""
    tables = calls((64, 101, 1000))
    tables["calls"]["ret"][:40], tables["calls"]["lost"][40:60] = -22, 1
    tables["calls"]["exit_ns"][60:80] = 0
    (curve,) = profile(tables, KNOWN)["cost_curve"]
    assert curve["groups"][0]["samples"] == 21


def test_migrations_and_blackouts_are_measured_by_path() -> None:
    """By base pages of the migration; a THP counts all of its pages."""
    others = Others()
    for _ in range(MIN_SAMPLES):
        others.migrate("mempolicy_mbind", tgid=MOVER, comm=b"m", folios=[{"nr_pages": 512}], ns=700)
    for _ in range(3):
        others.migrate("compaction", tgid=31, comm=b"kcompactd0", kthread=True, folios=[{}] * 32)
    tables = others.tables()
    found = {
        (each["path"], each["measure"]): each
        for each in within(
            profile(tables, KNOWN)["cost_curve"],
            600,
        )
    }
    assert found["mbind", "migration_duration"]["state"] == "none"
    assert found["mbind", "blackout_per_page"]["pages"] == 512
    # 96 folios, and of three migrations only
    assert found["compaction_kcompactd", "blackout_per_page"]["state"] == "unknown"


def test_folios_of_a_few_migrations_are_no_sample() -> None:
    """A thousand folios of nine migrations share nine fates."""
    for batches, state in ((MIN_BATCHES - 1, "unknown"), (MIN_BATCHES, "at_least")):
        others = Others()
        for _ in range(batches):
            others.migrate("damon", tgid=9, comm=b"k", kthread=True, folios=[{}] * 101)
        tables = others.tables()
        found = within(
            profile(tables, KNOWN)["cost_curve"],
            10**6,
        )
        assert {each["measure"]: each["state"] for each in found} == {
            "migration_duration": "unknown",
            "blackout_per_page": state,
        }


def test_the_report_says_which_and_marks_what_was_not_measured(tmp_path: Any) -> None:
    """Through the command line: the batch, the next size, unknown ones, a bad budget."""
    with RecordingWriter(tmp_path / "r", meta=META) as writer:
        writer.append("calls", calls(*CURVE)["calls"])
        writer.finish()
    runner = CliRunner()
    result = runner.invoke(main, ["report", "--budget", "20ms", str(tmp_path / "r")])
    assert result.exit_code == 0
    assert "batch below 20 ms" in result.output
    assert "move_pages(2), whole call: 4,096 pages had 60 ms" in result.output
    wide = runner.invoke(main, ["report", "--budget", "100 ms", str(tmp_path / "r")]).output
    wide = " ".join(wide.split())
    assert ">= 4,096" in wide
    assert "4,096 is the largest that was measured; extrapolated, not measured: about 6,836" in wide
    assert "batch below" not in runner.invoke(main, ["report", str(tmp_path / "r")]).output
    bad = runner.invoke(main, ["report", "--budget", "20", str(tmp_path / "r")])
    assert bad.exit_code == 2
    assert "20ms" in bad.output


def test_nothing_measured_and_emulation_are_said() -> None:
    """No batch is named from nothing; figures of an emulated host are marked."""
    empty = {name: np.zeros(0, layout) for name, layout in TABLES.items()}
    assert "no batch can be named" in render(profile(empty, KNOWN, budget_ns=1))
    found = profile(calls(*CURVE), Meta.of({**META, "emulated": True}), budget_ns=10**7)
    assert "measured under emulation: no figure for real hardware" in render(found)


def test_times_are_parsed() -> None:
    """With a unit; what is none is refused."""
    assert [parse_ns(text) for text in ("20ms", "1.5 s", "500us", "250NS")] == [
        20_000_000,
        1_500_000_000,
        500_000,
        250,
    ]
    for text in ("20", "", "ms", "-1ms", "0ms", "1h"):
        with pytest.raises(UsageError):
            parse_ns(text)
