# SPDX-License-Identifier: GPL-2.0-or-later
"""In a guest: `mptrace record` around what programs do."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
