# SPDX-License-Identifier: GPL-2.0-or-later
"""What `mptrace stat` and `mptrace top` print, from counts made by hand."""

import json
import os
from pathlib import Path

import pytest
from stat_rows import MIGRATION, REASONS, WAIT, busy, entry, interval, table

from mptrace.reporting.text.stat import Lines, short, short_ns, to_json
from mptrace.tracing.counting.counts import LOST_CAUSES, split
from mptrace.tracing.counting.views import VIEWS

GOLDEN = Path(__file__).parent / "golden"
UPDATE = "MPTRACE_UPDATE_GOLDEN=1 pytest tests/unit/test_stat_report.py -k golden"
LOST = {**dict.fromkeys(LOST_CAUSES, 0), "row_map_full": 17}


def text(view: str) -> str:
    """Two intervals, the second without anything, and a total."""
    lines = Lines(view, REASONS)
    return "\n".join(
        [
            lines.interval(interval(busy(), lost=LOST), "01:02:03"),
            lines.interval(interval(busy()[:0]), "01:02:05"),
            lines.total(
                interval(busy(), unfinished={"migrations": 1, "waits": 0}, kernel_pages=(6833, 28))
            ),
            "",
        ]
    )


@pytest.mark.parametrize("view", VIEWS)
def test_golden_text(view: str) -> None:
    """The text of each view, in 80 columns."""
    made = text(view)
    golden = GOLDEN / f"stat_{view}.txt"
    if os.environ.get("MPTRACE_UPDATE_GOLDEN"):
        golden.write_text(made)
    assert made == golden.read_text(), f"if it is meant: {UPDATE}"
    assert max(map(len, made.splitlines())) <= 80


def test_numbers_however_large_keep_to_80_columns() -> None:
    """Counts and times of years on a large host neither push columns nor lose their size."""
    huge = 10**15 + 7
    values = {"count": huge, "succeeded": huge, "failed": huge, "time_ns": 9 * 10**17, "slot": 39}
    rows = table(
        entry(MIGRATION, 5, 4194304, "a" * 15, flags=1, **values),
        entry(WAIT, 5, 4194304, "a" * 15, count=huge, time_ns=9 * 10**17, slot=39),
    )
    for view in VIEWS:
        lines = Lines(view, REASONS).interval(interval(rows), "01:02:03").splitlines()
        assert max(map(len, lines)) <= 80
        assert "1e+03T" not in lines[-1]
        assert "1P" in lines[-1]


def test_the_heading_comes_again_after_a_screen() -> None:
    """Once at first, and again after 20 lines."""
    lines = Lines("reason", REASONS)
    headings = [
        number
        for number in range(50)
        if lines.interval(interval(busy()[:0]), "01:02:03").startswith("time")
    ]
    assert headings == [0, 20, 40]


def test_a_name_cannot_write_to_the_terminal() -> None:
    """Control characters of a process's name, which anybody may set, are not printed."""
    rows = table(entry(MIGRATION, 3, 7, "a\x1b[2Jb", count=1, succeeded=1, time_ns=1, slot=0))
    made = Lines("process", REASONS).interval(interval(rows), "01:02:03")
    assert "a?[2Jb" in made
    assert "\x1b" not in made


def test_json_has_units_and_adds_up() -> None:
    """The values of groups sum to the total's; rates are of the interval's length."""
    for view, key in (("reason", "reasons"), ("process", "processes"), ("cgroup", "cgroups")):
        value = json.loads(
            json.dumps(to_json(interval(busy(), lost=LOST), REASONS, "interval", view))
        )
        assert value["type"] == "interval"
        assert value["seconds"] == 2
        assert value["lost"] == LOST
        everything = value["total"]
        assert (everything["moved_pages"], everything["moved_pages_per_s"]) == (6832, 3416)
        for name in ("migrations", "moved_pages", "failed_pages", "time_ns", "waits", "wait_ns"):
            assert sum(group[name] for group in value[key]) == everything[name]
        assert everything["wait_histogram_ns"] == [[1 << 19, 125]]
    value = to_json(interval(busy()), REASONS, "interval", "process")
    postgres = value["processes"][-1]
    assert (postgres["tgid"], postgres["comm"], postgres["kernel_thread"]) == (
        901,
        "postgres",
        False,
    )
    assert postgres["reasons"] == [
        {"reason": "numa_misplaced", "moved_pages": 4, "migrations": 4},
        {"reason": "compaction", "moved_pages": 0, "migrations": 1},
    ]


def test_json_of_a_total_has_the_kernels_own_counts() -> None:
    """null where they were not compared, as with -p."""
    value = to_json(interval(busy(), kernel_pages=(6833, 28)), REASONS, "total", "reason")
    assert (value["vmstat_moved_pages"], value["vmstat_failed_pages"]) == (6833, 28)
    value = to_json(interval(busy()), REASONS, "total", "reason")
    assert value["vmstat_moved_pages"] is None


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0"), (99999, "99999"), (999_999, "1M"), (123_456, "123k"), (10**15, "1P")],
)
def test_short_counts(number: int, expected: str) -> None:
    """A count as it is where it fits five characters, else three digits and a suffix."""
    assert short(number, 5) == expected


@pytest.mark.parametrize(
    ("ns", "expected"),
    [(0, "0ns"), (999, "999ns"), (1000, "1us"), (999_600, "1ms"), (3.6e12, "3600s")],
)
def test_short_times(ns: float, expected: str) -> None:
    """A time with three significant digits and its unit."""
    assert short_ns(ns) == expected


@pytest.mark.parametrize("view", VIEWS)
def test_what_mptrace_did_itself_is_said_and_not_counted(view: str) -> None:
    """Its pages are in no line but their own; /proc/vmstat counts them, which is no difference."""
    rows, own = split(busy(), [901])
    whole = interval(rows, own=own, kernel_pages=(6832, 28))
    text = Lines(view, REASONS).total(whole)
    assert "  ! of mptrace itself, not counted: 5 migrations, 4 pages moved, 125 waits" in text
    assert "postgres" not in text
    assert text.endswith("/proc/vmstat counted 6,832 pages moved, 28 failed")
    value = to_json(whole, REASONS, "total", view)
    assert (value["total"]["moved_pages"], value["own"]["moved_pages"]) == (6828, 4)
    assert (value["total"]["waits"], value["own"]["waits"]) == (0, 125)
    assert "itself" not in Lines(view, REASONS).total(interval(busy()))
