# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m crowd.conduct DIR [OPTION...]``: all of it under one `mptrace record -a OPTION...`.

DIR has ``touch`` and ``race``, made of their C files.  Leaves in it ``data`` (the recording),
what `stalls` and `race` leave, and ``about.json``: ``sections`` of the former, ``race`` of the
latter.
"""

import json
import sys
from pathlib import Path

from . import race, stalls
from .tracing import recorder


def main() -> None:
    """See the module."""
    directory = Path(sys.argv[1])
    with recorder(directory / "data", *sys.argv[2:]):
        about = {"sections": stalls.run(directory), "race": race.run(directory)}
    (directory / "about.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main()
