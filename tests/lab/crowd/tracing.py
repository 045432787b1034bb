# SPDX-License-Identifier: GPL-2.0-or-later
"""In a guest: C programs that are built there, and `mptrace record` around what they do."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def build(source: Path, directory: Path) -> Path:
    """The program made of a C file, in ``directory``; fails with the compiler's words."""
    program = directory / source.stem
    argv = [
        "gcc",
        "-O2",
        "-pthread",
        "-static",
        "-Wall",
        "-Werror",
        "-o",
        str(program),
        str(source),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


@contextmanager
def recorder(directory: Path, *options: str) -> Iterator[int]:
    """``mptrace record -a`` into ``directory``, from when it traces until it ended in order.

    Yields its process number; its messages go to standard error.
    """
    argv = [sys.executable, "-m", "mptrace", "record", "-a", *options, "-o", str(directory)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            if "tracing:" in line:
                break
        assert process.poll() is None, "mptrace record ended"
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGINT)
            print(process.stderr.read(), file=sys.stderr, flush=True)
    assert process.returncode == 0, f"mptrace record: {process.returncode}"
