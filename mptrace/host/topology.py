# SPDX-License-Identifier: GPL-2.0-or-later
"""NUMA nodes as sysfs shows them, and who runs this machine."""

import re
from pathlib import Path

from mptrace.host.facts import Node

_NODES = "sys/devices/system/node"
_MEMINFO = re.compile(r"^Node \d+ (MemTotal|MemFree):\s+(\d+) kB$", re.MULTILINE)

# sys_vendor of the machine's DMI tables -> who virtualises it.
_VENDORS = {
    "QEMU": "KVM",
    "Amazon EC2": "KVM",
    "Google": "KVM",
    "Microsoft Corporation": "Hyper-V",
    "VMware, Inc.": "VMware",
    "innotek GmbH": "VirtualBox",
    "Xen": "Xen",
}


def read_nodes(root: Path) -> tuple[Node, ...]:
    """The online nodes in order; empty on a kernel without CONFIG_NUMA."""
    nodes = []
    for path in (root / _NODES).glob("node[0-9]*"):
        memory = {key: int(value) * 1024 for key, value in _MEMINFO.findall(_text(path, "meminfo"))}
        nodes.append(
            Node(
                nid=int(path.name.removeprefix("node")),
                cpus=parse_list(_text(path, "cpulist")),
                memory_bytes=memory.get("MemTotal", 0),
                free_bytes=memory.get("MemFree", 0),
                distances=tuple(map(int, _text(path, "distance").split())),
            )
        )
    return tuple(sorted(nodes, key=lambda node: node.nid))


def parse_list(text: str) -> tuple[int, ...]:
    """The numbers of a kernel list: "0-2,7" -> (0, 1, 2, 7)."""
    numbers: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return tuple(numbers)


def read_hypervisor(root: Path) -> tuple[str, bool]:
    """Who runs this machine ("" for nobody), and whether its instructions are emulated.

    QEMU's own CPU models say "QEMU TCG CPU"; with another model (-cpu Haswell)
    a QEMU machine whose kernel was not offered KVM's clock is taken as emulated
    too: a wrong "emulated" withholds a comparison, a wrong "hardware" makes one.
    """
    cpuinfo = _text(root, "proc/cpuinfo")
    if re.search(r"^model name\s*:.*\bQEMU TCG\b", cpuinfo, re.MULTILINE):
        return "TCG", True
    vendor = _text(root, "sys/class/dmi/id/sys_vendor").strip()
    clocks = _text(root, "sys/devices/system/clocksource/clocksource0/available_clocksource")
    # /proc/cpuinfo has "flags" on x86 only: bare metal there lacks "hypervisor".
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    if "kvm-clock" in clocks:
        return "KVM", False
    if vendor == "QEMU" and flags:
        return "TCG", True
    if kind := _text(root, "sys/hypervisor/type").strip():
        return kind.capitalize(), False
    if vendor in _VENDORS and not (flags and "hypervisor" not in flags[1].split()):
        return _VENDORS[vendor], False
    if flags and "hypervisor" in flags[1].split():
        return "unknown hypervisor", False
    return "", False


def read_counted(root: Path) -> dict[str, str] | None:
    """How instructions are counted in place of time; None where time is.

    The keys are ``cpu``, the CPU's model, and ``string_moves``, how ``rep movsb`` is told to be:
    "erms" (the kernel copies by it, and each byte counts) or "".  `mptrace lab --count` says
    on the kernel's command line that it counts; nobody else can know it.
    """
    if "mptrace.counted=1" not in _text(root, "proc/cmdline").split():
        return None
    cpuinfo = _text(root, "proc/cpuinfo")
    model = re.search(r"^model name\s*: *(.*)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    has_erms = flags is not None and "erms" in flags[1].split()
    return {"cpu": model[1] if model else "", "string_moves": "erms" if has_erms else ""}


def _text(directory: Path, name: str) -> str:
    try:
        return (directory / name).read_text()
    except OSError:
        return ""
