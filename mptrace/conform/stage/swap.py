# SPDX-License-Identifier: GPL-2.0-or-later
"""Swap for scenarios: a loop device in memory, gone afterwards."""

from typing import TYPE_CHECKING

from mptrace import driver
from mptrace.conform.stage import blockdev
from mptrace.conform.stage.pages import KPF_SWAPCACHE, KPF_WRITEBACK, has_flag, is_swapped
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage

_SWAP_BYTES = 64 * blockdev.MIB
_MADV_PAGEOUT = 21  # not in Python's mmap
_PRIORITY = "32767"  # before any swap that the host has


def switch_on(stage: "Stage") -> None:
    """Give the host some swap, used before any other."""
    for tool in ("mkswap", "swapon", "swapoff"):
        stage.need_tool(tool)
    device = blockdev.loop(stage, _SWAP_BYTES)
    stage.run("mkswap", device)
    stage.change("swapoff", device)
    stage.run("swapon", "--priority", _PRIORITY, device)


def page_out(stage: "Stage", address: int) -> None:
    """Have the kernel write a page of this process to swap and unmap it."""

    def gone() -> bool:
        driver.advise(address, PAGE_SIZE, _MADV_PAGEOUT)
        return is_swapped(address)

    stage.await_(gone, "a page to be swapped out")


def read_back(stage: "Stage", address: int) -> None:
    """Read a page that was swapped out: it is mapped again, and stays in the swap cache.

    do_swap_page() gives a page's place in swap up for a fault that writes, or
    when swap is more than half full.
    """
    stage.touch([address], write=False)
    if not has_flag(address, KPF_SWAPCACHE):
        stage.skip("a page that came back from swap does not stay in the swap cache here")
    stage.await_(lambda: not has_flag(address, KPF_WRITEBACK), "a page to be written to swap")
