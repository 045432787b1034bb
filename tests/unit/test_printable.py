# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that processes give themselves reach no terminal as they are: root reads these reports."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from others import META
from test_report_others import busy

from mptrace.cli import main
from mptrace.cli.dump import TABLES
from mptrace.recording.writer import RecordingWriter

#: Clears the screen, begins a line of its own and goes back to its start; 11 of 16 bytes.
EVIL = b"a\x1b[2J\nb\r\x07\x7f"
COMMANDS = (
    ("report",),
    ("report", "--all", "--histogram"),
    ("explain",),
    ("explain", "--all"),
    *(("dump", "--table", table) for table in TABLES),
)


@pytest.fixture(name="recording", scope="module")
def _recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A busy one in which everybody has that name."""
    path = tmp_path_factory.mktemp("evil") / "r"
    with RecordingWriter(path, meta=META) as writer:
        for name, rows in busy().items():
            if "comm" in (rows.dtype.names or ()):
                rows["comm"] = EVIL
            writer.append(name, rows)
        writer.finish()
    return path


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_text_has_lines_and_nothing_else_that_commands_a_terminal(
    recording: Path, command: tuple[str, ...]
) -> None:
    """Of each command that reads a recording; what stood there is a question mark."""
    done = CliRunner().invoke(main, [*command, str(recording)])
    assert done.exit_code == 0, done.output
    assert done.stdout
    assert [line for line in done.stdout.split("\n") if not line.isprintable()] == []


def test_the_names_are_in_them(recording: Path) -> None:
    """So that the test above has something to find; JSON has them exactly."""
    text = CliRunner().invoke(main, ["report", str(recording)]).stdout
    assert "a?[2J" in text
    rows = (
        CliRunner()
        .invoke(main, ["dump", "--table", "waits", "--format", "jsonl", str(recording)])
        .stdout
    )
    assert {json.loads(row)["comm"] for row in rows.splitlines()} == {EVIL.decode()}
