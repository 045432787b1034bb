# SPDX-License-Identifier: GPL-2.0-or-later
"""A page's history in time, and moves after a call that explain where a page was seen."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from others import HELD, META, MOVER, OTHER, VICTIM, Others
from simulated_kernel import PAGE, Kernel

from mptrace.cli import main, terminal
from mptrace.explain.entries import Explainer, Which
from mptrace.outcomes.correlate import ENTRY_REASONS, correlate
from mptrace.outcomes.history import Histories, History
from mptrace.recording.layouts import OUTCOMES, WITNESSES
from mptrace.recording.meta import Meta
from mptrace.recording.writer import RecordingWriter
from mptrace.reporting.text.explain import explanation, left_out
from mptrace.reporting.text.history import history

BASE = 0x7F0000000000
CALLER = 501
STARTED_NS = META["started"]["monotonic_ns"]


def merged(kernel: Kernel, others: Others) -> dict[str, Any]:
    """Records of calls and of everybody's migrations in one recording."""
    one, other = kernel.tables(), others.tables()
    tables = {
        name: np.concatenate([one[name], rows]) if name in one else rows
        for name, rows in other.items()
    }
    tables["calls"]["target_tgid"] = VICTIM
    return tables


def moved_by_a_call(*, pinned: int = -1) -> tuple[Kernel, Others]:
    """Three pages of VICTIM that CALLER moved to node 1, but for the one that is pinned."""
    kernel = Kernel("6.12", 3)
    for page in range(3):
        kernel.folio(BASE // PAGE + page, 0, trait="pinned" if page == pinned else "")
    kernel.move_pages([BASE + page * PAGE for page in range(3)], [1] * 3, tid=CALLER)
    others = Others()
    others.process(VICTIM, b"postgres")
    others.clock = int(kernel.rows["calls"][0]["exit_ns"]) + 1000
    return kernel, others


def pointer(kernel: Kernel, page: int) -> int:
    """The folio at a page, after the call."""
    folio = kernel.pages[BASE // PAGE + page]
    assert folio is not None
    return folio.pointer


def on(others: Others, kernel: Kernel, page: int, **changes: Any) -> None:
    """NUMA balancing takes a page on to node 2, in one way or another."""
    folio = {
        "address": BASE + page * PAGE,
        "src": pointer(kernel, page),
        "dst": 0xFFFFEA00F0000000,
        "src_nid": 1,
        "dst_nid": 2,
    }
    others.migrate("numa_misplaced", tgid=VICTIM, comm=b"worker-3", folios=[{**folio, **changes}])


def judged(
    kernel: Kernel, others: Others, seen: dict[int, int], **meta: Any
) -> tuple[list[str], list[str], dict[str, Any]]:
    """Witnesses and entry reasons of the call's entries, seen on these nodes after it."""
    tables = merged(kernel, others)
    for page, nid in seen.items():
        tables["locations"]["final_nid"][page] = nid
    rows = correlate(tables, Meta.of({**META, **meta})).rows
    return (
        [WITNESSES[code] for code in rows["witnesses"]],
        [ENTRY_REASONS[code] for code in rows["entry_reason"]],
        tables,
    )


# ---- moved again before anybody asked


def test_a_move_after_the_call_explains_where_the_page_is() -> None:
    """The call moved it, NUMA balancing took it on: no witness disagrees, and it says by whom."""
    kernel, others = moved_by_a_call()
    on(others, kernel, 1)
    witnesses, reasons, tables = judged(kernel, others, {1: 2})
    assert witnesses == ["agree"] * 3
    assert reasons == ["", "moved_later", ""]
    explainer = Explainer(tables, Meta.of(META))
    (one,) = explainer.each(explainer.select(Which(entry=(0, 1))))
    assert one.later is not None
    assert one.later.initiator is not None
    assert (one.outcome, one.final_nid, one.later.initiator.tgid) == ("moved", 2, VICTIM)
    assert (
        "node 2 after the call, node 0 before; moved again afterwards by worker-3/4001 (NUMA "
        "balancing), node 1 -> 2; the witnesses agree"
    ) in " ".join(explanation(one).split())


@pytest.mark.parametrize(
    ("seen", "changes"),
    [
        (2, None),  # no such move was recorded
        (0, {}),  # it leads elsewhere
        (2, {"src_nid": 0}),  # it does not begin where the call left the page
        (2, {"src": 0xFFFFEA00E0000000}),  # another folio
        (2, {"move_rc": -11}),  # it did not move
        (2, {"address": BASE + 2 * PAGE}),  # another page of the same process
        (2, {"owner_tgid": MOVER}),  # freed and reused: by now another process's alone
        (2, {"owner_tgid": MOVER, "n_maps": 3, "n_unmap": 3}),  # the same in three attempts
        (2, {"start_ns": 5, "end_ns": 6}),  # before the call
    ],
)
def test_what_a_later_move_does_not_explain_stays_a_disagreement(
    seen: int, changes: dict[str, Any] | None
) -> None:
    """Only a move of this very page from there to where it was seen is an explanation."""
    kernel, others = moved_by_a_call()
    if changes is not None:
        on(others, kernel, 1, **changes)
    witnesses, reasons, _ = judged(kernel, others, {1: seen})
    assert witnesses == ["agree", "disagree", "agree"]
    assert set(reasons) == {""}


@pytest.mark.parametrize(
    "changes",
    [
        {"owner_tgid": MOVER, "n_maps": 2},  # one of those that map it was named
        {"owner_tgid": MOVER, "n_maps": 0},  # how many map it was not seen
        {"owner_tgid": 0},  # nobody was named
    ],
)
def test_a_move_of_a_page_that_others_map_is_an_explanation(changes: dict[str, int]) -> None:
    """Another owner speaks against it only where nobody else maps the folio."""
    kernel, others = moved_by_a_call()
    on(others, kernel, 1, **changes)
    witnesses, reasons, _ = judged(kernel, others, {1: 2})
    assert witnesses == ["agree"] * 3
    assert reasons == ["", "moved_later", ""]


def test_a_move_after_the_question_explains_nothing() -> None:
    """The caller's next call began before it: the location had been asked by then."""
    kernel, others = moved_by_a_call()
    folio = pointer(kernel, 1)
    kernel.move_pages([BASE + 2 * PAGE], [1], tid=CALLER)
    others.clock = int(kernel.rows["calls"][1]["exit_ns"]) + 1000
    on(others, kernel, 1, src=folio)
    witnesses, _, _ = judged(kernel, others, {1: 2})
    assert witnesses[:3] == ["agree", "disagree", "agree"]


def test_moves_one_after_the_other_are_followed() -> None:
    """To node 2 and on to node 0: each place in between is explained, none that is not."""
    for seen, expected in ((0, "agree"), (2, "agree"), (1, "agree")):
        kernel, others = moved_by_a_call()
        on(others, kernel, 1)
        on(others, kernel, 1, src=0xFFFFEA00F0000000, src_nid=2, dst_nid=0, dst=0xFFFFEA00F1000000)
        witnesses, reasons, _ = judged(kernel, others, {1: seen})
        assert witnesses[1] == expected
        assert reasons[1] == ("" if seen == 1 else "moved_later")


def test_a_page_that_stayed_or_was_not_attempted_is_followed_too() -> None:
    """It looks as if the call had moved it after all: somebody else has."""
    kernel = Kernel("6.12", 3)
    for page in range(3):
        kernel.folio(BASE // PAGE + page, 0, trait="pinned" if page == 0 else "")
    kernel.move_pages([BASE + page * PAGE for page in range(3)], [1, 2, 2], tid=CALLER)
    others = Others()
    others.clock = int(kernel.rows["calls"][0]["exit_ns"]) + 1000
    on(others, kernel, 0, src_nid=0)
    on(others, kernel, 1, src_nid=0, dst_nid=1)
    on(others, kernel, 2, src_nid=0, dst_nid=1, owner_tgid=OTHER)
    witnesses, reasons, tables = judged(kernel, others, {0: 2, 1: 1, 2: 1})
    rows = correlate(tables, Meta.of(META)).rows
    assert [OUTCOMES[code] for code in rows["outcome"]] == ["failed", *["not_attempted"] * 2]
    assert witnesses == ["silent", "silent", "disagree"]
    assert reasons == ["moved_later", "moved_later", ""]


def test_a_status_that_is_wrong_is_no_matter_of_later_moves() -> None:
    """The status contradicts the events: that stays a disagreement."""
    kernel, others = moved_by_a_call()
    on(others, kernel, 1)
    kernel.rows["entries"][1]["status_after"] = 2
    witnesses, _, _ = judged(kernel, others, {1: 2})
    assert witnesses == ["agree", "disagree", "agree"]


# ---- history


def of(tables: dict[str, Any], address: int, pid: int | None = None, **meta: Any) -> list[History]:
    """Histories of the page at an address."""
    known = Meta.of({**META, **meta})
    return Histories(tables, known, correlate(tables, known)).of(
        address, *(() if pid is None else (pid,))
    )


def told(one: History) -> list[tuple[Any, ...]]:
    """Its steps in few words."""
    return [
        (
            step.initiator.comm if step.initiator else None,
            step.path.key if step.path else None,
            step.source_nid,
            step.target_nid,
            step.outcome,
            step.cause,
        )
        for step in one.steps
    ]


def eventful() -> dict[str, Any]:
    """A page that a call moved, NUMA balancing took on, and migrate_pages(2) could not move."""
    kernel, others = moved_by_a_call()
    others.process(OTHER, b"redis")
    on(others, kernel, 1)
    # the same address of another process, and one of nobody knows whom
    on(others, kernel, 1, owner_tgid=OTHER, src_nid=0)
    on(others, kernel, 1, owner_tgid=0, src_nid=0)
    held = {**HELD, "address": BASE + PAGE, "src": 0xFFFFEA00F0000000, "src_nid": 2, "dst_nid": 1}
    others.migrate(
        "syscall", tgid=MOVER, comm=b"migratepages", mode="sync", syscall=256, folios=[held]
    )
    return merged(kernel, others)


def test_every_migration_of_a_page_in_time() -> None:
    """By whom, on which path, from where to where; whoever has recorded it."""
    nobodys, own, other = of(eventful(), BASE + PAGE + 17)
    assert (own.address, own.owner_tgid, own.owner_comm) == (BASE + PAGE, VICTIM, "postgres")
    assert told(own) == [
        ("mover", "move_pages", 0, 1, "moved", ""),
        ("worker-3", "numa_balancing", 1, 2, "moved", ""),
        ("migratepages", "migrate_pages", 2, 1, "failed", "extra_references"),
    ]
    assert [step.call for step in own.steps] == [0, None, None]
    starts = [step.start_ns for step in own.steps]
    assert starts == sorted(starts)
    assert [step.since_start_ns for step in own.steps] == [at - STARTED_NS for at in starts]
    wall = META["started"]["wall_ns"]
    assert [step.wall_ns for step in own.steps] == [wall + at - STARTED_NS for at in starts]
    for one, tgid in ((nobodys, 0), (other, OTHER)):
        assert one.owner_tgid == tgid
        assert told(one) == [("worker-3", "numa_balancing", 0, 2, "moved", "")]


def test_of_one_process_and_of_what_may_be_its() -> None:
    """A page of an unknown process may be of the one that was asked for."""
    found = of(eventful(), BASE + PAGE, OTHER)
    assert [one.owner_tgid for one in found] == [0, OTHER]
    assert of(eventful(), 0x1000) == []


def test_a_recording_that_does_not_say_when_it_began() -> None:
    """Then the order is told, and the clock's own time."""
    found = of(eventful(), BASE, started=None)
    (step,) = found[0].steps
    assert (step.since_start_ns, step.wall_ns) == (None, None)
    assert "ns of an unknown clock" in history(found[0])


def test_a_large_folio_by_any_of_its_addresses() -> None:
    """Every page of it has the folio's history; its neighbours have none of it."""
    others = Others()
    thp = {"nr_pages": 512, "address": BASE + 512 * PAGE}
    others.migrate("compaction", tgid=31, comm=b"kcompactd0", kthread=True, folios=[thp])
    for page in (512, 600, 1023):
        (one,) = of(others.tables(), BASE + page * PAGE)
        assert (one.address, one.steps[0].nr_pages) == (BASE + page * PAGE, 512)
    assert of(others.tables(), BASE + 511 * PAGE) == of(others.tables(), BASE + 1024 * PAGE) == []


def test_a_page_of_a_folio_that_was_split_has_its_own_record() -> None:
    """Its head moved, its 7th page did not, and of the 9th there is no record."""
    others = Others()
    src = 0xFFFFEA0100000000
    tail = {"address": 0, "owner_tgid": VICTIM}
    others.migrate(
        "mempolicy_mbind",
        tgid=MOVER,
        comm=b"mbind",
        syscall=237,
        folios=[
            {"nr_pages": 512, "address": BASE + 3 * PAGE, "src": src},
            {**HELD, **tail, "src": src + 7 * 64},
        ],
    )
    (head,) = of(others.tables(), BASE)
    assert [(step.outcome, step.nr_pages) for step in head.steps] == [("moved", 1)]
    (seventh,) = of(others.tables(), BASE + 7 * PAGE)
    assert [(step.outcome, step.nr_pages) for step in seventh.steps] == [("failed", 1)]
    assert of(others.tables(), BASE + 9 * PAGE) == []


def test_what_a_call_could_not_take_is_part_of_the_history() -> None:
    """Its isolation was refused: no migration had it, and the attempt is told."""
    kernel = Kernel("6.12", 2)
    kernel.folio(BASE // PAGE, 0, busy=True)
    kernel.move_pages([BASE], [1], tid=CALLER)
    kernel.pages[BASE // PAGE].busy = False  # type: ignore[union-attr]
    kernel.move_pages([BASE], [1], tid=CALLER)
    kernel.move_pages([BASE], [1], tid=CALLER)
    (one,) = of(merged(kernel, Others()), BASE)
    assert [(step.call, step.outcome) for step in one.steps] == [(0, "failed"), (1, "moved")]
    assert one.steps[0].migration is None
    assert one.steps[0].cause == "not_on_lru_or_isolated"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """The eventful page's recording."""
    with RecordingWriter(tmp_path / "data", meta=META) as writer:
        for name, rows in eventful().items():
            writer.append(name, rows)
        writer.finish()
    return tmp_path / "data"


def test_the_command_tells_the_history_first(recording: Path) -> None:
    """In time, with the wall clock, and who; the explanations come after it."""
    options = ["explain", "--address", hex(BASE + PAGE), "--pid", str(VICTIM), str(recording)]
    text = CliRunner().invoke(main, options).output
    assert max(map(len, text.splitlines())) <= 80
    nobodys, own, *rest = text.split("\n\n")
    assert nobodys.startswith("history of 0x7f0000001000 of a process that is not known: 1 attempt")
    assert own.splitlines() == [
        "history of 0x7f0000001000 of postgres/4001: 3 attempts to move it, 2 moved it",
        "  0.001000 s  2023-11-14 22:13:20.001 UTC  node 0 -> 1  moved",
        "      by mover/501: move_pages(2), call 0, migration 0, folio 1, in 400 ns",
        "  0.001002 s  2023-11-14 22:13:20.001 UTC  node 1 -> 2  moved",
        "      by worker-3/4001: NUMA balancing, migration 1, folio 3, in 900 ns",
        "  0.001008 s  2023-11-14 22:13:20.001 UTC  node 2 -> 1  failed: extra_references",
        "      by migratepages/5001: migrate_pages(2), migration 4, folio 6, in 900 ns",
    ]
    assert "(call 0, entry 1) moved, asked for node 1" in "\n".join(rest)
    assert "redis" not in text


def test_it_takes_the_width_that_there_is() -> None:
    """No line is broken that has room; 80 columns where nobody says more."""
    (one,) = of(eventful(), BASE)
    one = dataclasses.replace(one, owner_comm="a kworker with a long name")
    narrow, broad = history(one), history(one, width=1000)
    assert max(map(len, narrow.splitlines())) <= 80
    assert len(broad.splitlines()) == 1 + 2 * len(one.steps) < len(narrow.splitlines())
    assert " ".join(broad.split()) == " ".join(narrow.split())


def test_the_command_takes_the_terminals_width(
    recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hands the width on to the histories, too."""
    options = ["explain", "--address", hex(BASE + PAGE), str(recording)]
    monkeypatch.setattr(terminal, "width", lambda: 1000)
    text = CliRunner().invoke(main, options).output
    (first,) = (
        line for line in text.splitlines() if line.startswith("history of ") and "not known" in line
    )
    assert len(first) > 80


def test_so_does_what_is_said_of_own_pages() -> None:
    """One line where it has room."""
    assert max(map(len, left_out(3).splitlines())) <= 80
    assert "\n" in left_out(3)
    assert left_out(3, width=200) == " ".join(left_out(3).split())


def test_json_has_the_histories_first(recording: Path) -> None:
    """An object for each process, with its steps as values."""
    options = ["explain", "--address", hex(BASE + PAGE), "--json", str(recording)]
    lines = CliRunner().invoke(main, options).output.splitlines()
    found = [json.loads(line) for line in lines]
    assert [one["owner_tgid"] for one in found[:3]] == [0, VICTIM, OTHER]
    own = found[1]
    assert (own["kind"], own["address"]) == ("history", hex(BASE + PAGE))
    assert [step["path"]["key"] for step in own["steps"]] == [
        "move_pages",
        "numa_balancing",
        "migrate_pages",
    ]
    assert own["steps"][0]["address"] == hex(BASE + PAGE)
    assert "kind" not in found[3] or found[3]["kind"] != "history"


def test_a_process_without_an_address_is_a_filter(recording: Path) -> None:
    """Of one that has nothing to do with the recording that is said, and what there is."""
    result = CliRunner().invoke(main, ["explain", "--pid", "7", str(recording)])
    assert result.exit_code == 0
    assert result.stdout.startswith("only of process 7: 0 of ")
    assert "nothing fits; the recording has" in result.stdout


@pytest.mark.parametrize("options", [[], ["--all"], ["--pid", str(VICTIM)]])
def test_a_page_beyond_what_is_read_of_a_call_has_a_history(
    tmp_path: Path, options: list[str]
) -> None:
    """Its folio is recorded though no entry names it; of an address without both it is an error."""
    kernel, others = moved_by_a_call()
    tables = merged(kernel, others)
    tables["entries"] = tables["entries"][:1]
    with RecordingWriter(tmp_path / "r", meta={**META, "max_entries": 1}) as writer:
        for name, rows in tables.items():
            writer.append(name, rows)
        writer.finish()
    page = hex(BASE + 2 * PAGE)
    result = CliRunner().invoke(main, ["explain", "--address", page, *options, str(tmp_path / "r")])
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"history of {page} of postgres/{VICTIM}: 1 attempt" in " ".join(result.stdout.split())
    assert "node 0 -> 1" in result.stdout
    as_json = ["explain", "--json", "--address", page, *options, str(tmp_path / "r")]
    (line,) = CliRunner().invoke(main, as_json).stdout.splitlines()
    assert json.loads(line)["kind"] == "history"
    nowhere = ["explain", "--address", hex(BASE + 9 * PAGE), *options, str(tmp_path / "r")]
    assert CliRunner().invoke(main, nowhere).exit_code == 2
