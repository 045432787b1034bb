# SPDX-License-Identifier: GPL-2.0-or-later
"""A page of a driver: the ring of a packet socket."""

import mmap
import socket
import struct
from typing import TYPE_CHECKING

from mptrace import driver
from mptrace.conform.scenarios.base import MOVED, REASON, Entry, Expectation, Known, Scenario
from mptrace.driver import PAGE_SIZE

if TYPE_CHECKING:
    from mptrace.conform.stage.stage import Stage

_SOL_PACKET, _PACKET_RX_RING = 263, 5  # include/uapi/linux/if_packet.h


def _provoke(stage: "Stage") -> None:
    first, last = stage.anonymous(2)
    stage.move([first, _ring(stage), last])


def _ring(stage: "Stage") -> int:
    """A page that af_packet allocated on the source node and mapped here."""
    try:
        # protocol 0: it receives nothing
        ring = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except OSError as error:
        stage.skip(f"no packet socket can be had here: {error.strerror}")
    stage.undo.callback(ring.close)
    driver.set_mempolicy(driver.MPOL_BIND, (stage.source,))
    block = struct.pack("IIII", PAGE_SIZE, 1, PAGE_SIZE // 2, 2)
    ring.setsockopt(_SOL_PACKET, _PACKET_RX_RING, block)
    driver.set_mempolicy(driver.MPOL_DEFAULT)
    return driver.map_memory(PAGE_SIZE, mmap.MAP_SHARED, ring.fileno())


def _expect(known: Known) -> Expectation:
    return Expectation("0", (MOVED, Entry("EBUSY", "failed", "not_on_lru"), MOVED))


SCENARIO = Scenario(
    name="not_on_lru",
    subject=REASON,
    title="a page of a driver (the ring of a packet socket)",
    documented="status -EBUSY: the page is currently busy and cannot be moved",
    function="folio_isolate_lru",
    source="move_pages(2), page states; packet_mmap() in net/packet/af_packet.c",
    provoke=_provoke,
    expect=_expect,
    cause="not_on_lru",
)
