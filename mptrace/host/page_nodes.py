# SPDX-License-Identifier: GPL-2.0-or-later
"""Which node a page frame is on: the spans of zones, and the nodes of memory blocks."""

import re
from pathlib import Path

from mptrace.host.facts import NodeRanges

_ZONE = re.compile(r"^Node (\d+), zone", re.MULTILINE)
_BLOCKS = "sys/devices/system/memory"


def read_node_ranges(root: Path = Path("/")) -> NodeRanges:
    """Page frames by node; empty where neither can be read."""
    size, blocks = _memory_blocks(root)
    return NodeRanges(_zones(root), size, blocks)


def _zones(root: Path) -> tuple[tuple[int, int, int], ...]:
    try:
        text = (root / "proc/zoneinfo").read_text()
    except OSError:
        return ()
    spans = []
    starts = [*_ZONE.finditer(text)]
    for zone, following in zip(starts, [*starts[1:], None], strict=True):
        body = text[zone.start() : following.start() if following else len(text)]
        spanned = re.search(r"^\s+spanned\s+(\d+)$", body, re.MULTILINE)
        first = re.search(r"^\s+start_pfn:\s+(\d+)$", body, re.MULTILINE)
        if spanned and first and int(spanned[1]):
            begin = int(first[1])
            spans.append((begin, begin + int(spanned[1]), int(zone[1])))
    return tuple(spans)


def _memory_blocks(root: Path) -> tuple[int, dict[int, frozenset[int]]]:
    try:
        size = int((root / _BLOCKS / "block_size_bytes").read_text(), 16)
    except (OSError, ValueError):
        return 0, {}
    blocks = {}
    for block in (root / _BLOCKS).glob("memory[0-9]*"):
        nodes = {int(link.name[4:]) for link in block.glob("node[0-9]*")}
        blocks[int(block.name.removeprefix("memory"))] = frozenset(nodes)
    return size >> 12, blocks
