# SPDX-License-Identifier: GPL-2.0-or-later
"""The time as recordings store it."""

import time


def now() -> dict[str, int]:
    """The time on the wall and CLOCK_MONOTONIC, taken together."""
    return {"wall_ns": time.time_ns(), "monotonic_ns": time.monotonic_ns()}
