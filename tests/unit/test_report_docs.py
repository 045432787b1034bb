# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/report.md names what the report gives."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from others import META
from test_report_others import busy

from mptrace.outcomes.paths import PATHS
from mptrace.recording.meta import Meta
from mptrace.reporting.numbers.profile import profile

TEXT = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
#: Names that are data: causes, nodes of a matrix, names of reasons, errors, system calls.
FREE = {
    "reasons",
    "modes",
    "syscalls",
    "errors",
    "outcomes",
    "kinds",
    "phases",
    "example",
    "scope",
    "filters",
}
KEYS = (
    "summary",
    "paths",
    "folios_without_migration",
    "callers",
    "misled",
    "stalls",
    "cost_curve",
    "budget",
)


def names(value: Any) -> Iterator[str]:
    """Keys of a JSON value, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key not in FREE:
                yield from names(inner)
    elif isinstance(value, list):
        for each in value:
            yield from names(each)


@pytest.mark.parametrize("key", KEYS)
def test_every_field_is_named(key: str) -> None:
    """Each key of the sections about others stands in the table of its row."""
    numbers = profile(busy(), Meta.of(META), budget_ns=20_000_000)
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{key}` |"))
    known = set(re.findall(r"`(\w+)`", row)) | {key, "unit"}
    spread = {"p50", "p90", "p99", "max", "histogram"}
    # what several rows share is said in the first: an initiator, a cause, a blackout
    shared = set(re.findall(r"`(\w+)`", TEXT))
    found = set(names(numbers[key])) - spread
    assert found <= shared | known
    top = numbers[key]
    first = top[0] if isinstance(top, list) else top
    assert set(first) - spread <= known


def test_every_path_is_named() -> None:
    """With what it is told by."""
    for path in PATHS:
        short = path.key.removeprefix("soft_offline")
        assert f"`{path.key}`" in TEXT or f"`{short}`" in TEXT or path.key == "other"
