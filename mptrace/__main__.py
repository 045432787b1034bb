# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m mptrace`."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="mptrace")
