# SPDX-License-Identifier: GPL-2.0-or-later
"""Text takes the width that there is: never more than it, and nothing is cut that has room."""

import dataclasses
import fcntl
import io
import os
import pty
import struct
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import recorded
import test_conform
import test_doctor
import test_where
from click.testing import CliRunner
from others import META
from stat_rows import MIGRATION, WAIT, entry, interval, table
from test_report_others import busy

from mptrace.cli import main, terminal
from mptrace.recording.meta import Meta
from mptrace.report import render
from mptrace.reporting.numbers.profile import profile
from mptrace.reporting.text import conform, doctor
from mptrace.reporting.text import stat as report_stat
from mptrace.reporting.text.layout import clip, clip_process, columns, wide
from mptrace.reporting.text.layout import table as text_table
from mptrace.reporting.text.where import render_where
from mptrace.tracing.counting.counts import LOST_CAUSES
from mptrace.tracing.counting.views import VIEWS

COMM = "a_comm_of_15_by"
PID = 4_194_304
MANY = 999_999_999_999
CGROUP = "/kubepods.slice/burstable/" + "pod0123456789abcdef-" * 9 + "end.scope"
#: The longest that the kernel names.
REASONS = {0: "compaction", 5: "mempolicy_mbind"}
LABEL = "direct compaction in a page fault"


def widest(text: str) -> int:
    """Columns of the longest line."""
    return max(map(len, text.splitlines()))


def test_a_table_is_cut_only_where_it_is_too_wide() -> None:
    """First the blanks around heads go, then the widest names shrink; numbers never."""
    rows = [["n" * 40, f"{COMM}/{PID}", "123,456,789,012"]]
    heads = ["a name", "by", "a long head"]
    cuts = {0: clip, 1: clip_process}

    def made(width: int) -> list[str]:
        with columns(width):
            return text_table(rows, heads, ("left", "left", "right"), cuts)

    assert made(82)[1] == f"{'n' * 40}  {COMM}/{PID}  123,456,789,012"
    assert made(81)[1] == f"{'n' * 38}~  {COMM}/{PID}  123,456,789,012"
    assert len(made(80)[1]) == 80
    rows[0][0] = "n" * 90
    assert made(80)[1] == f"{'n' * 37}~  {COMM}/{PID}  123,456,789,012"
    assert made(200)[1].startswith("n" * 90 + "  ")


def test_a_process_keeps_its_number() -> None:
    """Its name is cut, and it is said."""
    assert clip_process("postgres/4194304", 16) == "postgres/4194304"
    assert clip_process("postgres/4194304", 12) == "pos~/4194304"
    assert clip_process("a/b/12", 5) == "a~/12"
    assert clip_process("no process", 5) == "no p~"


def test_the_width_ends_with_the_rendering() -> None:
    """What is rendered next has its own; less than 80 is not laid out."""
    with columns(132):
        assert wide() == 132
    assert wide() == 80
    with columns(40):
        assert wide() == 80


def test_the_width_is_the_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """COLUMNS first, then the terminal that stdout is; 80 for a pipe, and for nonsense."""
    monkeypatch.delenv("COLUMNS", raising=False)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 132, 0, 0))
    with os.fdopen(theirs, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert terminal.width() == 132
        for columns_, expected in (("100", 100), ("40", 80), ("0", 132), ("wide", 132)):
            monkeypatch.setenv("COLUMNS", columns_)
            assert terminal.width() == expected
    monkeypatch.delenv("COLUMNS")
    os.close(ours)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert terminal.width() == 80
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert terminal.width() == 80


def wild() -> Any:
    """Numbers of a report, each name as long and each count as large as it can be."""
    meta = {**META, "cgroups": {"77": CGROUP}, "unseen": ["a sentence " * 20]}
    numbers = enlarged(profile(busy(), Meta.of(meta), budget_ns=20_000_000))
    nids = range(1015, 1024)
    numbers["matrix"] = [{"from": a, "to": b, "pages": MANY} for a in nids for b in nids]
    return numbers


def enlarged(value: Any, key: str = "") -> Any:
    """The same numbers with every count of 12 digits, time of a day, name and path long."""
    if isinstance(value, dict):
        return {name: enlarged(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [enlarged(each, key) for each in value]
    if key in ("comm", "process"):
        return COMM
    if key == "cgroup":
        return CGROUP
    if key == "mapping":
        return "/usr/lib/" + "very-long-" * 12 + ".so"
    if key == "label":
        return LABEL
    if key == "tgid":
        return PID
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if key.endswith("_ns"):
        return 10**15
    if key in ("p50", "p90", "p99", "max"):
        return 10**14
    return MANY if key in COUNTS else value


COUNTS = frozenset({
    "count", "calls", "entries", "migrations", "moved", "failed", "unknown", "asked", "checked",
    "agree", "silent", "disagree", "pages", "folios", "untouched", "returned_zero", "windows",
    "returned_positive", "without_end", "samples", "isolated", "stayed_pages", "unknown_pages",
    "moved_pages", "failed_pages", "failed_migrations", "duplicate",
})  # fmt: skip


def test_a_report_fits_whatever_is_in_it() -> None:
    """80 columns by default; where there are more, no name is cut."""
    numbers = wild()
    text = render(numbers, histogram=True)
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert f"/{PID}" in text
    wider = render(numbers, histogram=True, width=160)
    assert [line for line in wider.splitlines() if len(line) > 160] == []
    assert widest(wider) > 80
    assert "~" not in wider
    assert f"{LABEL}  {COMM}/{PID}" in wider
    for made in (text, wider):
        assert made.count(f"{MANY:,}") > 81


def test_the_other_reports_fit() -> None:
    """doctor, where, conform and stat, at 80 columns and at 160."""
    diagnosis = test_doctor.diagnose()
    longest = dataclasses.replace(
        diagnosis,
        phases=tuple(
            dataclasses.replace(phase, attach="a_function_with_a_name_" * 4, reason="why " * 40)
            for phase in diagnosis.phases
        ),
    )
    rows = table(
        entry(MIGRATION, 5, PID, COMM, count=MANY, succeeded=MANY, failed=MANY, time_ns=10**15,
              slot=39, flags=1),
        entry(MIGRATION, 0, PID, COMM, count=1, succeeded=1),
        entry(WAIT, 5, PID, COMM, count=MANY, time_ns=10**15, slot=39),
    )  # fmt: skip
    story = test_conform.story()
    for width in (80, 160):
        texts = [
            doctor.render(longest, test_doctor.KERNEL, width=width),
            render_where(test_where._answer(tuple(range(3))), width=width),
            conform.tail(story, width=width),
            *(conform.scenario(7, each, width=width) for each in story["scenarios"]),
            *(
                report_stat.Lines(view, REASONS, width).interval(
                    interval(rows, lost=dict.fromkeys(LOST_CAUSES, MANY)), "01:02:03"
                )
                for view in VIEWS
            ),
        ]
        assert [line for text in texts for line in text.splitlines() if len(line) > width] == []
    assert "a_function_with_a_name_" * 4 in texts[0]
    assert "very-" * 14 in texts[1]


def test_the_reason_of_a_process_is_whole() -> None:
    """Every kernel's names fit 80 columns, how many others there are beside them."""
    rows = table(
        entry(MIGRATION, 5, PID, COMM, count=MANY, succeeded=MANY, failed=MANY, time_ns=10**15,
              slot=39),
        entry(MIGRATION, 0, PID, COMM, count=1, succeeded=1),
    )  # fmt: skip
    made = report_stat.Lines("process", REASONS).interval(interval(rows), "01:02:03")
    assert made.splitlines()[-1].endswith(" mempolicy_mbind+1")
    assert widest(made) == 80
    threads = rows.copy()
    threads["flags"] = 1
    for width, name in ((80, f"[{COMM[:14]} "), (82, f"[{COMM}] ")):
        made = report_stat.Lines("process", REASONS, width).interval(interval(threads), "01:02:03")
        heads, _, line = made.splitlines()
        assert name in line
        assert len(line) == width
        assert heads.index("why") == line.index("mempolicy")
    one = report_stat.Lines("process", {5: "syscall_or_cpuset"}).interval(
        interval(rows[rows["reason"] == 5]), "01:02:03"
    )
    assert one.splitlines()[-1].endswith(" syscall_or_cpuset")


def test_a_command_takes_COLUMNS(tmp_path: Path) -> None:
    """`COLUMNS=120 mptrace report` has lines beyond 80, and no more than 120."""
    path = recorded.write(tmp_path / "r")
    made = {
        width: CliRunner(env={"COLUMNS": str(width)}).invoke(main, ["report", str(path)]).stdout
        for width in (80, 120)
    }
    assert 80 < widest(made[120]) <= 120
    assert widest(made[80]) <= 80
