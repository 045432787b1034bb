# SPDX-License-Identifier: GPL-2.0-or-later
"""Why pages stayed: evidence, the story of the status, selection and text."""

import errno
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import recorded
from click.testing import CliRunner, Result
from simulated_kernel import PAGE, Kernel
from test_correlate import large_tables

from mptrace.cli import main
from mptrace.errors import UsageError
from mptrace.explain.entries import Explainer, Explanation, Which
from mptrace.explain.evidence import Evidence
from mptrace.explain.findings import Finding
from mptrace.explain.words import WORDS, Worded, gap_words, worded
from mptrace.outcomes.causes.statuses import MISLEADING
from mptrace.recording.layouts import (
    END_PUTBACK,
    FOLIO_OBSTACLE,
    MAPPER,
    MIGRATION,
    OBSTACLE,
    PROCESS,
    SEEN_FILE,
    SEEN_STATE,
    SEEN_VMA,
    STAGE_ALLOCATE,
    STAGE_ISOLATE,
    STAGE_LOCK,
    STAGE_MOVE,
    STAGE_SHARED,
    STAGE_UNMAP,
    STAGE_VMA,
)
from mptrace.recording.meta import Meta
from mptrace.recording.writer import RecordingWriter
from mptrace.reporting.text.explain import explanation, render
from mptrace.reporting.text.layout import WIDTH

GOLDEN = Path(__file__).parent / "golden" / "explain.txt"
UPDATE = "MPTRACE_UPDATE_GOLDEN=1 pytest tests/unit/test_explain.py -k golden"
FLAGS = {
    "PG_locked": 0,
    "PG_writeback": 1,
    "PG_dirty": 4,
    "PG_swapcache": 10,
    "PG_private": 14,
    "PG_swapbacked": 17,
}
META = {
    "kernel": {"machine": "x86_64", "page_size": PAGE},
    "page_flags": FLAGS,
    "symbols": {"0x1000": "ext4_da_aops", "0x2000": "buffer_migrate_folio"},
    "reasons": {"0": "compaction"},
}
FILE, ANONYMOUS = 0xFFFF888000000100, 0xFFFF888000000101


def kernel_with_everything(generation: str = "6.1") -> Kernel:
    """A call whose group fails for one page, and lookups that fail in each way."""
    kernel = Kernel(generation, 2)
    kernel.evidence = True
    for page in range(1, 24):
        kernel.folio(page, 0, trait="pinned" if page == 7 else "")
    kernel.pages[2] = None
    kernel.pages[3].shared = True  # type: ignore[union-attr]
    kernel.pages[4].busy = True  # type: ignore[union-attr]
    kernel.folio(5, 0, zero=True)
    # direct statuses, the failed group of 6..9 (6 twice), one that is never attempted
    pages = [2, 3, 4, 5, 6, 7, 8, 9]
    kernel.move_pages([page * PAGE for page in [*pages, 10]], [1] * 8 + [0])
    kernel.move_pages([11 * PAGE, 12 * PAGE, 11 * PAGE], [1, 1, 1])
    return kernel


def explain(
    tables: dict[str, Any], meta: dict[str, Any], which: Which | None = None
) -> list[Explanation]:
    """The entries of a recording that were asked for, one by one."""
    explainer = Explainer(tables, meta)
    return list(explainer.each(explainer.select(which or Which())))


def explained(kernel: Kernel, which: Which | None = None, **meta: Any) -> list[Explanation]:
    """Explanations of what the model recorded."""
    found = Meta.of({**kernel.meta(), "page_flags": FLAGS, **meta})
    return explain(kernel.tables(), found, which)


def one_of(kernel: Kernel, call: int, entry: int, **meta: Any) -> Explanation:
    """That of one entry."""
    (only,) = explained(kernel, Which(entry=(call, entry)), **meta)
    return only


def by_label(one: Explanation) -> dict[str, Worded]:
    """Its evidence by label."""
    return {finding.label: finding for finding in one.evidence}


def findings(
    row: dict[str, Any], tables: dict[str, Any] | None = None, **meta: Any
) -> dict[str, Worded]:
    """Findings of one obstacle of a small anonymous folio, by label."""
    table = np.zeros(1, OBSTACLE)
    fields = {"seen": SEEN_STATE, "mapping": ANONYMOUS, "nr_pages": 1, "allowed": -1} | row
    for name, value in fields.items():
        table[name] = value
    known = {name: rows[:0] for name, rows in recorded.tables().items()}
    found = Evidence({**known, "obstacles": table, **(tables or {})}, Meta.of({**META, **meta}))
    return {finding.label: worded(finding) for finding in found.all_of(0, None)}


def invoke(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(main, ["explain", *(str(argument) for argument in arguments)])


def write(path: Path, tables: dict[str, Any], meta: dict[str, Any]) -> Path:
    """Write tables as a recording."""
    with RecordingWriter(path, meta=meta) as writer:
        for name, rows in tables.items():
            writer.append(name, rows)
        writer.finish()
    return path


# ---- what is said of a page that stayed


def test_the_page_that_stayed() -> None:
    """Cause, function and its answer, references seen and expected, passes, place, remedy."""
    one = one_of(kernel_with_everything(), 0, 5)
    assert (one.outcome, one.cause.name, one.status) == ("failed", "extra_references", None)
    assert (one.address, one.target_nid, one.source_nid) == (7 * PAGE, 1, 0)
    evidence = by_label(one)
    assert evidence["refusal"].value == {
        "stage": "move",
        "function": "move_to_new_folio",
        "rc": -errno.EAGAIN,
    }
    assert evidence["references"].value == {
        "seen": 2,
        "expected": 1,
        "extra": 1,
        "parts": {"the migration's own": 1},
    }
    assert evidence["passes"].value["move"] == 10
    assert one.cause.remedy
    assert one.cause.source
    assert (one.before_nid, one.final_nid, one.gap) == (0, 0, "")


def test_the_group_that_failed_is_named() -> None:
    """An untouched status: the group's return value and the entry that stayed."""
    kernel = kernel_with_everything()
    for entry, outcome in ((4, "moved"), (5, "failed"), (6, "moved")):
        one = one_of(kernel, 0, entry)
        assert (one.outcome, one.status_state) == (outcome, "untouched")
        story = " ".join(one.status_story)
        assert "returned 1: entry 5 (extra_references) stayed" in story
        assert ("nothing says so" in story) == (outcome == "moved")
        assert "move_pages() returned 2: 1 that migrate_pages() left behind, and 1 never" in story


@pytest.mark.parametrize(
    ("targets", "ret", "words"),
    [
        ([1, 1, 1], 0, "1 behind, and 0 were never attempted"),
        ([1, 1, 2], 1, "1 behind, and 1 were never attempted"),
    ],
)
def test_a_count_that_is_too_small_is_called_so(targets: list[int], ret: int, words: str) -> None:
    """5.10 does not count the entry at which a group was flushed, nor the end of the array."""
    kernel = Kernel("5.10", 3)
    for page in range(1, 4):
        kernel.folio(page, 0, trait="pinned" if page == 2 else "")
    assert kernel.move_pages([page * PAGE for page in range(1, 4)], targets).ret == ret
    story = " ".join(one_of(kernel, 0, 0).status_story)
    assert f"move_pages() returned {ret}, which is too small" in story
    assert words in story


def test_what_was_never_attempted() -> None:
    """It has no evidence, and the story names what ended the call."""
    one = one_of(kernel_with_everything(), 0, 8)
    assert (one.outcome, one.cause.name) == ("not_attempted", "aborted_by_earlier_group")
    assert "an earlier group failed: entry 5 (extra_references) stayed" in one.status_story[0]
    assert (one.evidence, one.gap) == ((), "")


def test_a_bad_node_is_named_to_those_behind_it() -> None:
    """The entry and its node."""
    kernel = Kernel("6.1", 2)
    for page in (1, 2, 3):
        kernel.folio(page, 0)
    kernel.move_pages([PAGE, 2 * PAGE, 3 * PAGE], [1, 77, 1])
    for entry in (1, 2):
        assert "entry 1 names node 77" in one_of(kernel, 0, entry).status_story[0]


def test_a_group_that_ended_before_a_folios_turn() -> None:
    """There is no state to be read: what ended the migration is the evidence."""
    kernel = Kernel("6.1", 2)
    kernel.folio(1, 0, trait="no memory")
    kernel.folio(2, 0)
    kernel.move_pages([PAGE, 2 * PAGE], [1, 1])
    one = one_of(kernel, 0, 1)
    assert (one.cause.name, one.gap) == ("ended_before_its_turn", "")
    (answer,) = one.evidence
    assert (
        answer.words
        == "migrate_pages() returned -12 ENOMEM first, after entry 0 (no_memory) stayed"
    )


def test_a_moved_page_that_nothing_told_of() -> None:
    """It needs no remedy; its status does."""
    text = explanation(one_of(kernel_with_everything(), 0, 4))
    assert "(call 0, entry 4) moved" in text
    assert "  remedy     fill the array with an impossible value first" in text


def test_a_refused_call() -> None:
    """Meaning and remedy are those of the return value."""
    kernel = Kernel("6.1", 2)
    kernel.folio(1, 0)
    kernel.move_pages([PAGE], [1])
    for name in ("folios", "migrations"):
        kernel.rows[name].clear()
    kernel.rows["calls"][0]["ret"] = -errno.EPERM
    kernel.rows["calls"][0]["n_lookups"] = kernel.rows["calls"][0]["n_migrations"] = 0
    kernel.rows["entries"][0]["status_after"] = kernel.rows["entries"][0]["status_before"]
    one = one_of(kernel, 0, 0)
    assert one.cause.name == "call_refused_EPERM"
    assert "CAP_SYS_NICE" in one.cause.meaning
    assert "ptrace" in one.cause.remedy
    assert one.status_story == ("the kernel refused the whole call and looked at no entry",)


def test_busy_although_it_moved() -> None:
    """A duplicate: which entry had it, and what the status is about."""
    one = one_of(kernel_with_everything(), 1, 2)
    assert (one.outcome, one.entry_reason, one.status) == ("moved", "duplicate", -errno.EBUSY)
    assert one.status_story[0].startswith("entry 0 of the same call names the same page")
    assert "-16 EBUSY is about the isolation" in one.status_story[0]


@pytest.mark.parametrize("initial", [0, 1, -errno.EFAULT])
def test_a_stale_value_reads_like_a_status(initial: int) -> None:
    """What the array held before is not the kernel's word."""
    kernel = Kernel("6.1", 2)
    kernel.folio(1, 0, trait="pinned")
    kernel.move_pages([PAGE], [1], initial=initial)
    story = " ".join(one_of(kernel, 0, 0).status_story)
    assert "as before the call" in story
    assert ("node" in story.split("still holds")[1]) == (initial >= 0)


def test_a_sentinel_is_not_called_stale() -> None:
    """Nobody takes it for a status."""
    story = " ".join(one_of(kernel_with_everything(), 0, 5).status_story)
    assert "still holds" not in story


def test_a_status_that_the_manual_explains_otherwise() -> None:
    """Memory never written is -EFAULT on 6.1, and ever so -ENOENT on 6.12."""
    old, new = one_of(kernel_with_everything(), 0, 0), one_of(kernel_with_everything("6.12"), 0, 0)
    assert (old.cause.name, old.status) == ("never_touched", -errno.EFAULT)
    assert old.status_story == (MISLEADING[-errno.EFAULT, "never_touched"],)
    assert (new.cause.name, new.status, new.status_story) == ("never_touched", -errno.ENOENT, ())


def test_what_the_lookups_met() -> None:
    """Page table entry, mapcount, isolation: each with its function."""
    kernel = kernel_with_everything("6.12")
    coverage = [
        {**phase, "attach": "folio_walk_start" if phase["phase"] == "lookup" else ""}
        for phase in kernel.meta()["coverage"]
    ]
    words = {
        entry: [f.words for f in one_of(kernel, 0, entry, coverage=coverage).evidence]
        for entry in range(4)
    }
    assert words[0] == [
        "folio_walk_start() found no folio",
        "page table entry (PTE): empty: nothing was ever there",
    ]
    assert words[1][0] == "folio_walk_start() found it; the kernel did not isolate it"
    assert "mapped 2 times" in words[1]
    assert words[2][0] == "folio_isolate_lru() refused it: -16 EBUSY"
    assert words[3][0] == "folio_walk_start() found it; the kernel did not isolate it"


# ---- findings of one obstacle


def test_references_are_made_up_in_words() -> None:
    """The migration's own, the page cache's, private data, mappings left."""
    moved = {"stage": STAGE_MOVE, "rc": -errno.EAGAIN}
    row = {**moved, "mapping": FILE, "page_flags": 1 << 14, "refcount": 4}
    assert findings(row)["references"].words == (
        "4 references, 3 expected (1 the migration's own + 1 page cache + 1 private data): "
        "1 too many"
    )
    row = {**moved, "mapping": FILE, "nr_pages": 512, "refcount": 513}
    assert findings(row)["references"].words == (
        "513 references, 513 expected (1 the migration's own + 512 page cache)"
    )
    row = {"stage": STAGE_UNMAP, "rc": -errno.EAGAIN, "mapcount": 1, "refcount": 1026}
    found = findings(row)
    assert found["references"].words == (
        "1,026 references, 2 expected (1 the migration's own + 1 still mapped): 1,024 too many"
    )
    assert found["pins"].value == 1
    row = {**moved, "fs": b"hugetlbfs", "mapping": FILE, "refcount": 3}
    assert findings(row)["references"].value == {"seen": 3, "expected": None}


def test_a_stage_that_nobody_knows_is_said_by_number() -> None:
    """A damaged record, or a newer tracer's: no function is named, the answer is there."""
    found = findings({"stage": 250, "rc": -errno.EAGAIN})["refusal"]
    assert found.words == "refused at stage 250, which this mptrace does not know: -11 EAGAIN"
    assert found.value == {"stage": "stage 250", "function": "", "rc": -errno.EAGAIN}


def test_before_a_migration_no_references_are_expected() -> None:
    """A lookup compares none: only what was seen is said."""
    row = {"stage": STAGE_SHARED, "refcount": 3, "mapcount": 2}
    assert findings(row)["references"].value == {"seen": 3}


def test_pins_of_a_large_folio_are_counted_exactly() -> None:
    """By its own count."""
    row = {"stage": STAGE_UNMAP, "nr_pages": 512, "pincount": 3, "mapcount": 1, "refcount": 5}
    assert findings(row)["pins"].words == "pinned 3 times (FOLL_PIN)"


def test_the_file_and_its_operations() -> None:
    """Device by the kernel's numbering, operations by their symbols."""
    row = {
        "stage": STAGE_MOVE,
        "seen": SEEN_STATE | SEEN_FILE,
        "mapping": FILE,
        "dev": (254 << 20) | 3,
        "inode": 12,
        "fs": b"ext4",
        "a_ops": 0x1000,
        "migrate_op": 0x2000,
    }
    assert findings(row)["file"].words == (
        "file: inode 12 on device 254:3 (ext4); ext4_da_aops: migrate_folio is buffer_migrate_folio"
    )
    assert findings({**row, "migrate_op": 0})["file"].words.endswith("no migrate_folio")
    assert findings(row, symbols={})["file"].value["a_ops"] == "0x1000"


def test_flags_area_cpuset_and_passes() -> None:
    """Each in the kernel's words."""
    row = {
        "stage": STAGE_ALLOCATE,
        "rc": -errno.ENOMEM,
        "seen": SEEN_STATE | SEEN_VMA,
        "page_flags": 0b10011,
        "vm_start": 0x1000,
        "vm_end": 0x3000,
        "vm_flags": 0x440B,
        "allowed": 0,
        "n_alloc": 1,
        "n_lock": 3,
        "first_ns": 5,
        "last_ns": 5005,
    }
    found = findings(row)
    assert found["flags"].words == "flags (anonymous): locked, writeback, dirty"
    assert found["area"].words == "area 0x1000-0x3000: read write shared pfnmap io"
    assert found["allowed"].words == "the target is not in the caller's cpuset"
    assert found["passes"].words == "refused: allocate once, lock 3 times within 5 us"
    assert found["refusal"].words == "alloc_migration_target() returned no folio"


def test_who_had_isolated_it() -> None:
    """The migration, its thread and its reason."""
    migrations = np.zeros(1, MIGRATION)
    migrations["migration_id"], migrations["comm"] = 9, b"kcompactd0"
    row = {"stage": STAGE_ISOLATE, "rc": -errno.EBUSY, "holder_id": 9, "holder_tid": 40, "tid": 7}
    assert findings(row, {"migrations": migrations})["holder"].words == (
        "isolated by thread 40 (kcompactd0), in a migration for compaction"
    )
    assert findings({**row, "holder_tid": 7})["holder"].words.endswith(": the caller itself")


def test_who_maps_a_shared_page() -> None:
    """Found so many of its mappings, so much later; without the table nothing is said."""
    mappers = np.array(
        [
            (1, 64, 0x1000, 14_000_100, 0, 1234, b"postgres"),
            (1, 64, 0x2000, 13_000_000, 0, 1235, b""),
            (1, 128, 0x3000, 15_000_000, 0, 99, b"other"),
        ],
        MAPPER,
    )
    row = {"call_id": 1, "src": 64, "stage": STAGE_SHARED, "mapcount": 3, "last_ns": 100}
    found = findings(row, {"mappers": mappers})["mappers"]
    assert found.words == (
        "mapped by: found 2 of 3 mappings, 14 ms later: 1234 (postgres) at 0x1000, "
        "1235 (gone) at 0x2000"
    )
    assert len(found.value["mappers"]) == 2
    assert "mappers" not in findings(row)
    people = np.zeros(1, PROCESS)
    people["tgid"], people["comm"] = 1235, b"redis"
    found = findings(row, {"mappers": mappers, "processes": people})["mappers"]
    assert found.words.endswith("1235 (redis) at 0x2000")
    many = np.repeat(mappers[:1], 29)
    found = findings(row, {"mappers": many})["mappers"]
    assert found.words.endswith(" and 23 more (mptrace dump --table mappers)")


def test_of_many_who_map_it_six_are_named() -> None:
    """How many more were found, and which command has them."""
    mappers = np.array([(1, 64, 0x1000, 200, 0, 1234 + n, b"a") for n in range(9)], MAPPER)
    row = {"call_id": 1, "src": 64, "stage": STAGE_SHARED, "mapcount": 9, "last_ns": 100}
    words = findings(row, {"mappers": mappers})["mappers"].words
    assert words.endswith("1239 (a) at 0x1000 and 3 more (mptrace dump --table mappers)")


def test_what_a_page_waited_for_is_said_of_moved_ones_too() -> None:
    """The delay, not the refusals that it came over."""
    kernel = Kernel("6.1", 2)
    kernel.folio(1, 0)
    kernel.move_pages([PAGE], [1])
    folio = kernel.rows["folios"][0]
    kernel.add(
        "obstacles",
        call_id=folio["call_id"],
        lookup_seq=0,
        src=folio["src"],
        writeback_wait_ns=733_000_000,
        n_writeback_wait=1,
        n_lock=2,
        stage=STAGE_LOCK,
        rc=-errno.EAGAIN,
    )
    one = one_of(kernel, 0, 0)
    assert one.outcome == "moved"
    assert one.delay is not None
    assert one.delay.words == "the migration waited 733 ms for its writeback (once)"
    assert one.evidence == ()


def test_a_mapping_that_the_kernel_refused() -> None:
    """No folio was looked up: the evidence is the mapping's."""
    kernel = Kernel("6.1", 2)
    kernel.folio(1, 0)
    kernel.move_pages([PAGE, 9 * PAGE], [1, 1])
    kernel.add(
        "obstacles",
        call_id=kernel.rows["calls"][0]["call_id"],
        stage=STAGE_VMA,
        rc=-errno.EFAULT,
        seen=SEEN_VMA,
        vm_start=9 * PAGE,
        vm_end=10 * PAGE,
        vm_flags=0x403,
    )
    vma = {"phase": "vma", "state": "proved", "attach": "vma_migratable"}
    one = one_of(kernel, 0, 1, coverage=[*kernel.meta()["coverage"], vma])
    assert one.cause.name == "unsuitable_vma"
    assert by_label(one)["refusal"].words == "vma_migratable() returned false"
    assert by_label(one)["area"].value["flags"] == ["read", "write", "pfnmap"]


# ---- without evidence


@pytest.mark.parametrize(
    ("change", "meta", "words"),
    [
        ("no table", {}, "an mptrace that did not keep"),
        ("no rows", {"format_version": 1}, "an mptrace that did not keep"),
        ("no rows", {"lost": {"obstacle_ring_full": 4}}, "lost (obstacle_ring_full)"),
        ("flagged", {"lost": {"obstacle_map_full": 4}}, "the record was lost (obstacle_map_full)"),
        ("no rows", {}, "no state of the page was recorded"),
    ],
)
def test_without_evidence_it_says_why(change: str, meta: dict[str, Any], words: str) -> None:
    """The cause claims less, and what the kernel answered is still said."""
    kernel = kernel_with_everything()
    tables = kernel.tables()
    if change == "no table":
        del tables["obstacles"]
    else:
        tables["obstacles"] = tables["obstacles"][:0]
    if change == "flagged":
        tables["folios"]["flags"] |= FOLIO_OBSTACLE
    (one,) = explain(tables, Meta.of({**kernel.meta(), **meta}), Which(entry=(0, 5)))
    assert one.cause.name == "references_or_buffers"
    assert words in one.gap
    assert [finding.words for finding in one.evidence] == [
        "move_to_new_folio() returned -11 EAGAIN"
    ]
    assert "can't tell more: " in explanation(one)


def test_every_kind_of_finding_has_words() -> None:
    """Values and words are in files of their own, and none of them is without the other."""
    assert set(WORDS) == set(get_args(Finding))


def test_a_missing_phase_is_the_reason() -> None:
    """What this kernel can't be asked is said."""
    kernel = kernel_with_everything()
    tables = kernel.tables()
    tables["obstacles"] = tables["obstacles"][:0]
    found = Evidence(tables, Meta.of({"coverage": [{"phase": "vma", "state": "missing"}]}))
    assert gap_words(found.gap(-1, None)) == "this kernel's 'vma' phase can't be traced"


def test_an_entry_whose_records_were_lost_is_unknown() -> None:
    """The cause is the tracer's limit, and no evidence is made up."""
    kernel = kernel_with_everything()
    kernel.rows["folios"].clear()
    one = one_of(kernel, 0, 5)
    assert (one.outcome, one.cause.name, one.evidence) == ("unknown", "no_events", ())


# ---- which entries


def test_by_default_every_page_that_stayed() -> None:
    """Failed and never attempted, in order."""
    found = explained(kernel_with_everything())
    assert [(one.call, one.entry) for one in found] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (0, 3),
        (0, 5),
        (0, 8),
    ]


def test_by_address_in_any_call() -> None:
    """Any address of the page, also inside a huge one."""
    kernel = kernel_with_everything()
    kernel.folio(1024, 0, 512)
    kernel.move_pages([1024 * PAGE], [1])
    at = explained(kernel, Which(address=11 * PAGE + 17))
    assert [(one.call, one.entry) for one in at] == [(1, 0), (1, 2)]
    inside = explained(kernel, Which(address=1300 * PAGE))
    assert [(one.call, one.entry, one.address) for one in inside] == [(2, 0, 1024 * PAGE)]


@pytest.mark.parametrize(
    ("which", "message", "hint"),
    [
        (Which(entry=(2, 0)), "no call 2", "0 to 1"),
        (Which(entry=(1, 3)), "call 1 has no entry 3", "0 to 2"),
        (Which(entry=(1, 1 << 20)), "no entry", "not read"),
        (Which(address=1 << 40), "'0x10000000000'", "0x2000..0xc000"),
    ],
)
def test_what_is_not_there_is_a_usage_error(which: Which, message: str, hint: str) -> None:
    """It says what there is."""
    kernel = kernel_with_everything()
    with pytest.raises(UsageError) as error:
        explain(kernel.tables(), Meta.of(kernel.meta()), which)
    assert message in error.value.message
    assert hint in error.value.hint


# ---- text and the command


def test_golden_text() -> None:
    """The known story of the report, explained."""
    explainer = Explainer(recorded.tables(), Meta.of({**recorded.META, "page_flags": FLAGS}))
    text = render(explainer.blocks(explainer.select(Which()))) + "\n"
    if os.environ.get("MPTRACE_UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), f"to accept the new text: {UPDATE}"


def test_equal_pages_are_one_block() -> None:
    """With their number and a few addresses; counts that differ have their bounds."""
    kernel = Kernel("6.1", 2)
    for page in range(1, 24):
        kernel.folio(page, 0, trait="pinned")
    kernel.move_pages([page * PAGE for page in range(1, 24)], [1] * 23)
    for number, row in enumerate(kernel.rows["obstacles"]):
        row["refcount"] = 2 + number % 3
    explainer = Explainer(kernel.tables(), Meta.of(kernel.meta()))
    (block,) = explainer.blocks(explainer.select(Which()))
    assert block.count == 23
    assert len(block.others) == 4
    assert block.ranges == {"references": [2, 4]}
    text = render([block])
    assert "23 entries stayed" in text
    assert "and 18 more (--all)" in " ".join(text.split())
    assert "references differ among them: 2 to 4" in text


def test_blocks_beyond_the_most_are_counted() -> None:
    """Never thousands unasked."""
    kernel = kernel_with_everything()
    explainer = Explainer(kernel.tables(), Meta.of(kernel.meta()))
    blocks = explainer.blocks(explainer.select(Which()))
    assert "and 4 more kinds of 4 entries: --all" in render(blocks, most=2)


def test_it_fits_80_columns() -> None:
    """Whatever is in it."""
    kernel = kernel_with_everything()
    mappings = [[0, 1 << 40, "/a/rather/long/path" * 9]]
    for one in explained(kernel, mappings=mappings):
        assert max(len(line) for line in explanation(one).splitlines()) <= WIDTH == 80


def test_json_has_every_selected_entry(tmp_path: Path) -> None:
    """One object per line, with raw values."""
    path = recorded.write(tmp_path / "r")
    result = invoke(path, "--json")
    assert result.exit_code == 0
    lines = [json.loads(text) for text in result.stdout.splitlines()]
    assert len(lines) == 6
    assert lines[0]["address"] == "0x7f0000005000"
    assert {"call", "entry", "status", "status_story", "evidence", "call_id"} <= set(lines[0])
    assert set(lines[0]["cause"]) == {"name", "meaning", "remedy", "source"}
    assert invoke(path, "--json", "--entry", "1:10").stdout.count("\n") == 1


def test_each_by_itself(tmp_path: Path) -> None:
    """--all compresses nothing."""
    path = recorded.write(tmp_path / "r")
    assert invoke(path, "--all").stdout.count("  cause ") == 6
    assert invoke(path, "--failed").stdout == invoke(path).stdout
    assert "moved" in invoke(path, "--entry", "0:0").stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--entry", "9:0"), "its calls are 0 to 2"),
        (("--entry", "nine"), "is not the number of a call and of an entry"),
        (("--address", "0x1000"), "its addresses lie in"),
        (("--address", "up"), "is not a hexadecimal address"),
        (("--entry", "0:0", "--failed"), "exclude each other"),
    ],
)
def test_a_wrong_request_leaves_with_2(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    """On stderr, with the way out."""
    result = invoke(recorded.write(tmp_path / "r"), *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr


def test_a_recording_without_failures(tmp_path: Path) -> None:
    """It says so and leaves with 0; JSON stays empty."""
    path = write(tmp_path / "r", large_tables(1, 23), recorded.META)
    result = invoke(path)
    assert result.exit_code == 0
    assert "no page stayed: 23 entries" in result.stdout
    result = invoke(path, "--json")
    assert (result.exit_code, result.stdout) == (0, "")


def test_many_failures_take_seconds() -> None:
    """A million entries, a tenth of which stayed, in few blocks."""
    tables = large_tables(1, 1_000_000)
    tables["folios"]["move_rc"][::10] = -errno.EAGAIN
    tables["folios"]["end"][::10] = END_PUTBACK
    before = time.process_time()
    explainer = Explainer(tables, Meta.of({}))
    blocks = explainer.blocks(explainer.select(Which()))
    assert sum(block.count for block in blocks) == 100_000
    some = list(itertools.islice(explainer.each(explainer.select(Which())), 1000))
    assert len(some) == 1000
    assert time.process_time() - before < 12.0
