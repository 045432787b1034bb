# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts about scenarios, what is printed of them, and the way back of what they change."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mptrace.cli import main
from mptrace.conform import run as conform
from mptrace.conform.scenario_client import ScenarioClient
from mptrace.conform.scenarios import catalogue
from mptrace.conform.scenarios.base import MOVED, Entry, Expectation
from mptrace.conform.stage.journal import Journal
from mptrace.conform.verdicts import (
    SeenEntry,
    events_in_words,
    judge,
    return_name,
    seen_entries,
    statuses_in_words,
)
from mptrace.errors import HostError, OutputError
from mptrace.host.facts import HostFacts, Node
from mptrace.outcomes.causes.rules import cause_code
from mptrace.outcomes.correlate import ROW
from mptrace.recording.layouts import FOLIO, OBSTACLE, OUTCOMES
from mptrace.reporting.text import conform as report_conform

GOLDEN = Path(__file__).parent / "golden" / "conform.txt"
UPDATE = "MPTRACE_UPDATE_GOLDEN=1 pytest tests/unit/test_conform.py -k golden"
PAGES = 23


def made(statuses: list[int | None], ret: int = 0, number: int = 0) -> dict[str, Any]:
    """A call of as many entries as there are statuses, all to node 1."""
    count = len(statuses)
    return {
        "addresses": [4096 * place for place in range(count)],
        "targets": [1] * count,
        "statuses": statuses,
        "ret": ret,
        "errno": number,
    }


def seen(*outcomes: str, cause: str = "", reason: str = "") -> list[SeenEntry]:
    """Entries as the events tell them; the cause is that of all which did not move."""
    return [SeenEntry(each, "" if each == "moved" else cause, reason, "agree") for each in outcomes]


# ---- verdicts -----------------------------------------------------------------------


def test_what_is_expected_and_documented_is_as_documented() -> None:
    """Return value, statuses and events as expected, and no kernel change to tell of."""
    verdict = judge(
        Expectation("0", (MOVED, MOVED)), made([1, 1]), seen("moved", "moved"), traced=True
    )
    assert (verdict.kind, verdict.differences) == ("as_documented", ())


def test_what_is_expected_and_not_documented_is_different() -> None:
    """The expectation says why: that is what makes it a difference, and no surprise."""
    stays = Entry("untouched", "failed", "extra_references")
    expected = Expectation("1", (stays, Entry("untouched", "moved")), why="since 4.17")
    verdict = judge(
        expected,
        made([None, None], ret=1),
        seen("failed", "moved", cause="extra_references"),
        traced=True,
    )
    assert verdict.kind == "different"


@pytest.mark.parametrize(
    ("call", "events", "words"),
    [
        (made([1, 1], ret=1), seen("moved", "moved"), "returned 1, not 0"),
        (made([1, 1], -1, errno.EPERM), seen("moved", "moved"), "returned -EPERM, not 0"),
        (made([1, None]), seen("moved", "moved"), "entry 1: status untouched, not node 1"),
        (made([1, -2]), seen("moved", "moved"), "entry 1: status -ENOENT, not node 1"),
        (made([1, 1]), seen("moved", "failed"), "entry 1: outcome 'failed', not 'moved'"),
        (
            made([1, 1]),
            seen("moved", "moved", reason="duplicate"),
            "entries 0-1: entry reason 'duplicate', not 'none'",
        ),
        (made([1, 1]), None, "the kernel's events show no such call"),
        (made([1]), seen("moved"), "the scenario tells 2 entries, the call has 1"),
    ],
)
def test_any_difference_is_a_surprise(
    call: dict[str, Any], events: list[SeenEntry] | None, words: str
) -> None:
    """Return value, status, outcome, cause and entry reason each make a surprise of their own."""
    verdict = judge(Expectation("0", (MOVED, MOVED)), call, events, traced=True)
    assert verdict.kind == "surprise"
    assert verdict.differences == (words,)


def test_another_cause_is_a_surprise() -> None:
    """The page stayed as expected, but for another reason."""
    expected = Expectation("1", (Entry("untouched", "failed", "extra_references"),))
    verdict = judge(expected, made([None], ret=1), seen("failed", cause="no_memory"), traced=True)
    assert verdict.differences == ("entry 0: cause 'no_memory', not 'extra_references'",)


def test_a_refused_call_must_have_done_nothing() -> None:
    """No entries are expected of a call that is refused as a whole: none moves, none is told."""
    expected = Expectation("EPERM", ())
    refused = made([None, None], -1, errno.EPERM)
    never = seen("not_attempted", "not_attempted", cause="call_refused_EPERM")
    assert judge(expected, refused, never, traced=True).kind == "as_documented"
    moved = judge(expected, refused, seen("moved", "not_attempted"), traced=True)
    assert moved.differences == ("entry 0: moved, in a call that was refused",)
    told = judge(expected, made([None, 1], -1, errno.EPERM), never, traced=True)
    assert told.differences == ("entry 1: status node 1, not untouched",)


def test_without_tracing_the_events_judge_nothing() -> None:
    """Return value and statuses alone decide where no events could be seen."""
    expected = Expectation(">0", (Entry("untouched", "failed", "extra_references"),))
    assert judge(expected, made([None], ret=1), None, traced=False).kind == "as_documented"
    assert judge(expected, made([None], ret=0), None, traced=False).kind == "surprise"


@pytest.mark.parametrize("count", [1, PAGES, 4096])
def test_entries_may_be_told_in_bulk(count: int) -> None:
    """`times` entries look alike, 0 means all that are left, wherever it stands."""
    stays = Entry("ENOENT", "failed", "not_present")
    expected = Expectation("0", (stays, Entry("target", "moved", times=0), stays))
    statuses: list[int | None] = [-2, *[1] * count, -2]
    events = seen("failed", *["moved"] * count, "failed", cause="not_present")
    assert judge(expected, made(statuses), events, traced=True).kind == "as_documented"
    statuses[1] = statuses[count] = 0
    differences = judge(expected, made(statuses), events, traced=True).differences
    assert len(differences) == min(count, 2)


def test_many_differences_are_counted() -> None:
    """Neighbours with one difference are a line; a thousand different ones are not printed."""
    expected = Expectation("0", (Entry("target", "moved", times=0),))
    alike = judge(expected, made([None] * 4096), seen(*["moved"] * 4096), traced=True)
    assert alike.differences == ("entries 0-4095: status untouched, not node 1",)
    wild = judge(
        expected,
        made([1 if place % 2 else None for place in range(4096)]),
        seen(*["moved"] * 4096),
        traced=True,
    )
    assert len(wild.differences) == 13
    assert wild.differences[-1] == "and 2,036 more: the rows of --json"


def test_rows_become_words() -> None:
    """Rows of the correlator give the words that expectations use."""
    rows = np.zeros(2, ROW)
    rows["outcome"] = OUTCOMES.index("moved"), OUTCOMES.index("failed")
    rows["cause"] = 0, cause_code("extra_references")
    rows["folio"] = 1, -1
    folios, waits = np.zeros(2, FOLIO), np.zeros(1, OBSTACLE)
    folios["lookup_seq"] = 3, 4
    waits["lookup_seq"], waits["writeback_wait_ns"] = 4, 5_000_000
    seen = seen_entries(rows, {"folios": folios, "obstacles": waits})
    assert [(each.outcome, each.cause, each.delay) for each in seen] == [
        ("moved", "", "writeback"),
        ("failed", "extra_references", ""),
    ]


def test_a_page_that_should_have_waited_and_did_not_is_a_surprise() -> None:
    """A delay is demanded where it is expected, and let pass where it is not."""
    late = SeenEntry("moved", "", "", "agree", "writeback")
    for event, expected, kind in (
        (late, Entry("target", "moved", delay="writeback"), "as_documented"),
        (late, Entry("target", "moved"), "as_documented"),
        (late, Entry("target", "moved", delay="folio_lock"), "surprise"),
        (
            SeenEntry("moved", "", "", "agree"),
            Entry("target", "moved", delay="writeback"),
            "surprise",
        ),
    ):
        verdict = judge(Expectation("0", (expected,)), made([1]), [event], traced=True)
        assert verdict.kind == kind


def test_statuses_and_events_in_few_words() -> None:
    """Whatever the number of entries, a line tells them."""
    assert statuses_in_words([]) == "no entries"
    assert statuses_in_words([1, 1, 1, None, -2]) == "3 x node 1, untouched, -ENOENT"
    assert statuses_in_words([1, None] * 2048) == "2048 x node 1, 2048 x untouched, mixed"
    assert return_name(3, 0) == "3"
    assert return_name(-1, errno.EACCES) == "-EACCES"
    events = events_in_words(seen("moved", "failed", "failed", cause="no_memory"))
    assert events == [(1, "moved", ""), (2, "failed: no_memory", "no_memory")]


# ---- what is printed ----------------------------------------------------------------


def result(name: str, verdict: str, **changes: Any) -> dict[str, Any]:
    """A result as `run.run` makes it."""
    return {
        "name": name,
        "subject": "reason",
        "title": f"a page that is {name}",
        "documented": "status -EBUSY: the page is currently busy and cannot be moved",
        "verdict": verdict,
        "reason": "",
        "why": "",
        "differences": [],
        "observed": {"returned": "1", "statuses": "3 x untouched"},
        "events": [
            {"count": 2, "words": "moved", "cause": ""},
            {"count": 1, "words": "failed: extra_references", "cause": "extra_references"},
        ],
        "rows": [],
        **changes,
    }


def story() -> dict[str, Any]:
    """A run in which everything happens that can."""
    results = [
        result(
            "present",
            "as_documented",
            subject="page state",
            documented="status: a node number",
            observed={"returned": "0", "statuses": "3 x node 1"},
            events=[{"count": 3, "words": "moved", "cause": ""}],
        ),
        result("pipe", "different", why="since 4.17 a failed migration writes no status"),
        result(
            "a_name_that_is_longer_than_columns_are",
            "surprise",
            differences=["returned 1, not 0", "entry 1: status untouched, not -EBUSY"],
            why="since 4.17 " + "words " * 99,
            rows=[{"entry": 0, "witnesses": "disagree"}],
        ),
        result("swap", "skipped", observed=None, events=[], reason="no 'swapon' # here\nat all"),
        result("broken", "error", observed=None, events=[], reason="OSError(5)\nTraceback ..."),
    ]
    return {
        "kernel": {"release": "6.12.0-test", "machine": "x86_64", "page_size": 4096},
        "nodes": [{"nid": nid, "memory_bytes": 1 << 30} for nid in (0, 1)],
        "hypervisor": "TCG",
        "traced": True,
        "not_traced": "",
        "recording": None,
        "planned": 6,
        "scenarios": results,
        "interrupted": True,
        "lost": {"folio_ring_full": 7, "call_ring_full": 0},
        "counts": {each["verdict"]: 1 for each in results},
    }


def text_of(numbers: dict[str, Any]) -> str:
    """Everything that is printed of a run."""
    parts = [report_conform.head(numbers)]
    parts += [
        report_conform.scenario(place, each) for place, each in enumerate(numbers["scenarios"], 1)
    ]
    return "\n".join([*parts, report_conform.tail(numbers)]) + "\n"


def test_a_text_that_is_cut_in_the_last_table_is_whole_above() -> None:
    """The table says so where there is one, and only there."""
    numbers = story()
    assert "more of it stands above" not in report_conform.tail(numbers)
    numbers["scenarios"][1]["why"] = "since 4.17 " + "words " * 99 + "the end"
    table = report_conform.tail(numbers)
    assert "the end" not in table
    assert "# '...': more of it stands above, at its scenario\n" in table
    assert "the end" in report_conform.scenario(2, numbers["scenarios"][1])


def test_golden_text() -> None:
    """The whole output is the text that was agreed on."""
    text = text_of(story())
    if os.environ.get("MPTRACE_UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), f"to accept the new text: {UPDATE}"


def test_it_is_ktap() -> None:
    """Version, plan, then result lines in order; all else is a diagnostic line of 80 columns."""
    version, plan, *rest = text_of(story()).splitlines()
    assert (version, plan) == ("KTAP version 1", "1..6")
    results = [line for line in rest if not line.startswith("#")]
    pattern = re.compile(r"(ok|not ok) (\d+) ([a-z0-9_]+)( # SKIP [^#]+)?")
    parsed = [pattern.fullmatch(line) for line in results]
    assert [match and (match[1], match[2], bool(match[4])) for match in parsed] == [
        ("ok", "1", False),
        ("ok", "2", False),
        ("not ok", "3", False),
        ("ok", "4", True),
        ("not ok", "5", False),
    ]
    assert max(len(line) for line in rest) <= report_conform.WIDTH == 80


def test_a_long_reason_for_a_skip_is_told_whole() -> None:
    """The result line is cut at 80 columns, the lines above it are not."""
    reason = "node 1 could not be left with base pages alone, whatever was tried " * 3
    *notes, line = report_conform.scenario(
        7, result("thp", "skipped", observed=None, events=[], reason=reason)
    ).splitlines()
    assert line.startswith("ok 7 thp # SKIP node 1 could")
    assert " ".join(note.removeprefix("# ").strip() for note in notes) == f"thp: {reason}".strip()
    assert max(map(len, [*notes, line])) <= 80


def test_what_was_not_seen_is_said_once() -> None:
    """Without tracing the head says that the events were not seen, and why."""
    numbers = story() | {"traced": False, "not_traced": "this kernel offers no BTF"}
    text = " ".join(text_of(numbers).replace("# ", "").split())
    assert text.count("events were not seen") == 1
    assert "this kernel offers no BTF" in text


def test_the_page_of_docs_has_a_chapter_per_kernel() -> None:
    """Scenarios that ran are in tables by subject; skipped ones follow with their reasons."""
    other = story() | {"kernel": {"release": "6.1.0-test", "machine": "x86_64", "page_size": 4096}}
    other["counts"] = dict.fromkeys(story()["counts"], 1)
    text = report_conform.page([story(), other], "scripts/outcomes")
    assert text.count("\n## ") == 2
    assert "`scripts/outcomes`" in text
    assert text.count("- `swap` skipped: no 'swapon' here at all") == 2
    assert text.count("| `pipe`") == 2


def test_the_list_fits_80_columns_and_names_what_is_changed() -> None:
    """`--list` shows every scenario, in the order in which they run."""
    text = invoke("conform", "--list").output
    assert max(map(len, text.splitlines())) <= 80
    as_json = json.loads(invoke("conform", "--list", "--json").output)
    assert [each["name"] for each in as_json] == list(catalogue())
    for each in as_json:
        assert f"{each['name']} ({each['subject']})" in text


# ---- the command line ------------------------------------------------------------


def invoke(*arguments: str) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--only", "no_such_scenario"),
        ("--restore", "--list"),
        ("--list", "--disruptive"),
        ("--no-trace", "-o", "x.data"),
        ("--force",),
        ("surplus",),
    ],
)
def test_a_wrong_request_is_refused(arguments: tuple[str, ...]) -> None:
    """Exit status 2, and nothing runs."""
    found = invoke("conform", *arguments)
    assert found.exit_code == 2, found.output


def test_one_node_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to move between: the lab has more nodes."""
    monkeypatch.setattr(conform, "allowed_nodes", lambda _: (0,))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(HostError, match="one node") as caught:
        conform.run(conform.ConformRequest(tuple(catalogue().values())), lambda _: None)
    assert "mptrace lab -- mptrace conform" in caught.value.hint


def test_it_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before anything is changed."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match="need root"):
        conform.run(conform.ConformRequest(()), lambda _: None)
    with pytest.raises(HostError, match="needs root"):
        conform.restore()


def test_the_node_with_the_most_free_memory_is_the_target() -> None:
    """The first node stays the source; nodes without memory or not allowed are left out."""
    free = {0: 5, 1: 9, 2: 7, 3: 2, 4: 99}
    nodes = tuple(
        Node(nid, (nid,), 0 if nid == 4 else 1 << 30, amount) for nid, amount in free.items()
    )
    host = HostFacts(nodes, "TCG", True)
    assert conform._ordered(host, range(5)) == (0, 3, 2, 1)
    assert conform._ordered(host, (0, 2, 3)) == (0, 3, 2)


# ---- the way back ------------------------------------------------------------------


@pytest.fixture(name="journal")
def _journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "run" / "conform.journal")


#: Notes a change of the file, makes it, says so, and waits to be killed.
CHANGES = """
import sys, time
from pathlib import Path
from mptrace.conform.stage.journal import Journal
journal, setting = Journal(Path(sys.argv[1])), Path(sys.argv[2])
lock = journal.claim()
journal.note("write", str(setting), setting.read_text())
setting.write_text("changed")
print("changed", flush=True)
time.sleep(600)
"""


@pytest.fixture(name="victim")
def _victim(journal: Journal, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has changed ``tmp_path/setting`` and written that down."""
    (tmp_path / "setting").write_text("old")
    arguments = [sys.executable, "-c", CHANGES, str(journal.path), str(tmp_path / "setting")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "changed\n"
        yield process
        process.kill()


def test_what_a_killed_process_changed_is_restored(
    victim: subprocess.Popen[str], journal: Journal, tmp_path: Path
) -> None:
    """Nothing but the journal is left of it, and that is enough; it says what it undoes."""
    victim.kill()
    victim.wait()
    assert (tmp_path / "setting").read_text() == "changed"
    with pytest.raises(HostError, match="left changes on this host") as caught:
        conform._check_outstanding(journal)
    assert "--restore" in caught.value.hint
    assert journal.restore() == [f"write {tmp_path / 'setting'} old"]
    assert (tmp_path / "setting").read_text() == "old"
    assert not journal.path.exists()
    conform._check_outstanding(journal)


def test_a_line_cut_short_hides_no_other(journal: Journal, tmp_path: Path) -> None:
    """A writer that was killed in the middle of a line had not made that change yet."""
    settings = [tmp_path / name for name in ("first", "second")]
    for setting in settings:
        setting.write_text("old")
        journal.note("write", str(setting), "old")
        setting.write_text("changed")
    with journal.path.open("a") as file:
        file.write('{"id": 2, "undo": ["wri')
    assert len(journal.restore()) == 2
    assert [setting.read_text() for setting in settings] == ["old", "old"]
    assert not journal.path.exists()


def test_two_runs_at_once_are_refused(victim: subprocess.Popen[str], journal: Journal) -> None:
    """The lock is a live process's; it is free at once when that is killed."""
    with pytest.raises(HostError, match=f"process {victim.pid}"):
        journal.claim(seconds=0)
    victim.kill()
    victim.wait()
    os.close(journal.claim(seconds=0))


@pytest.mark.skipif(os.geteuid() != 0, reason="looks into other processes")
def test_what_outlives_a_dead_run_is_ended(journal: Journal, tmp_path: Path) -> None:
    """A scenario's helper that holds the lock of a run that died does not keep it for ever."""
    fd = journal.claim()
    with open(tmp_path / "run" / "conform.lock", "w") as file:
        file.write("4194305")  # above any process's number
    with subprocess.Popen(
        [sys.executable, "-c", "input()", "mptrace.conform.scenario_server"],
        stdin=subprocess.PIPE,
        pass_fds=(fd,),
    ) as helper:
        os.close(fd)
        os.close(journal.claim(seconds=0))
        assert helper.wait() == -signal.SIGKILL


def test_what_cant_be_undone_stays_written_down(journal: Journal, tmp_path: Path) -> None:
    """The rest is undone all the same, and the error names it."""
    (tmp_path / "good").write_text("changed")
    journal.note("write", str(tmp_path / "missing" / "file"), "old")
    journal.note("write", str(tmp_path / "good"), "old")
    with pytest.raises(HostError, match="missing"):
        journal.restore()
    assert (tmp_path / "good").read_text() == "old"
    assert len(journal.outstanding()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="scenarios need root")
def test_a_scenario_runs_in_a_process_of_its_own(journal: Journal) -> None:
    """The call comes back as it was made, also where source and target are one node."""
    told: list[int] = []
    with ScenarioClient(journal) as client:
        done = client.run("present", [0], ready=told.append, made=lambda: told.append(0))
    assert done.made is not None
    assert (done.made["ret"], done.made["statuses"], done.error) == (0, [0, 0, 0], "")
    assert len(told) == 2
    assert told[0] not in (0, os.getpid())


@pytest.mark.skipif(os.geteuid() != 0, reason="scenarios need root")
def test_an_interrupted_scenario_is_gone_and_the_next_one_runs(journal: Journal) -> None:
    """An exception out of `run` kills the scenario and leaves the server usable."""
    pids: list[int] = []

    def interrupt(tgid: int) -> None:
        pids.append(tgid)
        raise KeyboardInterrupt

    with ScenarioClient(journal) as client:
        with pytest.raises(KeyboardInterrupt):
            client.run("present", [0], ready=interrupt)
        assert not Path(f"/proc/{pids[0]}").exists()
        assert client.run("present", [0]).made is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="scenarios need root")
def test_a_killed_scenario_is_an_error_and_the_next_one_runs(journal: Journal) -> None:
    """SIGKILL from outside ends one scenario, not the run."""
    with ScenarioClient(journal) as client:
        done = client.run("present", [0], ready=lambda tgid: os.kill(tgid, signal.SIGKILL))
        assert done.made is None
        assert "status -9" in done.error
        assert client.run("present", [0]).made is not None


def test_what_cant_be_printed_is_recorded_all_the_same() -> None:
    """A full disk below the output ends the run; the host is restored, the recording whole."""
    done: list[str] = []
    host = SimpleNamespace(nodes=(), hypervisor="", emulated=False)
    watch = SimpleNamespace(
        meta={"coverage": []}, finish=lambda interrupted: done.append(f"finished {interrupted}")
    )
    journal = SimpleNamespace(restore=lambda: done.append("restored"))
    request = conform.ConformRequest((), output=Path("r"))
    run: Any = conform._Run
    one = run(request, host, (0, 1), None, watch, "", journal)

    def full(_: object) -> None:
        raise OutputError("can't write to standard output: No space left on device")

    with pytest.raises(OutputError):
        one.run(lambda _: None, full, lambda *_: None)
    assert done == ["restored", "finished True"]
