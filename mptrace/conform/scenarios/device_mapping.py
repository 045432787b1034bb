# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of a device: a PCI resource, mapped without pages."""

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mptrace import driver
from mptrace.conform.scenarios.base import MOVED, REASON, Entry, Expectation, Known, Scenario
from mptrace.driver import PAGE_SIZE
from mptrace.errors import HostError

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage


def _provoke(stage: "Stage") -> None:
    first, last = stage.anonymous(2)
    stage.move([first, _resource(stage), last])


def _resource(stage: "Stage") -> int:
    """A mapping of the first PCI resource that nobody's driver claims; never touched."""
    for path in sorted(Path("/sys/bus/pci/devices").glob("*/resource[0-5]")):
        try:
            fd = os.open(path, os.O_RDWR)
        except OSError:
            continue
        try:
            # fails for what a driver has claimed (CONFIG_IO_STRICT_DEVMEM) and for I/O ports
            return driver.map_memory(PAGE_SIZE, mmap.MAP_SHARED, fd)
        except HostError:
            continue
        finally:
            os.close(fd)
    stage.skip("no PCI resource can be mapped here")
    return 0


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, Entry("EFAULT", "failed", "unsuitable_vma"), MOVED))


SCENARIO = Scenario(
    name="device_mapping",
    subject=REASON,
    title="memory of a device (a PCI resource)",
    documented="status -EFAULT: a zero page, or memory that is not mapped",
    function="vma_migratable",
    source="move_pages(2), page states; vma_migratable(): VM_IO, VM_PFNMAP",
    provoke=_provoke,
    expect=_expect,
    cause="unsuitable_vma",
)
