# SPDX-License-Identifier: GPL-2.0-or-later
"""Moves as many pages as asked from node 0 to node 1 in one call, and says so.

Usage: bulk.py PAGES; a line of JSON on stdout.
"""

import ctypes
import json
import os
import sys

from frames import move, pages
from mover import Mover


def main() -> None:
    """One move_pages(2)."""
    count = int(sys.argv[1])
    addresses = pages(Mover().do_map("4k", [[count, 0]])["base"], count)
    ret = move(addresses, 1)
    assert ret == 0, (ret, ctypes.get_errno())
    print(json.dumps({"pid": os.getpid(), "moves": 1}))


if __name__ == "__main__":
    main()
