# SPDX-License-Identifier: GPL-2.0-or-later
"""Causes side by side, and two on one page, are told apart on real kernels."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mptrace.cli import main

HERE = Path(__file__).parent


@pytest.fixture
def pairs(guest, guest_dir, fetch) -> Path:
    """What pairs.py recorded in this guest."""
    done = guest.run([sys.executable, str(HERE / "pairs.py"), guest_dir], timeout=600)
    assert done.returncode == 0, done.errors
    return fetch(guest_dir)


def explained(recording: Path, *options: str):
    """What `mptrace explain --json` says of a recording."""
    result = CliRunner().invoke(main, ["explain", str(recording), "--json", *options])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_each_cause_beside_another(pairs: Path) -> None:
    """Every pair of causes in one call, both orders, and two causes on one page: each is named.

    What became of each page is also asked by a query after the call.
    """
    expected = json.loads((pairs / "expected.json").read_text())
    assert len(expected) == 52
    causes: dict[tuple[int, int], str] = {}
    for entry in explained(pairs / "recording"):
        causes[entry["call"], entry["entry"]] = entry["cause"]["name"]
    for number, call in enumerate(expected):
        found = [causes.get((number, i), "") for i in range(len(call["causes"]))]
        assert found == call["causes"], (number, call)
        assert [not cause for cause in call["causes"]] == call["on_target"], (number, call)
