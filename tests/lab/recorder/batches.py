# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls in batches of several sizes, there and back, each timed by the caller itself.

usage: batches.py FILE.  Runs in a guest, with nothing of mptrace.  FILE gets, as JSON,
the thread's ``tid`` and of each of ``sizes`` the ``times_ns`` of its calls.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from mover import PAGE, Guarded, Mover

from recorder.hostile import move_pages

SIZES = (2, 8, 64)
CALLS = 106


def main():
    """All of them, size after size."""
    base = Mover().do_map("4k", [[max(SIZES), 0]])["base"]
    sizes, tid = {}, None
    for size in SIZES:
        pages, nodes, status = Guarded(size * 8), Guarded(size * 4), Guarded(size * 4)
        pages.fill((base + np.arange(size) * PAGE).astype(np.uint64).tobytes())
        times = []
        for number in range(CALLS):
            nodes.fill(np.full(size, 1 - number % 2, np.int32).tobytes())
            told = move_pages(size, pages.address, nodes.address, status.address)
            assert told["ret"] == 0, told
            times.append(told["after_ns"] - told["before_ns"])
            tid = told["tid"]
        sizes[size] = times
    Path(sys.argv[1]).write_text(json.dumps({"tid": tid, "times_ns": sizes}))


if __name__ == "__main__":
    main()
