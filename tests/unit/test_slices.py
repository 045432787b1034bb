# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording by slices: the same as all of it at once."""

import json
from pathlib import Path

import numpy as np
import pytest
from sliced import RECORDINGS, big_recording, slices_of

from mptrace.arrays import Tables
from mptrace.cli.dump import TABLES as DUMPED
from mptrace.cli.dump import text_lines
from mptrace.outcomes.correlate import correlate
from mptrace.outcomes.dump import dumped_table
from mptrace.outcomes.dump_parts import can_be_parted, dumped_parts
from mptrace.outcomes.selection import EVERYTHING, Selection
from mptrace.recording.layouts import TABLES, WITNESSES
from mptrace.recording.meta import Meta
from mptrace.recording.reader import Recording
from mptrace.recording.slices import KEYS, LARGE
from mptrace.reporting.numbers.profile import profile


@pytest.fixture(name="whole", scope="module", params=RECORDINGS)
def _whole(request: pytest.FixtureRequest) -> tuple[Tables, Meta]:
    """Of each of the recordings."""
    return RECORDINGS[request.param]()


@pytest.mark.parametrize("rows", [1, 23])
def test_every_row_is_in_one_slice(whole: tuple[Tables, Meta], rows: int) -> None:
    """In the order of the table, with those of its call or migration, and under its number."""
    tables, _ = whole
    numbers: dict[str, list[np.ndarray]] = {name: [] for name in KEYS}
    calls: set[int] = set()
    for some in slices_of(tables, rows):
        for name in KEYS:
            assert (np.diff(some.rows[name]) > 0).all()
            assert (some[name] == tables[name][some.rows[name]]).all()
            numbers[name].append(some.rows[name])
        own = set(some["entries"]["call_id"].tolist()) | set(some["calls"]["call_id"].tolist())
        assert not own & calls
        calls |= own
    for name, found in numbers.items():
        assert np.sort(np.concatenate(found)).tolist() == list(range(tables[name].size))


def test_a_slice_of_one_row_has_one_call(whole: tuple[Tables, Meta]) -> None:
    """Or one migration without a call, however many rows these have."""
    for some in slices_of(whole[0], 1):
        ids = np.concatenate([some[name]["call_id"] for name in ("entries", "folios")])
        assert np.unique(ids[ids != 0]).size <= 1


@pytest.mark.parametrize("failed", [False, True], ids=["all", "failed"])
@pytest.mark.parametrize("rows", [1, 61])
def test_a_dump_by_slices_is_the_same(whole: tuple[Tables, Meta], rows: int, failed: bool) -> None:
    """Every column of every row of every table, and what is left out as unknown."""
    tables, meta = whole
    selection = Selection(failed=failed)
    parted = [table for table in DUMPED if can_be_parted(table, selection)]
    assert len(parted) == (6 if failed else 11)
    for table in parted:
        expected = dumped_table(table, tables, meta, selection=selection)
        found = dumped_parts(table, slices_of(tables, rows), meta, selection=selection)
        parts = list(found.parts)
        assert [row for part in parts for row in part] == list(expected)
        assert {part.names for part in parts} == {expected.names}
        if failed:
            assert (found.total, found.unknown) == (expected.total, expected.unknown)


def test_the_first_rows_by_slices(whole: tuple[Tables, Meta]) -> None:
    """As many as are wanted, and how many there are."""
    tables, meta = whole
    for table in ("entries", "folios", "calls"):
        every = list(dumped_table(table, tables, meta))
        found = dumped_parts(table, slices_of(tables, 1), meta, selection=Selection(top=5))
        assert [row for part in found.parts for row in part] == every[:5]
        assert found.selected == len(every)


@pytest.mark.parametrize("name", ["conform-6.12", "run", "stalls"])
@pytest.mark.parametrize("table", ["entries", "folios", "migrations"])
def test_a_short_table_by_slices_is_the_same(name: str, table: str) -> None:
    """Heads come once, and columns are as wide as the values of all slices."""
    tables, meta = RECORDINGS[name]()
    found = dumped_parts(table, slices_of(tables, 1), meta, selection=EVERYTHING)
    lines = list(text_lines(table, found.parts, is_long=False))
    assert lines == list(text_lines(table, [dumped_table(table, tables, meta)], is_long=False))


def test_heads_of_a_long_table_come_again_where_rows_are_wider() -> None:
    """The second slice has compaction, whose words are longer than those of a call."""
    tables, meta = RECORDINGS["big"]()
    found = dumped_parts("migrations", slices_of(tables, 1), meta, selection=EVERYTHING)
    lines = list(text_lines("migrations", found.parts, is_long=True))
    assert [number for number, line in enumerate(lines) if line.startswith("migration ")] == [0, 2]
    whole = [dumped_table("migrations", tables, meta)]
    wide = list(text_lines("migrations", whole, is_long=False))
    # two lines of heads, and two of the first row
    assert lines[2:4] == wide[:2]
    assert lines[1].split() == [*wide[2].split(), *wide[3].split()]
    assert lines[4:] == wide[4:]


def test_a_part_says_what_it_has(tmp_path: Path) -> None:
    """Its rows are those of the table, and the ends of a column its least and greatest value."""
    big_recording.write(tmp_path / "r", 600_000, 20_000)
    data = Recording.open(tmp_path / "r")
    for name in LARGE:
        whole, sources = data.table(name), data.sources(name)
        assert len(sources) == (3 if name in ("entries", "folios") else min(whole.size, 1))
        start = 0
        for source in sources:
            rows = source.read()
            assert (rows == whole[start : start + source.count]).all()
            (ids,) = source.columns("call_id")
            assert (ids == rows["call_id"]).all()
            assert source.ends("call_id") == (int(ids.min()), int(ids.max()))
            start += source.count
        assert start == whole.size


@pytest.mark.parametrize("rows", [1, 61])
def test_a_report_by_slices_is_the_same(whole: tuple[Tables, Meta], rows: int) -> None:
    """Every number of it: sums, quantiles, histograms, examples and their evidence."""
    tables, meta = whole
    expected = profile(tables, meta, budget_ns=20_000_000)
    found = profile(slices_of(tables, rows), meta, budget_ns=20_000_000)
    for key in expected:
        assert found[key] == expected[key], key
    assert json.dumps(found) == json.dumps(expected)


@pytest.mark.parametrize("part", [0, 1, 2], ids=["even", "odd", "all"])
def test_what_is_mptraces_own_by_slices_is_the_same(whole: tuple[Tables, Meta], part: int) -> None:
    """Whoever of the recorded processes mptrace was: caller, target, owner, waiter."""
    tables, meta = whole
    columns = [
        tables[table][name]
        for table, name in (
            ("calls", "tgid"),
            ("calls", "target_tgid"),
            ("migrations", "tgid"),
            ("folios", "owner_tgid"),
            ("waits", "tgid"),
            ("balancing", "tgid"),
        )
    ]
    met = np.unique(np.concatenate(columns)).tolist()
    own = met if part == 2 else met[part::2]
    meta = Meta.of({**meta.raw, "own": own})
    expected = profile(tables, meta)
    assert profile(slices_of(tables, 1), meta) == expected
    for table in ("calls", "migrations", "waits"):
        marked, _ = dumped_table(table, tables, meta).columns["own"]
        assert expected["own"][table] == marked.sum()


def test_tables_without_keys_are_whole() -> None:
    """What was read of processes is in no slice, but beside all of them."""
    tables, _ = RECORDINGS["stalls"]()
    slices = slices_of(tables, 1)
    for some in slices:
        assert not any(some[name].size for name in TABLES if name not in KEYS)
    assert slices.whole["mappings"].size == tables["mappings"].size > 0


@pytest.mark.parametrize(("entries", "pages"), [(3000, 1), (2000, 509), (4096, 512)])
def test_a_big_recording_has_the_outcomes_that_it_was_made_with(
    tmp_path: Path, entries: int, pages: int
) -> None:
    """Of each entry of each call, and statuses that are what the kernel stores."""
    calls = big_recording.write(tmp_path / "r", entries, pages)
    assert calls * pages >= entries
    data = Recording.open(tmp_path / "r")
    rows = correlate(data.tables(), data.meta).rows
    assert rows.size == calls * pages
    expected = [big_recording.fate(number, pages) for number in range(calls)]
    assert rows["outcome"].tolist() == np.concatenate(expected).tolist()
    assert set(np.unique(rows["witnesses"])) == {WITNESSES.index("not_asked")}
    assert set(np.unique(rows["entry_reason"])) == {0}
