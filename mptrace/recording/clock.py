# SPDX-License-Identifier: GPL-2.0-or-later
"""The time as recordings store it, and what of it the recorder takes."""

import os
import time


def now() -> dict[str, int]:
    """The time on the wall and CLOCK_MONOTONIC, taken together."""
    return {"wall_ns": time.time_ns(), "monotonic_ns": time.monotonic_ns()}


class RecorderClock:
    """Measures what recording takes: CPU time of all threads of this process."""

    def __init__(self) -> None:
        self._cpu_ns, self._wall_ns = _clocks()

    def took(self, folios: int) -> dict[str, int]:
        """What it took since the last time, for so many folios, as meta `recorder`."""
        cpu_ns, wall_ns = _clocks()
        took = {
            "cpu_ns": cpu_ns - self._cpu_ns,
            "wall_ns": wall_ns - self._wall_ns,
            "cpus": os.cpu_count() or 1,
            "folios": folios,
        }
        self._cpu_ns, self._wall_ns = cpu_ns, wall_ns
        return took


def _clocks() -> tuple[int, int]:
    return time.process_time_ns(), time.monotonic_ns()
