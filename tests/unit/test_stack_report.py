# SPDX-License-Identifier: GPL-2.0-or-later
"""Stacks of a recording: joined, folded, summed, selected, shown."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from others import META, MOVER, VICTIM, Others, story
from test_dump import write_others

from mptrace.cli import main
from mptrace.recording.layouts import WAIT_PTE
from mptrace.recording.meta import Meta
from mptrace.recording.stack_layouts import (
    FRAME_KERNEL,
    FRAME_USER,
    STACK_OF_MIGRATION,
    STACK_OF_WAIT,
)
from mptrace.report import answer
from mptrace.reporting.numbers.profile import is_clean, profile

COMPACT, SYSCALL, USER, GONE, WAITING, ELSEWHERE, HOSTILE, AGAIN = range(1, 9)


def frames(others: Others, stack: int, kind: int, *names: str, **fields: Any) -> None:
    """A stack of functions, the innermost first."""
    for depth, name in enumerate(names):
        others.add(
            "stacks",
            **{"stack": stack, "kind": kind, "depth": depth, "symbol": name.encode(), **fields},
            address=0xFFFFFFFF81000000 + stack * 64 + depth,
        )


def use(others: Others, row: Any, kind: int, kernel: int, user: int) -> None:
    """That a migration, or a wait, came with these stacks."""
    others.add(
        "stack_uses",
        id=row["start_ns"] if kind == STACK_OF_WAIT else row["migration_id"],
        tid=row["tid"],
        tgid=row["tgid"],
        kind=kind,
        kernel_stack=kernel,
        user_stack=user,
    )


def told() -> Others:
    """The story of `others`, with a stack for each migration and for two waits."""
    others = story()
    frames(others, COMPACT, FRAME_KERNEL, "migrate_pages", "compact_zone", "kcompactd")
    # of the same functions at other addresses
    frames(others, AGAIN, FRAME_KERNEL, "migrate_pages", "compact_zone", "kcompactd")
    frames(others, SYSCALL, FRAME_KERNEL, "migrate_pages", "__x64_sys_migrate_pages")
    frames(others, USER, FRAME_USER, "migrate_pages", "main", tgid=MOVER)
    frames(others, GONE, FRAME_USER, "", tgid=VICTIM, unknown=b"it had ended")
    frames(others, WAITING, FRAME_KERNEL, "migration_entry_wait", "do_swap_page")
    for number, row in enumerate(others.rows["migrations"]):
        if row["comm"] == b"kcompactd0":
            use(others, row, STACK_OF_MIGRATION, AGAIN if number % 2 else COMPACT, 0)
        elif row["comm"] == b"migratepages":
            use(others, row, STACK_OF_MIGRATION, SYSCALL, USER)
        elif row["comm"] == b"worker-3":
            use(others, row, STACK_OF_MIGRATION, SYSCALL, GONE)
        else:
            use(others, row, STACK_OF_MIGRATION, ELSEWHERE, 0)
    # two threads that begin in one nanosecond
    for tid, ns in ((VICTIM, 700), (VICTIM + 1, 400)):
        wait = others.add(
            "waits",
            start_ns=others.clock,
            end_ns=others.clock + ns,
            tid=tid,
            tgid=VICTIM,
            kind=WAIT_PTE,
            comm=b"postgres",
        )
        use(others, wait, STACK_OF_WAIT, WAITING, GONE)
    return others


@pytest.fixture
def numbers() -> dict[str, Any]:
    return profile(told().tables(), Meta.of(META))["stacks"]


def of(rows: list[dict[str, Any]], comm: str) -> dict[str, Any]:
    """The one row of a name."""
    (found,) = (row for row in rows if row["comm"] == comm)
    return found


def test_stacks_of_the_same_functions_are_one(numbers: dict[str, Any]) -> None:
    """Their migrations, pages and times are summed; a kernel thread has no user space."""
    row = of(numbers["initiators"], "kcompactd0")
    (stack,) = row["stacks"]
    assert stack["folded"] == "kcompactd;compact_zone;migrate_pages"
    assert stack["kernel"] == stack["folded"]
    assert (stack["user"], stack["user_unknown"]) == (None, "")
    assert (stack["count"], stack["moved_pages"], stack["time_ns"]) == (23, 69, 23_000)
    assert row["path"].startswith("compaction")
    assert row["kernel_thread"]


def test_both_parts_are_one_line(numbers: dict[str, Any]) -> None:
    """The outermost function of user space first, as flame graphs have it."""
    (stack,) = of(numbers["initiators"], "migratepages")["stacks"]
    assert stack["folded"] == "main;migrate_pages;__x64_sys_migrate_pages;migrate_pages"
    assert (stack["count"], stack["moved_pages"]) == (1, 7)


def test_what_is_unknown_says_why(numbers: dict[str, Any]) -> None:
    """A process that had ended, and frames that another recording has."""
    (stack,) = of(numbers["initiators"], "worker-3")["stacks"]
    assert (stack["user"], stack["user_unknown"]) == (None, "it had ended")
    assert stack["folded"].startswith("[unknown: it had ended];")
    (stack,) = of(numbers["initiators"], "kswapd0")["stacks"]
    assert (stack["kernel"], stack["folded"].count(";")) == (None, 0)
    assert stack["kernel_unknown"] == "its frames are not in this recording"


def test_waits_have_the_time_that_was_waited(numbers: dict[str, Any]) -> None:
    """By process; threads whose waits began at the same moment are told apart."""
    (row,) = numbers["waits"]
    assert (row["tgid"], row["count"], row["time_ns"]) == (VICTIM, 2, 1100)
    (stack,) = row["stacks"]
    assert stack["kernel"] == "do_swap_page;migration_entry_wait"
    assert "moved_pages" not in stack


def test_a_use_without_its_record_is_counted(numbers: dict[str, Any]) -> None:
    """The record of its migration was lost: it is in no sum, and said."""
    assert numbers["without_record"] == 0
    others = told()
    others.add("stack_uses", id=4711, kind=STACK_OF_MIGRATION, kernel_stack=COMPACT)
    tables = others.tables()
    found = profile(tables, Meta.of(META))
    assert found["stacks"]["without_record"] == 1
    assert found["stacks"]["uses"] == numbers["uses"] + 1
    assert "1 stack of what has no record" in " ".join(answer(found, ["stacks"]).split())


def test_an_own_migration_is_left_out() -> None:
    """As from every sum."""
    found = profile(told().tables(), Meta.of({**META, "own": [VICTIM]}))["stacks"]
    assert found["waits"] == []
    assert "worker-3" not in {row["comm"] for row in found["initiators"]}


def test_frames_that_several_recordings_have_are_taken_once() -> None:
    """Recordings of a session that rotated are read as one."""
    tables = told().tables()
    once = profile(tables, Meta.of(META))["stacks"]
    tables["stacks"] = np.concatenate([tables["stacks"], tables["stacks"]])
    assert profile(tables, Meta.of(META))["stacks"] == once


def test_a_recording_without_stacks_has_no_section() -> None:
    """Nor does one that took some of nothing show more than that."""
    numbers = profile(story().tables(), Meta.of(META))
    assert numbers["stacks"] is None
    assert "stacks " not in answer(numbers, ["all"])
    numbers = profile(story().tables(), Meta.of({**META, "stacks": True}))
    assert numbers["stacks"]["uses"] == 0
    assert "none were taken of what is shown" in answer(numbers, ["stacks"])


def test_lost_stacks_are_not_clean() -> None:
    """Who asks for stacks with --strict is told."""
    kept = profile(
        told().tables(), Meta.of({**META, "stacks": True, "lost": {"stack_map_full": 0}})
    )
    lost = profile(
        told().tables(), Meta.of({**META, "stacks": True, "lost": {"stack_map_full": 1}})
    )
    assert not is_clean(lost)
    assert kept["lost"] == {"stack_map_full": 0}


def test_hostile_names_break_no_line() -> None:
    """Names of symbols and files may have anything in them; so may names of processes."""
    others = told()
    row = others.rows["migrations"][0]
    frames(others, HOSTILE, FRAME_USER, "a;b\nc\x1b[31m", tgid=MOVER)
    others.add(
        "stacks",
        stack=HOSTILE,
        kind=FRAME_USER,
        depth=1,
        tgid=MOVER,
        module=b"/tmp/\xff\xfe evil;\n(deleted)",
        offset=0x23,
    )
    others.add("stacks", stack=HOSTILE, kind=FRAME_USER, depth=2, tgid=MOVER, address=0x1234)
    for each in others.rows["stack_uses"]:
        if each["id"] == row["migration_id"]:
            each["user_stack"] = HOSTILE
    numbers = profile(others.tables(), Meta.of(META))
    stacks = of(numbers["stacks"]["initiators"], "kcompactd0")["stacks"]
    (folded,) = (stack["user"] for stack in stacks if stack["user"])
    assert folded.split(";")[0] == "0x1234"
    assert folded.count(";") == 2
    assert folded.endswith("a_b_c_[31m")
    assert "evil__(deleted)+0x23" in folded
    text = answer(numbers, ["stacks"])
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", text)
    assert max(map(len, text.splitlines())) <= 80


def run(path: Path, *arguments: str) -> Any:
    return CliRunner().invoke(main, [*arguments, str(path)], catch_exceptions=False)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_others(tmp_path / "r", told(), stacks=True)


def test_the_report_shows_them(recording: Path) -> None:
    """With --stacks, the innermost function first, and with --all."""
    text = run(recording, "report", "--stacks").stdout
    flat = " ".join(text.split())
    assert "kernel: migrate_pages < compact_zone < kcompactd" in flat
    assert "user: migrate_pages < main" in flat
    assert "user: unknown: it had ended" in flat
    assert "23 times, 69 pages moved, 23 us" in flat
    assert "2 times, 1.10 us" in flat
    assert "stacks " not in run(recording, "report").stdout
    assert "compact_zone" in run(recording, "report", "--all").stdout
    assert max(map(len, text.splitlines())) <= 80


def test_a_selection_is_of_the_stacks_too(recording: Path) -> None:
    """They come by their migrations and waits."""
    text = run(recording, "report", "--json", "--path", "compaction").stdout
    found = json.loads(text)["stacks"]
    assert [row["comm"] for row in found["initiators"]] == ["kcompactd0"]
    rows = run(recording, "dump", "--table", "stack_uses", "--format", "jsonl", "--pid", f"{MOVER}")
    (row,) = map(json.loads, rows.stdout.splitlines())
    assert (row["kernel_stack"], row["user_stack"], row["kind"]) == (SYSCALL, USER, "migration")
    assert (row["call"], row["wait"]) == (None, None)
    rows = run(recording, "dump", "--table", "stacks", "--format", "jsonl", "--pid", f"{MOVER}")
    dumped = list(map(json.loads, rows.stdout.splitlines()))
    assert {row["stack"] for row in dumped} == {SYSCALL, USER}
    assert {row["kind"] for row in dumped} == {"kernel", "user"}


def test_lists_are_cut(recording: Path) -> None:
    """--top shortens them in JSON, and says by how many rows."""
    found = json.loads(run(recording, "report", "--json", "--top", "1").stdout)
    assert len(found["stacks"]["initiators"]) == 1
    assert found["selection"]["cut"]["stacks.initiators"] == 3


def test_a_recording_without_them_says_how_to_get_them(tmp_path: Path) -> None:
    """Whoever asks for stacks gets an answer."""
    path = write_others(tmp_path / "r", story())
    result = run(path, "report", "--stacks")
    assert result.exit_code == 0
    assert "no stacks were recorded; 'mptrace record --stacks' records them" in result.stderr
    path = write_others(tmp_path / "t", story(), tier="tracepoints")
    assert "with tracepoints alone there are none" in run(path, "report", "--stacks").stderr


def test_every_field_is_documented(numbers: dict[str, Any]) -> None:
    """Each key of the section stands in its row of docs/report.md."""
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| `stacks` | null"))
    keys = {*numbers, *numbers["initiators"][0], *numbers["waits"][0]}
    keys |= {*numbers["initiators"][0]["stacks"][0], *numbers["waits"][0]["stacks"][0]}
    assert keys <= set(re.findall(r"`(\w+)`", row))


def test_stacks_need_bpf(tmp_path: Path) -> None:
    """Asked for with tracepoints alone they are refused before anything is done."""
    path = tmp_path / "r"
    words = ["record", "-a", "--stacks", "--tier", "tracepoints", "-o", str(path)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "--stacks needs BPF" in result.stderr
    assert not path.exists()
