# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts about every entry, on real kernels, against a judge that isn't mptrace.

record_calls.py runs once in each guest: one tracer, and movers that ask the kernel
where their pages are before and after each call.  What both sides said comes here
and is judged by oracle.py.
"""

import errno
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from oracle import PLAIN, Judged, Recorded, compare, compare_lossy, compare_whole

from mptrace.lab.guest import Guest
from mptrace.outcomes.causes.rules import cause_name
from mptrace.recording.layouts import OUTCOMES, WITNESSES

HERE = Path(__file__).parent
TWO_NODES, FOUR_NODES = "2500M,2500M", "1400M,1400M,1400M,1400M"
RANDOM_CASES = 100  # on each topology
_EVERYWHERE = "small", "kinds", "random"
SECTIONS = {
    TWO_NODES: (*_EVERYWHERE, "large", "together", "arrays", "strace", "hits", "losses"),
    FOUR_NODES: _EVERYWHERE,
}
ON_TWO = pytest.mark.parametrize(
    "nodes", [pytest.param(TWO_NODES, marks=pytest.mark.nodes(TWO_NODES), id="2 nodes")]
)
ON_BOTH = pytest.mark.parametrize(
    "nodes",
    [
        pytest.param(spec, marks=pytest.mark.nodes(spec), id=f"{count} nodes")
        for count, spec in ((2, TWO_NODES), (4, FOUR_NODES))
    ],
)
UNKNOWN, MOVED = OUTCOMES.index("unknown"), OUTCOMES.index("moved")


@dataclass
class Recording:
    """What record_calls.py left of one guest."""

    directory: Path
    #: section -> what it said about it
    reports: dict

    def section(self, name: str, *, less: bool = False) -> Recorded:
        """A section; its own error is the test's."""
        report = self.reports.get(name, {"error": "the recorder did not come to it"})
        assert "error" not in report, report["error"]
        return Recorded(self.directory / f"{name}.npz", less=less)


_recordings: dict[tuple[str, str], Recording] = {}


@pytest.fixture
def recording(
    guest: Guest, kernel: str, nodes: str, tmp_path_factory: pytest.TempPathFactory
) -> Recording:
    """The guest's recording, made when it is asked for first."""
    key = kernel, nodes
    if key not in _recordings:
        directory = tmp_path_factory.mktemp("recorded")
        there = f"/var/tmp/mptrace-{len(_recordings)}"
        assert guest.run(["mkdir", there]).returncode == 0
        command = [sys.executable, HERE / "record_calls.py", there, str(RANDOM_CASES)]
        done = guest.run([*command, *SECTIONS[nodes]], timeout=900)
        print(done.text, done.errors)
        reports = {report["section"]: report for report in map(json.loads, done.text.splitlines())}
        for name, report in reports.items():
            if name in SECTIONS[nodes] and "error" not in report:
                (directory / f"{name}.npz").write_bytes(guest.get(f"{there}/{name}.npz"))
        guest.run(["rm", "-r", there])
        assert done.returncode == 0, done.errors
        _recordings[key] = Recording(directory, reports)
    return _recordings[key]


def judge(
    recorded: Recorded, how: Callable[..., Judged] = compare, *, lossy: bool = False
) -> Judged:
    """Nothing was lost and nothing differs; what was checked, also on stdout."""
    if not lossy:
        assert not any(recorded.meta.lost.values()), recorded.meta.lost
        assert recorded.about["open_folios"] == recorded.about["unfinished_entries"] == 0
    judged = how(recorded, recorded.correlated())
    print(judged)
    assert not judged.wrong, str(judged)
    return judged


@ON_BOTH
def test_23_and_509_pages_there_and_back(recording: Recording, nodes: str) -> None:
    """Each entry is `moved`, its status the target, as the re-query says; from node to node."""
    judged = judge(recording.section("small"))
    pairs = len(nodes.split(","))
    assert judged.entries == pairs * 2 * (23 + 509)
    assert judged.outcomes == {"moved": judged.entries}
    assert judged.witnesses == {"agree": judged.entries}


@ON_TWO
def test_200003_pages_there_and_back(recording: Recording) -> None:
    """All move there; on the way back three are held, and the 200,000 others are named
    `moved` although no status was written."""
    judged = judge(recording.section("large"), compare_whole)
    assert judged.outcomes == {"moved": 2 * 200_003 - 3, "failed": 3}
    assert judged.witnesses == {"agree": 200_003, "silent": 200_003}


@ON_BOTH
def test_all_kinds_in_one_call(recording: Recording) -> None:
    """4k, THP, hugetlb, shmem and ext4 pages move together, there and back, each named right."""
    recorded = recording.section("kinds")
    assert recorded.extra["thp_huge"]
    assert recorded.extra["hugetlb_huge"]
    judged = judge(recorded)
    assert judged.outcomes == {"moved": 2 * (3 * 23 + 3 + 2)}
    sizes, _ = np.unique(recorded.tables["folios"]["nr_pages"], return_counts=True)
    assert sizes.tolist() == [1, 512]


@ON_BOTH
def test_random_cases(recording: Recording) -> None:
    """Pins, duplicates, holes, THP, several targets, bad nodes at random: every entry's outcome,
    its status or that it has none, and the reason are what the model and the kernel say."""
    judged = judge(recording.section("random"))
    assert judged.calls == RANDOM_CASES
    # The cases are worth something only if all of this happened.
    assert min(judged.outcomes[name] for name in OUTCOMES if name != "unknown") > 100
    assert min(judged.reasons[name] for name in ("duplicate", "same_folio", "moved_again")) > 10
    assert judged.witnesses["silent"] > 100
    assert judged.silent_moved > 50
    assert judged.outcomes["unknown"] == 0


@ON_BOTH
@pytest.mark.parametrize(
    ("name", "most"),
    # of two huge pages side by side nobody knows at this level that they are not one folio;
    # random calls name pages several times on purpose: where these went is not traced
    [("small", 0), ("kinds", 4 / 148), ("random", 0.5)],
)
def test_at_less_detail_the_outcomes_are_the_same(
    recording: Recording, name: str, most: float
) -> None:
    """A second tracer saw the same calls at the level `outcomes`: each entry's outcome is the
    true one, or unknown because this level does not trace it."""
    recorded = recording.section(name, less=True)
    assert not any(recorded.meta.lost.values()), recorded.meta.lost
    found = recorded.correlated()
    judged = compare_lossy(recorded, found)
    print(judged)
    assert not judged.wrong, str(judged)
    assert judged.calls == len(recorded.told)
    unknown = found.rows[found.rows["outcome"] == UNKNOWN]
    assert {cause_name(code) for code in unknown["cause"]} <= {"not_traced", "maybe_same_folio"}
    assert len(unknown) <= most * judged.entries
    assert judged.entries


@ON_TWO
def test_at_less_detail_a_page_that_moved_has_no_record(recording: Recording) -> None:
    """Of 400,006 pages three were held: they have rows, the others lookups of 24 bytes."""
    recorded = recording.section("large", less=True)
    assert not any(recorded.meta.lost.values()), recorded.meta.lost
    assert len(recorded.tables["lookups"]) == 2 * 200_003
    assert len(recorded.tables["folios"]) == 3
    judged = compare_lossy(recorded, recorded.correlated())
    assert not judged.wrong, str(judged)
    assert judged.outcomes == {"moved": 2 * 200_003 - 3, "failed": 3}


@ON_BOTH
def test_outcomes_do_not_come_from_the_locations(recording: Recording) -> None:
    """Without the re-query the outcomes are the same, and no witness is said to agree."""
    recorded = recording.section("random")
    located = recorded.correlated().rows
    tables = recorded.located()
    bare = recorded.correlated(
        driver_calls=tables["driver_calls"][:0], locations=tables["locations"][:0]
    ).rows
    for column in ("outcome", "entry_reason", "cause", "written", "status_expected"):
        assert (located[column] == bare[column]).all()
    assert (bare["witnesses"] == WITNESSES.index("not_asked")).all()


@ON_BOTH
def test_without_the_kernels_events_nothing_is_known(recording: Recording) -> None:
    """With the folios' records dropped every entry of a call that looked pages up is `unknown`."""
    recorded = recording.section("random")
    for dropped in (("folios",), ("folios", "migrations")):
        tables = {name: recorded.tables[name][:0] for name in dropped}
        found = recorded.correlated(**tables)
        looked = recorded.tables["calls"][recorded.tables["calls"]["n_lookups"] > 0]
        rows = found.rows[np.isin(found.call_ids[found.rows["call"]], looked["call_id"])]
        assert len(rows) > 1000
        assert (rows["outcome"] == UNKNOWN).all()
        assert (rows["witnesses"] == WITNESSES.index("unknown")).all()


@ON_BOTH
@pytest.mark.parametrize("table", ["folios", "migrations", "entries", "calls"])
def test_with_some_records_lost_nothing_is_wrong(recording: Recording, table: str) -> None:
    """Whatever share of the records is dropped, each entry is `unknown` or named right."""
    recorded = recording.section("random")
    whole = recorded.tables[table]
    unknown = set()
    for seed, share in enumerate((0.02, 0.1, 0.3, 0.7)):
        kept = np.random.default_rng(seed).random(len(whole)) > share
        lost = {"folio_ring_full": int((~kept).sum())}
        found = recorded.correlated(**{table: whole[kept], "lost": lost})
        tables, recorded.tables = recorded.tables, {**recorded.tables, table: whole[kept]}
        judged = compare_lossy(recorded, found)
        recorded.tables = tables
        assert not judged.wrong, str(judged)
        unknown.add(judged.outcomes["unknown"])
    assert max(unknown) > 100 or table == "calls"


@ON_TWO
def test_a_full_ring_counts_its_losses(recording: Recording) -> None:
    """A call that tells more than the ring holds: losses are counted, entries without a record
    are `unknown`, the others right."""
    recorded = recording.section("losses")
    lost = recorded.meta.lost["folio_ring_full"]
    calls, folios = recorded.tables["calls"], recorded.tables["folios"]
    assert lost > 1000
    assert lost == calls["lost"].sum() == calls["n_lookups"].sum() - len(folios)
    judged = judge(recorded, compare_lossy, lossy=True)
    assert judged.entries == calls["nr_pages"].sum()
    assert lost <= judged.outcomes["unknown"]
    assert judged.outcomes["moved"] >= 2 * 508


@ON_TWO
def test_calls_at_once_are_not_mixed_up(recording: Recording) -> None:
    """Four threads, three processes, three callers of one target: each call has its own pages."""
    recorded = recording.section("together")
    assert not any(recorded.meta.lost.values())
    calls = recorded.tables["calls"]
    spans = np.sort(calls[["enter_ns", "exit_ns"]], order="enter_ns")
    assert (spans["enter_ns"][1:] < spans["exit_ns"][:-1]).sum() >= 3, "no two at the same time"
    racing = [told for told in recorded.told if told.about.get("what") == "same pages"]
    apart = [told for told in recorded.told if told.about.get("what") != "same pages"]
    assert (len(racing), len(apart)) == (3, 10)
    found = recorded.correlated()
    recorded.told = apart
    judged = compare(recorded, found)
    assert not judged.wrong, str(judged)
    assert judged.entries == 10 * 251
    recorded.told = racing
    for told, own in zip(racing, recorded.rows_of(found), strict=True):
        _, rows = own
        # none, perhaps: of up to 512 pages all are under migration at once
        there = np.isin(rows["outcome"], (MOVED, OUTCOMES.index("already_there")))
        assert (told.after[there] == told.target[there]).all()
        # who found the page in another's hands failed, and says so, though it moved
        apart = rows["witnesses"] == WITNESSES.index("disagree")
        assert (rows["outcome"][apart] == OUTCOMES.index("failed")).all()
    # Each page was moved once, by one of the three.
    moves = sum((rows["outcome"] == MOVED).astype(int) for _, rows in recorded.rows_of(found))
    assert (moves == 1).all()


@ON_TWO
def test_arrays_that_cannot_be_read_at_entry(recording: Recording) -> None:
    """Arrays and statuses never touched before: what the kernel faulted in is read at its exit."""
    recorded = recording.section("arrays")
    cold = [
        (told, own)
        for told, own in zip(recorded.told, recorded.rows_of(recorded.correlated()), strict=True)
        if "bound" not in told.about and "ends" not in told.about
    ]
    assert len(cold) == 3
    for told, (_, rows) in cold:
        assert (rows["address"] == told.address).all()
        assert (rows["outcome"] == MOVED).all()
        assert (rows["status_after"] == told.status).all()
        assert (told.after == told.target).all()
        assert (rows["witnesses"] == WITNESSES.index("agree")).all()


@ON_TWO
def test_cold_arrays_of_a_call_that_ends_early(recording: Recording) -> None:
    """What neither mptrace nor the kernel could read is `unknown` with its reason, never wrong."""
    recorded = recording.section("arrays")
    rows_of = recorded.rows_of(recorded.correlated())
    ((told, (_, rows)),) = (
        (told, own)
        for told, own in zip(recorded.told, rows_of, strict=True)
        if "ends" in told.about
    )
    assert told.ret == -19
    known = rows["outcome"] != UNKNOWN
    assert (rows["outcome"][:23] == MOVED).all()
    left = np.flatnonzero(known)[23:]
    assert np.isin(rows["outcome"][left], (OUTCOMES.index("not_attempted"), MOVED)).all()
    moved = rows["outcome"] == MOVED
    assert (told.after[moved] == told.target[moved]).all()
    assert {cause_name(cause) for cause in rows["cause"][~known]} <= {"unread", "ambiguous"}
    assert not (rows["witnesses"] == WITNESSES.index("disagree")).any()


@ON_TWO
def test_entries_beyond_the_bound(recording: Recording) -> None:
    """Of 1,048,576 + 1,009 entries the last are counted as beyond the bound, and no other is
    named wrong; those whose pages were looked up are known."""
    recorded = recording.section("arrays")
    found = recorded.correlated()
    ((told, (call, rows)),) = (
        (told, own)
        for told, own in zip(recorded.told, recorded.rows_of(found), strict=True)
        if "bound" in told.about
    )
    bound = recorded.meta.max_entries
    assert int(call["nr_pages"]) == bound + 1009
    assert found.beyond_bound == 1009
    assert told.ret == 0
    assert len(rows) == bound
    # Pages beyond the bound were looked up, too: nobody can tell whether they are others.
    known = rows["outcome"] != UNKNOWN
    expected = np.select(
        [told.what != PLAIN, told.before == told.target],
        [OUTCOMES.index("failed"), OUTCOMES.index("already_there")],
        MOVED,
    )[:bound]
    assert (rows["outcome"][known] == expected[known]).all()
    assert known[:251].all()
    assert {cause_name(cause) for cause in np.unique(rows["cause"][~known])} == {"beyond_bound"}
    assert not (rows["witnesses"] == WITNESSES.index("disagree")).any()


_STRACE = re.compile(
    r"move_pages\(0, (\d+), \[(.*?)\], \[(.*?)\], (?:\[(.*?)\]|0x\w+), MPOL_MF_MOVE\) = (-?\d+)"
    r"(?: ([A-Z]+))?"
)


@ON_TWO
def test_statuses_and_return_values_are_straces(recording: Recording) -> None:
    """What strace decodes of calls with failures is what mptrace recorded of them."""

    def number(word: str) -> int:
        return -getattr(errno, word[1:]) if word.startswith("-E") else int(word, 0)

    recorded = recording.section("strace")
    found = recorded.correlated()
    lines = recorded.extra["strace"]
    assert len(lines) == len(recorded.told) == 4
    failures = 0
    for line, told, own in zip(lines, recorded.told, recorded.rows_of(found), strict=True):
        match = _STRACE.search(line)
        assert match, line
        call, rows = own
        ret = -getattr(errno, match[6]) if match[6] else int(match[5])
        assert int(match[1]) == len(rows) == 25
        assert ret == int(call["ret"]) == told.ret
        for column, text in (
            ("address", match[2]),
            ("target_nid", match[3]),
            ("status_after", match[4]),
        ):
            # strace shows no statuses of a call that ended with an error
            if column == "status_after" and ret < 0:
                assert text is None
                continue
            assert rows[column].tolist() == [number(word) for word in text.split(", ")]
        failures += ret != 0
    assert failures == 3


@ON_TWO
def test_hits_are_the_kernels_own(recording: Recording) -> None:
    """Each phase of 509 pages was seen as often as ftrace counts its function in that call."""
    recorded = recording.section("hits")
    assert not any(recorded.meta.lost.values())
    extra = recorded.extra
    assert not extra["left_behind"]
    compared = 0
    for told, hits, counts in zip(recorded.told, extra["hits"], extra["counts"], strict=True):
        assert hits["overrun"] == 0
        differ = {}
        for phase, attach in extra["phases"].items():
            # the name of a tracepoint's event is its own
            event = attach.partition(":")[2] or phase
            if phase in counts and hits.get(event, 0) != counts[phase]:
                differ[phase] = f"mptrace {counts[phase]}, the kernel {hits.get(event, 0)}"
            compared += phase in counts
        assert not differ, f"{differ} of {hits}, {told.about['pinned']} pages held"
        assert hits["remove_migration_pte"] == counts["remap"]
    assert counts["move"] > 509 - 3
    assert compared >= 3 * 12
