# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of a recording of everybody: golden text, head, sections, width."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from others import HELD, META, MOVER, OTHER, VICTIM, Others, story
from simulated_kernel import PAGE, Kernel

from mptrace.outcomes.paths import PATHS
from mptrace.recording.layouts import NOT_COUNTED
from mptrace.recording.meta import Meta
from mptrace.report import WIDTH, render
from mptrace.reporting.numbers.profile import profile

GOLDEN = Path(__file__).parent / "golden" / "report_others.txt"
UPDATE = "MPTRACE_UPDATE_GOLDEN=1 pytest tests/unit/test_report_others.py -k golden"
WAITS = {"phase": "wait_pte", "unit": "wait", "attach": "migration_entry_wait", "state": "unproved"}


def busy() -> dict[str, Any]:
    """The story, with a caller who can be misled, and threads that wait."""
    others = story()
    mover = others.rows["migrations"][23]
    for ns in (900, 4_000, 6_200_000):
        others.add(
            "waits",
            start_ns=5000,
            end_ns=5000 + ns,
            address=0x7F0009800000,
            holder_id=mover["migration_id"],
            holder_tid=MOVER,
            tid=4101,
            tgid=VICTIM,
            comm=b"worker-1",
        )
    others.add("waits", start_ns=7, end_ns=77, tid=OTHER, tgid=OTHER, comm=b"redis")
    kernel = Kernel("6.12", 2)
    for page in range(1, 24):
        kernel.folio(page, 0, trait="pinned" if page == 7 else "")
    kernel.move_pages([page * PAGE for page in range(1, 24)], [1] * 23, initial=0, tid=501)
    for row in kernel.rows["calls"]:
        row["target_tgid"] = VICTIM
    tables = others.tables()
    for name, rows in kernel.tables().items():
        tables[name] = np.concatenate([rows, tables[name]])
    return tables


def text_of(tables: dict[str, Any], **meta: Any) -> str:
    """The report."""
    return render(profile(tables, Meta.of({**META, **meta}), budget_ns=20_000_000))


def test_golden_text() -> None:
    """The whole report at 80 columns is the text that was agreed on."""
    text = text_of(busy(), coverage=[*META["coverage"], WAITS]) + "\n"
    if os.environ.get("MPTRACE_UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), f"to accept the new text: {UPDATE}"


def test_without_calls_there_are_no_sections_of_calls() -> None:
    """It is said once; what others migrated is all there."""
    text = text_of(story().tables())
    assert text.count("no calls") == 1
    for word in ("entries", "witnesses", "status[]", "caller", "unattributed"):
        assert word not in text
    assert "kcompactd0/31" in text


def test_a_process_without_a_name_is_a_number() -> None:
    """That it was gone is said of one that was asked for its name and was not there."""
    tables = busy()
    (caller,) = profile(tables, Meta.of(META))["callers"]
    assert [(each["comm"], each["gone"]) for each in caller["targets"]] == [("postgres", False)]
    people = tables["processes"]
    tables["processes"] = people[people["tgid"] != VICTIM]
    for name in ("waits", "migrations"):
        tables[name]["comm"][tables[name]["tgid"] == VICTIM] = b""
    text = " ".join(text_of(tables).split())
    assert f"moved pages of process {VICTIM} 1 (calls)" in text
    assert f"pages of process {VICTIM} 8" in text
    gone = people[people["tgid"] == VICTIM]
    gone["comm"], gone["uid"] = b"", 0xFFFFFFFF
    tables["processes"] = np.concatenate([tables["processes"], gone])
    text = " ".join(text_of(tables).split())
    assert f"moved pages of {VICTIM} (gone) 1 (calls)" in text
    assert f"pages of {VICTIM} (gone) 8" in text
    assert "?" not in text.replace("misled?", "")


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        ({"kind": "all"}, "traced     every process and kernel thread"),
        ({"kind": "pids", "pids": [12, 13]}, "traced     processes 12, 13"),
        ({"kind": "user", "uid": 1000}, "traced     processes of user 1000"),
        ({"kind": "cgroup", "cgroup": "/a.slice"}, "traced     processes of cgroup /a.slice"),
        (
            {"kind": "command", "command": ["redis-server", "--port", "1"], "exit_status": 3},
            "traced     redis-server --port 1 (exit status 3)",
        ),
    ],
)
def test_whose_migrations_they_are(scope: dict[str, Any], words: str) -> None:
    """The scope stands in the head."""
    assert words in text_of(story().tables(), scope=scope)


def test_what_was_left_out_and_what_was_not_seen() -> None:
    """Filters, tier, the tier's blind spots and the part of a rotation."""
    filters = {
        "reasons": ["compaction"],
        "from": [0],
        "to": [1, 2],
        "min_ns": 20_000,
        "failed": True,
    }
    text = text_of(
        story().tables(),
        filters=filters,
        tier="tracepoints",
        tier_reason="bpf() is refused",
        end_reason="the disk is full",
        unseen=["why a page stayed", "who waited"],
        rotation={"number": 3, "of": "night.data"},
    )
    joined = " ".join(text.split())
    assert (
        "filters reasons compaction; from node 0; to node 1, 2; at least 20 us; failed only: what "
        "does not fit was not recorded"
    ) in joined
    assert "tier tracepoints only, no probes in the kernel's functions: bpf() is refused" in joined
    assert "recording ended before the session did: the disk is full" in joined
    assert "not seen why a page stayed who waited" in joined
    assert "part 3 of night.data" in joined
    plain = text_of(story().tables(), filters={"reasons": [], "from": [], "min_ns": 0})
    assert "filters" not in plain
    assert "not seen" not in plain.split("coverage")[0]


def test_a_reason_is_never_cut_in_mid_sentence() -> None:
    """What is too long for a sentence is left to doctor and meta.json."""
    for reason, words in (
        ("no usable attach point for call, lookup, isolate, migration, move",) * 2,
        ("no attach point: " + "refused; " * 80, "'mptrace doctor' says why on that host"),
    ):
        text = text_of(story().tables(), tier="tracepoints", tier_reason=reason)
        assert words in " ".join(text.split())
        assert "..." not in text.split("coverage")[0]


def test_a_phase_that_a_calibration_refuted_is_told() -> None:
    """With how often it fired, beside those that are missing."""
    phases = [
        {"phase": "copy", "state": "unproved", "expected": 46, "seen": 45, "reason": "fired 45"},
        {"phase": "split", "state": "unproved", "expected": None, "reason": "moves no THP"},
        {"phase": "move", "state": "missing", "reason": "not in this kernel"},
    ]
    text = text_of(story().tables(), coverage=phases)
    assert "unproved 45/46" in text
    assert "  copy: fired 45\n  move: not in this kernel" in text
    assert "moves no THP" not in text


def test_a_difference_to_the_kernels_count_is_shown() -> None:
    """In numbers; nothing is said where they agree or where the kernel's was not seen."""
    others = Others()
    others.migrate("mempolicy_mbind", tgid=1, comm=b"a", folios=[{}, HELD], succeeded=9)
    assert (
        "the kernel counted 9 moved and 1 failed: the folios' records have -8 and +0"
        in " ".join(text_of(others.tables()).split())
    )
    assert "the kernel counted" not in text_of(story().tables())
    unseen = Others()
    unseen.migrate("mempolicy_mbind", tgid=1, comm=b"a", folios=[{}], succeeded=NOT_COUNTED)
    assert "the kernel counted" not in text_of(unseen.tables())


def test_it_fits_80_columns() -> None:
    """No line is wider, however long the names and large the numbers."""
    others = Others()
    comm = b"a_comm_of_15_by"
    for number in range(40):
        others.migrate(
            "compaction",
            tgid=4_194_304 - number,
            comm=comm,
            kthread=number % 2 == 0,
            folios=[{**HELD, "owner_tgid": 4_000_000 + n, "nr_pages": 1 << 20} for n in range(9)],
            ns=10**12,
            cgroup_id=77,
            succeeded=1 << 31,
        )
        others.add(
            "waits",
            start_ns=1,
            end_ns=10**12,
            tid=4_194_303,
            tgid=4_194_304 - number,
            comm=comm,
            address=1 << 46,
            holder_id=others.rows["migrations"][-1]["migration_id"],
        )
    tables = others.tables()
    numbers = profile(
        tables,
        Meta.of(
            {
                **META,
                "cgroups": {"77": "/a/very/long/cgroup.slice" * 9},
                "unseen": ["a sentence " * 20],
                "scope": {"kind": "command", "command": ["word"] * 40},
            }
        ),
        budget_ns=1,
    )
    for row in numbers["paths"]:
        row["label"] = max((path.label for path in PATHS), key=len)
    numbers["budget"] = [
        {**numbers["budget"][0], "label": "x" * 24, "state": state, "pages": 10**9, "next": next_}
        for state, next_ in (("at_least", None), ("measured", {"pages": 10**9, "p99_ns": 10**12}))
    ]
    numbers["misled"] = [
        {
            "tgid": 4_194_304,
            "comm": "a_comm_of_15_by",
            "calls": 10**9,
            "calls_returned_zero": 10**9,
            "pages": 10**12,
            "stayed_pages": 10**12,
            "unknown_pages": 10**12,
            "example": {
                "address": None,
                "call": 10**9,
                "entry": 10**9,
                "reads_as_node": 1023,
                "outcome": "not_attempted",
            },
        }
    ] * 20
    numbers["callers"] = profile(busy(), Meta.of(META))["callers"] * 20
    numbers["calls"]["count"] = 1
    for caller in numbers["callers"]:
        for name in ("calls", "entries", "returned_zero", "returned_positive"):
            caller[name] = 10**9
    text = render(numbers)
    wide = [line for line in text.splitlines() if len(line) > WIDTH]
    assert wide == []
    assert "and 25 more rows of 25 migrations: --json" in text
    assert "and 30 more processes that waited: --json" in text
