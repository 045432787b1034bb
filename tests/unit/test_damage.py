# SPDX-License-Identifier: GPL-2.0-or-later
"""A damaged recording is read as far as it can be, or is one clear error; never a traceback."""

import functools
import json
import random
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import others
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import recorded
from click.testing import CliRunner
from test_meta import VALUES, WHOLE, places, replaced

from mptrace.cli import main
from mptrace.cli.dump import TABLES as DUMPED
from mptrace.errors import MptraceError, RecordingError
from mptrace.explain.entries import Explainer, Which
from mptrace.explain.folios import FolioExplainer
from mptrace.outcomes.dump import dumped_table
from mptrace.recording.layouts import stored_fields
from mptrace.recording.meta import Meta
from mptrace.recording.reader import Recording
from mptrace.recording.shapes import MetaError, check
from mptrace.recording.writer import RecordingWriter
from mptrace.report import render
from mptrace.reporting.numbers.profile import profile
from mptrace.reporting.text import explain, explain_folios

Tables = Mapping[str, Any]
OLD = Path(__file__).parents[1] / "fixtures" / "recording-v2"

# ---- all that reads a recording -------------------------------------------------------


def report(tables: Tables, meta: Mapping[str, Any]) -> None:
    """What `mptrace report` does, with and without --json."""
    numbers = profile(tables, Meta.of(meta), budget_ns=10_000_000)
    assert render(numbers, histogram=True)
    json.dumps(numbers)


def explain_entries(tables: Tables, meta: Mapping[str, Any]) -> None:
    """What `mptrace explain` does with entries, with and without --all and --json."""
    explainer = Explainer(tables, Meta.of(meta))
    which = explainer.select(Which())
    for one in explainer.each(which):
        assert explain.explanation(one)
        json.dumps(one.as_dict())
    if which.size:
        assert explain.render(explainer.blocks(which))


def explain_pages(tables: Tables, meta: Mapping[str, Any]) -> None:
    """What `mptrace explain` does with folios that no call asked for."""
    explainer = FolioExplainer(tables, Meta.of(meta))
    which = explainer.select(None)
    for one in explainer.each(which):
        assert explain_folios.explanation(one)
        json.dumps(one.as_dict())
    if which.size:
        assert explain_folios.render(explainer.blocks(which))


def dump(table: str, failed: bool) -> Callable[[Tables, Mapping[str, Any]], None]:
    """What `mptrace dump` does with a table, in each format."""

    def read(tables: Tables, meta: Mapping[str, Any]) -> None:
        rows = dumped_table(table, tables, Meta.of(meta), failed=failed)
        assert len(list(rows)) == rows.count
        for row in rows:
            json.dumps(row)
        for row in rows.values(rows.short):
            assert all(str(value) or value == "" for value in row)

    return read


READERS: tuple[Callable[[Tables, Mapping[str, Any]], None], ...] = (
    report,
    explain_entries,
    explain_pages,
    *(dump(table, failed) for table in DUMPED for failed in (False, True)),
)


def read(tables: Tables, meta: Mapping[str, Any], readers: Any = READERS) -> None:
    """Let them read; an MptraceError is an answer, a warning is as bad as a traceback."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for reader in readers:
            try:
                reader(tables, meta)
            except MptraceError as error:
                told = error.message
            else:
                told = "-"
            assert told
            assert "\n" not in told


@functools.cache
def all_kinds() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Recordings of a driver, of everybody, by tracepoints alone, and of format version 2."""
    old = Recording.open(OLD)
    story = others.story().tables()
    tracepoints = {**others.META, "tier": "tracepoints", "unseen": ["who waited"]}
    return {
        "driver": (recorded.tables(), {**recorded.META, "complete": True, "format_version": 3}),
        "everybody": (story, others.META),
        "tracepoints": (story, tracepoints),
        "version 2": (old.tables(), dict(old.meta.raw)),
    }


KINDS = tuple(all_kinds())

# ---- meta.json ------------------------------------------------------------------------


def test_a_wrong_type_anywhere_in_meta_is_refused_or_read() -> None:
    """Every value of a recording's meta.json, replaced by every wrong type in turn."""
    refused = 0
    recordings = all_kinds()
    for turn, other in enumerate(VALUES):
        lenient = WHOLE
        for path in places(WHOLE):
            if not path:
                continue
            changed = replaced(WHOLE, path, other)
            try:
                check(changed)
            except MetaError as error:
                refused += 1
                message = str(error)
                assert message.startswith((str(path[0]), "a key of " + str(path[0]))), message
                assert ", not " in message
                continue
            try:
                lenient = replaced(lenient, path, other)
            except (KeyError, IndexError, TypeError):
                continue  # a value above it was replaced already
        # all that was let through, together
        check(lenient)
        kind = ("driver", "everybody")[turn % 2]
        dumps = READERS[3 + turn % 3 :: 3]
        read(recordings[kind][0], lenient, (report, explain_entries, explain_pages, *dumps))
    assert refused > 2000


@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_without_any_key_is_read(kind: str) -> None:
    """What is not there is unknown."""
    tables, meta = all_kinds()[kind]
    read(tables, {"format_version": meta["format_version"]})
    read(tables, {**meta, **{key: {} for key in ("kernel", "started", "scope", "cost")}})


@pytest.mark.parametrize(
    "change", [{"nodes": "x"}, {"settings": [1]}, {"mappings": [["a"]]}, {"started": [1]}]
)
@pytest.mark.parametrize(
    "arguments",
    [["report"], ["report", "--json"], ["explain"], ["dump"], ["dump", "--table", "folios"]],
)
def test_the_command_line_says_it_in_a_line(
    tmp_path: Path, change: dict[str, Any], arguments: list[str]
) -> None:
    """The file, the key, what is there and what was expected; status 1."""
    recorded.write(tmp_path / "r", **change)
    result = CliRunner().invoke(main, [*arguments, str(tmp_path / "r")])
    assert (result.exit_code, result.stdout) == (1, "")
    message, hint = result.stderr.splitlines()
    ((key, _),) = change.items()
    assert message.startswith(f"mptrace: can't read '{tmp_path}/r/meta.json': {key}")
    assert ", not " in message
    assert hint == "  the file is damaged and the recording can't be read without it"


# ---- values in the tables --------------------------------------------------------------


def _damaged(tables: Tables, seeded: random.Random) -> tuple[dict[str, Any], list[str]]:
    """The tables with some values replaced: extremes, bits at random, names that are no text."""
    copy = {name: rows.copy() for name, rows in tables.items()}
    full = [name for name, rows in copy.items() if rows.size]
    done = []
    for _ in range(seeded.choice((1, 1, 2, 5))):
        rows = copy[table := seeded.choice(full)]
        column = seeded.choice(stored_fields(table))
        kind = rows.dtype[column]
        value: Any = seeded.choice((b"\xff\xfe", b"a\nb", b"\x1b[31m", b""))
        if kind.kind != "S":
            low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
            extremes = (low, high, low + 1, high - 1, high // 2, 0, 1, min(high, 250))
            value = seeded.choice((*extremes, seeded.randint(low, high)))
            alike = [(a, b) for a in full for b in stored_fields(a) if copy[a].dtype[b] == kind]
            if seeded.random() < 0.5:  # of another row, or of another column
                source, other = seeded.choice(alike)
                value = copy[source][other][seeded.randrange(copy[source].size)]
        if column == "nr_pages" and table == "calls" and 1 << 12 < value <= 1 << 20:
            continue  # so many entries are made up for a call that lost them: slow, not wrong
        which = seeded.choice((slice(None), seeded.randrange(rows.size)))
        rows[column][which] = value
        done.append(f"{table}.{column}[{which}] = {value!r}")
    order = seeded.choice(full)
    if seeded.random() < 0.2:
        copy[order] = copy[order][::-1]
        done.append(f"{order} reversed")
    return copy, done


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_any_value_in_a_table_is_read(kind: str, seed: int) -> None:
    """Numbers and names that no tracer writes: no reader fails on them."""
    tables, meta = all_kinds()[kind]
    seeded = random.Random(f"{kind} {seed}")
    for _ in range(6):
        damaged, done = _damaged(tables, seeded)
        try:
            read(damaged, meta, (report, explain_entries, explain_pages, seeded.choice(READERS)))
        except Exception as error:
            raise AssertionError("; ".join(done)) from error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("low", [True, False])
def test_extremes_in_every_column_are_read(kind: str, low: bool) -> None:
    """The least or the largest number in every column at once."""
    tables, meta = all_kinds()[kind]
    damaged = {name: rows.copy() for name, rows in tables.items()}
    for name, rows in damaged.items():
        for column in stored_fields(name):
            if (info := rows.dtype[column]).kind != "S":
                rows[column] = np.iinfo(info).min if low else np.iinfo(info).max
    read(damaged, meta)


# ---- parts ----------------------------------------------------------------------------


def _reshaped(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def damage(part: Path) -> None:
        pq.write_table(change(pq.read_table(part)), part)

    return damage


def _cast(name: str, kind: Any) -> Callable[[pa.Table], pa.Table]:
    def change(content: pa.Table) -> pa.Table:
        place = content.column_names.index(name)
        return content.set_column(place, name, content.column(name).cast(kind, safe=False))

    return change


def _nulls(content: pa.Table) -> pa.Table:
    return content.set_column(0, content.column_names[0], pa.nulls(content.num_rows, pa.uint64()))


def _twice(content: pa.Table) -> pa.Table:
    return content.append_column(content.column_names[0], content.column(0))


def _cut(share: float) -> Callable[[Path], None]:
    return lambda part: part.write_bytes(part.read_bytes()[: int(share * part.stat().st_size)])


def _swapped(part: Path) -> None:
    shutil.copy(part.with_name("calls-000000.parquet"), part)


def _directory(part: Path) -> None:
    part.unlink()
    part.mkdir()


def _dangling(part: Path) -> None:
    part.unlink()
    part.symlink_to("nowhere")


#: Damage of a part of `folios` -> what is said of it.
PARTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (_cut(0), "is 0 bytes"),
    "half": (_cut(0.5), "magic bytes"),
    "nearly whole": (_cut(0.99), "magic bytes"),
    "text": (lambda part: part.write_text("x" * 5000), "magic bytes"),
    "another table's": (_swapped, "it has no column 'migration_id'"),
    "a column less": (_reshaped(lambda t: t.drop_columns(["move_rc"])), "no column 'move_rc'"),
    "a column twice": (_reshaped(_twice), "call_id"),
    "no columns": (_reshaped(lambda t: t.select([])), "it has no column 'call_id'"),
    "nulls": (_reshaped(_nulls), "nulls"),
    "floats": (_reshaped(_cast("call_id", pa.float64())), "type float64, not uint64"),
    "text for numbers": (_reshaped(_cast("flags", pa.string())), "type object, not uint8"),
    "narrower": (_reshaped(_cast("src", pa.uint32())), "type uint32, not uint64"),
    "a directory": (_directory, "it is not a file"),
    "a dangling link": (_dangling, "it is not a file"),
}


@pytest.fixture(name="whole", scope="module")
def _whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of everybody."""
    path = tmp_path_factory.mktemp("whole") / "r"
    with RecordingWriter(path, meta=others.META) as writer:
        for name, rows in recorded.tables().items():
            writer.append(name, rows)
        for name, rows in others.story().tables().items():
            writer.append(name, rows)
        writer.finish()
    return path


@pytest.mark.parametrize("damage", PARTS)
def test_a_damaged_part_is_named(whole: Path, tmp_path: Path, damage: str) -> None:
    """By every command: the part, what is wrong with it, and that the rest can be read."""
    path = tmp_path / "r"
    shutil.copytree(whole, path)
    part = path / "folios-000000.parquet"
    change, words = PARTS[damage]
    change(part)
    for arguments in (["report"], ["report", "--json"], ["explain"], ["dump", "--format", "csv"]):
        result = CliRunner().invoke(main, [*arguments, str(path)])
        assert (result.exit_code, result.stdout) == (1, ""), result.exception
        message, hint = result.stderr.splitlines()
        assert message.startswith(f"mptrace: can't read '{part}': ")
        assert words in message
        assert "move it out of the recording" in hint
    # as the hint says
    part.rename(tmp_path / "away")
    rest = Recording.open(path)
    assert rest.missing_parts == ("folios-000000.parquet",)
    read(rest.tables(), rest.meta.raw)


@pytest.mark.parametrize("kind", [pa.binary(), pa.int64()])
def test_a_name_of_another_type_is_an_error(whole: Path, tmp_path: Path, kind: Any) -> None:
    """A column of names holds text, and nothing that could be printed as text."""
    path = tmp_path / "r"
    shutil.copytree(whole, path)
    part = path / "calls-000000.parquet"
    content = pq.read_table(part)
    place = content.column_names.index("comm")
    value = b"\xff" if pa.types.is_binary(kind) else 7
    names = pa.array([value] * content.num_rows, kind)
    pq.write_table(content.set_column(place, "comm", names), part)
    with pytest.raises(RecordingError, match=f"'comm' has type {kind}, not string"):
        Recording.open(path).tables()


def test_bytes_changed_anywhere_in_a_part_are_an_error_or_read(whole: Path, tmp_path: Path) -> None:
    """What Parquet doesn't notice is read as it is."""
    path = tmp_path / "r"
    shutil.copytree(whole, path)
    seeded = random.Random(7)
    refused = 0
    for table in ("folios", "calls", "entries", "migrations"):
        part = path / f"{table}-000000.parquet"
        before = part.read_bytes()
        for _ in range(25):
            content = bytearray(before)
            for _ in range(seeded.choice((1, 3, 30))):
                content[seeded.randrange(len(content))] = seeded.randrange(256)
            part.write_bytes(content)
            told = ""
            try:
                rows = Recording.open(path).table(table)
            except RecordingError as error:
                told = error.message
            refused += bool(told)
            assert told.startswith(f"can't read '{part}': ") if told else rows.size
        part.write_bytes(before)
    assert refused > 25


def test_every_command_reads_every_table(whole: Path) -> None:
    """The recording that is damaged above is one of which all can be read."""
    data = Recording.open(whole)
    assert {name for name, rows in data.tables().items() if rows.size} >= {
        *("calls", "migrations", "folios", "entries", "obstacles", "processes", "locations"),
    }
    read(data.tables(), data.meta.raw)
