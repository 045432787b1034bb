# SPDX-License-Identifier: GPL-2.0-or-later
"""Real sessions on this host whose output or messages can't be written.  Needs root."""

import subprocess
import sys
from pathlib import Path

from mptrace.recording.reader import Recording

MPTRACE = [sys.executable, "-m", "mptrace"]


def test_a_recording_needs_no_stderr(tmp_path: Path) -> None:
    """Progress, and what was recorded at the end, are dropped; the recording is whole."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*MPTRACE, "record", "-a", "-d", "0.5", "--tier", "tracepoints", "-o", tmp_path / "r"],
            stderr=full,
            check=False,
            timeout=60,
        )
    assert done.returncode == 0
    assert Recording.open(tmp_path / "r").complete


def test_counting_ends_where_nothing_can_be_printed() -> None:
    """At the first line, with a message, and with nothing left attached."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*MPTRACE, "stat", "0.2", "1000", "--tier", "tracepoints"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "mptrace: can't write to standard output: No space left on device"
    assert "Traceback" not in done.stderr
