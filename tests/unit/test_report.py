# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers of a report and their text, from a recording with a known story."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recorded
from click.testing import CliRunner, Result
from simulated_kernel import PAGE, Kernel
from test_correlate import large_tables

from mptrace.cli import main
from mptrace.outcomes.causes.rules import CAUSES, cause_code, cause_meaning, cause_name
from mptrace.outcomes.causes.statuses import (
    PAGE_STATUSES,
    RETURN_CODES,
    page_status,
    status_text,
)
from mptrace.outcomes.causes.table import BY_NAME
from mptrace.recording.layouts import FOLIO_UNTRACKED, TABLES
from mptrace.recording.meta import CPU_CLOCK, Meta
from mptrace.recording.writer import RecordingWriter
from mptrace.report import WIDTH, render
from mptrace.reporting.numbers.profile import distribution, is_clean, profile

GOLDEN = Path(__file__).parent / "golden"
UPDATE = "MPTRACE_UPDATE_GOLDEN=1 pytest tests/unit/test_report.py -k golden"


def numbers(**changes: Any) -> dict[str, Any]:
    """Numbers of the known story."""
    return profile(recorded.tables(), Meta.of({**recorded.META, "complete": True, **changes}))


def invoke(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("name", ["report", "histogram"])
def test_golden_text(name: str) -> None:
    """The whole report at 80 columns is the text that was agreed on."""
    text = render(numbers(), histogram=name == "histogram") + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("MPTRACE_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), f"to accept the new text: {UPDATE}"


def test_it_fits_80_columns() -> None:
    """No line is wider, whatever is in it."""
    wild = numbers(
        lost={f"a_rather_long_cause_number_{number}": 10**9 for number in range(9)},
        missing_parts=["folios-000001.parquet"] * 9,
        coverage=[
            {
                "phase": "a_very_long_phase_name",
                "attach": "function_" * 9,
                "method": "raw_tracepoint",
                "unit": "migration_unit",
                "state": "not_separable",
                "expected": 10**6,
                "seen": 10**6,
                "reason": "because " * 30,
            }
        ],
        nodes=[{"nid": nid, "memory_bytes": 1 << 40, "cpus": [1]} for nid in range(64)],
    )
    wild["matrix"] = [
        {"from": source, "to": target, "pages": 123_456_789}
        for source in range(9)
        for target in range(9)
    ]
    wild["failure_causes"] = [
        {
            "cause": name,
            "meaning": cause.meaning,
            "remedy": cause.remedy,
            "statuses": [{"status": status, "count": 10**9} for status in (-14, -16, None)],
            "count": 10**9,
            "evidence": "a_function_with_a_long_name() returned something; " * 5,
            "example": {
                "address": hex(2**64 - 1),
                "mapping": None,
                "lies_in": {"what": "/a/long/path" * 9, "why_unknown": ""},
            },
        }
        for name, cause in BY_NAME.items()
        if name
    ]
    for text in (render(wild, histogram=True), render(numbers(), histogram=True)):
        assert max(len(line) for line in text.splitlines()) <= WIDTH == 80


def test_the_first_lines_say_what_was_traced() -> None:
    """Kernel, nodes, emulation, coverage, losses and cost come before any result."""
    text = render(numbers())
    places = [
        text.index(word)
        for word in (
            "kernel",
            "\nnodes",
            "emulated",
            "\nlost",
            "\ntracing",
            "\ncoverage",
            "\ncalls",
        )
    ]
    assert places == sorted(places)
    assert "emulated (TCG): times are ratios, not hardware's" in text
    assert "not emulated" in render(numbers(emulated=False, hypervisor=""))
    counted = {"cpu": "QEMU TCG CPU", "string_moves": "erms"}
    text = " ".join(render(numbers(counted=counted)).split())
    assert "instructions: 1 ns is one executed by QEMU TCG CPU (each byte of a rep movsb" in text
    assert "lost       ring 7" in render(numbers(lost={"ring": 7, "map": 0}))


def test_folios_of_a_call_that_did_not_end_are_in_no_sum() -> None:
    """Also where there are as many calls without folios as calls that did not end."""
    tables = recorded.tables()
    first, second, third = tables["calls"]["call_id"].tolist()
    tables["calls"]["exit_ns"][0] = 0
    folios = tables["folios"]
    tables["folios"] = folios[folios["call_id"] != second]
    seen = profile(tables, Meta.of(recorded.META))["folios"]
    assert (folios["call_id"] == first).any()
    assert seen["lookups"] == (folios["call_id"] == third).sum() > 0


def test_the_numbers_of_the_known_story() -> None:
    """Outcomes, agreement, failures and the matrix are exact."""
    result = numbers()
    assert result["outcomes"] == {
        "unknown": 0,
        "moved": 22,
        "already_there": 0,
        "failed": 2,
        "not_attempted": 4,
    }
    assert result["agreement"] == {
        "checked": 28,
        "agree": 11,
        "silent": 17,
        "disagree": 0,
        "not_asked": 0,
        "unknown": 0,
    }
    assert result["entries"]["asked"] == 28
    assert result["entries"]["untouched"] == 17
    # 6 + 12 pages and a THP to node 1, two pages back; the duplicate counts once
    assert result["matrix"] == [
        {"from": 0, "to": 1, "pages": 530},
        {"from": 1, "to": 0, "pages": 2},
    ]
    assert result["rates"]["pages"] == 532
    assert result["rates"]["bytes"] == 532 * 4096
    assert result["folios"]["moved_by_size"] == {"1": 20, "512": 1}
    assert result["calls"]["errors"] == {"ENODEV": 1}
    assert result["migrations"]["without_call"][0]["name"] == "compaction"
    assert [(group["cause"], group["count"]) for group in result["failures"]] == [
        ("aborted_by_earlier_group", 3),
        ("extra_references", 1),
        ("unmapped_or_zero_page", 1),
        ("bad_node", 1),
    ]
    assert result["failures"][1]["example"] == {
        "call": 1,
        "entry": 10,
        "address": "0x7f0000011000",
        "mapping": "anonymous",
    }


def bystander(**changes: Any) -> dict[str, Any]:
    """Tables of the same story as `record` has them: others' calls, whose pages nobody locates."""
    tables = {**recorded.tables(), **changes}
    for name in ("driver_calls", "locations"):
        tables[name] = tables[name][:0]
    return tables


def test_locations_that_nobody_asked_for_are_not_unknown(tmp_path: Path) -> None:
    """One clause says so, in report, dump and explain, and --strict finds nothing to blame."""
    meta = {**recorded.META, "scope": {"kind": "all"}, "lost": {"folio_ring_full": 0}}
    with RecordingWriter(tmp_path / "r", meta=meta) as writer:
        for name, rows in bystander().items():
            writer.append(name, rows)
        writer.finish()
    result = invoke("report", "--strict", "--all", tmp_path / "r")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert (
        "witnesses of 28 entries nobody asked where the pages are, and no status contradicts "
        "the events"
    ) in text
    assert "checked" not in text
    agreement = json.loads(invoke("report", "--json", tmp_path / "r").stdout)["agreement"]
    assert agreement == {
        "checked": 0,
        "agree": 0,
        "silent": 0,
        "disagree": 0,
        "not_asked": 28,
        "unknown": 0,
    }
    dumped = invoke("dump", "--format", "csv", tmp_path / "r").stdout
    assert dumped.count(",not_asked,") == 28
    assert "unknown" not in dumped
    told = " ".join(invoke("explain", tmp_path / "r").stdout.split())
    assert "location not asked; the status does not contradict the events" in told


def test_what_nobody_asked_is_not_checked_though_its_outcome_is_unknown(tmp_path: Path) -> None:
    """Nothing was asked: no count of checked entries, and explain does not say otherwise."""
    tables = bystander(entries=np.delete(recorded.tables()["entries"], 1))
    meta = {**recorded.META, "complete": True}
    result = profile(tables, Meta.of(meta))
    assert (result["agreement"]["not_asked"], result["agreement"]["unknown"]) == (28, 0)
    assert result["outcomes"]["unknown"] == 1
    text = " ".join(render(result).split())
    assert "witnesses of 28 entries nobody asked where the pages are" in text
    assert "checked" not in text
    with RecordingWriter(tmp_path / "r", meta=meta) as writer:
        for name, rows in tables.items():
            writer.append(name, rows)
        writer.finish()
    told = " ".join(invoke("explain", "--entry", "0:1", tmp_path / "r").stdout.split())
    assert "is unknown" in told
    assert "location not asked; not judged" in told


def test_entries_beyond_what_is_read_were_not_asked_about_either() -> None:
    """Where there is a driver they may be its own, and are unknown."""
    meta = {**recorded.META, "max_entries": 3}
    without = profile(bystander(), Meta.of(meta))
    beyond = without["entries"]["beyond_bound"]
    assert beyond > 0
    assert without["agreement"]["unknown"] == 0
    assert without["agreement"]["not_asked"] == without["entries"]["asked"]
    assert profile(recorded.tables(), Meta.of(meta))["agreement"]["unknown"] >= beyond


def test_what_is_unknown_is_told_apart_from_what_nobody_asked() -> None:
    """Both outcomes, and what contradicts; --strict minds the unknown."""
    entries = recorded.tables()["entries"]
    entries["status_after"][0] = -16
    tables = bystander(entries=np.delete(entries, 1))
    result = profile(tables, Meta.of({**recorded.META, "complete": True}))
    assert result["agreement"] == {
        "checked": 1,
        "agree": 0,
        "silent": 0,
        "disagree": 1,
        "not_asked": 27,
        "unknown": 0,
    }
    assert result["outcomes"]["unknown"] == 1
    text = " ".join(render(result).split())
    assert (
        "witnesses 1 entry checked: 0 agree, 0 silent (status untouched), 1 disagree; 0 unknown; "
        "of 27 entries nobody asked where the pages are, and no status contradicts the events"
    ) in text
    assert not is_clean(result)


def test_what_moved_is_summed_by_outcome() -> None:
    """A folio whose fate is unknown is in no sum of pages that moved, nor of those that stayed."""
    tables = recorded.tables()
    folios = tables["folios"]
    whole = profile(tables, Meta.of({**recorded.META, "complete": True}))
    inside = (folios["call_id"] != 0) & (folios["migration_id"] != 0)
    some = np.flatnonzero(inside & (folios["move_rc"] == 0) & (folios["nr_pages"] == 1))[:3]
    folios["flags"][some] |= FOLIO_UNTRACKED
    result = profile(tables, Meta.of({**recorded.META, "complete": True}))
    assert result["rates"]["pages"] == whole["rates"]["pages"] - 3 == 529
    assert sum(cell["pages"] for cell in result["matrix"]) == 529
    assert result["folios"]["moved"] == whole["folios"]["moved"] - 3
    assert result["blackout"]["stayed"] == whole["blackout"]["stayed"]
    paths = {row["path"]: row["pages"] for row in result["paths"]}
    assert paths["move_pages"]["moved"] == 529


def test_failures_are_counted_by_cause() -> None:
    """Each cause once, whatever was told; with its remedy, and evidence where there is any."""
    result = numbers()
    groups = {group["cause"]: group for group in result["failure_causes"]}
    assert {name: group["count"] for name, group in groups.items()} == {
        "aborted_by_earlier_group": 3,
        "extra_references": 1,
        "unmapped_or_zero_page": 1,
        "bad_node": 1,
    }
    held = groups["extra_references"]
    assert held["outcomes"] == {"failed": 1}
    assert held["statuses"] == [{"status": None, "count": 1}]
    assert held["evidence"] == (
        "move_to_new_folio() returned -11 EAGAIN; 2 references, 1 expected "
        "(1 the migration's own): 1 too many"
    )
    assert held["remedy"] == BY_NAME["extra_references"].remedy
    assert groups["unmapped_or_zero_page"]["statuses"] == [{"status": -14, "count": 1}]
    assert groups["bad_node"]["evidence"] == ""
    assert groups["bad_node"]["outcomes"] == {"not_attempted": 1}


def test_one_cause_may_have_been_told_in_several_ways() -> None:
    """It is one line, with each status and its count; the statuses are counted below, too."""
    kernel = Kernel("6.1", 2)
    kernel.folio(1, 0, shared=True)
    kernel.folio(2, 0, trait="pinned")
    kernel.move_pages([PAGE, 2 * PAGE], [1, 1])
    kernel.move_pages([PAGE], [1])
    result = profile(kernel.tables(), Meta.of(kernel.meta()))
    result["failure_causes"][0]["statuses"].append({"status": None, "count": 1})
    text = render(result)
    assert "2  shared            -13 EACCES 2, untouched 1" in text
    assert "  -13 EACCES 2: mapped more than once -> MPOL_MF_MOVE_ALL" in text
    assert "mptrace explain" in text


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_what_tracing_costs_takes_three_rounds(rounds: int) -> None:
    """Fewer give no figure: what is missing is said, and what each round took stays in JSON."""
    cost = {**recorded.META["cost"], "open_ns": [2_000] * rounds, "closed_ns": [1_000] * rounds}
    result = numbers(cost=cost)
    assert result["cost"]["ratio"] is None
    assert result["cost"]["open_ns"] == [2_000] * rounds
    text = " ".join(render(result).split())
    noun = "round" if rounds == 1 else "rounds"
    assert (
        f"tracing what it cost was not measured: {rounds} {noun} each, a ratio needs 3; BPF ran"
        in text
    )
    assert "x the calls' time" not in text
    assert numbers()["cost"]["ratio"] == 2
    assert "2.00 x the calls' time (" in render(numbers())
    by_cpu = numbers(cost=recorded.META["cost"] | {"clock": CPU_CLOCK})
    assert "2.00 x the calls' CPU time (" in render(by_cpu)
    assert numbers()["cost"]["ratio_reason"] == ""


def test_a_sum_of_blackouts_is_no_time() -> None:
    """Folios are dark at once: the sum is in JSON, under a name that says so, and in no text."""
    result = numbers()
    assert result["blackout"]["summed_over_folios_ns"] == 21 * 90
    assert result["blackout"]["total_ns"] == 21 * 90
    (own, _) = result["paths"]
    assert own["blackout"]["summed_over_folios_ns"] == 21 * 90
    for blackout in (result["blackout"], own["blackout"]):
        blackout["summed_over_folios_ns"] = blackout["total_ns"] = 2_606 * 10**9
    text = render(result)
    assert "2606 s" not in text
    (line,) = (line for line in text.splitlines() if line.startswith("blackout"))
    assert line.split() == ["blackout", "folio", "21", *["90", "ns"] * 4]


def test_the_phases_add_up_to_the_calls_time() -> None:
    """What is attributed and what is not is the whole of the calls' time."""
    result = numbers()
    total = sum(phase["total_ns"] or 0 for phase in result["phases"].values())
    assert total == result["calls"]["time_ns"]
    assert list(result["phases"])[-1] == "unattributed"
    assert {"drain", "isolate", "allocate", "unmap", "tlb_flush", "copy", "remap"} <= set(
        result["phases"]
    )


def test_a_phase_that_cant_be_separated_has_no_number() -> None:
    """It says where its time is; a missing phase is never a zero."""
    flush = numbers()["phases"]["tlb_flush"]
    assert flush["total_ns"] is None
    assert flush["state"] == "not_separable"
    assert "unmap" in flush["reason"]


def test_move_and_copy_are_told_apart() -> None:
    """Copy is inside move, and the flush inside unmap: each is counted once."""
    tables = large_tables(1, 509)
    tables["folios"]["flush_ns"], tables["folios"]["n_flush"] = 30, 1
    phases = profile(tables, Meta.of({}))["phases"]
    assert phases["copy"]["total_ns"] == 509 * 200
    assert phases["move"]["total_ns"] == 509 * 100
    assert phases["unmap"]["total_ns"] == 509 * 70
    assert phases["tlb_flush"]["total_ns"] == 509 * 30
    # the gap before the migration, less the isolation in it
    assert phases["walk"]["total_ns"] == 509 * 100 - 509 * 50


def test_migrations_without_a_call_are_not_in_the_calls_time() -> None:
    """Compaction's folios count nowhere but in their own line."""
    tables = large_tables(1, 23)
    before = profile(tables, Meta.of({}))
    strange = tables["folios"][:5].copy()
    strange["call_id"], strange["migration_id"] = 0, 77
    migration = tables["migrations"][:1].copy()
    migration["call_id"], migration["migration_id"], migration["reason"] = 0, 77, 0
    tables["folios"] = np.concatenate([tables["folios"], strange])
    tables["migrations"] = np.concatenate([tables["migrations"], migration])
    after = profile(tables, Meta.of({}))
    for key in ("phases", "rates", "matrix", "folios", "blackout"):
        assert after[key] == before[key]
    assert after["migrations"]["without_call"][0]["moved_pages"] == 5


def test_negative_unattributed_time_is_said() -> None:
    """Phases that overlap give a negative rest, not a huge unsigned one."""
    tables = large_tables(1, 23)
    tables["folios"]["alloc_ns"] = 10**6
    result = profile(tables, Meta.of({}))
    assert result["phases"]["unattributed"]["total_ns"] < 0
    assert "unattributed is negative" in render(result)


def test_disagreements_are_named_by_address() -> None:
    """The first ones each have a line with what each witness says."""
    tables = recorded.tables()
    tables["locations"]["final_nid"][:12] = 1 - tables["locations"]["final_nid"][:12]
    result = profile(tables, Meta.of({**recorded.META, "complete": True}))
    assert result["agreement"]["disagree"] >= 10
    assert len(result["disagreements"]) == 10
    text = render(result)
    assert "0x7f0000000000 (call 0, entry 0) to node 1: events say moved" in text.replace(
        "\n           ", " "
    )
    assert "more: mptrace dump" in text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], (None, None, None, None)),
        ([7], (7, 7, 7, 7)),
        (list(range(1, 101)), (50, 90, 99, 100)),
        ([0, 0, 3], (0, 3, 3, 3)),
    ],
)
def test_quantiles_are_values_that_occurred(
    values: list[int], expected: tuple[int | None, ...]
) -> None:
    """Nearest rank: no interpolation."""
    result = distribution(np.array(values, np.int64))
    assert (result["p50"], result["p90"], result["p99"], result["max"]) == expected


def test_histograms_are_powers_of_two() -> None:
    """Each bin holds from its start to below twice that, zeros apart."""
    values = np.array([0, 1, 2, 3, 4, 7, 8, 1 << 40, (1 << 53) - 1], np.int64)
    assert distribution(values)["histogram"] == [
        [0, 1],
        [1, 1],
        [2, 2],
        [4, 2],
        [8, 1],
        [1 << 40, 1],
        [1 << 52, 1],
    ]


def test_json_has_the_promised_keys(tmp_path: Path) -> None:
    """Raw nanoseconds, both clocks at the start, a schema version, every key."""
    result = invoke("report", "--json", recorded.write(tmp_path / "r"))
    assert result.exit_code == 0
    loaded = json.loads(result.stdout)
    assert {
        "schema_version",
        "kernel",
        "nodes",
        "emulated",
        "coverage",
        "lost",
        "calls",
        "entries",
        "outcomes",
        "agreement",
        "phases",
        "failures",
    } <= set(loaded)
    assert set(loaded["agreement"]) == {
        *("checked", "agree", "silent", "disagree", "not_asked", "unknown")
    }
    assert set(loaded["started"]) == {"wall_ns", "monotonic_ns"}
    assert loaded == json.loads(json.dumps(numbers()))


def test_the_recording_gives_the_live_report(tmp_path: Path) -> None:
    """The way over the disk changes nothing."""
    result = invoke("report", "--all", "--histogram", recorded.write(tmp_path / "r"))
    assert result.stdout.endswith("\n\n" + (GOLDEN / "histogram.txt").read_text())


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 0),
        ({"lost": {"ring": 1}}, 3),
        ({"coverage": [{"phase": "move", "state": "missing"}]}, 3),
    ],
)
def test_strict(tmp_path: Path, changes: dict[str, Any], status: int) -> None:
    """--strict leaves with 3 when something was lost or unknown, and only then."""
    path = recorded.write(tmp_path / "r", **changes)
    assert invoke("report", "--strict", path).exit_code == status
    assert invoke("report", path).exit_code == 0


def test_an_incomplete_recording_is_not_clean(tmp_path: Path) -> None:
    """Killed in the middle: readable, said so, and not clean."""
    with RecordingWriter(tmp_path / "r", meta=recorded.META) as writer:
        for name, rows in recorded.tables().items():
            writer.append(name, rows)
        writer.flush()
    result = invoke("report", tmp_path / "r")
    assert "not complete" in result.stdout
    assert invoke("report", "--strict", tmp_path / "r").exit_code == 3


def test_lost_events_are_unknown_in_the_report() -> None:
    """The same data without the kernel's events has no outcome at all."""
    tables = recorded.tables()
    tables["folios"] = tables["folios"][:0]
    result = profile(tables, Meta.of({**recorded.META, "complete": True}))
    assert result["outcomes"]["unknown"] == 28
    assert result["unknown_reasons"] == {"no_events": 28}
    assert result["agreement"]["checked"] == 0
    assert not is_clean(result)
    assert "no_events 28" in render(result)


def test_entries_beyond_the_bound_are_unknown() -> None:
    """They are counted among the entries asked for, even absurd numbers of them."""
    tables = recorded.tables()
    tables["calls"]["nr_pages"][0] = 1 << 62
    result = profile(tables, Meta.of({**recorded.META, "complete": True}))
    assert result["unknown_reasons"]["beyond_bound"] == (1 << 62) - (1 << 20)
    assert result["entries"]["asked"] > 1 << 61
    assert max(len(line) for line in render(result).splitlines()) <= WIDTH


@pytest.mark.parametrize("damage", ["missing", "meta", "part", "version"])
def test_a_damaged_recording_is_an_error(tmp_path: Path, damage: str) -> None:
    """Status 1, the file's name on stderr, nothing on stdout, no traceback."""
    path = tmp_path / "r"
    if damage != "missing":
        recorded.write(path)
    if damage == "meta":
        (path / "meta.json").write_text("{")
    elif damage == "part":
        (path / "folios-000000.parquet").write_bytes(b"PAR1")
    elif damage == "version":
        meta = json.loads((path / "meta.json").read_text())
        (path / "meta.json").write_text(json.dumps({**meta, "format_version": 99}))
    result = invoke("report", path)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "mptrace: " in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_an_empty_recording_has_a_report() -> None:
    """A session that saw nothing says so."""
    empty = {name: np.zeros(0, layout) for name, layout in TABLES.items()}
    result = profile(empty, Meta.of({}))
    text = render(result, histogram=True)
    assert text.count("no calls") == 1
    assert "entries" not in text
    json.dumps(result)


def test_a_million_entries_in_seconds() -> None:
    """Correlation and profile of a million entries and folios, processor time."""
    tables = large_tables(1, 1_000_000)
    before = time.process_time()
    profile(tables, Meta.of({}))
    assert time.process_time() - before < 8.0


def test_every_cause_has_a_meaning() -> None:
    """No cause is printed without words for people."""
    assert all(BY_NAME[name].meaning for name in CAUSES if name)
    for code in range(len(CAUSES)):
        assert cause_code(cause_name(code)) == code
    assert cause_name(10_005) == "move_EIO"
    assert cause_name(20_001) == "call_refused_EPERM"
    assert "EIO" in cause_meaning("move_EIO")
    assert len({*CAUSES}) == len(CAUSES)


def test_the_table_of_statuses() -> None:
    """Each documented state and return code is there once, with its source."""
    for table in (PAGE_STATUSES, RETURN_CODES):
        names = [row.name for row in table]
        assert len(names) == len(set(names))
        assert all(row.meaning and row.kernel and row.source for row in table)
    documented = {"EACCES", "EBUSY", "EFAULT", "EIO", "EINVAL", "ENOENT", "ENOMEM"}
    assert documented <= {row.name for row in PAGE_STATUSES}
    returned = {"E2BIG", "EACCES", "EFAULT", "EINVAL", "ENODEV", "ENOENT", "EPERM", "ESRCH"}
    assert returned <= {row.name for row in RETURN_CODES}
    assert [status_text(status) for status in (None, 3, -16)] == [
        "untouched",
        "node 3",
        "-16 EBUSY",
    ]
    for status, name in ((None, "untouched"), (0, "node"), (-2, "ENOENT"), (-16, "EBUSY")):
        row = page_status(status)
        assert row is not None
        assert row.name == name
    assert page_status(-11) is None
