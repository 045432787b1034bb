# SPDX-License-Identifier: GPL-2.0-or-later
"""Why pages stayed that no call asked for: by whom, by which path, on what evidence."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from others import HELD, META, MOVER, NEVER_MOVED, VICTIM, Others, story
from simulated_kernel import PAGE, Kernel

from mptrace.cli import main
from mptrace.explain.folios import FolioExplainer
from mptrace.recording.layouts import FOLIO_ALLOC_FAILED, NOT_COUNTED, SYSCALL_NONE, WAIT_PMD
from mptrace.recording.meta import Meta
from mptrace.recording.writer import RecordingWriter
from mptrace.reporting.text.explain_folios import explanation, render
from mptrace.reporting.text.layout import WIDTH

GOLDEN = Path(__file__).parent / "golden" / "explain_folios.txt"
UPDATE = "MPTRACE_UPDATE_GOLDEN=1 pytest tests/unit/test_explain_folios.py -k golden"


def explainer(others: Others, **meta: Any) -> FolioExplainer:
    """Explains the folios of these records."""
    return FolioExplainer(others.tables(), Meta.of({**META, **meta}))


def write(path: Path, tables: dict[str, Any], meta: dict[str, Any]) -> Path:
    """Write tables as a recording."""
    with RecordingWriter(path, meta=meta) as writer:
        for name, rows in tables.items():
            writer.append(name, rows)
        writer.finish()
    return path


def invoke(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """The story as a recording."""
    return write(tmp_path / "story", story().tables(), META)


def test_golden_text(recording: Path) -> None:
    """The whole text at 80 columns is the one that was agreed on."""
    text = invoke("explain", recording).output
    if os.environ.get("MPTRACE_UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), f"to accept the new text: {UPDATE}"


def test_it_says_who_and_by_which_path() -> None:
    """Initiator, path, owner, nodes, cause, evidence and remedy of the page that stayed."""
    found = explainer(story())
    blocks = found.blocks(found.select())
    one = next(block.first for block in blocks if block.first.cause.name == "extra_references")
    assert one.path is not None
    assert (one.path.key, one.reason, one.mode) == ("migrate_pages", "syscall", "sync")
    assert one.initiator is not None
    assert (one.initiator.tgid, one.initiator.comm) == (MOVER, "migratepages")
    assert one.initiator.cgroup == "/system.slice/mover.service"
    assert (one.owner_tgid, one.owner_comm) == (VICTIM, "postgres")
    assert (one.source_nid, one.target_nid, one.outcome) == (0, 1, "failed")
    assert [finding.label for finding in one.evidence][:2] == ["refusal", "references"]
    assert one.cause.remedy
    assert one.gap == ""


def test_equal_ones_are_shown_once() -> None:
    """One block for each initiator, path and cause, with folios, pages and ranges."""
    others = Others()
    more = {**HELD, "obstacle": {**HELD["obstacle"], "refcount": 9}}  # type: ignore[dict-item]
    for comm, tgid in ((b"a", 1), (b"b", 2)):
        others.migrate(
            "mempolicy_mbind", tgid=tgid, comm=comm, folios=[HELD] * 3 + [more] * 20, syscall=237
        )
    others.migrate("mempolicy_mbind", tgid=1, comm=b"a", folios=[{**NEVER_MOVED, "nr_pages": 512}])
    found = explainer(others)
    blocks = found.blocks(found.select())
    assert [(block.count, block.pages) for block in blocks] == [(1, 512), (23, 23), (23, 23)]
    assert {b.first.initiator.comm for b in blocks if b.first.initiator} == {"a", "b"}
    assert blocks[1].ranges == {"references": [2, 9]}
    assert len(blocks[1].others) == 4
    text = render(blocks, most=2)
    assert "23 folios (23 pages) stayed; the first: 0x7f" in text
    assert "and 1 more kind of 23 folios: --all" in text


def test_the_allocator_is_the_paths_own() -> None:
    """Compaction's targets come from compaction_alloc(), not from the calls' allocator."""
    others = Others()
    none = {**NEVER_MOVED, "n_alloc": 1, "flags": FOLIO_ALLOC_FAILED}
    others.migrate("compaction", tgid=31, comm=b"kcompactd0", kthread=True, folios=[none])
    found = explainer(others)
    (one,) = found.each(found.select())
    assert one.cause.name == "no_free_page"
    assert one.evidence[0].words == "compaction_alloc() returned no folio"


def test_a_page_by_its_address(recording: Path) -> None:
    """Also one that moved, and one in the middle of a huge page; an unknown one is an error."""
    thp = story().tables()["folios"]["address"][77]
    text = invoke("explain", "--address", hex(int(thp) + 300 * PAGE), recording).output
    assert "(folio 77, of postgres (4001), 512 pages) moved, from node 0 to" in text
    result = invoke("explain", "--address", "0x1000", recording)
    assert result.exit_code == 2
    assert "there is neither an entry nor a folio at '0x1000'" in result.output
    assert "addresses of folios lie in 0x7f0000000000..0x7f000" in result.output


def test_json_has_a_line_for_each_folio(recording: Path) -> None:
    """With initiator, path and evidence as values; the numbers are those of the dump."""
    lines = invoke("explain", "--json", recording).output.splitlines()
    found = [json.loads(line) for line in lines]
    assert {one["kind"] for one in found} == {"folio"}
    assert len(found) == 2
    held = next(one for one in found if one["cause"]["name"] == "extra_references")
    assert held["path"]["key"] == "migrate_pages"
    assert held["initiator"]["tgid"] == MOVER
    dumped = invoke("dump", "--table", "folios", "--format", "jsonl", recording).output
    row = json.loads(dumped.splitlines()[held["folio"]])
    assert (row["address"], row["outcome"], row["cause"]) == (
        held["address"],
        "failed",
        "extra_references",
    )


def test_entries_come_first_and_each_by_itself_with_all(tmp_path: Path) -> None:
    """A recording with calls and with others' migrations shows both."""
    kernel = Kernel("6.12", 2)
    kernel.folio(1, 0, trait="pinned")
    kernel.move_pages([PAGE], [1])
    tables = story().tables()
    for name, rows in kernel.tables().items():
        tables[name] = np.concatenate([rows, tables[name]])
    path = write(tmp_path / "both", tables, META)
    text = invoke("explain", path).output
    assert text.index("(call 0, entry 0)") < text.index("a kernel thread")
    assert invoke("explain", "--entry", "0:0", path).output.count("cause ") == 1
    assert invoke("explain", "--all", path).output.count("cause ") == 3
    assert len(invoke("explain", "--json", path).output.splitlines()) == 3


def test_nothing_stayed(tmp_path: Path) -> None:
    """It says how many were looked at."""
    others = Others()
    others.migrate("damon", tgid=9, comm=b"kdamond.0", kthread=True, folios=[{}] * 23)
    text = invoke("explain", write(tmp_path / "fine", others.tables(), META)).output
    assert text == "no page stayed: 23 folios migrated without a call, none failed\n"


def test_what_is_unknown_has_not_succeeded(tmp_path: Path) -> None:
    """Where no move was seen: how many folios that are, and no claim that none stayed."""
    others = Others()
    others.migrate("damon", tgid=9, comm=b"kdamond.0", kthread=True, folios=[{}] * 23)
    coverage = [phase for phase in META["coverage"] if phase["phase"] != "move"]
    coverage += [{"phase": "move", "state": "missing"}]
    path = write(tmp_path / "r", others.tables(), {**META, "coverage": coverage})
    assert invoke("explain", path).output == (
        "of 23 folios migrated without a call none is known to have failed; 23 unknown\n"
    )


def test_failures_without_a_record_are_said(tmp_path: Path) -> None:
    """The kernel counted more than the records show: how many, and that no more is known."""
    others = Others()
    others.migrate("compaction", tgid=31, comm=b"kcompactd0", folios=[{}] * 23, failed=7)
    text = invoke("explain", write(tmp_path / "r", others.tables(), META)).output
    assert "23 folios migrated without a call, none failed" in text
    assert "the kernel counted 7 more base pages as failed that have no record here" in text
    others.migrate("compaction", tgid=31, comm=b"kcompactd0", folios=[HELD], failed=3)
    text = invoke("explain", write(tmp_path / "s", others.tables(), META)).output
    assert "the kernel counted 9 more base pages" in text


def test_failures_without_a_record_are_counted_by_migration() -> None:
    """What one migration has beyond its count makes up for nothing that another lacks."""
    others = Others()
    others.migrate("compaction", tgid=31, comm=b"a", folios=[{}] * 23, failed=7)
    others.migrate("compaction", tgid=31, comm=b"a", folios=[HELD] * 5, failed=2)
    others.migrate("compaction", tgid=31, comm=b"a", folios=[HELD] * 3, failed=NOT_COUNTED)
    assert explainer(others).unrecorded_pages == 7


def test_what_is_not_known_is_said() -> None:
    """No migration, no address, no owner, no target: words for each, and nothing too wide."""
    others = Others()
    others.migrate(
        "compaction",
        tgid=31,
        tid=32,
        comm=b"x" * 15,
        folios=[{**NEVER_MOVED, "address": 0, "owner_tgid": 0, "dst_nid": -1}],
        cgroup_id=5,
    )
    others.rows["migrations"][0]["migration_id"] += 10**6
    found = explainer(others)
    (one,) = found.each(found.select())
    text = explanation(one)
    assert "a page (no address seen) (folio 0) stayed, on node 0" in text
    assert "unknown: the record of its migration was lost" in text
    assert one.as_dict()["migration"] is None
    wide = explainer(story())
    both = f"{text}\n{render(wide.blocks(wide.select()))}"
    assert max(len(line) for line in both.splitlines()) <= WIDTH


def test_the_new_tables_are_dumped(tmp_path: Path) -> None:
    """Waits with their holder, processes with their cgroup, migrations with their path."""
    others = story()
    holder = others.rows["migrations"][23]
    others.add(
        "waits",
        start_ns=500,
        end_ns=1500,
        address=PAGE,
        holder_id=holder["migration_id"],
        tid=4003,
        tgid=VICTIM,
        holder_tid=MOVER,
        comm=b"worker-1",
    )
    others.add("waits", start_ns=500, end_ns=0, kind=WAIT_PMD, tid=1, tgid=1)
    path = write(tmp_path / "all", others.tables(), META)

    def rows(table: str) -> list[dict[str, Any]]:
        text = invoke("dump", "--table", table, "--format", "jsonl", path).output
        return [json.loads(line) for line in text.splitlines()]

    first, second = rows("waits")
    assert (first["wait_ns"], first["migration"], first["address"]) == (1000, 23, hex(PAGE))
    assert (first["kind"], first["comm"], first["holder_tid"]) == ("pte", "worker-1", MOVER)
    assert (second["wait_ns"], second["migration"], second["kind"]) == (None, None, "pmd")
    assert (second["address"], second["folio"], second["holder_id"]) == (None, None, None)
    assert rows("processes")[2]["cgroup"] == "/system.slice/mover.service"
    migrations = rows("migrations")
    assert migrations[23]["path"] == "migrate_pages"
    assert migrations[23]["syscall_name"] == "migrate_pages"
    assert migrations[0]["kernel_thread"] is True
    assert migrations[0]["syscall"] == SYSCALL_NONE
    assert migrations[24]["succeeded"] is None
    for table in ("waits", "processes", "migrations", "folios"):
        text = invoke("dump", "--table", table, path).output
        assert max(len(line) for line in text.splitlines()) <= 100
