# SPDX-License-Identifier: GPL-2.0-or-later
"""Every documented outcome, provoked in guests, and judged by others than mptrace.

One run of `mptrace conform` per kernel, under strace: what strace decodes of each
judged call, and of the query that follows it, is the oracle of what mptrace says.
"""

import json
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mptrace.cli import main
from mptrace.conform.scenarios import catalogue
from mptrace.driver import SENTINEL
from mptrace.recording.reader import Recording
from mptrace.recording.writer import RecordingWriter

HERE = Path(__file__).parent
#: Two nodes with memory and CPUs, one of memory only (the kernel numbers it last), one of CPUs.
NODES = "1G/cpus=0,256M,1G/cpus=1,0/cpus=2"
pytestmark = pytest.mark.nodes(NODES)

#: What each kernel lacks: scenario -> the reason that conform gives.
SKIPPED: dict[str, dict[str, str]] = {
    "6.1": {},
    "6.12": {},
}


@dataclass(frozen=True)
class Run:
    """One run's results, its recording and what strace saw of each thread."""

    results: dict
    recording: Path
    strace: dict[int, list[str]]

    @property
    def performed(self) -> list[dict]:
        """Scenarios whose call was made."""
        return [s for s in self.results["scenarios"] if s["call"]]


_RUNS: dict[str, Run] = {}


@pytest.fixture
def run(kernel, guest, guest_dir, fetch) -> Run:
    """The one run on this kernel."""
    if kernel not in _RUNS:
        argv = [
            "strace",
            "-ff",
            "--seccomp-bpf",
            "-v",
            "-e",
            "trace=move_pages",
            "-e",
            "signal=none",
        ]
        argv += ["-o", f"{guest_dir}/strace", sys.executable, "-m", "mptrace", "conform"]
        argv += ["--json", "-o", f"{guest_dir}/recording"]
        done = guest.run(argv, cwd=guest_dir, timeout=1500)
        assert done.stdout, done.errors
        here = fetch(guest_dir)
        (here / "results.json").write_bytes(done.stdout)
        traces = {
            int(file.suffix[1:]): file.read_text().splitlines() for file in here.glob("strace.*")
        }
        _RUNS[kernel] = Run(json.loads(done.stdout), here / "recording", traces)
    return _RUNS[kernel]


def test_no_surprise(run: Run, kernel: str) -> None:
    """Each scenario goes as documented, or differs with a reason; nothing is left changed."""
    surprises = {
        s["name"]: (s["verdict"], s["reason"], s["differences"])
        for s in run.results["scenarios"]
        if s["verdict"] not in ("as_documented", "different", "skipped")
    }
    assert not surprises
    assert {s["name"] for s in run.results["scenarios"]} == set(catalogue())
    assert run.results["traced"]
    assert not run.results["not_restored"]
    assert not any(run.results["lost"].values())
    skipped = {s["name"]: s["reason"] for s in run.results["scenarios"] if not s["call"]}
    assert set(skipped) == set(SKIPPED[kernel]), skipped
    for name, reason in SKIPPED[kernel].items():
        assert reason in skipped[name]


def test_forty_pairs_of_function_and_cause(run: Run) -> None:
    """At least 40 scenarios differ in the function that decides or in the cause."""
    assert len({(s["function"], s["cause"]) for s in run.performed}) >= 40


def test_different_says_why(run: Run) -> None:
    """What differs from the manual names the change of the kernel; what does not, does not."""
    for scenario in run.performed:
        assert bool(scenario["why"]) == (scenario["verdict"] == "different"), scenario["name"]


# ---- strace: what the call really returned, where the pages really are ------------------

_CALL = re.compile(
    r"move_pages\((\d+), (\d+), (?P<pages>\[.*?\]|0x\w+|NULL), (?P<nodes>\[.*?\]|0x\w+|NULL), "
    r"(?P<status>\[.*?\]|0x\w+|NULL), (?P<flags>[\w|]+)\)\s+= (?P<ret>-?\d+)(?: (?P<errno>E\w+))?"
)


def decoded(lines: list[str]) -> list[re.Match]:
    """strace's move_pages calls of one thread."""
    found = [_CALL.search(line) for line in lines if "move_pages(" in line]
    assert all(found), lines
    return found


def judged_and_after(run: Run, call: dict) -> tuple[re.Match, list[re.Match]]:
    """The judged call in strace's words, the last that moves, and the queries after it."""
    calls = decoded(run.strace[call["tid"]])
    place = max(i for i, c in enumerate(calls) if c["nodes"] != "NULL")
    return calls[place], calls[place + 1 :]


def values(array: str) -> list[str] | None:
    """The elements that strace printed, None where it could not read the array."""
    if not array.startswith("["):
        return None
    return [item for item in array.strip("[]").split(", ") if not item.startswith("...")]


def as_status(word: str) -> int | str | None:
    """A status as conform's JSON has it, errnos by name."""
    number = int(word) if re.fullmatch(r"-?\d+", word) else None
    return None if number == SENTINEL else word if number is None else number


def test_strace_saw_the_same(run: Run) -> None:
    """Return value, errno and every status of each judged call are as strace decoded them."""
    compared = 0
    for scenario in run.performed:
        call = scenario["call"]
        seen, _ = judged_and_after(run, call)
        assert int(seen["ret"]) == call["ret"], scenario["name"]
        assert (seen["errno"] or "") == scenario["observed"]["returned"].lstrip("-") or (
            call["ret"] >= 0
        ), scenario["name"]
        statuses = values(seen["status"])
        if statuses is None:
            # strace does not decode what a call that failed has written
            assert call["ret"] == -1, scenario["name"]
            continue
        compared += 1
        ours = [s if s is None or s >= 0 else errno_word(s) for s in call["statuses"]]
        assert [as_status(word) for word in statuses][: len(ours)] == ours, scenario["name"]
    assert compared >= 40


def errno_word(status: int) -> str:
    """``-ENOENT`` for -2, as strace prints it."""
    import errno

    return f"-{errno.errorcode[-status]}"


def test_the_query_after_the_call_confirms_each_outcome(run: Run) -> None:
    """Pages said to be moved or already there are on the target, by strace's view; others not."""
    outcomes: Counter[str] = Counter()
    for scenario in run.performed:
        call = scenario["call"]
        _, queries = judged_and_after(run, call)
        if not call["after"]:
            assert scenario["observed"]["returned"].startswith("-E"), scenario["name"]
            continue
        where = values(queries[0]["status"])
        for row, word, target in zip(scenario["rows"], where, call["targets"], strict=False):
            outcomes[row["outcome"]] += 1
            on_target = word == str(target)
            if row["outcome"] in ("moved", "already_there"):
                assert on_target, (scenario["name"], row, word)
            elif row["outcome"] in ("failed", "not_attempted"):
                before = call["before"][row["entry"]]
                assert not on_target or before == target, (scenario["name"], row, word)
    assert outcomes["moved"] > 100
    assert outcomes["failed"] > 30


# ---- explain: the cause that the scenario made --------------------------------------------


def each_entry(scenario: dict) -> list[dict]:
    """What is expected of each entry of a call."""
    entries: list[dict] = []
    for entry in scenario["expected"]["entries"]:
        entries += [entry] * (entry["times"] or len(scenario["rows"]) - len(entries))
    return entries


def keep(run: Run, where: Path) -> None:
    """Keep a run for the unit tests: its recording in one part, and what was made to happen.

    Left out are calls with more entries than are worth their room.
    """
    recording = Recording.open(run.recording)
    tables = recording.tables()
    long = tables["calls"]["call_id"][tables["calls"]["nr_pages"] > 1000]
    meta = {name: value for name, value in recording.meta.raw.items() if name != "parts"}
    where.mkdir(exist_ok=True)
    with RecordingWriter(where / "recording", meta=meta, force=True) as writer:
        for name, rows in tables.items():
            named = "call_id" in rows.dtype.names
            writer.append(name, rows[~np.isin(rows["call_id"], long)] if named else rows)
        writer.finish()
    made = {
        scenario["name"]: {
            "call_id": scenario["call_id"],
            "entries": [
                {name: entry[name] for name in ("outcome", "cause", "entry_reason", "delay")}
                for entry in each_entry(scenario)
            ],
        }
        for scenario in run.performed
        if scenario["call_id"] not in long.tolist() and scenario["expected"]["entries"]
    }
    (where / "made.json").write_text(json.dumps(made, indent=1) + "\n")


def test_explain_names_the_cause_of_each_page_that_stays(run: Run, kernel: str) -> None:
    """From the recording alone, without the scenarios' names, without root, on this machine.

    MPTRACE_UPDATE_FIXTURES=1 keeps it for tests/unit/test_recorded_causes.py.
    """
    if os.environ.get("MPTRACE_UPDATE_FIXTURES"):
        keep(run, HERE.parent / "fixtures" / f"conform-{kernel}")
    result = CliRunner().invoke(main, ["explain", str(run.recording), "--failed", "--json"])
    assert result.exit_code == 0, result.output
    found = {}
    for line in result.stdout.splitlines():
        entry = json.loads(line)
        found[entry["call_id"], entry["entry"]] = entry["cause"]["name"]
    stayed = 0
    for scenario in run.performed:
        for row, entry in zip(scenario["rows"], each_entry(scenario), strict=False):
            if entry["outcome"] == "failed":
                stayed += 1
                key = scenario["call_id"], row["entry"]
                assert found.get(key) == entry["cause"], (scenario["name"], row)
    assert stayed > 30


def test_who_maps_a_shared_page_is_found(run: Run) -> None:
    """The processes that a scenario made share a page, or one that maps it twice, are recorded."""
    tables = Recording.open(run.recording).tables()
    for name, processes, mappings in (("shared_move", 2, 2), ("mapped_twice", 1, 2)):
        (scenario,) = (s for s in run.performed if s["name"] == name)
        rows = tables["mappers"][tables["mappers"]["call_id"] == scenario["call_id"]]
        assert len({*rows["pid"].tolist()}) == processes, name
        assert scenario["call"]["tid"] in rows["pid"], name
        assert len({*zip(rows["pid"].tolist(), rows["address"].tolist(), strict=True)}) == mappings


def test_no_name_of_a_scenario_is_in_the_recording(run: Run) -> None:
    """What `explain` says it has from the kernel's events."""
    text = b"".join(file.read_bytes() for file in run.recording.iterdir())
    names = [name for name in catalogue() if "_" in name]
    # a cause may have the same name as a scenario, and be no part of a recording either
    assert [name for name in names if name.encode() in text] == []


# ---- what a killed run leaves -----------------------------------------------------------


#: Runs `no_memory`, which takes seconds, until it has changed the watermark.
_UNTIL_CHANGED = """
    mptrace="{python} -m mptrace conform"
    mark=/proc/sys/vm/min_free_kbytes; before=$(cat $mark)
    $mptrace --no-trace --only no_memory --only pipe > out 2>&1 & pid=$!
    until [ $(cat $mark) != $before ]; do kill -0 $pid || exit 9; done
"""


def _killed(guest, guest_dir, script: str) -> str:
    """Output of a script that goes on where something was changed."""
    first = _UNTIL_CHANGED.format(python=sys.executable)
    done = guest.run(["sh", "-c", first + script], cwd=guest_dir, timeout=300)
    return done.stdout.decode() + done.errors


def test_what_a_killed_run_changed_is_restored(guest, guest_dir) -> None:
    """After SIGKILL a new run is refused, and `--restore` puts everything back."""
    text = _killed(
        guest,
        guest_dir,
        """
        kill -9 $pid; wait $pid; echo killed $?
        [ $(cat $mark) != $before ] && echo still changed
        $mptrace --no-trace --only present; echo refused $?
        $mptrace --restore; echo restored $?
        [ $(cat $mark) = $before ] && echo same again
        $mptrace --no-trace --only present > again.out 2>&1; echo again $?
        """,
    )
    for wanted in (
        "killed 137",
        "still changed",
        "refused 1",
        "--restore",
        "restored 0",
        "same again",
        "again 0",
    ):
        assert wanted in text, text


def test_a_scenario_that_is_killed_leaves_nothing(guest, guest_dir) -> None:
    """The scenario's own process dies in the middle: conform restores by itself and goes on."""
    text = _killed(
        guest,
        guest_dir,
        """
        kill -STOP $pid  # the scenario waits for it before its call
        pkill -9 -P $(pgrep -P $pid); echo scenario killed $?
        kill -CONT $pid
        wait $pid; echo ended $?
        [ $(cat $mark) = $before ] && echo same again
        cat out
        """,
    )
    for wanted in ("scenario killed 0", "ended 1", "same again"):
        assert wanted in text, text
    assert re.search(r"^ok \d+ pipe", text, re.MULTILINE), text
    assert re.search(r"^not ok \d+ no_memory", text, re.MULTILINE), text


def test_nobody_runs_scenarios(guest, guest_dir) -> None:
    """Without root there is a clear answer, and the list is there for everybody."""
    drop = ["setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
    done = guest.run([*drop, sys.executable, "-m", "mptrace", "conform"], cwd=guest_dir)
    assert done.returncode == 1
    assert "root" in done.errors
    assert "Traceback" not in done.errors
    listed = guest.run([*drop, sys.executable, "-m", "mptrace", "conform", "--list"])
    assert listed.returncode == 0
    assert b"mlocked" in listed.stdout
