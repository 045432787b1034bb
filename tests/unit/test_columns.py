# SPDX-License-Identifier: GPL-2.0-or-later
"""How a table lies on disk: what any reader of Parquet finds there."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_recording import META, random_rows

from mptrace.recording.columns import GROUP_ROWS
from mptrace.recording.layouts import TABLES
from mptrace.recording.reader import Recording
from mptrace.recording.writer import RecordingWriter

#: More than two row groups.
ROWS = 2 * GROUP_ROWS + 509


def written(path: Path, table: str, *parts: np.ndarray) -> Path:
    """A recording of one table in these parts."""
    with RecordingWriter(path, meta=META) as writer:
        for rows in parts:
            writer.append(table, rows)
            writer.flush()
        writer.finish()
    return path


def test_parts_of_several_row_groups_come_back(tmp_path: Path) -> None:
    """And the next part has nothing of the one before, whose memory it uses again."""
    rows = random_rows("migrations", ROWS)
    path = written(tmp_path / "r", "migrations", rows, rows[::-1][:509])
    assert pq.ParquetFile(path / "migrations-000000.parquet").metadata.num_row_groups == 3
    back = Recording.open(path).table("migrations")
    assert back.tobytes() == np.concatenate([rows, rows[::-1][:509]]).tobytes()


@pytest.mark.parametrize("table", sorted(TABLES))
def test_no_column_has_nulls_and_only_texts_have_dictionaries(tmp_path: Path, table: str) -> None:
    """To look each number up costs more than it saves."""
    path = written(tmp_path / "r", table, random_rows(table, 509))
    file = pq.ParquetFile(path / f"{table}-000000.parquet")
    group = file.metadata.row_group(0)
    for number, field in enumerate(file.schema_arrow):
        assert not field.nullable
        has_dictionary = "RLE_DICTIONARY" in group.column(number).encodings
        assert has_dictionary == pa.types.is_string(field.type), field


def test_times_that_go_on_take_little_room(tmp_path: Path) -> None:
    """Though no value comes twice, few of their bytes change; what stays takes next to none."""
    rows = np.zeros(GROUP_ROWS, TABLES["folios"])
    rows["start_ns"] = 10**15 + 1000 * np.arange(rows.size)
    rows["end_ns"] = rows["start_ns"] + 700
    rows["call_id"] = 1 << 40
    path = written(tmp_path / "r", "folios", rows)
    assert (path / "folios-000000.parquet").stat().st_size < 2 * rows.size


def test_times_have_bounds_by_which_a_reader_may_choose(tmp_path: Path) -> None:
    """Of each row group."""
    rows = random_rows("folios", ROWS)
    rows["start_ns"] = np.arange(ROWS)
    path = written(tmp_path / "r", "folios", rows)
    metadata = pq.ParquetFile(path / "folios-000000.parquet").metadata
    names = metadata.schema.names
    bounds = []
    for number in range(metadata.num_row_groups):
        found = metadata.row_group(number).column(names.index("start_ns")).statistics
        bounds.append((found.min, found.max))
    assert bounds == [
        (0, GROUP_ROWS - 1),
        (GROUP_ROWS, 2 * GROUP_ROWS - 1),
        (2 * GROUP_ROWS, ROWS - 1),
    ]
