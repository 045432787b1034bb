# SPDX-License-Identifier: GPL-2.0-or-later
"""What it takes to read a big recording: CPU time and memory of the commands that do.

Usage, on any machine:

    .venv/bin/python bench/big_reading.py [--entries N] [--before CHECKOUT]

The recording is one of `big_recording.py`.  Commands run one after the other, with ``--before``
those of another checkout, too, each beside this one's.  Writes a section of docs/performance.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from big_recording import HEAP, write

DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"
#: What is measured: the command, and whether only its first lines are read.
COMMANDS = {
    "report": (("report",), False),
    "dump --format csv \\| head": (("dump", "--format", "csv"), True),
    "dump --format csv": (("dump", "--format", "csv"), False),
    "dump --table folios --format csv": (("dump", "--table", "folios", "--format", "csv"), False),
    "explain --address": (("explain", "--address", hex(HEAP)), False),
}
_HEAD_LINES = 10
SECTION = "## Reading big recordings"


def _measured(checkout: Path, arguments: tuple[str, ...], *, head: bool) -> tuple[float, int]:
    """CPU seconds of a command of a checkout, and the most bytes that it had in memory."""
    command = [sys.executable, "-m", "mptrace", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=errors
        )
        assert process.stdout is not None
        if head:
            for _ in range(_HEAD_LINES):
                assert process.stdout.readline()
        else:
            while process.stdout.read(1 << 20):
                pass
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        # head is gone before everything was printed
        assert head or process.returncode == 0, errors.read().decode()
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10


def measure(entries: int, pages_per_call: int, before: Path | None) -> str:
    """The section of the document, of a recording that is made for it."""
    here = DOCUMENT.parents[1]
    checkouts = [here] if before is None else [before.resolve(), here]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "big.data"
        write(path, entries, pages_per_call)
        rows = []
        for name, (arguments, head) in COMMANDS.items():
            cells = []
            for checkout in checkouts:
                seconds, size = _measured(checkout, (*arguments, str(path)), head=head)
                print(f"{checkout}: {name}: {seconds:.1f} s, {size / 1e9:.2f} GB", file=sys.stderr)
                cells += [f"{seconds:.1f} s", f"{size / 1e9:.2f} GB"]
            rows.append(f"| `{name}` | {' | '.join(cells)} |")
        size = sum(part.stat().st_size for part in path.iterdir())
    titles = ["CPU", "memory"]
    if before is not None:
        titles = ["CPU before", "memory before", *titles]
    return _SECTION.format(
        heading=SECTION,
        entries=entries,
        pages=pages_per_call,
        megabytes=size / 1e6,
        titles=" | ".join(titles),
        lines="---|" * len(titles),
        rows="\n".join(rows),
    )


_SECTION = """{heading}

`bench/big_reading.py` writes a recording as `mptrace record -a` leaves one, here of {entries:,}
entries in calls of {pages:,} ({megabytes:,.0f} MB), and reads it by one command after the other:
CPU time, user and system, and the most that was in memory. Before, all tables were read at once.

| command | {titles} |
|---|{lines}
{rows}
"""


def main() -> None:
    """Measure, and write the section."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--pages-per-call", type=int, default=512)
    parser.add_argument("--before", type=Path, metavar="CHECKOUT")
    options = parser.parse_args()
    section = measure(options.entries, options.pages_per_call, options.before)
    first, found, _ = DOCUMENT.read_text().partition(SECTION)
    DOCUMENT.write_text(f"{first if found else first + chr(10)}{section}")


if __name__ == "__main__":
    main()
