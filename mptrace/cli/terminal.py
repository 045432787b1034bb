# SPDX-License-Identifier: GPL-2.0-or-later
"""How wide the text that a command prints may be."""

import os
import sys

from mptrace.reporting.text.layout import WIDTH


def width() -> int:
    """Columns by COLUMNS where it is set, else of the terminal that stdout is, else 80.

    Tables need 80: less is not laid out.
    """
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked) > 0:
        return max(int(asked), WIDTH)
    try:
        return max(os.get_terminal_size(sys.stdout.fileno()).columns, WIDTH)
    except (OSError, ValueError, AttributeError):
        # no terminal, or nothing that has a descriptor
        return WIDTH
