# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that KSM merged, for scenarios."""

import ctypes
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mptrace import driver
from mptrace.conform.stage.pages import KPF_KSM, frames, has_flag
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage

_KSM = Path("/sys/kernel/mm/ksm")


def merged(stage: "Stage", pages: int) -> list[int]:
    """Addresses of this process, on the source node, behind which lies one page."""
    addresses = stage.anonymous(pages)
    text = os.urandom(PAGE_SIZE)
    for address in addresses:
        ctypes.memmove(address, text, PAGE_SIZE)
    stage.need_file(_KSM / "run")
    stage.set_file(_KSM / "sleep_millisecs", "0")
    stage.set_file(_KSM / "run", "1")
    if driver.advise(addresses[0], pages * PAGE_SIZE, mmap.MADV_MERGEABLE):
        stage.skip("this kernel has no KSM")

    def done() -> bool:
        return len(set(frames(addresses))) == 1 and has_flag(addresses[0], KPF_KSM)

    stage.await_(done, "KSM to merge equal pages")
    # ksmd is not to look at them while they move; what is merged stays merged
    (_KSM / "run").write_text("0")
    return addresses
