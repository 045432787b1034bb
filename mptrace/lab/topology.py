# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's NUMA nodes: parsed from a short text, written as QEMU's arguments."""

import re
from dataclasses import dataclass

from ..errors import UsageError
from ..units import many

_MIB = 1 << 20
_SUFFIXES = {"": _MIB, "M": _MIB, "G": 1 << 30, "T": 1 << 40}
#: A Debian kernel with its initramfs, overlay and Python needs about this much.
_LEAST_TOTAL_BYTES = 512 * _MIB
_LEAST_NODE_BYTES = 32 * _MIB
#: What QEMU's emulated CPU addresses: 40 bits.
_MOST_TOTAL_BYTES = 1 << 40
_MOST_NODES = 64
#: QEMU's q35 has at most 288.
MOST_CPUS = 64
_TOO_LARGE = f"a guest has at most {_MOST_TOTAL_BYTES >> 40}T of memory in all"
_TOO_MANY_CPUS = f"a guest has at most {MOST_CPUS} CPUs, numbered from 0"
#: What the firmware's table (HMAT) says of a node's memory: latency in ns, bandwidth.
_FAST, _SLOW = ("10", "20G"), ("60", "5G")
#: Distances between nodes, and to or from slow ones (SLIT: 10 is a node's own).
_DISTANCE, _SLOW_DISTANCE = 20, 40


@dataclass(frozen=True)
class GuestNode:
    """One node: its memory, 0 for a node of CPUs only, the numbers of its CPUs.

    ``slow`` memory is described by the firmware as that of a lower tier (as CXL's is):
    kernels that read the HMAT for memory tiers (6.12 does) may demote pages to it.
    """

    memory_bytes: int
    cpus: tuple[int, ...] = ()
    slow: bool = False


@dataclass(frozen=True)
class Topology:
    """The nodes of a guest, in order of their numbers."""

    nodes: tuple[GuestNode, ...]

    @property
    def memory_bytes(self) -> int:
        """Memory of all nodes."""
        return sum(node.memory_bytes for node in self.nodes)

    @property
    def cpus(self) -> int:
        """Number of CPUs of all nodes."""
        return sum(len(node.cpus) for node in self.nodes)

    @property
    def tiered(self) -> bool:
        """Whether a node is slow, so that the firmware describes each node's memory."""
        return any(node.slow for node in self.nodes)

    def qemu_arguments(self) -> list[str]:
        """QEMU's -machine, -m, -smp, -object and -numa arguments.

        Memory is allocated by the host as the guest touches it, not up front.
        """
        machine = "q35,hmat=on" if self.tiered else "q35"
        arguments = ["-machine", machine]
        arguments += ["-m", f"{self.memory_bytes // _MIB}M", "-smp", str(self.cpus)]
        for nid, node in enumerate(self.nodes):
            size = node.memory_bytes // _MIB
            cpus = "".join(f",cpus={cpu}" for cpu in node.cpus)
            if self.tiered and not node.cpus:
                cpus = f",initiator={self._initiators[0]}"
            if not size:
                arguments += ["-numa", f"node,nodeid={nid}{cpus}"]
                continue
            arguments += ["-object", f"memory-backend-ram,id=m{nid},size={size}M"]
            arguments += ["-numa", f"node,nodeid={nid},memdev=m{nid}{cpus}"]
        return arguments + (self._tier_arguments() if self.tiered else [])

    @property
    def _initiators(self) -> list[int]:
        return [nid for nid, node in enumerate(self.nodes) if node.cpus]

    def _tier_arguments(self) -> list[str]:
        """Latency and bandwidth of each node's memory for each node's CPUs, and distances."""
        arguments = []
        for target, node in enumerate(self.nodes):
            latency, bandwidth = _SLOW if node.slow else _FAST
            for initiator in self._initiators if node.memory_bytes else ():
                pair = f"hmat-lb,initiator={initiator},target={target},hierarchy=memory"
                arguments += ["-numa", f"{pair},data-type=access-latency,latency={latency}"]
                arguments += ["-numa", f"{pair},data-type=access-bandwidth,bandwidth={bandwidth}"]
        for dst, node in enumerate(self.nodes):
            for src in range(dst):
                far = node.slow or self.nodes[src].slow
                distance = _SLOW_DISTANCE if far else _DISTANCE
                arguments += ["-numa", f"dist,src={src},dst={dst},val={distance}"]
        return arguments

    def __str__(self) -> str:
        sizes = ", ".join(
            (f"{node.memory_bytes // _MIB}M" if node.memory_bytes else "CPUs only")
            + (" slow" if node.slow else "" if node.cpus else " without CPU")
            for node in self.nodes
        )
        count = len(self.nodes)
        return f"{many(count, 'node')} ({sizes}), {many(self.cpus, 'CPU')}"


def parse_size(text: str) -> int:
    """``512M``, ``1G`` or a plain number of MiB as bytes.

    Raises UsageError for anything else, and for more than a guest can have.
    """
    match = re.fullmatch(r"(\d+)([MGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise UsageError(f"{text!r} is not a size", "give a size such as 512M or 2G")
    suffix = _SUFFIXES[match[2].upper()]
    most = _MOST_TOTAL_BYTES // suffix
    count = _number(match[1], most)
    if count > most:
        raise UsageError(_TOO_LARGE)
    return count * suffix


def _number(digits: str, most: int) -> int:
    """What the digits say, ``most + 1`` at the most; int() does not read any number of them."""
    digits = digits.lstrip("0") or "0"
    return most + 1 if len(digits) > len(str(most)) else min(int(digits), most + 1)


def parse_nodes(spec: str = "2", *, cpus: int | None = None, memory: str | None = None) -> Topology:
    """The topology that ``spec`` describes.

    ``spec`` is a number of equal nodes (``2``; ``memory``, by default 1G for each,
    is divided among them), or a size for each node with its CPUs where that
    matters (``1G/cpus=0-1,512M``; a node of CPUs only is ``0/cpus=2``) and ``/slow``
    for memory of a lower tier, which has no CPU (``1G,1G/slow``).  Where no node names
    its CPUs, ``cpus`` of them (by default one for each node that isn't slow) are dealt
    out in turn; else nodes that name none have none.

    Raises UsageError where the text can't be read or describes no bootable guest.
    """
    named: list[tuple[int, ...] | None]
    spec = spec.strip()
    if re.fullmatch(r"\d+", spec):
        count = _number(spec, _MOST_NODES)
        if not 1 <= count <= _MOST_NODES:
            raise UsageError(f"--nodes takes 1 to {_MOST_NODES} nodes")
        total = parse_size(memory) if memory else count << 30
        sizes = [total // count // _MIB * _MIB] * count
        named = [None] * count
        slow = [False] * count
    else:
        if memory:
            raise UsageError(
                "--memory divides memory among --nodes N; here --nodes gives each size"
            )
        sizes, named, slow = [], [], []
        for part in spec.split(","):
            size, _, option = part.strip().partition("/")
            sizes.append(parse_size(size))
            slow.append(option == "slow")
            named.append(_parse_cpus(option) if option and option != "slow" else None)
        if len(sizes) > _MOST_NODES:
            raise UsageError(f"--nodes takes at most {_MOST_NODES} nodes")
    if any(given is not None for given in named):
        if cpus is not None:
            raise UsageError("--cpus and cpus= in --nodes exclude each other")
        owned = [given or () for given in named]
    else:
        fast = [nid for nid, is_slow in enumerate(slow) if not is_slow]
        cpus = len(fast) if cpus is None else cpus
        if cpus > MOST_CPUS:
            raise UsageError(_TOO_MANY_CPUS)
        owned = [() for _ in sizes]
        for place, nid in enumerate(fast):
            owned[nid] = tuple(range(place, cpus, len(fast)))
    numbers = sorted(cpu for group in owned for cpu in group)
    if numbers != list(range(len(numbers))) or not 1 <= len(numbers) <= MOST_CPUS:
        raise UsageError(
            f"CPUs must be numbered 0, 1, ... without gaps, up to {MOST_CPUS} of them; "
            f"got {','.join(map(str, numbers)) or 'none'}"
        )
    empty = [nid for nid, size in enumerate(sizes) if not size and not owned[nid]]
    if empty:
        raise UsageError(
            f"node {empty[0]} has neither memory nor CPUs",
            "give it a size" if slow[empty[0]] else "give it cpus=N",
        )
    if sum(sizes) > _MOST_TOTAL_BYTES:
        raise UsageError(_TOO_LARGE)
    if min(filter(None, sizes), default=0) < _LEAST_NODE_BYTES or sum(sizes) < _LEAST_TOTAL_BYTES:
        raise UsageError(
            f"a guest needs {_LEAST_TOTAL_BYTES // _MIB}M of memory in all, and "
            f"{_LEAST_NODE_BYTES // _MIB}M in each node"
        )
    return Topology(tuple(map(GuestNode, sizes, owned, slow)))


def _parse_cpus(option: str) -> tuple[int, ...]:
    match = re.fullmatch(r"cpus=(\d+)(?:-(\d+))?", option)
    if not match:
        raise UsageError(f"{option!r} is not an option of a node", "give cpus=N, cpus=N-M or slow")
    first, last = (_number(digits or match[1], MOST_CPUS - 1) for digits in match.groups())
    if max(first, last) >= MOST_CPUS:
        raise UsageError(_TOO_MANY_CPUS)
    return tuple(range(first, last + 1))
