# SPDX-License-Identifier: GPL-2.0-or-later
"""What is printed of recordings that were made once stays the same, byte for byte.

All are real: every outcome that `mptrace conform` provokes, on two kernels; a recording of the
older format; and a `record` of everybody's migrations while memory was compacted (6.12).
Where an output changes on purpose: python tests/unit/test_same_output.py
"""

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mptrace.cli import main
from mptrace.cli.dump import TABLES

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "fixtures"
RECORDINGS = {
    "conform-6.1": FIXTURES / "conform-6.1" / "recording",
    "conform-6.12": FIXTURES / "conform-6.12" / "recording",
    "recording-v2": FIXTURES / "recording-v2",
    "record": HERE / "recordings" / "record",
}
COMMANDS = {
    "report.txt": ("report", "--all", "--histogram"),
    "report.json": ("report", "--json"),
    "explain.txt": ("explain",),
    "explain.json": ("explain", "--json"),
} | {
    f"dump-{table}.{form}": ("dump", "--table", table, "--format", form)
    for table in TABLES
    for form in ("table", "jsonl", "csv")
}
#: Kept as they are, to be read where they differ; of the others a digest is kept.
KEPT = ("report.txt", "explain.txt")
DIGESTS = "digests.json"


def expected_of(recording: str) -> Path:
    """Where the expected outputs of a recording lie."""
    return HERE / "recordings" / f"{recording}.expected"


def output_of(recording: str, output: str) -> str:
    """What a command prints of a recording."""
    done = CliRunner().invoke(main, [*COMMANDS[output], str(RECORDINGS[recording])])
    assert done.exit_code == 0, done.exception or done.output
    return done.output


def digest_of(text: str) -> str:
    """A short name for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("output", COMMANDS)
@pytest.mark.parametrize("recording", RECORDINGS)
def test_the_output_is_the_same(recording: str, output: str) -> None:
    """Report, explanation and dump, as text and for machines."""
    text = output_of(recording, output)
    expected = expected_of(recording)
    if output in KEPT:
        assert text == (expected / output).read_text()
    else:
        assert digest_of(text) == json.loads((expected / DIGESTS).read_text())[output]


def update() -> None:
    """Keep what is printed now as what is expected."""
    for recording in RECORDINGS:
        texts = {output: output_of(recording, output) for output in COMMANDS}
        directory = expected_of(recording)
        directory.mkdir(exist_ok=True)
        for output in KEPT:
            (directory / output).write_text(texts.pop(output))
        digests = {output: digest_of(text) for output, text in texts.items()}
        (directory / DIGESTS).write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    update()
