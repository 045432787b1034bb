# SPDX-License-Identifier: GPL-2.0-or-later
"""The vDSO: pages of the kernel's image that every process maps."""

import os
from typing import TYPE_CHECKING

import numpy as np

from mptrace import driver
from mptrace.driving import address_space

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def vdso(stage: "Stage") -> tuple[int, int]:
    """Address of the vDSO's first page, which two processes map, and its node."""
    found = [m.start for m in address_space.mappings(os.getpid()) if m.name == "[vdso]"]
    if not found:
        stage.skip("this process has no vDSO")
    address = found[0]
    stage.touch([address], write=False)
    stage.fork(lambda: stage.touch([address], write=False))
    nid = int(driver.query(0, np.array([address], np.uint64))[0])
    if nid not in stage.nodes:
        stage.skip(f"the node of the vDSO's page is not known: {nid}")
    return address, nid
