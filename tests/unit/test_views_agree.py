# SPDX-License-Identifier: GPL-2.0-or-later
"""Report, its JSON, dump and explain of one recording: the same numbers in each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import recorded
from others import META, Others
from test_report_others import busy
from views import CHECKS, Views

from mptrace.recording.writer import RecordingWriter

#: Recordings by name: of failures by calls and by others, of calls alone, of an idle minute.
RECORDINGS: dict[str, Any] = {
    "busy": lambda: (busy(), META),
    "calls": lambda: (recorded.tables(), recorded.META),
    "idle": lambda: (Others().tables(), META),
}


@pytest.fixture(params=RECORDINGS)
def views(request: pytest.FixtureRequest, tmp_path: Path) -> Views:
    """Of each of the recordings."""
    tables, meta = RECORDINGS[request.param]()
    with RecordingWriter(tmp_path / "r", meta=meta) as writer:
        for name, rows in tables.items():
            writer.append(name, rows)
        writer.finish()
    return Views(tmp_path / "r")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_views_agree(views: Views, check: Callable[[Views], None]) -> None:
    """See the check."""
    check(views)
