# SPDX-License-Identifier: GPL-2.0-or-later
"""A list that is cut says how many are left and where; who was asked for is never cut."""

from typing import Any

import pytest
from click.testing import CliRunner
from others import HELD, META, NUMBER, Others

from mptrace.cli import main
from mptrace.recording.layouts import FOLIO_CHOSEN, FOLIO_UNEXPECTED
from mptrace.recording.meta import Meta
from mptrace.report import render
from mptrace.reporting.numbers.profile import profile
from mptrace.reporting.numbers.stalls import MAX_LONGEST
from mptrace.reporting.text.groups import groups
from mptrace.units import and_more

KCOMPACTD: dict[str, Any] = {"tgid": 31, "comm": b"kcompactd0", "kthread": True}


def text_of(others: Others, **meta: Any) -> str:
    """The report in one line."""
    return " ".join(render(profile(others.tables(), Meta.of({**META, **meta}))).split())


def owned(count: int, first: int = 100) -> list[dict[str, Any]]:
    """Folios of so many processes, the later ones with fewer pages."""
    return [
        {"owner_tgid": first + n, "nr_pages": 1} for n in range(count) for _ in range(count - n)
    ]


def test_the_clause() -> None:
    """The number, the noun, what they sum up to, and where they are; nothing for nothing."""
    assert and_more(0, "row") == and_more(-3, "row") == ""
    assert and_more(1, "row", "--json") == "and 1 more row: --json"
    assert and_more(1234, "row", "--json", of="2 pages") == "and 1,234 more rows of 2 pages: --json"
    assert and_more(2, "process", plural="processes") == "and 2 more processes"
    assert and_more(2, "", "--all", inline=True) == "and 2 more (--all)"


def test_owners_beyond_the_first_are_counted() -> None:
    """Four are named; of the others their number, their pages and where they are."""
    others = Others()
    others.migrate("compaction", folios=owned(7), **KCOMPACTD)
    assert (
        "pages of process 100 7, process 101 6, process 102 5, process 103 4 "
        "and 3 more owners of 6 pages (--json)"
    ) in text_of(others)


def test_owners_that_json_has_in_sum_only_are_in_dump() -> None:
    """Of 61 owners JSON has 50; the text counts each of the rest."""
    others = Others()
    others.migrate("compaction", folios=[{"owner_tgid": 100 + n} for n in range(61)], **KCOMPACTD)
    assert ("and 57 more owners of 57 pages (mptrace dump --table folios --format csv)") in text_of(
        others
    )


@pytest.mark.parametrize("count", [7, 61])
def test_an_owner_that_was_asked_for_is_named(count: int) -> None:
    """By its number in the scope, however few of its pages moved; JSON has it, too."""
    others = Others()
    last = 100 + count - 1
    folios = [{"owner_tgid": 100 + n} for n in range(count - 1) for _ in range(2)]
    others.migrate("compaction", folios=[*folios, {"owner_tgid": last}], **KCOMPACTD)
    scope = {"kind": "pids", "pids": [last]}
    text = text_of(others, scope=scope)
    assert f"process 103 2, process {last} 1 and {count - 5} more owners" in text
    assert f"process {last} 1" not in text_of(others)
    (row,) = profile(others.tables(), Meta.of({**META, "scope": scope}))["paths"]
    assert [owner["tgid"] for owner in row["owners"] if owner["asked"]] == [last]
    assert sum(owner["folios"] for owner in row["owners"]) == len(folios) + 1


@pytest.mark.parametrize(("kind", "is_named"), [("pids", True), ("command", True), ("all", False)])
def test_so_is_what_it_forked(kind: str, is_named: bool) -> None:
    """The kernel's side marks the folios of those that are followed; of everybody it marks all."""
    others = Others()
    child = {"owner_tgid": 999, "flags": FOLIO_UNEXPECTED | FOLIO_CHOSEN}
    others.migrate("compaction", folios=[*owned(7), child], **KCOMPACTD)
    text = text_of(others, scope={"kind": kind, "pids": [77] if kind == "pids" else []})
    assert ("process 999 1" in text) is is_named


def test_the_first_rows_and_those_asked_for() -> None:
    """Initiators and threads that waited: fifteen and ten, and whoever was asked for."""
    others = Others()
    for tgid in range(100, 125):
        others.migrate("mempolicy_mbind", tgid=tgid, comm=b"a", folios=[{}], ns=5000 - tgid)
        end = 9 + 5000 - tgid
        others.add("waits", start_ns=9, end_ns=end, tid=tgid, tgid=100 + tgid, comm=b"w")
    text = text_of(others, scope={"kind": "pids", "pids": [124, 224]})
    assert "a/124" in text
    assert "and 9 more rows of 9 migrations: --json" in text
    assert "w/224" in text
    assert "and 14 more processes that waited: --json" in text
    text = text_of(others)
    assert "and 10 more rows of 10 migrations: --json" in text
    assert "a/124" not in text


def test_who_was_waited_for_and_was_asked_for() -> None:
    """Ten of those whose migrations were waited for, and whoever was asked for."""
    others = Others()
    for tgid in range(100, 117):
        row = others.migrate("mempolicy_mbind", tgid=tgid, comm=b"a", folios=[{}])
        others.add(
            "waits",
            start_ns=9,
            end_ns=9000 - tgid,
            tid=7,
            tgid=7,
            comm=b"w",
            holder_id=row["migration_id"],
        )
    text = text_of(others, scope={"kind": "pids", "pids": [116]})
    stalls = text[text.index("stalls ") :]
    assert "mbind(2) a/109 1" in stalls
    assert "mbind(2) a/110 1" not in stalls
    assert "mbind(2) a/116 1" in stalls
    assert "and 6 more initiators: --json" in stalls
    assert "and 7 more initiators: --json" in text_of(others)


def test_a_caller_with_groups_that_was_asked_for() -> None:
    """Fifteen callers whose entries alternate, and whoever was asked for."""
    row = {
        "comm": "a",
        "calls": 1,
        "groups": 8,
        "pages": 8,
        "sorted_groups": 1,
        "ns_per_page": None,
        "unknown_calls": 0,
    }
    rows = [{"tgid": tgid, **row} for tgid in range(100, 118)]
    numbers = {"groups": rows, "scope": {"pids": [117]}, "paths": []}
    text = " ".join(" ".join(groups(numbers)).split())
    assert "a/114: " in text
    assert "a/115: " not in text
    assert "a/117: " in text
    assert "and 2 more callers: --json" in text


def test_nodes_and_system_calls() -> None:
    """Pairs of nodes and system calls beyond four."""
    others = Others()
    cells = [{"src_nid": 0, "dst_nid": nid} for nid in range(1, 8)]
    for number in range(6):
        others.migrate(
            "compaction", tgid=9, comm=b"a", folios=cells if not number else [], syscall=number
        )
    text = text_of(others)
    assert "in read 1, write 1, open 1, close 1 and 2 more system calls (--json)" in text
    assert "nodes 0->1 1, 0->2 1, 0->3 1, 0->4 1 and 3 more pairs (--json)" in text


def test_causes() -> None:
    """Causes beyond four, with their pages."""
    others = Others()
    kinds = [
        {"move_rc": -11, "n_move": 10},
        {"move_rc": -12},
        HELD,
        {"move_rc": -16},
        {"move_rc": -22},
        {"move_rc": 1, "n_move": 0, "n_unmap": 0},
    ]
    others.migrate("compaction", folios=kinds, **KCOMPACTD)
    (row,) = profile(others.tables(), Meta.of(META))["paths"]
    left = len(row["failures"]) - 4
    assert left > 0
    pages = sum(failure["pages"] for failure in row["failures"][4:])
    noun, pages_noun = ("cause", "page") if left == 1 else ("causes", "pages")
    pages_noun = "page" if pages == 1 else "pages"
    assert f"and {left} more {noun} of {pages} {pages_noun}: --json" in text_of(others)


def test_waits_beyond_the_longest() -> None:
    """Ten are told one by one; the others are rows of dump."""
    others = Others()
    for number in range(MAX_LONGEST + 7):
        others.add("waits", start_ns=9, end_ns=20 + number, tid=5, tgid=5, comm=b"w")
    others.add("waits", start_ns=9, end_ns=0, tid=5, tgid=5, comm=b"w")
    assert "and 7 more waits: mptrace dump --table waits" in text_of(others)


def test_targets_of_a_caller() -> None:
    """Processes whose pages a caller moved, beyond four."""
    others = Others()
    for number in range(7):
        others.add(
            "calls",
            call_id=number + 1,
            enter_ns=10,
            exit_ns=20,
            nodes_ptr=1,
            tid=9,
            tgid=9,
            comm=b"mover",
            target_tgid=100 + number,
        )
    text = text_of(others)
    assert (
        "mover/9 moved pages of process 100 1, process 101 1, process 102 1, process 103 1 "
        "and 3 more targets"
    ) in text


def test_targets_of_most_calls_and_those_asked_for_are_named() -> None:
    """The larger its number, the more calls a target has here; a target asked for is never cut."""
    others = Others()
    call_id = 0
    for number in range(7):
        for _ in range(number + 1):
            call_id += 1
            others.add(
                "calls",
                call_id=call_id,
                enter_ns=10,
                exit_ns=20,
                nodes_ptr=1,
                tid=9,
                tgid=9,
                comm=b"mover",
                target_tgid=100 + number,
            )
    most = "mover/9 moved pages of process 106 7, process 105 6, process 104 5, process 103 4"
    assert f"{most} and 3 more targets (--json) (calls)" in text_of(others)
    scope = {"kind": "pids", "pids": [100]}
    assert f"{most}, process 100 1 and 2 more targets" in text_of(others, scope=scope)
    (caller,) = profile(others.tables(), Meta.of(META))["callers"]
    assert [target["calls"] for target in caller["targets"]] == [7, 6, 5, 4, 3, 2, 1]


def test_recordings_of_a_long_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The last three are named at the end, the others counted."""
    from mptrace.recording.layouts import TABLES
    from mptrace.sessions import record
    from mptrace.sessions.request import RecordResult

    paths = tuple(tmp_path / f"r.{number:06d}" for number in range(1, 8))
    result = RecordResult(paths, dict.fromkeys(TABLES, 0), {}, None, False)
    monkeypatch.setattr(record, "record", lambda *_: result)
    done = CliRunner().invoke(main, ["record", "-a", "-o", str(tmp_path / "r")])
    last = ", ".join(map(str, paths[-3:]))
    assert f"mptrace: recording: {last} and 4 more ({tmp_path / 'r'}.*)\n" in done.stderr


def test_reasons_have_their_numbers() -> None:
    """The names that these tests use are the kernel's."""
    assert {"compaction", "mempolicy_mbind"} <= set(NUMBER)
