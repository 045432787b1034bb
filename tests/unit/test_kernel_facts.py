# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts from trees of files: symbols, tracepoints, nodes, hypervisor, settings."""

import gzip
import os
from pathlib import Path

import pytest

from mptrace.errors import HostError
from mptrace.host import privileges, settings, symbols, topology
from mptrace.host.facts import Node
from mptrace.host.read import read_host_facts, read_kernel_facts

KALLSYMS = """\
ffffffff81000000 T _stext
ffffffff812f0000 t kernel_move_pages
ffffffff812f0100 T migrate_pages
ffffffff812f0200 t store_status.isra.0
ffffffff812f0300 d migrate_reason_names
ffffffff812f0400 W weak_one
ffffffffc0000000 t folio_copy\t[strange]
"""


def write(root: Path, place: str, text: str) -> None:
    """A file of a fixture tree, with its directories."""
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_node(root: Path, nid: int, cpus: str, total_kb: int, distances: str) -> None:
    """One node's directory as sysfs has it."""
    place = f"sys/devices/system/node/node{nid}"
    write(root, f"{place}/cpulist", cpus + "\n")
    write(root, f"{place}/distance", distances + "\n")
    write(
        root,
        f"{place}/meminfo",
        f"Node {nid} MemTotal:   {total_kb} kB\nNode {nid} MemFree:    {total_kb // 2} kB\n",
    )


def test_symbols_are_exact_text_of_the_kernel(tmp_path: Path) -> None:
    """Clones, data and modules' functions are not the function that was asked for."""
    write(tmp_path, "proc/kallsyms", KALLSYMS)
    names = ["kernel_move_pages", "migrate_pages", "store_status", "weak_one", "folio_copy"]

    found = symbols.text_symbols(
        symbols.kallsyms(tmp_path), [*names, "migrate_reason_names", "absent"]
    )

    assert found == {"kernel_move_pages", "migrate_pages", "weak_one"}


def test_traceable_functions_tell_unread_from_empty(tmp_path: Path) -> None:
    """No tracefs is None (nothing known); a list without the name is an empty set."""
    tracing = tmp_path / "sys/kernel/tracing"
    assert symbols.traceable_functions(symbols.tracefs(tmp_path), ["migrate_pages"]) is None

    (tracing / "events").mkdir(parents=True)
    write(tracing, "available_filter_functions", "schedule\nmigrate_pages\nnfs_sync [nfs]\n")

    found = symbols.tracefs(tmp_path)
    assert found == tracing
    asked = ["migrate_pages", "nfs_sync"]
    assert symbols.traceable_functions(found, asked) == frozenset({"migrate_pages"})


def test_tracefs_below_debugfs_is_found(tmp_path: Path) -> None:
    """An old mount point will do; an empty directory of the new one will not."""
    (tmp_path / "sys/kernel/tracing").mkdir(parents=True)
    events = tmp_path / "sys/kernel/debug/tracing/events"
    (events / "thp/set_migration_pmd").mkdir(parents=True)

    found = symbols.tracefs(tmp_path)

    assert found == events.parent
    asked = ["thp:set_migration_pmd", "migrate:set_migration_pte"]
    assert symbols.present_tracepoints(found, asked) == {"thp:set_migration_pmd"}


def test_an_empty_tree_gives_absent_facts(tmp_path: Path) -> None:
    """Nothing to read is no error and no guess; nothing is tried outside of "/"."""
    facts = read_kernel_facts(["migrate_pages"], ["page.flags"], root=tmp_path)
    host = read_host_facts(tmp_path)

    assert facts.functions == {}
    assert facts.symbols == frozenset()
    assert facts.traceable is None
    assert facts.methods == {}
    assert facts.nodes_shift is None
    assert facts.page_size == os.sysconf("SC_PAGESIZE")
    assert (host.nodes, host.hypervisor, host.emulated, host.settings) == ((), "", False, {})


@pytest.mark.parametrize(
    ("command_line", "model", "counted"),
    [
        (
            "quiet mptrace.counted=1",
            "QEMU TCG CPU",
            {"cpu": "QEMU TCG CPU", "string_moves": "erms"},
        ),
        ("quiet", "QEMU TCG CPU", None),
        ("quiet mptrace.counted=11", "QEMU TCG CPU", None),
        # nobody counts there, whatever the command line says
        ("quiet mptrace.counted=1", "Xeon", None),
    ],
)
def test_counted_instructions_are_known_by_the_command_line(
    tmp_path: Path, command_line: str, model: str, counted: dict[str, str] | None
) -> None:
    """Of an emulated machine only."""
    write(tmp_path, "proc/cmdline", command_line + "\n")
    write(tmp_path, "proc/cpuinfo", f"model name\t: {model}\nflags\t\t: fpu erms hypervisor\n")
    assert read_host_facts(tmp_path).counted == counted


def test_stacks_that_are_too_short_are_refused_with_a_way_out(tmp_path: Path) -> None:
    """A map of stacks has a fixed depth; where the kernel does not say, it is tried."""
    settings.check_stacks(tmp_path)
    write(tmp_path, "proc/sys/kernel/perf_event_max_stack", "127\n")
    settings.check_stacks(tmp_path)
    write(tmp_path, "proc/sys/kernel/perf_event_max_stack", "64\n")
    with pytest.raises(HostError, match="perf_event_max_stack is 64") as refused:
        settings.check_stacks(tmp_path)
    assert "sysctl kernel.perf_event_max_stack=127" in refused.value.hint


def test_nodes_in_order_with_memoryless_ones(tmp_path: Path) -> None:
    """Order by number (10 after 2), CPU-less and memoryless nodes kept, memory nodes named."""
    write_node(tmp_path, 10, "", 1024, "20 20 10")
    write_node(tmp_path, 2, "4,6-7", 0, "20 10 20")
    write_node(tmp_path, 0, "0-1", 2048, "10 20 20")
    write(tmp_path, "sys/devices/system/node/has_memory", "0,10\n")

    host = read_host_facts(tmp_path)

    assert host.nodes == (
        Node(0, (0, 1), 2048 << 10, 1024 << 10, (10, 20, 20)),
        Node(2, (4, 6, 7), 0, 0, (20, 10, 20)),
        Node(10, (), 1024 << 10, 512 << 10, (20, 20, 10)),
    )
    assert host.memory_nodes == (0, 10)


@pytest.mark.parametrize(
    ("model", "flags", "vendor", "clocks", "expected"),
    [
        ("QEMU TCG CPU version 2.5+", "fpu hypervisor", "QEMU", "tsc hpet", ("TCG", True)),
        ("Intel Core Processor (Haswell)", "fpu hypervisor", "QEMU", "tsc", ("TCG", True)),
        ("Intel Xeon", "fpu hypervisor", "QEMU", "kvm-clock tsc", ("KVM", False)),
        ("AMD EPYC", "fpu hypervisor", "", "tsc kvm-clock", ("KVM", False)),
        ("Intel Xeon", "fpu hypervisor", "VMware, Inc.", "tsc", ("VMware", False)),
        ("Intel Xeon", "fpu hypervisor", "", "tsc", ("unknown hypervisor", False)),
        ("Intel Xeon", "fpu", "Dell Inc.", "tsc hpet", ("", False)),
        ("Intel Xeon", "fpu", "Microsoft Corporation", "tsc", ("", False)),
    ],
)
def test_hypervisor(
    tmp_path: Path, model: str, flags: str, vendor: str, clocks: str, expected: tuple[str, bool]
) -> None:
    """Emulation is told from virtualisation by model name and KVM's clock."""
    write(tmp_path, "proc/cpuinfo", f"model name\t: {model}\nflags\t\t: {flags}\n")
    write(tmp_path, "sys/class/dmi/id/sys_vendor", vendor + "\n")
    clocksource = "sys/devices/system/clocksource/clocksource0/available_clocksource"
    write(tmp_path, clocksource, clocks + "\n")

    assert topology.read_hypervisor(tmp_path) == expected


def test_settings_keep_the_chosen_value(tmp_path: Path) -> None:
    """Of "always [madvise] never" the choice is kept; a missing file is a missing key."""
    write(tmp_path, "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
    write(tmp_path, "sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    write(tmp_path, "proc/sys/kernel/numa_balancing", "1\n")

    assert settings.read_settings(tmp_path) == {
        "numa_balancing": "1",
        "thp": "madvise",
        "lockdown": "integrity",
    }


@pytest.mark.parametrize("place", ["boot/config-6.1", "lib/modules/6.1/config"])
def test_nodes_shift_from_a_configuration(tmp_path: Path, place: str) -> None:
    """The package's configuration tells NODES_SHIFT; a comment is not a value."""
    write(tmp_path, place, "# CONFIG_NODES_SHIFT is not set here\nCONFIG_NODES_SHIFT=10\n")

    assert settings.nodes_shift(tmp_path, "6.1") == 10
    assert settings.nodes_shift(tmp_path, "6.12") is None


def test_the_kernels_own_configuration_wins(tmp_path: Path) -> None:
    """/proc/config.gz is the running kernel's; damaged, the next place is asked."""
    write(tmp_path, "boot/config-6.1", "CONFIG_NODES_SHIFT=6\n")
    own = tmp_path / "proc/config.gz"
    own.parent.mkdir()
    compressed = gzip.compress(b"CONFIG_NODES_SHIFT=10\n")
    own.write_bytes(compressed)
    assert settings.nodes_shift(tmp_path, "6.1") == 10

    for damaged in (compressed[:-9], compressed[:12] + b"\xff" * 20, b"text"):
        own.write_bytes(damaged)
        assert settings.nodes_shift(tmp_path, "6.1") == 6


@pytest.mark.parametrize(
    ("mask", "missing"),
    [
        (0, ("CAP_BPF", "CAP_PERFMON", "CAP_SYS_NICE")),
        (1 << 21, ("CAP_SYS_NICE",)),
        (1 << 39 | 1 << 38, ("CAP_SYS_NICE",)),
        (1 << 39 | 1 << 38 | 1 << 23, ()),
    ],
)
def test_missing_capabilities(tmp_path: Path, mask: int, missing: tuple[str, ...]) -> None:
    """CAP_SYS_ADMIN stands in for CAP_BPF and CAP_PERFMON, not for CAP_SYS_NICE."""
    write(tmp_path, "proc/self/status", f"Name:\tx\nCapEff:\t{mask:016x}\n")
    write(tmp_path, "proc/self/uid_map", "         0          0 4294967295\n")

    found = privileges.read_privileges(tmp_path)

    assert found.missing() == missing
    assert not found.in_user_namespace


def test_a_user_namespace_is_seen(tmp_path: Path) -> None:
    """Root of a rootless container has every capability and none that BPF asks for."""
    write(tmp_path, "proc/self/status", "CapEff:\t000001ffffffffff\n")
    write(tmp_path, "proc/self/uid_map", "         0       1000          1\n")

    assert privileges.read_privileges(tmp_path).in_user_namespace


def test_this_host_agrees_with_the_shell() -> None:
    """On "/" nodes and page size are what /sys and getconf say."""
    host = read_host_facts()
    facts = read_kernel_facts(["schedule"], ["task_struct.mm"])

    online = Path("/sys/devices/system/node/online")
    if online.exists():
        assert tuple(n.nid for n in host.nodes) == topology.parse_list(online.read_text())
    assert facts.release == os.uname().release
    assert set(facts.methods) == {"fentry", "kprobe", "tracepoint", "raw_tracepoint"}
